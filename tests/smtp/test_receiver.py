"""The Receiver through a transaction: limits, mail data, errors, late answers, and the end of a channel."""

from __future__ import annotations

import pytest

from mailnode.mail import Mode, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import Limits, Receiver, State

ALL = Rights(modes=tuple(Mode), relay=True, verify=True, expand=True, turn=True, mechanisms=("PLAIN",))
HOST = "mit.example"

ANSWERS: dict[type, Reply] = {
    events.AskSender: replies.SENDER_OK,
    events.AskRecipient: replies.RECIPIENT_OK,
    events.AskData: replies.START_INPUT,
    events.AskCustody: replies.OK,
    events.AskVerify: Reply(250, "Fred Smith <smith@mit.example>"),
    events.AskExpand: Reply(250, ("<jones@mit.example>", "<brown@mit.example>")),
    events.AskCredentials: replies.AUTH_DONE,
    events.AskTurn: Reply(250, "OK"),
}


def machine(rights: Rights = ALL, limits: Limits | None = None) -> Receiver:
    return Receiver(HOST, rights, limits, greet=False)


def talk(
    receiver: Receiver, octets: bytes, answers: dict[type, Reply] | None = None
) -> list[events.ReceiverEvent]:
    """Feeds octets, answers each question at once, gives all events in order."""
    receiver.feed(octets)
    found = []
    while (event := receiver.next()) is not None:
        found.append(event)
        if receiver.asking and type(event) in ANSWERS:
            receiver.answer((answers or {}).get(type(event)) or ANSWERS[type(event)])
    return found


def waiting(receiver: Receiver) -> list[events.ReceiverEvent]:
    """The events that are at hand, with no question answered."""
    found = []
    while (event := receiver.next()) is not None:
        found.append(event)
    return found


def text(found: list[events.ReceiverEvent]) -> list[str]:
    """Events to compare: as tuples, those without fields would all be equal."""
    return [repr(event) for event in found]


def count(found: list[events.ReceiverEvent], kind: type) -> int:
    return sum(type(event) is kind for event in found)


def codes(found: list[events.ReceiverEvent]) -> list[int]:
    return [event.code for event in found if isinstance(event, Reply)]


OPENINGS = {
    State.NEW: b"",
    State.IDLE: b"EHLO usc.example\r\n",
    State.OPEN: b"EHLO usc.example\r\nMAIL FROM:<smith@usc.example>\r\nRCPT TO:<jones@mit.example>\r\n",
}


def in_state(state: State, rights: Rights = ALL) -> Receiver:
    receiver = machine(rights)
    talk(receiver, OPENINGS[state])
    assert receiver.state is state
    return receiver


# ------------------------------------------------------------------------------ transactions


@pytest.mark.parametrize("opening", [b"HELO usc.example\r\n", b"EHLO usc.example\r\n", b"RSET\r\n"])
def test_rset_and_helo_end_the_transaction(opening: bytes) -> None:
    receiver = in_state(State.OPEN)
    found = talk(receiver, opening + b"RCPT TO:<jones@mit.example>\r\n")
    assert type(found[0]) is events.Discarded
    assert codes(found) == [250, 503]
    assert count(found, events.Discarded) == 1


def test_quit_in_a_transaction_discards_it_and_closes() -> None:
    receiver = in_state(State.OPEN)
    found = talk(receiver, b"QUIT\r\nNOOP\r\n")
    assert text(found) == text([events.Discarded(), replies.closing(HOST), events.Closed()])
    assert talk(receiver, b"NOOP\r\n") == []
    assert receiver.pending == 0


def test_a_refused_sender_opens_nothing() -> None:
    receiver = in_state(State.IDLE)
    found = talk(receiver, b"MAIL FROM:<a@b.example>\r\n", {events.AskSender: Reply(451, "Try later")})
    assert codes(found) == [451]
    assert receiver.state is State.IDLE
    assert receiver.transaction is None


def test_data_before_a_recipient_is_503_and_with_all_refused_554() -> None:
    receiver = in_state(State.IDLE)
    refuse: dict[type, Reply] = {events.AskRecipient: Reply(550, "No such user here")}
    talk(receiver, b"MAIL FROM:<smith@usc.example>\r\n")
    assert codes(talk(receiver, b"DATA\r\n")) == [503]
    assert codes(talk(receiver, b"RCPT TO:<green@mit.example>\r\nDATA\r\n", refuse)) == [550, 554]
    assert codes(talk(receiver, b"RCPT TO:<jones@mit.example>\r\nDATA\r\n")) == [250, 354]


