"""The relay: mail for other hosts, several messages over one connection.

Each next hop has a queue and a few connections that work it off. A hop that cannot be reached delays
only its own mail. Where TLS is "opportunistic" and a host that offers it cannot do it, the same host is
called again and spoken to without (RFC 7435 3); where it is wanted, the mail waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredSemaphore, inlineCallbacks, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.channel.channel import Channel
from mailnode.channel.factories import SenderFactory
from mailnode.channel.tls import ClientTls
from mailnode.interfaces import Exchanger, IExchange, ILetters, IRelay
from mailnode.mail import Hop, Letter, Outcome, Recipient, Reply, Result, Results
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.script import Plan

CONNECTIONS: Final = 100  # in all
PER_HOP: Final = 4
CONNECT: Final = 30.0  # seconds
PLAIN_HOSTS: Final = 100  # of one hop, that are remembered for their TLS that does not work
NO_ROOM: Final = Reply(451, "Too many connections and files are open here", "4.3.2")
NO_TLS_HERE: Final = Reply(451, "TLS is required, and this node has none", "4.7.4")
DOWN: Final = Result(Outcome.UNTRIED, Reply(421, "The node is going down", "4.3.2"))
# RFC 7504: a host that takes no mail at all says so for good; other refusals to talk may pass
NO_MAIL_HERE: Final = (521, 554, 556)


@dataclass(eq=False, slots=True)
class Parcel:
    """A letter on its way, and whom to tell."""

    letter: Letter
    told: Deferred[Results]
    results: dict[Recipient, Result] = field(default_factory=dict)

    def settle(self, results: Results) -> None:
        self.results.update(results)
        if len(self.results) == len(self.letter.recipients) and not self.told.called:
            self.told.callback(self.results)

    def fail(self, result: Result) -> None:
        rest = [recipient for recipient in self.letter.recipients if recipient not in self.results]
        self.settle(dict.fromkeys(rest, result))


@implementer(ILetters)
class Line:
    """The queue of one next hop; every connection to it takes its letters from here."""

    def __init__(self, hop: Hop) -> None:
        self.hop = hop
        self.waiting: deque[Parcel] = deque()
        self.open: dict[Letter, Parcel] = {}
        self.connections = 0
        self.plain: set[str] = set()  # hosts whose TLS has failed, as long as there is mail for the hop

    def next(self) -> Letter | None:
        if not self.waiting:
            return None
        parcel = self.waiting.popleft()
        self.open[parcel.letter] = parcel
        return parcel.letter

    at_hand = next

    def settle(self, letter: Letter, results: Results, host: str) -> None:
        parcel = self.open[letter]
        named = {recipient: replace(result, host=host) for recipient, result in results.items()}
        if len(parcel.results) + len(named) >= len(letter.recipients):
            del self.open[letter]
        parcel.settle(named)

    def returned(self, letter: Letter) -> None:
        self.waiting.appendleft(self.open.pop(letter))

    def close(self) -> None:
        """Other conversations go on with the same queue."""

    def fail(self, result: Result) -> None:
        """Nobody can take what waits here now."""
        parcels, self.waiting = self.waiting, deque()
        for parcel in parcels:
            parcel.fail(result)


@implementer(IRelay)
class Relay:
    """`connect` makes a client endpoint from an endpoint string; `hostname` is what EHLO says.

    Without `tls` all is sent as it is, and hops that need TLS get nothing. While `is_full` nothing is opened.
    """

    def __init__(
        self,
        hostname: str,
        exchange: IExchange,
        connect: Callable[[str], IStreamClientEndpoint],
        clock: IReactorTime,
        per_hop: int = PER_HOP,
        connections: int = CONNECTIONS,
        *,
        tls: ClientTls | None = None,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._hostname = hostname
        self.tls = tls
        self._is_full = is_full
        self._exchange = exchange
        self._connect = connect
        self._clock = clock
        self._per_hop = per_hop
        self._slots = DeferredSemaphore(connections)
        self._lines: dict[Hop, Line] = {}
        self._channels: set[Channel] = set()
        self._stopping = False
        self._log = Logger("mailnode.relay")

    def deliver(self, hop: Hop, letter: Letter) -> Deferred[Results]:
        if self._stopping:
            return succeed(dict.fromkeys(letter.recipients, DOWN))
        line = self._lines.get(hop)
        if line is None:
            line = self._lines[hop] = Line(hop)
        told: Deferred[Results] = Deferred()
        line.waiting.append(Parcel(letter, told))
        if line.connections < min(self._per_hop, len(line.waiting)):
            self._open(line)
        return told

    @property
    def open(self) -> int:
        """How many channels are open."""
        return len(self._channels)

    def stop(self) -> None:
        """Opens nothing more; each channel ends after the letter in hand, what waits goes back."""
        self._stopping = True
        for line in list(self._lines.values()):
            line.fail(DOWN)
        for channel in list(self._channels):
            channel.drain()

    def abort(self) -> None:
        """Cuts what is left."""
        for channel in list(self._channels):
            channel.abort()

    # ------------------------------------------------------------- conversations

    def _open(self, line: Line) -> None:
        line.connections += 1
        self._slots.run(self._converse, line).addErrback(self._unexpected, line).addCallback(
            self._closed, line
        )

    def _closed(self, _: object, line: Line) -> None:
        line.connections -= 1
        if line.waiting and not line.connections:
            self._open(line)
        elif not line.waiting and not line.connections and not line.open:
            self._lines.pop(line.hop, None)

    def _unexpected(self, failure: Failure, line: Line) -> None:
        self._log.failure("mail for {domain} could not be relayed", failure, domain=line.hop.domain)
        line.fail(Result.later(Reply(451, "Local error in relaying", "4.3.0")))

    @inlineCallbacks
    def _converse(self, line: Line):  # type: ignore[no-untyped-def]  # a generator of Deferreds of many types
        """One connection, from the first exchanger that will talk to us."""
        if not line.waiting:
            return
        if self.tls is None and line.hop.tls in ("required", "verified"):
            line.fail(Result.later(NO_TLS_HERE))
            return
        found: Sequence[Exchanger] | Reply = yield self._exchange.exchangers(line.hop)
        if isinstance(found, Reply):
            line.fail(Result.of(found))
            return
        last = Result.later(Reply(451, f"No host takes mail for {line.hop.domain} now", "4.4.1"))
        for exchanger in found:
            if self._stopping or not line.waiting:
                return
            if self._is_full():
                last = Result.later(NO_ROOM)
                break
            ended: Ended = yield self._talk(line, exchanger)
            if ended.ending is Ending.INSECURE and line.hop.tls == "opportunistic":
                self._log.info(
                    "no TLS with {host}: {why}; sent without", host=exchanger.name, why=ended.reply
                )
                if len(line.plain) >= PLAIN_HOSTS:
                    line.plain.clear()
                line.plain.add(exchanger.endpoint)
                ended = yield self._talk(line, exchanger)
            if ended.ending is Ending.DONE or not line.waiting:
                return
            last = self._refusal(ended, exchanger)
        if line.connections == 1:  # the others still have a host that talks to them
            line.fail(last)

    def _refusal(self, ended: Ended, exchanger: Exchanger) -> Result:
        if ended.ending is Ending.REFUSED and ended.reply.code in NO_MAIL_HERE:
            return Result.failed(ended.reply, exchanger.name)
        if ended.ending is Ending.INSECURE:
            status = ended.reply.status if ended.reply.status.startswith("4.7.") else "4.7.5"
            why = f"No safe connection to the host: {' / '.join(ended.reply.lines)}"
            return Result.later(Reply(451, why, status), exchanger.name)
        if ended.reply.transient:
            return Result.later(ended.reply, exchanger.name)
        return Result.later(
            Reply(451, f"The host would not talk to us: {ended.reply}", "4.4.1"), exchanger.name
        )

    def _talk(self, line: Line, exchanger: Exchanger) -> Deferred[Ended]:
        """A conversation with one host; fires with how it ended, never errbacks."""
        over: Deferred[Ended] = Deferred()
        plain = exchanger.endpoint in line.plain
        factory = SenderFactory(
            Plan(self._hostname, tls="none" if plain else line.hop.tls),
            line,
            self._clock,
            over.callback,
            host=exchanger.name,
            lost=self._channels.discard,
            tls=self.tls,
            tls_name=exchanger.tls_name,
        )
        try:
            connecting = self._connect(exchanger.endpoint).connect(factory)
        except ValueError as error:  # the configuration names an endpoint of an unknown kind
            return _at_once(Reply(451, f"Bad endpoint: {error}", "4.3.5"))
        timer = self._clock.callLater(CONNECT, connecting.cancel)

        def connected(channel: Channel) -> Deferred[Ended]:
            self._channels.add(channel)
            if self._stopping:
                channel.drain()
            return over

        def failed(failure: Failure) -> Ended:
            why = Reply(451, f"Cannot connect to {exchanger.name}: {_reason(failure)}", "4.4.1")
            return Ended(Ending.BROKEN, why)

        def clear(passed: object) -> object:
            if timer.active():
                timer.cancel()
            return passed

        connecting.addBoth(clear)
        return connecting.addCallbacks(connected, failed)


def _at_once(reply: Reply) -> Deferred[Ended]:
    done: Deferred[Ended] = Deferred()
    done.callback(Ended(Ending.BROKEN, reply))
    return done


def _reason(failure: Failure) -> str:
    """Why a connection failed: in the system's words, where Twisted has them behind its own."""
    value = failure.value
    words = str(value.args[0]) if isinstance(value, ConnectError) and value.args else ""
    return (words or failure.getErrorMessage()).rstrip(".")[:200]
