"""The channel: time-outs, drain, back-pressure, counting; clock and transport live in memory."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from zope.interface import implementer

from mailnode.channel.factories import ReceiverFactory, SenderFactory
from mailnode.channel.receiving import Doors
from mailnode.interfaces import IAccess, ICustody, IIntake, ILetters, IPeering, IRouting
from mailnode.mail import (
    Body,
    Client,
    Credentials,
    Letter,
    Mode,
    Outcome,
    Path,
    Recipient,
    Reply,
    Rights,
    Turn,
)
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.script import Plan

OK = Reply(250, "OK")
HERE = IPv4Address("TCP", "192.0.2.1", 1)


@implementer(ICustody)
class Custody:
    def __init__(self, world: World) -> None:
        self.world = world

    def recipient(self, path: Path, *_: object) -> Reply:
        return OK

    def open(self) -> Reply:
        return Reply(354, "go")

    def write(self, piece: bytes) -> Deferred[None] | None:
        self.world.data += piece
        return self.world.full

    def commit(self, hurry: bool = True) -> Deferred[Reply]:
        self.world.committed += 1
        return self.world.answer if self.world.answer is not None else succeed(OK)

    def abort(self) -> None:
        self.world.aborted += 1


@implementer(IAccess, IRouting, IIntake, IPeering)
class World:
    """Every door a receiver needs, and what went through it."""

    def __init__(self) -> None:
        self.data = b""
        self.committed = self.aborted = 0
        self.full: Deferred[None] | None = None
        self.answer: Deferred[Reply] | None = None
        self.letters: Letters | None = None
        self.password: Deferred[str | Reply] = Deferred()

    def rights(self, client: Client) -> Rights:
        return Rights(tuple(Mode), relay=True, turn=self.letters is not None, mechanisms=("PLAIN",))

    def authenticate(self, client: Client, credentials: Credentials) -> Deferred[str | Reply]:
        return self.password

    def verify(self, text: str, rights: Rights) -> Reply:
        return OK

    expand = verify

    def begin(self, *_: object) -> Any:
        return Custody(self)

    def grant(self, client: Client, turn: Turn) -> Any:
        return self.letters


@implementer(ILetters)
class Letters:
    def __init__(self, *letters: Letter) -> None:
        self.waiting = list(letters)
        self.results: list[Outcome] = []
        self.closed = 0

    def next(self) -> Letter | None:
        return self.waiting.pop(0) if self.waiting else None

    at_hand = next

    def settle(self, letter: Letter, results: Any, host: str) -> None:
        self.results += [result.outcome for result in results.values()]

    def returned(self, letter: Letter) -> None:
        self.waiting.insert(0, letter)

    def close(self) -> None:
        self.closed += 1


class Line:
    """A receiver's channel with a transport in memory."""

    def __init__(self, world: World, **options: Any) -> None:
        self.clock = Clock()
        doors = Doors("mit.edu", world, world, world, world, patience=300)
        self.factory = ReceiverFactory(doors, self.clock, **options)
        self.open()

    def open(self) -> StringTransportWithDisconnection:
        self.channel = self.factory.buildProtocol(HERE)
        self.transport = StringTransportWithDisconnection()
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)
        return self.transport

    def say(self, octets: bytes) -> bytes:
        self.transport.clear()
        self.channel.dataReceived(octets)
        return self.transport.value()

    @property
    def closed(self) -> bool:
        return not self.transport.connected


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def line(world: World) -> Line:
    return Line(world)


OPENING = b"HELO a\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n"


def letter(octets: bytes = b"hi\r\n", *names: str) -> Letter:
    recipients = tuple(Recipient(Path(name, "usc.edu")) for name in names or ("jones",))
    return Letter(Mode.MAIL, Path("smith", "mit.edu"), recipients, Body.of(octets))


def test_a_silent_client_is_told_421_after_five_minutes_and_not_before(line: Line) -> None:
    line.clock.advance(200)
    line.say(b"NOOP\r\n")
    line.transport.clear()
    line.clock.advance(299)
    assert line.transport.value() == b"" and not line.closed
    line.clock.advance(2)
    assert line.transport.value().startswith(b"421 mit.edu Timeout") and line.closed
    assert line.clock.getDelayedCalls() == []


def test_a_client_that_times_out_in_mail_data_leaves_nothing(world: World, line: Line) -> None:
    line.say(OPENING + b"half a mess")
    line.clock.advance(301)
    assert world.aborted == 1 and world.committed == 0 and line.closed


def test_a_client_that_goes_away_in_mail_data_leaves_nothing(world: World, line: Line) -> None:
    line.say(OPENING + b"half a mess")
    line.transport.loseConnection()
    assert world.aborted == 1 and world.committed == 0


