"""Calling a host to fetch our mail: give it what we have for it, turn the line, take what it has for us.

One call to a host at a time. After the turn the host has a stranger's rights here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.channel.channel import Channel, Trace
from mailnode.channel.factories import SenderFactory
from mailnode.channel.receiving import Doors
from mailnode.channel.tls import ClientTls
from mailnode.interfaces import Eventually, ILetters
from mailnode.mail import Letter, Reply, Results
from mailnode.peering.held import HeldLetters
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.script import Plan

CONNECT: Final = 30.0  # seconds
JITTER: Final = 0.1  # of the interval, either way
NO_ROOM: Final = Reply(451, "Too many connections and files are open here", "4.3.2")
NO_TLS_HERE: Final = Reply(451, "TLS is required, and this node has none", "4.7.4")


class BusyError(Exception):
    """That host is being called already."""


@dataclass(frozen=True, slots=True)
class Call:
    """A host that we call."""

    name: str
    endpoint: str  # Twisted client endpoint string
    user: str = ""
    secret: str = field(default="", repr=False)
    outbound: bool = True
    every: float | None = None  # seconds
    tls: str = "opportunistic"  # as in `mail.Hop`
    tls_name: str = ""  # what its certificate must be for, where that is verified


@dataclass(frozen=True, slots=True)
class CallEnded:
    """How a call went: whether the line was turned, how many recipients' mail went out, what was said."""

    turned: bool
    given: int
    reply: Reply
    insecure: bool = False  # because no TLS came about


@implementer(ILetters)
class NoLetters:
    """A conversation that gives nothing."""

    def next(self) -> Eventually[Letter | None]:
        return None

    def settle(self, letter: Letter, results: Results, host: str) -> None:
        raise ValueError("nothing was given")

    def returned(self, letter: Letter) -> None:
        raise ValueError("nothing was given")

    def close(self) -> None:
        """There is nothing to give back."""


class Dialing:
    """Makes the calls of the configuration, on their schedule or at once.

    `outgoing` gives the letters that a call takes along; `random` is in [0, 1). Without `tls` no call is
    encrypted, and none is made that has to be. While `is_full` no call is made.
    """

    def __init__(
        self,
        calls: list[Call],
        doors: Doors,
        outgoing: Callable[[], HeldLetters],
        connect: Callable[[str], IStreamClientEndpoint],
        clock: IReactorTime,
        random: Callable[[], float],
        *,
        tls: ClientTls | None = None,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._calls = {call.name: call for call in calls}
        self._doors = doors
        self._outgoing = outgoing
        self._connect = connect
        self._clock = clock
        self._random = random
        self._tls = tls
        self._is_full = is_full
        self._busy: set[str] = set()
        self._timers: dict[str, IDelayedCall] = {}
        self._channels: set[Channel] = set()
        self._stopping = False
        self._log = Logger("mailnode.peering")

    @property
    def open(self) -> int:
        """How many channels are open."""
        return len(self._channels)

    @property
    def names(self) -> list[str]:
        return sorted(self._calls)

    def start(self) -> None:
        for call in self._calls.values():
            if call.every is not None:
                self._schedule(call, self._random() * min(call.every, 10.0))

    def stop(self) -> None:
        self._stopping = True
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        for channel in list(self._channels):
            channel.drain()

    def abort(self) -> None:
        for channel in list(self._channels):
            channel.abort()

    def _schedule(self, call: Call, seconds: float) -> None:
        self._timers[call.name] = self._clock.callLater(seconds, self._on_time, call)

    def _on_time(self, call: Call) -> None:
        assert call.every is not None
        self._schedule(call, call.every * (1 - JITTER + 2 * JITTER * self._random()))
        if call.name not in self._busy:
            self.dial(call.name).addErrback(
                lambda failure: self._log.failure("the call to {name} failed", failure, name=call.name)
            )

    def dial(self, name: str, trace: Trace | None = None) -> Deferred[CallEnded]:
        """Calls now; fires when the line is free again. KeyError, BusyError."""
        call = self._calls.get(name)
        if call is None:
            return fail(KeyError(name))
        if name in self._busy:
            return fail(BusyError(name))
        self._busy.add(name)
        return maybeDeferred(self._call, call, trace).addBoth(self._hung_up, call)

    def _hung_up(self, how: CallEnded | Failure, call: Call) -> CallEnded | Failure:
        self._busy.discard(call.name)
        if isinstance(how, CallEnded):
            self._log.info(
                "call to {name}: {given} given, {turned}: {reply}",
                name=call.name,
                given=how.given,
                turned="line turned" if how.turned else "line not turned",
                reply=str(how.reply),
            )
        return how

    def _call(self, call: Call, trace: Trace | None) -> Deferred[CallEnded]:
        def ended(how: CallEnded) -> CallEnded | Deferred[CallEnded]:
            if not how.insecure or call.tls != "opportunistic":
                return how
            self._log.info("no TLS with {name}: {why}; called without", name=call.name, why=str(how.reply))
            return self._converse(replace(call, tls="none"), trace)  # RFC 7435 3

        if self._is_full():
            return succeed(CallEnded(False, 0, NO_ROOM))
        if self._tls is None and call.tls in ("required", "verified"):
            return succeed(CallEnded(False, 0, NO_TLS_HERE))
        return self._converse(call, trace).addCallback(ended)

    def _converse(self, call: Call, trace: Trace | None) -> Deferred[CallEnded]:
        held = self._outgoing() if call.outbound else None
        letters: ILetters = held if held is not None else NoLetters()
        over: Deferred[CallEnded] = Deferred()
        how: list[Ended] = []

        def lost(channel: Channel) -> None:
            """The connection is gone, whichever role had it last."""
            self._channels.discard(channel)
            last, given = how[0], held.given if held else 0
            turned, insecure = last.ending is Ending.TURNED, last.ending is Ending.INSECURE
            over.callback(CallEnded(turned, given, last.reply, insecure))

        factory = SenderFactory(
            self._plan(call),
            letters,
            self._clock,
            how.append,
            host=call.name,
            doors=self._doors,
            lost=lost,
            trace=trace,
            tls=self._tls,
            tls_name=call.tls_name,
        )
        connecting = self._connect(call.endpoint).connect(factory)
        timer = self._clock.callLater(CONNECT, connecting.cancel)

        def connected(channel: Channel) -> Deferred[CallEnded]:
            self._channels.add(channel)
            if self._stopping:
                channel.drain()
            return over

        def failed(failure: Failure) -> CallEnded:
            why = failure.getErrorMessage().rstrip(".")[:200]
            return CallEnded(False, 0, Reply(451, f"Cannot connect: {why}", "4.4.1"))

        def clear(passed: Channel | Failure) -> Channel | Failure:
            if timer.active():
                timer.cancel()
            return passed

        return connecting.addBoth(clear).addCallbacks(connected, failed)

    def _plan(self, call: Call) -> Plan:
        # Without a name there is nobody to be but whom our certificate is for.
        certificate = not call.user and self._tls is not None and self._tls.has_certificate
        return Plan(
            self._doors.hostname,
            name=call.user,
            secret=call.secret,
            turn="TURN",
            tls=call.tls,
            certificate=certificate,
        )
