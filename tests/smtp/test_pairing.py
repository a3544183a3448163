"""XPAIR: for who holds an invitation, with keys that can be keys, and last of its group."""

from __future__ import annotations

import pytest

from mailnode.mail import Reply, Rights, ScramKeys
from mailnode.smtp import events, replies
from mailnode.smtp.pairing import format_keys, parse_keys
from mailnode.smtp.receiver import Receiver, State

HOLDER = Rights(modes=(), pair=True)
KEYS = ScramKeys(b"s" * 16, 100_000, b"t" * 32, b"u" * 32)
LINE = f"XPAIR {format_keys(KEYS)}\r\n".encode()


def machine(rights: Rights = HOLDER) -> Receiver:
    receiver = Receiver("hub.example", rights, greet=False)
    receiver.feed(b"EHLO leaf.example\r\n")
    receiver.next()
    return receiver


def say(receiver: Receiver, octets: bytes) -> list[events.ReceiverEvent]:
    receiver.feed(octets)
    found = []
    while (event := receiver.next()) is not None:
        found.append(event)
    return found


def test_the_keys_are_asked_about_and_the_answer_is_the_reply() -> None:
    receiver = machine()
    assert say(receiver, LINE) == [events.AskPair(KEYS)]
    answer = Reply(250, ("Paired as leaf", "HELD 3"))
    receiver.answer(answer)
    assert receiver.next() == answer and receiver.state is State.IDLE


def test_the_words_come_back_as_they_went() -> None:
    assert parse_keys(format_keys(KEYS)) == KEYS


@pytest.mark.parametrize(
    "keys",
    [
        ScramKeys(b"s" * 7, 4096, b"t" * 32, b"u" * 32),
        ScramKeys(b"s" * 65, 4096, b"t" * 32, b"u" * 32),
        ScramKeys(b"s" * 16, 4095, b"t" * 32, b"u" * 32),
        ScramKeys(b"s" * 16, 500_001, b"t" * 32, b"u" * 32),
        ScramKeys(b"s" * 16, 4096, b"t" * 31, b"u" * 32),
        ScramKeys(b"s" * 16, 4096, b"t" * 32, b"u" * 33),
        ScramKeys(b"s" * 16, 4096, b"", b"u" * 32),
    ],
)
def test_what_cannot_be_keys_is_501(keys: ScramKeys) -> None:
    assert say(machine(), f"XPAIR {format_keys(keys)}\r\n".encode()) == [replies.BAD_KEYS]


@pytest.mark.parametrize("words", ["x", "a b c", "c2FsdHNhbHQ= 4096 !!!! !!!!", "= 4096 = =", "a 04096 b c"])
def test_words_of_another_form_are_501(words: str) -> None:
    assert say(machine(), f"XPAIR {words}\r\n".encode()) == [replies.BAD_KEYS]
    assert say(machine(), LINE.rstrip() + b" more\r\n") == [replies.BAD_KEYS]


def test_nobody_else_may_say_it_and_it_is_not_named_to_them() -> None:
    others = Rights(turn=True, atrn=True, etrn=True, relay=True)
    receiver = Receiver("hub.example", others, greet=False)
    (hello,) = say(receiver, b"EHLO leaf.example\r\n")
    assert isinstance(hello, Reply) and "XPAIR" not in hello.lines
    assert say(receiver, LINE) == [replies.NOT_FOR_YOU]


def test_who_holds_an_invitation_may_do_nothing_else() -> None:
    receiver = Receiver("hub.example", HOLDER, greet=False)
    (hello,) = say(receiver, b"EHLO leaf.example\r\n")
    assert isinstance(hello, Reply) and "XPAIR" in hello.lines
    for command in (b"MAIL FROM:<a@b.example>", b"SEND FROM:<a@b.example>", b"TURN", b"ATRN", b"XWAIT 30",
                    b"ETRN leaf.example"):  # fmt: skip
        (reply,) = say(receiver, command + b"\r\n")
        assert isinstance(reply, Reply) and reply.code == 502


def test_what_stands_behind_it_closes_the_channel() -> None:
    found = say(machine(), LINE + b"QUIT\r\n")
    assert found == [replies.OCTETS_BEHIND, events.Closed()]
