"""Lines and dot-stuffed mail data, found in chunks with `find` and `replace`, never line by line.

Only CR LF ends a line and only CR LF . CR LF ends mail data (RFC 5321 2.3.8, 4.1.1.4): a bare CR or
LF is data, and is reported so that the message can be refused once its true end was seen.
"""

from __future__ import annotations

import re
from typing import Final

CRLF: Final = b"\r\n"
END_OF_DATA: Final = b"\r\n.\r\n"
_DOT: Final = b"\r\n."  # at the beginning of a line
_CR, _LF = CRLF  # as numbers, which are counted faster than octet strings
_BARE: Final = re.compile(rb"\r\n|\r|\n")


class Inbound:
    """Octets that have arrived and are not consumed yet, `octets` from `at` on; hands out lines or all."""

    __slots__ = ("_overlong", "at", "octets")

    def __init__(self) -> None:
        self.octets = b""
        self.at = 0
        self._overlong = b""  # the first octets of a line over the limit whose end has not come

    def __len__(self) -> int:
        return len(self.octets) - self.at

    def feed(self, octets: bytes) -> None:
        self.octets = self.octets[self.at :] + octets if self.at < len(self.octets) else octets
        self.at = 0

    def line(self, limit: int) -> bytes | None:
        """The next line without its CRLF, None if it has not arrived whole.

        A line over `limit` octets comes back cut to `limit` + 1, after all of it was swallowed: it can
        be refused, and no part of it is taken for a command.
        """
        end = self.octets.find(CRLF, self.at)
        if end < 0:
            if len(self) > limit + 1:  # one more: the last octet may be the CR of a line end
                self._swallow(limit)
            return None
        line = self.octets[self.at : end]
        self.at = end + 2
        if self._overlong:
            line, self._overlong = self._overlong, b""
            return line
        return line[: limit + 1]

    def verb(self) -> bytes:
        """The first four octets of the next line, in upper case; empty within a line over its limit."""
        return b"" if self._overlong else self.octets[self.at : self.at + 4].upper()

    def _swallow(self, limit: int) -> None:
        self._overlong = self._overlong or self.octets[self.at : self.at + limit + 1]
        self.octets = b"\r" if self.octets.endswith(b"\r") else b""
        self.at = 0

    def take(self, most: int | None = None) -> bytes:
        """All octets that wait, or at most so many."""
        if most is not None and most < len(self):
            octets = self.octets[self.at : self.at + most]
            self.at += most
            return octets
        octets = self.octets[self.at :]
        self.octets, self.at = b"", 0
        return octets


class DataReader:
    """Mail data after DATA, with the transparency of RFC 821 4.5.2 undone. With `normalize` a bare CR or LF
    becomes CRLF; it never is part of the end of data."""

    __slots__ = ("_fresh", "_kept", "_normalize", "bare", "ended")

    def __init__(self, normalize: bool = False) -> None:
        self._normalize = normalize
        # The CRLF of the DATA line counts: a dot may be the very first octet. It is no data itself.
        self._kept = CRLF
        self._fresh = True
        self.bare = False  # a CR without LF or an LF without CR was seen
        self.ended = False

    def feed(self, octets: bytes) -> tuple[bytes, bytes]:
        """Takes the next octets; gives (mail data, octets behind its end).

        The second is empty until `ended`.
        """
        octets = self._kept + octets
        rest = b""
        dot = octets.find(_DOT)  # as a rule there is one, and it is that of the end
        end = dot if octets.startswith(END_OF_DATA, dot) else octets.find(END_OF_DATA, dot)
        if end >= 0:
            self.ended = True
            rest = octets[end + 5 :]
            octets = octets[: end + 2]
        else:
            whole = len(octets) - _tail(octets)
            self._kept = octets[whole:]
            octets = octets[:whole]
        pairs = octets.count(CRLF)
        bare = octets.count(_LF) != pairs or octets.count(_CR) != pairs
        if dot >= 0 and dot != end:
            octets = octets.replace(_DOT, CRLF)
        if self._fresh and octets:
            self._fresh = False
            octets = octets[2:]
        if bare:
            self.bare = True
            if self._normalize:
                octets = _BARE.sub(CRLF, octets)
        return octets, rest


class LineEnds:
    """Watches over the ends of lines in mail data that comes in chunks, as `DataReader` does."""

    __slots__ = ("_cr", "_normalize", "bare")

    def __init__(self, normalize: bool = False) -> None:
        self._normalize = normalize
        self._cr = b""  # a CR at the end of the last octets: its LF may be in the next
        self.bare = False

    def feed(self, octets: bytes) -> bytes:
        octets = self._cr + octets
        self._cr = b"\r" if octets.endswith(b"\r") else b""
        octets = octets[: len(octets) - len(self._cr)]
        return self._looked_at(octets)

    def end(self) -> bytes:
        """What was kept back, once nothing follows."""
        octets, self._cr = self._cr, b""
        return self._looked_at(octets)

    def _looked_at(self, octets: bytes) -> bytes:
        pairs = octets.count(CRLF)
        if octets.count(_LF) != pairs or octets.count(_CR) != pairs:
            self.bare = True
            if self._normalize:
                octets = _BARE.sub(CRLF, octets)
        return octets


def _tail(octets: bytes) -> int:
    """How many of the last octets may be the beginning of the end of data."""
    for length in (4, 3, 2, 1):
        if octets.endswith(END_OF_DATA[:length]):
            return length
    return 0


class Stuffer:
    """Makes mail data transparent for the wire (RFC 821 4.5.2), wherever a chunk ends.

    What leaves never holds a bare CR or LF: either becomes CRLF.
    """

    __slots__ = ("_at_line_start", "_cr")

    def __init__(self) -> None:
        self._at_line_start = True
        self._cr = b""

    def stuff(self, chunk: bytes) -> bytes:
        if self._cr:
            chunk, self._cr = self._cr + chunk, b""
        if chunk.endswith(b"\r"):
            chunk, self._cr = chunk[:-1], b"\r"
        if not chunk:
            return b""
        pairs = chunk.count(CRLF)
        if chunk.count(_LF) != pairs or chunk.count(_CR) != pairs:
            chunk = _BARE.sub(CRLF, chunk)
        stuffed = chunk.replace(b"\n.", b"\n..")
        if self._at_line_start and stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = stuffed.endswith(b"\n")
        return stuffed

    def end(self) -> bytes:
        """The octets that end the mail data, with the CRLF that its last line may lack."""
        last = self.stuff(b"\n") if self._cr else b""
        return last + (b".\r\n" if self._at_line_start else END_OF_DATA)