def test_a_refused_data_ends_the_transaction() -> None:
    receiver = in_state(State.OPEN)
    found = talk(receiver, b"DATA\r\nRCPT TO:<a@b.example>\r\n", {events.AskData: Reply(451, "No room")})
    assert text(found[:3]) == text([events.AskData(), events.Discarded(), Reply(451, "No room")])
    assert codes(found) == [451, 503]


def test_a_declared_size_over_the_limit_is_552() -> None:
    receiver = machine(limits=Limits(message_size=1000))
    found = talk(
        receiver, b"EHLO a\r\nMAIL FROM:<a@b.example> SIZE=1001\r\nMAIL FROM:<a@b.example> SIZE=1000\r\n"
    )
    assert codes(found) == [250, 552, 250]


@pytest.mark.parametrize(("hello", "code"), [(b"HELO", 552), (b"EHLO", 452)])
def test_too_many_recipients_is_452_and_for_a_helo_client_552(hello: bytes, code: int) -> None:
    receiver = machine(limits=Limits(recipients=2))
    talk(receiver, hello + b" usc.example\r\nMAIL FROM:<smith@usc.example>\r\n")
    assert codes(talk(receiver, b"RCPT TO:<jones@mit.example>\r\n" * 3)) == [250, 250, code]
    assert codes(talk(receiver, b"DATA\r\nHi\r\n.\r\n")) == [354, 250]


def test_refused_recipients_do_not_use_up_the_limit() -> None:
    receiver = machine(limits=Limits(recipients=1))
    talk(receiver, b"EHLO a\r\nMAIL FROM:<smith@usc.example>\r\n")
    refuse: dict[type, Reply] = {events.AskRecipient: Reply(550, "No such user here")}
    assert codes(talk(receiver, b"RCPT TO:<green@mit.example>\r\n" * 3, refuse)) == [550] * 3
    assert codes(talk(receiver, b"RCPT TO:<jones@mit.example>\r\n" * 2)) == [250, 452]


def test_after_a_message_the_next_transaction_is_fresh() -> None:
    receiver = in_state(State.OPEN)
    assert codes(talk(receiver, b"DATA\r\n.\r\nDATA\r\nRCPT TO:<a@b.example>\r\n")) == [354, 250, 503, 503]
    assert receiver.state is State.IDLE


# ------------------------------------------------------------------------------ mail data


def test_commands_in_mail_data_are_data_and_behind_it_commands() -> None:
    receiver = in_state(State.OPEN)
    found = talk(receiver, b"DATA\r\nQUIT\r\n..\r\n.\r\nNOOP\r\n")
    assert [e.piece for e in found if isinstance(e, events.MailData)] == [b"QUIT\r\n.\r\n"]
    assert codes(found) == [354, 250, 250]


@pytest.mark.parametrize(("hello", "code"), [(b"EHLO", 550), (b"HELO", 554)])
@pytest.mark.parametrize(
    "data",
    [b"a\nb\r\n.\r\n", b"a\rb\r\n.\r\n", b"a\n.\nMAIL FROM:<x@y.example>\r\n.\r\n", b"a\r\n.\rQUIT\r\n.\r\n"],
)
def test_a_bare_line_end_refuses_the_message_after_its_true_end(data: bytes, hello: bytes, code: int) -> None:
    receiver = machine()
    talk(receiver, OPENINGS[State.OPEN].replace(b"EHLO", hello))
    found = talk(receiver, b"DATA\r\n" + data + b"NOOP\r\n")
    assert codes(found) == [354, code, 250]
    assert count(found, events.AskCustody) == 0
    assert count(found, events.Discarded) == 1


def test_a_message_over_the_limit_is_read_to_its_end_and_refused_with_552() -> None:
    receiver = machine(limits=Limits(message_size=10))
    talk(receiver, OPENINGS[State.OPEN] + b"DATA\r\n12345678\r\n")
    found = talk(receiver, b"9\r\nQUIT\r\n.\r\nNOOP\r\n")
    assert text(found) == text([events.Discarded(), replies.TOO_LARGE, replies.OK])
    talk(receiver, OPENINGS[State.OPEN] + b"DATA\r\n")
    assert codes(talk(receiver, b"12345678\r\n.\r\n")) == [250]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_the_refusal_of_bad_mail_data_does_not_depend_on_the_cut(size: int) -> None:
    receiver = machine(limits=Limits(message_size=10))
    talk(receiver, OPENINGS[State.OPEN] + b"DATA\r\n")
    octets = b"more than ten octets\r\nand a bare\nline end\r\n.\r\n"
    found = []
    for at in range(0, len(octets), size):
        found += talk(receiver, octets[at : at + size])
    assert text([event for event in found if not isinstance(event, events.MailData)]) == text(
        [
            events.Discarded(),
            replies.BARE_LINE_END,
        ]
    )


