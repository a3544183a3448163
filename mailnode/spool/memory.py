"""A spool in memory, for tests and for nodes that may forget: the same door, nothing durable."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from mailnode.interfaces import (
    NOT_HELD,
    ISpool,
    ISpoolDraft,
    QueuedMessage,
    QueuedRecipient,
    RepeatedError,
    Selection,
    Settlement,
)
from mailnode.mail import CHUNK, Body, Entry, Envelope, Outcome, Recipient, Result
from mailnode.spool import ids
from mailnode.spool.errors import SpoolError
from mailnode.spool.rows import State, next_host, numbered, reply_text
from mailnode.spool.selection import picks, rule, selects

LIMIT: Final = 256 << 20  # octets of all bodies together
LONGEST: Final = 6 * 3600.0
_DONE: Final = (Outcome.DELIVERED, Outcome.FAILED)


@dataclass(slots=True)
class _Row:
    recipient: Recipient
    state: State
    due: float
    reply: str = ""
    recovered: bool = False


@dataclass(slots=True)
class _Message:
    id: str
    envelope: Envelope
    body: Body
    arrived: float
    rows: dict[int, _Row]
    warned: bool = False

    def entry(self, rows: Sequence[_Row]) -> Entry:
        envelope = replace(self.envelope, recipients=tuple(row.recipient for row in rows))
        recovered = any(row.recovered for row in rows)
        return Entry(self.id, envelope, self.body, self.arrived, self.warned, recovered)

    def seen(self) -> QueuedMessage:
        recipients = tuple(
            QueuedRecipient(
                row.recipient.path,
                row.recipient.mode,
                row.state.value,
                row.recipient.attempts,
                row.due,
                row.reply,
                row.recipient.notify,
                row.recipient.orcpt,
                row.recipient.original,
            )
            for row in self.rows.values()
        )
        envelope = self.envelope
        return QueuedMessage(
            self.id,
            envelope.mode,
            envelope.reverse_path,
            recipients,
            self.body.size,
            self.arrived,
            envelope.terms,
        )


@implementer(ISpoolDraft)
class MemoryDraft:
    """A body in pieces."""

    def __init__(self, arrived: float) -> None:
        self.size = 0
        self.arrived = arrived  # seconds since the epoch
        self._pieces: list[bytes] = []
        self._ended = False

    def write(self, piece: bytes) -> Deferred[None] | None:
        """Takes more octets; never asks for a pause."""
        if self._ended:
            raise SpoolError("the draft has ended")
        self._pieces.append(piece)
        self.size += len(piece)
        return None

    def head(self) -> bytes:
        """The first octets written, up to 64 KiB."""
        return b"".join(self._pieces)[:CHUNK]

    def discard(self) -> None:
        """Forgets it."""
        self._ended = True
        self._pieces.clear()

    def finish(self) -> Body:
        """Ends the draft. SpoolError if it has ended before."""
        if self._ended:
            raise SpoolError("the draft has ended")
        data = b"".join(self._pieces)
        self.discard()
        return Body(len(data), data)


@implementer(ISpool)
class MemorySpool:
    """As SqliteSpool, without the disk: `limit` octets of bodies, then SpoolError and `has_room` False."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        randbits: Callable[[int], int] | None = None,
        longest: float = LONGEST,
        limit: int = LIMIT,
    ) -> None:
        self._clock = clock
        self._longest = longest
        self._limit = limit
        randbits = randbits or ids.randbits()
        self._ids = ids.Ids(clock, randbits)
        self._messages: dict[str, _Message] = {}
        self._size = 0  # octets of all bodies
        self._taken: set[bytes] = set()
        self._closed = False

    # ------------------------------------------------------------------ new messages

    def new_id(self) -> str:
        """A new message id: sortable by time, safe in a file name and a header field."""
        return self._ids.new()

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` octets can be taken now."""
        return self._size + size <= self._limit

    def lock_dispatch(self) -> bool:
        """Whether we may work this spool off: nobody else can."""
        return True

    def draft(self) -> MemoryDraft:
        """A new empty draft."""
        return MemoryDraft(self._clock())

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
        """Takes the message; its entry if something of it is leased to us. RepeatedError if something was
        accepted under the key `once` before; keys are remembered as long as the spool lives."""
        if not isinstance(draft, MemoryDraft):
            raise TypeError("the draft of another spool")
        try:
            return succeed(self._accept(id, envelope, draft, lease, held, once))
        except (OSError, ValueError, RepeatedError) as error:
            draft.discard()
            return fail(error)

    def _accept(
        self,
        id: str,
        envelope: Envelope,
        draft: MemoryDraft,
        lease: bool,
        held: Mapping[str, float],
        once: bytes,
    ) -> Entry | None:
        ids.parse(id)
        if not envelope.recipients:
            raise ValueError("a message has recipients")
        if self._closed:
            raise SpoolError("the spool is closed")
        if id in self._messages:
            raise SpoolError(errno.EEXIST, "there is such a message")
        if not self.has_room(draft.size):
            raise SpoolError(errno.ENOSPC, "the spool is full")
        if once in self._taken:
            raise RepeatedError
        now, body = self._clock(), draft.finish()
        if once:
            self._taken.add(once)
        state = State.LEASED if lease else State.QUEUED
        rows = {it.number: _Row(it, state, now) for it in numbered(envelope.recipients)}
        for row in rows.values():
            if (host := next_host(row.recipient.path)) in held:
                row.state, row.due = State.HELD, held[host]
        message = self._messages[id] = _Message(id, envelope, body, draft.arrived, rows)
        self._size += body.size
        leased = [row for row in rows.values() if row.state is State.LEASED]
        return message.entry(leased) if leased else None

    # ------------------------------------------------------------------ leases

    def _is_due(self, row: _Row, now: float) -> bool:
        return row.state is State.QUEUED and not now < row.due <= now + self._longest

    def claim(self, limit: int) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with due recipients, the oldest due first."""
        now = self._clock()
        found: list[tuple[bool, float, str]] = []
        for message in self._messages.values():
            dues = [row.due for row in message.rows.values() if self._is_due(row, now)]
            if dues:  # those that are due in truth go before those of a clock that was set back
                found.append((min(dues) > now, min(dues), message.id))
        return succeed(
            [self._lease(id, lambda row: self._is_due(row, now)) for *_, id in sorted(found)[:limit]]
        )

    def claim_held(
        self, domains: Sequence[str], limit: int, others: bool = False, but: Collection[str] = ()
    ) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with HELD recipients in `domains`, oldest first, or with `others` not
        in them; none of those with the ids `but`."""
        wanted = {domain.lower() for domain in domains}

        def is_wanted(row: _Row) -> bool:
            return row.state is State.HELD and (next_host(row.recipient.path) in wanted) is not others

        found = [
            (next_host(row.recipient.path).encode("utf-8", "surrogatepass") if others else b"", message.id)
            for message in self._messages.values()
            if message.id not in but
            for row in message.rows.values()
            if is_wanted(row)
        ]
        ids = list(dict.fromkeys(id for _, id in sorted(found)))
        return succeed([self._lease(id, is_wanted) for id in ids[:limit]])

    def claim_overdue(self, limit: int) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with HELD recipients that somebody has to look after by now."""
        now = self._clock()

        def is_overdue(row: _Row) -> bool:
            return row.state is State.HELD and row.due <= now

        found = [
            (row.due, message.id)
            for message in self._messages.values()
            for row in message.rows.values()
            if is_overdue(row)
        ]
        ids = list(dict.fromkeys(id for _, id in sorted(found)))
        return succeed([self._lease(id, is_overdue) for id in ids[:limit]])

    def waiting(self, domains: Collection[str], states: Collection[str]) -> Deferred[int]:
        """How many messages have recipients in `domains` that are in one of `states`."""
        wanted = {domain.lower() for domain in domains}
        return succeed(
            sum(
                any(
                    next_host(row.recipient.path) in wanted and row.state.value in states
                    for row in message.rows.values()
                )
                for message in self._messages.values()
            )
        )

    def _lease(self, id: str, which: Callable[[_Row], bool]) -> Entry:
        rows = [row for row in self._messages[id].rows.values() if which(row)]
        for row in rows:
            row.state = State.LEASED
        return self._messages[id].entry(rows)

    def settle(self, settlement: Settlement) -> Deferred[None]:
        """Writes down results of recipients that are leased."""
        if not ids.is_id(settlement.entry):
            return fail(ValueError("not a message id"))
        message = self._messages.get(settlement.entry)
        if message is None:
            return succeed(None)
        gone = []
        for recipient, result in settlement.results:
            row = message.rows.get(recipient.number)
            if row is None or row.state is not State.LEASED:
                continue
            if result.forward:
                self._forward(message, row, result, settlement)
            elif result.outcome not in _DONE:
                self._put_back(row, result, settlement)
            else:
                gone.append(recipient.number)
        for number in gone:
            message.rows.pop(number, None)
        message.warned = message.warned or settlement.warned
        self._drop_if_empty(message)
        return succeed(None)

    def _put_back(self, row: _Row, result: Result, settlement: Settlement) -> None:
        if result.outcome is Outcome.UNTRIED:
            row.state, row.due = State.QUEUED, self._clock()
            return
        row.reply, row.recovered = reply_text(result.reply), False
        if result.outcome is Outcome.HELD:
            row.state, row.due = State.HELD, settlement.look
            return
        row.state, row.due = State.QUEUED, settlement.due
        row.recipient = replace(row.recipient, attempts=row.recipient.attempts + 1)

    def _forward(self, message: _Message, parent: _Row, result: Result, settlement: Settlement) -> None:
        number = max(message.rows)
        del message.rows[parent.recipient.number]
        for child, after in result.forward:
            if after.outcome not in _DONE:
                number += 1
                row = message.rows[number] = _Row(replace(child, number=number), State.LEASED, settlement.due)
                self._put_back(row, after, settlement)

    def _drop_if_empty(self, message: _Message) -> None:
        if not message.rows:
            del self._messages[message.id]
            self._size -= message.body.size

    def release_leases(self) -> Deferred[int]:
        """Puts everything LEASED back to QUEUED and due now, marked as recovered."""
        now, count = self._clock(), 0
        for message in self._messages.values():
            leased = [row for row in message.rows.values() if row.state is State.LEASED]
            count += bool(leased)
            for row in leased:
                row.state, row.due, row.recovered = State.QUEUED, now, True
        return succeed(count)

    # ------------------------------------------------------------------ looking at it

    def _rows(self) -> Iterator[_Row]:
        for message in self._messages.values():
            yield from message.rows.values()

    def next_due(self) -> Deferred[float | None]:
        """When the next QUEUED recipient is due, None if there is none."""
        now = self._clock()
        dues = [row.due for row in self._rows() if row.state is State.QUEUED]
        if not dues:
            return succeed(None)
        return succeed(now if max(dues) > now + self._longest and min(dues) > now else min(dues))

    def _matching(self, selection: Selection) -> Iterable[tuple[_Message, QueuedMessage]]:
        now = self._clock()
        for id in sorted(self._messages):
            message = self._messages[id]
            if selects(selection, seen := message.seen(), now):
                yield message, seen

    def listing(self, selection: Selection, limit: int = 1000) -> Deferred[list[QueuedMessage]]:
        """Messages that match, oldest first."""
        found: list[QueuedMessage] = []
        for _, seen in self._matching(selection):
            if len(found) == limit:
                break
            found.append(seen)
        return succeed(found)

    def body(self, id: str) -> Deferred[Body | None]:
        """The body of a message, None if there is no such message."""
        message = self._messages.get(id)
        return succeed(message.body if message is not None else None)

    def change(self, selection: Selection, action: str) -> Deferred[int]:
        """`retry`, `hold`, `release` or `delete`; fires with how many messages were changed."""
        states, following = rule(action)
        now, count = self._clock(), 0
        for message, seen in self._matching(selection):
            numbers = [
                number
                for number, it in zip(message.rows, seen.recipients, strict=True)
                if it.state in states and picks(selection, it)
            ]
            for number in numbers:
                row = message.rows[number]
                if following is None:
                    del message.rows[number]
                    continue
                row.state = following
                row.due = now if following is State.QUEUED else row.due
            self._drop_if_empty(message)
            count += bool(numbers)
        return succeed(count)

    def close(self) -> Deferred[None]:
        """Takes no more."""
        self._closed = True
        return succeed(None)
