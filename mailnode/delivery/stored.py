"""The form in which a message lies in a mailbox: its file name, and its octets.

Readers of Maildirs (mutt, Dovecot, Python's mailbox) expect lines ended by LF, so CRLF becomes LF
here, chunk by chunk; everything else of the text stays as it came. A message that was declared to be
binary (RFC 3030) is not made of lines, and stays as it came altogether.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Final

from mailnode.mail import Body, Entry, Path, Recipient
from mailnode.received import header_of, was_delivered_to

CAME_BACK: Final = errno.EMULTIHOP  # no call on a Maildir fails with it: it is ours, between processes

_RETURN_PATH = re.compile(rb"^return-path[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)


def file_name(entry: Entry, recipient: Recipient, hostname: str) -> str:
    """The unique name of this delivery; the same each time, so that a repeated one replaces itself."""
    seconds, micro = divmod(round(entry.arrived * 1_000_000), 1_000_000)
    name = f"{seconds}.M{micro:06}I{entry.id}R{recipient.number}.{hostname}"
    return name.replace("/", "\\057").replace(":", "\\072")  # as the Maildir specification has it


def stored(body: Body, reverse_path: Path, address: str = "", binary: bool = False) -> Iterator[bytes]:
    """The octets of the message in pieces, as they lie in the mailbox of `address`.

    RFC 5321 4.4: the delivery puts one Return-Path in front; any that came with the message is
    dropped, if it stands in the first 64 KiB of the header. Below it stands where the message was
    delivered to (RFC 9228); that tells it if it comes back: OSError CAME_BACK, before the first piece.
    OSError if the body cannot be read.
    """
    end = b"\r\n" if binary else b"\n"
    lead = b"Return-Path: " + _printable(str(reverse_path)) + end
    if address:
        lead += b"Delivered-To: " + _printable(address) + end
    held = b""
    for chunk in body.chunks():
        if lead:
            chunk = _without_return_path(chunk, address)
        if not binary:
            if held or chunk.endswith(b"\r"):  # its LF may be in the next chunk
                chunk = held + chunk
                held = b"\r" if chunk.endswith(b"\r") else b""
                chunk = chunk[: len(chunk) - len(held)]
            chunk = chunk.replace(b"\r\n", b"\n")
        yield lead + chunk
        lead = b""
    if lead or held:
        yield lead + held


def _printable(text: str) -> bytes:
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "?" for char in text)
    return text.encode("utf-8", "replace")


def _without_return_path(chunk: bytes, address: str) -> bytes:
    """The first chunk without what others wrote about their deliveries. OSError CAME_BACK."""
    header = header_of(chunk)
    if address and was_delivered_to(header, address):
        raise OSError(CAME_BACK, "the message has been in this mailbox before")
    if not _RETURN_PATH.search(header):
        return chunk
    return _RETURN_PATH.sub(b"", header) + chunk[len(header) :]
