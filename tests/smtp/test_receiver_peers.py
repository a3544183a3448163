"""The Receiver towards peers: AUTH (RFC 4954) and TURN (RFC 821 3.8)."""

from __future__ import annotations

import pytest

from mailnode.mail import Mode, Password, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import AUTH_LINE, Limits, Receiver, State
from mailnode.smtp.sasl import plain_response

ALL = Rights(modes=tuple(Mode), turn=True, mechanisms=("PLAIN",))
RESPONSE = plain_response("leaf", "secret")
CHALLENGE = Reply(334, "")
ASK = events.AskCredentials(Password("leaf", "secret"))


def machine(opening: bytes = b"EHLO leaf.example\r\n", limits: Limits | None = None) -> Receiver:
    receiver = Receiver("hub.example", ALL, limits, greet=False)
    receiver.feed(opening)
    drain(receiver)
    return receiver


def drain(receiver: Receiver) -> list[events.ReceiverEvent]:
    found = []
    while (event := receiver.next()) is not None:
        found.append(event)
    return found


def text(found: list[events.ReceiverEvent]) -> list[str]:
    """Events to compare: as tuples, those without fields would all be equal."""
    return [repr(event) for event in found]


def say(receiver: Receiver, octets: bytes) -> list[events.ReceiverEvent]:
    receiver.feed(octets)
    return drain(receiver)


# ------------------------------------------------------------------------------ AUTH


