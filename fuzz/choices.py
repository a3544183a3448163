"""Decisions out of octets, so that one input says both what arrives and in which circumstances."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Final, TypeVar

T = TypeVar("T")

HEAD: Final = 16  # octets of an input that are decisions; a "0" is the plain case of each
_SIZES: Final = (1 << 20, 1, 2, 3, 5, 7, 16, 33, 64, 100, 256, 1000)  # octets of one arrival


def split(data: bytes) -> tuple[bytes, bytes]:
    """An input as its decisions, always `HEAD` octets, and what arrives."""
    return data[:HEAD].ljust(HEAD, b"0"), data[HEAD:]


def pick(octet: int, table: Sequence[T]) -> T:
    """The entry of `table` that an octet stands for; "0" is the first of any table of up to 16."""
    return table[(octet - 48) % len(table)]


def arrivals(octets: bytes, decisions: bytes) -> list[bytes]:
    """`octets` in the pieces in which they arrive."""
    sizes = cycle([pick(octet, _SIZES) for octet in decisions] or [len(octets)])
    pieces, at = [], 0
    while at < len(octets):
        size = next(sizes)
        pieces.append(octets[at : at + size])
        at += size
    return pieces
