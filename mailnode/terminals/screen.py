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
from mailnode.terminals.plain import plain

LINES: Final = 24  # of text on the screen
SIZE: Final = 4096  # octets of text
READ: Final = 65536  # octets of a message that are looked at
_NAME_SIZE: Final = 256  # characters of a name in the frame line
_MARKS: Final = 2  # combining marks on one base
_INDENT: Final = "    "
_CUT: Final = "[The rest of the message was cut.]"

# str.isprintable() is true of these though nothing is seen: fillers, joiners, variation selectors.
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | frozenset(
    map(chr, range(0xE0100, 0xE01F0))
)
_FRAME_END = re.compile(r"\d\W{0,8}\.\.\.\W*\Z")  # "14:07 ..."


def screen_text(
    message: Message, hostname: str, now: float, charset: str = "utf-8", width: int = 80
) -> bytes:
    """The message as it is written to a terminal, at most about 6 KiB; never raises.

    `now` is in seconds since the epoch and shown as local time, `width` is the terminal's in columns,
    `charset` is "utf-8" or "ascii". A line is folded here, so that no terminal of this width folds it
    in a place of the sender's choice.
    """
    octets = message.body[:READ]
    letter = plain(octets)
    lines = [f"Subject: {letter.subject}"] if letter.subject else []
    if text := letter.text.rstrip(" \t\r\n"):
        lines += re.split(r"\r?\n", text)
    ascii_only = charset != "utf-8"
    columns = max(width, 20) - 1
    rows, whole = _rows(lines, ascii_only, columns)
    if not whole or message.cut or len(message.body) > READ:
        rows.append(_CUT)
    frame = _frame(message.sender.mailbox or "<>", hostname, now, ascii_only, columns)
    shown = "".join(f"{row}\r\n" for row in (*frame, *rows, "EOF"))
    return b"\r\n\a" + shown.encode("ascii" if ascii_only else "utf-8")


def _frame(sender: str, hostname: str, now: float, ascii_only: bool, columns: int) -> list[str]:
    """The first line. What does not fit on it goes on indented, where it cannot pass for another."""
    # A quoted local part may hold spaces, and with them a whole frame line of somebody else.
    who = visible(sender[:_NAME_SIZE], ascii_only)[:_NAME_SIZE].replace(" ", "\\x20")
    where = visible(hostname[:_NAME_SIZE], ascii_only)[:_NAME_SIZE]
    at = time.strftime("%H:%M", time.localtime(now))
    row, rest = _split(f" Message from {who} on {where} at {at} ...", columns)
    rows = [row]
    while rest:
        row, rest = _split(rest, columns - len(_INDENT))
        rows.append(_INDENT + row)
    return rows


def _rows(lines: list[str], ascii_only: bool, columns: int) -> tuple[list[str], bool]:
    """The lines of the screen that `lines` fill, within the limits, and whether that is all of it."""
    rows: list[str] = []
    left = SIZE
    for line in lines:
        # A character is at least one octet on the screen: more of them cannot be shown anyway.
        for row in _unlike_ours(visible(line[: SIZE + 1], ascii_only), columns):
            left -= len(row.encode("utf-8")) + 2
            if left < 0 or len(rows) == LINES:
                return rows, False
            rows.append(row)
    return rows, True


def visible(text: str, ascii_only: bool = False) -> str:
    """`text` with everything that is not plainly printable shown as `^X` or `\\xNN`, TAB as spaces."""
    if text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    marks = _MARKS  # at the start there is no base to put a mark on
    for char in text.expandtabs(8) if "\t" in text else text:
        printable = char.isascii() if ascii_only else char not in _INVISIBLE
        printable = printable and char.isprintable()
        if printable and unicodedata.category(char) in ("Mn", "Me"):
            marks += 1
            printable = marks <= _MARKS
        elif printable:
            marks = 0
        shown.append(char if printable else _escaped(char))
    return "".join(shown)


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 32 or code == 127:
        return "^" + chr(code ^ 64)
    if 0xDC80 <= code <= 0xDCFF:  # an octet that was no text
        return f"\\x{code - 0xDC00:02x}"
    return "".join(f"\\x{octet:02x}" for octet in char.encode("utf-8", "surrogatepass"))


# ------------------------------------------------------------------- what is ours


def _unlike_ours(line: str, columns: int) -> Iterator[str]:
    """`line` folded, each row indented that could be taken for one of our own."""
    row, rest = _split(line, columns)
    while True:
        if _imitates(row):
            row, rest = _split(row + rest, columns - len(_INDENT))
            row = _INDENT + row
        yield row
        if not rest:
            return
        row, rest = _split(rest, columns)


def _imitates(row: str) -> bool:
    """Whether a row looks like the frame line or the closing line, in whatever letters and spacing."""
    plain_row = unicodedata.normalize("NFKD", row).casefold()
    letters = "".join(filter(str.isalnum, plain_row))
    return (
        letters == "eof"
        or letters.startswith(("messagefrom", "broadcastmessagefrom"))
        or _FRAME_END.search(plain_row) is not None
    )


# ------------------------------------------------------------------------ folding


def _split(line: str, columns: int) -> tuple[str, str]:
    """`line` cut after at most `columns` columns, at a space if one is in the second half of the row."""
    if len(line) <= columns and line.isascii():
        return line, ""
    used = 0
    for index, char in enumerate(line):
        used += _width(char)
        if used > columns:
            space = line.rfind(" ", columns // 2, index)
            cut = index if space < 0 else space + 1
            return line[:cut], line[cut:]
    return line, ""


def _width(char: str) -> int:
    """Columns that a printable character takes."""
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
