"""The replies of a peer are read by RFC 821 4.2 and Appendix E, within limits; garbage ends the channel."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailnode.mail import Reply
from mailnode.smtp import replies
from mailnode.smtp.replies import MAX_LINE, MAX_LINES, ProtocolError, ReplyReader, readable


def read(octets: bytes, size: int = 0) -> list[Reply]:
    reader = ReplyReader()
    found = []
    step = size or len(octets) or 1
    for at in range(0, len(octets), step):
        reader.feed(octets[at : at + step])
        while (reply := reader.next()) is not None:
            found.append(reply)
    return found


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"250 OK\r\n", [Reply(250, "OK")]),
        (b"250 OK\n", [Reply(250, "OK")]),
        (b"250\r\n", [Reply(250, "")]),
        (b"250 \r\n", [Reply(250, "")]),
        (b"250-one\r\n250 two\r\n", [Reply(250, ("one", "two"))]),
        (b"250-one\n250-two\r\n250\r\n", [Reply(250, ("one", "two", ""))]),
        (b"250-\r\n250 two\r\n", [Reply(250, ("", "two"))]),
        (b"250 OK\r\n354 go\r\n", [Reply(250, "OK"), Reply(354, "go")]),
        (b"250 OK\r\n25", [Reply(250, "OK")]),
        (b"550 5.1.1 No such user here\r\n", [Reply(550, "No such user here", "5.1.1")]),
        (b"550-5.1.1 No\r\n550 5.1.1 user\r\n", [Reply(550, ("No", "user"), "5.1.1")]),
        (b"550 5.1.1\r\n", [Reply(550, "", "5.1.1")]),
        (b"550 2.1.1 classes differ\r\n", [Reply(550, "2.1.1 classes differ")]),
        (b"550 5.1 is no status\r\n", [Reply(550, "5.1 is no status")]),
        (b"250 5.1.1x\r\n", [Reply(250, "5.1.1x")]),
        (b"354 3.0.0 go\r\n", [Reply(354, "3.0.0 go")]),
        (b"250 a\x1b[2J\x07\xff\tb\r\n", [Reply(250, "a?[2J???b")]),
        (b"250 a\rb\r\n", [Reply(250, "a?b")]),
    ],
)
def test_replies_are_put_together(octets: bytes, expected: list[Reply]) -> None:
    assert read(octets) == expected
    assert read(octets, 1) == expected


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n",
        b"OK\r\n",
        b"25\r\n",
        b"2500\r\n",
        b"250OK\r\n",
        b"150 early\r\n",
        b"650 late\r\n",
        b" 250 OK\r\n",
        b"\xb250 OK\r\n",
        b"250-one\r\n251 two\r\n",
        b"250-one\r\n251-two\r\n",
        b"250-one\r\nHTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\0\n",
    ],
)
def test_what_is_no_reply_is_a_protocol_error(octets: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read(octets)
    assert str(caught.value).isprintable()
    with pytest.raises(ProtocolError):
        read(octets, 1)


def test_a_reply_line_has_a_limit_whether_it_ends_or_not() -> None:
    longest = b"250 " + b"x" * (MAX_LINE - 4)
    assert read(longest + b"\r\n")[0].text == "x" * (MAX_LINE - 4)
    with pytest.raises(ProtocolError):
        read(longest + b"x\r\n")
    with pytest.raises(ProtocolError):
        read(longest + b"xx", 64)


def test_a_reply_has_a_limit_of_lines() -> None:
    assert len(read(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n")[0].lines) == MAX_LINES
    with pytest.raises(ProtocolError):
        read(b"250-x\r\n" * MAX_LINES)


def test_a_reader_is_idle_only_between_replies() -> None:
    reader = ReplyReader()
    assert reader.idle
    reader.feed(b"25")
    assert reader.next() is None
    assert not reader.idle
    assert reader.pending == b"25"
    reader.feed(b"0-one\r\n")
    assert reader.next() is None
    assert reader.pending == b""
    assert not reader.idle
    reader.feed(b"250 two\r\n")
    assert reader.next() == Reply(250, ("one", "two"))
    assert reader.idle


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).filter(
    lambda text: not text[:1].isdigit()  # else it may be taken for an enhanced status code
)
REPLIES = st.builds(
    Reply,
    st.sampled_from([211, 214, 220, 221, 250, 251, 354, 421, 450, 451, 452, 500, 550, 554]),
    st.one_of(WORDS, st.lists(WORDS, min_size=2, max_size=5).map(tuple)),
)


@settings(max_examples=100)
@given(st.lists(REPLIES, max_size=6), st.integers(1, 40))
def test_what_is_said_is_what_is_read_at_any_cut(said: list[Reply], size: int) -> None:
    assert read(b"".join(reply.encode() for reply in said), size) == said


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(1, 60))
def test_any_octets_are_a_reply_or_a_protocol_error(octets: bytes, size: int) -> None:
    try:
        found = read(octets, size)
    except ProtocolError as error:
        assert str(error).isprintable()
        return
    for reply in found:
        assert 200 <= reply.code <= 599
        assert all(line.isprintable() and line.isascii() for line in reply.lines)


def test_text_from_outside_becomes_printable() -> None:
    assert readable(b"a\x00\x1b\x7f\xffb~ ") == "a????b~ "


@pytest.mark.parametrize(
    ("reply", "code", "first"),
    [
        (replies.greeting("mit.example"), 220, "mit.example Simple Mail Transfer Service Ready"),
        (replies.closing("mit.example"), 221, "mit.example Service closing transmission channel"),
        (
            replies.unavailable("mit.example", "Time-out"),
            421,
            "mit.example Time-out, closing transmission channel",
        ),
    ],
)
def test_a_channel_opens_and_closes_in_the_words_of_the_rfc(reply: Reply, code: int, first: str) -> None:
    assert (reply.code, reply.text) == (code, first)


def test_every_status_agrees_with_the_class_of_its_code() -> None:
    """RFC 2034 3: and 3xx replies have none."""
    named = [value for value in vars(replies).values() if isinstance(value, Reply)]
    assert len(named) > 25
    for reply in named:
        if reply.status:
            assert reply.status[0] == str(reply.code)[0], reply
        if reply.code < 400 and reply.code >= 300:
            assert not reply.status
