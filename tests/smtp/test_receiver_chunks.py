"""The Receiver and BDAT: mail data in chunks, whatever they hold, and chunks out of order (RFC 3030)."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.mail import Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import Limits, State

SIZES = pytest.mark.parametrize("size", [0, 1, 2, 3, 7])
OPEN_BINARY = b"MAIL FROM:<a@usc.example> BODY=BINARYMIME\r\nRCPT TO:<jones@mit.example>\r\n"


def chunk(octets: bytes, last: bool = False) -> bytes:
    return b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if last else b"", octets)


# ------------------------------------------------------------------ what is kept


@SIZES
def test_chunks_are_one_message_however_their_octets_are_cut(opened: Any, size: int) -> None:
    host = opened()
    octets = chunk(b"Hello\r\n.\r\nQUIT\r\n") + chunk(b"") + chunk(b"..\r\nbye\r\n", last=True) + b"NOOP\r\n"
    assert host.say(octets, size) == [250, 250, 250, 250]
    assert host.taken == [b"Hello\r\n.\r\nQUIT\r\n..\r\nbye\r\n"]
    assert host.receiver.state is State.IDLE
    assert len(host.asked(events.AskData)) == 1
    assert host.receiver.transaction is None


def test_the_reply_to_a_chunk_says_how_much_came_and_the_last_one_that_it_is_safe(opened: Any) -> None:
    host = opened(answers={events.AskCustody: Reply(250, "Safe", "2.0.0")})
    host.say(chunk(b"Hello\r\n") + chunk(b"", last=True))
    said = [event for event in host.told if isinstance(event, Reply)]
    assert said[-2:] == [Reply(250, "7 octets received", "2.0.0"), Reply(250, "Safe", "2.0.0")]


@SIZES
def test_an_empty_last_chunk_ends_the_message(opened: Any, size: int) -> None:
    host = opened()
    assert host.say(chunk(b"Hi\r\n") + b"BDAT 0 LAST\r\n", size) == [250, 250]
    assert host.taken == [b"Hi\r\n"]
    assert host.say(b"MAIL FROM:<>\r\n") == [250]


def test_a_message_may_be_empty_and_its_last_line_without_end(opened: Any) -> None:
    host = opened()
    assert host.say(b"BDAT 0 LAST\r\n") == [250]
    assert host.say(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nbdat  3  last\r\nabc") == [250, 250, 250]
    assert host.taken == [b"", b"abc"]


@SIZES
def test_binary_octets_pass_as_they_are(opened: Any, converse: Any, size: int) -> None:
    host = converse()
    host.say(OPEN_BINARY)
    body = bytes(range(256)) + b"\n.\n\r\r\n.\r\n\r"
    assert host.say(chunk(body[:100]) + chunk(body[100:], last=True), size) == [250, 250]
    assert host.taken == [body]


def test_a_message_that_was_taken_is_no_reason_to_hang_up(converse: Any) -> None:
    host = converse(limits=Limits(commands=3))
    for _ in range(5):
        host.say(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n")
        assert host.say(chunk(b"Hi\r\n", last=True) + b"NOOP\r\n") == [250, 250]


# ------------------------------------------------------------------ what is refused


@SIZES
@pytest.mark.parametrize(("hello", "code"), [(b"EHLO a", 550), (b"HELO a", 554)])
@pytest.mark.parametrize(
    "parts",
    [
        (b"a\nb",),
        (b"a\rb",),
        (b"a", b"\n"),
        (b"a\r", b"b\r\n"),
        (b"a\r", b"", b"b"),
        (b"a\r", b"\r\n"),
        (b"a\r\n\r",),
        (b"a\r\n", b"\r"),
        (b"a\n.\nMAIL FROM:<x@y.example>\r\n",),
    ],
)
def test_a_bare_line_end_is_refused_wherever_the_chunks_are_cut(
    opened: Any, parts: tuple[bytes, ...], hello: bytes, code: int, size: int
) -> None:
    host = opened(hello=hello)
    octets = b"".join(chunk(part, last=number == len(parts) - 1) for number, part in enumerate(parts))
    said = host.say(octets + b"NOOP\r\n", size)
    assert said[-1] == 250 and code in said
    assert host.taken == [] and host.discarded == 1
    assert host.receiver.state is State.IDLE


@SIZES
def test_a_crlf_in_two_chunks_is_no_bare_line_end(opened: Any, size: int) -> None:
    host = opened()
    assert host.say(chunk(b"a\r") + chunk(b"") + chunk(b"\nb\r\n", last=True), size) == [250, 250, 250]
    assert host.taken == [b"a\r\nb\r\n"]


@SIZES
def test_a_chunk_over_the_message_size_is_read_to_its_end_and_refused(opened: Any, size: int) -> None:
    host = opened(limits=Limits(message_size=10))
    assert host.say(chunk(b"QUIT\r\n" * 3, last=True) + b"NOOP\r\n", size) == [552, 250]
    assert host.taken == [] and host.discarded == 1


@SIZES
def test_chunks_that_together_are_too_large_are_refused_and_the_rest_is_503(opened: Any, size: int) -> None:
    host = opened(limits=Limits(message_size=10))
    said = host.say(chunk(b"12345678\r\n") + chunk(b"9") + chunk(b"QUIT\r\n", last=True) + b"NOOP\r\n", size)
    assert said == [250, 552, 503, 250]
    assert host.taken == [] and host.discarded == 1
    assert host.say(b"MAIL FROM:<>\r\n") == [250]


@SIZES
@pytest.mark.parametrize(
    ("before", "code"),
    [
        (b"", 503),
        (b"EHLO a\r\n", 503),
        (b"EHLO a\r\nMAIL FROM:<>\r\n", 503),
        (b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@mit.example>\r\n", 554),
    ],
)
def test_a_chunk_out_of_order_is_read_to_its_end_and_refused(
    converse: Any, before: bytes, code: int, size: int
) -> None:
    host = converse(hello=b"", answers={events.AskRecipient: Reply(550, "No such user here")})
    host.say(before)
    state = host.receiver.state
    assert host.say(chunk(b"QUIT\r\n" * 3) + b"NOOP\r\n", size) == [code, 250]
    assert host.receiver.state is state
    assert not host.asked(events.AskData)


def test_chunks_out_of_order_count_as_errors(converse: Any) -> None:
    host = converse(limits=Limits(errors=3))
    assert host.say(chunk(b"x") * 5) == [503, 503, 503, 421]
    assert host.closed


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(
    "line",
    [
        b"BDAT",
        b"BDAT ",
        b"BDAT LAST",
        b"BDAT -1",
        b"BDAT +1",
        b"BDAT 0x10",
        b"BDAT 1e3",
        b"BDAT 10 LAS",
        b"BDAT 10 LAST more",
        b"BDAT 10LAST",
        b"BDAT 9999999999999",
        b"BDAT 1 0",
        b"BDAT\t10",
        b"BDAT 10\0",
        b"BDAT 10\r",
        b"bdat 10\n",
        "BDAT 1\u0663".encode(),
        b"BDAT 10\xff",
        b"BDAT 10 " + b"x" * 4000,
    ],
)
def test_a_chunk_whose_end_cannot_be_known_closes_the_channel(opened: Any, line: bytes, size: int) -> None:
    """Or what it holds would be taken for commands."""
    host = opened()
    assert host.say(line + b"\r\nMAIL FROM:<smuggled@usc.example>\r\nNOOP\r\n", size) == [501]
    assert host.closed and host.discarded == 1
    assert len(host.asked(events.AskSender)) == 1


def test_data_after_bdat_is_503_and_the_chunks_go_on(opened: Any) -> None:
    host = opened()
    assert host.say(chunk(b"Hi\r\n") + b"DATA\r\n" + chunk(b"there\r\n", last=True)) == [250, 503, 250]
    assert host.taken == [b"Hi\r\nthere\r\n"]


def test_binary_mail_by_data_is_503(converse: Any) -> None:
    host = converse()
    host.say(OPEN_BINARY)
    assert host.say(b"DATA\r\n" + chunk(b"\n", last=True)) == [503, 250]
    assert host.taken == [b"\n"]


@SIZES
def test_data_that_is_refused_refuses_the_chunk_and_ends_the_transaction(opened: Any, size: int) -> None:
    host = opened(answers={events.AskData: Reply(451, "No room")})
    assert host.say(chunk(b"QUIT\r\n") + chunk(b"QUIT\r\n", last=True) + b"NOOP\r\n", size) == [451, 503, 250]
    assert host.discarded == 1 and host.data == b""


@pytest.mark.parametrize(
    ("line", "state"), [(b"RSET\r\n", State.IDLE), (b"EHLO again\r\n", State.IDLE), (b"QUIT\r\n", State.GONE)]
)
def test_what_ends_a_transaction_ends_it_between_two_chunks_too(
    opened: Any, line: bytes, state: State
) -> None:
    host = opened()
    host.say(chunk(b"half of it"))
    host.say(line)
    assert host.discarded == 1 and host.taken == []
    assert host.receiver.state is state
    if state is State.IDLE:
        assert host.say(chunk(b"the other half", last=True)) == [503]


def test_a_refused_channel_discards_half_a_chunk(opened: Any) -> None:
    host = opened()
    host.say(b"BDAT 100\r\nhalf of it")
    host.receiver.refuse(replies.unavailable("mit.example", "Timeout"))
    host.run()
    assert host.closed and host.discarded == 1
    assert host.say(b"x" * 200) == []


# ------------------------------------------------------------------ old clients that are trusted


TRUSTED, STRANGER = Rights(relay=True), Rights()


@SIZES
@pytest.mark.parametrize("by_chunks", [True, False])
def test_a_bare_line_end_becomes_crlf_for_a_trusted_client_where_that_is_configured(
    opened: Any, by_chunks: bool, size: int
) -> None:
    host = opened(TRUSTED, normalize=True)
    body = b"a\nb\rc\r\nd\n\r\n.\ne\r"
    octets = chunk(body[:4]) + chunk(body[4:], last=True) if by_chunks else b"DATA\r\n" + body + b"\r\n.\r\n"
    assert host.say(octets, size)[-1] == 250
    wanted = b"a\r\nb\r\nc\r\nd\r\n\r\n"
    if by_chunks:
        assert host.taken == [wanted + b".\r\ne\r\n"]
    else:  # there a dot at the start of a line is taken off
        assert host.taken == [wanted + b"\r\ne\r\n\r\n"]


@pytest.mark.parametrize("by_chunks", [True, False])
@pytest.mark.parametrize(("rights", "normalize"), [(STRANGER, True), (TRUSTED, False)])
def test_but_not_for_a_stranger_and_not_where_it_is_not_configured(
    opened: Any, rights: Rights, normalize: bool, by_chunks: bool
) -> None:
    host = opened(rights, normalize=normalize)
    octets = chunk(b"a\nb\r\n", last=True) if by_chunks else b"DATA\r\na\nb\r\n.\r\n"
    assert host.say(octets)[-1] == 550
    assert host.taken == []


@pytest.mark.parametrize("false_end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n", b"\r\n.\r"])
def test_no_false_end_ends_mail_data_that_is_normalized(opened: Any, false_end: bytes) -> None:
    host = opened(TRUSTED, normalize=True)
    octets = b"DATA\r\nHi" + false_end + b"MAIL FROM:<smuggled@usc.example>\r\n.\r\n"
    assert host.say(octets, 1) == [354, 250]
    assert b"smuggled" in host.taken[0]
    assert b"\n" not in host.taken[0].replace(b"\r\n", b"")
