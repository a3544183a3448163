"""Lines and mail data: the framing that everything else rests on.

Invariants:
- Mail data ends at the first CR LF . CR LF and nowhere else, however the octets were cut.
- What lies behind the end comes back whole, and no octet of it is mail data.
- A CR or LF alone is noticed exactly when there is one in the data.
- What the Stuffer writes is read back as the same text, and holds no end of data but its last octets.
- Lines are those between CR LF pairs, however cut; of a line over the limit only its beginning is kept.
"""

from __future__ import annotations

import re

from fuzz.choices import arrivals, pick, split
from mailnode.smtp.framing import END_OF_DATA, DataReader, Inbound, Stuffer

MAX_LENGTH = 4096

_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    pieces = arrivals(octets, decisions[:8])
    _read(octets, pieces)
    _stuff(octets, pieces, decisions[8:])
    _lines(octets, pieces, pick(decisions[0], (1, 8, 64, 512)))


def _read(octets: bytes, pieces: list[bytes]) -> None:
    reader = DataReader()
    kept, behind = b"", b""
    for number, piece in enumerate(pieces):
        data, rest = reader.feed(piece)
        kept += data
        if reader.ended:
            behind = rest + b"".join(pieces[number + 1 :])
            break
        assert rest == b""
    whole = b"\r\n" + octets  # the CRLF of the DATA line counts
    end = whole.find(END_OF_DATA)
    assert reader.ended == (end >= 0)
    if end >= 0:
        assert behind == whole[end + 5 :]
        expected = whole[2 : end + 2]
        assert kept == re.sub(rb"(\A|\r\n)\.", rb"\1", expected)
        assert reader.bare == bool(_BARE.search(b"\r\n" + expected))
    else:  # a few octets may wait, for they may be the beginning of the end
        everything = re.sub(rb"(\A|\r\n)\.", rb"\1", octets)
        assert everything.startswith(kept) or octets.endswith((b"\r", b"\r\n", b"\r\n.", b"\r\n.\r"))
        assert len(octets) - len(kept) <= 4 + octets.count(b".")


def _stuff(octets: bytes, pieces: list[bytes], decisions: bytes) -> None:
    stuffer = Stuffer()
    wire = b"".join(map(stuffer.stuff, pieces)) + stuffer.end()
    assert not _BARE.search(wire)
    assert (b"\r\n" + wire).find(END_OF_DATA) == len(wire) - 3
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
    reader = DataReader()
    found = b""
    for piece in arrivals(wire, decisions):
        assert not reader.ended
        data, rest = reader.feed(piece)
        found += data
        assert rest == b""
    assert reader.ended and not reader.bare
    assert found == (text if text.endswith(b"\r\n") or not text else text + b"\r\n")


def _lines(octets: bytes, pieces: list[bytes], limit: int) -> None:
    inbound = Inbound()
    found = []
    for piece in pieces:
        inbound.feed(piece)
        while (line := inbound.line(limit)) is not None:
            found.append(line)
        assert len(inbound) <= limit + 1  # whatever comes, no more than that is kept
    *expected, _ = octets.split(b"\r\n")
    assert found == [line[: limit + 1] for line in expected]
