"""The header of a message that arrives: the same whatever the pieces, and never longer than it may be."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.heading import Heading
from mailnode.mail import CHUNK

OURS = b"Received: by us\r\n"
LIMIT = 200_000


class Arrival:
    """A message in pieces, and what was written of it."""

    def __init__(self, pieces: Iterable[bytes], limit: int = LIMIT, whole: bool = False) -> None:
        self.headers: list[bytes | None] = []
        self.heading = Heading(self._lead, limit, whole)
        self.written = b"".join([*map(self.heading.take, pieces), self.heading.end()])

    def _lead(self, header: bytes | None) -> bytes:
        self.headers.append(header)
        return OURS


def octets(text: bytes) -> list[bytes]:
    return [text[at : at + 1] for at in range(len(text))]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("text", "between", "size"),
    [
        (b"Subject: x\r\n\r\nText\r\n", b"", 12),
        (b"Subject: x\r\nTo: y\r\n\r\n\r\n\r\n", b"", 19),
        (b"Subject: x\r\n", b"", 12),
        (b"Subject: x", b"", 10),
        (b"\r\nText\r\n\r\nmore\r\n", b"", 0),
        (b"Text without a header\r\n\r\nmore\r\n", b"\r\n", 0),
        (b"", b"\r\n", 0),
        (b"x" * 5000, b"\r\n", 0),
        (b"a" * 2000 + b": no name is so long\r\n\r\n", b"\r\n", 0),
    ],
)
def test_our_fields_stand_in_front_and_the_rest_is_as_it_came(
    whole: bool, text: bytes, between: bytes, size: int
) -> None:
    for pieces in ([text], octets(text)):
        arrival = Arrival(pieces, whole=whole)
        assert arrival.written == OURS + between + text
        assert (arrival.heading.size, arrival.heading.ours) == (size, len(OURS + between))
        assert len(arrival.headers) == 1
        if whole:
            assert arrival.headers == [text[:size]]


@given(st.data(), st.booleans())
def test_it_does_not_matter_where_a_message_is_cut(data: st.DataObject, whole: bool) -> None:
    words = st.sampled_from([b"\r\n", b"\r", b"\n", b"X: y\r\n", b"text", b"\xff", b"\r\n\r\n"])
    text = b"".join(data.draw(st.lists(words, max_size=8)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    limit = data.draw(st.integers(0, 20))
    uncut, cut = Arrival([text], limit, whole), Arrival(pieces, limit, whole)
    assert cut.heading.too_long == uncut.heading.too_long
    if not uncut.heading.too_long:
        assert (cut.written, cut.headers) == (uncut.written, uncut.headers)
        assert cut.heading.is_ascii == uncut.heading.is_ascii


def test_octets_beyond_ascii_count_in_the_header_alone() -> None:
    for text, is_ascii in (
        ("Subject: ü\r\n\r\nText\r\n", False),
        ("Subject: u\r\n\r\nÜbertext\r\n", True),
        ("\r\nÜbertext\r\n", True),
        ("Übertext\r\n", True),
    ):
        assert Arrival(octets(text.encode())).heading.is_ascii is is_ascii


def test_a_header_may_be_as_long_as_the_limit_and_no_longer() -> None:
    header = b"X: " + b"y" * (LIMIT - 5) + b"\r\n"
    assert len(header) == LIMIT
    for pieces in ([header + b"\r\ntext"], [header, b"\r\ntext"], [header[:-1], b"\n\r", b"\ntext"]):
        assert not Arrival(pieces).heading.too_long
    longer = b"X" + header
    for pieces in ([longer + b"\r\ntext"], [longer, b"\r", b"\ntext"]):
        assert Arrival(pieces).heading.too_long


def test_what_comes_behind_the_limit_is_thrown_away() -> None:
    heading = Heading(lambda _: OURS, 100_000, False)
    written = sum(len(heading.take(b"X-Filler: " + b"y" * 990 + b"\r\n")) for _ in range(10_000))
    assert heading.too_long and written <= 101_000 + len(OURS)
    assert heading.take(b"\r\n\r\n") == heading.take(b"text") == heading.end() == b""


def test_a_header_that_must_be_known_is_kept_back_up_to_a_size_and_then_passed_on_unknown() -> None:
    line = b"X: " + b"y" * 997 + b"\r\n"
    heading = Heading(lambda header: OURS if header is None else b"known", LIMIT, True)
    taken = b""
    kept = 0
    while not (piece := heading.take(line)):
        kept += len(line)
    taken += piece
    assert CHUNK - len(line) <= kept < CHUNK
    assert taken.startswith(OURS + line) and heading.take(b"\r\ntext") == b"\r\ntext"
