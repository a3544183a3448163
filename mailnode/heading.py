"""The header of a message while it arrives in pieces: where it ends, what it holds, what goes on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailnode.mail import CHUNK
from mailnode.received import FIRST_LINE, begins_with_header

_END: Final = b"\r\n\r\n"


class Heading:
    """Passes mail data on, with our own fields in front as soon as it can be told what they are.

    `lead` makes these fields from the header that follows them, None where that is not known; `whole`
    asks for it, and then up to 64 KiB are kept back until the header has come. Text without a header
    gets the empty line it needs. What comes behind a header longer than `limit` octets is thrown away.
    """

    __slots__ = (
        *("_held", "_lead", "_limit", "_started", "_tail", "_whole"),
        *("is_ascii", "ours", "passed", "size", "too_long"),
    )

    def __init__(self, lead: Callable[[bytes | None], bytes], limit: int, whole: bool) -> None:
        self._lead = lead
        self._limit = limit
        self._whole = whole
        self._held = b""  # the beginning, until our fields can go in front of it
        self._started = False
        self._tail = b""  # the last octets, in which the empty line may have begun
        self.passed = False  # the header has ended
        self.too_long = False
        self.is_ascii = True
        self.size = 0  # octets of the header so far
        self.ours = 0  # octets that we put in front

    def take(self, piece: bytes) -> bytes:
        """What is to be written of the message now that `piece` has come; it may be nothing yet."""
        if self.passed:
            return b"" if self.too_long else piece
        if self._started:
            self._look(piece)
            return b"" if self.too_long else piece
        if not self._held and len(piece) >= FIRST_LINE and not self._whole:  # as it mostly comes
            self._held = piece
            return self._start()
        self._held = self._held + piece if self._held else piece
        return self._start() if self._can_start(len(piece)) else b""

    def end(self) -> bytes:
        """There is no more: what is still to be written."""
        return b"" if self._started else self._start()

    def _can_start(self, new: int) -> bool:
        """Whether it is known what goes in front, now that `new` more octets are held."""
        held = self._held
        if len(held) < FIRST_LINE and b"\r\n" not in held:
            return False
        if not self._whole or len(held) >= CHUNK or not begins_with_header(held[:FIRST_LINE]):
            return True
        return held.find(_END, max(len(held) - new - len(_END) + 1, 0)) >= 0

    def _start(self) -> bytes:
        octets, self._held = self._held, b""
        self._started = True
        if octets.startswith(b"\r\n") or not begins_with_header(octets):
            self.passed = True
            lead = self._lead(b"")
            if not octets.startswith(b"\r\n"):
                lead += b"\r\n"
        else:
            self._look(octets)
            ended = self.passed or len(octets) < CHUNK
            lead = self._lead(octets[: self.size] if ended and self._whole else None)
        self.ours = len(lead)
        return lead if self.too_long else lead + octets

    def _look(self, piece: bytes) -> None:
        """Looks for the empty line that ends the header (RFC 5322 2.1)."""
        window = self._tail + piece if self._tail else piece
        end = window.find(_END)
        if end >= 0:
            self.passed = True
            self.size += end + 2 - len(self._tail)
            header = window[: end + 2]
        else:
            self.size += len(piece)
            self._tail = window[1 - len(_END) :]
            header = piece
        self.is_ascii = self.is_ascii and header.isascii()
        # The CR of the empty line may have been counted already.
        self.too_long = self.size > self._limit + (not self.passed)
