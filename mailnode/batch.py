"""A thread that does blocking work in batches: everything that waits is done, and handed back, at once.

One durable write costs as much as twenty, so the thread takes all items that are waiting (up to a
limit), gives them to one call of a work function, and wakes the reactor once for all the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

I_contra = TypeVar("I_contra", contravariant=True)
I = TypeVar("I")  # noqa: E741  an item of work
R = TypeVar("R")  # its result


class Batch(Protocol[I_contra, R]):
    """What `BatchThread` and `BatchNow` have in common."""

    def submit(self, item: I_contra, /, patience: float = 0.0, hurry: bool = False) -> Deferred[R]: ...

    def stop(self) -> Deferred[None]: ...


class StoppedError(RuntimeError):
    """An item was submitted after `stop`."""


_ERRORS: Final = (Failure, BaseException)
_NOW: Final = 0.0  # times that have passed: when a batch has gathered,
_AT_ONCE: Final = -1.0  # without that,
_STOP: Final = -2.0  # for the last time


class BatchThread(Generic[I, R]):
    """Does items in a thread of its own, all that wait in one call of `work`.

    `work` gets at most `limit` items and returns one result for each, in their order; a `Failure` or
    an exception among the results errbacks that item, an exception raised errbacks all of them.
    `call_from_thread` is `reactor.callFromThread`. The thread starts with the first item, so that a
    process may still fork before, and keeps the process alive until `stop` has finished.

    While items come faster than they are done, the thread waits `gather` seconds before each batch, so
    that it becomes larger; a lone item never waits. An item that is submitted with `patience` (seconds)
    waits so long for others, or goes with the next that has less. With `hurry` nothing waits any longer.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[I]], Sequence[R | Failure | BaseException]],
        call_from_thread: Callable[..., object],
        limit: int = 256,
        gather: float = 0.0,
    ) -> None:
        self._name = name
        self._work = work
        self._call_from_thread = call_from_thread
        self._limit = limit
        self._gather = gather
        self._items: deque[tuple[I, Deferred[R]]] = deque()
        self._wake: SimpleQueue[float] = SimpleQueue()  # monotonic times by which to begin, in seconds
        self._woken = inf  # the earliest of them that the thread has yet to see
        self._thread: Thread | None = None
        self._end: Deferred[None] | None = None

    def submit(self, item: I, /, patience: float = 0.0, hurry: bool = False) -> Deferred[R]:
        """Queues `item`; fires with its result. Errbacks with `StoppedError` after `stop`."""
        if self._end is not None:
            return fail(StoppedError(f"{self._name} has stopped"))
        if self._thread is None:
            self._thread = Thread(target=self._run, name=self._name, daemon=False)
            self._thread.start()
        result: Deferred[R] = Deferred()
        self._items.append((item, result))
        # The item is there before the time is looked at, and `_take` forgets the time before it looks
        # at the items: so none is left lying.
        begin = _AT_ONCE if hurry else monotonic() + patience if patience else _NOW
        if begin < self._woken:
            self._woken = begin
            self._wake.put(begin)
        return result

    def stop(self) -> Deferred[None]:
        """Finishes what is queued and ends the thread; fires when it is gone."""
        if self._end is None:
            self._end = Deferred()
            if self._thread is None:
                self._end.callback(None)
            else:
                self._wake.put(_STOP)
        waiting: Deferred[None] = Deferred()
        self._end.addCallback(waiting.callback)
        return waiting

    def _run(self) -> None:
        try:
            self._work_off()
        except BaseException as error:  # not the work's own, which `_results` caught: the thread is of no use
            self._call_from_thread(self._died, Failure(error))
        self._call_from_thread(self._ended)

    def _work_off(self) -> None:
        crowded = False
        begin = _NOW
        while begin != _STOP:
            begin = self._wait(self._gather if crowded else 0.0)
            while batch := self._take():
                crowded = len(batch) > 1 and self._gather > 0
                results = _results(self._work, [item for item, _ in batch])
                self._call_from_thread(_fire, [waiting for _, waiting in batch], results)
                if len(batch) < self._limit and monotonic() < self._woken < inf:
                    break  # what came meanwhile has patience

    def _wait(self, gather: float) -> float:
        """Waits until a batch is to begin, and gives the time at which it was to."""
        begin = self._gathered(self._wake.get(), gather)
        while (left := begin - monotonic()) > 0:
            try:
                begin = min(begin, self._gathered(self._wake.get(timeout=left), gather))
            except Empty:
                break
        return begin

    def _gathered(self, begin: float, gather: float) -> float:
        return monotonic() + gather if begin == _NOW and gather else begin

    def _take(self) -> list[tuple[I, Deferred[R]]]:
        self._woken = inf
        items = self._items
        return [items.popleft() for _ in range(min(len(items), self._limit))]

    def _died(self, failure: Failure) -> None:
        """Nothing may wait for ever: what is queued fails, and so does what will be submitted."""
        Logger("mailnode.batch").failure("the thread {name} has died", failure, name=self._name)
        if self._end is None:
            self._end = Deferred()
        while items := self._take():
            for _, waiting in items:
                waiting.errback(failure)

    def _ended(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._end is not None:
            self._end.callback(None)


class BatchNow(Generic[I, R]):
    """The same door without a thread: each item is a batch of its own, done before `submit` returns."""

    def __init__(self, work: Callable[[list[I]], Sequence[R | Failure | BaseException]]) -> None:
        self._work = work
        self._stopped = False

    def submit(self, item: I, /, patience: float = 0.0, hurry: bool = False) -> Deferred[R]:
        if self._stopped:
            return fail(StoppedError("the batch has stopped"))
        result: Deferred[R] = Deferred()
        _fire([result], _results(self._work, [item]))
        return result

    def stop(self) -> Deferred[None]:
        self._stopped = True
        return succeed(None)


def _results(
    work: Callable[[list[I]], Sequence[R | Failure | BaseException]], items: list[I]
) -> Sequence[R | Failure | BaseException]:
    try:
        results = work(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
    except BaseException as error:  # every one of them has to be told, or it would wait for ever
        return [error] * len(items)
    return results


def _fire(waiting: list[Deferred[R]], results: Sequence[R | Failure | BaseException]) -> None:
    for deferred, result in zip(waiting, results, strict=True):
        if isinstance(result, _ERRORS):
            deferred.errback(result)
        else:
            deferred.callback(result)
