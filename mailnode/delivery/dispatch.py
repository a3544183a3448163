"""Dispatch: works the spool off. Every entry it holds is routed afresh and goes to its destinations.

It holds at most `ROOM` entries, so memory is bounded whatever the queue's length; what does not fit
stays QUEUED and is claimed when there is room again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import (
    Attempt,
    IDispatch,
    IMailbox,
    IRelay,
    IRouting,
    ISettling,
    ISpool,
    ITerminals,
    Message,
)
from mailnode.letters import Addressed, address, inherited
from mailnode.mail import (
    CHUNK,
    OURS,
    Destination,
    Entry,
    Held,
    Hop,
    Local,
    Mode,
    Outcome,
    Path,
    Recipient,
    Reply,
    Result,
    Results,
)

ROOM: Final = 500  # entries in hand
REFILL: Final = (
    0.02  # seconds in which room is made before a queue is claimed from again: claims have a price
)
FEW: Final = 20  # entries in hand up to which what a turned line brings is delivered at once
PAUSE: Final = 0.2  # seconds without a message after which a turned line has brought what it had
REST: Final = 10.0  # seconds that what it brought waits at most
DESTINATIONS: Final = 1000  # that routing lets one recipient lead to
GATHER: Final = 1.0  # seconds that results of one entry wait for each other before they are written down
SHOWN: Final = Reply(250, "Shown on a terminal", "2.0.0")
NOT_SHOWN: Final = Reply(450, "User not active now", "4.2.1")
HELD: Final = Result(Outcome.HELD, Reply(250, "Held for the peer that serves the domain"))
BROKEN: Final = Reply(451, "Local error in delivery", "4.3.0")


Told: TypeAlias = Callable[["Job", Recipient, Result], None]


@dataclass(slots=True)
class Delivery:
    """One delivery to a user, and the recipients that it is for."""

    told: list[tuple[Told, Recipient]] = field(default_factory=list)
    result: Result | None = None

    def ended(self, result: Result, job: Job) -> None:
        self.result = result
        for told, recipient in self.told:
            told(job, recipient, result)


@dataclass(slots=True, eq=False)
class Job:
    """One entry in hand: how many of its recipients are on their way, and results not yet written down."""

    entry: Entry
    under_way: int
    results: dict[Recipient, Result] = field(default_factory=dict)
    timer: IDelayedCall | None = None
    late: bool = False  # something of it will be due again
    local: dict[tuple[str, Mode, Path], Delivery] = field(default_factory=dict)


@implementer(IDispatch)
class Dispatch:
    """`poll` is how often, in seconds, the spool is looked at for what others put there."""

    def __init__(
        self,
        spool: ISpool,
        routing: IRouting,
        mailbox: IMailbox,
        terminals: ITerminals,
        relay: IRelay,
        settling: ISettling,
        clock: IReactorTime,
        now: Callable[[], float],
        poll: float = 30.0,
    ) -> None:
        self._spool = spool
        self._routing = routing
        self._mailbox = mailbox
        self._terminals = terminals
        self._relay = relay
        self._settling = settling
        self._clock = clock
        self._now = now
        self._poll = poll
        self._jobs: set[Job] = set()
        self._claiming = False
        self._again = False  # woken while claiming
        self._timer: IDelayedCall | None = None
        self._resting: IDelayedCall | None = None  # while a turned line brings much
        self._rest_began = self._brought_last = 0.0
        self._is_late = False  # it rested as long as it may, and what waited is not worked off yet
        self._stopped: Deferred[None] | None = None
        self._log = Logger("mailnode.delivery")

    def use(
        self,
        routing: IRouting,
        mailbox: IMailbox,
        terminals: ITerminals,
        relay: IRelay,
        settling: ISettling,
    ) -> None:
        """The configuration has changed: what is taken from now on goes by these."""
        self._routing = routing
        self._mailbox = mailbox
        self._terminals = terminals
        self._relay = relay
        self._settling = settling

    # ------------------------------------------------------------- life

    def start(self) -> Deferred[None]:
        """Takes back what an earlier process had in hand, and begins. Fires when the spool is being read."""

        def begin(count: int) -> None:
            if count:
                self._log.info(
                    "{count} messages were in hand when the node stopped: trying again", count=count
                )
            self.wake()

        return self._spool.release_leases().addCallback(begin)

    def stop(self) -> Deferred[None]:
        """Takes nothing more; fires when nothing is in hand any more."""
        self._stopped = Deferred()
        self._cancel_timer()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._maybe_stopped()
        return self._stopped

    def _maybe_stopped(self) -> None:
        if self._stopped is not None and not self._jobs and not self._claiming and not self._stopped.called:
            self._stopped.callback(None)

    # ------------------------------------------------------------- the queue

    def has_room(self, patient: bool = False) -> bool:
        if patient and (self._resting is not None or len(self._jobs) >= FEW):
            return False
        return len(self._jobs) < ROOM and self._stopped is None

    def wake(self, patient: bool = False) -> None:
        if patient and self._stopped is None and not self._is_late:
            self._rest()
        elif self._resting is not None:
            self._again = True  # when it is over
        elif self._claiming:
            self._again = True
        elif self.has_room():
            self._claiming = True
            self._again = False
            self._cancel_timer()
            limit = ROOM - len(self._jobs)
            self._spool.claim(limit).addCallbacks(self._claimed, self._not_claimed, callbackArgs=(limit,))
        else:
            self._cancel_timer()  # the next entry that is done with makes room, and does not wait for it

    def _rest(self) -> None:
        """A line that is paid for brings much: it is free sooner if nothing is delivered meanwhile."""
        self._brought_last = self._clock.seconds()
        if self._resting is None:
            self._rest_began = self._brought_last
            self._resting = self._clock.callLater(PAUSE, self._is_rested)

    def _is_rested(self) -> None:
        now = self._clock.seconds()
        self._is_late = now - self._rest_began >= REST
        if now - self._brought_last < PAUSE and not self._is_late:
            self._resting = self._clock.callLater(PAUSE, self._is_rested)
        else:
            self._resting = None
            self.wake()

    def _claimed(self, entries: list[Entry], limit: int) -> None:
        self._claiming = False
        for entry in entries:
            self.take(entry)
        if self._stopped is not None:
            self._maybe_stopped()
        elif len(entries) == limit or self._again:
            self._clock.callLater(0, self.wake)
        else:
            self._is_late = False
            self._spool.next_due().addCallbacks(self._sleep, self._not_claimed)

    def _not_claimed(self, failure: Failure) -> None:
        self._claiming = False
        self._log.failure("the spool cannot be read", failure)
        self._sleep(None)
        self._maybe_stopped()

    def _sleep(self, due: float | None) -> None:
        if self._stopped is not None or self._claiming:
            return
        seconds = self._poll if due is None else min(max(due - self._now(), 0.0), self._poll)
        self._cancel_timer()
        self._timer = self._clock.callLater(seconds, self._time_to_wake)

    def _time_to_wake(self) -> None:
        self._timer = None
        self.wake()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------- one entry

    def take(self, entry: Entry, attempt: Attempt | None = None) -> None:
        recipients = entry.envelope.recipients
        job = Job(entry, len(recipients))
        self._jobs.add(job)
        if attempt is not None:
            self._attempted(job, recipients[0], attempt)
            return
        relayed: dict[Hop, list[tuple[Recipient, Destination]]] = {}
        for recipient in recipients:
            ruling = self._routing.route(recipient.path, recipient.mode, OURS)
            destinations = ruling.destinations
            if recipient.original is not None:
                destinations = _behind(recipient, destinations)
            if not ruling.reply.ok:
                self._done(job, {recipient: Result.of(ruling.reply)})
            elif len(destinations) != 1 or _is_another(recipient, destinations[0]):
                self._forward(job, recipient, destinations)
            elif isinstance(place := destinations[0].place, Hop):
                relayed.setdefault(place, []).append((recipient, destinations[0]))
            else:
                self._one(job, recipient, destinations[0], self._arrived)
        for hop, pairs in relayed.items():
            for addressed in address(entry, pairs):
                self._relay.deliver(hop, addressed.letter).addCallback(self._relayed, job, addressed)

    def _attempted(self, job: Job, recipient: Recipient, attempt: Attempt) -> None:
        if attempt.result is not None:
            self._arrived(job, recipient, attempt.result)
        elif attempt.later is not None:
            attempt.later.addCallback(lambda result: self._arrived(job, recipient, result))

    def _arrived(self, job: Job, recipient: Recipient, result: Result) -> None:
        self._done(job, {recipient: result})

    def _relayed(self, results: Results, job: Job, addressed: Addressed) -> None:
        self._done(job, addressed.results(results))

    def _forward(self, job: Job, recipient: Recipient, destinations: tuple[Destination, ...]) -> None:
        """An alias or a list: each destination is a recipient of its own, which takes this one's place."""
        children = [
            self._child(job.entry, recipient, where, index, several=len(destinations) > 1)
            for index, where in enumerate(destinations)
        ]
        parts: list[Deferred[Results]] = []
        relayed: dict[Hop, list[tuple[Recipient, Destination]]] = {}
        for child, where in zip(children, destinations, strict=True):
            if isinstance(where.place, Hop):
                relayed.setdefault(where.place, []).append((child, where))
            else:
                known: Deferred[Results] = Deferred()
                self._one(job, child, where, partial(_tell, known))
                parts.append(known)
        for hop, pairs in relayed.items():  # RFC 1123 5.3.1.1: one copy for all of them at one host
            for addressed in address(job.entry, pairs):
                parts.append(self._relay.deliver(hop, addressed.letter).addCallback(addressed.results))

        def all_known(parts: list[Results]) -> None:
            results = {child: result for part in parts for child, result in part.items()}
            pairs = tuple((child, results[child]) for child in children)
            expanded = Reply(250, f"Went to {len(children)} recipients", "2.1.5")
            self._done(job, {recipient: Result(Outcome.DELIVERED, expanded, forward=pairs)})

        gatherResults(parts).addCallback(all_known)

    def _child(
        self, entry: Entry, recipient: Recipient, where: Destination, index: int, several: bool
    ) -> Recipient:
        notify, orcpt = inherited(recipient, where, several, entry.envelope.terms)
        return Recipient(
            where.path,
            recipient.mode,
            # Names the delivery (two lists may lead to one mailbox) until the spool gives a number;
            # the same again after a crash, so that a repeated delivery replaces itself.
            number=-(recipient.number * DESTINATIONS + index + 1),
            attempts=recipient.attempts,
            original=recipient.original or recipient.path,
            sender=self._child_sender(entry, recipient, where),
            notify=notify,
            orcpt=orcpt,
        )

    def _one(self, job: Job, recipient: Recipient, where: Destination, told: Told) -> None:
        """One recipient to a place in this house; `told` hears what became of it.

        A user whom a message reaches by several names gets it once.
        """
        if not isinstance(where.place, Local):
            told(job, recipient, HELD)
            return
        user, sender = where.place.user, self._sender(job.entry, recipient, where)
        key = (user, recipient.mode, sender)
        delivery = job.local.get(key)
        if delivery is None:
            delivery = job.local[key] = Delivery()
            delivery.told.append((told, recipient))
            if where.path != recipient.path:
                recipient = replace(recipient, path=where.path)
            try:
                done = self._local(user, job.entry, recipient, sender)
            except Exception:
                done = fail()
            done.addCallbacks(delivery.ended, self._unexpected, (job,), {}, (job, delivery))
        elif delivery.result is not None:
            told(job, recipient, delivery.result)
        else:
            delivery.told.append((told, recipient))

    def _child_sender(self, entry: Entry, recipient: Recipient, where: Destination) -> Path | None:
        """The reverse-path of what takes a recipient's place: a list's owner, or one with our name."""
        if entry.envelope.reverse_path.is_null:
            return recipient.sender
        return self._sender(entry, recipient, where) if where.via else where.sender or recipient.sender

    def _sender(self, entry: Entry, recipient: Recipient, where: Destination) -> Path:
        return where.reverse_path(recipient.sender or entry.envelope.reverse_path)

    def _unexpected(self, failure: Failure, job: Job, delivery: Delivery) -> None:
        self._log.failure("{id} could not be delivered", failure, id=job.entry.id)
        delivery.ended(Result.later(BROKEN), job)

    # ------------------------------------------------------------- this host

    def _local(self, user: str, entry: Entry, recipient: Recipient, sender: Path) -> Deferred[Result]:
        """RFC 821 3.4: the verb says which of terminal and mailbox is success."""
        if recipient.mode is Mode.MAIL:
            return self._mailbox.deliver(user, entry, recipient, sender)
        head = entry.body.head(CHUNK)
        shown = self._terminals.show(user, Message(sender, head, cut=entry.body.size > len(head)))

        def after(count: int) -> Result | Deferred[Result]:
            if recipient.mode is Mode.SAML or (recipient.mode is Mode.SOML and not count):
                return self._mailbox.deliver(user, entry, recipient, sender)
            return Result.delivered(SHOWN) if count else Result.later(NOT_SHOWN)

        return shown.addCallback(after)

    # ------------------------------------------------------------- settling

    def _done(self, job: Job, results: Results) -> None:
        job.results.update(results)
        job.under_way -= len(results)
        for result in results.values():
            if result.outcome is not Outcome.DELIVERED:
                job.late = True
        if not job.under_way:
            if job.timer is not None:
                job.timer.cancel()
            self._write_down(job).addBoth(self._finished, job)
        elif job.timer is None:
            job.timer = self._clock.callLater(GATHER, self._write_some, job)

    def _write_some(self, job: Job) -> None:
        """Some recipients are done while others take long: their results do not wait with them."""
        job.timer = None
        self._write_down(job).addErrback(
            lambda failure: self._log.failure("{id} could not be settled", failure, id=job.entry.id)
        )

    def _write_down(self, job: Job) -> Deferred[None]:
        results, job.results = job.results, {}
        return self._settling.settle(job.entry, results)

    def _finished(self, outcome: Failure | None, job: Job) -> None:
        if isinstance(outcome, Failure):
            self._log.failure("{id} could not be settled", outcome, id=job.entry.id)
        self._jobs.discard(job)
        if self._stopped is not None:
            self._maybe_stopped()
        elif job.late:
            self.wake()
        elif self._timer is None and not self._claiming:  # it was full
            self._timer = self._clock.callLater(REFILL, self._time_to_wake)


def _behind(recipient: Recipient, destinations: tuple[Destination, ...]) -> tuple[Destination, ...]:
    """The destinations that are still to be served.

    A name may stand for itself and for others. When it was expanded all of them had their share; what
    was put into its place by that name means the user who has it, and nobody else.
    """
    own = tuple(replace(where, sender=None) for where in destinations if where.path == recipient.path)
    return own or destinations


def _is_another(recipient: Recipient, where: Destination) -> bool:
    """Whether a recipient of another kind has to take the place of this one, though it leads to one place.

    Behind a list its owner is told of failures. Held mail is found by the path in its row, which must
    be the one that leads to the peer.
    """
    if where.sender is not None:
        return True
    return isinstance(where.place, Held) and recipient.path.next_host.lower() != where.place.domain.lower()


def _tell(known: Deferred[Results], _job: Job, recipient: Recipient, result: Result) -> None:
    known.callback({recipient: result})
