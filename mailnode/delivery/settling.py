"""Settling: writes down what became of recipients, with the notice that a failure or a delay is due.

Order matters: a notice is in the spool before the recipient it is about is gone. A crash between the
two sends the notice twice; it never loses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec.structs import replace
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import IHolding, INotices, IOutcomes, ISettling, ISpool, Settlement
from mailnode.journal import Journal
from mailnode.mail import Entry, Mode, Outcome, Recipient, Reply, Result, Results

# (attempts, age in seconds, sender was warned) -> (seconds until the next attempt or None, warn now)
Decide: TypeAlias = Callable[[int, float, bool], tuple[float | None, bool]]

NOT_ACTIVE: Final = Reply(450, "User not active now", "4.2.1")
NOT_FETCHED: Final = Reply(450, "The host has not fetched the message yet", "4.4.1")

AGAIN: Final = 10.0  # seconds until a settlement that the disk refused is tried again


def judge(recipient: Recipient, result: Result, after: float | None) -> Result:
    """A LATER result that may not wait becomes FAILED: no SEND is queued, and patience ends."""
    if result.outcome is not Outcome.LATER or (after is not None and recipient.mode is not Mode.SEND):
        return result
    reply = result.reply
    if after is None:
        reply = Reply(reply.code, reply.text, "4.4.7")  # RFC 3463 3.5: delivery time expired
    return replace(result, outcome=Outcome.FAILED, reply=reply)


@implementer(ISettling)
class Settling:
    def __init__(
        self,
        spool: ISpool,
        notices: INotices,
        decide: Decide,
        expire: float,
        clock: IReactorTime,
        now: Callable[[], float],
    ) -> None:
        self.holding: IHolding | None = None  # without it HELD means what it says, for ever
        self.outcomes: IOutcomes | None = None  # who hears of messages for terminals
        self._spool = spool
        self._notices = notices
        self._decide = decide
        self._expire = expire  # seconds; told to senders, while `decide` decides
        self._clock = clock
        self._now = now
        self._log = Journal("mailnode.delivery")

    def settle(self, entry: Entry, results: Results) -> Deferred[None]:
        if entry.envelope.mode is Mode.MAIL and all(
            _is_plain(recipient, result) for recipient, result in results.items()
        ):
            for recipient, result in results.items():
                self._report(entry, recipient, result)
            return self._write(Settlement(entry.id, tuple(results.items())))
        return self._judge(entry, results)

    def _judge(self, entry: Entry, results: Results) -> Deferred[None]:
        """Something is due again, held, or to be told."""
        now = self._now()
        decisions: dict[int, tuple[float | None, bool]] = {}
        settled: dict[Recipient, Result] = {}
        due = 0.0
        warn = False
        held: list[Recipient] = []
        for recipient, result in _leaves(results):
            if result.outcome is Outcome.LATER:
                attempts = recipient.attempts + 1
                if attempts not in decisions:
                    decisions[attempts] = self._decide(attempts, now - entry.arrived, entry.warned)
                after, warn_now = decisions[attempts]
                result = judge(recipient, result, after)
                if result.outcome is Outcome.LATER and after is not None:
                    due = min(due, now + after) if due else now + after
                    warn = warn or warn_now
            elif result.outcome is Outcome.HELD and self.holding is not None:
                late = not entry.warned and self.holding.is_late(recipient, entry.arrived)
                warn = warn or late
                if self.holding.look(recipient, entry.arrived, entry.warned or warn) is None:
                    result = Result.failed(NOT_ACTIVE)
                else:
                    held.append(recipient)
            settled[recipient] = result
            self._report(entry, recipient, result)
        told = self._tell(entry, results, settled, warn)
        rows = tuple(_row(recipient, result, settled) for recipient, result in results.items())
        settlement = Settlement(entry.id, rows, due, warn, self._look(entry, held, warn))
        written = (
            self._write(settlement) if told is None else told.addCallback(lambda _: self._write(settlement))
        )
        if self.outcomes is not None and entry.envelope.mode is not Mode.MAIL:
            written.addCallback(self._say_outcome, entry, settled)
        return written.addCallback(lambda _: self._say_held(held)) if held else written

    def _look(self, entry: Entry, held: list[Recipient], warn: bool) -> float:
        """When somebody has to look after what is HELD of an entry: the first of them decides."""
        if self.holding is None:
            return 0.0
        looks = [self.holding.look(recipient, entry.arrived, entry.warned or warn) for recipient in held]
        return min((look for look in looks if look is not None), default=0.0)

    def _say_outcome(self, _: None, entry: Entry, settled: Results) -> None:
        if self.outcomes is not None:
            self.outcomes.told(entry, settled)

    def _say_held(self, held: list[Recipient]) -> None:
        if self.holding is not None:
            self.holding.arrived({recipient.path.next_host.lower() for recipient in held})

    def _tell(self, entry: Entry, results: Results, settled: Results, warn: bool) -> Deferred[None] | None:
        """The notices that are due; None if there are none."""
        sent: list[Deferred[None]] = []
        failed = {r: result for r, result in settled.items() if result.outcome is Outcome.FAILED}
        if failed:
            sent.append(self._sent(lambda: self._notices.failed(entry, failed)))
        if warn:
            late = {r: result for r, result in settled.items() if result.outcome is Outcome.LATER}
            until = entry.arrived + self._expire
            if late:
                sent.append(self._sent(lambda: self._notices.delayed(entry, late, until)))
            sent += self._tell_held(entry, settled)
        if any("SUCCESS" in recipient.notify for recipient in results):
            # A name that was expanded is one of `results` and not of `settled`.
            whole = {r: result for r, result in results.items() if result.forward} | dict(settled)
            sent.append(self._sent(lambda: self._notices.succeeded(entry, whole)))
        if not sent:
            return None
        return gatherResults(sent, consumeErrors=True).addCallback(lambda _: None)

    def _tell_held(self, entry: Entry, settled: Results) -> list[Deferred[None]]:
        """The notice about what waits to be fetched; it goes to the same senders as that about LATER."""
        holding = self.holding
        held = {r: _waits(result) for r, result in settled.items() if result.outcome is Outcome.HELD}
        if holding is None or not held:
            return []
        until = entry.arrived + min(holding.keep(recipient) for recipient in held)
        return [self._sent(lambda: self._notices.delayed(entry, held, until))]

    def _sent(self, send: Callable[[], Deferred[None]]) -> Deferred[None]:
        """Each notice is tried again by itself: another that was sent is not sent twice."""
        return send().addErrback(self._again, lambda: self._sent(send))

    def _write(self, settlement: Settlement) -> Deferred[None]:
        return self._spool.settle(settlement).addErrback(self._not_written, settlement)

    def _not_written(self, failure: Failure, settlement: Settlement) -> Deferred[None]:
        return self._again(failure, lambda: self._write(settlement))

    def _again(self, failure: Failure, what: Callable[[], Deferred[None] | None]) -> Deferred[None]:
        """The disk refused. Nothing is lost, the recipients stay leased; try until it takes it."""
        failure.trap(OSError)
        self._log.error("cannot settle: {why}; trying again", why=failure.getErrorMessage())
        return deferLater(self._clock, AGAIN, lambda: None).addCallback(lambda _: what())

    def _report(self, entry: Entry, recipient: Recipient, result: Result) -> None:
        self._log.info(
            "{id} {outcome}: {mode} to {recipient}{host}: {reply}",
            id=entry.id,
            outcome=result.outcome.value,
            mode=recipient.mode.value,
            recipient=str(recipient.path),
            host=f" at {result.host}" if result.host else "",
            reply=str(result.reply),
        )


def _is_plain(recipient: Recipient, result: Result) -> bool:
    """Whether a recipient is done with and nobody is to hear of it: as most are."""
    return result.outcome is Outcome.DELIVERED and not result.forward and "SUCCESS" not in recipient.notify


def _waits(result: Result) -> Result:
    """What is HELD as a notice about a delay has it, with a reply that says so."""
    reply = result.reply if result.reply.transient else NOT_FETCHED
    return replace(result, outcome=Outcome.LATER, reply=reply)


def _leaves(results: Results) -> list[tuple[Recipient, Result]]:
    """The recipients that something was delivered to: those that an alias or list led to, not itself."""
    leaves: list[tuple[Recipient, Result]] = []
    for recipient, result in results.items():
        leaves += result.forward or [(recipient, result)]
    return leaves


def _row(recipient: Recipient, result: Result, settled: Results) -> tuple[Recipient, Result]:
    """What the spool is to write: the recipient's own result, or those of the recipients in its place."""
    if not result.forward:
        return recipient, settled[recipient]
    return recipient, replace(result, forward=tuple((child, settled[child]) for child, _ in result.forward))
