"""Builds the notice that tells a sender what became of a message: pure, octets out of values.

The form is RFC 3464 inside a multipart/report (RFC 6522): words for a person, fields for a program,
and the header of the message they are about, or all of it. About a message with SMTPUTF8 the parts are
those of RFC 6533. Lines end by CRLF, and are 7-bit text but for an address of the sender that is not,
and an 8-bit message that goes back whole; whatever came from outside (replies, addresses, the header)
is filtered here, where it goes in.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from textwrap import wrap
from typing import Final, NamedTuple

from mailnode.mail import PLAIN_TERMS, Mode, Outcome, Path, Recipient, Reply, Result, Terms

HEADER_SIZE: Final = 16384  # octets of the original header that go back
_REPLY_SIZE: Final = 600  # characters of a reply that are passed on
_LINE: Final = 76
_LONGEST: Final = 998  # RFC 5322 2.1.1, octets without CRLF

_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}\Z")  # RFC 3463 2
_FIELD = re.compile(rb"[!-9;-~]{1,76}[ \t]*:")  # RFC 5322 2.2
_SEVEN_BIT = re.compile(rb"[\t\r\n -~]*\Z")
_LINES = re.compile(rb"(?:[^\r\n\0]{0,998}\r\n)*\Z")  # what may stand in a part as it is (RFC 2045 2.8)
# RFC 6533 3: QCHAR is what stands for itself in an address that is brought into ASCII
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")  # EmbeddedUnicodeChar


@dataclass(frozen=True, slots=True)
class Report:
    """What a notice says. All times are in seconds since the epoch.

    `action` is "failed", "delayed" or "succeeded"; `until` counts for the second only. `header` is that of
    the original message as it came, `arrived` when it did; `text` is the whole of it, if that goes back
    (`may_return` says whether it can). `terms` are those that hold between us and the one who is told.
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
    text: bytes = b""
    terms: Terms = PLAIN_TERMS


class _Part(NamedTuple):
    type: str
    description: str
    octets: bytes
    encoding: str = ""  # Content-Transfer-Encoding, where it is not 7bit


def build(report: Report) -> bytes:
    """The whole message, header included."""
    parts = [_words(report), _delivery_status(report), _original(report)]
    boundary = _boundary(report.id, [part.octets for part in parts])
    lines = [*_header(report), *_fold("Content-Type", _content_type(boundary))]
    if any(part.encoding == "8bit" for part in parts):  # RFC 2045 6.4
        lines.append("Content-Transfer-Encoding: 8bit")
    octets = _lines([*lines, "", "This is a delivery report in MIME format (RFC 3464).", ""])
    for part in parts:
        fields = [f"Content-Type: {part.type}", f"Content-Description: {part.description}"]
        if part.encoding:
            fields.append(f"Content-Transfer-Encoding: {part.encoding}")
        octets += _lines([f"--{boundary}", *fields, ""]) + part.octets
    # RFC 2046 5.1.1: the line end before a boundary is the boundary's, so what comes back needs its own.
    return octets + _lines(["", f"--{boundary}--"])


def success(recipient: Recipient, result: Result) -> str:
    """The action that a sender who asked for SUCCESS is told of a recipient (RFC 3464 2.3.3), "" if none.

    "delivered": in the mailbox, on the terminal, or gone to the members of a list (RFC 3461 5.2.7.1);
    "expanded": gone to the addresses of an alias (5.2.7.3); "relayed": to a host that promises nothing.
    """
    if result.outcome is not Outcome.DELIVERED or "SUCCESS" not in recipient.notify:
        return ""
    if result.forward:
        heirs = [heir.notify for heir, _ in result.forward]
        if any("SUCCESS" in notify for notify in heirs):  # the wish has gone on with the message
            return ""
        return "expanded" if any(heirs) else "delivered"
    if result.host:
        return "" if result.dsn else "relayed"
    return "delivered"


def may_return(octets: bytes, terms: Terms) -> bool:
    """Whether a message can go back whole: it is text in lines that mail can carry."""
    return not terms.binary and _LINES.match(octets) is not None


# ------------------------------------------------------------------------- header


def _header(report: Report) -> Iterator[str]:
    subject = {
        "failed": "Mail could not be delivered",
        "delayed": "Mail is delayed and still being tried",
        "succeeded": "Mail was delivered",
    }[report.action]
    if report.action == "succeeded" and any(
        _action(report, *result) != "delivered" for result in report.results
    ):
        subject = "Mail was passed on"
    yield from _fold("From", f"Mail Delivery System <MAILER-DAEMON@{_ascii(report.hostname)}>")
    yield from _fold("To", f"<{address(report.to, report.hostname, report.terms.utf8)}>")  # RFC 6532 3.2
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


