"""Group commit: all operations that wait share one transaction, and none is told before the COMMIT.

- Accept and Settle commute, so that a run of them becomes two statements' worth of rows; any Look or
  Change stands where it was asked for.
- There are no savepoints: if an operation fails, everything is rolled back and each operation gets a
  transaction of its own, so that the bad one fails alone.
- If the disk fails, or a COMMIT for whatever reason, all fail: nothing is acknowledged, and nothing is
  tried again on our own account.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from mailnode.interfaces import Settlement
from mailnode.spool.errors import DiskError, is_disk_fault, spool_error
from mailnode.spool.ledger import Acceptance, Ledger


class Settle(NamedTuple):
    """Results of the message with the number `id`, at `now`."""

    now: float
    id: int
    settlement: Settlement


class Change(NamedTuple):
    """Anything else that writes."""

    act: Callable[[Ledger], Any]


class Look(NamedTuple):
    """Anything that only reads."""

    act: Callable[[Ledger], Any]


Operation: TypeAlias = Acceptance | Settle | Change | Look


class Transactions:
    """The work function of a batch thread: `open` gives it a connection, and another after a failure."""

    def __init__(self, open: Callable[[], Ledger]) -> None:
        self._open = open
        self._ledger: Ledger | None = None

    def work(self, operations: list[Operation]) -> list[Any]:
        """Does the operations; one result or exception for each."""
        try:
            return self.together(operations)
        except DiskError as error:
            return [error] * len(operations)
        except Exception as error:
            if len(operations) == 1:
                return [spool_error(error, "the spool refused")]
            return [self.work([operation])[0] for operation in operations]

    def close(self) -> None:
        """Closes the connection; the last one of all processes folds the log back."""
        if self._ledger is not None:
            self._ledger.connection.close()
            self._ledger = None

    def together(self, operations: Sequence[Operation]) -> list[Any]:
        """Does the operations in one transaction. DiskError, or what else went wrong: then none was done."""
        try:
            ledger = self._ledger or self._open()
        except (sqlite3.Error, OSError) as error:
            raise _disk_error(error, "cannot open the spool") from error
        self._ledger = ledger
        if all(isinstance(operation, Look) for operation in operations):
            return self._undo_on_failure(ledger, operations)
        try:
            # IMMEDIATE: another process may write, and a lock taken late cannot wait for it.
            ledger.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._roll_back(ledger, broken=is_disk_fault(error))
            raise _disk_error(error, "cannot begin") from error
        results = self._undo_on_failure(ledger, operations)
        try:
            ledger.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(ledger, broken=True)
            raise _disk_error(error, "cannot commit") from error
        return results

    def _undo_on_failure(self, ledger: Ledger, operations: Sequence[Operation]) -> list[Any]:
        try:
            return list(_results(ledger, operations))
        except BaseException as error:
            broken = is_disk_fault(error)
            self._roll_back(ledger, broken)
            if broken:
                raise _disk_error(error, "the spool failed") from error
            raise

    def _roll_back(self, ledger: Ledger, broken: bool) -> None:
        """Ends the transaction. A connection that met a failing disk is not used again: what follows
        writes its pages anew instead of syncing once more what may be lost already."""
        try:
            if ledger.connection.in_transaction:
                ledger.connection.execute("ROLLBACK")
        except sqlite3.Error:
            broken = True
        if broken:
            self.close()


def _disk_error(error: BaseException, what: str) -> DiskError:
    told = spool_error(error, what)
    return DiskError(*told.args)


def _results(ledger: Ledger, operations: Sequence[Operation]) -> Iterator[Any]:
    run: list[Acceptance | Settle] = []
    for operation in operations:
        if isinstance(operation, Acceptance | Settle):
            run.append(operation)
        else:
            yield from _commuting(ledger, run)
            run = []
            yield operation.act(ledger)
    yield from _commuting(ledger, run)


def _commuting(ledger: Ledger, run: Sequence[Acceptance | Settle]) -> Iterable[Any]:
    acceptances = [operation for operation in run if isinstance(operation, Acceptance)]
    settlements = [(operation.id, operation.settlement) for operation in run if isinstance(operation, Settle)]
    entries = ledger.accept(acceptances) if acceptances else []
    if not settlements:
        return entries
    latest = max(operation.now for operation in run if isinstance(operation, Settle))
    accepted, gone = iter(entries), iter(ledger.settle(settlements, latest))
    return [next(accepted) if isinstance(operation, Acceptance) else next(gone) for operation in run]
