"""So much work at a time, so much that waits, and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred

T = TypeVar("T")


class FullError(Exception):
    """As many wait as may wait."""


class Turnstile:
    """Lets `running` pieces of work run at the same time and `waiting` wait their turn."""

    def __init__(self, running: int, waiting: int) -> None:
        self._free = running
        self._places = waiting
        self._queue: deque[tuple[Deferred[Any], Callable[[], Deferred[Any]]]] = deque()

    def enter(self, work: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Calls `work` when it is its turn and fires with its result; FullError at once if the queue is
        full. Work whose Deferred is cancelled while it waits is never begun; work that is under way keeps
        its place until it is done, for a thread cannot be called back."""
        if not self._free and len(self._queue) >= self._places:
            return fail(FullError())
        result: Deferred[T] = Deferred(self._forget)
        self._queue.append((result, work))
        self._let_in()
        return result

    def _let_in(self) -> None:
        while self._free and self._queue:
            result, work = self._queue.popleft()
            self._free -= 1
            maybeDeferred(work).addBoth(self._left, result)

    def _left(self, outcome: Any, result: Deferred[Any]) -> None:
        self._free += 1
        if not result.called:  # it is when it was cancelled
            result.callback(outcome)  # a Failure becomes an errback
        self._let_in()

    def _forget(self, cancelled: Deferred[Any]) -> None:
        self._queue = deque(entry for entry in self._queue if entry[0] is not cancelled)
