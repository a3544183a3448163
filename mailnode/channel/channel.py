"""The transmission channel: one Twisted Protocol that holds either role, and turns.

The channel owns the transport and the time-outs. It knows nothing of SMTP: a role gets the octets, and
when the line is turned the channel holds the other role, which begins in its initial state.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf
from typing import Any, Final, TypeAlias, cast
from typing import Protocol as Shape

from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

SHORT: Final = 4096  # octets; replies and commands are shorter, mail data is not

# speaker ("C" who leads, "S" who replies; or "turn", "tls"), octets
Trace: TypeAlias = Callable[[str, bytes], None]


class Role(Shape):
    """What a channel holds: the receiver's or the sender's part."""

    letter: str  # "S" for the receiver, "C" for the sender, as in the RFC's dialogues

    def started(self) -> None:
        """The channel is the role's now."""

    def received(self, octets: bytes) -> None: ...

    def shaken_hands(self) -> None:
        """TLS has come about; nothing has come through it yet."""

    def timed_out(self) -> None:
        """The patience set by `expect` is at its end."""

    def drain(self) -> None:
        """The node is going down: end at the next moment at which nothing is lost by it."""

    def lost(self, reason: Failure) -> None:
        """The connection is gone; nothing can be said any more."""


class Wire(Shape):
    """The transport, as far as a channel uses it; TCP, TLS and UNIX transports are all of this shape."""

    def write(self, data: bytes) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def startTLS(self, creator: object) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...


@implementer(IPushProducer)
class Unread:
    """Told by the transport when a peer does not read what was written, and when it does again."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def pauseProducing(self) -> None:
        self._channel.pause("unread")

    def resumeProducing(self) -> None:
        self._channel.resume("unread")

    def stopProducing(self) -> None:
        """The connection is gone; the channel hears of that itself."""


@implementer(IHandshakeListener)
class Channel(Protocol):
    """One connection and the role that this host plays on it now."""

    transport: Wire  # type: ignore[assignment]

    def __init__(
        self,
        clock: IReactorTime,
        first: Callable[[Channel], Role],
        forget: Callable[[Channel], None] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self._clock = clock
        self._first = first
        self._forget = forget
        self._trace = trace
        self._role: Role | None = None
        self._deadline = 0.0
        self._look = inf  # when the timer looks whether it has passed
        self._timer: IDelayedCall | None = None
        self._pauses: set[str] = set()
        self._throttled = False
        self._direct = False  # the transport's buffer is empty, for nothing was ever given to it
        self.connected_now = False

    # ------------------------------------------------------------- what roles use

    def write(self, octets: bytes, more: bool = False) -> None:
        """Sends octets; with `more` they may wait for others in this turn of the reactor."""
        if self._trace is not None and self._role is not None:
            self._trace(self._role.letter, octets)
        if self._direct:
            self._direct = not more
            octets = octets if more else self._write_now(octets)
        if octets:
            self.transport.write(octets)

    def _write_now(self, octets: bytes) -> bytes:
        """Gives a short write to the socket at once, and returns what the transport has to take.

        A reactor that is asked to write registers the socket, comes round, writes, and unregisters: for
        a reply that fits the socket's buffer anyway that costs more than the reply. Once the transport
        has been given something, its buffer may hold octets that must go first: so never again.
        """
        transport = cast(Connection, self.transport)
        self._direct = len(octets) <= SHORT and not transport.TLS
        if not self._direct:
            return octets
        try:
            sent = transport.socket.send(octets)
        except OSError:  # it takes nothing now, or never again: the transport finds out which
            sent = 0
        self._direct = sent == len(octets)
        return octets[sent:]

    def expect(self, patience: float) -> None:
        """Something must happen within `patience` seconds from now, or the role is told."""
        self._deadline = self._clock.seconds() + patience
        if self._deadline < self._look:
            if self._timer is not None:
                self._timer.cancel()
            self._look = self._deadline
            self._timer = self._clock.callLater(patience, self._look_at_clock)

    def pause(self, reason: str) -> None:
        """Reads nothing more until every reason to pause has resumed."""
        if not self._pauses and self.connected_now:
            self.transport.pauseProducing()
        self._pauses.add(reason)

    def resume(self, reason: str) -> None:
        if reason in self._pauses:
            self._pauses.remove(reason)
            if not self._pauses and self.connected_now:
                self.transport.resumeProducing()

    def throttle(self, on: bool) -> None:
        """While on, nothing more is read from a peer that does not read what was written to it."""
        if on == self._throttled:
            return
        self._throttled = on
        if on:
            self.transport.registerProducer(Unread(self), True)
        else:
            self.transport.unregisterProducer()
            self.resume("unread")

    @property
    def now(self) -> float:
        """Seconds on the clock of the time-outs."""
        return self._clock.seconds()

    @property
    def tls(self) -> bool:
        """Whether the transport is TLS."""
        return bool(ISSLTransport.providedBy(self.transport))

    def secure(self, creator: object) -> None:
        """Goes on under TLS with `creator` (a context of the right side); what is written waits for it."""
        if self._trace is not None:
            self._trace("tls", b"")
        self._direct = False
        self.transport.startTLS(creator)

    def close(self) -> None:
        """Closes once everything written has gone out."""
        self.throttle(False)  # a transport with a producer waits for it
        self.transport.loseConnection()

    def abort(self) -> None:
        """Closes at once."""
        self.transport.abortConnection()

    def become(self, role: Role) -> None:
        """The line is turned: `role` has the channel from now on (RFC 821 3.8)."""
        if self._trace is not None:
            self._trace("turn", b"")
        self._hold(role)

    def notice_loss_within(self, seconds: float) -> None:
        """The connection is lost when what was written is not acknowledged for so long (Linux)."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None and self._is_tcp:
            self._tcp.socket.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))

    @property
    def _tcp(self) -> Any:
        return self.transport

    @property
    def _is_tcp(self) -> bool:
        connection = getattr(self.transport, "socket", None)
        return connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6)

    def drain(self) -> None:
        if self._role is not None:
            self._role.drain()

    # ------------------------------------------------------------- what Twisted calls

    def connectionMade(self) -> None:
        self.connected_now = True
        self._direct = isinstance(self.transport, Connection)  # no wrapper, which may do something else
        # A command and the body behind it are two writes: the second must not wait for the first one's ACK.
        if self._is_tcp:
            self._tcp.setTcpNoDelay(True)
        self._hold(self._first(self))

    def dataReceived(self, data: bytes) -> None:
        assert self._role is not None
        if self._trace is not None:
            self._trace("C" if self._role.letter == "S" else "S", data)
        self._role.received(data)

    def handshakeCompleted(self) -> None:
        if self._role is not None:
            self._role.shaken_hands()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected_now = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._look = None, inf
        if self._role is not None:
            self._role.lost(reason)
        if self._forget is not None:
            self._forget(self)

    def _hold(self, role: Role) -> None:
        self._role = role
        role.started()

    def _look_at_clock(self) -> None:
        self._timer, self._look = None, inf
        left = self._deadline - self._clock.seconds()
        if left > 0:
            self._look = self._deadline
            self._timer = self._clock.callLater(left, self._look_at_clock)
        elif self._role is not None:
            self._role.timed_out()
