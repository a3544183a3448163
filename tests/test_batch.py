"""The batch thread: order, one wake-up a batch, failures, stopping."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, current_thread
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailnode.batch import BatchNow, BatchThread, StoppedError


class Calls:
    """Stands in for the reactor: keeps what threads ask to have called, runs it when told."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()
        self.count = 0

    def call_from_thread(self, function: Callable[..., object], *args: object) -> None:
        self.queue.put((function, args))

    def run_one(self) -> None:
        function, args = self.queue.get(timeout=5)
        self.count += 1
        function(*args)

    def wait(self, deferred: Deferred[Any]) -> None:
        while not deferred.called:
            self.run_one()


def error_of(deferred: Deferred[Any]) -> object:
    caught: list[Failure] = []
    deferred.addErrback(caught.append)
    return type(caught[0].value)


def test_everything_that_waits_is_one_batch_and_one_wake_up() -> None:
    calls, open_gate, batches = Calls(), Event(), list[list[int]]()

    def work(items: list[int]) -> list[int]:
        open_gate.wait(5)
        batches.append(items)
        return [item * 2 for item in items]

    thread = BatchThread("test", work, calls.call_from_thread, limit=4)
    waiting = [thread.submit(number) for number in range(9)]
    open_gate.set()
    calls.wait(waiting[-1])
    assert [deferred.result for deferred in waiting] == [number * 2 for number in range(9)]
    assert [number for batch in batches for number in batch] == list(range(9))
    assert max(map(len, batches)) <= 4
    assert calls.count == len(batches)
    calls.wait(thread.stop())


def test_a_result_that_is_an_error_fails_that_item_alone() -> None:
    batch = BatchNow[int, int](lambda items: [ValueError() if item < 0 else item for item in items])
    assert error_of(batch.submit(-1)) is ValueError
    assert batch.submit(1).result == 1


@pytest.mark.parametrize("work", [lambda items: 1 / 0, lambda items: []])
def test_work_that_raises_or_miscounts_fails_every_item(work: Any) -> None:
    calls = Calls()
    thread = BatchThread[int, int]("test", work, calls.call_from_thread)
    waiting = [thread.submit(1), thread.submit(2)]
    for deferred in waiting:
        calls.wait(deferred)
        assert error_of(deferred) in (ZeroDivisionError, RuntimeError)
    calls.wait(thread.stop())


def test_stop_finishes_what_is_queued_and_ends_the_thread() -> None:
    calls, threads = Calls(), set[Any]()

    def work(items: list[int]) -> list[int]:
        threads.add(current_thread())
        return items

    thread = BatchThread[int, int]("test", work, calls.call_from_thread, limit=2)
    waiting = [thread.submit(number) for number in range(5)]
    ends = [thread.stop(), thread.stop()]
    for end in ends:
        calls.wait(end)
    assert [deferred.result for deferred in waiting] == list(range(5))
    assert not any(thread.is_alive() for thread in threads)
    assert error_of(thread.submit(9)) is StoppedError


def test_no_thread_runs_before_the_first_item() -> None:
    def never(*args: object) -> None:
        raise AssertionError

    assert BatchThread[int, int]("test", lambda items: items, never).stop().called


def test_the_work_is_done_in_one_other_thread() -> None:
    calls = Calls()
    thread = BatchThread[int, str](
        "worker", lambda items: [current_thread().name for _ in items], calls.call_from_thread
    )
    first = thread.submit(1)
    calls.wait(first)
    second = thread.submit(2)
    calls.wait(second)
    assert first.result == second.result == "worker"
    calls.wait(thread.stop())


def test_without_a_thread_the_result_is_there_at_once() -> None:
    batch = BatchNow[int, int](lambda items: [item + 1 for item in items])
    assert batch.submit(1).result == 2
    assert batch.stop().called
    assert error_of(batch.submit(1)) is StoppedError
