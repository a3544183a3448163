"""The commands of hosts that are not always there, on both machines: ATRN, ETRN, XWAIT, XPAIR."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.mail import Body, Letter, Mode, Path, Recipient, Reply, Rights, ScramKeys, Turn
from mailnode.smtp import events, replies
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.pairing import format_keys, parse_keys
from mailnode.smtp.receiver import Limits, State
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from mailnode.smtp.turning import DOMAINS, WAIT_MOST

PEER = Rights(turn=True, atrn=True, etrn=True)
STRANGER = Rights(atrn=True, etrn=True)
GRANTED: dict[type, Any] = {
    events.AskTurn: replies.OK,
    events.AskStart: Reply(253, "OK, 3 pending messages for node leaf.example started"),
    events.AskPair: Reply(250, "Paired as leaf"),
}

# ------------------------------------------------------------------ the receiver


@pytest.mark.parametrize(
    ("line", "turn"),
    [
        (b"TURN", Turn()),
        (b"ATRN", Turn(atrn=True)),
        (b"atrn Leaf.Example", Turn(atrn=True, domains=("leaf.example",))),
        (b"ATRN a.example,b.example,A.example", Turn(atrn=True, domains=("a.example", "b.example"))),
        (b"XWAIT 60\r\nATRN", Turn(atrn=True, wait=60.0)),
        (b"XWAIT 60\r\nXWAIT 30\r\nTURN", Turn(wait=30.0)),
    ],
)
def test_a_peer_is_granted_the_turn_that_it_asks_for(converse: Any, line: bytes, turn: Turn) -> None:
    host = converse(PEER, answers=GRANTED)
    assert set(host.say(line + b"\r\n")) == {250}
    assert host.asked(events.AskTurn) == [events.AskTurn(turn)]
    assert type(host.told[-1]) is events.Turned and host.receiver.state is State.GONE


@pytest.mark.parametrize(
    "argument",
    [
        b"leaf",  # RFC 2645 5.2.1: fully qualified
        b"leaf.example,",
        b",leaf.example",
        b"leaf.example, b.example",
        b"leaf.example;b.example",
        b"@leaf.example",
        b"le_af.example",
        b"leaf..example",
        b"../leaf.example",
        b",".join([b"leaf.example"] * (DOMAINS + 1)),
    ],
)
def test_atrn_for_what_are_no_domains_is_501_and_asks_nobody(converse: Any, argument: bytes) -> None:
    host = converse(PEER, answers=GRANTED)
    assert host.say(b"ATRN " + argument + b"\r\nNOOP\r\n") == [501, 250]
    assert not host.asked(events.AskTurn)


def test_atrn_is_530_before_auth_and_502_where_it_is_not_offered(converse: Any) -> None:
    """RFC 2645 5.2."""
    assert converse(STRANGER).say(b"ATRN\r\nATRN leaf.example\r\n") == [530, 530]
    assert converse(Rights()).say(b"ATRN\r\n") == [502]
    authenticated = converse(STRANGER, answers={events.AskTurn: Reply(450, "Not yours")})
    authenticated.receiver.authenticated = True
    assert authenticated.say(b"ATRN leaf.example\r\n") == [450]
    assert authenticated.receiver.state is State.IDLE


@pytest.mark.parametrize("line", [b"TURN", b"ATRN"])
def test_octets_behind_it_are_not_obeyed(converse: Any, line: bytes) -> None:
    host = converse(PEER, answers=GRANTED)
    assert host.say(line + b"\r\n220 canned\r\n") == [503]
    assert host.closed and not host.asked(events.AskTurn)


@pytest.mark.parametrize("argument", [b"0", b"-1", b"1.5", b"x", b"%d" % (WAIT_MOST + 1), b"999999", b"1 2"])
def test_a_wait_out_of_bounds_is_501(converse: Any, argument: bytes) -> None:
    host = converse(PEER, answers=GRANTED)
    assert host.say(b"XWAIT " + argument + b"\r\nTURN\r\n") == [501, 250]
    assert host.asked(events.AskTurn) == [events.AskTurn(Turn())]


@pytest.mark.parametrize(
    ("argument", "node"),
    [(b"Leaf.Example", "leaf.example"), (b"@leaf.example", "@leaf.example"), (b"#queue 7", "#queue 7")],
)
def test_etrn_asks_for_a_node(converse: Any, argument: bytes, node: str) -> None:
    host = converse(STRANGER, answers=GRANTED)
    assert host.say(b"ETRN " + argument + b"\r\n") == [253]
    assert host.asked(events.AskStart) == [events.AskStart(node)]


@pytest.mark.parametrize("argument", [b"<leaf>", b"leaf example", b"@", b"@@leaf.example", b"../leaf"])
def test_etrn_for_what_is_no_node_is_501(converse: Any, argument: bytes) -> None:
    host = converse(STRANGER, answers=GRANTED)
    assert host.say(b"ETRN " + argument + b"\r\n") == [501]
    assert not host.asked(events.AskStart)


KEYS = ScramKeys(b"saltsalt", 4096, b"s" * 32, b"k" * 32)
INVITED = Rights(pair=True)


def test_an_invited_host_is_paired_by_its_keys(converse: Any) -> None:
    host = converse(INVITED, answers=GRANTED)
    assert host.say(b"XPAIR " + format_keys(KEYS).encode() + b"\r\n") == [250]
    assert host.asked(events.AskPair) == [events.AskPair(KEYS)]
    assert parse_keys(format_keys(KEYS)) == KEYS


def test_nobody_else_is_and_nothing_is_obeyed_behind_it(converse: Any) -> None:
    line = b"XPAIR " + format_keys(KEYS).encode() + b"\r\n"
    assert converse(PEER).say(line) == [502]
    host = converse(INVITED, answers=GRANTED)
    assert host.say(line + b"NOOP\r\n") == [503]
    assert host.closed and not host.asked(events.AskPair)


WORDS = format_keys(KEYS).split(" ")


@pytest.mark.parametrize(
    "words",
    [
        WORDS[:3],
        [*WORDS, "more"],
        ["!!!", *WORDS[1:]],
        ["c2FsdA==", *WORDS[1:]],  # a salt of 4 octets
        ["A" * 88, *WORDS[1:]],  # of 66
        [WORDS[0], "4095", *WORDS[2:]],
        [WORDS[0], "500001", *WORDS[2:]],
        [WORDS[0], "04096", *WORDS[2:]],
        [WORDS[0], "many", *WORDS[2:]],
        [*WORDS[:2], "c2FsdA==", WORDS[3]],
        [*WORDS[:2], "!", WORDS[3]],
        [*WORDS[:3], "c2FsdA=="],
        [*WORDS[:3], "!"],
    ],
)
def test_keys_that_are_none_are_501(converse: Any, words: list[str]) -> None:
    host = converse(INVITED, answers=GRANTED)
    assert host.say(b"XPAIR " + " ".join(words).encode() + b"\r\n") == [501]
    assert not host.asked(events.AskPair)


def test_turns_that_are_refused_without_end_end_the_channel(converse: Any) -> None:
    host = converse(PEER, limits=Limits(commands=5), answers={events.AskTurn: Reply(453, "Nothing for you")})
    said = host.say(b"")
    for _ in range(10):
        said += host.say(b"ATRN\r\n")
    assert said == [453] * 5 + [421] and host.closed


# ------------------------------------------------------------------ the sender

LETTER = Letter(
    Mode.MAIL, Path("smith", "hub.example"), (Recipient(Path("jones", "leaf.example")),), Body.of(b"Hi\r\n")
)


class Call:
    """A Sender whose letters come when they are given."""

    def __init__(self, plan: Plan) -> None:
        self.sender = Sender(plan)
        self.last: list[events.SenderEvent] = []

    def hear(self, *lines: str) -> bytes:
        """What is written when the last of the lines was heard."""
        for line in lines:
            self.sender.feed(line.encode() + b"\r\n")
            self.look()
        return self.words

    def look(self) -> None:
        self.last = []
        while (event := self.sender.next()) is not None:
            self.last.append(event)

    @property
    def words(self) -> bytes:
        return b"".join(event.octets for event in self.last if isinstance(event, events.Write))

    def give(self, letter: Letter | None) -> bytes:
        self.sender.give(letter)
        self.look()
        return self.words


def called(plan: Plan, *keywords: str) -> Call:
    call = Call(plan)
    hello = [f"250-{word}" for word in ("hub.example", *keywords)]
    call.hear("220 hub", *hello, "250 HELP")
    return call


@pytest.mark.parametrize(("reply", "wait"), [("250 OK", 60.0), ("500 what", 0.0), ("501 no", 0.0)])
def test_an_open_line_is_asked_for_where_it_is_offered(reply: str, wait: float) -> None:
    call = called(Plan("leaf.example", turn="ATRN leaf.example", wait=60), "XWAIT 1 3600")
    assert call.give(None) == b"XWAIT 60\r\n"
    assert call.hear(reply) == b"ATRN leaf.example\r\n"
    call.hear("250 OK")
    assert call.last == [Ended(Ending.TURNED, Reply(250, "OK"), wait)]


def test_and_only_there() -> None:
    call = called(Plan("leaf.example", turn="TURN", wait=60))
    assert call.give(None) == b"TURN\r\n"


def test_etrn_is_said_for_each_node_and_the_last_reply_is_told() -> None:
    call = called(Plan("leaf.example", start=("leaf.example", "@leaf.example")))
    assert call.give(None) == b"ETRN leaf.example\r\n"
    assert call.hear("251 nothing") == b"ETRN @leaf.example\r\n"
    assert call.hear("253 3 pending") == b"QUIT\r\n"
    call.hear("221 bye")
    assert call.last == [Ended(Ending.DONE, Reply(253, "3 pending"))]


def test_an_invitation_is_used_and_nothing_else_is_done() -> None:
    call = called(Plan("leaf.example", pair=format_keys(KEYS), turn="TURN"))
    assert call.words == b"XPAIR " + format_keys(KEYS).encode() + b"\r\n"
    assert call.hear("250 Paired as leaf") == b"QUIT\r\n"
    call.hear("221 bye")
    assert call.last == [Ended(Ending.DONE, Reply(250, "Paired as leaf"))]


def test_a_peer_that_wants_an_open_line_says_hello_again_once_it_has_proved_itself() -> None:
    call = called(
        Plan("leaf.example", name="leaf", secret="x", private=True, wait=60, turn="TURN"), "AUTH PLAIN"
    )
    assert call.words.startswith(b"AUTH PLAIN ")
    assert call.hear("235 welcome") == b"EHLO leaf.example\r\n"
    call.hear("250-hub.example", "250 XWAIT 1 3600")
    assert call.give(None) == b"XWAIT 60\r\n"


def test_while_there_is_no_letter_the_peer_is_asked_for_a_sign_of_life() -> None:
    call = called(Plan("hub.example"))
    call.sender.ask_for_life()
    call.sender.ask_for_life()  # one question at a time
    call.look()
    assert call.words == b"NOOP\r\n" and call.sender.awaits_life
    assert call.hear("250 OK") == b"" and not call.sender.awaits_life
    assert call.give(LETTER).startswith(b"MAIL FROM:")
    call.sender.ask_for_life()  # nobody waits for a letter now
    call.look()
    assert call.words == b"" and not call.sender.awaits_life


def test_a_letter_that_comes_before_the_sign_of_life_waits_for_it() -> None:
    call = called(Plan("hub.example"))
    call.sender.ask_for_life()
    assert call.give(LETTER) == b"NOOP\r\n"
    with pytest.raises(ValueError):
        call.sender.give(LETTER)
    assert call.hear("250 OK").startswith(b"MAIL FROM:")


@pytest.mark.parametrize("replies_", ["421 going down", "garbage"])
def test_a_peer_that_gives_none_has_ended_the_channel(replies_: str) -> None:
    call = called(Plan("hub.example"))
    call.sender.ask_for_life()
    call.look()
    call.hear(replies_)
    assert isinstance(call.last[-1], Ended) and call.last[-1].ending is Ending.BROKEN


def test_two_replies_to_one_noop_break_the_channel() -> None:
    call = called(Plan("hub.example"))
    call.sender.ask_for_life()
    call.look()
    call.sender.feed(b"250 OK\r\n250 canned\r\n")
    call.look()
    assert isinstance(call.last[-1], Ended) and call.last[-1].ending is Ending.BROKEN
