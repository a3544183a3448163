"""The Receiver's limits: whatever a client does without end, the channel ends."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.mail import Reply
from mailnode.smtp import events
from mailnode.smtp.receiver import Limits, State

FEW = Limits(commands=5, errors=1000)
NOBODY: dict[type, Any] = {events.AskRecipient: Reply(550, "No such user here")}


@pytest.mark.parametrize(
    "line",
    [
        b"NOOP\r\n",
        b"RSET\r\n",
        b"HELP\r\n",
        b"HELP MAIL\r\n",
        b"VRFY smith\r\n",
        b"EXPN staff\r\n",
        b"HELO a\r\n",
        b"EHLO a\r\n",
        b"MAIL FROM:<> SIZE=99999999999\r\n",
        b"MAIL FROM:<>\r\nRSET\r\n",
        b"AUTH PLAIN\r\n*\r\n",
        b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRSET\r\n",
    ],
)
def test_commands_that_bring_no_mail_end_the_channel(converse: Any, line: bytes) -> None:
    host = converse(limits=FEW)
    said = host.say(line * 6)
    assert said[-1] == 421 and host.closed
    assert "without mail" in host.told[-2].lines[0]
    assert said.count(421) == 1


def test_just_so_many_commands_are_taken_and_quit_is_always(converse: Any) -> None:
    host = converse(limits=FEW)  # the EHLO was the first
    assert host.say(b"NOOP\r\n" * 4 + b"QUIT\r\n") == [250] * 4 + [221]
    host = converse(limits=FEW)
    assert host.say(b"NOOP\r\n" * 5) == [250] * 4 + [421]


def test_one_who_tries_out_names_is_cut_off_within_one_transaction(opened: Any, converse: Any) -> None:
    host = converse(limits=FEW, answers=NOBODY)
    said = host.say(b"MAIL FROM:<>\r\n" + b"RCPT TO:<guess@mit.example>\r\n" * 100)
    assert said == [250] + [550] * 4 + [421]
    assert host.discarded == 1 and host.closed


def test_recipients_that_are_accepted_are_no_commands_without_mail(opened: Any) -> None:
    host = opened(limits=FEW)
    assert host.say(b"RCPT TO:<jones@mit.example>\r\n" * 50) == [250] * 50
    assert host.say(b"DATA\r\n.\r\n") == [354, 250]


@pytest.mark.parametrize("ending", [b"DATA\r\nHi\r\n.\r\n", b"BDAT 4 LAST\r\nHi\r\n"])
def test_a_message_that_is_taken_begins_the_count_anew(converse: Any, ending: bytes) -> None:
    host = converse(limits=FEW)
    for _ in range(10):
        assert host.say(b"NOOP\r\n" * 3 + b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n")[-1] == 250
        assert host.say(ending)[-1] == 250


@pytest.mark.parametrize(
    "ending", [b"DATA\r\nHi\r\n.\r\n", b"DATA\r\na\nb\r\n.\r\n", b"BDAT 4 LAST\r\nHi\r\n"]
)
def test_a_message_that_is_refused_does_not(converse: Any, ending: bytes) -> None:
    host = converse(limits=FEW, answers={events.AskCustody: Reply(554, "A loop")})
    said = [
        code for _ in range(10) for code in host.say(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n" + ending)
    ]
    assert said[-1] == 421 and host.closed


@pytest.mark.parametrize(
    ("line", "code"),
    [(b"DATA\r\n", 503), (b"BDAT 0\r\n", 503), (b"BDAT 1\r\nx", 503)],
)
def test_asking_to_send_to_nobody_without_end_ends_the_channel(converse: Any, line: bytes, code: int) -> None:
    host = converse(limits=Limits(commands=5, errors=9))
    said = host.say(b"MAIL FROM:<>\r\n" + line * 50)
    assert said[:2] == [250, code] and said[-1] == 421 and len(said) < 15
    assert host.closed


def test_empty_chunks_without_end_end_the_channel(opened: Any) -> None:
    host = opened(limits=FEW)
    assert host.say(b"BDAT 0\r\n" * 50) == [250, 250, 250, 250, 421]
    assert host.discarded == 1


def test_recipients_over_the_limit_are_452_for_as_many_again_and_then_end_the_channel(opened: Any) -> None:
    """RFC 5321 4.5.3.1.10: an honest client may send a long group before it hears the first 452."""
    host = opened(limits=Limits(recipients=10, commands=5))
    assert host.say(b"RCPT TO:<jones@mit.example>\r\n" * 19) == [250] * 9 + [452] * 10
    assert host.say(b"RCPT TO:<jones@mit.example>\r\n" * 100_000) == [452] * 4 + [421]
    assert host.closed and host.discarded == 1


def test_an_honest_client_that_had_too_many_recipients_sends_to_those_that_were_taken(opened: Any) -> None:
    host = opened(limits=Limits(recipients=10, commands=5))
    host.say(b"RCPT TO:<jones@mit.example>\r\n" * 19)
    assert host.say(b"DATA\r\nHi\r\n.\r\n") == [354, 250]


def test_the_length_of_a_line_is_a_limit_of_its_own(converse: Any) -> None:
    host = converse(limits=Limits(line_length=20))
    assert host.say(b"NOOP " + b"x" * 15 + b"\r\nNOOP " + b"x" * 16 + b"\r\nNOOP\r\n") == [250, 500, 250]


def test_errors_end_the_channel(converse: Any) -> None:
    host = converse(limits=Limits(errors=4, commands=1000))
    assert host.say(b"XYZZY\r\n" * 10) == [500] * 4 + [421]
    assert host.closed


def test_a_line_without_end_takes_no_memory_and_is_refused(converse: Any) -> None:
    host = converse()
    piece = b"x" * (1 << 20)
    for _ in range(64):
        assert host.say(piece) == []
        assert host.receiver.pending <= host.receiver.limits.line_length + 2
    assert host.say(b"\r\nNOOP\r\n") == [500, 250]


def test_consumed_tells_lines_and_mail_data_and_no_half_line(opened: Any) -> None:
    host = opened()
    before = host.receiver.consumed
    host.say(b"NOO")
    assert host.receiver.consumed == before
    host.say(b"P\r\nDATA\r\n")
    assert host.receiver.consumed == before + 2
    host.say(b"12345")
    assert host.receiver.consumed == before + 7


def test_mail_data_has_begun_from_data_or_the_first_chunk_until_its_end(opened: Any) -> None:
    host = opened()
    assert not host.receiver.in_mail_data
    for octets, there in (
        (b"BDAT 4\r\nHi", True),
        (b"\r\n", True),
        (b"NOOP\r\n", True),
        (b"BDAT 0 LAST\r\n", False),
        (b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n", False),
        (b"DATA\r\n", True),
        (b".\r\n", False),
        (b"BDAT 5\r\nHi", True),  # out of order: it has to be read all the same
        (b"\r\nx", False),
    ):
        host.say(octets)
        assert host.receiver.in_mail_data is there
    assert host.receiver.state is State.IDLE