def test_auth_plain_with_an_initial_response() -> None:
    receiver = machine()
    assert text(say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")) == text([ASK])
    receiver.answer(replies.AUTH_DONE)
    assert text(drain(receiver)) == text([replies.AUTH_DONE])
    assert receiver.authenticated
    assert receiver.state is State.IDLE


def test_auth_plain_in_two_steps() -> None:
    receiver = machine()
    assert text(say(receiver, b"auth plain\r\n")) == text([CHALLENGE])
    assert text(say(receiver, RESPONSE + b"\r\n")) == text([ASK])
    receiver.answer(replies.AUTH_DONE)
    assert text(drain(receiver)) == text([replies.AUTH_DONE])


def test_the_challenge_is_an_empty_334() -> None:
    assert CHALLENGE.encode() == b"334 \r\n"


def test_a_wrong_password_is_535_and_may_be_tried_again() -> None:
    receiver = machine()
    say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")
    receiver.answer(replies.AUTH_FAILED)
    assert text(drain(receiver)) == text([replies.AUTH_FAILED])
    assert not receiver.authenticated
    assert text(say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")) == text([ASK])


@pytest.mark.parametrize("limit", [1, 3])
def test_the_third_failure_ends_the_channel(limit: int) -> None:
    receiver = machine(limits=Limits(auth_failures=limit))
    for _ in range(limit - 1):
        say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")
        receiver.answer(replies.AUTH_FAILED)
        assert text(drain(receiver)) == text([replies.AUTH_FAILED])
    say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")
    receiver.answer(replies.AUTH_FAILED)
    refusal = replies.unavailable("hub.example", "Too many failed authentications")
    assert text(drain(receiver)) == text([replies.AUTH_FAILED, refusal, events.Closed()])
    assert Limits().auth_failures == 3


def test_an_exchange_can_be_cancelled() -> None:
    receiver = machine()
    assert text(say(receiver, b"AUTH PLAIN\r\n*\r\nNOOP\r\n")) == text(
        [
            CHALLENGE,
            replies.AUTH_CANCELLED,
            replies.OK,
        ]
    )


@pytest.mark.parametrize("line", [b"=", b"!!!", b"", b"NOOP", b"\xff\xff", b"bGVhZg=="])
def test_a_malformed_response_is_501_and_asks_nobody(line: bytes) -> None:
    receiver = machine()
    assert text(say(receiver, b"AUTH PLAIN\r\n" + line + b"\r\nNOOP\r\n")) == text(
        [
            CHALLENGE,
            replies.AUTH_SYNTAX,
            replies.OK,
        ]
    )


@pytest.mark.parametrize("word", [b"=", b"!!!", b"bGVhZg==", b"one two"])
def test_a_malformed_initial_response_is_501(word: bytes) -> None:
    assert text(say(machine(), b"AUTH PLAIN " + word + b"\r\n")) == text([replies.AUTH_SYNTAX])


def test_a_response_may_be_longer_than_a_command_but_has_a_limit() -> None:
    receiver = machine()
    long = plain_response("leaf", "x" * 6000)
    assert text(say(receiver, b"AUTH PLAIN\r\n" + long + b"\r\n")[1:]) == text(
        [events.AskCredentials(Password("leaf", "x" * 6000))]
    )
    receiver.answer(replies.AUTH_FAILED)
    drain(receiver)
    over = say(receiver, b"AUTH PLAIN\r\n" + b"A" * (AUTH_LINE + 1) + b"\r\nNOOP\r\n")
    assert text(over) == text([CHALLENGE, replies.LINE_TOO_LONG, replies.OK])


def test_auth_twice_and_an_unknown_mechanism_are_refused() -> None:
    receiver = machine()
    assert text(say(receiver, b"AUTH LOGIN\r\n")) == text([replies.AUTH_UNKNOWN])
    say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")
    receiver.answer(replies.AUTH_DONE)
    drain(receiver)
    assert text(say(receiver, b"AUTH PLAIN " + RESPONSE + b"\r\n")) == text([replies.AUTH_ALREADY])


# ------------------------------------------------------------------------------ TURN


def test_after_the_250_the_receiver_is_over() -> None:
    receiver = machine()
    assert text(say(receiver, b"TURN\r\n")) == text([events.AskTurn()])
    receiver.answer(Reply(250, "OK"))
    assert text(drain(receiver)) == text([Reply(250, "OK"), events.Turned()])
    assert say(receiver, b"MAIL FROM:<a@b.example>\r\n") == []
    assert receiver.pending == 0


def test_a_turn_that_is_refused_changes_nothing() -> None:
    receiver = machine()
    say(receiver, b"TURN\r\n")
    receiver.answer(replies.TURN_REFUSED)
    assert text(drain(receiver)) == text([replies.TURN_REFUSED])
    assert receiver.state is State.IDLE
    assert text(say(receiver, b"NOOP\r\n")) == text([replies.OK])


def test_octets_behind_a_turn_are_503_and_the_channel_closes() -> None:
    receiver = machine()
    assert text(say(receiver, b"TURN\r\n250 canned\r\n")) == text([replies.OCTETS_BEHIND, events.Closed()])
    assert say(receiver, b"NOOP\r\n") == []


@pytest.mark.parametrize("octets", [b"\r", b"NOOP\r\n", b"220 canned\r\n250 canned\r\n"])
def test_octets_that_come_while_a_turn_is_decided_are_503_too(octets: bytes) -> None:
    receiver = machine()
    assert text(say(receiver, b"TURN\r\n")) == text([events.AskTurn()])
    assert say(receiver, octets) == []
    receiver.answer(Reply(250, "OK"))
    assert text(drain(receiver)) == text([replies.OCTETS_BEHIND, events.Closed()])


def test_a_client_that_may_not_turn_gets_502_whatever_is_behind() -> None:
    receiver = machine()
    receiver.rights = Rights()
    assert text(say(receiver, b"TURN\r\nNOOP\r\n")) == text([replies.TURN_REFUSED, replies.OK])


def test_turn_in_a_transaction_is_503_and_the_transaction_stays() -> None:
    receiver = machine(b"EHLO leaf.example\r\nMAIL FROM:<a@leaf.example>\r\n")
    receiver.answer(replies.SENDER_OK)
    drain(receiver)
    assert text(say(receiver, b"TURN\r\nNOOP\r\n")) == text([replies.IN_TRANSACTION, replies.OK])
    assert receiver.state is State.OPEN
