"""Turns a message from outside into the octets that may be written to a terminal.

There is one filter, `visible`, and every character that came from outside goes through it, the fields
of the frame line included (CVE-2024-28085 was the one path that went round the filter). What it lets
through is printable text; only this file adds CR LF and the one BEL.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from typing import Final

from mailnode.interfaces import Message
from mailnode.terminals.folding import columns, joins, most_columns, split
from mailnode.terminals.likeness import holds_likeness, resembles
from mailnode.terminals.plain import plain

LINES: Final = 24  # of text on the screen
SIZE: Final = 4096  # octets of text
READ: Final = 65536  # octets of a message that are looked at
WIDTH: Final = 80  # columns of a terminal that does not say
_NARROWEST: Final = 20  # columns that we fold for
_NAME_SIZE: Final = 256  # characters of a name in the frame line
_MARKS: Final = 2  # combining marks on one base
_INDENT: Final = "    "
_CUT: Final = "[The rest of the message was cut.]"
_NO_TEXT: Final = "[There is no text in this message.]"

# str.isprintable() is true of these though nothing is seen: fillers, joiners, variation selectors
# (Default_Ignorable_Code_Point of the Unicode Character Database).
_INVISIBLE: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
    + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
# Text or picture: phones put one behind many a sign, and without it the sign is the same.
_GLYPH_CHOICE: Final = re.compile(r"(?<![\ufe0e\ufe0f])[\ufe0e\ufe0f](?![\ufe0e\ufe0f])")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})  # bidirectional classes (UAX #9)


class Screens:
    """One message as terminals of different widths show it, made once for each width.

    `now` is in seconds since the epoch and shown as local time, `charset` is "utf-8" or "ascii".
    """

    def __init__(self, message: Message, hostname: str, now: float, charset: str = "utf-8") -> None:
        self.message = message
        self._hostname = hostname
        self._now = now
        self._charset = charset
        self._by_width: dict[int, bytes] = {}

    def at(self, width: int) -> bytes:
        """The octets for a terminal of `width` columns; 0 is one that does not say."""
        if width not in self._by_width:
            self._by_width[width] = screen_text(self.message, self._hostname, self._now, self._charset, width)
        return self._by_width[width]


def screen_text(
    message: Message, hostname: str, now: float, charset: str = "utf-8", width: int = WIDTH
) -> bytes:
    """The message as it is written to a terminal, at most about 6 KiB; never raises.

    `now` is in seconds since the epoch and shown as local time, `width` is the terminal's in columns (0: it
    does not say), `charset` is "utf-8" or "ascii". A line is folded here, so that no terminal of this width
    folds it in a place of the sender's choice.
    """
    octets = message.body[:READ]
    letter = plain(octets)
    lines = [f"Subject: {letter.subject}"] if letter.subject else []
    if letter.text is not None and (text := letter.text.rstrip(" \t\r\n")):
        # A line fills at least one row: more of them cannot be shown anyway.
        lines += re.split(r"\r?\n", text, maxsplit=LINES + 1)
    ascii_only = charset != "utf-8"
    limit = max(width or WIDTH, _NARROWEST) - 1
    rows, whole = _rows(lines, ascii_only, limit)
    if letter.text is None:
        rows.append(_NO_TEXT)
    if not whole or message.cut or len(message.body) > READ:
        rows.append(_CUT)
    frame = _frame(message.sender.mailbox or "<>", hostname, now, ascii_only, limit)
    shown = "".join(f"{row}\r\n" for row in (*frame, *rows, "EOF"))
    return b"\r\n\a" + shown.encode("ascii" if ascii_only else "utf-8")


def _frame(sender: str, hostname: str, now: float, ascii_only: bool, limit: int) -> list[str]:
    """The first line. What does not fit on it goes on indented, where it cannot pass for another."""
    who, where = _name(sender, ascii_only), _name(hostname, ascii_only)
    at = time.strftime("%H:%M", time.localtime(now))
    line = f" Message from {who} on {where} at {at} ..."
    width = columns if line.isascii() else most_columns
    row, rest = split(line, limit, width)
    rows = [row]
    while rest:
        row, rest = split(rest, limit - len(_INDENT), width)
        rows.append(_INDENT + row)
    return rows


def _name(text: str, ascii_only: bool) -> str:
    """A name for the frame line: one word, in letters that run the way the line does."""
    shown = visible(text[:_NAME_SIZE], ascii_only)[:_NAME_SIZE]
    if shown.isascii():
        # A quoted local part may hold spaces, and with them a whole frame line of somebody else.
        return shown.replace(" ", "\\x20")
    return "".join(
        _escaped(char) if char == " " or unicodedata.bidirectional(char) in _RIGHT_TO_LEFT else char
        for char in shown
    )


def _rows(lines: list[str], ascii_only: bool, limit: int) -> tuple[list[str], bool]:
    """The rows of the screen that `lines` fill, within the limits, and whether that is all of it."""
    rows: list[str] = []
    left = SIZE
    for line in lines:
        # A character is at least one octet on the screen: more of them cannot be shown anyway.
        for row in _unlike_ours(visible(line[: SIZE + 1], ascii_only), limit):
            left -= len(row.encode("utf-8")) + 2
            if left < 0 or len(rows) == LINES:
                return rows, False
            rows.append(row)
    return rows, True


def _unlike_ours(line: str, limit: int) -> Iterator[str]:
    """`line` folded, each row indented that could be taken for one of our own."""
    # Where that could come of it, a row is so short that no terminal folds it once more.
    width = columns if line.isascii() or not holds_likeness(line) else most_columns
    row, rest = split(line, limit, width)
    while True:
        if resembles(row):
            row, rest = split(row + rest, limit - len(_INDENT), width)
            row = _INDENT + row
        yield row
        if not rest:
            return
        row, rest = split(rest, limit, width)


# ------------------------------------------------------------------------- filter


def visible(text: str, ascii_only: bool = False) -> str:
    """`text` as it may be shown: what is not plainly printable as `^X`, `\\xNN` (an octet that is no text) or
    `\\u{...}`; TAB and the spaces of other kinds as spaces; at most two combining marks on a base."""
    if text.isascii() and text.isprintable():
        return text
    if not ascii_only:
        text = _GLYPH_CHOICE.sub("", text)
    shown: list[str] = []
    marks = _MARKS  # at the start there is no base to put a mark on
    for char in text.expandtabs(8) if "\t" in text else text:
        if ascii_only or char.isascii():
            shown.append(char if char.isascii() and char.isprintable() else _escaped(char))
            marks = 0
        elif not char.isprintable() or char in _INVISIBLE:
            space = unicodedata.category(char) == "Zs"
            shown.append(" " * columns(char) if space else _escaped(char))
            marks = 0
        elif joins(char):
            marks += 1
            shown.append(char if marks <= _MARKS else _escaped(char))
        else:
            marks = 0
            shown.append(char)
    return "".join(shown)


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 32 or code == 127:
        return "^" + chr(code ^ 64)
    if code == 32:
        return "\\x20"
    if 0xDC80 <= code <= 0xDCFF:  # an octet that was no text
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{{{code:x}}}"
