"""The relay and TLS: what goes without it, what waits, and that nothing is opened when nothing may be."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from mailnode.channel.tls import ClientTls, UntrustedError
from mailnode.delivery.relay import PLAIN_HOSTS, Line, Relay
from mailnode.interfaces import Exchanger
from mailnode.mail import Body, Hop, Letter, Mode, Outcome, Path, Recipient, Reply, Result

JONES = Recipient(Path("jones", "usc.example"))
REFUSED_HANDSHAKE = SSL.Error([("SSL routines", "", "wrong version number")])


class Wire(StringTransport):
    """A connection to a host of the test's own."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        self.protocol: Any = None
        self.tls = False

    def write(self, data: bytes) -> None:
        self.host.hears(self, data)

    def startTLS(self, creator: object) -> None:
        self.tls = True
        directlyProvides(self, ISSLTransport)
        self.host.handshakes += 1
        if self.host.handshake is not None:
            self.host.clock.callLater(0, self.lose, Failure(self.host.handshake))

    def lose(self, reason: Failure) -> None:
        if self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            protocol.connectionLost(reason)

    def loseConnection(self) -> None:
        self.host.clock.callLater(0, self.lose, Failure(ConnectionError("closed")))

    abortConnection = loseConnection


class Host:
    """Answers every command with success; `handshake` is what TLS fails with."""

    def __init__(self, clock: Clock, offers: bool = True, handshake: Exception | None = None) -> None:
        self.clock = clock
        self.offers = offers
        self.handshake = handshake
        self.handshakes = 0
        self.mails: list[bool] = []  # whether each came by TLS
        self.in_data = False
        self.calls = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        self.calls += 1
        wire = Wire(self)
        wire.protocol = factory.buildProtocol(None)
        wire.protocol.makeConnection(wire)
        self.clock.callLater(0, self.says, wire, "220 usc.example")
        return succeed(wire.protocol)

    def says(self, wire: Wire, line: str) -> None:
        if wire.protocol is not None:
            wire.protocol.dataReceived(line.encode() + b"\r\n")

    def hears(self, wire: Wire, data: bytes) -> None:
        for line in data.decode().split("\r\n")[:-1]:
            if self.in_data:
                if line == ".":
                    self.in_data = False
                    self.clock.callLater(0, self.says, wire, "250 taken")
                continue
            verb = line.split(" ")[0]
            reply = {"DATA": "354 go", "STARTTLS": "220 go", "QUIT": "221 bye"}.get(verb, "250 OK")
            if verb == "EHLO" and self.offers and not wire.tls:
                reply = "250-usc.example\r\n250 STARTTLS"
            if verb == "MAIL":
                self.mails.append(wire.tls)
            self.in_data = verb == "DATA"
            self.clock.callLater(0, self.says, wire, reply)


class World:
    """A relay, and the hosts that it can call, in the order in which it is told of them."""

    def __init__(self, *hosts: Host, tls: ClientTls | None, full: bool = False) -> None:
        self.clock = hosts[0].clock
        self.hosts = {f"tcp:host{number}:25": host for number, host in enumerate(hosts)}
        self.full = full
        self.relay = Relay(
            "mit.example", self, self.hosts.__getitem__, self.clock, tls=tls, is_full=lambda: self.full
        )

    def exchangers(self, hop: Hop) -> Deferred[Any]:
        return succeed(
            [Exchanger(endpoint, endpoint.split(":")[1], "usc.example") for endpoint in self.hosts]
        )

    def give(self, tls: str) -> Result:
        letter = Letter(Mode.MAIL, Path("smith", "mit.example"), (JONES,), Body.of(b"text\r\n"))
        told: list[Any] = []
        self.relay.deliver(Hop("usc.example", tls=tls), letter).addCallback(told.append)
        for _ in range(100):
            self.clock.advance(0)
        (results,) = told
        return results[JONES]


@pytest.fixture(scope="module")
def client() -> ClientTls:
    return ClientTls()


@pytest.mark.parametrize("tls", ["opportunistic", "required", "verified"])
def test_mail_goes_by_tls_where_it_is_offered(client: ClientTls, tls: str) -> None:
    host = Host(Clock())
    assert World(host, tls=client).give(tls).outcome is Outcome.DELIVERED
    assert (host.calls, host.handshakes, host.mails) == (1, 1, [True])


