"""Mail in hand is bounded: 452 before memory is short, and never more than was allowed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.in_hand import MOST, InHand
from mailnode.intake import Intake
from mailnode.interfaces import ICustody, IIntake
from mailnode.mail import OURS, Body, Client, Entry, Envelope, Mode, Path, Recipient, Reply
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.terminals.memory import MemoryTerminals

JONES = Path("jones", "mit.example")
SMITH = Path("smith", "usc.example")


class SlowSpool(MemorySpool):
    """Says nothing of what it has accepted before it is told to."""

    late = False

    def __init__(self) -> None:
        super().__init__(lambda: 1e9, limit=1 << 30)
        self.unsaid: list[tuple[Deferred[Entry | None], Deferred[Entry | None]]] = []

    def accept(self, *arguments: Any, **options: Any) -> Deferred[Entry | None]:
        accepted = super().accept(*arguments, **options)
        if not self.late:
            return accepted
        told: Deferred[Entry | None] = Deferred()
        self.unsaid.append((accepted, told))
        return told


class Mail:
    """Messages on their way through an intake that is bounded."""

    def __init__(self, memory: int = 1000) -> None:
        self.spool = SlowSpool()
        directory = Directory([NamedUsers([("jones", "")])], domains=["mit.example"])
        routing = Routing("mit.example", ["mit.example"], directory)
        self.in_hand = InHand(memory)
        terminals = MemoryTerminals(lambda: 1e9)
        self.intake = Intake("mit.example", routing, terminals, self.spool, lambda: 1e9, in_hand=self.in_hand)
        self.replies: list[Reply] = []

    def begin(self, mode: Mode = Mode.MAIL) -> Any:
        return self.intake.begin(Client(), OURS, mode, SMITH, 7)

    def started(self, octets: int) -> Any:
        custody = self.begin()
        custody.recipient(JONES)
        assert custody.open().code == 354
        custody.write(b"x" * octets)
        return custody

    def commit(self, custody: Any) -> Reply:
        custody.commit().addCallback(self.replies.append)
        return self.replies[-1]


def test_the_contracts_are_kept() -> None:
    mail = Mail()
    assert verifyObject(IIntake, mail.intake)
    assert verifyObject(ICustody, mail.begin())


def test_a_message_counts_until_it_is_the_spools() -> None:
    mail = Mail()
    mail.spool.late = True
    custody = mail.started(300)
    assert mail.in_hand.octets == 300
    custody.commit().addCallback(mail.replies.append)
    assert (mail.in_hand.octets, mail.replies) == (300, [])
    ((accepted, told),) = mail.spool.unsaid
    accepted.chainDeferred(told)
    assert (mail.in_hand.octets, mail.replies[0].code) == (0, 250)


def test_an_aborted_message_counts_no_more_however_often_it_is_aborted() -> None:
    mail = Mail()
    custody, other = mail.started(300), mail.started(100)
    custody.abort()
    custody.abort()
    assert mail.in_hand.octets == 100
    other.abort()
    assert mail.in_hand.octets == 0


def test_a_message_that_is_refused_or_not_stored_counts_no_more() -> None:
    mail = Mail(100_000)
    loop = mail.started(10)
    loop.write(b"\r\n" + b"Received: x\r\n" * 100)
    looping = mail.begin()
    looping.recipient(JONES)
    looping.open()
    looping.write(b"Received: x\r\n" * 100 + b"\r\n")
    assert mail.commit(looping).code == 554
    assert mail.commit(loop).code == 250
    broken = mail.started(200)
    mail.spool.close()
    assert mail.commit(broken).code == 451
    assert mail.in_hand.octets == 0


@pytest.mark.parametrize("mode", [Mode.SEND, Mode.SOML, Mode.SAML])
def test_a_message_for_terminals_counts_no_more_when_it_is_done_with(mode: Mode) -> None:
    mail = Mail()
    custody = mail.begin(mode)
    custody.recipient(JONES)
    custody.open()
    custody.write(b"x" * 100)
    assert mail.in_hand.octets == 100
    assert mail.commit(custody).code == (451 if mode is Mode.SEND else 250)
    assert mail.in_hand.octets == 0


def test_from_three_quarters_on_nothing_new_is_begun() -> None:
    mail = Mail()
    early = mail.begin()
    custody = mail.started(750)
    assert mail.begin().code == 452
    assert early.open().code == 451  # what RFC 821 has for DATA
    custody.abort()
    assert not isinstance(mail.begin(), Reply)


def test_what_grows_beyond_the_whole_is_thrown_away_and_refused() -> None:
    mail = Mail()
    first, second = mail.started(600), mail.started(100)
    second.write(b"x" * 301)
    assert mail.in_hand.octets == 600
    second.write(b"heard out, and not kept")
    reply = mail.commit(second)
    assert (reply.code, reply.status) == (452, "4.3.1")
    assert mail.commit(first).code == 250 and mail.in_hand.octets == 0


def test_what_goes_to_the_disk_is_in_memory_only_at_its_edge() -> None:
    mail = Mail(10 * MOST)
    custody = mail.started(MOST)
    custody.write(b"x" * (20 * MOST))
    assert mail.in_hand.octets == MOST
    custody.abort()
    assert mail.in_hand.octets == 0


def test_a_notice_always_goes_in() -> None:
    mail = Mail()
    mail.started(800)
    ids: list[str] = []
    notice = Envelope(Mode.MAIL, SMITH, (Recipient(JONES),))
    mail.intake.submit(notice, Body.of(b"x" * 5000)).addCallback(ids.append)
    assert len(ids) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["begin", "write", "abort", "commit"]))))
def test_the_bound_holds_and_nothing_is_counted_for_ever(steps: list[tuple[int, str]]) -> None:
    mail = Mail(1000)
    open_now: dict[int, Any] = {}
    for number, step in steps:
        if step == "begin" and number not in open_now:
            custody = mail.begin()
            if isinstance(custody, Reply):
                continue
            custody.recipient(JONES)
            if custody.open().code == 354:
                open_now[number] = custody
        elif step == "write" and number in open_now:
            open_now[number].write(b"x" * 170)
        elif step in ("abort", "commit") and number in open_now:
            getattr(open_now.pop(number), step)()
        assert 0 <= mail.in_hand.octets <= 1000
    for custody in open_now.values():
        custody.abort()
    assert mail.in_hand.octets == 0


@pytest.mark.parametrize("memory", [1, 10])
def test_a_bound_that_is_too_small_takes_nothing_and_breaks_nothing(memory: int) -> None:
    mail = Mail(memory)
    assert mail.commit(mail.started(100)).code == 452
