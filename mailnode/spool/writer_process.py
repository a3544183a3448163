"""The writer of a busy spool, in a process of its own: the node's reactor gives its interpreter to nobody.

While mail comes and goes in crowds, runs of acceptances and settlements are told to a child, which commits
them; everything else is done here, by the same thread, through a connection of its own. One of the two
works at a time, so that the order stays and neither waits for the other's lock.

A child that dies leaves nothing in doubt: a run is one transaction, and its number is written in it. If the
number is there, all of it was done; if not, none, and it is done here. So is all that follows, for a while.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from math import inf
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, cast

import msgspec
from twisted.logger import Logger

from mailnode.child import Child, Node, encoder, greeting
from mailnode.mail import Entry
from mailnode.spool import schema
from mailnode.spool.errors import DiskError, DoubtError
from mailnode.spool.ledger import Acceptance, Ledger, Repeated
from mailnode.spool.rows import MESSAGE_COLUMNS, RECIPIENT_COLUMNS
from mailnode.spool.transactions import Change, Look, Operation, Settle, Transactions

CROWD: Final = 8  # operations in one run that make a child worth its while
PAUSE: Final = 60.0  # seconds after the death of a child before the next one is started
LOOKS: Final = (0.1, 0.4, 1.0, 3.0, 5.0, 10.0, 10.0)  # seconds between looks for what a dead child has done

_log = Logger()


class Told(NamedTuple):
    """A run of operations, as the child is told it."""

    number: int
    accepted: list[tuple[tuple[Any, ...], list[tuple[Any, ...]], bytes]]
    settled: list[Settle]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing of a run was done: the error of the disk, number 0 if one of the operations cannot be done."""

    number: int
    words: str


class Done(NamedTuple):
    """What became of a run: of each acceptance whether it was new, of each settlement the body files gone."""

    accepted: list[bool]
    settled: list[list[int]]
    refusal: Refusal | None = None


_TOLD: Final = msgspec.msgpack.Decoder(Told)
_DONE: Final = msgspec.msgpack.Decoder(Done)
_GREETING: Final = greeting(Told, Done, also=f"{schema.MIGRATIONS} {MESSAGE_COLUMNS} {RECIPIENT_COLUMNS}")


