"""In front of a listener: turns connections away while the node has no room for them."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from mailnode.smtp.replies import unavailable


@implementer(IProtocolFactory)
class Gate:
    """`refusal` says why there is no room, "" if there is some. Who is turned away is told 421 and why;
    with `mute` nothing is said, where it would have to be said by TLS."""

    noisy = False

    def __init__(
        self, inner: IProtocolFactory, hostname: str, refusal: Callable[[], str], mute: bool = False
    ) -> None:
        self._inner = inner
        self._hostname = hostname
        self._refusal = refusal
        self._mute = mute

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        why = self._refusal()
        if not why:
            return self._inner.buildProtocol(addr)
        return None if self._mute else TurnedAway(unavailable(self._hostname, why).encode())

    def doStart(self) -> None:
        self._inner.doStart()

    def doStop(self) -> None:
        self._inner.doStop()


class TurnedAway(Protocol):
    """A connection that hears one reply and is closed; what it says is not read."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._reply)
        self.transport.loseConnection()
