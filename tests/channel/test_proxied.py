"""The PROXY protocol: the client is whom the header names, and without one nothing is said."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from zope.interface.verify import verifyObject

from mailnode.channel.proxied import PATIENCE, WAITING, ProxiedFactory
from mailnode.channel.proxy_header import NOBODY, HeaderError, parse_header

MAGIC = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 127.0.0.1 54321 25\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 ::1 54321 25\r\n"
ADDRESSES_4 = bytes([192, 0, 2, 7, 127, 0, 0, 1]) + struct.pack("!HH", 54321, 25)
ADDRESSES_6 = bytes.fromhex("20010db8000000000000000000000007") + bytes(16) + struct.pack("!HH", 54321, 25)


def v2(command: int, family: int, block: bytes) -> bytes:
    return MAGIC + struct.pack("!BBH", command, family, len(block)) + block


RIGHT = {
    "version 1": (V1, ("192.0.2.7", 54321)),
    "version 1, IPv6": (V1_6, ("2001:db8::7", 54321)),
    "version 1, unknown": (b"PROXY UNKNOWN\r\n", NOBODY),
    "version 1, unknown with words": (b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n", NOBODY),
    "version 2": (v2(0x21, 0x11, ADDRESSES_4), ("192.0.2.7", 54321)),
    "version 2, IPv6": (v2(0x21, 0x21, ADDRESSES_6), ("2001:db8::7", 54321)),
    "version 2 with remarks": (v2(0x21, 0x11, ADDRESSES_4 + b"\x04\x00\x03abc"), ("192.0.2.7", 54321)),
    "version 2, the proxy itself": (v2(0x20, 0x00, b""), NOBODY),
    "version 2, the proxy itself with addresses": (v2(0x20, 0x11, ADDRESSES_4), NOBODY),
    "version 2, a local socket": (v2(0x21, 0x31, bytes(216)), NOBODY),
}
WRONG = {
    "a client that speaks first": b"EHLO me\r\n",
    "an empty line": b"\r\n\r\nhello",
    "lower case": b"proxy TCP4 192.0.2.7 127.0.0.1 54321 25\r\n",
    "no word": b"PROXY \r\n",
    "another protocol": b"PROXY UDP4 192.0.2.7 127.0.0.1 54321 25\r\n",
    "too few words": b"PROXY TCP4 192.0.2.7 127.0.0.1 54321\r\n",
    "too many words": b"PROXY TCP4 192.0.2.7 127.0.0.1 54321 25 26\r\n",
    "a name": b"PROXY TCP4 localhost 127.0.0.1 54321 25\r\n",
    "the other family": b"PROXY TCP4 ::1 ::1 54321 25\r\n",
    "two families": b"PROXY TCP6 ::1 127.0.0.1 54321 25\r\n",
    "a large port": b"PROXY TCP4 192.0.2.7 127.0.0.1 65536 25\r\n",
    "no number": b"PROXY TCP4 192.0.2.7 127.0.0.1 -1 25\r\n",
    "foreign digits": "PROXY TCP4 192.0.2.7 127.0.0.1 5\u00b2 25\r\n".encode("latin-1"),
    "without an end": b"PROXY TCP4 " + b"1" * 200,
    "version 3": v2(0x31, 0x11, ADDRESSES_4),
    "an unknown command": v2(0x22, 0x11, ADDRESSES_4),
    "short addresses": v2(0x21, 0x11, ADDRESSES_4[:-1]),
    "a long header": MAGIC + struct.pack("!BBH", 0x21, 0x11, 65535),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_header_names_the_client_and_ends_where_it_ends(name: str) -> None:
    header, client = RIGHT[name]
    assert parse_header(header) == (client, b"")
    assert parse_header(header + b"EHLO me\r\n" * 100) == (client, b"EHLO me\r\n" * 100)
    assert all(parse_header(header[:cut]) is None for cut in range(len(header)))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_header_is_an_error(name: str) -> None:
    with pytest.raises(HeaderError):
        parse_header(WRONG[name])


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", MAGIC, MAGIC + b"\x21\x11"]))
def test_any_octets_are_a_header_or_an_error_or_too_few(octets: bytes, start: bytes) -> None:
    try:
        found = parse_header(start + octets)
    except HeaderError:
        return
    assert found is None or (start + octets).endswith(found[1])


# ------------------------------------------------------------------ connections


class Application(Protocol):
    got = b""

    def __init__(self, addr: Any) -> None:
        self.addr = addr

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"220 hello\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.got += data


class Inner(Factory):
    noisy = False
    full = False

    def __init__(self) -> None:
        self.built: list[Application] = []

    def buildProtocol(self, addr: Any) -> Protocol | None:
        if self.full:
            return None
        self.built.append(Application(addr))
        return self.built[-1]


class Line:
    """One connection to a listener behind a proxy."""

    def __init__(self, factory: ProxiedFactory | None = None) -> None:
        self.clock = Clock()
        self.inner = Inner()
        self.factory = factory or ProxiedFactory(self.inner, self.clock)
        self.wire = StringTransportWithDisconnection()
        protocol = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 999))
        assert isinstance(protocol, Protocol)
        self.wire.protocol = protocol
        protocol.makeConnection(self.wire)

    def arrives(self, octets: bytes) -> None:
        assert self.wire.protocol is not None
        self.wire.protocol.dataReceived(octets)


def test_the_factory_keeps_the_contract() -> None:
    assert verifyObject(IProtocolFactory, ProxiedFactory(Inner(), Clock()))


def test_nothing_is_said_before_the_header_is_there() -> None:
    line = Line()
    line.arrives(V1[:-1])
    assert line.wire.value() == b"" and not line.inner.built
    line.arrives(V1[-1:])
    assert line.wire.value() == b"220 hello\r\n"
    assert line.inner.built[0].addr == IPv4Address("TCP", "192.0.2.7", 54321)
    assert not line.clock.getDelayedCalls() and not line.factory.waiting


def test_an_ipv6_client_keeps_its_address() -> None:
    line = Line()
    line.arrives(V1_6)
    assert line.inner.built[0].addr == IPv6Address("TCP", "2001:db8::7", 54321)


def test_octets_behind_the_header_are_the_clients() -> None:
    line = Line()
    line.arrives(V1 + b"EHLO ")
    line.arrives(b"me\r\n")
    assert line.inner.built[0].got == b"EHLO me\r\n"


def test_a_client_of_nobody_has_no_address_that_anybody_trusts() -> None:
    line = Line()
    line.arrives(b"PROXY UNKNOWN\r\n")
    assert line.inner.built[0].addr.host == "0.0.0.0"


@pytest.mark.parametrize("octets", [b"EHLO me\r\n", V1.replace(b"192.0.2.7", b"mit.example")])
def test_without_a_header_the_connection_is_over(octets: bytes) -> None:
    line = Line()
    line.arrives(octets)
    assert not line.wire.connected and not line.wire.value() and not line.inner.built
    assert not line.clock.getDelayedCalls() and not line.factory.waiting


def test_a_header_that_does_not_come_is_not_waited_for() -> None:
    line = Line()
    line.arrives(V1[:10])
    line.clock.advance(PATIENCE)
    assert not line.wire.connected and not line.factory.waiting


def test_a_connection_that_goes_before_its_header_leaves_nothing() -> None:
    line = Line()
    line.wire.loseConnection()
    assert not line.clock.getDelayedCalls() and not line.factory.waiting


def test_only_so_many_wait_for_their_headers() -> None:
    factory = ProxiedFactory(Inner(), Clock())
    lines = [Line(factory) for _ in range(WAITING)]
    assert factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 999)) is None
    lines[0].wire.loseConnection()
    assert factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 999)) is not None


def test_a_listener_that_takes_nobody_closes() -> None:
    line = Line()
    line.inner.full = True
    line.arrives(V1)
    assert not line.wire.connected
