"""Messages whose custody is decided late: what is taken meanwhile, and what waits for the decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mailnode.mail import Mode, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.machine import Limits
from mailnode.smtp.receiver import AHEAD, Receiver
from mailnode.smtp.replies import unavailable

RIGHTS = Rights(tuple(Mode), relay=True, turn=True, once=True, mechanisms=("PLAIN",))
FULL = Reply(452, "Requested action not taken: insufficient system storage", "4.3.1")
GROUP = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<jones@mit.example>\r\nBDAT 4 LAST\r\nHi\r\n"


class Ahead:
    """A Receiver whose custody is always postponed."""

    def __init__(self, hello: bytes = b"EHLO a\r\n", **options: Any) -> None:
        self.receiver = Receiver("mit.example", RIGHTS, greet=False, **options)
        self.decide: list[Callable[[Reply], None]] = []
        self.said: list[Reply] = []
        self.closed = False
        assert self.say(hello) == [250]

    def say(self, octets: bytes) -> list[int]:
        self.receiver.feed(octets)
        return self.run()

    def run(self) -> list[int]:
        before = len(self.said)
        while (event := self.receiver.next()) is not None:
            if isinstance(event, Reply):
                self.said.append(event)
            elif isinstance(event, events.AskSender | events.AskRecipient):
                self.receiver.answer(replies.OK)
            elif isinstance(event, events.AskData):
                self.receiver.answer(replies.START_INPUT)
            elif isinstance(event, events.AskCustody):
                self.decide.append(self.receiver.postpone())
            elif isinstance(event, events.Closed):
                self.closed = True
        return [reply.code for reply in self.said[before:]]


def test_groups_are_taken_before_the_first_is_decided_and_replies_keep_their_order() -> None:
    host = Ahead()
    assert host.say(GROUP * 3) == [250, 250]  # MAIL and RCPT of the first
    assert len(host.decide) == 3
    host.decide[2](Reply(250, "third"))
    host.decide[1](Reply(451, "second"))
    assert host.run() == []
    host.decide[0](Reply(250, "first"))
    assert host.run() == [250, 250, 250, 451, 250, 250, 250]
    assert [reply.text for reply in host.said if reply.text not in ("OK", "")][-3:] == [
        "first",
        "second",
        "third",
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"NOOP",
        b"QUIT",
        b"EHLO b",
        b"HELO b",
        b"TURN",
        b"AUTH PLAIN",
        b"VRFY a",
        b"SEND FROM:<>",
        b"XYZZY",
        b"",
    ],
)
def test_whatever_cannot_stand_within_a_group_waits(line: bytes) -> None:
    host = Ahead()
    host.say(GROUP + line + b"\r\n")
    pending = host.receiver.pending
    assert pending == len(line) + 2
    host.decide[0](replies.OK)
    host.run()
    assert host.receiver.pending == 0 or host.receiver.asking


def test_rset_data_and_a_transaction_by_data_go_ahead() -> None:
    host = Ahead()
    opening = b"MAIL FROM:<>\r\nRCPT TO:<jones@mit.example>\r\n"
    assert host.say(GROUP + b"RSET\r\n" + opening + b"DATA\r\n") == [250, 250]
    host.decide[0](replies.OK)
    assert host.run() == [250, 250, 250, 250, 354]
    assert host.say(b"Hi\r\n.\r\n") == []
    host.decide[1](replies.OK)
    assert host.run() == [250]


def test_no_more_than_so_many_are_undecided() -> None:
    host = Ahead()
    host.say(GROUP * (AHEAD + 2))
    assert len(host.decide) == host.receiver.late == AHEAD
    host.decide[0](replies.OK)
    host.run()
    assert len(host.decide) == AHEAD + 1


@pytest.mark.parametrize("group", [GROUP, b"RSET\r\n" + GROUP])
def test_messages_that_are_not_decided_are_no_commands_without_mail(group: bytes) -> None:
    host = Ahead(limits=Limits(commands=20))
    host.say(group * 30)
    assert len(host.decide) == 30 and not host.closed
    for decide in host.decide:
        decide(FULL)  # they brought none
    assert host.run().count(452) == 30 and not host.closed
    assert host.say(GROUP)[-1] == 421 and host.closed


def test_a_line_over_its_limit_waits_for_the_decision_and_is_refused_as_a_whole() -> None:
    host = Ahead()
    long = b"MAIL FROM:<" + b"x" * 5000
    assert host.say(GROUP + long) == [250, 250]
    host.say(b"MAIL FROM:<a@b.example>\r\n")
    host.decide[0](replies.OK)
    assert host.run() == [250, 500]


def test_the_end_of_the_channel_comes_behind_what_is_decided_late() -> None:
    host = Ahead()
    host.say(GROUP)
    host.receiver.refuse(unavailable("mit.example", "Time-out"))
    assert host.run() == [] and not host.closed
    host.decide[0](replies.OK)
    assert host.run() == [250, 421] and host.closed


def test_what_a_terminal_shows_and_lmtp_are_decided_first() -> None:
    for hello, group, options in (
        (b"EHLO a\r\n", GROUP.replace(b"MAIL", b"SEND"), {}),
        (b"LHLO a\r\n", GROUP, {"lmtp": True}),
    ):
        host = Ahead(hello, **options)
        with pytest.raises(ValueError, match="answered late"):
            host.say(group)


def test_a_decision_is_told_once_and_only_custody_is_postponed() -> None:
    host = Ahead()
    with pytest.raises(ValueError, match="answered late"):
        host.receiver.postpone()
    host.say(GROUP)
    host.decide[0](replies.OK)
    with pytest.raises(ValueError, match="before"):
        host.decide[0](replies.OK)


def test_a_message_that_is_taken_at_last_counts_as_mail() -> None:
    host = Ahead()
    for _ in range(host.receiver.limits.commands + 5):
        assert host.say(GROUP) == [250, 250]
        host.decide.pop()(replies.OK)
        assert host.run() == [250]


# ------------------------------------------------------------------ XONCE (docs/xonce.md)


@pytest.mark.parametrize(
    ("parameter", "code"),
    [
        *(("XONCE=abc-1.2", 250), ("XONCE=" + "x" * 64, 250), ("XONCE=" + "x" * 65, 501), ("XONCE", 501)),
        *(("XONCE=a_b", 501), ("XONCE=a+20b", 501), ("XONCE=a XONCE=b", 501)),
    ],
)
def test_the_name_of_a_transaction_is_short_and_plain(parameter: str, code: int) -> None:
    assert Ahead().say(f"MAIL FROM:<a@b.example> {parameter}\r\n".encode()) == [code]


def test_who_may_not_name_transactions_hears_nothing_of_it() -> None:
    receiver = Receiver("mit.example", Rights(), greet=False)
    receiver.feed(b"EHLO a\r\nMAIL FROM:<a@b.example> XONCE=a\r\n")
    hello, refusal = receiver.next(), receiver.next()
    assert isinstance(hello, Reply) and "XONCE" not in hello.lines
    assert isinstance(refusal, Reply) and refusal.code == 501
    assert "XONCE" in Ahead().said[0].lines


def test_the_name_goes_with_the_question() -> None:
    receiver = Receiver("mit.example", RIGHTS, greet=False)
    receiver.feed(b"EHLO a\r\nMAIL FROM:<a@b.example> XONCE=abc\r\n")
    receiver.next()
    asked = receiver.next()
    assert isinstance(asked, events.AskSender) and asked.once == "abc"
