"""Mail in hand is bounded: 452 before memory is short, and never more than was allowed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailnode.in_hand import MOST, BoundedIntake
from mailnode.interfaces import ICustody, IIntake
from mailnode.mail import NULL_PATH, PLAIN_TERMS, Body, Client, Envelope, Mode, Path, Reply, Rights, Terms

OK = Reply(250, "OK")


@implementer(ICustody)
class Custody:
    def __init__(self) -> None:
        self.size = 0
        self.aborted = 0
        self.committed: Deferred[Reply] | None = None

    def recipient(self, path: Path, notify: tuple[str, ...] = (), orcpt: str = "") -> Reply:
        return Reply(250, f"{path} {notify} {orcpt}")

    def open(self) -> Reply:
        return Reply(354, "go")

    def write(self, piece: bytes) -> Deferred[None] | None:
        self.size += len(piece)
        return None

    def commit(self) -> Deferred[Reply]:
        return self.committed if self.committed is not None else succeed(OK)

    def abort(self) -> None:
        self.aborted += 1


@implementer(IIntake)
class Intake:
    def __init__(self) -> None:
        self.custodies: list[Custody] = []
        self.refusal: Reply | None = None
        self.asked: Any = None

    def begin(
        self,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
    ) -> ICustody | Reply:
        self.asked = (client, rights, mode, reverse_path, size, terms)
        self.custodies.append(Custody())
        return self.refusal or self.custodies[-1]

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        return succeed("notice")


class Mail:
    """Messages on their way through a bounded intake."""

    def __init__(self, memory: int = 1000) -> None:
        self.inner = Intake()
        self.bounded = BoundedIntake(self.inner, memory)

    def begin(self) -> Any:
        return self.bounded.begin(Client(), Rights(), Mode.MAIL, NULL_PATH, 7, Terms(utf8=True))

    def started(self, octets: int) -> Any:
        custody = self.begin()
        assert custody.open().code == 354
        custody.write(b"x" * octets)
        return custody


def test_the_contracts_are_kept() -> None:
    mail = Mail()
    assert verifyObject(IIntake, mail.bounded)
    assert verifyObject(ICustody, mail.begin())


def test_everything_is_passed_on() -> None:
    mail = Mail()
    custody = mail.begin()
    assert mail.inner.asked == (Client(), Rights(), Mode.MAIL, NULL_PATH, 7, Terms(utf8=True))
    assert custody.recipient(Path("a"), ("NEVER",), "rfc822;a").text == "<a> ('NEVER',) rfc822;a"
    custody.write(b"abc")
    assert mail.inner.custodies[0].size == 3
    mail.inner.refusal = Reply(452, "full")
    assert mail.begin() == Reply(452, "full")


def test_a_message_counts_until_its_custody_has_ended() -> None:
    mail = Mail()
    custody = mail.started(300)
    assert mail.bounded.in_hand == 300
    mail.inner.custodies[0].committed = done = Deferred()
    replies: list[Reply] = []
    custody.commit().addCallback(replies.append)
    assert (mail.bounded.in_hand, replies) == (300, [])
    done.callback(OK)
    assert (mail.bounded.in_hand, replies) == (0, [OK])


def test_an_aborted_message_counts_no_more_however_often_it_is_aborted() -> None:
    mail = Mail()
    custody, other = mail.started(300), mail.started(100)
    custody.abort()
    custody.abort()
    assert mail.bounded.in_hand == 100
    other.abort()
    assert mail.bounded.in_hand == 0


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
    assert mail.bounded.in_hand == 600
    assert mail.inner.custodies[1].aborted == 1
    second.write(b"heard out, and not kept")
    assert mail.inner.custodies[1].size == 100
    replies: list[Reply] = []
    second.commit().addCallback(replies.append)
    assert [(reply.code, reply.status) for reply in replies] == [(452, "4.3.1")]
    first.commit().addCallback(replies.append)
    assert replies[1] == OK and mail.bounded.in_hand == 0


def test_what_goes_to_the_disk_is_in_memory_only_at_its_edge() -> None:
    mail = Mail(10 * MOST)
    custody = mail.started(MOST)
    custody.write(b"x" * (20 * MOST))
    assert mail.bounded.in_hand == MOST
    custody.abort()
    assert mail.bounded.in_hand == 0


def test_a_notice_always_goes_in() -> None:
    mail = Mail()
    mail.started(800)
    replies: list[str] = []
    mail.bounded.submit(Envelope(Mode.MAIL, NULL_PATH, ()), Body.of(b"")).addCallback(replies.append)
    assert replies == ["notice"]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["begin", "write", "abort", "commit"]))))
def test_the_bound_holds_and_nothing_is_counted_for_ever(steps: list[tuple[int, str]]) -> None:
    mail = Mail(1000)
    open_now: dict[int, Any] = {}
    for number, step in steps:
        if step == "begin" and number not in open_now:
            custody = mail.begin()
            if not isinstance(custody, Reply):
                open_now[number] = custody
        elif step == "write" and number in open_now:
            open_now[number].write(b"x" * 170)
        elif step in ("abort", "commit") and number in open_now:
            getattr(open_now.pop(number), step)()
        assert 0 <= mail.bounded.in_hand <= 1000
    for custody in open_now.values():
        custody.abort()
    assert mail.bounded.in_hand == 0


@pytest.mark.parametrize("memory", [1, 10])
def test_a_bound_that_is_too_small_takes_nothing_and_breaks_nothing(memory: int) -> None:
    mail = Mail(memory)
    custody = mail.started(100)
    replies: list[Reply] = []
    custody.commit().addCallback(replies.append)
    assert replies[0].code == 452
