"""SASLprep: names and secrets in the one form in which they are compared (RFC 4013)."""

from __future__ import annotations

import stringprep
from collections.abc import Callable
from typing import Final
from unicodedata import ucd_3_2_0  # RFC 3454 2: the Unicode of that time, on every node the same

NAME_SIZE: Final = 255  # octets; RFC 4616 2 asks for that many
LIMIT: Final = 256  # characters of a text that is not ASCII: each takes some 5 us in a dozen tables

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (  # RFC 4013 2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, *, stored: bool = False) -> str | None:
    """`text` prepared, None if it holds what is prohibited, is too long, or comes to nothing.

    With `stored` it is for a file and not a question: characters that Unicode 3.2 does not know are then
    prohibited too (RFC 4013 2.5).
    """
    if text.isascii():
        return text if text and text.isprintable() else None
    if len(text) > LIMIT:
        return None
    # RFC 4013 2.1, 2.2
    kept = (char for char in text if not stringprep.in_table_b1(char))
    mapped = "".join(" " if stringprep.in_table_c12(char) else char for char in kept)
    prepared = ucd_3_2_0.normalize("NFKC", mapped)  # one character may become eighteen
    if not 0 < len(prepared) <= LIMIT:
        return None
    if any(prohibited(char) for char in prepared for prohibited in _PROHIBITED):
        return None
    if stored and any(map(stringprep.in_table_a1, prepared)):
        return None
    return prepared if _one_direction(prepared) else None


def _one_direction(text: str) -> bool:
    """RFC 3454 6: text that runs from right to left does so from its first to its last character."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    return (
        stringprep.in_table_d1(text[0])
        and stringprep.in_table_d1(text[-1])
        and not any(map(stringprep.in_table_d2, text))
    )


def name_of(octets: bytes) -> str | None:
    """The prepared user name that `octets` are, None if they cannot be one."""
    text = text_of(octets)
    if text is None or len(octets) > NAME_SIZE:
        return None
    return saslprep(text)


def text_of(octets: bytes) -> str | None:
    """UTF-8 as text, None if it is not UTF-8."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return None
