"""Intake: the front door. It begins transactions, and puts what was accepted into the spool."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.custody import NO_MEMORY, NO_STORAGE, Custody, House
from mailnode.in_hand import InHand
from mailnode.interfaces import (
    Attempt,
    ICustody,
    IDispatch,
    IHolding,
    IIntake,
    INotices,
    IRouting,
    IShortWay,
    ISpool,
    ISpoolDraft,
    ITerminals,
)
from mailnode.journal import Journal
from mailnode.mail import (
    CHUNK,
    PLAIN_TERMS,
    Body,
    Client,
    Destination,
    Entry,
    Envelope,
    Mode,
    Outcome,
    Path,
    Reply,
    Result,
    Rights,
    Terms,
)


@implementer(IIntake)
class Intake:
    """`dispatch` stays None in a process that only receives: mail is then QUEUED.

    `notices` tells of what is settled here already: messages shown on a terminal, names expanded.
    `in_hand` bounds how much of what is being received is in memory; our own notices are few and small,
    and have to go in.
    """

    def __init__(
        self,
        hostname: str,
        routing: IRouting,
        terminals: ITerminals,
        spool: ISpool,
        now: Callable[[], float],
        max_hops: int = 50,
        header_size: int = 1 << 20,
        in_hand: InHand | None = None,
    ) -> None:
        log = Journal("mailnode.intake")
        self.in_hand = in_hand or InHand()
        self.house = House(hostname, routing, terminals, spool, now, max_hops, header_size, self.in_hand, log)
        self.dispatch: IDispatch | None = None
        self.short_way: IShortWay | None = None  # without it everything goes by the spool
        self.notices: INotices | None = None
        self.holding: IHolding | None = None  # without it nothing is HELD by the commit that accepts it

    def begin(
        self,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
        once: str = "",
    ) -> ICustody | Reply:
        if self.in_hand.is_full:
            return NO_MEMORY
        if not self.house.spool.has_room(size):
            return NO_STORAGE
        return Custody(self.house, self, client, rights, mode, reverse_path, terms, once)

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        spool = self.house.spool
        id = spool.new_id()
        draft = spool.draft()
        for chunk in body.chunks():
            draft.write(chunk)
        return self.store(id, envelope, draft).addCallback(lambda _: id)

    def store(
        self,
        id: str,
        envelope: Envelope,
        draft: ISpoolDraft,
        once: bytes = b"",
        patient: bool = False,
        hurry: bool = True,
        where: Destination | None = None,
    ) -> Deferred[Result | None]:
        """Into the mailbox `where` if it is for that one and that is quick (fires with the result), else into
        the spool (None); whoever works it off has it at once if there is room. Errbacks as `accept`."""
        dispatch = self.dispatch
        lease = dispatch is not None and dispatch.has_room(patient)
        tried: Deferred[Attempt] | None = None
        if where is not None and self.short_way is not None and lease and draft.size <= CHUNK:
            entry = Entry(id, envelope, Body.of(draft.head()), draft.arrived)
            tried = self.short_way.deliver(entry, where)
        if tried is None:
            return self._spool(id, envelope, draft, lease, once, patient, hurry)

        def is_it_safe(attempt: Attempt) -> Result | Deferred[Result | None]:
            if attempt.result is not None and attempt.result.outcome is Outcome.DELIVERED:
                draft.discard()
                return attempt.result
            spooled = self._spool(id, envelope, draft, True, once, patient, hurry, attempt)
            return spooled.addErrback(_or_delivered, attempt)

        return tried.addCallback(is_it_safe)

    def _spool(
        self,
        id: str,
        envelope: Envelope,
        draft: ISpoolDraft,
        lease: bool,
        once: bytes,
        patient: bool,
        hurry: bool,
        attempt: Attempt | None = None,
    ) -> Deferred[Result | None]:
        dispatch, holding, held = self.dispatch, self.holding, self._held(envelope)

        def stored(entry: Entry | None) -> None:
            if held and holding is not None:
                self.house.log.info("{id} held for {hosts}", id=id, hosts=", ".join(held))
                holding.arrived(held)
            if dispatch is None:
                return
            if entry is not None:
                dispatch.take(entry, attempt)
            elif any(it.path.next_host.lower() not in held for it in envelope.recipients):
                dispatch.wake(patient)

        accepted = self.house.spool.accept(id, envelope, draft, lease, held, once, hurry)
        return accepted.addCallback(stored)

    def _held(self, envelope: Envelope) -> dict[str, float]:
        """The next hosts for which mail waits to be fetched, and when somebody looks after it: such mail is
        HELD by the commit that accepts it, and open lines have it a moment later."""
        held: dict[str, float] = {}
        if self.holding is None:
            return held
        now = self.house.now()
        for recipient in envelope.recipients:
            host = recipient.path.next_host.lower()
            if host not in held and self.house.routing.is_held(host):
                look = self.holding.look(recipient, now, False)
                if look is not None:
                    held[host] = look
        return held


def _or_delivered(failure: Failure, attempt: Attempt) -> Deferred[Result | None]:
    """The spool refuses what a mailbox may have in a moment: a refusal now would bring it twice."""

    def ended(result: Result) -> Result | None:
        if result.outcome is not Outcome.DELIVERED:
            failure.raiseException()
        return result

    return fail(failure) if attempt.later is None else attempt.later.addCallback(ended)