class Writer:
    """What the spool's writer thread does. The first batch of `crowd` operations starts a child; with 0 there
    is none."""

    def __init__(self, path: str, owner: str, bodies: str, crowd: int = CROWD) -> None:
        self._arguments = (path, owner, bodies)
        self._crowd = crowd
        self._transactions = Transactions(lambda: _ledger(*self._arguments))
        self._child: Child | None = None
        self._ready = False
        self._not_before = 0.0  # monotonic seconds; no child is started before
        self._run = 0  # the number of the last one
        self._encoder = encoder()

    @property
    def pid(self) -> int:
        """The child's number, 0 if there is none that works."""
        return self._child.pid if self._child is not None and self._ready else 0

    @property
    def has_child(self) -> bool:
        """Whether there is one, at work or on its way."""
        return self._child is not None

    def work(self, operations: list[Operation]) -> list[Any]:
        """Does the operations; one result or exception for each."""
        child = self._worker(len(operations))
        if child is None:
            return self._transactions.work(operations)
        results: list[Any] = []
        for plain, some in groupby(operations, lambda it: isinstance(it, Acceptance | Settle)):
            run = list(some)
            # If the child dies meanwhile, there is nobody to tell the next run.
            told = plain and child is self._child
            results += self._told(child, cast(Any, run)) if told else self._transactions.work(run)
        return results

    def dismiss(self) -> None:
        """Lets the child end. In the thread that works."""
        child, self._child, self._ready = self._child, None, False
        self._not_before = inf
        if child is not None:
            child.close()

    def close(self) -> None:
        """Ends the child and closes the connection; the last one of all processes folds the log back."""
        self.dismiss()
        self._transactions.close()

    def _worker(self, count: int) -> Child | None:
        """The child, if there is one that can work; it is started by the first crowd, and not waited for."""
        if self._child is None and 0 < self._crowd <= count and monotonic() >= self._not_before:
            try:
                self._child = Child(__name__, *self._arguments)
            except Exception as error:
                self._not_before = monotonic() + PAUSE
                _log.warn("the spool writes without a process of its own: {error}", error=str(error))
        if self._child is not None and not self._ready and self._child.has_spoken():
            try:
                self._ready = self._child.hear() == _GREETING
                if not self._ready:
                    raise EOFError("another version was installed")
            except (OSError, EOFError) as error:
                self._forsake(self._child, error)
        return self._child if self._ready else None

    def _forsake(self, child: Child, error: Exception) -> None:
        child.kill()
        self._child, self._ready, self._not_before = None, False, monotonic() + PAUSE
        _log.error(
            "the process that writes the spool has died ({why!r}); the node goes on without it", why=error
        )

    def _told(self, child: Child, run: Sequence[Acceptance | Settle]) -> list[Any]:
        accepted = [it for it in run if isinstance(it, Acceptance)]
        settled = [it for it in run if isinstance(it, Settle)]
        self._run += 1
        told = Told(self._run, [(it.message, it.recipients, it.once) for it in accepted], settled)
        try:
            text = self._encoder.encode(told)
        except (TypeError, ValueError):  # there is text in it that is not UTF-8
            return self._transactions.work(list(run))
        try:
            done = _DONE.decode(child.ask(text))
            counts = (len(done.accepted), len(done.settled))
            if done.refusal is None and counts != (len(accepted), len(settled)):
                raise EOFError("an answer to something else")
        except Exception as error:
            self._forsake(child, error)
            return self._looked_up(run)
        if done.refusal is None:
            new, gone = iter(done.accepted), iter(done.settled)
            return [_entry(it, next(new)) if isinstance(it, Acceptance) else next(gone) for it in run]
        if done.refusal.number:
            return [DiskError(done.refusal.number, done.refusal.words)] * len(run)
        return self._transactions.work(list(run))  # one by one, so that the bad one fails alone

    def _looked_up(self, run: Sequence[Acceptance | Settle]) -> list[Any]:
        """What became of a run that a child was told before it died; if nothing did, it is done."""
        named = [it.message[0] for it in run if isinstance(it, Acceptance) and it.once]
        found = self._look(Look(lambda ledger: (ledger.marked(), ledger.known(named))))
        if isinstance(found, BaseException):
            _log.error("nobody knows whether {count} operations of the spool were committed", count=len(run))
            return [DoubtError(errno.EIO, f"the spool cannot be read: {found}")] * len(run)
        number, known = found
        if number != self._run:
            return self._transactions.work(list(run))
        # Of those that have a name one that is gone was delivered meanwhile, or repeated: it was taken.
        return [
            _entry(it, not it.once or it.message[0] in known) if isinstance(it, Acceptance) else []
            for it in run
        ]

    def _look(self, look: Look) -> Any:
        """What `look` finds; tried again where it cannot be done, for a while."""
        for pause in (*LOOKS, 0.0):
            (found,) = self._transactions.work([look])
            if not isinstance(found, BaseException):
                break
            sleep(pause)
        return found


def _entry(acceptance: Acceptance, new: bool) -> Entry | Repeated | None:
    return acceptance.entry if new else Repeated()


def main(node: Node, path: str, owner: str, bodies: str) -> None:
    """The child: does run after run until the node has gone."""
    transactions = Transactions(lambda: _ledger(path, owner, bodies))
    with suppress(EOFError):
        node.say(_GREETING)  # everything is imported
        while True:
            node.say(msgspec.msgpack.encode(work(transactions, _TOLD.decode(node.hear()))))
    transactions.close()


def work(transactions: Transactions, told: Told) -> Done:
    """Does a run in one transaction, with its number."""
    accepted = [Acceptance(message, recipients, None, once) for message, recipients, once in told.accepted]
    mark = Change(lambda ledger: ledger.mark(told.number))
    try:
        results = transactions.together([*accepted, *told.settled, mark])
    except DiskError as error:
        return Done([], [], Refusal(error.errno or errno.EIO, error.strerror or str(error)))
    except Exception:  # the node meets it once more, and tells it to whom it concerns
        return Done([], [], Refusal(0, ""))
    count = len(accepted)
    return Done([it is None for it in results[:count]], results[count:-1])


def _ledger(path: str, owner: str, bodies: str) -> Ledger:
    return Ledger(schema.connect(path), owner, bodies)
