"""Calling hosts to fetch our mail: on a schedule, at once, or to keep the line open.

One call to a host at a time. An open line takes nothing along, so what is to go out then goes by a short
call of its own, which does not turn the line. After the turn the host has a stranger's rights here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailnode.channel.channel import Trace
from mailnode.channel.receiving import Doors
from mailnode.channel.tls import ClientTls
from mailnode.mail import Reply
from mailnode.peering.calls import FIRST, STEADY, Call, CallEnded, pause, says_nothing_waits
from mailnode.peering.conversation import Conversation
from mailnode.peering.letters import HeldLetters

NO_ROOM = Reply(451, "Too many connections and files are open here", "4.3.2")
NOT_READ = Reply(451, "What is to go out cannot be read", "4.3.0")
NO_TLS_HERE = Reply(451, "TLS is required, and this node has none", "4.7.4")
IS_OPEN = Reply(250, "The line is open: mail comes as it arrives", "2.0.0")
GATHER = 0.1  # seconds that outgoing mail waits for more before an open line's host is called


class BusyError(Exception):
    """That host is being called already."""


class Line:
    """What is going on with one host that we call."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.fetching: Conversation | None = None
        self.giving: Conversation | None = None
        self.busy = False  # a call is under way, or about to be
        self.open: CallEnded | None = None  # the line is turned and stays so
        self.told: Deferred[CallEnded] | None = None  # who asked for the call, not told yet
        self.over: Deferred[None] | None = None
        self.failures = 0
        self.refusals = 0  # calls beside an open line that failed, one after another
        self.outgoing = False  # there may be mail to be taken along
        self.outdated = False  # the call under way was begun by another configuration
        self.is_peeking = False
        self.gone = False  # not in the configuration any more
        self.timer: IDelayedCall | None = None
        self.gather: IDelayedCall | None = None

    def cancel_timers(self) -> None:
        self.cancel_timer()
        self.cancel_gather()

    def cancel_timer(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def cancel_gather(self) -> None:
        gather, self.gather = self.gather, None
        if gather is not None and gather.active():
            gather.cancel()

    def conversations(self) -> list[Conversation]:
        return [it for it in (self.fetching, self.giving) if it is not None]


class Dialing:
    """Makes the calls of the configuration.

    `outgoing` gives the letters that a call takes along; `random` is in [0, 1). Without `tls` no call is
    encrypted, and none is made that has to be. While `is_full` no call is made.
    """

    def __init__(
        self,
        outgoing: Callable[[], HeldLetters],
        connect: Callable[[str], IStreamClientEndpoint],
        clock: IReactorTime,
        random: Callable[[], float],
        *,
        is_full: Callable[[], bool] = lambda: False,
    ) -> None:
        self._outgoing = outgoing
        self._connect = connect
        self._clock = clock
        self._random = random
        self._is_full = is_full
        self._doors: Doors
        self._tls: ClientTls | None = None
        self._lines: dict[str, Line] = {}
        self._leaving: list[Line] = []
        self._started = False
        self._stopping = False
        self._log = Logger("mailnode.peering")

    def use(
        self, calls: Sequence[Call], doors: Doors, tls: ClientTls | None, *, others_alone: bool = False
    ) -> None:
        """The configuration, also when it has changed. A call under way is finished and not made again;
        an open line is ended and opened again, for it would go by the old configuration for ever. With
        `others_alone` nothing but calls and peers has changed: then lines go on whose calls are as they were.
        """
        self._doors, self._tls = doors, tls
        wanted = {call.name: call for call in calls}
        for name, line in list(self._lines.items()):
            if name not in wanted:
                del self._lines[name]
                line.gone = True
                self._leaving = [it for it in self._leaving if it.busy] + [line]
                line.cancel_timers()
            line.outdated = line.outdated or not others_alone or wanted.get(name) != line.call
            for conversation in line.conversations():
                conversation.use(doors)
                if line.gone or (line.outdated and line.open is not None):
                    conversation.hang_up()
        for name, call in wanted.items():
            line = self._lines.setdefault(name, Line(call))
            changed, line.call = line.call != call, call
            if self._started and not line.busy and (changed or line.timer is None):
                self._schedule_first(line)

    def start(self) -> None:
        """Begins with the schedule."""
        self._started = True
        for line in self._lines.values():
            self._schedule_first(line)

    def stop(self) -> Deferred[None]:
        """No further call; those under way end at the next moment at which nothing is lost by it. Fires
        when all are over."""
        self._stopping = True
        lines = [*self._lines.values(), *self._leaving]
        for line in lines:
            line.cancel_timers()
            for conversation in line.conversations():
                conversation.hang_up()
        over = []
        for line in lines:
            if line.busy or line.giving is not None:
                line.over = line.over or Deferred()
                over.append(line.over)
        return DeferredList(over).addCallback(lambda _: None)

    def abort(self) -> None:
        for line in [*self._lines.values(), *self._leaving]:
            for conversation in line.conversations():
                conversation.abort()

    @property
    def open(self) -> int:
        """How many channels are open."""
        lines = [*self._lines.values(), *self._leaving]
        return sum(it.is_connected for line in lines for it in line.conversations())

    @property
    def names(self) -> list[str]:
        return sorted(self._lines)

    # ------------------------------------------------------------- when

    def _schedule_first(self, line: Line) -> None:
        """The first call of a node that has started, or of a line that has changed."""
        line.cancel_timers()
        if line.call.wait:
            self._schedule(line, self._random() * FIRST)
        elif line.call.every is not None:
            self._schedule(line, self._random() * min(line.call.every, 10.0))

    def _schedule(self, line: Line, seconds: float) -> None:
        line.cancel_timer()
        line.timer = self._clock.callLater(seconds, self._on_time, line)

    def _on_time(self, line: Line) -> None:
        line.timer = None
        if not line.busy:
            self._fetch(line, None)
        elif line.open is not None:
            self._gather(line)

    def dial(self, name: str, trace: Trace | None = None) -> Deferred[CallEnded]:
        """Calls now; fires when the line is free again, or stays open. Where it is open already, what is to
        go out is given. KeyError, BusyError."""
        line = self._lines.get(name)
        if line is None:
            return fail(KeyError(name))
        if line.open is not None:
            return self._give_now(line, trace)
        if line.busy:
            return fail(BusyError(name))
        return self._fetch(line, trace)

    # ------------------------------------------------------------- fetching

    def _fetch(self, line: Line, trace: Trace | None) -> Deferred[CallEnded]:
        told: Deferred[CallEnded] = Deferred()
        line.busy, line.told, line.outgoing, line.outdated = True, told, False, False
        line.cancel_timers()
        self._call(line, line.call, trace).addCallback(self._hung_up, line).addErrback(self._unexpected, line)
        return told

    def _call(self, line: Line, call: Call, trace: Trace | None) -> Deferred[CallEnded]:
        if (refusal := self._refusal(call)) is not None:
            return succeed(CallEnded(False, 0, refusal))

        def holds(conversation: Conversation | None) -> None:
            line.fetching = conversation

        letters = self._outgoing() if call.outbound else None
        return self._converse(call, letters, holds, lambda how: self._opened(how, line), trace)

    def _converse(
        self,
        call: Call,
        letters: HeldLetters | None,
        holds: Callable[[Conversation | None], None],
        opened: Callable[[CallEnded], None],
        trace: Trace | None,
    ) -> Deferred[CallEnded]:
        """A conversation, and another one without TLS where that could not be had; `holds` is told which
        one is under way."""

        def ended(how: CallEnded) -> CallEnded | Deferred[CallEnded]:
            holds(None)
            if not how.insecure or call.tls != "opportunistic" or self._stopping:
                return how
            self._log.info("no TLS with {name}: {why}; called without", name=call.name, why=str(how.reply))
            again = self._outgoing() if letters is not None else None
            return self._converse(replace(call, tls="none"), again, holds, opened, trace)  # RFC 7435 3

        conversation = Conversation(
            call, self._doors, letters, self._connect, self._clock, self._tls, opened, trace
        )
        holds(conversation)
        return conversation.begin().addCallback(ended)

    def _refusal(self, call: Call) -> Reply | None:
        """Why a call cannot even be tried."""
        if self._is_full():
            return NO_ROOM
        needs_tls = call.fingerprint or call.tls in ("required", "verified")
        return NO_TLS_HERE if needs_tls and self._tls is None else None

    def _opened(self, how: CallEnded, line: Line) -> None:
        """The line is turned and stays open: whoever waits for the call is told now."""
        line.open = how
        self._report(line, how)
        self._tell(line, how)
        if line.outdated and line.fetching is not None:
            line.fetching.hang_up()
        self._given(line, how)

    def _hung_up(self, how: CallEnded, line: Line) -> None:
        was_open, line.open, line.busy = line.open is not None, None, False
        if how.is_well and not how.lasted:
            line.failures = 0
        else:
            line.failures = 1 if how.lasted >= STEADY else line.failures + 1
        if was_open:
            self._log.info("the open line to {name} has ended", name=line.call.name)
        else:
            self._report(line, how)
            self._tell(line, how)
        self._settle_down(line)
        if line.call.by_itself and not self._stopping and not line.gone:
            self._schedule(line, pause(line.call, how, line.failures, self._random()))

    def _unexpected(self, failure: Failure, line: Line) -> None:
        self._log.failure("the call to {name} failed", failure, name=line.call.name)

    def _settle_down(self, line: Line) -> None:
        if line.over is not None and not line.busy and line.giving is None:
            over, line.over = line.over, None
            over.callback(None)

    def _tell(self, line: Line, how: CallEnded) -> None:
        told, line.told = line.told, None
        if told is not None:
            told.callback(how)

    def _report(self, line: Line, how: CallEnded) -> None:
        said = "line turned" if how.turned else "line not turned"
        if how.open:
            said = "line open"
        elif how.started:
            said = "queue started"
        elif not how.turned and says_nothing_waits(how.reply):
            said = "nothing to fetch"
        self._log.info(
            "call to {name}: {given} given, {received} received, {said}: {reply}",
            name=line.call.name,
            given=how.given,
            received=how.received,
            said=said,
            reply=str(how.reply),
        )

    # ------------------------------------------------------------- giving, while the line is open

    def outgoing_held(self) -> None:
        """There may be mail to go out: a line that is open is no way for it."""
        for line in self._lines.values():
            if line.call.outbound and line.busy:
                line.outgoing = True
                if line.open is not None:
                    self._gather(line)

    def _schedule_giving(self, line: Line, how: CallEnded) -> None:
        """What the host could not take is offered again, as often as it would be called."""
        if line.call.outbound and line.open is not None and not self._stopping:
            line.refusals = 0 if how.is_well else line.refusals + 1
            self._schedule(line, pause(line.call, replace(how, lasted=0.0), line.refusals, self._random()))

    def _given(self, line: Line, how: CallEnded) -> None:
        """What there was has been given, or could not be. What came meanwhile goes at once, but for what was
        put back by this very call: that waits until the host would be called anyway."""
        if line.outgoing and how.is_well and not how.later and line.open is not None:
            self._gather(line)
        self._schedule_giving(line, how)

    def _gather(self, line: Line) -> None:
        if line.gather is None and line.giving is None and not line.is_peeking and not self._stopping:
            line.gather = self._clock.callLater(GATHER, self._time_to_give, line)

    def _time_to_give(self, line: Line) -> None:
        line.gather = None
        if line.open is not None and not self._stopping:
            self._give_now(line, None).addErrback(
                lambda failure: self._log.failure("{name} cannot be called", failure, name=line.call.name)
            )

    def _give_now(self, line: Line, trace: Trace | None) -> Deferred[CallEnded]:
        """Gives what is to go out by a call of its own; none is made if there is nothing."""
        assert line.open is not None
        nothing = CallEnded(True, 0, IS_OPEN, open=True)
        if not line.call.outbound:
            return succeed(nothing)
        if line.giving is not None or line.is_peeking:
            return fail(BusyError(line.call.name))
        line.cancel_gather()
        line.outgoing, line.is_peeking = False, True
        letters = self._outgoing()

        def looked(found: bool) -> CallEnded | Deferred[CallEnded]:
            line.is_peeking = False
            if found and line.open is not None and not self._stopping:
                return self._give(line, letters, trace)
            letters.close()
            self._given(line, nothing)
            return nothing

        def not_looked(failure: Failure) -> Failure:
            line.is_peeking = False
            letters.close()
            self._given(line, CallEnded(False, 0, NOT_READ))
            return failure

        return maybeDeferred(letters.peek).addCallbacks(looked, not_looked)

    def _give(self, line: Line, letters: HeldLetters, trace: Trace | None) -> Deferred[CallEnded]:
        call = replace(line.call, command="", wait=0)

        def holds(conversation: Conversation | None) -> None:
            line.giving = conversation

        def ended(how: CallEnded) -> CallEnded:
            self._log.info(
                "call to {name} beside its open line: {given} given: {reply}",
                name=call.name,
                given=how.given,
                reply=str(how.reply),
            )
            self._settle_down(line)
            self._given(line, how)
            return replace(how, turned=line.open is not None, open=line.open is not None)

        if (refusal := self._refusal(call)) is not None:
            letters.close()
            return succeed(CallEnded(False, 0, refusal)).addCallback(ended)
        return self._converse(call, letters, holds, lambda how: None, trace).addCallback(ended)
