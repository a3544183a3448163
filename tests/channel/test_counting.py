"""Connections are counted in all and by host; the bounds may change while the node runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from zope.interface import implementer

from mailnode.channel.factories import ReceiverFactory, counted_as
from mailnode.channel.receiving import Doors
from mailnode.channel.receiving import Listener as Listening
from mailnode.interfaces import IAccess
from mailnode.mail import Client, Rights


@implementer(IAccess)
class Anybody:
    def rights(self, client: Client) -> Rights:
        return Rights()


class Listener:
    """A listener that clients connect to."""

    def __init__(self, connections: int, per_host: int, hosts: Counter[str] | None = None) -> None:
        anything: Any = Anybody()
        doors = Doors("mit.example", anything, anything, anything)
        self.factory = ReceiverFactory(
            doors, Clock(), connections=connections, connections_per_host=per_host, hosts=hosts
        )

    def connect(self, *address: Any) -> tuple[int, StringTransportWithDisconnection]:
        """The code of the greeting, and the wire."""
        kind: Any = UNIXAddress(b"/run/x")
        if address:
            family = IPv6Address if ":" in address[0] else IPv4Address
            kind = family("TCP", address[0], 1)
        wire = StringTransportWithDisconnection()
        wire.protocol = self.factory.buildProtocol(kind)
        wire.protocol.makeConnection(wire)
        return int(wire.value()[:3]), wire


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_host_has_its_whole_network(host: str, counted: str) -> None:
    assert counted_as(host) == counted


def test_one_host_has_so_many_connections_and_another_its_own() -> None:
    listener = Listener(10, 2)
    assert [listener.connect("192.0.2.1")[0] for _ in range(3)] == [220, 220, 421]
    assert listener.connect("192.0.2.2")[0] == 220
    assert listener.connect("::ffff:192.0.2.1")[0] == 421  # the same host by another socket


def test_a_host_counts_together_at_listeners_that_share_the_count() -> None:
    hosts: Counter[str] = Counter()
    first, second, other = Listener(10, 2, hosts), Listener(10, 2, hosts), Listener(10, 2)
    _, wire = first.connect("192.0.2.1")
    assert [listener.connect("192.0.2.1")[0] for listener in (second, first, second)] == [220, 421, 421]
    assert second.connect("192.0.2.2")[0] == other.connect("192.0.2.1")[0] == 220
    wire.loseConnection()
    assert [listener.connect("192.0.2.1")[0] for listener in (second, first)] == [220, 421]


def test_nobody_is_kept_waiting_for_tls_to_be_refused_under_it() -> None:
    anything: Any = Anybody()
    doors = Doors("mit.example", anything, anything, anything)
    address = IPv4Address("TCP", "192.0.2.1", 1)
    for tls, refused in (("implicit", True), ("starttls", False)):
        factory = ReceiverFactory(doors, Clock(), listener=Listening(tls=tls), connections_per_host=1)
        assert factory.buildProtocol(address) is not None
        assert (factory.buildProtocol(address) is None) is refused
        assert factory.open == 1 + (not refused)


def test_the_addresses_of_one_ipv6_network_count_together() -> None:
    listener = Listener(10, 2)
    addresses = ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:0:ffff::3", "2001:db8:0:1::1"]
    assert [listener.connect(address)[0] for address in addresses] == [220, 220, 421, 220]


def test_local_sockets_are_bounded_only_in_all() -> None:
    listener = Listener(3, 1)
    assert [listener.connect()[0] for _ in range(4)] == [220, 220, 220, 421]


def test_who_goes_makes_room() -> None:
    listener = Listener(10, 1)
    _, wire = listener.connect("2001:db8::1")
    assert listener.factory.open == 1
    wire.loseConnection()
    assert listener.factory.open == 0
    assert listener.connect("2001:db8::2")[0] == 220


def test_other_bounds_are_for_those_who_come() -> None:
    listener = Listener(10, 1)
    listener.connect("192.0.2.1")
    listener.factory.limit(10, 2)
    assert [listener.connect("192.0.2.1")[0] for _ in range(2)] == [220, 421]
    listener.factory.limit(2, 2)
    assert listener.connect("192.0.2.9")[0] == 421
