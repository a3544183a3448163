"""The batch thread: order, one wake-up a batch, failures, stopping."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, current_thread
from time import monotonic
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


def test_items_with_patience_wait_for_others_and_go_with_the_first_that_has_none() -> None:
    calls, batches = Calls(), list[list[int]]()

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        return items

    thread = BatchThread[int, int]("test", work, calls.call_from_thread)
    waiting = [thread.submit(number, patience=60.0) for number in range(3)]
    with pytest.raises(Empty):
        calls.queue.get(timeout=0.05)
    calls.wait(thread.submit(3))
    assert [deferred.result for deferred in waiting] == [0, 1, 2]
    assert batches == [[0, 1, 2, 3]]
    last = thread.submit(4, patience=60.0)
    calls.wait(thread.stop())  # and who stops has none
    assert last.result == 4


def test_who_is_in_a_hurry_waits_for_nobody_and_takes_the_others_along() -> None:
    calls, gate, batches = Calls(), Event(), list[list[int]]()

    def work(items: list[int]) -> list[int]:
        gate.wait(5)
        batches.append(items)
        return items

    thread = BatchThread[int, int]("test", work, calls.call_from_thread, gather=60.0)
    crowd = [thread.submit(number) for number in range(3)]
    gate.set()
    calls.wait(crowd[-1])
    patient, gathering = thread.submit(3, patience=60.0), thread.submit(4)
    with pytest.raises(Empty):
        calls.queue.get(timeout=0.05)  # it gathers, for there was a crowd
    calls.wait(thread.submit(5, hurry=True))
    assert (patient.result, gathering.result) == (3, 4) and batches[-1] == [3, 4, 5]
    calls.wait(thread.stop())


def test_gathering_has_an_end() -> None:
    calls, gate = Calls(), Event()

    def work(items: list[int]) -> list[float]:
        gate.wait(5)
        return [monotonic()] * len(items)

    thread = BatchThread[int, float]("test", work, calls.call_from_thread, gather=0.05)
    crowd = [thread.submit(number) for number in range(3)]
    gate.set()
    calls.wait(crowd[-1])
    begin = monotonic()
    last = thread.submit(3)
    calls.wait(last)
    assert isinstance(last.result, float) and 0.04 < last.result - begin < 4
    calls.wait(thread.stop())


def test_patience_has_an_end_and_the_shortest_counts() -> None:
    calls = Calls()
    thread = BatchThread[int, int]("test", lambda items: items, calls.call_from_thread)
    long, short = thread.submit(1, patience=60.0), thread.submit(2, patience=0.02)
    begin = monotonic()
    calls.wait(short)
    assert 0.015 < monotonic() - begin < 4
    assert long.result == 1
    calls.wait(thread.stop())


def test_what_comes_with_patience_while_others_are_done_waits_its_time() -> None:
    calls, gate, at_work, batches = Calls(), Event(), Event(), list[list[int]]()

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        at_work.set()
        gate.wait(5)
        return items

    thread = BatchThread[int, int]("test", work, calls.call_from_thread)
    first = thread.submit(1)
    assert at_work.wait(5)
    second = thread.submit(2, patience=0.5)
    gate.set()
    calls.wait(first)
    third = thread.submit(3, patience=60.0)
    calls.wait(third)
    assert second.result == 2 and batches == [[1], [2, 3]]
    calls.wait(thread.stop())


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
