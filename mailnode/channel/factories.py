"""Factories of channels, for both roles; they serve inside any Twisted program.

A receiver in five lines, with doors that live in memory:

    doors = Doors("mit.example", access, routing, intake)
    factory = ReceiverFactory(doors, reactor)
    serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mailnode.channel.channel import Channel, Role, Trace
from mailnode.channel.receiving import Doors, ReceiverRole
from mailnode.channel.sending import SenderRole
from mailnode.interfaces import ILetters
from mailnode.mail import Client, Reply
from mailnode.smtp import replies
from mailnode.smtp.events import Ended
from mailnode.smtp.script import Plan


def host_of(address: IAddress | None) -> str:
    """The IP address of a peer, IPv4 in its own form; empty for a local socket."""
    host = getattr(address, "host", "") or ""
    host = host.partition("%")[0]  # an IPv6 scope is no part of the address
    if ":" in host:
        mapped = getattr(ip_address(host), "ipv4_mapped", None)
        return str(mapped) if mapped is not None else host
    return host


class ReceiverFactory(Factory):
    """Channels on which this host receives, until a peer turns the line.

    `connections` and `connections_per_host` bound how many are open at once; one more gets 421.
    """

    noisy = False

    def __init__(
        self,
        doors: Doors,
        clock: IReactorTime,
        *,
        listener: str = "smtp",
        connections: int = 1000,
        connections_per_host: int = 50,
        trace: Trace | None = None,
    ) -> None:
        self.doors = doors
        self._clock = clock
        self._listener = listener
        self._connections = connections
        self._per_host = connections_per_host
        self._trace = trace
        self._hosts: Counter[str] = Counter()
        self._channels: dict[Channel, str] = {}
        self._all_gone: Deferred[None] | None = None
        self._log = Logger("mailnode.channel")

    def buildProtocol(self, addr: IAddress | None) -> Channel:
        host = host_of(addr)
        refusal = self._refusal(host)
        client = Client(address=host, listener=self._listener)

        def first(channel: Channel) -> Role:
            return ReceiverRole(channel, self.doors, client, self._turn, refusal)

        channel = Channel(self._clock, first, self._forget, self._trace)
        self._channels[channel] = host
        self._hosts[host] += 1
        return channel

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

    def _turn(self, channel: Channel, letters: ILetters, client: Client) -> Role:
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
        return SenderRole(channel, Plan(self.doors.hostname), letters, name, ended)


class SenderFactory(Factory):
    """Channels on which this host sends `letters`, for use with a client endpoint.

    With `plan.turn` the line is turned when the letters are given; then `doors` receive, and whoever is
    at the other end has a stranger's rights. `ended` is told once how each conversation ended.
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
    ) -> None:
        self._plan = plan
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
            turn_to = (lambda held: self._receive(held, address)) if self._doors is not None else None
            return SenderRole(channel, self._plan, self._letters, self._host or address, self._ended, turn_to)

        return Channel(self._clock, first, self._lost, self._trace)

    def _receive(self, channel: Channel, address: str) -> Role:
        assert self._doors is not None
        client = Client(address=address, turned=True)
        return ReceiverRole(channel, self._doors, client, _one_turn_only)


def _one_turn_only(_channel: Channel, _letters: ILetters, _client: Client) -> Role:
    raise RuntimeError("a line is turned once; nobody has the right to turn it back")