def _words(report: Report) -> _Part:
    host = _ascii(report.hostname)
    lines = [f"This is the mail system at host {host}.", ""]
    if report.notice:
        lines += ["A notice to the sender of a message, or a message without a sender,"]
        lines += ["could not be delivered. It comes to the postmaster instead.", ""]
    elif report.action == "failed":
        lines += ["Your message could not be delivered to the recipients below.", ""]
    elif report.action == "succeeded":
        lines += ["This is what became of your message, since you asked for it.", ""]
    else:
        lines += ["Your message has not been delivered yet to the recipients below.", ""]
        lines += [f"It is still being tried, until {formatdate(report.until)}.", ""]
        lines += ["You need not send it again.", ""]
    for recipient, result in report.results:
        lines += [_name(report, recipient), *_reason(report, recipient, result), ""]
    if report.text or report.header:
        what = "message" if report.text else "header of the message"
        lines += [f"The {what} is attached.", ""]
    octets = _lines(lines)
    charset = "us-ascii" if octets.isascii() else "utf-8"
    return _seven_bit(f"text/plain; charset={charset}", "Notification", octets)


def _name(report: Report, recipient: Recipient) -> str:
    """A recipient, with the name that the sender knows, if it is another."""
    utf8, hostname = report.terms.utf8, report.hostname
    name = f"<{_clip(address(recipient.path, hostname, utf8), 512, utf8)}>"
    if recipient.original is None or recipient.original.mailbox == recipient.path.mailbox:
        return name
    return f"{name} (sent to <{_clip(address(recipient.original, hostname, utf8), 512, utf8)}>)"


def _reason(report: Report, recipient: Recipient, result: Result) -> Iterator[str]:
    """What happened to one recipient, indented."""
    if report.action == "succeeded":
        yield from _paragraph(_good_news(_action(report, recipient, result), result))
        return
    if recipient.mode is Mode.SEND and result.reply.transient and report.action == "failed":
        # RFC 821 3.4: a SEND goes to a terminal or nowhere, and does not wait.
        yield from _paragraph("The user was not active, so the message was not shown on a terminal.")
    if result.host:
        yield from _paragraph(f"Host {_clip(result.host, 255)} said:")
    yield from _paragraph(_reply(result.reply))


def _good_news(action: str, result: Result) -> str:
    if action == "relayed":
        host = _clip(result.host, 255)
        return f"It was passed on to host {host}, which sends no reports. You may hear no more of it."
    if action == "expanded":
        return "The name stands for several addresses. It was passed on to all of them."
    if result.forward:
        return "It goes to the members of the mailing list."
    return f"{_clip(' '.join(result.reply.lines), _REPLY_SIZE)}."


def _paragraph(text: str) -> list[str]:
    return wrap(text, _LINE, initial_indent="    ", subsequent_indent="    ")


# ------------------------------------------------------------ fields for a program


def _delivery_status(report: Report) -> _Part:
    """The groups of fields of RFC 3464 2.2 and 2.3."""
    lines = []
    if report.terms.envid:  # RFC 3461 6.3 (a): only if it was given
        lines += _field("Original-Envelope-Id", _ascii(report.terms.envid))
    lines += _fold("Reporting-MTA", f"dns; {_ascii(report.hostname)}")
    lines += [f"Arrival-Date: {formatdate(report.arrived)}", ""]
    for recipient, result in report.results:
        lines += [*_recipient_fields(report, recipient, result), ""]
    kind = "message/global-delivery-status" if report.terms.utf8 else "message/delivery-status"
    return _seven_bit(kind, "Delivery report", _lines(lines))


def _recipient_fields(report: Report, recipient: Recipient, result: Result) -> Iterator[str]:
    action, utf8 = _action(report, recipient, result), report.terms.utf8
    if recipient.orcpt:  # RFC 3461 6.3 (d): only if it was given
        yield from _field("Original-Recipient", _original_recipient(recipient.orcpt, utf8))
    yield from _fold("Final-Recipient", _typed(recipient.path, report.hostname, utf8))
    yield f"Action: {action}"
    yield f"Status: {_status(result.reply, action)}"
    if result.host:
        yield from _fold("Remote-MTA", f"dns; {_clip(result.host, 255)}")
    if result.host or report.action != "succeeded":
        yield from _fold("Diagnostic-Code", f"smtp; {_reply(result.reply)}")
    yield f"Last-Attempt-Date: {formatdate(report.now)}"
    if report.action == "delayed":
        yield f"Will-Retry-Until: {formatdate(report.until)}"


def _action(report: Report, recipient: Recipient, result: Result) -> str:
    return success(recipient, result) if report.action == "succeeded" else report.action


def _status(reply: Reply, action: str) -> str:
    if action not in ("failed", "delayed"):
        return reply.status if reply.status[:1] == "2" and _STATUS.match(reply.status) else "2.0.0"
    if reply.status[:1] != "2" and _STATUS.match(reply.status):
        return reply.status
    return "4.0.0" if reply.transient or action == "delayed" else "5.0.0"