def test_our_own_slowness_is_not_the_clients_time_out(world: World, line: Line) -> None:
    world.answer = Deferred()
    assert line.say(OPENING + b"hi\r\n.\r\n").endswith(b"354 go\r\n")
    line.clock.advance(900)
    assert not line.closed
    line.transport.clear()
    world.answer.callback(OK)
    assert line.transport.value() == b"250 OK\r\n"


def test_replies_to_one_arrival_leave_in_one_write_and_in_order(world: World, line: Line) -> None:
    world.answer = Deferred()
    line.say(OPENING + b"hi\r\n.\r\nNOOP\r\nFOO\r\n")
    line.transport.clear()
    world.answer.callback(Reply(250, "safe"))
    assert line.transport.io.getvalue().split(b"\r\n")[:3] == [
        b"250 safe",
        b"250 OK",
        b"500 Syntax error, command unrecognized",
    ]


def test_the_transport_is_paused_while_the_spool_cannot_keep_up(world: World, line: Line) -> None:
    world.full = Deferred()
    line.say(OPENING)
    line.say(b"x" * 1000)
    assert line.transport.producerState == "paused"
    full, world.full = world.full, None
    full.callback(None)
    assert line.transport.producerState == "producing"


def test_the_transport_is_paused_when_much_arrives_behind_an_open_question(world: World, line: Line) -> None:
    world.answer = Deferred()
    line.say(OPENING + b"hi\r\n.\r\n")
    line.say((b"NOOP " + b"x" * 1000 + b"\r\n") * 100)
    assert line.transport.producerState == "paused"
    world.answer.callback(OK)
    assert line.transport.producerState == "producing"


def test_a_question_that_fails_is_451_and_the_channel_goes_on(world: World, line: Line) -> None:
    world.answer = Deferred()
    line.say(OPENING + b"hi\r\n.\r\n")
    line.transport.clear()
    world.answer.errback(RuntimeError("disk on fire"))
    assert line.transport.value().startswith(b"451 ")
    assert line.say(b"NOOP\r\n") == b"250 OK\r\n"


def test_drain_ends_an_idle_channel_at_once(line: Line) -> None:
    line.say(b"HELO a\r\n")
    line.transport.clear()
    gone = line.factory.drain()
    assert line.transport.value().startswith(b"421 mit.edu Service is going down") and line.closed
    assert gone.called


def test_drain_lets_a_transaction_finish(world: World, line: Line) -> None:
    world.answer = Deferred()
    line.say(OPENING + b"hi")
    gone = line.factory.drain()
    assert not line.closed
    line.say(b" there\r\n.\r\n")
    assert not gone.called
    line.transport.clear()
    world.answer.callback(OK)
    assert line.transport.value().startswith(b"250 OK\r\n421 mit.edu") and line.closed and gone.called
    assert world.data == b"hi there\r\n" and world.committed == 1


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("connections", b"Too many connections,"),
        ("connections_per_host", b"Too many connections from your host"),
    ],
)
def test_one_connection_too_many_is_421_and_a_place_becomes_free(
    world: World, limit: str, words: bytes
) -> None:
    line = Line(world, **{limit: 1})
    first = line.transport
    second = line.open()
    assert second.value().startswith(b"421 mit.edu " + words) and not second.connected
    first.loseConnection()
    assert line.open().value().startswith(b"220 ")


def test_a_password_that_is_checked_slowly_lets_nothing_overtake_it(world: World, line: Line) -> None:
    line.say(b"EHLO a\r\n")
    assert line.say(b"AUTH PLAIN AGEAYg==\r\nNOOP\r\n") == b""
    world.password.callback("leaf")
    assert line.transport.value() == b"235 2.7.0 Authentication succeeded\r\n250 2.0.0 OK\r\n"


def test_a_granted_turn_makes_this_host_the_sender(world: World) -> None:
    world.letters = Letters(letter(b".dot\r\n"))
    line = Line(world)
    line.say(b"HELO leaf\r\n")
    assert line.say(b"TURN\r\n") == b"250 OK\r\n"
    assert line.say(b"220 leaf\r\n") == b"EHLO mit.edu\r\n"
    assert line.say(b"500 what\r\n") == b"HELO mit.edu\r\n"
    assert line.say(b"250 leaf\r\n") == b"MAIL FROM:<smith@mit.edu>\r\n"
    assert line.say(b"250 ok\r\n") == b"RCPT TO:<jones@usc.edu>\r\n"
    assert line.say(b"250 ok\r\n") == b"DATA\r\n"
    assert line.say(b"354 go\r\n") == b"..dot\r\n.\r\n"
    assert line.say(b"250 ok\r\n") == b"QUIT\r\n"
    assert world.letters.results == [Outcome.DELIVERED]
    line.say(b"221 bye\r\n")
    assert line.closed and world.letters.closed == 1


