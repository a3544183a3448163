"""Calling: when, once at a time, with what is to go out, and with clear words when it does not work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mailnode.access.rules import Access
from mailnode.channel.receiving import Doors
from mailnode.commands.dial import summary
from mailnode.peering.calls import FIRST, Call
from mailnode.peering.conversation import QUIET
from mailnode.peering.dialing import GATHER, BusyError, Dialing
from mailnode.peering.peers import Peer

HUB = Call("hub", "tcp:hub:25", outbound=False)
EHLO = "250-hub\r\n250-XWAIT 1 3600\r\n250 SIZE\r\n"
MAIL = (
    "MAIL FROM:<a@b.edu>\r\n",
    "RCPT TO:<jones@hub.edu>\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\nhi\r\n.\r\n",
)


class Transport(StringTransport):
    """Closes as a real one does: its protocol hears of it a moment later."""

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock
        self.protocol: Any = None

    def loseConnection(self) -> None:
        self.clock.callLater(0, self.protocol.connectionLost, Failure(ConnectionDone()))

    abortConnection = loseConnection


class Connection:
    """One connection that was asked for; the test plays the host that was called."""

    def __init__(self, factory: Any, clock: Any) -> None:
        self.factory = factory
        self.clock = clock
        self.cancelled = False
        self.connected: Deferred[Any] = Deferred(self._cancel)
        self.transport = Transport(clock)
        self.protocol: Any = None
        self.closed = False

    def _cancel(self, _: object) -> None:
        self.cancelled = True

    def refuse(self) -> None:
        self.connected.errback(Failure(ConnectionRefusedError("nobody there")))

    def up(self, *replies: str, address: str = "192.0.2.1") -> Connection:
        """The connection is there, and says this, one after another."""
        self.protocol = self.factory.buildProtocol(IPv4Address("TCP", address, 25))
        self.transport.protocol = self.protocol
        lost = self.protocol.connectionLost

        def gone(reason: Any) -> None:
            if not self.closed:
                self.closed = True
                lost(reason)

        self.protocol.connectionLost = gone
        self.protocol.makeConnection(self.transport)
        self.connected.callback(self.protocol)
        for reply in replies:
            self.say(reply)
        return self

    def say(self, text: str) -> list[str]:
        """What comes back, in lines."""
        self.transport.clear()
        self.protocol.dataReceived(text.encode())
        self.clock.advance(0)
        return self.said()

    def said(self) -> list[str]:
        self.clock.advance(0)
        lines: list[str] = self.transport.value().decode().split("\r\n")[:-1]
        return lines

    def cut(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionLost()))


class Desk:
    """A dialing node, and the connections that it has asked for."""

    def __init__(self, house: Any) -> None:
        self.house = house
        self.clock = house.clock
        self.connections: list[Connection] = []
        self.full = False
        self.random = 0.5
        access = Access(["127.0.0.0/8"], "none")
        self.doors = Doors("hub.edu", access, house.routing, house.intake)
        self.dialing = Dialing(
            house.peering.outgoing, self._endpoint, self.clock, lambda: self.random, is_full=lambda: self.full
        )
        house.peering.outgoing_held = self.dialing.outgoing_held

    def _endpoint(self, text: str) -> Any:
        desk = self

        class Endpoint:
            def connect(self, factory: Any) -> Deferred[Any]:
                desk.connections.append(Connection(factory, desk.clock))
                return desk.connections[-1].connected

        if text == "bad":
            raise ValueError("Unknown endpoint type")
        return Endpoint()

    def use(self, *calls: Call, **how: bool) -> None:
        self.dialing.use(calls, self.doors, None, **how)

    def dial(self, name: str = "hub") -> list[Any]:
        """What will have come of it."""
        results: list[Any] = []
        self.dialing.dial(name).addBoth(results.append)
        return results

    def open_line(self) -> Connection:
        """The last connection, turned and idle."""
        connection = self.connections[-1].up("220 hub\r\n", EHLO)
        assert connection.said() == ["XWAIT 30"]
        assert connection.say("250 ok\r\n") == ["TURN"]
        assert connection.say("250 ok\r\n")[0].startswith("220 hub.edu")
        assert connection.say("EHLO hub\r\n")[0].startswith("250-hub.edu")
        self.clock.advance(QUIET)
        self.clock.advance(QUIET)
        return connection


@pytest.fixture
def desk(house: Any) -> Desk:
    return Desk(house)


# ------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("changes", "address", "told"),
    [
        ({}, "192.0.2.1", False),
        ({}, "127.0.0.1", True),
        ({"tls": "none"}, "192.0.2.1", False),
        ({"endpoint": "ssl:hub:465"}, "192.0.2.1", False),
    ],
)
def test_the_password_itself_is_said_to_no_host_that_may_be_another(
    desk: Desk, changes: dict[str, Any], address: str, told: bool
) -> None:
    desk.use(replace(HUB, user="leaf", secret="open sesame", **changes))
    results = desk.dial()
    connection = desk.connections[0].up(address=address)
    connection.say("220 hub\r\n")
    said = connection.say("250-hub\r\n250 AUTH PLAIN LOGIN\r\n")
    if told:
        assert said == ["AUTH PLAIN AGxlYWYAb3BlbiBzZXNhbWU="]
        return
    assert said == ["QUIT"]
    connection.say("221 bye\r\n")
    connection.cut()
    assert results[0].reply.code == 504 and 'tls = "verified"' in str(results[0].reply)


# ------------------------------------------------------------------------ when


def test_nobody_is_called_without_being_told_to(desk: Desk) -> None:
    desk.use(HUB)
    desk.dialing.start()
    desk.clock.advance(1e6)
    assert desk.connections == []
    with pytest.raises(KeyError):
        desk.dial("else")[0].raiseException()


def test_a_call_is_made_on_schedule_with_jitter(desk: Desk) -> None:
    desk.use(replace(HUB, every=900.0))
    desk.dialing.start()
    for number, random in enumerate((0.0, 0.5, 0.999), 1):
        desk.clock.advance(10.0 if number == 1 else 0.0)
        assert len(desk.connections) == number
        desk.random = random
        desk.connections[-1].up("220 hub\r\n", EHLO, "453 You have no mail\r\n", "221 bye\r\n")
        least, most = (0.89, 1.11) if random == 0.5 else (0.89 + 0.2 * random, 0.91 + 0.2 * random)
        desk.clock.advance(least * 900)
        assert len(desk.connections) == number
        desk.clock.advance((most - least) * 900)


def test_a_host_that_cannot_be_reached_is_called_again_with_growing_pauses(desk: Desk) -> None:
    desk.use(replace(HUB, every=60.0))
    desk.dialing.start()
    desk.clock.advance(10.0)
    pauses = []
    for _ in range(9):
        desk.connections[-1].refuse()
        before, count = desk.clock.seconds(), len(desk.connections)
        while len(desk.connections) == count:
            desk.clock.advance(0.5)
        pauses.append(desk.clock.seconds() - before)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_host_that_refuses_us_for_good_is_not_pestered(desk: Desk) -> None:
    desk.use(replace(HUB, every=900.0, user="leaf", secret="wrong"))
    desk.dialing.start()
    desk.clock.advance(10.0)
    desk.connections[0].up("220 hub\r\n", EHLO, "221 bye\r\n")
    desk.clock.advance(800)
    assert len(desk.connections) == 1
    desk.clock.advance(200)
    assert len(desk.connections) == 2


def test_one_call_at_a_time(desk: Desk) -> None:
    desk.use(replace(HUB, every=20.0))
    desk.dialing.start()
    told = desk.dial()
    with pytest.raises(BusyError):
        desk.dial()[0].raiseException()
    desk.clock.advance(1e4)
    assert len(desk.connections) == 1 and told[0].reply.code == 451  # it took too long to connect


def test_a_call_that_is_under_way_is_not_made_twice_when_the_configuration_is_reread(desk: Desk) -> None:
    call = replace(HUB, every=900.0)
    desk.use(call)
    desk.dialing.start()
    desk.clock.advance(10.0)
    connection = desk.connections[0].up("220 hub\r\n")
    desk.use(replace(call, domains=("a.edu",)))
    desk.clock.advance(15.0)
    assert len(desk.connections) == 1
    assert connection.say(EHLO) == ["TURN"]
    connection.say("453 nothing\r\n")
    connection.say("221 bye\r\n")
    desk.clock.advance(1000.0)
    assert len(desk.connections) == 2


def test_nothing_is_called_while_there_is_no_room(desk: Desk) -> None:
    desk.use(HUB)
    desk.full = True
    (how,) = desk.dial()
    assert how.reply.code == 451 and desk.connections == []


def test_a_call_that_needs_tls_is_not_made_without_it(desk: Desk) -> None:
    for call in (replace(HUB, tls="verified"), replace(HUB, fingerprint="sha256:" + "0" * 64)):
        desk.use(call)
        (how,) = desk.dial()
        assert "TLS is required" in str(how.reply) and desk.connections == []


# ------------------------------------------------------------------------ how it goes


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "closed the connection without a greeting"),
        (["421 not now\r\n"], "421 not now"),
        (["554 no\r\n"], "554 no"),
        (["SSH-2.0-OpenSSH\r\n"], "not a reply"),
        (["220 hub\r\n", EHLO, "453 You have no mail\r\n"], "453 You have no mail"),
        (["220 hub\r\n", EHLO, "450 not all yours\r\n"], "450 not all yours"),
        (["220 hub\r\n"], "The connection was lost"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(desk: Desk, said: list[str], words: str) -> None:
    desk.use(HUB)
    told = desk.dial()
    desk.connections[0].up(*said)
    desk.connections[0].cut()
    assert not told[0].turned and words in str(told[0].reply)


def test_a_host_that_hangs_is_given_up(desk: Desk) -> None:
    desk.use(HUB)
    told = desk.dial()
    desk.connections[0].up()
    desk.clock.advance(301)
    assert "did not answer in time" in str(told[0].reply)


def test_nobody_there_and_a_bad_endpoint_are_clear_answers(desk: Desk) -> None:
    desk.use(HUB, replace(HUB, name="bad", endpoint="bad"))
    told = desk.dial()
    desk.connections[0].refuse()
    assert "Cannot connect" in str(told[0].reply)
    assert "Unknown endpoint type" in str(desk.dial("bad")[0].reply)


def test_mail_that_the_host_refuses_is_counted_and_said(desk: Desk) -> None:
    desk.use(replace(HUB, outbound=True))
    desk.house.give("x@hold.edu")
    told = desk.dial()
    connection = desk.connections[0].up("220 hub\r\n", "250 hub\r\n")
    for reply in ("250 ok\r\n", "550 no such user\r\n", "250 ok\r\n", "250 ok\r\n"):
        connection.say(reply)
    connection.say("HELO hub\r\n")
    connection.say("QUIT\r\n")
    how = told[0]
    assert (how.turned, how.given, how.refused) == (True, 0, 1)
    answer = {"turned": True, "given": 0, "refused": 1, "received": 2, "reply": "250 ok", "code": 250}
    said = "hub: mail for 0 recipients given, 1 refused, 2 messages received, the line was turned: 250 ok"
    assert summary("hub", answer)[0].plain == said


def test_our_mail_is_given_first_and_messages_that_come_are_counted(desk: Desk) -> None:
    desk.use(replace(HUB, outbound=True))
    desk.house.give("x@hold.edu")
    told = desk.dial()
    connection = desk.connections[0].up("220 hub\r\n", "250 hub\r\n")
    assert connection.said() == ["MAIL FROM:<smith@usc.edu>"]
    for reply in ("250 ok\r\n", "250 ok\r\n", "354 go\r\n"):
        connection.say(reply)
    assert connection.say("250 ok\r\n") == ["TURN"]
    connection.say("250 ok\r\n")
    assert connection.say("HELO hub\r\n")[0].startswith("250")
    for _ in range(2):
        codes = [connection.say(line)[0][:3] for line in MAIL]
        assert codes == ["250", "250", "354", "250"]
    connection.say("MAIL FROM:<a@b.edu>\r\n")
    connection.say("QUIT\r\n")
    how = told[0]
    assert (how.turned, how.given, how.received, how.open) == (True, 1, 2, False)
    assert len(desk.house.mailbox.messages["jones"]) == 2 and desk.house.queue() == []


def test_etrn_is_said_for_each_domain_and_no_line_is_turned(desk: Desk) -> None:
    desk.use(replace(HUB, command="ETRN", domains=("a.edu", "b.edu")))
    told = desk.dial()
    connection = desk.connections[0].up("220 hub\r\n", EHLO)
    assert connection.said() == ["ETRN a.edu"]
    assert connection.say("250 started\r\n") == ["ETRN b.edu"]
    assert connection.say("253 3 pending\r\n") == ["QUIT"]
    connection.say("221 bye\r\n")
    assert (told[0].turned, told[0].started, told[0].reply.code) == (False, True, 253)


def test_atrn_names_its_domains(desk: Desk) -> None:
    desk.use(replace(HUB, command="ATRN", domains=("a.edu", "b.edu")))
    desk.dial()
    assert desk.connections[0].up("220 hub\r\n", EHLO).said() == ["ATRN a.edu,b.edu"]


# ------------------------------------------------------------------------ the open line

LINE = replace(HUB, wait=30, outbound=True)


@pytest.fixture
def line(desk: Desk) -> Connection:
    desk.use(LINE)
    desk.dialing.start()
    desk.clock.advance(FIRST)
    return desk.open_line()


def test_an_open_line_is_called_for_at_once_and_stays(desk: Desk, line: Connection) -> None:
    for _ in range(100):
        assert line.say("NOOP\r\n")[0].startswith("250")
        desk.clock.advance(30)
    assert not line.closed and desk.connections == [line]


@pytest.mark.parametrize(
    ("changes", "others_alone", "stays"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"secret": "another"}, True, False),
        ({"domains": ("more.edu",), "command": "ATRN"}, True, False),
    ],
)
@pytest.mark.parametrize("when", ["open", "about to be"])
def test_an_open_line_goes_on_when_nothing_has_changed_that_concerns_it(
    desk: Desk, changes: dict[str, Any], others_alone: bool, stays: bool, when: str
) -> None:
    desk.use(LINE)
    desk.dialing.start()
    desk.clock.advance(FIRST)
    if when == "open":
        line = desk.open_line()
    desk.use(replace(LINE, **changes), replace(LINE, name="else", wait=0), others_alone=others_alone)
    if when == "about to be":
        line = desk.open_line()
    desk.clock.advance(0)
    assert line.closed is not stays
    desk.clock.advance(FIRST)
    assert len(desk.connections) == 1 + line.closed


def test_a_line_that_goes_on_brings_mail_by_the_new_configuration(desk: Desk, line: Connection) -> None:
    assert line.say(MAIL[0]) == ["250 2.1.0 OK"]
    assert line.say("RCPT TO:<x@late.edu>\r\n")[0].startswith("550")
    line.say("RSET\r\n")
    desk.house.reread(*desk.house.peers, Peer("late", ("late.edu",)))
    desk.doors = replace(desk.doors, intake=desk.house.new_intake())
    desk.use(LINE, others_alone=True)
    line.say(MAIL[0])
    assert line.say("RCPT TO:<x@late.edu>\r\n")[0].startswith("250")


def test_who_asks_for_the_call_is_told_when_the_line_is_open_and_idle(desk: Desk) -> None:
    desk.use(LINE)
    told = desk.dial()
    connection = desk.connections[0].up("220 hub\r\n", EHLO, "250 ok\r\n", "250 ok\r\n", "HELO hub\r\n")
    desk.clock.advance(QUIET / 2)
    for text in MAIL[:2]:
        connection.say(text)
    desk.clock.advance(QUIET)
    desk.clock.advance(QUIET)
    desk.clock.advance(QUIET)
    assert told == []
    for text in MAIL[2:]:
        connection.say(text)
    desk.clock.advance(QUIET)
    assert (told[0].turned, told[0].open, told[0].received) == (True, True, 1)


def test_a_line_without_a_sign_of_life_is_broken_and_called_again(desk: Desk, line: Connection) -> None:
    desk.clock.advance(59 - 2 * QUIET)
    assert not line.closed
    desk.clock.advance(1)
    desk.clock.advance(FIRST)
    assert line.closed and len(desk.connections) == 2


def test_a_line_that_breaks_again_and_again_is_called_with_growing_pauses(
    desk: Desk, line: Connection
) -> None:
    pauses = []
    for _ in range(6):
        line.cut()
        before, count = desk.clock.seconds(), len(desk.connections)
        while len(desk.connections) == count:
            desk.clock.advance(0.5)
        pauses.append(desk.clock.seconds() - before)
        line = desk.open_line()
    assert pauses == [1, 2, 4, 8, 16, 32]
    line.say("NOOP\r\n")
    desk.clock.advance(55)
    line.say("NOOP\r\n")
    desk.clock.advance(30)  # it was steady: the next one is called soon again
    line.cut()
    count = len(desk.connections)
    desk.clock.advance(FIRST)
    assert len(desk.connections) == count + 1


def test_a_host_without_xwait_is_called_on_a_schedule(desk: Desk) -> None:
    desk.use(LINE)
    desk.dialing.start()
    desk.clock.advance(FIRST)
    connection = desk.connections[0].up("220 hub\r\n", "250 hub\r\n")
    assert connection.said() == ["TURN"]
    connection.say("250 ok\r\n")
    connection.say("HELO hub\r\n")
    connection.say("QUIT\r\n")
    desk.clock.advance(800)
    assert len(desk.connections) == 1
    desk.clock.advance(200)
    assert len(desk.connections) == 2


def test_outgoing_mail_goes_by_a_call_of_its_own_while_the_line_is_open(desk: Desk, line: Connection) -> None:
    desk.house.give("x@hold.edu")
    desk.house.give("y@hold.edu")
    desk.clock.advance(GATHER)
    assert len(desk.connections) == 2
    giving = desk.connections[1].up("220 hub\r\n", "250 hub\r\n")
    for _ in range(2):
        assert giving.said() == ["MAIL FROM:<smith@usc.edu>"]
        for reply in ("250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 ok\r\n"):
            giving.say(reply)
    assert giving.said() == ["QUIT"]
    giving.say("221 bye\r\n")
    assert desk.house.queue() == [] and not line.closed
    desk.clock.advance(25)
    assert len(desk.connections) == 2


def test_what_comes_while_a_call_of_its_own_ends_goes_by_the_next_one_at_once(
    desk: Desk, line: Connection
) -> None:
    desk.house.give("x@hold.edu")
    desk.clock.advance(GATHER)
    giving = desk.connections[1].up("220 hub\r\n", "250 hub\r\n")
    for reply in ("250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 ok\r\n"):
        giving.say(reply)
    assert giving.said() == ["QUIT"]
    desk.house.give("y@hold.edu")
    giving.say("221 bye\r\n")
    assert len(desk.connections) == 2
    desk.clock.advance(GATHER)
    assert len(desk.connections) == 3
    next_one = desk.connections[2].up("220 hub\r\n", "250 hub\r\n")
    for reply in ("250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 ok\r\n", "221 bye\r\n"):
        next_one.say(reply)
    assert desk.house.queue() == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_comes_while_the_spool_is_looked_at_in_vain_is_looked_for_again(
    desk: Desk, line: Connection, fails: bool
) -> None:
    claim, waiting = desk.house.spool.claim_held, list[tuple[Deferred[Any], Any]]()

    def slow(*arguments: Any, **options: Any) -> Deferred[Any]:
        """Claims now, and says later what it has found."""
        found: list[Any] = []
        claim(*arguments, **options).addCallback(found.append)
        waiting.append((Deferred(), found[0]))
        return waiting[-1][0]

    desk.house.spool.claim_held = slow
    desk.dialing.outgoing_held()
    desk.clock.advance(GATHER)
    ((told, found),) = waiting
    desk.house.spool.claim_held = claim
    desk.house.give("x@hold.edu")
    if fails:
        told.errback(OSError(5, "Input/output error"))
        for _ in range(40):
            line.say("NOOP\r\n")
            desk.clock.advance(25)
            if len(desk.connections) > 1:
                break
    else:
        told.callback(found)
        desk.clock.advance(GATHER)
    assert len(desk.connections) == 2


def test_mail_for_a_peer_of_ours_is_no_reason_for_a_call(desk: Desk, line: Connection) -> None:
    desk.house.give("b@leaf.edu")
    desk.clock.advance(5)
    assert len(desk.connections) == 1


def test_what_the_host_could_not_take_is_offered_again_later(desk: Desk, line: Connection) -> None:
    desk.house.give("x@hold.edu")
    desk.clock.advance(GATHER)
    giving = desk.connections[1].up("220 hub\r\n", "250 hub\r\n")
    for reply in ("250 ok\r\n", "450 busy\r\n", "250 reset\r\n", "221 bye\r\n"):
        giving.say(reply)
    assert desk.house.queue() == [("x@hold.edu", "held")]
    seconds = 0
    while len(desk.connections) < 3:
        line.say("NOOP\r\n")
        desk.clock.advance(30)
        seconds += 30
    assert 800 < seconds < 1000


def test_told_to_call_while_the_line_is_open_the_node_gives_what_there_is(
    desk: Desk, line: Connection
) -> None:
    (how,) = desk.dial()
    assert how.open and how.reply.code == 250 and len(desk.connections) == 1
    desk.house.give("x@hold.edu")
    told = desk.dial()
    giving = desk.connections[1].up("220 hub\r\n", "250 hub\r\n")
    for reply in ("250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 ok\r\n", "221 bye\r\n"):
        giving.say(reply)
    assert (told[0].given, told[0].open) == (1, True)


def test_a_new_configuration_ends_the_open_line_and_calls_again(desk: Desk, line: Connection) -> None:
    desk.use(LINE)
    assert line.said()[-1].startswith("421") and line.closed
    desk.clock.advance(FIRST)
    assert len(desk.connections) == 2


def test_a_host_that_is_in_the_configuration_no_longer_is_hung_up_on(desk: Desk, line: Connection) -> None:
    desk.use()
    assert line.said()[-1].startswith("421") and line.closed
    desk.clock.advance(1e5)
    assert len(desk.connections) == 1 and desk.dialing.names == []


# ------------------------------------------------------------------------ the end of the node


def test_a_node_that_goes_down_does_not_turn_the_line(desk: Desk, hands: Any) -> None:
    desk.use(replace(HUB, outbound=True, every=900.0))
    desk.house.give("x@hold.edu")
    told = desk.dial()
    connection = desk.connections[0].up("220 hub\r\n", "250 hub\r\n")
    stopped = hands.fired(desk.dialing.stop())
    for reply in ("250 ok\r\n", "250 ok\r\n", "354 go\r\n"):
        connection.say(reply)
    assert stopped == []
    assert connection.say("250 ok\r\n") == ["QUIT"]
    connection.say("221 bye\r\n")
    assert len(stopped) == len(told) == 1 and told[0].given == 1
    desk.clock.advance(1e5)
    assert len(desk.connections) == 1


def test_a_turn_that_was_said_already_ends_with_421(desk: Desk, hands: Any) -> None:
    desk.use(HUB)
    desk.dial()
    connection = desk.connections[0].up("220 hub\r\n", EHLO)
    assert connection.said() == ["TURN"]
    stopped = hands.fired(desk.dialing.stop())
    assert [line[:3] for line in connection.say("250 ok\r\n")] == ["220", "421"]
    assert connection.closed and len(stopped) == 1


def test_an_open_line_ends_with_421_when_the_node_goes_down(desk: Desk, line: Connection, hands: Any) -> None:
    stopped = hands.fired(desk.dialing.stop())
    assert line.said()[-1].startswith("421") and line.closed and len(stopped) == 1
    desk.clock.advance(1e5)
    assert len(desk.connections) == 1


def test_a_node_without_calls_is_down_at_once(desk: Desk, hands: Any) -> None:
    desk.use(HUB)
    assert hands.fired(desk.dialing.stop()) == [None]


def test_a_connection_that_is_being_made_is_given_up(desk: Desk, hands: Any) -> None:
    desk.use(HUB)
    told = desk.dial()
    stopped = hands.fired(desk.dialing.stop())
    assert desk.connections[0].cancelled and len(told) == len(stopped) == 1
