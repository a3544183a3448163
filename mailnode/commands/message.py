"""Makes a message of what a person typed: line ends, and the header fields that it needs (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header
from email.utils import formatdate
from typing import Final

from mailnode.mail import Mode, Path

HEADER_SIZE: Final = 65536  # octets in which a header must end
FOLD: Final = 78  # columns

_FIELD = re.compile(rb"([!-9;-~]{1,76})[ \t]*:")  # RFC 5322 2.2
_KNOWN: Final = frozenset(
    (
        *("from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id", "in-reply-to"),
        *("references", "mime-version", "content-type", "content-transfer-encoding"),
        *("received", "return-path"),
    )
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a header field needs besides the envelope: `now` in seconds since the epoch, a unique word."""

    now: float
    unique: str
    domain: str


def with_crlf(octets: bytes) -> bytes:
    """`octets` with every line end, LF, CR or CRLF, as CRLF, the last line's included."""
    octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if octets and not octets.endswith(b"\n"):
        octets += b"\n"
    return octets.replace(b"\n", b"\r\n")


def field_names(text: bytes) -> frozenset[str] | None:
    """The names, in lower case, of the header that `text` (CRLF) begins with; None if it begins with none.

    A text whose first lines look like `Note: the kettle` is no header: one field at least must be known.
    """
    names: set[str] = set()
    for line in text[:HEADER_SIZE].split(b"\r\n"):
        if not line:
            break
        match = _FIELD.match(line)
        if match is not None:
            names.add(match[1].decode("ascii").lower())
        elif not (names and line[:1] in b" \t"):
            return None
    return frozenset(names) if names & _KNOWN else None


def compose(
    text: bytes, mode: Mode, sender: Path, recipients: Sequence[Path], subject: str, stamp: Stamp
) -> bytes:
    """The message that goes out for `text` (CRLF).

    A header that is there is completed with what every message has (RFC 5322 3.6). Text alone gets a
    header, unless it is for a terminal only: there a header is in the way.
    """
    names = field_names(text)
    if names is None and mode is Mode.SEND and not subject:
        return text
    there = names or frozenset()
    header: list[str] = []
    if "from" not in there:
        header.append(f"From: {sender.mailbox or 'postmaster@' + stamp.domain}")
    if mode is not Mode.SEND and not there & {"to", "cc", "bcc"}:
        header.append(_folded("To:", [path.mailbox for path in recipients]))
    if subject and "subject" not in there:
        header.append(f"Subject: {_encoded(subject)}")
    if "date" not in there:
        header.append(f"Date: {formatdate(stamp.now, localtime=True)}")
    if "message-id" not in there:
        header.append(f"Message-ID: <{int(stamp.now)}.{stamp.unique}@{stamp.domain}>")
    if names is None:
        header += _content(text)
    fields = "".join(f"{field}\r\n" for field in header).encode("ascii")
    return fields + text if names is not None else fields + b"\r\n" + text


def _content(text: bytes) -> list[str]:
    """What text over 7 bits is (RFC 2045, RFC 6152)."""
    if text.isascii():
        return []
    try:
        text.decode("utf-8")
        charset = "utf-8"
    except UnicodeDecodeError:
        charset = "unknown-8bit"  # RFC 1428
    return [
        "MIME-Version: 1.0",
        f"Content-Type: text/plain; charset={charset}",
        "Content-Transfer-Encoding: 8bit",
    ]


def _folded(name: str, words: Sequence[str]) -> str:
    line, lines = name, []
    for index, word in enumerate(words):
        piece = f" {word}," if index < len(words) - 1 else f" {word}"
        if len(line) + len(piece) > FOLD and line != name:
            lines.append(line)
            line = ""
        line += piece
    return "\r\n".join([*lines, line])


def _encoded(subject: str) -> str:
    """RFC 2047 where it is needed; what cannot be text at all (a stray octet) becomes a question mark."""
    clean = subject.encode("utf-8", "replace").decode("utf-8")
    charset = "us-ascii" if clean.isascii() else "utf-8"
    return Header(clean, charset, header_name="Subject").encode(linesep="\r\n")
