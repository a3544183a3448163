"""A traced dialogue as lines that may be shown: whole lines, no secrets, mail data shortened."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

DATA_LINES: Final = 8  # of mail data that are shown
LINE_SIZE: Final = 300  # octets of a line that are shown
PENDING: Final = 65536  # octets of a line without an end that are kept
MASK: Final = "***"

_chunk = re.compile(rb"\s*BDAT\s+([0-9]{1,18})(?:\s|\Z)", re.IGNORECASE).match
_auth = re.compile(rb"\s*(AUTH\s+\S+|XPAIR)\s+\S", re.IGNORECASE).match


class TraceLines:
    """Takes octets as they pass on a channel and says them line by line: `say(speaker, text)`.

    Speakers are "C" for who leads, "S" for who replies, "turn" for the moment at which they change
    places (RFC 821 3.8), "tls" for that from which on they are encrypted. Text is decoded as UTF-8, what is
    none of it as surrogates; it is not filtered for a terminal.
    """

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self._begin()

    def _begin(self) -> None:
        self._pending = {"C": b"", "S": b""}
        self._in_data = False
        self._chunk = 0  # octets of a chunk (RFC 3030) that are still to come
        self._torn = b""  # the beginning of a line of that chunk
        self._data = (0, 0)  # lines, octets
        self._in_exchange = False  # what the client says next is an answer to a 334 (RFC 4954 4)

    def __call__(self, speaker: str, octets: bytes) -> None:
        if speaker in ("turn", "tls"):
            for who, rest in self._pending.items():
                if rest:
                    self._line(who, rest)
            self._begin()
            self._say(speaker, "")
            return
        octets, self._pending[speaker] = self._pending[speaker] + octets, b""
        while octets:
            if speaker == "C" and self._chunk:
                octets = self._chunk_data(octets)
                continue
            end = octets.find(b"\n")
            if end < 0 and len(octets) <= PENDING:
                self._pending[speaker] = octets
                return
            line, octets = (octets[:end], octets[end + 1 :]) if end >= 0 else (octets, b"")
            self._line(speaker, line.removesuffix(b"\r"))

    def _chunk_data(self, octets: bytes) -> bytes:
        """Takes what belongs to a chunk, and gives the rest."""
        piece, rest = octets[: self._chunk], octets[self._chunk :]
        self._chunk -= len(piece)
        lines, size = self._data
        *whole, self._torn = (self._torn + piece).split(b"\n")
        if not self._chunk and self._torn:
            whole.append(self._torn)
        self._torn = self._torn[: LINE_SIZE + 1] if self._chunk else b""
        for line in whole[: max(DATA_LINES - lines, 0)]:
            self._say("C", _shown(line.removesuffix(b"\r")))
        lines, size = self._data = (lines + len(whole), size + len(piece))
        if not self._chunk and lines > DATA_LINES:
            self._say("C", f"[{lines - DATA_LINES} more lines, {size} octets in all]")
        return rest

    def _line(self, speaker: str, line: bytes) -> None:
        if speaker == "S":
            if line[3:4] != b"-":
                self._in_exchange = line[:3] == b"334"
                if line[:3] == b"354":
                    self._in_data, self._data = True, (0, 0)
            self._say("S", _shown(line))
        elif self._in_data:
            self._data_line(line)
        elif self._in_exchange:
            self._in_exchange = False
            self._say("C", "*" if line == b"*" else MASK)  # "*" gives the exchange up
        elif (match := _chunk(line)) is not None:
            self._chunk, self._data = int(match[1]), (0, 0)
            self._say("C", _shown(line))
        elif (match := _auth(line)) is not None:
            self._say("C", f"{_shown(match[1])} {MASK}")
        else:
            self._say("C", _shown(line))

    def _data_line(self, line: bytes) -> None:
        lines, octets = self._data
        if line == b".":
            if lines > DATA_LINES:
                self._say("C", f"[{lines - DATA_LINES} more lines, {octets} octets in all]")
            self._in_data = False
            self._say("C", ".")
            return
        if lines < DATA_LINES:
            self._say("C", _shown(line))
        self._data = (lines + 1, octets + len(line) + 2)


def _shown(line: bytes) -> str:
    text = line[:LINE_SIZE].decode("utf-8", "surrogateescape")
    return text if len(line) <= LINE_SIZE else text + "..."