# ------------------------------------------------------------------------------ lines and errors


def test_a_command_line_over_the_limit_is_refused_and_no_part_of_it_obeyed() -> None:
    receiver = in_state(State.IDLE)
    for filler in (Limits().line_length - 4, Limits().line_length * 3):
        octets = b"NOOP" + b"x" * (filler + 1) + b"QUIT\r\nNOOP\r\n"
        assert talk(receiver, octets) == [replies.LINE_TOO_LONG, replies.OK]
        assert [code for o in octets for code in codes(talk(receiver, bytes([o])))] == [500, 250]
    longest = b"NOOP " + b"x" * (Limits().line_length - 5)
    assert text(talk(receiver, longest + b"\r\n")) == text([replies.OK])


def test_too_many_errors_end_the_channel_with_421() -> None:
    receiver = machine(limits=Limits(errors=3))
    found = talk(receiver, b"XYZZY\r\n" * 5 + b"NOOP\r\n")
    assert codes(found) == [500, 500, 500, 421]
    assert type(found[-1]) is events.Closed


def test_an_error_too_many_in_a_transaction_discards_it() -> None:
    receiver = machine(limits=Limits(errors=1))
    talk(receiver, OPENINGS[State.OPEN])
    found = talk(receiver, b"MAIL FROM:<a@b.example>\r\n")
    assert codes(found) == [503, 421]
    assert count(found, events.Discarded) == 1


# ------------------------------------------------------------------------------ late answers


def test_while_a_question_is_open_nothing_is_consumed() -> None:
    receiver = in_state(State.OPEN)
    receiver.feed(b"VRFY smith\r\nNOOP\r\n")
    assert text(waiting(receiver)) == text([events.AskVerify("smith")])
    assert receiver.asking
    assert receiver.pending == len(b"NOOP\r\n")
    receiver.feed(b"NOOP\r\n")
    assert waiting(receiver) == []
    receiver.answer(Reply(252, "Cannot say"))
    assert text(waiting(receiver)) == text([Reply(252, "Cannot say"), replies.OK, replies.OK])


def test_custody_of_one_message_does_not_mix_with_the_next_command() -> None:
    receiver = in_state(State.OPEN)
    talk(receiver, b"DATA\r\n")
    receiver.feed(b"Hi\r\n.\r\nRSET\r\nMAIL FROM:<a@b.example>\r\n")
    assert text(waiting(receiver)) == text([events.MailData(b"Hi\r\n"), events.AskCustody()])
    receiver.answer(Reply(451, "The disk is slow"))
    assert codes(waiting(receiver)) == [451, 250]
    assert receiver.asking


def test_an_answer_without_a_question_is_our_own_mistake() -> None:
    with pytest.raises(ValueError):
        machine().answer(replies.OK)


# ------------------------------------------------------------------------------ refuse


@pytest.mark.parametrize(
    ("octets", "discarded"),
    [
        (b"", 0),
        (b"EHLO a\r\nMAIL FROM:<a@b.example>\r\n", 1),
        (b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<jones@mit.example>\r\nDATA\r\nHello", 1),
        (b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<jones@mit.example>\r\nDATA\r\na\nb\r\n", 1),
        (b"EHLO a\r\nAUTH PLAIN\r\n", 0),
    ],
)
def test_refuse_discards_once_says_421_and_closes(octets: bytes, discarded: int) -> None:
    receiver = machine()
    before = talk(receiver, octets)
    receiver.refuse(replies.unavailable(HOST, "Time-out"))
    after = talk(receiver, b"NOOP\r\n")
    assert count(before + after, events.Discarded) == discarded
    assert text(after[-2:]) == text([replies.unavailable(HOST, "Time-out"), events.Closed()])
    receiver.refuse(replies.unavailable(HOST, "Service is going down"))
    assert receiver.next() is None


def test_refuse_takes_back_an_open_question() -> None:
    receiver = in_state(State.IDLE)
    receiver.feed(b"VRFY smith\r\n")
    receiver.next()
    receiver.refuse(replies.unavailable(HOST, "Time-out"))
    assert not receiver.asking
    assert codes(talk(receiver, b"")) == [421]
