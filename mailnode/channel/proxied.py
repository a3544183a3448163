"""Connections that come by a proxy: the client is whom the PROXY header names, and nothing is said before.

Twisted's own `haproxy:` endpoint makes the connection before it has read the header: a protocol in which
the server speaks first would greet, and judge, the proxy. So its endpoint strings are served by this.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.channel.proxy_header import HeaderError, parse_header

PREFIX: Final = "haproxy:"  # of an endpoint string
PATIENCE: Final = 10.0  # seconds for the header
WAITING: Final = 500  # connections whose header has not come


@implementer(IProtocolFactory)
class ProxiedFactory:
    """Gives `inner` each connection once its header is there, as one of the client that it names."""

    noisy = False

    def __init__(self, inner: IProtocolFactory, clock: IReactorTime) -> None:
        self.inner = inner
        self.clock = clock
        self.waiting: set[Proxied] = set()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        if len(self.waiting) >= WAITING:
            return None
        proxied = Proxied(self, addr)
        self.waiting.add(proxied)
        return proxied

    def doStart(self) -> None:
        self.inner.doStart()

    def doStop(self) -> None:
        self.inner.doStop()


class Proxied(Protocol):
    """A connection until its header has come; then `inner`'s protocol takes its place on the transport."""

    transport: Any  # of a stream; ITransport does not say that its protocol may be replaced

    def __init__(self, factory: ProxiedFactory, proxy: IAddress) -> None:
        self._factory = factory
        self._proxy = proxy
        self._octets = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._timer = self._factory.clock.callLater(PATIENCE, self._refuse, "no PROXY header came")

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        try:
            header = parse_header(self._octets)
        except HeaderError as error:
            self._refuse(str(error))
            return
        if header is not None:
            (host, port), rest = header
            self._hand_over(host, port, rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._forget()

    def _hand_over(self, host: str, port: int, rest: bytes) -> None:
        self._forget()
        family = IPv6Address if ":" in host else IPv4Address
        protocol = self._factory.inner.buildProtocol(family("TCP", host, port))
        if protocol is None:
            self.transport.abortConnection()
            return
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if rest:
            self.transport.protocol.dataReceived(rest)  # which is TLS, if that was begun

    def _refuse(self, why: str) -> None:
        Logger("mailnode.channel").info(
            "{proxy}: {why}", proxy=getattr(self._proxy, "host", "proxy"), why=why
        )
        self._forget()
        self.transport.abortConnection()

    def _forget(self) -> None:
        self._factory.waiting.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
