"""Trace information: the `Received` field that every host puts on top (RFC 5321 4.4), and counting it."""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from mailnode.mail import Client, Path

_SAFE_NAME = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}\Z")
# RFC 5322 3.6.8 field name; what looks otherwise is text that came without a header
_FIELD = re.compile(rb"[!-9;-~]{1,100}[ \t]*:")
FIRST_LINE: Final = 1000  # octets looked at to tell a header from text


def protocol(client: Client) -> str:
    """The `with` word (RFC 3848)."""
    if not client.extended:
        return "SMTP"
    return "ESMTP" + ("S" if client.tls else "") + ("A" if client.identity else "")


def received(client: Client, hostname: str, id: str, only: Path | None, now: float) -> bytes:
    """The field, with its CRLF. `only` is named when the message has this one recipient."""
    name = client.hello if _SAFE_NAME.match(client.hello) else "unknown"
    lines = [f"Received: from {name}{_literal(client.address)}"]
    lines.append(f"\tby {hostname} with {protocol(client)} id {id}")
    # A list of recipients would tell each of them about the others (RFC 5321 7.6).
    if only is not None and len(only.mailbox) < 500 and only.mailbox.isascii():
        lines.append(f"\tfor <{only.mailbox}>")
    lines[-1] += ";"
    lines.append(f"\t{_date(int(now))}")
    return "\r\n".join(lines).encode("ascii", "replace") + b"\r\n"


@lru_cache(maxsize=2)
def _date(now: int) -> str:
    return formatdate(now, localtime=True)


def _literal(address: str) -> str:
    if not address:
        return ""
    return f" ([IPv6:{address}])" if ":" in address else f" ([{address}])"


def begins_with_header(text: bytes) -> bool:
    """Whether mail data begins with a header field, or with the empty line that ends a header."""
    return text.startswith(b"\r\n") or _FIELD.match(text) is not None


def hops(head: bytes) -> int:
    """How many hosts have put a `Received` field on the header that `head` begins with."""
    end = head.find(b"\r\n\r\n")
    header = head if end < 0 else head[: end + 2]
    return (b"\r\n" + header).lower().count(b"\r\nreceived:")
