"""The form in which a message lies in a mailbox: its file name, and its octets.

Readers of Maildirs (mutt, Dovecot, Python's mailbox) expect lines ended by LF, so CRLF becomes LF
here, chunk by chunk; everything else of the text stays as it came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailnode.mail import Body, Entry, Path, Recipient

_RETURN_PATH = re.compile(rb"^return-path[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)


def file_name(entry: Entry, recipient: Recipient, hostname: str) -> str:
    """The unique name of this delivery; the same each time, so that a repeated one replaces itself."""
    seconds, micro = divmod(round(entry.arrived * 1_000_000), 1_000_000)
    name = f"{seconds}.M{micro}I{entry.id}R{recipient.number}.{hostname}"
    return name.replace("/", "\\057").replace(":", "\\072")  # as the Maildir specification has it


def stored(body: Body, reverse_path: Path) -> Iterator[bytes]:
    """The octets of the message in pieces. OSError if the body cannot be read.

    RFC 5321 4.4: the delivery puts one Return-Path in front; any that came with the message is
    dropped, if it stands in the first 64 KiB of the header.
    """
    path = "".join(char if char.isprintable() else "?" for char in str(reverse_path))
    lead = b"Return-Path: " + path.encode("utf-8", "replace") + b"\n"
    held = b""
    for chunk in body.chunks():
        if lead:
            chunk = _without_return_path(chunk)
        if held or chunk.endswith(b"\r"):  # its LF may be in the next chunk
            chunk = held + chunk
            held = b"\r" if chunk.endswith(b"\r") else b""
            chunk = chunk[: len(chunk) - len(held)]
        yield lead + chunk.replace(b"\r\n", b"\n")
        lead = b""
    if lead or held:
        yield lead + held


def _without_return_path(chunk: bytes) -> bytes:
    if not _RETURN_PATH.search(chunk):
        return chunk
    end = 0 if chunk.startswith(b"\r\n") else chunk.find(b"\r\n\r\n") + 2
    header = chunk[:end] if end != 1 else chunk
    return _RETURN_PATH.sub(b"", header) + chunk[len(header) :]
