"""Builds the notice that tells a sender what became of a message: pure, octets out of values.

The form is RFC 3464 inside a multipart/report (RFC 6522): words for a person, fields for a program,
and the header of the message they are about. All of it is 7-bit text in lines ended by CRLF; whatever
came from outside (replies, addresses, the header) is filtered here, where it goes in.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from textwrap import wrap
from typing import Final

from mailnode.mail import Mode, Path, Recipient, Reply, Result

HEADER_SIZE: Final = 16384  # octets of the original header that go back
_REPLY_SIZE: Final = 600  # characters of a reply that are passed on
_LINE: Final = 76
_LONGEST: Final = 998  # RFC 5322 2.1.1, octets without CRLF

_STATUS = re.compile(r"[45]\.\d{1,3}\.\d{1,3}\Z")  # RFC 3463 2
_FIELD = re.compile(rb"[!-9;-~]{1,76}[ \t]*:")  # RFC 5322 2.2
_SEVEN_BIT = re.compile(rb"[\t\r\n -~]*\Z")


@dataclass(frozen=True, slots=True)
class Report:
    """What a notice says. All times are in seconds since the epoch.

    `action` is "failed" or "delayed"; `until` counts for the second only. `header` is the beginning of
    the original message as it came, `arrived` when it did.
    """

    id: str
    hostname: str
    to: Path
    action: str
    results: Sequence[tuple[Recipient, Result]]
    header: bytes
    arrived: float
    now: float
    until: float = 0.0
    notice: bool = False  # the original was a notice itself, and this goes to the postmaster


def build(report: Report) -> bytes:
    """The whole message, header included."""
    parts = [
        (("Content-Type: text/plain; charset=us-ascii", "Content-Description: Notification"), _words(report)),
        (
            ("Content-Type: message/delivery-status", "Content-Description: Delivery report"),
            _delivery_status(report),
        ),
        _original(report.header),
    ]
    bodies = [body for _, body in parts]
    boundary = _boundary(report.id, bodies)
    lines = [*_header(report), *_fold("Content-Type", _content_type(boundary)), ""]
    octets = _lines(lines) + _lines(["This is a delivery report in MIME format (RFC 3464).", ""])
    for fields, body in parts:
        octets += _lines([f"--{boundary}", *fields, ""]) + body
    return octets + _lines([f"--{boundary}--"])


# ------------------------------------------------------------------------- header


def _header(report: Report) -> Iterator[str]:
    subject = {
        "failed": "Mail could not be delivered",
        "delayed": "Mail is delayed and still being tried",
    }[report.action]
    yield from _fold("From", f"Mail Delivery System <MAILER-DAEMON@{_ascii(report.hostname)}>")
    yield from _fold("To", f"<{address(report.to, report.hostname)}>")
    yield f"Subject: {'A notice could not be delivered' if report.notice else subject}"
    yield f"Date: {formatdate(report.now)}"
    yield from _fold("Message-ID", f"<{_ascii(report.id)}@{_ascii(report.hostname)}>")
    yield "Auto-Submitted: auto-replied"  # RFC 3834 5
    yield "MIME-Version: 1.0"


def _content_type(boundary: str) -> str:
    return f'multipart/report; report-type=delivery-status; boundary="{boundary}"'


def _boundary(id: str, bodies: Sequence[bytes]) -> str:
    """A boundary that stands nowhere in the parts (RFC 2046 5.1.1)."""
    stem = re.sub(r"[^A-Za-z0-9]", "", id)[:40]
    number = 0
    while any(f"--=_{stem}.{number}".encode("ascii") in body for body in bodies):
        number += 1
    return f"=_{stem}.{number}"


# -------------------------------------------------------------- words for a person


def _words(report: Report) -> bytes:
    host = _ascii(report.hostname)
    lines = [f"This is the mail system at host {host}.", ""]
    if report.notice:
        lines += ["A notice to the sender of a message, or a message without a sender,"]
        lines += ["could not be delivered. It comes to the postmaster instead.", ""]
    elif report.action == "failed":
        lines += ["Your message could not be delivered to the recipients below.", ""]
    else:
        lines += ["Your message has not been delivered yet to the recipients below.", ""]
        lines += [f"It is still being tried, until {formatdate(report.until)}.", ""]
        lines += ["You need not send it again.", ""]
    for recipient, result in report.results:
        lines += [f"<{_clip(address(recipient.path, report.hostname), 512)}>"]
        lines += [*_reason(report, recipient, result), ""]
    if report.header:
        lines += ["The header of the message is attached.", ""]
    return _lines(lines)


def _reason(report: Report, recipient: Recipient, result: Result) -> Iterator[str]:
    """What happened to one recipient, indented."""
    if recipient.mode is Mode.SEND and result.reply.transient and report.action == "failed":
        # RFC 821 3.4: a SEND goes to a terminal or nowhere, and does not wait.
        yield from _paragraph("The user was not active, so the message was not shown on a terminal.")
    if result.host:
        yield from _paragraph(f"Host {_clip(result.host, 255)} said:")
    yield from _paragraph(_reply(result.reply))


def _paragraph(text: str) -> list[str]:
    return wrap(text, _LINE, initial_indent="    ", subsequent_indent="    ")


# ------------------------------------------------------------ fields for a program


def _delivery_status(report: Report) -> bytes:
    """The groups of fields of RFC 3464 2.2 and 2.3."""
    lines = [*_fold("Reporting-MTA", f"dns; {_ascii(report.hostname)}")]
    lines += [f"Arrival-Date: {formatdate(report.arrived)}", ""]
    for recipient, result in report.results:
        lines += [*_recipient_fields(report, recipient, result), ""]
    return _lines(lines)


def _recipient_fields(report: Report, recipient: Recipient, result: Result) -> Iterator[str]:
    final = _typed(recipient.path, report.hostname)
    original = _typed(recipient.original, report.hostname) if recipient.original else final
    if original != final:
        yield from _fold("Original-Recipient", original)
    yield from _fold("Final-Recipient", final)
    yield f"Action: {report.action}"
    yield f"Status: {_status(result.reply, report.action)}"
    if result.host:
        yield from _fold("Remote-MTA", f"dns; {_clip(result.host, 255)}")
    yield from _fold("Diagnostic-Code", f"smtp; {_reply(result.reply)}")
    yield f"Last-Attempt-Date: {formatdate(report.now)}"
    if report.action == "delayed":
        yield f"Will-Retry-Until: {formatdate(report.until)}"


def _status(reply: Reply, action: str) -> str:
    if _STATUS.match(reply.status):
        return reply.status
    return "4.0.0" if reply.transient or action == "delayed" else "5.0.0"


def _typed(path: Path, hostname: str) -> str:
    """The address with its type: rfc822, or utf-8 in 7-bit form (RFC 6533 3)."""
    text = path.mailbox if path.domain else f"{path.mailbox}@{hostname}"
    if text.isascii():
        return f"rfc822; {_ascii(text)}"
    escaped = "".join(char if char.isascii() else f"\\x{{{ord(char):X}}}" for char in text)
    return f"utf-8; {_ascii(escaped)}"


# ------------------------------------------------------------- header of the other


def header_of(octets: bytes) -> bytes:
    """The header that a message begins with, empty if it has none; at most `HEADER_SIZE` octets."""
    end = 0
    for line in octets[:HEADER_SIZE].split(b"\n")[:-1]:  # a line that was cut off is left out
        if not (_FIELD.match(line) or (end and line[:1] in (b" ", b"\t"))):
            break
        end += len(line) + 1
    return octets[:end]


def _original(header: bytes) -> tuple[tuple[str, ...], bytes]:
    """The last part. RFC 6522 4: what is not 7-bit text is quoted-printable there."""
    fields = ("Content-Type: text/rfc822-headers", "Content-Description: Header of the message")
    lines = re.split(rb"\r\n|\r|\n", header.removesuffix(b"\r\n"))
    text = b"".join(line + b"\r\n" for line in lines)
    if _SEVEN_BIT.match(text) and max(map(len, lines)) <= _LONGEST:
        return fields, text
    quoted = binascii.b2a_qp(text.replace(b"\r\n", b"\n"), istext=True).replace(b"\n", b"\r\n")
    return (*fields, "Content-Transfer-Encoding: quoted-printable"), quoted


# ------------------------------------------------------------------------- filter


def address(path: Path, hostname: str) -> str:
    """The mailbox that `path` names, in printable ASCII; one without a domain is of `hostname`."""
    return _ascii(path.mailbox if path.domain else f"{path.mailbox}@{hostname}")


def _reply(reply: Reply) -> str:
    status = f"{reply.status} " if _STATUS.match(reply.status) else ""
    return f"{reply.code} {status}{_clip(' / '.join(reply.lines), _REPLY_SIZE)}".rstrip()


def _clip(text: str, size: int) -> str:
    text = _ascii(text[: size + 1])
    return text if len(text) <= size else text[:size] + " [...]"


def _ascii(text: str) -> str:
    """Printable ASCII only: no line ends where text from outside says so."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def _fold(name: str, value: str) -> list[str]:
    """A header field in lines of at most 998 octets, folded at its spaces (RFC 5322 2.2.3)."""
    rows = wrap(f"{name}: {value}", _LINE, break_long_words=False, break_on_hyphens=False)
    rows = [piece for row in rows for piece in wrap(row, _LONGEST - 1, break_on_hyphens=False)]
    return [rows[0], *(" " + row for row in rows[1:])]


def _lines(lines: Sequence[str]) -> bytes:
    return b"".join(line.encode("ascii", "replace") + b"\r\n" for line in lines)
