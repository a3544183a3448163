"""The statements of the spool over SQLite: each method is a part of a transaction that someone else commits.

Rows of many operations go in one statement wherever they can: each step of a statement hands the
interpreter lock over and has to win it back from a busy reactor.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import compress, groupby
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from mailnode.interfaces import QueuedMessage, Selection, Settlement
from mailnode.mail import PLAIN_TERMS, Body, Entry, Envelope, Mode, Outcome, Recipient, Result
from mailnode.spool import ids
from mailnode.spool.errors import CorruptRowError
from mailnode.spool.rows import (
    ARRIVED,
    MESSAGE_COLUMNS,
    RECIPIENT_COLUMNS,
    UNREADABLE,
    Row,
    State,
    Text,
    read_body,
    read_header,
    read_queued,
    read_recipient,
    recipient_row,
    reply_text,
    write_text,
)
from mailnode.spool.selection import picks, rule, selects

_ROWS: Final = 32  # rows in one INSERT; each count is a statement of its own in the cache
_WIDTH: Final = RECIPIENT_COLUMNS.count(",") + 1
# A state by which SQL narrows down; a row of any of them that cannot be read is shown as bad.
_SEEN: Final = (State.QUEUED.value, State.LEASED.value, State.HELD.value, State.STOPPED.value)
_SCAN: Final = 4096  # due recipients looked at in one claim, so that lists do not make it long

# `+state` keeps the planner off the partial indexes where the message is known already.
_LEASE = f"""UPDATE recipient SET state = 'leased', owner = ? WHERE +state = ?
    AND message IN (SELECT value FROM json_each(?)) AND {{}} RETURNING {RECIPIENT_COLUMNS}"""
_LEASE_DUE = _LEASE.format("(+due <= ? OR +due > ?)")
_LEASE_HELD = _LEASE.format("+next_host IN (SELECT value FROM json_each(?))")
_LEASE_OVERDUE = _LEASE.format("+due <= ?")
_LEASE_OTHERS = _LEASE.format("+next_host NOT IN (SELECT value FROM json_each(?))")
_DUE = """SELECT message FROM recipient WHERE state = 'queued' AND due <= ?
    ORDER BY due, message LIMIT ?"""
_ASTRAY = """SELECT message FROM recipient WHERE state = 'queued' AND due > ?
    ORDER BY due, message LIMIT ?"""
_HELD = """SELECT DISTINCT message FROM recipient INDEXED BY recipient_held
    WHERE state = 'held' AND next_host = ? AND message NOT IN (SELECT value FROM json_each(?))
    ORDER BY message LIMIT ?"""
_OVERDUE = """SELECT message FROM recipient WHERE state = 'held' AND due <= ?
    ORDER BY due, message LIMIT ?"""
_WAITING = """SELECT count(DISTINCT message) FROM recipient
    WHERE next_host IN (SELECT value FROM json_each(?)) AND +state IN (SELECT value FROM json_each(?))"""
# From host to host along the index, whatever the number of messages for each.
_HELD_HOSTS = """WITH RECURSIVE hosts (host) AS (
    SELECT min(next_host) FROM recipient INDEXED BY recipient_held WHERE state = 'held' UNION ALL SELECT
    (SELECT min(next_host) FROM recipient INDEXED BY recipient_held WHERE state = 'held' AND next_host > host)
    FROM hosts WHERE host IS NOT NULL) SELECT host FROM hosts WHERE host IS NOT NULL"""
_NEXT = "SELECT min(due) FROM recipient WHERE state = 'queued'"
_LATEST = "SELECT max(due) FROM recipient WHERE state = 'queued'"
_PAIRS = "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
_DELETE = f"""DELETE FROM recipient WHERE (message, number) IN {_PAIRS}
    AND +state = 'leased' AND owner = ?"""
_EMPTIED = """DELETE FROM message WHERE id IN (SELECT value FROM json_each(?))
    AND NOT EXISTS (SELECT 1 FROM recipient WHERE message = id) RETURNING id, file"""
_LATER = """UPDATE recipient SET state = 'queued', due = ?, attempts = attempts + 1, reply = ?,
    owner = NULL, recovered = 0 WHERE message = ? AND number = ? AND +state = 'leased' AND owner = ?"""
_HOLD = """UPDATE recipient SET state = 'held', due = ?, reply = ?,
    owner = NULL, recovered = 0 WHERE message = ? AND number = ? AND +state = 'leased' AND owner = ?"""
_UNTRIED = """UPDATE recipient SET state = 'queued', due = ?,
    owner = NULL WHERE message = ? AND number = ? AND +state = 'leased' AND owner = ?"""
_TAKE = "INSERT INTO taken (key, at) VALUES (?, ?) ON CONFLICT DO NOTHING"
_RELEASE = """UPDATE recipient SET state = 'queued', due = ?, owner = NULL, recovered = 1
    WHERE +state = 'leased' AND owner IS ? RETURNING message"""


class Acceptance(NamedTuple):
    """A message on its way into the tables; with a key, only if nothing was accepted under it."""

    message: Row
    recipients: list[Row]
    entry: Entry | None = None
    once: bytes = b""


class Repeated(NamedTuple):
    """What became of an acceptance whose key was there."""


class Claimed(NamedTuple):
    """What a claim leased, and the ids of messages of which something was set aside as unreadable."""

    entries: list[Entry]
    bad: list[str]


class Ledger:
    """The spool's tables through one connection, for one owner of leases."""

    def __init__(self, connection: sqlite3.Connection, owner: str, bodies: str) -> None:
        self.connection = connection
        self._execute = connection.execute
        self._owner = owner
        self._bodies = bodies

    # ------------------------------------------------------------------ in and out

    def accept(self, acceptances: Sequence[Acceptance]) -> list[Entry | Repeated | None]:
        """Inserts messages with their recipients, but for those that are repeated; gives their entries."""
        if any(it.once for it in acceptances):
            fresh = [not it.once or self._is_first(it) for it in acceptances]
        else:
            fresh = [True] * len(acceptances)
        new = list(compress(acceptances, fresh))
        self._insert("message", [it.message for it in new])
        self._insert("recipient", [row for it in new for row in it.recipients])
        return [it.entry if first else Repeated() for it, first in zip(acceptances, fresh, strict=True)]

    def _is_first(self, it: Acceptance) -> bool:
        arrived = it.message[ARRIVED]
        return bool(self._execute(_TAKE, (it.once, arrived)).rowcount)

    def forget_taken(self, before: float) -> None:
        """Forgets the keys of what was accepted before a time: nobody repeats that any more."""
        self._execute("DELETE FROM taken WHERE at < ?", (before,))

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        places = "(" + ",".join("?" * len(rows[0])) + ")" if rows else ""
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            values = ",".join([places] * len(some))
            self._execute(f"INSERT INTO {table} VALUES {values}", [value for row in some for value in row])

    def settle(self, settlements: Sequence[tuple[int, Settlement]], now: float) -> list[list[int]]:
        """Writes down results; for each settlement the messages that are gone and had a body file."""
        gone: list[str] = []
        later: list[Row] = []
        held: list[Row] = []
        untried: list[Row] = []
        touched: set[int] = set()
        for id, settlement in settlements:
            for recipient, result in settlement.results:
                if result.forward:
                    self._forward(id, recipient, result, settlement, now)
                    touched.add(id)
                elif result.outcome is Outcome.LATER:
                    where = (id, recipient.number, self._owner)
                    later.append((settlement.due, reply_text(result.reply), *where))
                elif result.outcome is Outcome.HELD:
                    where = (id, recipient.number, self._owner)
                    held.append((settlement.look, reply_text(result.reply), *where))
                elif result.outcome is Outcome.UNTRIED:
                    untried.append((now, id, recipient.number, self._owner))
                else:
                    gone.append(f"[{id},{recipient.number}]")
                    touched.add(id)
        if gone:
            self._execute(_DELETE, (f"[{','.join(gone)}]", self._owner))
        for statement, rows in ((_LATER, later), (_HOLD, held), (_UNTRIED, untried)):
            if rows:
                self.connection.executemany(statement, rows)
        warned = [id for id, settlement in settlements if settlement.warned]
        if warned:
            self._execute(
                "UPDATE message SET warned = 1 WHERE id IN (SELECT value FROM json_each(?))", (_json(warned),)
            )
        files = set(self._delete_emptied(touched))
        return [[id] if id in files else [] for id, _ in settlements]

    def _forward(
        self, id: int, recipient: Recipient, result: Result, settlement: Settlement, now: float
    ) -> None:
        """Puts those of `result.forward` that are not done with in the place of `recipient`."""
        row = self._execute("SELECT max(number) FROM recipient WHERE message = ?", (id,)).fetchone()
        if self._execute(_DELETE, (f"[[{id},{recipient.number}]]", self._owner)).rowcount == 0:
            return  # the lease was lost, its new owner decides
        number = row[0]
        rows = []
        for child, after in result.forward:
            if after.outcome in (Outcome.DELIVERED, Outcome.FAILED):
                continue
            number += 1
            tried = after.outcome is Outcome.LATER
            child = replace(child, number=number, attempts=child.attempts + tried)
            state = State.HELD if after.outcome is Outcome.HELD else State.QUEUED
            when = now if after.outcome is Outcome.UNTRIED else settlement.due
            when = settlement.look if after.outcome is Outcome.HELD else when
            reply = "" if after.outcome is Outcome.UNTRIED else reply_text(after.reply)
            rows.append(recipient_row(id, child, state, when, reply))
        self._insert("recipient", rows)

    def _delete_emptied(self, messages: Iterable[int]) -> list[int]:
        """Deletes those of `messages` that have no recipient left; returns those with a body file."""
        some = list(messages)
        if not some:
            return []
        return [id for id, file in self._execute(_EMPTIED, (_json(some),)).fetchall() if file is not None]

    # ------------------------------------------------------------------ leases

    def claim(self, now: float, longest: float, limit: int) -> Claimed:
        """Leases up to `limit` messages with recipients that are due.

        A due time more than `longest` seconds ahead was set before the clock was set back: it is due.
        """
        messages = self._first(_DUE, now, limit)
        if len(messages) < limit:
            messages += self._first(_ASTRAY, now + longest, limit - len(messages))
        arguments = (self._owner, State.QUEUED.value, _json(messages), now, now + longest)
        return self._entries(messages, self._execute(_LEASE_DUE, arguments) if messages else ())

    def claim_held(self, domains: Sequence[str], limit: int, others: bool, but: Sequence[int]) -> Claimed:
        """Leases up to `limit` messages, but not those of `but`, with HELD recipients whose next host is one
        of `domains`, the oldest first; or with `others` none of them, one host after the other."""
        hosts = [write_text(domain) for domain in domains]
        left = _json(list(but))
        if others:
            messages = self._held_elsewhere(hosts, left, limit)
        else:
            found: set[int] = set()
            for host in hosts:
                found.update(id for (id,) in self._execute(_HELD, (host, left, limit)))
            messages = sorted(found)[:limit]
        lease = _LEASE_OTHERS if others else _LEASE_HELD
        arguments = (self._owner, State.HELD.value, _json(messages), json.dumps(list(domains)))
        return self._entries(messages, self._execute(lease, arguments) if messages else ())

    def _held_elsewhere(self, hosts: Sequence[Text], left: str, limit: int) -> list[int]:
        """Held messages for other hosts than `hosts`. No further host is looked at than there must be: there
        may be as many as messages."""
        found: dict[int, None] = {}
        theirs = frozenset(hosts)
        cursor = self._execute(_HELD_HOSTS)
        for (host,) in cursor:
            if len(found) >= limit:
                break
            if host not in theirs:
                found.update((id, None) for (id,) in self._execute(_HELD, (host, left, limit)))
        cursor.close()
        return list(found)[:limit]

    def claim_overdue(self, now: float, limit: int) -> Claimed:
        """Leases up to `limit` messages with HELD recipients that were to be looked after by `now`."""
        messages = self._first(_OVERDUE, now, limit)
        arguments = (self._owner, State.HELD.value, _json(messages), now)
        return self._entries(messages, self._execute(_LEASE_OVERDUE, arguments) if messages else ())

    def waiting(self, domains: Collection[str], states: Collection[str]) -> int:
        """How many messages have recipients whose next host is in `domains` and whose state in `states`."""
        arguments = (json.dumps(list(domains)), json.dumps(list(states)))
        count: int = self._execute(_WAITING, arguments).fetchone()[0]
        return count

    def _first(self, query: str, due: float, limit: int) -> list[int]:
        messages: dict[int, None] = {}
        cursor = self._execute(query, (due, _SCAN))
        for (message,) in cursor:
            if len(messages) == limit:
                break
            messages[message] = None
        cursor.close()
        return list(messages)

    def _entries(self, messages: list[int], leased: Iterable[Row]) -> Claimed:
        rows: dict[int, list[Row]] = {}
        for row in leased:
            rows.setdefault(row[0], []).append(row)
        select = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id IN (SELECT value FROM json_each(?))"
        headers = {row[0]: row for row in self._execute(select, (_json(list(rows)),))} if rows else {}
        entries, bad = [], []
        for id in messages:
            entry, unreadable = self._entry(headers.get(id), sorted(rows.get(id, ())))
            if unreadable:
                bad.append(ids.show(id))
                self.connection.executemany(
                    "UPDATE recipient SET state = 'bad', owner = NULL WHERE message = ? AND number = ?",
                    [row[:2] for row in unreadable],
                )
            if entry is not None:
                entries.append(entry)
        return Claimed(entries, bad)

    def _entry(self, row: Row | None, rows: list[Row]) -> tuple[Entry | None, list[Row]]:
        """An entry of what can be read, and the recipient rows that cannot."""
        if row is None:
            return None, rows
        try:
            header = read_header(row[:-1])
            body = read_body(header, row[-1], self._bodies)
        except CorruptRowError:
            return None, rows
        recipients, unreadable = [], []
        for it in rows:
            try:
                recipients.append(read_recipient(it))
            except CorruptRowError:
                unreadable.append(it)
        if not recipients:
            return None, unreadable
        envelope = Envelope(header.mode, header.reverse_path, tuple(recipients), header.terms, header.origin)
        recovered = any(it[14] == 1 for it in rows)
        entry = Entry(ids.show(header.id), envelope, body, header.arrived, header.warned, recovered)
        return entry, unreadable

    def owners(self) -> list[str | None]:
        """Who has leases."""
        return [
            owner
            for (owner,) in self._execute("SELECT DISTINCT owner FROM recipient WHERE +state = 'leased'")
        ]

    def release(self, owner: str | None, now: float) -> int:
        """Puts what `owner` has leased back to QUEUED and due now; returns the number of messages."""
        self._execute("DELETE FROM run WHERE owner = ?", (owner,))
        return len(set(self._execute(_RELEASE, (now, owner)).fetchall()))

    # ------------------------------------------------------------------ looking at it

    def next_due(self, now: float, longest: float) -> float | None:
        """When the next QUEUED recipient is due; `now` if one is due too far ahead to be true."""
        latest = self._execute(_LATEST).fetchone()[0]
        if latest is None:
            return None
        first: float = self._execute(_NEXT).fetchone()[0]
        return now if latest > now + longest and first > now else first

    def body(self, id: int) -> Body | None:
        """The body of a message, None if there is none that can be read."""
        row = self._execute(f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id = ?", (id,)).fetchone()
        if row is None:
            return None
        try:
            return read_body(read_header(row[:-1]), row[-1], self._bodies)
        except CorruptRowError:
            return None

    def listing(self, selection: Selection, now: float, limit: int) -> list[QueuedMessage]:
        """Messages that match, oldest first."""
        found: list[QueuedMessage] = []
        for message, _ in self._look(selection, now):
            if len(found) == limit:
                break
            found.append(message)
        return found

    def _look(self, selection: Selection, now: float) -> Iterator[tuple[QueuedMessage, list[Row]]]:
        """Messages that match with the rows of their recipients; SQL narrows down, `selects` decides."""
        where, arguments = ["1"], list[Any]()
        if selection.ids:
            where.append("message IN (SELECT value FROM json_each(?))")
            arguments.append(_json(ids.numbers(selection.ids)))
        if selection.domain:
            where.append("message IN (SELECT message FROM recipient WHERE next_host = ?)")
            arguments.append(selection.domain)
        if selection.state in _SEEN:
            where.append(f"message IN (SELECT message FROM recipient WHERE state = '{selection.state}')")
        columns = ", ".join(f"r.{column}" for column in RECIPIENT_COLUMNS.split(", "))
        header = ", ".join(f"m.{column}" for column in MESSAGE_COLUMNS.split(", ")[:-1])
        cursor = self._execute(
            f"SELECT {columns}, {header} FROM recipient r LEFT JOIN message m ON m.id = r.message"
            f" WHERE {' AND '.join(where)} ORDER BY r.message, r.number",
            arguments,
        )
        try:
            for id, rows in groupby(cursor, key=lambda row: int(row[0])):
                some = list(rows)
                message = _queued_message(id, some)
                if selects(selection, message, now):
                    yield message, some
        finally:
            cursor.close()  # an open one would keep the log from being folded back

    def change(self, selection: Selection, name: str, now: float) -> tuple[int, list[int]]:
        """Does an action of `selection.ACTIONS`; the number of messages changed, the body files gone."""
        states, following = rule(name)
        pairs = [
            (row[0], row[1])
            for message, rows in self._look(selection, now)
            for row, recipient in zip(rows, message.recipients, strict=True)
            if recipient.state in states and row[7] != State.LEASED and picks(selection, recipient)
        ]
        messages = {message for message, _ in pairs}
        if following is None:
            self.connection.executemany("DELETE FROM recipient WHERE message = ? AND number = ?", pairs)
            return len(messages), self._delete_emptied(messages)
        due = ", due = ?" if following is State.QUEUED else ""
        arguments = (now,) if following is State.QUEUED else ()
        self.connection.executemany(
            f"UPDATE recipient SET state = ?{due} WHERE message = ? AND number = ?",
            [(following.value, *arguments, *pair) for pair in pairs],
        )
        return len(messages), []

    def body_files(self) -> set[int]:
        """The messages whose bodies are files."""
        return {id for (id,) in self._execute("SELECT id FROM message WHERE file IS NOT NULL")}

    def known(self, messages: Collection[int]) -> set[int]:
        """Those of `messages` that are there."""
        some = "SELECT id FROM message WHERE id IN (SELECT value FROM json_each(?))"
        return {id for (id,) in self._execute(some, (_json(list(messages)),))}

    def mark(self, run: int) -> None:
        """Writes down the number of a run, in its own transaction; that of the run before is forgotten."""
        self._execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (self._owner, run))

    def marked(self) -> int:
        """The number of the last run that was committed, 0 if there was none."""
        row = self._execute("SELECT number FROM run WHERE owner = ?", (self._owner,)).fetchone()
        return 0 if row is None else int(row[0])

    def has_file(self, id: int) -> bool:
        """Whether there is a message `id` whose body is a file."""
        row = self._execute("SELECT 1 FROM message WHERE id = ? AND file IS NOT NULL", (id,)).fetchone()
        return row is not None


def _json(numbers: list[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def _queued_message(id: int, rows: list[Row]) -> QueuedMessage:
    """A message as an operator sees it, also if its own row cannot be read or is gone."""
    mode, sender, size, arrived, readable = Mode.MAIL, UNREADABLE, 0, 0.0, False
    terms = PLAIN_TERMS
    try:
        if rows[0][_WIDTH] is not None:
            header = read_header(rows[0][_WIDTH:])
            mode, sender, size, arrived = header.mode, header.reverse_path, header.size, header.arrived
            terms = header.terms
            readable = True
    except CorruptRowError:
        pass  # shown as bad
    recipients = tuple(read_queued(row[:_WIDTH], readable) for row in rows)
    return QueuedMessage(ids.show(id), mode, sender, recipients, size, arrived, terms)