def test_a_hop_without_tls_is_not_asked_for_it(client: ClientTls) -> None:
    host = Host(Clock())
    assert World(host, tls=client).give("none").outcome is Outcome.DELIVERED
    assert (host.handshakes, host.mails) == (0, [False])


def test_a_host_whose_handshake_fails_is_called_again_without(client: ClientTls) -> None:
    host = Host(Clock(), handshake=REFUSED_HANDSHAKE)
    world = World(host, tls=client)
    assert world.give("opportunistic").outcome is Outcome.DELIVERED
    assert (host.calls, host.handshakes, host.mails) == (2, 1, [False])


@pytest.mark.parametrize("tls", ["required", "verified"])
@pytest.mark.parametrize(
    ("host", "status", "why"),
    [
        (Host(Clock(), handshake=REFUSED_HANDSHAKE), "4.7.5", "wrong version number"),
        (Host(Clock(), handshake=UntrustedError("The certificate has expired")), "4.7.5", "has expired"),
        (Host(Clock(), offers=False), "4.7.4", "offers none"),
    ],
)
def test_where_tls_is_wanted_the_mail_waits_and_the_reply_says_why(
    client: ClientTls, host: Host, tls: str, status: str, why: str
) -> None:
    result = World(host, tls=client).give(tls)
    assert (result.outcome, result.reply.code, result.reply.status) == (Outcome.LATER, 451, status)
    assert why in str(result.reply) and result.host == "host0"
    assert host.mails == []


def test_the_next_exchanger_is_tried_when_one_has_no_safe_connection(client: ClientTls) -> None:
    clock = Clock()
    broken, sound = Host(clock, handshake=REFUSED_HANDSHAKE), Host(clock)
    assert World(broken, sound, tls=client).give("required").outcome is Outcome.DELIVERED
    assert (broken.mails, sound.mails) == ([], [True])


@pytest.mark.parametrize(
    ("tls", "outcome"), [("required", Outcome.LATER), ("opportunistic", Outcome.DELIVERED)]
)
def test_a_relay_that_has_no_tls_itself_gives_nothing_to_hops_that_need_it(
    tls: str, outcome: Outcome
) -> None:
    host = Host(Clock())
    assert World(host, tls=None).give(tls).outcome is outcome
    assert host.handshakes == 0 and host.calls == (outcome is Outcome.DELIVERED)


def test_nothing_is_opened_while_the_node_is_full_and_the_mail_waits(client: ClientTls) -> None:
    host = Host(Clock())
    world = World(host, tls=client, full=True)
    result = world.give("opportunistic")
    assert (result.outcome, result.reply.code) == (Outcome.LATER, 451)
    assert host.calls == 0
    world.full = False
    assert world.give("opportunistic").outcome is Outcome.DELIVERED


def test_a_hop_remembers_hosts_without_tls_only_while_there_is_mail_for_it(client: ClientTls) -> None:
    host = Host(Clock(), handshake=REFUSED_HANDSHAKE)
    world = World(host, tls=client)
    world.give("opportunistic")
    host.handshake = None
    assert world.give("opportunistic").outcome is Outcome.DELIVERED
    assert host.mails == [False, True]
    assert len(Line(Hop("x")).plain) == 0 < PLAIN_HOSTS


def test_the_open_channels_are_counted(client: ClientTls) -> None:
    world = World(Host(Clock()), tls=client)
    assert world.relay.open == 0
    letter = Letter(Mode.MAIL, Path("smith", "mit.example"), (JONES,), Body.of(b"text\r\n"))
    world.relay.deliver(Hop("usc.example"), letter)
    assert world.relay.open == 1
    for _ in range(100):
        world.clock.advance(0)
    assert world.relay.open == 0


def test_a_refusal_that_has_nothing_to_do_with_tls_is_not_called_unsafe(client: ClientTls) -> None:
    class Refusing(Host):
        def connect(self, factory: Any) -> Deferred[Any]:
            wire = Wire(self)
            wire.protocol = factory.buildProtocol(None)
            wire.protocol.makeConnection(wire)
            self.clock.callLater(0, self.says, wire, "450 not now")
            return succeed(wire.protocol)

    result = World(Refusing(Clock()), tls=client).give("required")
    assert result.reply == Reply(450, "not now")