def test_a_peer_that_never_greets_after_the_turn_costs_nothing(world: World) -> None:
    world.letters = Letters(letter())
    line = Line(world)
    line.say(b"HELO leaf\r\n")
    line.say(b"TURN\r\n")
    line.clock.advance(301)
    assert line.closed and world.letters.results == [] and len(world.letters.waiting) == 1


# ------------------------------------------------------------------------ the sender


class Call:
    """A sender's channel with a transport in memory."""

    def __init__(self, *letters: Letter, **options: Any) -> None:
        self.clock = Clock()
        self.letters = Letters(*letters)
        self.ended: list[Ended] = []
        factory = SenderFactory(
            Plan("mit.edu", turn="TURN" if "doors" in options else ""),
            self.letters,
            self.clock,
            self.ended.append,
            **options,
        )
        self.channel = factory.buildProtocol(HERE)
        self.transport = StringTransportWithDisconnection()
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    say = Line.say


def test_a_letter_whose_channel_breaks_is_tried_again_and_one_not_begun_is_not_touched() -> None:
    call = Call(letter(), letter())
    for reply in (b"220 x\r\n", b"250 x\r\n", b"250 x\r\n"):
        call.say(reply)
    call.transport.loseConnection()
    assert call.letters.results == [Outcome.LATER] and len(call.letters.waiting) == 1
    assert [how.ending for how in call.ended] == [Ending.BROKEN]
    assert call.clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("replies", "patience"),
    [
        ([], 300),  # greeting
        ([b"220 x\r\n", b"250 x\r\n"], 300),  # MAIL
        ([b"220 x\r\n", b"250 x\r\n", b"250 x\r\n", b"250 x\r\n"], 120),  # DATA
        ([b"220 x\r\n", b"250 x\r\n", b"250 x\r\n", b"250 x\r\n", b"354 x\r\n"], 600),  # the end of it
    ],
)
def test_the_waits_for_replies_are_those_of_rfc_1123(replies: list[bytes], patience: int) -> None:
    call = Call(letter())
    for reply in replies:
        call.say(reply)
    call.clock.advance(patience - 1)
    assert call.transport.connected
    call.clock.advance(2)
    assert not call.transport.connected
    assert call.ended[0].reply.text == "The host did not answer in time"


def test_a_large_body_is_streamed_as_fast_as_the_transport_takes_it(tmp_path: Any) -> None:
    file = tmp_path / "body"
    file.write_bytes((b"." * 70 + b"\r\n") * 5000)
    big = Letter(
        Mode.MAIL, Path("a", "b"), (Recipient(Path("c", "d")),), Body(file.stat().st_size, None, str(file))
    )
    call = Call(big)
    for reply in (b"220 x\r\n", b"250 x\r\n", b"250 x\r\n", b"250 x\r\n"):
        call.say(reply)
    call.transport.clear()
    call.channel.dataReceived(b"354 go\r\n")
    assert call.transport.value() == (b"." * 71 + b"\r\n") * 5000 + b".\r\n"
    assert call.say(b"250 ok\r\n") == b"QUIT\r\n"
    assert call.letters.results == [Outcome.DELIVERED]


def test_a_body_that_cannot_be_read_breaks_the_channel_before_its_end(tmp_path: Any) -> None:
    lost = Letter(
        Mode.MAIL, Path("a", "b"), (Recipient(Path("c", "d")),), Body(9, None, str(tmp_path / "no"))
    )
    call = Call(lost)
    for reply in (b"220 x\r\n", b"250 x\r\n", b"250 x\r\n", b"250 x\r\n"):
        call.say(reply)
    call.say(b"354 go\r\n")
    assert not call.transport.connected and b"\r\n.\r\n" not in call.transport.value()
    assert call.letters.results == [Outcome.LATER]


def test_after_our_turn_the_host_has_a_receiver_with_a_strangers_view(world: World) -> None:
    doors = Doors("mit.edu", world, world, world, world)
    call = Call(doors=doors)
    call.say(b"220 hub\r\n")
    assert call.say(b"250 hub\r\n") == b"TURN\r\n"
    assert call.say(b"250 ok\r\n") == b"220 mit.edu Simple Mail Transfer Service Ready\r\n"
    assert call.say(b"HELO hub\r\n") == b"250 mit.edu\r\n"
    assert call.say(b"QUIT\r\n").startswith(b"221 ") and not call.transport.connected
    assert [how.ending for how in call.ended] == [Ending.TURNED]


def test_octets_behind_the_250_of_our_turn_are_not_obeyed(world: World) -> None:
    call = Call(doors=Doors("mit.edu", world, world, world, world))
    call.say(b"220 hub\r\n")
    call.say(b"250 hub\r\n")
    assert call.say(b"250 ok\r\nEHLO hub\r\nMAIL FROM:<a@b.c>\r\n") == b""
    assert not call.transport.connected and call.ended[0].ending is Ending.BROKEN
