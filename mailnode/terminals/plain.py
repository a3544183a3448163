"""The readable part of a message: its subject and its first plain text, as far as they can be told.

A small scanner of our own, because it reads what strangers wrote while a transaction waits: it never
raises, never recurses, and its work is bounded by the size of its input. Whatever it does not
understand it leaves as it is; what leaves here is not filtered yet.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_FIELD = re.compile(rb"([!-9;-~]{1,76})[ \t]*:")  # RFC 5322 2.2
_PARAMETER = re.compile(r';\s*([\w-]{1,40})\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s"]+)', re.DOTALL)
_WORD = re.compile(r"=\?([A-Za-z0-9_:.-]{1,40})(?:\*[A-Za-z0-9-]{1,20})?\?([BbQq])\?([!->@-~]{0,512})\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)[ \t\r\n]{1,80}(?==\?)")  # RFC 2047 6.2

_FIELD_SIZE: Final = 2000  # octets of a field that are looked at
_LINES: Final = 2000  # of a header
_PARTS: Final = 64  # of a MIME message that are looked at

_TRACE: Final = frozenset({"received", "return-path", "delivered-to"})
_KNOWN: Final = _TRACE | {
    *("from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id"),
    *("in-reply-to", "references", "mime-version", "content-type", "content-transfer-encoding"),
}

# The names of charsets that are decoded, and Python's name of each. Never a name from outside: there it
# would choose among all of Python's codecs. No UTF-7 (RFC 2152 was never for 8-bit mail) and no UTF-16
# (RFC 2781 4: not for text/plain): with either, innocent octets turn into something else.
_CHARSETS: Final = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "latin1", "windows-1252", "cp1252"), "cp1252"),
    **{f"iso-8859-{number}": f"iso8859-{number}" for number in (*range(2, 12), *range(13, 17))},
    **{f"windows-{number}": f"cp{number}" for number in (1250, 1251, *range(1253, 1259))},
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
}
_MULTIBYTE: Final = {
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987"), "cp949"),
    **dict.fromkeys(("shift_jis", "windows-31j"), "cp932"),
    "big5": "cp950",
    "euc-jp": "euc_jp",
    "iso-2022-jp": "iso2022_jp_2",
}


class Plain(NamedTuple):
    """A message as a person reads it. An octet that is not valid text is a surrogate U+DC80 to U+DCFF, or
    the replacement character where its charset has characters of several octets."""

    subject: str
    text: str | None  # None where all parts are pictures and the like


def plain(octets: bytes) -> Plain:
    """The subject (empty if there is none) and the text of a message, whole if it has no header."""
    scan = _scan(octets)
    if not (scan.complete and any(name in _KNOWN for name in scan.fields)):
        return Plain("", _decoded(octets[scan.trace_end :]))
    text = _text(scan.fields, octets[scan.end :])
    return Plain(_words(_decoded(scan.fields.get("subject", b""))).strip(" \t"), text)


# ------------------------------------------------------------------------- header


class _Scan(NamedTuple):
    fields: Mapping[str, bytes]  # by lower-case name, the first of each; unfolded
    trace_end: int  # where the trace fields at the top end
    end: int  # where the text begins
    complete: bool  # the fields ended at an empty line or the end of the message


def _scan(octets: bytes) -> _Scan:
    """Reads the lines that look like a header (RFC 5322 2.2), up to the first that does not."""
    fields: dict[str, list[bytes]] = {}
    into: list[bytes] | None = None
    trace_end, in_trace, start = 0, True, 0
    for _ in range(_LINES):
        if start >= len(octets):
            return _Scan(_joined(fields), trace_end, start, True)
        stop = octets.find(b"\n", start) + 1 or len(octets)
        line = octets[start:stop].rstrip(b"\r\n")
        if not line:
            return _Scan(_joined(fields), trace_end, stop, True)
        if into is not None and line[0] in b" \t":
            into.append(line)
        elif match := _FIELD.match(line):
            name = match[1].decode("ascii").lower()
            in_trace = in_trace and name in _TRACE
            into = [line[match.end() :]]
            fields.setdefault(name, into)
        else:
            return _Scan(_joined(fields), trace_end, start, False)
        start = stop
        if in_trace:
            trace_end = stop
    return _Scan(_joined(fields), trace_end, start, False)


def _joined(fields: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    return {name: b"".join(lines)[:_FIELD_SIZE].strip() for name, lines in fields.items()}


def _words(text: str) -> str:
    """`text` with its RFC 2047 encoded words decoded; a word that cannot be stays as it is."""

    def decoded(match: re.Match[str]) -> str:
        charset, encoding, word = match.groups()
        if charset.lower() not in _CHARSETS and charset.lower() not in _MULTIBYTE:
            return match[0]
        octets = word.encode("ascii")
        if encoding in "Qq":
            return _decoded(binascii.a2b_qp(octets, header=True), charset)
        unpacked = _unbase64(octets)
        return match[0] if unpacked is None else _decoded(unpacked, charset)

    return _WORD.sub(decoded, _BETWEEN_WORDS.sub("", text))


# --------------------------------------------------------------------------- MIME


def _text(fields: Mapping[str, bytes], octets: bytes) -> str | None:
    """The first text/plain part, depth first, else the first text of another kind (HTML as it is written, a
    multipart without parts as it came); None if there is neither among the first parts."""
    second_best: str | None = None
    pending = [(fields, octets)]
    for _ in range(_PARTS):
        if not pending:
            break
        fields, octets = pending.pop()
        media, parameters = _content_type(fields.get("content-type", b""))
        if media.startswith("multipart/"):
            parts = _parts(octets, parameters.get("boundary", "").encode("latin-1", "replace"))
            for part in reversed(parts):
                scan = _scan(part)
                pending.append((scan.fields, part[scan.end :]))
            text = None if parts else _decoded(octets)
        elif media.startswith("text/"):
            encoding = fields.get("content-transfer-encoding", b"").strip().lower()
            text = _decoded(_unencoded(octets, encoding), parameters.get("charset", "utf-8"))
            if media == "text/plain":
                return text
        else:
            text = None
        second_best = text if second_best is None else second_best
    return second_best


def _content_type(value: bytes) -> tuple[str, dict[str, str]]:
    """The media type and the parameters of a Content-Type; text/plain if there is none or if it is not
    understood (RFC 2045 5.2)."""
    text = value.decode("latin-1")
    media = text.partition(";")[0].strip().lower()
    if "/" not in media:
        media = "text/plain"
    parameters: dict[str, str] = {}
    for name, word in _PARAMETER.findall(text):
        if word.startswith('"'):
            word = re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)
        parameters.setdefault(name.lower(), word)
    return media, parameters


def _parts(octets: bytes, boundary: bytes) -> list[bytes]:
    """The parts between the delimiter lines of `boundary` (RFC 2046 5.1.1); none if it is empty."""
    parts: list[bytes] = []
    if not boundary:
        return parts
    for number, piece in enumerate((b"\n" + octets).split(b"\n--" + boundary, _PARTS)):
        rest, newline, part = piece.partition(b"\n")
        if number == 0 or rest.strip() not in (b"", b"--"):
            if parts:  # a longer boundary that begins as this one does
                parts[-1] += b"\n--" + boundary + piece
            continue
        if rest.startswith(b"--"):
            break
        if newline:
            parts.append(part)
    return [part.removesuffix(b"\r") for part in parts]


def _unencoded(octets: bytes, encoding: bytes) -> bytes:
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(octets)
    if encoding == b"base64":
        unpacked = _unbase64(octets)
        return octets if unpacked is None else unpacked
    return octets


def _unbase64(octets: bytes) -> bytes | None:
    """What base64 stands for, up to its padding; None if it is broken."""
    sextets = re.sub(rb"[^A-Za-z0-9+/]", b"", octets.partition(b"=")[0])
    try:
        return binascii.a2b_base64(sextets + b"=" * (-len(sextets) % 4))
    except binascii.Error:
        return None


def _decoded(octets: bytes, charset: str = "utf-8") -> str:
    name = charset.lower()
    if name in _MULTIBYTE:
        return octets.decode(_MULTIBYTE[name], "replace")
    return octets.decode(_CHARSETS.get(name, "utf-8"), "surrogateescape")
