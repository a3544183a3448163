"""Trace information: what every host puts on top of a message (RFC 5321 4.4, RFC 9228), and reading it."""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from mailnode.mail import Client, Path

_SAFE_NAME = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}\Z")
# RFC 5322 3.6.8 field name; what looks otherwise is text that came without a header
_FIELD = re.compile(rb"[!-9;-~]{1,100}[ \t]*:")
_DELIVERED_TO = re.compile(rb"^delivered-to[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_NAMES = re.compile(rb"^([!-9;-~]{1,100})[ \t]*:", re.MULTILINE)
FIRST_LINE: Final = 1000  # octets looked at to tell a header from text


def protocol(client: Client, utf8: bool = False) -> str:
    """The `with` word (RFC 3848); `utf8` if SMTPUTF8 was said for the message (RFC 6531 4.3)."""
    if not client.extended:
        return "SMTP"
    lmtp = client.listener == "lmtp"
    if utf8:
        word = "UTF8LMTP" if lmtp else "UTF8SMTP"
    else:
        word = "LMTP" if lmtp else "ESMTP"
    return word + ("S" if client.tls else "") + ("A" if client.identity else "")


def received(
    client: Client, hostname: str, id: str, only: Path | None, now: float, utf8: bool = False
) -> bytes:
    """The field, with its CRLF. `only` is named when the message has this one recipient."""
    # A list of recipients would tell each of them about the others (RFC 5321 7.6).
    mailbox = "" if only is None else only.mailbox
    named = f"\r\n\tfor <{mailbox}>" if mailbox and len(mailbox) < 500 and mailbox.isascii() else ""
    field = f"{_way(client, hostname, utf8)}{id}{named};\r\n\t{_date(int(now))}\r\n"
    return field.encode("ascii", "replace")


@lru_cache(maxsize=256)  # of clients that bring much
def _way(client: Client, hostname: str, utf8: bool) -> str:
    """The field up to the id: where the message came from, and how."""
    name = client.hello if _SAFE_NAME.match(client.hello) else "unknown"
    by = f"by {hostname} with {protocol(client, utf8)} id "
    return f"Received: from {name}{_literal(client.address)}\r\n\t{by}"


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


def header_of(head: bytes) -> bytes:
    """The header that `head` begins with: up to the empty line, or all of it if there is none."""
    if head.startswith(b"\r\n"):
        return b""
    end = head.find(b"\r\n\r\n")
    return head if end < 0 else head[: end + 2]


def hops(head: bytes) -> int:
    """How many hosts have put a `Received` field on the header that `head` begins with."""
    return (b"\r\n" + header_of(head)).lower().count(b"\r\nreceived:")


def was_delivered_to(header: bytes, address: str) -> bool:
    """Whether a `Delivered-To` field of `header` names `address`: it lay in that mailbox before."""
    if b"delivered-to" not in header.lower():
        return False
    wanted = address.lower()
    found = _DELIVERED_TO.findall(header)
    return any(name.strip().decode("utf-8", "replace").lower() == wanted for name in found)


def missing_fields(header: bytes, hostname: str, id: str, now: float) -> bytes:
    """What a submitted message needs and `header` lacks: Date, Message-ID (RFC 6409 8.2 and 8.3)."""
    names = {name.lower() for name in _NAMES.findall(header)}
    fields = b""
    if b"date" not in names:
        fields += f"Date: {_date(int(now))}\r\n".encode("ascii")
    if b"message-id" not in names:
        fields += f"Message-ID: <{id}@{hostname}>\r\n".encode("ascii", "replace")
    return fields
