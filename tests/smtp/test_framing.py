"""Lines and dot-stuffed mail data: what ends them, what does not, and that no cut of the octets matters."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailnode.smtp.framing import DataReader, Inbound, LineEnds, Stuffer

LIMIT = 8

# Octets that matter to framing come often, so that their neighbourhoods are searched well.
OCTETS = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"a", b"\0", b"\xff", b"text"]),
    max_size=24,
).map(b"".join)
CUTS = st.lists(st.integers(0, 120), max_size=12)


def pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(octets)), len(octets)]
    return [octets[start:stop] for start, stop in pairwise(edges)]


def per_octet(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


def read(chunks: list[bytes], normalize: bool = False) -> tuple[bytes, bytes, bool, bool]:
    """Mail data, octets behind it, whether it ended, whether it held a bare CR or LF."""
    reader = DataReader(normalize)
    data = rest = b""
    for chunk in chunks:
        if reader.ended:
            rest += chunk
            continue
        piece, behind = reader.feed(chunk)
        data += piece
        rest += behind
    return data, rest, reader.ended, reader.bare


def stuff(chunks: list[bytes]) -> bytes:
    stuffer = Stuffer()
    return b"".join([stuffer.stuff(chunk) for chunk in chunks]) + stuffer.end()


def lines(chunks: list[bytes], limit: int = LIMIT) -> list[bytes]:
    inbound = Inbound()
    found = []
    for chunk in chunks:
        inbound.feed(chunk)
        while (line := inbound.line(limit)) is not None:
            found.append(line)
    return found


# ------------------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"", []),
        (b"NOOP", []),
        (b"NOOP\r", []),
        (b"NOOP\n", []),
        (b"NOOP\r\n", [b"NOOP"]),
        (b"\r\n", [b""]),
        (b"\r\n\r\n", [b"", b""]),
        (b"NOOP\r\nQUIT\r\n", [b"NOOP", b"QUIT"]),
        (b"NOOP\nQUIT\r\n", [b"NOOP\nQUIT"]),
        (b"A\rB\r\n", [b"A\rB"]),
        (b"A\r\r\n", [b"A\r"]),
        (b"A\n\r\n", [b"A\n"]),
        (b"12345678\r\n", [b"12345678"]),
        (b"123456789\r\n", [b"123456789"]),
        (b"1234567890\r\n", [b"123456789"]),
        (b"1234567890abcdefgh\r\nNOOP\r\n", [b"123456789", b"NOOP"]),
        (b"1234567890\rabcd\r\nNOOP\r\n", [b"123456789", b"NOOP"]),
        (b"x" * 5000 + b"\r\nNOOP\r\n", [b"x" * 9, b"NOOP"]),
        (b"x" * 5000, []),
    ],
)  # fmt: skip
def test_only_crlf_ends_a_line_and_a_long_one_is_cut(octets: bytes, expected: list[bytes]) -> None:
    assert lines([octets]) == expected
    assert lines(per_octet(octets)) == expected


@settings(max_examples=300)
@given(OCTETS, CUTS)
@example(b"12345678\r\n", [8])
@example(b"123456789\r\n", [9, 10])
def test_any_cut_gives_the_same_lines(octets: bytes, cuts: list[int]) -> None:
    assert lines(pieces(octets, cuts)) == lines([octets])


def test_a_line_without_end_is_not_kept() -> None:
    inbound = Inbound()
    for _ in range(1000):
        inbound.feed(b"x" * 1000)
        assert inbound.line(LIMIT) is None
        assert len(inbound) <= LIMIT + 2
    inbound.feed(b"\r\n")
    assert inbound.line(LIMIT) == b"x" * (LIMIT + 1)
    assert inbound.line(LIMIT) is None


def test_take_hands_over_what_waits_behind_a_line() -> None:
    inbound = Inbound()
    inbound.feed(b"DATA\r\nHello\r\n")
    assert inbound.line(LIMIT) == b"DATA"
    assert len(inbound) == 7
    assert inbound.take() == b"Hello\r\n"
    assert len(inbound) == 0
    assert inbound.take() == b""


def test_take_hands_over_no_more_than_was_asked_for() -> None:
    inbound = Inbound()
    inbound.feed(b"BDAT 4\r\nQUITNOOP\r\n")
    assert inbound.line(LIMIT) == b"BDAT 4"
    assert (inbound.take(3), inbound.take(1)) == (b"QUI", b"T")
    assert inbound.line(LIMIT) == b"NOOP"
    inbound.feed(b"1234")
    inbound.feed(b"56")
    assert inbound.take(2) == b"12"
    inbound.feed(b"78")
    assert (inbound.take(100), inbound.take(100), len(inbound)) == (b"345678", b"", 0)


# --------------------------------------------------------------------------- mail data


@pytest.mark.parametrize(
    ("octets", "data", "rest"),
    [
        (b".\r\n", b"", b""),
        (b"\r\n.\r\n", b"\r\n", b""),
        (b"Hello\r\n.\r\n", b"Hello\r\n", b""),
        (b"Hello\r\n.\r\nQUIT\r\n", b"Hello\r\n", b"QUIT\r\n"),
        (b".\r\n.\r\n", b"", b".\r\n"),
        (b"..\r\n.\r\n", b".\r\n", b""),
        (b"...\r\n.\r\n", b"..\r\n", b""),
        (b".a\r\n.\r\n", b"a\r\n", b""),
        (b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n", b""),
        (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n", b""),
        (b"a.\r\n.\r\n", b"a.\r\n", b""),
        (b"a\r\n.b\r\n.c\r\n.\r\n", b"a\r\nb\r\nc\r\n", b""),
        (b"\0\xff\r\n.\r\n", b"\0\xff\r\n", b""),
    ],
)
def test_the_dot_alone_ends_mail_data_and_dots_are_unstuffed(octets: bytes, data: bytes, rest: bytes) -> None:
    assert read([octets]) == (data, rest, True, False)
    assert read(per_octet(octets)) == (data, rest, True, False)


FALSE_ENDS = [
    b"\n.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\r\n.\rx",
    b"\n\r.\r\n",
    b"\r\n.\n\r",
    b"\r\n.\r\r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\0.\0",
    b"\r\0\n.\r\n",
    b"\r\n.\r\0\n",
    b"\r\r\n\r.\r\n",
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n..\r\n",
    b"\r\n...\r\n",
    b"\r\n.\t\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x85.\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\x8d\x8a.\x8d\x8a",
    b"\n\n.\n\n",
    b"\r\r.\r\r",
]


@pytest.mark.parametrize("false_end", FALSE_ENDS)
def test_nothing_else_ends_mail_data(false_end: bytes) -> None:
    octets = b"Hello" + false_end + b"MAIL FROM:<smuggled@usc.example>\r\n"
    for chunks in ([octets], per_octet(octets)):
        data, rest, ended, _ = read(chunks)
        assert not ended
        assert rest == b""
        assert b"smuggled" in data
    for chunks in ([octets + b".\r\n"], per_octet(octets + b".\r\n")):
        data, rest, ended, bare = read(chunks)
        assert ended
        assert rest == b""
        assert bare == (b"\r" in data.replace(b"\r\n", b"") or b"\n" in data.replace(b"\r\n", b""))


@settings(max_examples=500)
@given(OCTETS, CUTS)
def test_any_cut_gives_the_same_mail_data(octets: bytes, cuts: list[int]) -> None:
    whole = read([octets + b"\r\n.\r\nREST"])
    assert read(pieces(octets + b"\r\n.\r\nREST", cuts)) == whole
    assert read(per_octet(octets + b"\r\n.\r\nREST")) == whole
    assert whole[2]


@settings(max_examples=300)
@given(OCTETS)
def test_mail_data_ends_at_the_first_end_of_the_rfc_and_nowhere_else(octets: bytes) -> None:
    # RFC 821 4.1.1: the CRLF of the DATA line is the first of the five octets.
    at = (b"\r\n" + octets).find(b"\r\n.\r\n")
    data, rest, ended, bare = read([octets])
    assert ended == (at >= 0)
    if ended:
        assert rest == octets[at + 3 :]
        text = octets[:at]
        plain = text.replace(b"\r\n", b"")
        assert bare == (b"\r" in plain or b"\n" in plain)
        assert data == (b"\r\n" + text).replace(b"\r\n.", b"\r\n")[2:]


# ------------------------------------------------- line ends that are borne, and chunks


def normalized(octets: bytes) -> bytes:
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


@settings(max_examples=500)
@given(OCTETS, CUTS)
@example(b"a\r\n.\nb", [3, 4, 5])
@example(b"\r\n.\r\r\n", [1, 2, 3, 4])
def test_normalized_mail_data_holds_no_bare_line_end_and_ends_where_it_did(
    octets: bytes, cuts: list[int]
) -> None:
    wire = octets + b"\r\n.\r\nREST"
    plain, rest, ended, bare = read([wire])
    assert read([wire], True) == (normalized(plain), rest, ended, bare)
    assert read(pieces(wire, cuts), True) == read(per_octet(wire), True) == read([wire], True)


def ends(chunks: list[bytes], normalize: bool = False) -> tuple[bytes, bool]:
    watch = LineEnds(normalize)
    data = b"".join([watch.feed(chunk) for chunk in chunks]) + watch.end()
    return data, watch.bare


@settings(max_examples=500)
@given(OCTETS, CUTS)
@example(b"a\r\nb", [2])
@example(b"a\r", [1])
def test_chunks_keep_their_octets_and_tell_of_bare_line_ends_wherever_they_are_cut(
    octets: bytes, cuts: list[int]
) -> None:
    plain = octets.replace(b"\r\n", b"")
    bare = b"\r" in plain or b"\n" in plain
    for chunks in ([octets], pieces(octets, cuts), per_octet(octets)):
        assert ends(chunks) == (octets, bare)
        assert ends(chunks, True) == (normalized(octets), bare)


# ---------------------------------------------------------------------------- stuffing


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (b"", b".\r\n"),
        (b"Hello\r\n", b"Hello\r\n.\r\n"),
        (b"Hello", b"Hello\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..\r\n", b"...\r\n.\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
        (b"\n.\n", b"\r\n..\r\n.\r\n"),
        (b"\r.\r", b"\r\n..\r\n.\r\n"),
        (b"a\n\rb", b"a\r\n\r\nb\r\n.\r\n"),
        (b"a\r\r\nb", b"a\r\n\r\nb\r\n.\r\n"),
        (b"a\r", b"a\r\n.\r\n"),
        (b"\r", b"\r\n.\r\n"),
    ],
)
def test_dots_are_stuffed_and_every_line_end_becomes_crlf(body: bytes, wire: bytes) -> None:
    assert stuff([body]) == wire
    assert stuff(per_octet(body)) == wire


@settings(max_examples=500)
@given(OCTETS, CUTS)
def test_what_is_stuffed_holds_no_bare_line_end_and_one_end_of_data(octets: bytes, cuts: list[int]) -> None:
    wire = stuff(pieces(octets, cuts))
    plain = wire.replace(b"\r\n", b"")
    assert b"\r" not in plain
    assert b"\n" not in plain
    assert (b"\r\n" + wire).find(b"\r\n.\r\n") == len(wire) - 3


@settings(max_examples=500)
@given(OCTETS, CUTS, CUTS)
def test_reading_undoes_stuffing_however_both_are_cut(octets: bytes, out: list[int], back: list[int]) -> None:
    body = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    wire = stuff(pieces(body, out))
    assert read(pieces(wire, back)) == (body, b"", True, False)


def test_a_line_of_any_length_passes_and_nothing_of_it_is_kept_back() -> None:
    reader = DataReader()
    kept = 0
    for _ in range(64):
        piece, rest = reader.feed(b"x" * 65536)
        assert rest == b""
        kept = max(kept, 65536 - len(piece))
    assert kept <= 4
    assert reader.feed(b"\r\n.\r\n")[0] == b"\r\n"
    assert reader.ended


def test_a_dot_at_a_chunk_boundary_is_stuffed() -> None:
    body = b"x" * 16382 + b"\r\n" + b".Hello\r\n"
    wire = stuff([body[:16384], body[16384:]])
    assert wire == b"x" * 16382 + b"\r\n..Hello\r\n.\r\n"