def _typed(path: Path, hostname: str, utf8: bool) -> str:
    """The address with its type: rfc822, or utf-8, in 7-bit form where it has to be (RFC 6533 3)."""
    text = path.mailbox if path.domain else f"{path.mailbox}@{hostname}"
    if text.isascii():
        return f"rfc822; {_ascii(text)}"
    return f"utf-8; {_visible(text) if utf8 else _embedded(text)}"


def _original_recipient(orcpt: str, utf8: bool) -> str:
    """The value of an ORCPT as this notice can hold it (RFC 6533 3)."""
    kind, _, value = orcpt.partition(";")
    if kind.lower() != "utf-8":
        return f"{_ascii(kind)};{_ascii(value)}"
    text = _EMBEDDED.sub(_character, value)
    return f"{_ascii(kind)};{_visible(text) if utf8 else _embedded(text)}"


def _character(embedded: re.Match[str]) -> str:
    """The character that is meant, or the words for it where there is none (RFC 6533 3)."""
    point = int(embedded[1], 16)
    is_character = point <= 0x10FFFF and chr(point).isprintable()
    return chr(point) if is_character else embedded[0]


def _embedded(text: str) -> str:
    return _NOT_QCHAR.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", text)


# ------------------------------------------------------------- header of the other


def header_of(octets: bytes) -> bytes:
    """The header that a message begins with, empty if it has none; at most `HEADER_SIZE` octets."""
    end = 0
    for line in octets[:HEADER_SIZE].split(b"\n")[:-1]:  # a line that was cut off is left out
        if not (_FIELD.match(line) or (end and line[:1] in (b" ", b"\t"))):
            break
        end += len(line) + 1
    return octets[:end]


def _original(report: Report) -> _Part:
    """The last part: the message or its header.

    RFC 6522 4: a header that is not 7-bit text is quoted-printable there. A whole message cannot be
    encoded in a message/rfc822 (RFC 2046 5.2.1), but in a message/global (RFC 6532 3.7).
    """
    text, utf8 = report.text, report.terms.utf8
    if not text:
        kind = "message/global-headers" if utf8 else "text/rfc822-headers"
        lines = re.split(rb"\r\n|\r|\n", report.header.removesuffix(b"\r\n"))
        return _seven_bit(kind, "Header of the message", b"".join(line + b"\r\n" for line in lines))
    if text.isascii():
        return _Part("message/rfc822", "The message", text)
    if not utf8:
        return _Part("message/rfc822", "The message", text, "8bit")
    octets = binascii.b2a_base64(text, newline=False)
    rows = [octets[start : start + _LINE] for start in range(0, len(octets), _LINE)]
    return _Part("message/global", "The message", b"\r\n".join([*rows, b""]), "base64")


def _seven_bit(kind: str, description: str, octets: bytes) -> _Part:
    """A part of text; quoted-printable where it is not 7-bit text, or too wide."""
    if _SEVEN_BIT.match(octets) and max(map(len, octets.split(b"\r\n"))) <= _LONGEST:
        return _Part(kind, description, octets)
    quoted = binascii.b2a_qp(octets.replace(b"\r\n", b"\n"), istext=True).replace(b"\n", b"\r\n")
    return _Part(kind, description, quoted, "quoted-printable")


# ------------------------------------------------------------------------- filter


def address(path: Path, hostname: str, utf8: bool = False) -> str:
    """The mailbox that `path` names, printable, in ASCII but for `utf8`; one without a domain is of
    `hostname`."""
    text = path.mailbox if path.domain else f"{path.mailbox}@{hostname}"
    return _visible(text) if utf8 else _ascii(text)


def _reply(reply: Reply) -> str:
    status = f"{reply.status} " if _STATUS.match(reply.status) else ""
    return f"{reply.code} {status}{_clip(' / '.join(reply.lines), _REPLY_SIZE)}".rstrip()


def _clip(text: str, size: int, utf8: bool = False) -> str:
    text = (_visible if utf8 else _ascii)(text[: size + 1])
    return text if len(text) <= size else text[:size] + " [...]"


def _ascii(text: str) -> str:
    """Printable ASCII only: no line ends where text from outside says so."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def _visible(text: str) -> str:
    """Printable characters only, of any script."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _field(name: str, value: str) -> list[str]:
    """A field whose value is to stay as it is, spaces and all, if it fits on a line."""
    line = f"{name}: {value}"
    return [line] if len(line.encode("utf-8", "replace")) <= _LONGEST else _fold(name, value)


def _fold(name: str, value: str) -> list[str]:
    """A header field in lines of at most 998 octets, folded at its spaces (RFC 5322 2.2.3)."""
    rows = wrap(f"{name}: {value}", _LINE, break_long_words=False, break_on_hyphens=False)
    longest = _LONGEST if value.isascii() else _LONGEST // 4  # a character has up to four octets
    rows = [piece for row in rows for piece in wrap(row, longest - 1, break_on_hyphens=False)]
    return [rows[0], *(" " + row for row in rows[1:])]


def _lines(lines: Sequence[str]) -> bytes:
    return b"".join(line.encode("utf-8", "replace") + b"\r\n" for line in lines)
