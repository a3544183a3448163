"""Factories of channels, for both roles; they serve inside any Twisted program.

A receiver in five lines, with doors that live in memory:

    doors = Doors("mit.example", access, routing, intake)
    factory = ReceiverFactory(doors, reactor)
    serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mailnode.channel.channel import Channel, Role, Trace
from mailnode.channel.receiving import Doors, Granted, Listener, ReceiverRole
from mailnode.channel.sending import SenderRole, Tls
from mailnode.channel.tls import ClientTls
from mailnode.interfaces import ILetters
from mailnode.mail import Client, Reply
from mailnode.smtp import replies
from mailnode.smtp.events import Ended
from mailnode.smtp.script import Plan

ENDLESS: Final = 1 << 62


def host_of(address: IAddress | None) -> str:
    """The IP address of a peer, IPv4 in its own form; empty for a local socket."""
    host = getattr(address, "host", "") or ""
    host = host.partition("%")[0]  # an IPv6 scope is no part of the address
    if ":" in host:
        mapped = getattr(ip_address(host), "ipv4_mapped", None)
        return str(mapped) if mapped is not None else host
    return host


def counted_as(host: str) -> str:
    """What the connections of `host` are counted under: whoever has an IPv6 address has its /64."""
    return str(ip_network((host, 64), strict=False)) if ":" in host else host


def is_loopback(address: str) -> bool:
    """Whether what goes to `address` stays on this host."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


class ReceiverFactory(Factory):
    """Channels on which this host receives, until a peer turns the line.

    `connections` and `connections_per_host` bound how many are open at once; one more gets 421. Of IPv6
    hosts those of one /64 count together. Listeners that share `hosts` count their hosts together. Where the
    421 would have to be said by TLS nothing is said.
    """

    noisy = False

    def __init__(
        self,
        doors: Doors,
        clock: IReactorTime,
        *,
        listener: Listener | None = None,
        connections: int = 1000,
        connections_per_host: int = 50,
        hosts: Counter[str] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.doors = doors
        self._clock = clock
        self._listener = listener or Listener()
        self._connections = connections
        self._per_host = connections_per_host
        self._trace = trace
        self._hosts: Counter[str] = Counter() if hosts is None else hosts
        self._channels: dict[Channel, str] = {}
        self._all_gone: Deferred[None] | None = None
        self._log = Logger("mailnode.channel")

    def buildProtocol(self, addr: IAddress | None) -> Channel | None:
        host = host_of(addr)
        counted = counted_as(host)
        refusal = self._refusal(counted)
        listener = self._listener
        if refusal is not None and listener.tls == "implicit":
            return None  # whoever does not shake hands would keep a place by being refused one

        def first(channel: Channel) -> Role:
            doors = self.doors
            if listener.tls == "implicit" and doors.tls is not None:
                channel.secure(doors.tls.creator)
            client = Client(address=host, listener=listener.role, tls=channel.tls)
            return ReceiverRole(channel, doors, client, self._turn, refusal, listener)

        channel = Channel(self._clock, first, self._forget, self._trace)
        self._channels[channel] = counted
        self._hosts[counted] += 1
        return channel

    @property
    def open(self) -> int:
        """How many channels are open."""
        return len(self._channels)

    def limit(self, connections: int, connections_per_host: int) -> None:
        """Other bounds from now on."""
        self._connections = connections
        self._per_host = connections_per_host

    def drain(self) -> Deferred[None]:
        """Ends every channel at the next moment at which nothing is lost by it; fires when all are gone."""
        for channel in list(self._channels):
            channel.drain()
        if not self._channels:
            return succeed(None)
        self._all_gone = Deferred()
        return self._all_gone

    def abort(self) -> None:
        """Cuts what is left."""
        for channel in list(self._channels):
            channel.abort()

    def _refusal(self, host: str) -> Reply | None:
        name = self.doors.hostname
        if len(self._channels) >= self._connections:
            return replies.unavailable(name, "Too many connections")
        if host and self._hosts[host] >= self._per_host:
            return replies.unavailable(name, "Too many connections from your host")
        return None

    def _forget(self, channel: Channel) -> None:
        host = self._channels.pop(channel)
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        if not self._channels and self._all_gone is not None:
            done, self._all_gone = self._all_gone, None
            done.callback(None)

    def _turn(self, channel: Channel, granted: Granted, client: Client) -> Role:
        """The line was turned by a peer: we send it what is held for it."""
        name = client.identity or client.address

        def ended(how: Ended) -> None:
            self._log.info(
                "the turned line of {peer} ended: {how} {reply}",
                peer=name,
                how=how.ending.value,
                reply=how.reply,
            )

        self._log.info("{peer} turned the line", peer=name)
        plan = Plan(self.doors.hostname, private=channel.tls)
        return SenderRole(channel, plan, granted.letters, name, ended, wait=granted.wait)


class SenderFactory(Factory):
    """Channels on which this host sends `letters`, for use with a client endpoint.

    With `plan.turn` the line is turned when the letters are given; then `doors` receive, and whoever is
    at the other end has a stranger's rights. `ended` is told once how each conversation ended. With
    `implicit`, which needs `tls`, TLS begins with the first octet, and `plan.tls` says with whom.
    """

    noisy = False

    def __init__(
        self,
        plan: Plan,
        letters: ILetters,
        clock: IReactorTime,
        ended: Callable[[Ended], None],
        *,
        host: str = "",
        doors: Doors | None = None,
        lost: Callable[[Channel], None] | None = None,
        trace: Trace | None = None,
        tls: ClientTls | None = None,
        tls_name: str = "",
        tls_pin: str = "",
        implicit: bool = False,
    ) -> None:
        self._plan = plan
        self._tls = Tls(tls, tls_name or host, tls_pin) if tls is not None else None
        self._implicit = implicit
        self._letters = letters
        self._clock = clock
        self._ended = ended
        self._host = host
        self._doors = doors
        self._lost = lost
        self._trace = trace

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        address = host_of(addr)

        def first(channel: Channel) -> Role:
            turn_to = (lambda held, how: self._receive(held, how, address)) if self._doors else None
            host = self._host or address
            known = self._plan.known
            if self._implicit and self._tls is not None:
                verified = self._plan.tls == "verified"
                channel.secure(self._tls.client.creator(self._tls.name, verified, self._tls.pin))
                known = known or verified
            private = not address or is_loopback(address) or (channel.tls and known)
            tls = self._plan.tls if self._tls and not channel.tls else "none"  # not TLS within TLS
            plan = replace(self._plan, private=private, secure=channel.tls, tls=tls)
            return SenderRole(channel, plan, self._letters, host, self._ended, turn_to, tls=self._tls)

        return Channel(self._clock, first, self._lost, self._trace)

    def _receive(self, channel: Channel, how: Ended, address: str) -> Role:
        assert self._doors is not None
        doors = self._doors
        # We asked for the calls for a sign of life, so they are not too many; and two that fail to come
        # mean that the line is broken.
        doors = replace(doors, limits=replace(doors.limits, commands=ENDLESS))
        if how.wait:
            doors = replace(doors, patience=2 * how.wait)
        client = Client(address=address, turned=True, called=self._host or address, tls=channel.tls)
        return ReceiverRole(channel, doors, client, _one_turn_only)


def _one_turn_only(_channel: Channel, _granted: Granted, _client: Client) -> Role:
    raise RuntimeError("a line is turned once; nobody has the right to turn it back")
