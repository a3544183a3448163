"""The turnstile: so many at once, so many waiting, in their order, and no more."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure

from mailnode.access.turnstile import FullError, Turnstile


class Works:
    """Work that ends when it is told to."""

    def __init__(self, turnstile: Turnstile) -> None:
        self.turnstile = turnstile
        self.begun: list[str] = []
        self.ended: dict[str, object] = {}
        self._under_way: dict[str, Deferred[str]] = {}

    def enter(self, name: str) -> Deferred[str]:
        def work() -> Deferred[str]:
            self.begun.append(name)
            self._under_way[name] = Deferred()
            return self._under_way[name]

        def ended(result: object) -> None:
            self.ended[name] = result.type if isinstance(result, Failure) else result

        result = self.turnstile.enter(work)
        result.addBoth(ended)
        return result

    def end(self, name: str, result: str | Failure = "done") -> None:
        self._under_way.pop(name).callback(result)  # type: ignore[arg-type]


@pytest.fixture
def works() -> Works:
    return Works(Turnstile(running=2, waiting=2))


def test_work_begins_as_far_as_there_is_room_and_goes_on_in_its_order(works: Works) -> None:
    for name in "abcd":
        works.enter(name)
    assert works.begun == ["a", "b"]
    works.end("b")
    assert works.begun == ["a", "b", "c"] and works.ended == {"b": "done"}
    for name in "acd":
        works.end(name)
    assert works.begun == ["a", "b", "c", "d"]
    assert works.ended == dict.fromkeys("abcd", "done")


def test_who_finds_the_queue_full_is_turned_away_at_once(works: Works) -> None:
    for name in "abcde":
        works.enter(name)
    assert works.ended == {"e": FullError}
    works.end("a")
    works.enter("f")
    assert "f" not in works.ended
    for name in "bcdf":
        works.end(name)
    assert works.begun == ["a", "b", "c", "d", "f"]


def test_work_that_fails_frees_its_place(works: Works) -> None:
    for name in "abc":
        works.enter(name)
    works.end("a", Failure(OSError("no file")))
    assert works.ended == {"a": OSError} and works.begun == ["a", "b", "c"]

    def broken() -> Deferred[str]:
        raise ValueError("never began")

    found: list[object] = []
    works.end("b")
    works.turnstile.enter(broken).addErrback(lambda failure: found.append(failure.type))
    works.turnstile.enter(lambda: fail(KeyError())).addErrback(lambda failure: found.append(failure.type))
    works.turnstile.enter(lambda: succeed("at once")).addCallback(found.append)
    assert found == [ValueError, KeyError, "at once"]


def test_work_that_is_cancelled_while_it_waits_never_begins(works: Works) -> None:
    works.enter("a")
    works.enter("b")
    works.enter("c").cancel()
    works.enter("d")
    works.enter("e")  # c has left its place in the queue
    assert works.ended == {"c": CancelledError}
    works.end("a")
    assert works.begun == ["a", "b", "d"]


def test_work_that_is_cancelled_under_way_keeps_its_place_until_it_is_done(works: Works) -> None:
    works.enter("a").cancel()
    works.enter("b")
    works.enter("c")
    assert works.ended == {"a": CancelledError} and works.begun == ["a", "b"]
    works.end("a")
    assert works.begun == ["a", "b", "c"]
