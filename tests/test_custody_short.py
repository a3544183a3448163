"""Custody by the short way: what goes there, what by the spool, and what becomes of it in the end."""

from __future__ import annotations

import re
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from mailnode.custody import LOCAL_ERROR
from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import DELIVERED, NO_MAILBOX, STORAGE_FULL
from mailnode.delivery.settling import Settling
from mailnode.delivery.short_way import PATIENCE, ShortWay
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.interfaces import INotices, Selection
from mailnode.mail import CHUNK, Client, Entry, Mode, Path, Recipient, Reply, Result, Rights
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.terminals.memory import MemoryTerminals
from tests.delivery.test_short_way import Mailbox

SMITH = Path("smith", "usc.example")
JONES = Path("jones", "mit.example")
BROWN = Path("brown", "mit.example")
ALL = Rights(modes=tuple(Mode), relay=True)
CLIENT = Client("192.0.2.1", "usc.example", extended=True)
TEXT = b"Subject: lunch\r\n\r\nAt noon?\r\n"


class World:
    """A node whose mailbox ends deliveries when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.spool = MemorySpool(self.clock.seconds)
        members = (("", JONES),)
        directory = Directory(
            [NamedUsers([("jones", ""), ("brown", "")])],
            aliases={"boss": members, "both": (*members, ("", BROWN))},
            lists={"staff": members},
            domains=["mit.example"],
        )
        routing = Routing("mit.example", ["mit.example"], directory, held=["leaf.example"])
        terminals = MemoryTerminals(self.clock.seconds)
        self.mailbox = Mailbox()
        mailbox: Any = self.mailbox
        nobody: Any = None
        self.intake = Intake("mit.example", routing, terminals, self.spool, self.clock.seconds)
        self.failed: list[str] = []
        settling = Settling(self.spool, self._notices(), self.decide, 99, self.clock, self.clock.seconds)
        self.dispatch = Dispatch(
            *(self.spool, routing, mailbox, terminals, nobody, settling), self.clock, self.clock.seconds
        )
        self.intake.dispatch = self.dispatch
        self.intake.short_way = ShortWay(mailbox, self.clock)
        self.dispatch.start()

    def _notices(self) -> INotices:
        def failed(entry: Entry, results: Any) -> Deferred[None]:
            self.failed += [recipient.path.mailbox for recipient in results]
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done

        notices: Any = type("Notices", (), {"failed": staticmethod(failed)})
        return notices

    def decide(self, attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
        return 60.0, False

    def give(
        self,
        *to: Path | Recipient,
        mode: Mode = Mode.MAIL,
        text: bytes = TEXT,
        client: Client = CLIENT,
        once: str = "",
    ) -> list[Reply]:
        custody = self.intake.begin(client, ALL, mode, SMITH, 0, once=once)
        assert not isinstance(custody, Reply)
        for it in to or (JONES,):
            it = it if isinstance(it, Recipient) else Recipient(it)
            assert custody.recipient(it.path, it.notify).ok
        assert custody.open().code == 354
        custody.write(text)
        replies: list[Reply] = []
        custody.commit().addCallback(replies.append)
        return replies

    def queue(self) -> list[str]:
        """The states of what is in the spool."""
        found: list[Any] = []
        self.spool.listing(Selection()).addCallback(found.extend)
        return [f"{it.path.local} {it.state} {it.attempts}" for message in found for it in message.recipients]

    def ends(self, result: Result = DELIVERED) -> None:
        self.mailbox.open.pop(0).callback(result)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def lines() -> Any:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


@pytest.mark.parametrize("to", [JONES, Path("JONES", "MIT.example"), Path("boss", "mit.example")])
def test_the_reply_waits_for_the_mailbox_and_the_spool_never_hears_of_it(world: World, to: Path) -> None:
    replies = world.give(to)
    assert not replies and world.queue() == []
    world.ends()
    (reply,) = replies
    assert reply.code == 250 and world.queue() == []
    assert [(user, hurry) for user, _, _, hurry in world.mailbox.begun] == [("jones", True)]
    assert world.intake.in_hand.octets == 0


def test_one_line_of_the_log_says_all(world: World, lines: list[Any]) -> None:
    world.give()
    world.ends()
    (line,) = [it["log_format"].format_map(it) for it in lines if it.get("id")]
    assert re.fullmatch(
        r"[0-9a-z]{13} delivered: MAIL to <jones@mit\.example>: 250 2\.0\.0 Delivered to the mailbox; "
        r"from <smith@usc\.example> by 192\.0\.2\.1, 1[0-9][0-9] octets, at once",
        line,
    )


@pytest.mark.parametrize(
    "how",
    [
        {"to": (JONES, BROWN)},
        {"to": (Path("both", "mit.example"),)},
        {"to": (Path("staff", "mit.example"),)},
        {"to": (Path("leo", "leaf.example"),)},
        {"to": (Recipient(JONES, notify=("SUCCESS", "FAILURE")),)},
        {"text": TEXT + b"x" * CHUNK},
        {"mode": Mode.SAML},
        {"client": Client("192.0.2.1", turned=True, called="hub")},
        {"once": "a-name"},
    ],
    ids=lambda how: next(iter(how)),
)
def test_what_needs_more_than_a_mailbox_is_in_the_spool_before_the_reply(
    world: World, how: dict[str, Any]
) -> None:
    to = how.pop("to", ())
    (reply,) = world.give(*to, **how)
    assert reply.code == 250 and len(world.queue()) == len(to or (JONES,))
    assert not any(hurry for *_, hurry in world.mailbox.begun)


@pytest.mark.parametrize("missing", ["dispatch", "short_way"])
def test_without_a_mailbox_in_this_process_all_goes_by_the_spool(world: World, missing: str) -> None:
    setattr(world.intake, missing, None)
    assert world.give()[0].code == 250
    assert [it.split()[0] for it in world.queue()] == ["jones"]


def test_a_mailbox_that_cannot_take_it_now_leaves_it_to_the_spool_as_after_any_attempt(world: World) -> None:
    replies = world.give()
    world.ends(STORAGE_FULL)
    assert replies[0].code == 250 and world.queue() == ["jones queued 1"]
    world.clock.advance(61)
    world.ends()
    assert len(world.mailbox.begun) == 2 and world.queue() == []


def test_a_mailbox_that_is_gone_costs_the_sender_a_notice_not_the_reply(world: World) -> None:
    replies = world.give()
    world.ends(NO_MAILBOX)
    assert replies[0].code == 250 and world.queue() == [] and world.failed == ["jones@mit.example"]
    assert len(world.mailbox.begun) == 1


def test_the_spool_takes_over_a_delivery_that_takes_long_and_nothing_is_delivered_twice(world: World) -> None:
    replies = world.give()
    world.clock.advance(PATIENCE)
    world.clock.advance(PATIENCE)
    assert replies[0].code == 250 and world.queue() == ["jones leased 0"]
    world.clock.advance(3600)
    world.ends()
    assert world.queue() == [] and len(world.mailbox.begun) == 1


def test_a_late_delivery_that_fails_is_tried_again(world: World) -> None:
    world.give()
    world.clock.advance(PATIENCE)
    world.clock.advance(PATIENCE)
    world.ends(STORAGE_FULL)
    assert world.queue() == ["jones queued 1"]


def test_a_node_that_goes_down_waits_for_a_late_delivery(world: World) -> None:
    world.give()
    world.clock.advance(PATIENCE)
    world.clock.advance(PATIENCE)
    stopped = world.dispatch.stop()
    assert not stopped.called
    world.ends()
    assert stopped.called


def test_what_neither_mailbox_nor_spool_takes_is_refused(world: World) -> None:
    replies = world.give()
    world.spool.close()
    world.ends(STORAGE_FULL)
    assert replies == [LOCAL_ERROR] and world.intake.in_hand.octets == 0


@pytest.mark.parametrize(("result", "code"), [(DELIVERED, 250), (STORAGE_FULL, 451)])
def test_where_the_spool_refuses_what_a_mailbox_may_have_in_a_moment_the_mailbox_decides(
    world: World, result: Result, code: int
) -> None:
    replies = world.give()
    world.spool.close()
    world.clock.advance(PATIENCE)
    world.clock.advance(PATIENCE)
    assert not replies
    world.ends(result)
    assert [reply.code for reply in replies] == [code] and world.intake.in_hand.octets == 0


def test_a_message_arrives_when_its_data_begins_whichever_way_it_goes(world: World) -> None:
    """So that the name of its file is the same, should it be delivered once more."""
    begun: list[Entry] = []
    deliver = world.mailbox.deliver

    def noted(user: str, entry: Entry, *rest: Any, **how: Any) -> Deferred[Result]:
        begun.append(entry)
        return deliver(user, entry, *rest, **how)

    world.mailbox.deliver = noted  # type: ignore[method-assign]
    world.give()
    world.clock.advance(PATIENCE)
    world.clock.advance(PATIENCE)
    world.ends(STORAGE_FULL)
    world.clock.advance(61)
    first, again = begun
    assert first.arrived == again.arrived and first.id == again.id
    assert first.envelope.recipients[0].number == again.envelope.recipients[0].number
