"""Message ids: 63-bit integers that grow with time, shown as 13 characters of Crockford's base 32.

Microseconds since the epoch, shifted left by 11 bits (enough until the year 2112), and random bits
below, so that processes which share a spool do not meet. Within a process they strictly increase,
also when the clock is set back.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Callable
from typing import Final

LENGTH: Final = 13
_BITS: Final = 11  # of randomness
_LIMIT: Final = 1 << 63  # SQLite's integers are signed
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: read aloud, they are mistaken
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)
_TO_PYTHON: Final = str.maketrans(_DIGITS, "0123456789abcdefghijklmnopqrstuv")  # the digits of int(text, 32)
_ID = re.compile(f"[0-7][{_DIGITS}]{{{LENGTH - 1}}}")  # the first digit holds the upper 3 of 63 bits


def randbits() -> Callable[[int], int]:
    """Fresh randomness, seeded by the system once: ids have to differ, nobody must be kept from guessing."""
    return random.Random(secrets.randbits(128)).getrandbits


class Ids:
    """Makes ids from a clock (seconds since the epoch) and randomness (n -> an integer of n random bits)."""

    def __init__(self, clock: Callable[[], float], randbits: Callable[[int], int]) -> None:
        self._clock = clock
        self._randbits = randbits
        self._last = 0

    def new(self) -> str:
        """The next id, greater than all before it."""
        bits = self._randbits(_BITS)
        number = (int(self._clock() * 1_000_000) << _BITS) + bits
        if number <= self._last:
            number = self._last + 1 + bits
        self._last = number
        return show(number)


def show(number: int) -> str:
    """The 13 characters of an id. ValueError if it has more than 63 bits."""
    if not 0 <= number < _LIMIT:
        raise ValueError("a message id has 63 bits")
    pairs = _PAIRS
    return (
        _DIGITS[number >> 60]
        + pairs[number >> 50 & 1023]
        + pairs[number >> 40 & 1023]
        + pairs[number >> 30 & 1023]
        + pairs[number >> 20 & 1023]
        + pairs[number >> 10 & 1023]
        + pairs[number & 1023]
    )


def is_id(text: str) -> bool:
    """Whether `text` is what `show` returns for some id; nothing else may become part of a path."""
    return _ID.fullmatch(text) is not None


def parse(text: str) -> int:
    """The number behind 13 characters. ValueError for anything that `show` would not return."""
    if not is_id(text):
        raise ValueError("not a message id")
    return int(text.translate(_TO_PYTHON), 32)


def numbers(texts: tuple[str, ...]) -> list[int]:
    """The numbers of those texts that are ids; an operator's typing error simply matches nothing."""
    return [parse(text) for text in texts if is_id(text)]
