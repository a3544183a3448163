"""The gate in front of a listener: who is turned away hears why and costs nothing."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransportWithDisconnection
from zope.interface.verify import verifyObject

from mailnode.channel.gate import Gate

HERE = IPv4Address("TCP", "192.0.2.1", 25)


class Inner(Factory):
    protocol = Protocol
    noisy = False
    started = 0

    def startFactory(self) -> None:
        self.started += 1

    def stopFactory(self) -> None:
        self.started -= 1


def test_with_room_the_listener_gets_the_connection() -> None:
    inner = Inner()
    gate = Gate(inner, "mit.example", lambda: "")
    assert verifyObject(IProtocolFactory, gate)
    protocol = gate.buildProtocol(HERE)
    assert isinstance(protocol, Protocol) and protocol.factory is inner


def test_without_room_it_hears_421_and_is_closed() -> None:
    protocol = Gate(Inner(), "mit.example", lambda: "Too many connections").buildProtocol(HERE)
    assert protocol is not None
    wire = StringTransportWithDisconnection()
    wire.protocol = protocol
    protocol.makeConnection(wire)
    assert wire.value() == b"421 mit.example Too many connections, closing transmission channel\r\n"
    assert not wire.connected


def test_where_tls_is_spoken_from_the_start_nothing_is_said_in_the_clear() -> None:
    assert Gate(Inner(), "mit.example", lambda: "Too many connections", mute=True).buildProtocol(HERE) is None


@pytest.mark.parametrize("words", ["", "full"])
def test_the_question_is_asked_for_each_connection(words: str) -> None:
    answers = iter(["", words, ""])
    gate = Gate(Inner(), "mit.example", lambda: next(answers), mute=True)
    assert [gate.buildProtocol(HERE) is not None for _ in range(3)] == [True, not words, True]


def test_the_listener_is_started_and_stopped_with_its_port() -> None:
    inner = Inner()
    gate = Gate(inner, "mit.example", lambda: "")
    gate.doStart()
    assert inner.started == 1
    gate.doStop()
    assert inner.started == 0
