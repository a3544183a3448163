"""Connections in memory: two transports with a wire between them that may be slow, cut octets and break.

They behave as Twisted's TCP transports do where a channel can tell: a close waits for what was written, a
producer is paused while much is on its way, nothing arrives at a paused end, and TLS may begin.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides

HIGH_WATER: Final = 65536  # octets on their way, over which a producer is paused


class Raw:
    """One end of a wire, below TLS."""

    def __init__(self, wire: Wire, address: str) -> None:
        self.wire = wire
        self.out = bytearray()  # on their way to the other end
        self.gone = False  # the protocol was told that the connection is lost
        self.disconnecting = False
        self.aborted = False
        self.paused = False
        self.producer: IPushProducer | None = None
        self._halted = False
        self._address = IPv4Address("TCP", address, 40000)

    def write(self, data: bytes) -> None:
        if not self.gone and not self.disconnecting:
            self.out += data
            if self.producer is not None and len(self.out) > HIGH_WATER and not self._halted:
                self._halted = True
                self.producer.pauseProducing()

    def writeSequence(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        self.disconnecting = True  # as with TCP, nobody hears of it before this turn of the reactor is over

    def abortConnection(self) -> None:
        self.disconnecting = self.aborted = True

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("there is a producer already")
        self.producer, self._halted = producer, False

    def unregisterProducer(self) -> None:
        self.producer = None

    def getPeer(self) -> IPv4Address:
        return self._address

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.25", 25)

    def flowed(self) -> None:
        """Some of what was written has arrived."""
        if self._halted and self.producer is not None and len(self.out) < HIGH_WATER // 2:
            self._halted = False
            self.producer.resumeProducing()


class Beneath:
    """What TLS writes to: an end without its TLS."""

    def __init__(self, end: End) -> None:
        for name in ("write", "writeSequence", "loseConnection", "registerProducer", "unregisterProducer"):
            setattr(self, name, partial(getattr(Raw, name), end))
        for name in ("abortConnection", "pauseProducing", "resumeProducing", "getPeer", "getHost"):
            setattr(self, name, getattr(end, name))


class End(Raw):
    """One end of a wire as its protocol sees it."""

    TLS = False

    def __init__(self, wire: Wire, address: str, is_client: bool) -> None:
        super().__init__(wire, address)
        self._is_client = is_client
        self._tls: Any = None
        self.protocol: Any = None

    def connect(self, protocol: Protocol) -> None:
        self.protocol = protocol
        protocol.makeConnection(cast(Any, self))

    def arrived(self, octets: bytes) -> None:
        self.protocol.dataReceived(octets)

    def lost(self) -> None:
        if not self.gone:
            self.gone = True
            if self.producer is not None:
                self.producer.stopProducing()
            self.protocol.connectionLost(Failure(connectionDone.value))

    def startTLS(self, creator: Any) -> None:
        producer = self.producer
        if producer is not None:
            self.unregisterProducer()
        factory = TLSMemoryBIOFactory(creator, self._is_client, cast(Any, None), cast(Any, self.wire.clock))
        self._tls = self.protocol = factory.protocol(factory, self.protocol, False)
        self.TLS = True
        directlyProvides(self, ISSLTransport)
        self._tls.makeConnection(Beneath(self))
        if producer is not None:
            self.registerProducer(producer, True)

    def getHandle(self) -> Any:
        return self._tls.getHandle() if self._tls is not None else None

    # What a protocol writes goes through TLS once that has begun.

    def write(self, data: bytes) -> None:
        if self._tls is None:
            super().write(data)
        else:
            self._tls.write(data)

    def loseConnection(self) -> None:
        if self._tls is None:
            super().loseConnection()
        elif not self.disconnecting:
            self._tls.loseConnection()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        if self._tls is None:
            super().registerProducer(producer, streaming)
        else:
            self._tls.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        if self._tls is None:
            super().unregisterProducer()
        else:
            self._tls.unregisterProducer()


class Wire:
    """A connection between the host that called and the host that was called. `clock` is that of TLS."""

    def __init__(self, clock: Clock, caller: str = "192.0.2.7", called: str = "192.0.2.25") -> None:
        self.clock = clock
        self.caller = End(self, called, True)
        self.called = End(self, caller, False)
        self.broken = False
        self.protocols: tuple[Protocol, Protocol]  # of the host that called, and of the other

    def connect(self, caller: Protocol, called: Protocol) -> None:
        self.protocols = (caller, called)
        self.called.connect(called)
        self.caller.connect(caller)

    @property
    def over(self) -> bool:
        return self.caller.gone and self.called.gone

    def moves(self, upward: bool, size: int) -> bool:
        """At most `size` octets arrive, upward at the host that was called; whether there were any."""
        here, there = (self.caller, self.called) if upward else (self.called, self.caller)
        if there.paused or there.gone or not here.out:
            return False
        octets = bytes(here.out[:size])
        del here.out[:size]
        there.arrived(octets)
        here.flowed()
        return True

    def runs(self, size: int = 1 << 20) -> None:
        """Everything arrives, in pieces of `size`, until nobody says anything more."""
        while True:
            self.clock.advance(0)
            moved = self.moves(True, size) | self.moves(False, size)
            if not (self.looks() | moved):
                break

    def looks(self) -> bool:
        """An end that closes is gone when its octets have arrived; then the other end hears of it. Whether
        anybody heard of something new."""
        if any(end.aborted and not end.gone for end in (self.caller, self.called)):
            self.breaks()
            return True
        heard = False
        for here, there in self._ways():
            done = not here.out or there.gone
            if here.disconnecting and done and here.producer is None and not here.gone:
                here.lost()
                there.lost()
                heard = True
        return heard

    def breaks(self) -> None:
        """The connection is lost, and what was on its way with it."""
        self.broken = True
        for end in (self.caller, self.called):
            end.out.clear()
        for end in (self.caller, self.called):
            end.lost()

    def _ways(self) -> tuple[tuple[End, End], tuple[End, End]]:
        return (self.caller, self.called), (self.called, self.caller)
