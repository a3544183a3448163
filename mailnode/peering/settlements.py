"""Settlements that are under way: nothing is delivered twice because a node went down too early."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailnode.interfaces import ISettling
from mailnode.mail import Entry, Outcome, Results


class Settlements:
    """Writes down results, and knows when all of them are written."""

    def __init__(self, settling: ISettling) -> None:
        self._settling = settling
        self._under_way = 0
        self._quiet: list[Deferred[None]] = []
        self.queued: Callable[[], None] | None = None  # told when something is due now
        self._log = Logger("mailnode.peering")

    def use(self, settling: ISettling) -> None:
        """The configuration has changed: what is settled from now on goes by this."""
        self._settling = settling

    def settle(self, entry: Entry, results: Results) -> Deferred[None]:
        """Fires when it is written; never errbacks."""
        self._under_way += 1
        settled = self._settling.settle(entry, results).addErrback(self._failed, entry)
        queued = any(result.outcome is Outcome.UNTRIED for result in results.values())
        return settled.addCallback(self._done, queued)

    def quiet(self) -> Deferred[None]:
        """Fires when nothing is under way any more."""
        if not self._under_way:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._quiet.append(waiting)
        return waiting

    def _failed(self, failure: Failure, entry: Entry) -> None:
        self._log.failure("{id} could not be settled", failure, id=entry.id)

    def _done(self, _: None, queued: bool) -> None:
        self._under_way -= 1
        if queued and self.queued is not None:
            self.queued()
        if not self._under_way:
            waiting, self._quiet = self._quiet, []
            for deferred in waiting:
                deferred.callback(None)
