"""The short way: a sender waits for a mailbox, but no longer than a moment, and only where that is quick."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from mailnode.delivery.dispatch import BROKEN
from mailnode.delivery.mailbox import DELIVERED, STORAGE_FULL
from mailnode.delivery.short_way import MOST, PATIENCE, ShortWay
from mailnode.interfaces import Attempt, IShortWay
from mailnode.mail import Body, Destination, Entry, Envelope, Held, Hop, Local, Mode, Path, Recipient, Result


@contextmanager
def logged() -> Iterator[list[Any]]:
    """The failures that are logged meanwhile."""
    failures: list[Any] = []

    def observe(event: Any) -> None:
        if "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield failures
    finally:
        globalLogPublisher.removeObserver(observe)


SMITH = Path("smith", "usc.example")
JONES = Path("jones", "mit.example")
BOX = Destination(Local("jones"), JONES)


class Mailbox:
    """Deliveries that end when the test says so."""

    def __init__(self) -> None:
        self.is_quick = True
        self.begun: list[tuple[str, Path, Path, bool]] = []
        self.open: list[Deferred[Result]] = []

    def deliver(
        self, user: str, entry: Entry, recipient: Recipient, reverse_path: Path, hurry: bool = False
    ) -> Deferred[Result]:
        self.begun.append((user, recipient.path, reverse_path, hurry))
        self.open.append(Deferred())
        return self.open[-1]


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.mailbox = Mailbox()
        mailbox: Any = self.mailbox
        self.way = ShortWay(mailbox, self.clock)
        self.heard: list[Attempt] = []

    def give(self, where: Destination = BOX, to: Path = JONES) -> bool:
        envelope = Envelope(Mode.MAIL, SMITH, (Recipient(to, number=1),))
        told = self.way.deliver(Entry("M1", envelope, Body.of(b"hi\r\n"), 0.0), where)
        if told is not None:
            told.addCallback(self.heard.append)
        return told is not None


@pytest.fixture
def world() -> World:
    return World()


def test_the_door_is_provided(world: World) -> None:
    assert verifyObject(IShortWay, world.way)


@pytest.mark.parametrize("result", [DELIVERED, STORAGE_FULL])
def test_the_sender_hears_what_the_mailbox_says_and_nothing_is_left(world: World, result: Result) -> None:
    assert world.give()
    assert world.mailbox.begun == [("jones", JONES, SMITH, True)] and not world.heard
    world.mailbox.open.pop().callback(result)
    assert world.heard == [Attempt(result)]
    world.clock.advance(PATIENCE)
    assert not world.clock.getDelayedCalls() and world.heard == [Attempt(result)]


def test_behind_an_alias_the_mailbox_is_told_the_address_of_the_user(world: World) -> None:
    assert world.give(to=Path("boss", "mit.example"))
    assert world.mailbox.begun == [("jones", JONES, SMITH, True)]


@pytest.mark.parametrize("place", [Held("leaf.example"), Hop("mx", "usc.example")])
def test_what_is_not_for_a_mailbox_here_goes_by_the_spool(world: World, place: Any) -> None:
    assert not world.give(Destination(place, JONES)) and not world.mailbox.begun


def test_where_the_disk_is_slow_all_goes_by_the_spool(world: World) -> None:
    world.mailbox.is_quick = False
    assert not world.give() and not world.mailbox.begun
    assert not world.clock.getDelayedCalls()


def test_who_has_waited_long_enough_hears_the_result_later(world: World) -> None:
    world.give()
    world.clock.advance(PATIENCE)
    assert not world.heard  # seen waiting for the first time
    world.clock.advance(PATIENCE)
    (attempt,) = world.heard
    assert attempt.result is None and attempt.later is not None
    results: list[Result] = []
    attempt.later.addCallback(results.append)
    assert not results and not world.clock.getDelayedCalls()
    world.mailbox.open.pop().callback(DELIVERED)
    assert results == [DELIVERED] and len(world.heard) == 1


def test_who_came_later_waits_as_long(world: World) -> None:
    world.give()
    world.clock.advance(PATIENCE)
    world.give()
    world.clock.advance(PATIENCE)
    assert len(world.heard) == 1
    world.clock.advance(PATIENCE / 2)
    world.mailbox.open.pop().callback(DELIVERED)
    assert world.heard[1] == Attempt(DELIVERED)


def test_while_a_delivery_is_late_nobody_else_waits_for_the_mailbox(world: World) -> None:
    world.give()
    world.clock.advance(PATIENCE)
    world.clock.advance(PATIENCE)
    assert not world.give()
    world.mailbox.open.pop().callback(STORAGE_FULL)
    assert world.give()


@pytest.mark.parametrize("how", ["raises", "fails"])
def test_a_mailbox_that_breaks_its_word_is_tried_again_and_stops_nobody(world: World, how: str) -> None:
    good = world.mailbox.deliver

    def broken(*arguments: Any, **options: Any) -> Deferred[Result]:
        if how == "raises":
            raise RuntimeError("no thread can be started")
        return fail(RuntimeError("no thread can be started"))

    world.mailbox.deliver = broken  # type: ignore[method-assign]
    with logged() as failures:
        assert world.give()
    assert world.heard == [Attempt(Result.later(BROKEN))] and len(failures) == 1
    world.mailbox.deliver = good  # type: ignore[method-assign]
    world.clock.advance(PATIENCE)
    assert world.give() and not world.clock.getDelayedCalls()[1:]


def test_only_so_many_senders_wait(world: World) -> None:
    assert [world.give() for _ in range(MOST + 1)] == [True] * MOST + [False]
    world.mailbox.open.pop().callback(DELIVERED)
    assert world.give()
