"""The embedded spool: SQLite behind one writer thread, large bodies as files (docs/spool.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from mailnode.batch import Batch, BatchNow, BatchThread
from mailnode.interfaces import (
    NOT_HELD,
    ISpool,
    ISpoolDraft,
    QueuedMessage,
    RepeatedError,
    Selection,
    Settlement,
)
from mailnode.mail import Body, Entry, Envelope
from mailnode.spool import ids, schema
from mailnode.spool.bodies import BodyStore, sync_folder
from mailnode.spool.draft import Draft, report
from mailnode.spool.errors import DoubtError, SpoolError
from mailnode.spool.ledger import Acceptance, Claimed, Ledger, Repeated
from mailnode.spool.locks import Owners, SoleLock, locked
from mailnode.spool.rows import State, message_row, next_host, numbered, recipient_row
from mailnode.spool.selection import rule
from mailnode.spool.transactions import Change, Look, Operation, Settle, Transactions
from mailnode.spool.writer_process import CROWD, Writer

T = TypeVar("T")

MIN_FREE: Final = 16 << 20  # octets of disk that new mail leaves free
LONGEST: Final = 6 * 3600.0  # seconds; longer than any retry interval
GATHER: Final = 0.001  # seconds that the writer waits for more while many write: one sync for all of them
NO_HURRY: Final = 0.008  # seconds that a message waits for others of a client that waits for none of them
PATIENCE: Final = 0.02  # seconds that results wait for a commit that somebody waits for
_ROOM_AGE: Final = 1.0  # seconds that a look at the free space is good for
_DEAD_AGE: Final = 60.0  # seconds between looks for owners that died with leases
TAKEN_KEPT: Final = 30 * 86400.0  # seconds that the keys of what was accepted once are remembered

_log = Logger()


@implementer(ISpool)
class SqliteSpool:
    """A spool in the folder `data`. `open` comes before all else, once the process has forked.

    `call_from_thread` is `reactor.callFromThread`; None does everything in the calling thread (tests).
    `clock` gives seconds since the epoch, `longest` is the longest retry interval in seconds, `min_free`
    octets. Errors: SpoolError, an OSError. Several processes may have the same folder open.
    """

    def __init__(
        self,
        data: str,
        call_from_thread: Callable[..., object] | None,
        clock: Callable[[], float],
        *,
        randbits: Callable[[int], int] | None = None,
        longest: float = LONGEST,
        min_free: int = MIN_FREE,
    ) -> None:
        self._data = data
        self._path = os.path.join(data, "spool.sqlite")
        self._clock = clock
        self._longest = longest
        self._min_free = min_free
        self._free = (float("-inf"), 0)  # when looked at, octets
        self._looked_for_dead = clock()
        randbits = randbits or ids.randbits()
        self._ids = ids.Ids(clock, randbits)
        self._owners = Owners(os.path.join(data, "owners"), f"{randbits(64):016x}")
        self._dispatch = SoleLock(os.path.join(data, "dispatch.lock"))
        self._bodies = BodyStore(data, call_from_thread)
        crowd = CROWD if call_from_thread is not None else 0
        self._transactions = Writer(self._path, self._owners.owner, self._bodies.folder, crowd)
        self._looks = Transactions(lambda: self._ledger(writes=False))
        self._writer = _batch("spool-writer", self._transactions.work, call_from_thread)
        self._reader = _batch("spool-reader", self._looks.work, call_from_thread)
        self._closed = False

    def _ledger(self, writes: bool) -> Ledger:
        return Ledger(schema.connect(self._path, writes), self._owners.owner, self._bodies.folder)

    # ------------------------------------------------------------------ open and close

    def open(self) -> None:
        """Creates what is missing, and removes what dead processes left half done. Waits for the disk.

        SpoolError if the tables are a newer version's or cannot be opened, OSError for the folder.
        """
        os.makedirs(self._data, 0o700, exist_ok=True)
        os.makedirs(os.path.join(self._data, "owners"), 0o700, exist_ok=True)
        self._bodies.prepare()
        with locked(os.path.join(self._data, "open.lock")):
            schema.prepare(self._path)
            sync_folder(self._data)
            ledger = self._ledger(writes=False)
            try:
                removed = self._bodies.clean(ledger.body_files(), ledger.has_file)
            finally:
                ledger.connection.close()
        if removed:
            _log.info("the spool removed {removed} unfinished bodies", removed=removed)

    def lock_dispatch(self) -> bool:
        """Whether we may work this spool off: true for one process at a time, until it ends or closes."""
        return self._dispatch.take()

    def close(self) -> Deferred[None]:
        """Commits what is under way and stops."""
        if self._closed:
            return self._bodies.stop()
        self._closed = True
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        try:
            await self._bodies.do(_nothing)  # behind the bodies that are being finished
            if self._transactions.has_child:  # it would be killed with the thread that started it
                await self._writer.submit(Look(lambda _: self._transactions.dismiss())).addErrback(report)
            await self._writer.stop()
            await self._reader.stop()
            await self._bodies.do(self._looks.close)
            await self._bodies.do(self._transactions.close)  # folds the log back, so not in the reactor
        finally:
            self._owners.leave()
            self._dispatch.release()
            await self._bodies.stop()

    # ------------------------------------------------------------------ new messages

    def new_id(self) -> str:
        """A new message id: sortable by time, safe in a file name and a header field."""
        return self._ids.new()

    def has_room(self, size: int) -> bool:
        """Whether `size` octets leave enough of the disk free; the disk is asked once a second."""
        now = self._clock()
        when, free = self._free
        if not 0 <= now - when < _ROOM_AGE:
            try:
                status = os.statvfs(self._data)
                free = status.f_bavail * status.f_frsize
            except OSError as error:
                _log.error("cannot look at the disk of the spool: {error}", error=error.strerror)
                free = 0
            self._free = (now, free)
        return free - size >= self._min_free

    def draft(self) -> Draft:
        """A new empty draft."""
        return Draft(self._bodies, self._ids.new, self._clock())

    def accept(
        self,
        id: str,
        envelope: Envelope,
        draft: ISpoolDraft,
        lease: bool,
        held: Mapping[str, float] = NOT_HELD,
        once: bytes = b"",
        hurry: bool = True,
    ) -> Deferred[Entry | None]:
        """Makes the message durable; fires after the commit, with its entry if something of it is leased
        to us. RepeatedError if something was accepted under the key `once` before. Without `hurry` it waits
        a moment for others."""
        if not isinstance(draft, Draft):
            raise TypeError("the draft of another spool")
        try:
            if self._closed:
                raise SpoolError("the spool is closed")
            number = ids.parse(id)
            if not envelope.recipients:
                raise ValueError("a message has recipients")
            if lease:
                self._owners.announce()
            body = draft.finish(id)
        except (OSError, ValueError) as error:
            draft.discard()
            return fail(error)
        if isinstance(body, Body):
            return self._commit(number, envelope, body, draft.arrived, lease, held, once, hurry)
        answer: Deferred[Entry | None] = Deferred()  # whoever cancels it does not take the body away
        committed = self._commit_file(number, envelope, draft, body, lease, held, once)
        Deferred.fromCoroutine(committed).chainDeferred(answer)
        return answer

    async def _commit_file(
        self,
        number: int,
        envelope: Envelope,
        draft: Draft,
        body: Deferred[Body],
        lease: bool,
        held: Mapping[str, float],
        once: bytes,
    ) -> Entry | None:
        try:
            entry = await self._commit(number, envelope, await body, draft.arrived, lease, held, once)
        except DoubtError:
            draft.committed()  # if it was not, the next start removes the file
            raise
        except Exception:
            await draft.refused()
            raise
        draft.committed()
        return entry

    def _commit(
        self,
        number: int,
        envelope: Envelope,
        body: Body,
        arrived: float,
        lease: bool,
        held: Mapping[str, float],
        once: bytes,
        hurry: bool = True,
    ) -> Deferred[Entry | None]:
        now = self._clock()
        recipients = numbered(envelope.recipients)
        message, rows = message_row(number, envelope, body, arrived), []
        if held:
            waiting = [it for it in recipients if next_host(it.path) in held]
            recipients = tuple(it for it in recipients if next_host(it.path) not in held)
            rows = [recipient_row(number, it, State.HELD, held[next_host(it.path)]) for it in waiting]
        entry = None
        state, owner = State.QUEUED, None
        if lease and recipients:
            mode, sender = envelope.mode, envelope.reverse_path
            leased = Envelope(mode, sender, recipients, envelope.terms, envelope.origin)
            entry = Entry(ids.show(number), leased, body, arrived)
            state, owner = State.LEASED, self._owners.owner
        rows += [recipient_row(number, it, state, now, "", owner) for it in recipients]
        committed = self._writer.submit(Acceptance(message, rows, entry, once), 0.0 if hurry else NO_HURRY)
        return committed.addCallback(_first) if once else committed

    # ------------------------------------------------------------------ leases

    def claim(self, limit: int) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with due recipients, the oldest due first."""
        now = self._clock()
        if not 0 <= now - self._looked_for_dead < _DEAD_AGE:
            self._looked_for_dead = now
            self._release(lambda ledger, dead: dead).addErrback(report)
            self._change(lambda ledger: ledger.forget_taken(now - TAKEN_KEPT)).addErrback(report)
        return self._lease(lambda ledger: ledger.claim(now, self._longest, limit))

    def claim_held(
        self, domains: Sequence[str], limit: int, others: bool = False, but: Collection[str] = ()
    ) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with HELD recipients in `domains`, oldest first, or with `others` not
        in them; none of those with the ids `but`."""
        wanted, left = [domain.lower() for domain in domains], ids.numbers(tuple(but))
        return self._lease(lambda ledger: ledger.claim_held(wanted, limit, others, left))

    def claim_overdue(self, limit: int) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with HELD recipients that somebody has to look after by now."""
        now = self._clock()
        return self._lease(lambda ledger: ledger.claim_overdue(now, limit))

    def _lease(self, claim: Callable[[Ledger], Claimed]) -> Deferred[list[Entry]]:
        try:
            self._owners.announce()
        except OSError as error:
            return fail(error)
        return self._change(claim).addCallback(_entries)

    def settle(self, settlement: Settlement) -> Deferred[None]:
        """Writes down results of recipients that are leased to us."""
        try:
            id = ids.parse(settlement.entry)
        except ValueError as error:
            return fail(error)
        # Nobody waits for it, and lost in a crash it means one more look at the mailbox: it goes with
        # the next commit that somebody waits for.
        settle = Settle(self._clock(), id, settlement)
        return self._write(settle, PATIENCE).addCallback(self._unlink)

    def _unlink(self, gone: list[int]) -> None:
        for id in gone:
            self._bodies.unlink(id).addErrback(report)

    def release_leases(self) -> Deferred[int]:
        """Puts back what is leased to us or to owners that are gone; not what a living process has."""
        alive = self._owners.is_other_and_alive
        return self._release(lambda ledger, dead: [it for it in ledger.owners() if not alive(it)])

    def _release(self, loose: Callable[[Ledger, list[str]], Sequence[str | None]]) -> Deferred[int]:
        """Releases the leases of some owners; `loose` names them, given those known to be dead."""
        now = self._clock()

        def release(ledger: Ledger) -> tuple[int, list[str]]:
            dead = self._owners.dead()
            return sum(ledger.release(owner, now) for owner in loose(ledger, dead)), dead

        return self._change(release).addCallback(self._forget)

    def _forget(self, released: tuple[int, list[str]]) -> int:
        # After the commit: a crash before it must leave the dead to be found again.
        count, dead = released
        for owner in dead:
            self._owners.forget(owner)
        return count

    # ------------------------------------------------------------------ looking at it

    def next_due(self) -> Deferred[float | None]:
        """When the next QUEUED recipient is due, None if there is none."""
        now = self._clock()
        return self._write(Look(lambda ledger: ledger.next_due(now, self._longest)))

    def waiting(self, domains: Collection[str], states: Collection[str]) -> Deferred[int]:
        """How many messages have recipients in `domains` that are in one of `states`."""
        wanted = [domain.lower() for domain in domains]
        return self._look(lambda ledger: ledger.waiting(wanted, states))

    def listing(self, selection: Selection, limit: int = 1000) -> Deferred[list[QueuedMessage]]:
        """Messages that match, oldest first."""
        now = self._clock()
        return self._look(lambda ledger: ledger.listing(selection, now, limit))

    def body(self, id: str) -> Deferred[Body | None]:
        """The body of a message, None if there is no such message."""
        number = ids.parse(id) if ids.is_id(id) else -1
        return self._look(lambda ledger: ledger.body(number))

    def change(self, selection: Selection, action: str) -> Deferred[int]:
        """`retry`, `hold`, `release` or `delete`; fires with how many messages were changed."""
        rule(action)
        now = self._clock()
        changed = self._change(lambda ledger: ledger.change(selection, action, now))
        return changed.addCallback(self._changed)

    def _changed(self, result: tuple[int, list[int]]) -> int:
        count, gone = result
        self._unlink(gone)
        return count

    # ------------------------------------------------------------------ to the threads

    def _write(self, operation: Operation, patience: float = 0.0) -> Deferred[Any]:
        if self._closed:
            return fail(SpoolError("the spool is closed"))
        return self._writer.submit(operation, patience)

    def _look(self, act: Callable[[Ledger], T]) -> Deferred[T]:
        if self._closed:
            return fail(SpoolError("the spool is closed"))
        return cast("Deferred[T]", self._reader.submit(Look(act)))

    def _change(self, act: Callable[[Ledger], T]) -> Deferred[T]:
        return cast("Deferred[T]", self._write(Change(act)))


def _batch(
    name: str, work: Callable[[list[Operation]], list[Any]], call_from_thread: Callable[..., object] | None
) -> Batch[Operation, Any]:
    if call_from_thread is None:
        return BatchNow(work)
    return BatchThread(name, work, call_from_thread, gather=GATHER)


def _first(entry: Entry | Repeated | None) -> Entry | None:
    if isinstance(entry, Repeated):
        raise RepeatedError
    return entry


def _nothing() -> None:
    """A step that only marks a place in a queue."""


def _entries(claimed: Claimed) -> list[Entry]:
    for id in claimed.bad:
        _log.error("spool entry {id} cannot be read and was set aside", id=id)
    return claimed.entries
