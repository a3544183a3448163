"""What a turned line brings: a few messages are delivered at once, many when the line has brought them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailnode.delivery.dispatch import FEW, PAUSE, REST, Dispatch
from mailnode.delivery.mailbox import DELIVERED
from mailnode.delivery.settling import Settling
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.mail import OURS, Client, Entry, Mode, Path, Recipient, Reply, Result
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.terminals.memory import MemoryTerminals

JONES = Path("jones", "leaf.example")
CALLED = Client("192.0.2.1", extended=True, turned=True, called="hub")


class SlowMailbox:
    """Deliveries that are not over before the test says so."""

    def __init__(self) -> None:
        self.open: list[Deferred[Result]] = []
        self.done = 0

    def deliver(self, user: str, entry: Entry, recipient: Recipient, reverse_path: Path) -> Deferred[Result]:
        self.open.append(Deferred())
        return self.open[-1]

    def ends(self) -> None:
        while self.open:
            self.done += 1
            self.open.pop(0).callback(DELIVERED)


class Leaf:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.spool = MemorySpool(self.clock.seconds)
        directory = Directory([NamedUsers([("jones", "")])], domains=["leaf.example"])
        routing = Routing("leaf.example", ["leaf.example"], directory)
        terminals = MemoryTerminals(self.clock.seconds)
        self.mailbox: Any = SlowMailbox()
        nobody: Any = None
        settling = Settling(self.spool, nobody, lambda *_: (60.0, False), 99, self.clock, self.clock.seconds)
        self.dispatch = Dispatch(
            *(self.spool, routing, self.mailbox, terminals, nobody, settling), self.clock, self.clock.seconds
        )
        self.intake = Intake("leaf.example", routing, terminals, self.spool, self.clock.seconds)
        self.intake.dispatch = self.dispatch
        self.dispatch.start()

    def brings(self, count: int, client: Client = CALLED) -> None:
        for _ in range(count):
            custody = self.intake.begin(client, OURS, Mode.MAIL, Path("smith", "usc.example"), 0)
            assert not isinstance(custody, Reply)
            custody.recipient(JONES)
            custody.open()
            custody.write(b"Subject: x\r\n\r\n")
            replies: list[Reply] = []
            custody.commit().addCallback(replies.append)
            assert replies[0].ok

    def passes(self, seconds: float) -> None:
        self.clock.pump([0.01] * round(seconds / 0.01))


@pytest.fixture
def leaf() -> Leaf:
    return Leaf()


def test_a_few_messages_are_delivered_at_once(leaf: Leaf) -> None:
    leaf.brings(3)
    assert len(leaf.mailbox.open) == 3


def test_many_wait_until_the_line_has_brought_them_all(leaf: Leaf) -> None:
    leaf.brings(FEW + 30)
    assert len(leaf.mailbox.open) == FEW
    for _ in range(5):
        leaf.passes(PAUSE / 2)
        leaf.mailbox.ends()
        leaf.brings(1)
        assert not leaf.mailbox.open
    leaf.passes(3 * PAUSE)
    assert len(leaf.mailbox.open) == 35
    leaf.mailbox.ends()
    leaf.passes(0.1)
    assert leaf.mailbox.done == FEW + 35
    leaf.brings(1)  # and it is as before
    assert len(leaf.mailbox.open) == 1


def test_what_others_bring_meanwhile_is_delivered_at_once(leaf: Leaf) -> None:
    leaf.brings(FEW + 1)
    leaf.brings(1, Client("127.0.0.1"))
    assert len(leaf.mailbox.open) == FEW + 1


def test_a_line_that_brings_more_and_more_does_not_keep_mail_waiting_for_ever(leaf: Leaf) -> None:
    leaf.brings(FEW + 1)
    leaf.mailbox.ends()
    waited = 0.0
    while not leaf.mailbox.open:
        leaf.passes(PAUSE / 2)
        waited += PAUSE / 2
        leaf.brings(1)
        assert waited < REST + 1
    assert waited > REST - 1
    # From then on it delivers while the line brings more, until it has caught up.
    for _ in range(200):
        leaf.mailbox.ends()
        leaf.brings(1)
        leaf.passes(0.01)
    leaf.mailbox.ends()
    leaf.passes(1)
    leaf.mailbox.ends()
    assert leaf.mailbox.done == FEW + 1 + 200 + round(waited / (PAUSE / 2))


def test_a_node_that_stops_meanwhile_leaves_the_rest_in_the_spool(leaf: Leaf) -> None:
    leaf.brings(FEW + 5)
    stopped: list[None] = []
    leaf.dispatch.stop().addCallback(stopped.append)
    leaf.brings(1)
    leaf.mailbox.ends()
    assert stopped == [None]
    leaf.passes(REST + 1)
    assert not leaf.mailbox.open and leaf.mailbox.done == FEW
    assert not [it for it in leaf.clock.getDelayedCalls() if "_is_rested" in repr(it)]
