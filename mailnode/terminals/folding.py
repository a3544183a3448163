"""How many columns text takes on a screen, and where a line is folded so that no terminal folds it elsewhere.

Where a line ends on the screen is ours to decide: a terminal that folds it may put words of the sender's
choice at the start of a row. Widths come from `unicodedata`, the table that also decides what is printable:
what it does not know is shown as an escape, so a character of unknown width cannot occur. `wcwidth` counts
the same columns (a test compares them) and would be one more dependency.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final, TypeAlias

Width: TypeAlias = Callable[[str], int]  # columns of one printable character


def _characters(*ranges: tuple[int, int]) -> frozenset[str]:
    return frozenset(chr(code) for first, last in ranges for code in range(first, last + 1))


# Hangul vowels and final consonants that join the letter before them, as combining marks do.
_JOINING_JAMO: Final = _characters((0x1160, 0x11FF), (0xD7B0, 0xD7FF))
# Wide on some terminals and not in every version of the table: the letters that flags are made of, signs of
# the I Ching, and counting rods (wide since Unicode 16).
_WIDE_ELSEWHERE: Final = _characters(
    *((0x1F1E6, 0x1F1FF), (0x2630, 0x2637), (0x268A, 0x268F)),
    *((0x4DC0, 0x4DFF), (0x1D300, 0x1D376)),
)


def joins(char: str) -> bool:
    """Whether a character is drawn into the one before it: combining marks of any kind, joining jamo."""
    return unicodedata.category(char) in ("Mn", "Mc", "Me") or char in _JOINING_JAMO


def columns(char: str) -> int:
    """Columns that a printable character takes on most terminals."""
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    if unicodedata.east_asian_width(char) in "WF" or char in _WIDE_ELSEWHERE:
        return 2
    return 1


def most_columns(char: str) -> int:
    """Columns that a printable character takes at most: some terminals draw Greek twice as wide (UAX #11,
    "ambiguous"), newer ones know wide characters that we do not, some give a combining mark its own place."""
    return 1 if char.isascii() else 2


def split(line: str, limit: int, width: Width = columns) -> tuple[str, str]:
    """`line` cut after at most `limit` columns, at a space if one is in the second half of the row."""
    if len(line) <= limit and line.isascii():
        return line, ""
    used = 0
    for index, char in enumerate(line):
        used += width(char)
        if used > limit:
            space = line.rfind(" ", limit // 2, index)
            cut = index if space < 0 else space + 1
            while cut > 1 and joins(line[cut]):  # a mark stays with its base
                cut -= 1
            return line[:cut], line[cut:]
    return line, ""
