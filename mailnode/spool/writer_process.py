"""The writer of a busy spool, in a process of its own: the node's reactor gives its interpreter to nobody.

While mail comes and goes in crowds, runs of acceptances and settlements are told to a child, which commits
them; everything else is done here, by the same thread, through a connection of its own. One of the two
works at a time, so that the order stays and neither waits for the other's lock.

A child that dies leaves nothing in doubt: a run is one transaction, so either the rows of its messages are
there or none of it was done. What was done is looked up, the rest is done here, and so is all that follows.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, NamedTuple, cast

import msgspec
from twisted.logger import Logger

from mailnode.child import Child, Node
from mailnode.mail import Entry
from mailnode.spool import schema
from mailnode.spool.errors import DiskError, SpoolError
from mailnode.spool.ledger import Acceptance, Ledger, Repeated
from mailnode.spool.transactions import Look, Operation, Settle, Transactions

CROWD: Final = 8  # operations in one run that make a child worth its while

_log = Logger()


class Told(NamedTuple):
    """A run of operations, as the child is told it."""

    accepted: list[tuple[tuple[Any, ...], list[tuple[Any, ...]], bytes]]
    settled: list[Settle]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of the child's."""

    disk: bool
    number: int
    words: str

    def error(self) -> OSError:
        return (DiskError if self.disk else SpoolError)(self.number, self.words)


class Done(NamedTuple):
    """What became of a run: of each acceptance whether it was new, of each settlement the body files gone."""

    accepted: list[bool | Refusal]
    settled: list[list[int] | Refusal]


_TOLD: Final = msgspec.msgpack.Decoder(Told)
_DONE: Final = msgspec.msgpack.Decoder(Done)


class Writer:
    """What the spool's writer thread does. The first batch of `crowd`
    operations starts a child; with 0 there is none."""

    def __init__(self, path: str, owner: str, bodies: str, crowd: int = CROWD) -> None:
        self._arguments = (path, owner, bodies)
        self._crowd = crowd
        self._transactions = Transactions(lambda: _ledger(*self._arguments))
        self._child: Child | None = None
        self._ready = False
        self._forsaken = False  # a child died: there will be no other
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_as_text)

    @property
    def pid(self) -> int:
        """The child's number, 0 if there is none that works."""
        return self._child.pid if self._child is not None and self._ready else 0

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

    def close(self) -> None:
        """Ends the child and closes the connection; the last one of all processes folds the log back."""
        child, self._child = self._child, None
        if child is not None:
            child.close()
        self._transactions.close()

    def _worker(self, count: int) -> Child | None:
        """The child, if there is one that can work; it is started by the first crowd, and not waited for."""
        if self._child is None and 0 < self._crowd <= count and not self._forsaken:
            try:
                self._child = Child(__name__, *self._arguments)
            except OSError as error:
                self._forsaken = True
                _log.warn("the spool writes without a process of its own: {error}", error=error.strerror)
        if self._child is not None and not self._ready and self._child.has_spoken():
            try:
                self._ready = self._child.hear() == b""
            except (OSError, EOFError):
                self._forsake(self._child)
        return self._child if self._ready else None

    def _forsake(self, child: Child) -> None:
        child.kill()
        self._child, self._ready, self._forsaken = None, False, True
        _log.error("the process that writes the spool has died; the node goes on without it")

    def _told(self, child: Child, run: Sequence[Acceptance | Settle]) -> list[Any]:
        accepted = [it for it in run if isinstance(it, Acceptance)]
        settled = [it for it in run if isinstance(it, Settle)]
        try:
            told = self._encoder.encode(
                Told([(it.message, it.recipients, it.once) for it in accepted], settled)
            )
        except (TypeError, ValueError):  # there is text in it that is not UTF-8
            return self._transactions.work(list(run))
        try:
            done = _DONE.decode(child.ask(told))
            if (len(done.accepted), len(done.settled)) != (len(accepted), len(settled)):
                raise EOFError
        except (OSError, EOFError, msgspec.MsgspecError):
            self._forsake(child)
            return self._looked_up(run)
        new, gone = iter(done.accepted), iter(done.settled)
        return [_entry(it, next(new)) if isinstance(it, Acceptance) else _gone(next(gone)) for it in run]

    def _looked_up(self, run: Sequence[Acceptance | Settle]) -> list[Any]:
        """What became of a run that a child was told before it died; what it did not do is done."""
        ids = [it.message[0] for it in run if isinstance(it, Acceptance)]
        (known,) = self._transactions.work([Look(lambda ledger: ledger.known(ids))])
        if isinstance(known, BaseException):
            return [known] * len(run)
        # To settle twice is to settle once.
        there = [isinstance(it, Acceptance) and it.message[0] in known for it in run]
        rest = iter(self._transactions.work([it for it, done in zip(run, there, strict=True) if not done]))
        return [
            it.entry if done and isinstance(it, Acceptance) else next(rest)
            for it, done in zip(run, there, strict=True)
        ]


def _entry(acceptance: Acceptance, told: bool | Refusal) -> Entry | Repeated | OSError | None:
    if isinstance(told, Refusal):
        return told.error()
    return acceptance.entry if told else Repeated()


def _gone(told: list[int] | Refusal) -> list[int] | OSError:
    return told.error() if isinstance(told, Refusal) else told


def main(node: Node, path: str, owner: str, bodies: str) -> None:
    """The child: does run after run until the node has gone."""
    transactions = Transactions(lambda: _ledger(path, owner, bodies))
    with suppress(EOFError):
        node.say(b"")  # everything is imported
        while True:
            node.say(msgspec.msgpack.encode(work(transactions, _TOLD.decode(node.hear()))))
    transactions.close()


def work(transactions: Transactions, told: Told) -> Done:
    """Does a run."""
    accepted = [Acceptance(message, recipients, None, once) for message, recipients, once in told.accepted]
    results = transactions.work([*accepted, *told.settled])
    count = len(accepted)
    return Done(
        [_refused(it) if isinstance(it, BaseException) else it is None for it in results[:count]],
        [_refused(it) if isinstance(it, BaseException) else it for it in results[count:]],
    )


def _refused(error: BaseException) -> Refusal:
    if isinstance(error, OSError):
        return Refusal(isinstance(error, DiskError), error.errno or errno.EIO, error.strerror or str(error))
    return Refusal(False, errno.EIO, f"the spool refused: {error!r}")


def _ledger(path: str, owner: str, bodies: str) -> Ledger:
    return Ledger(schema.connect(path), owner, bodies)


def _as_text(value: object) -> str:
    """Some names are texts of their own kinds, which MessagePack does not know."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")
