"""Held mail: who may have it, split by domain, never twice, never lost; and calling for it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mailnode.directory.directory import Directory
from mailnode.interfaces import ISettling, Results, Selection, Settlement
from mailnode.mail import Client, Entry, Envelope, Letter, Mode, Outcome, Path, Recipient, Reply, Result
from mailnode.peering.held import AT_ONCE, HeldLetters, Peer, Peering
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool

DAY = 86400
LEAF = Peer("leaf", ("leaf.edu",), keep=30 * DAY)
OLD = Peer("old", ("old.edu",), by_auth=False, networks=(ip_network("192.0.2.0/24"),))


@implementer(ISettling)
class Settling:
    def __init__(self, spool: MemorySpool) -> None:
        self.spool = spool
        self.failed: list[str] = []

    def settle(self, entry: Entry, results: Results) -> Deferred[None]:
        self.failed += [r.path.mailbox for r, result in results.items() if result.outcome is Outcome.FAILED]
        return self.spool.settle(Settlement(entry.id, tuple(results.items())))


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(100 * DAY)
        self.spool = MemorySpool(self.clock.seconds)
        self.settling = Settling(self.spool)
        routing = Routing(
            "hub.edu", ["hub.edu"], Directory([]), routes={"*": "hold"}, held=["leaf.edu", "old.edu"]
        )
        self.peering = Peering([LEAF, OLD], self.spool, routing, self.settling, self.clock.seconds)

    def hold(self, *names: str) -> None:
        draft = self.spool.draft()
        draft.write(b"hi\r\n")
        recipients = tuple(Recipient(Path(*name.split("@"))) for name in names)
        envelope = Envelope(Mode.MAIL, Path("a", "b.edu"), recipients)

        def held(entry: Entry | None) -> Deferred[None]:
            assert entry is not None
            rows = tuple((r, Result(Outcome.HELD, Reply(250, ""))) for r in entry.envelope.recipients)
            return self.spool.settle(Settlement(entry.id, rows))

        self.spool.accept(self.spool.new_id(), envelope, draft, True).addCallback(held)

    def queue(self) -> list[tuple[str, str]]:
        (listing,) = found(self.spool.listing(Selection()))
        return [(r.path.mailbox, r.state) for message in listing for r in message.recipients]

    def letters(self) -> HeldLetters:
        letters = self.peering.grant(Client(address="127.0.0.1", identity="leaf"))
        assert isinstance(letters, HeldLetters)
        return letters


def found(deferred: Any) -> list[Any]:
    result: list[Any] = []
    (deferred if isinstance(deferred, Deferred) else succeed(deferred)).addCallback(result.append)
    return result


def following(letters: HeldLetters) -> Letter | None:
    (letter,) = found(letters.next())
    return letter


def answer(letters: HeldLetters, letter: Letter, reply: Reply) -> None:
    letters.settle(letter, {r: Result.of(reply) for r in letter.recipients}, "leaf")


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("client", "granted"),
    [
        (Client(address="127.0.0.1", identity="leaf"), True),
        (Client(address="192.0.2.7"), True),  # the legacy host, by its address
        (Client(address="127.0.0.1", hello="leaf"), False),  # HELO is a claim
        (Client(address="127.0.0.1", identity="old"), False),  # it is not known by AUTH
        (Client(address="198.51.100.1", hello="old.edu"), False),
        (Client(address=""), False),
        (Client(address="192.0.2.7", turned=True), False),  # we called it
        (Client(address="127.0.0.1", identity="leaf", turned=True), False),
        (Client(address="2001:db8::1"), False),
    ],
)
def test_only_a_peer_that_has_proved_itself_is_granted_the_line(
    world: World, client: Client, granted: bool
) -> None:
    answer = world.peering.grant(client)
    assert isinstance(answer, HeldLetters) is granted
    if not granted:
        assert isinstance(answer, Reply) and answer.code == 502


def test_a_message_is_split_by_the_domains_granted_every_time(world: World) -> None:
    for _ in range(3):
        world.hold("b@leaf.edu", "c@else.edu", "d@leaf.edu")
    letters = world.letters()
    for _ in range(3):
        letter = following(letters)
        assert letter is not None
        assert [r.path.mailbox for r in letter.recipients] == ["b@leaf.edu", "d@leaf.edu"]
        answer(letters, letter, Reply(250, "ok"))
    assert following(letters) is None
    letters.close()
    assert world.queue() == [("c@else.edu", "held")] * 3
    assert letters.given == 6


def test_two_conversations_never_have_the_same_message(world: World) -> None:
    for _ in range(AT_ONCE + 5):
        world.hold("b@leaf.edu")
    first, second = world.letters(), world.letters()
    seen = []
    for letters in (first, second) * (AT_ONCE + 5):
        if (letter := following(letters)) is not None:
            seen.append(letter.id)
            answer(letters, letter, Reply(250, "ok"))
    assert len(seen) == len(set(seen)) == AT_ONCE + 5 and world.queue() == []


def test_what_a_peer_cannot_take_now_is_offered_once_a_call_and_held_again(world: World) -> None:
    for _ in range(AT_ONCE + 5):
        world.hold("b@leaf.edu")
    letters = world.letters()
    seen = []
    while (letter := following(letters)) is not None:
        seen.append(letter.id)
        answer(letters, letter, Reply(450, "busy"))
    letters.close()
    assert len(set(seen)) == len(seen) == AT_ONCE + 5
    assert world.queue() == [("b@leaf.edu", "held")] * (AT_ONCE + 5)


def test_what_a_peer_refuses_for_good_fails(world: World) -> None:
    world.hold("b@leaf.edu")
    letters = world.letters()
    letter = following(letters)
    assert letter is not None
    answer(letters, letter, Reply(550, "who?"))
    assert world.settling.failed == ["b@leaf.edu"] and world.queue() == []


def test_a_conversation_that_ends_gives_back_what_it_had_not_begun(world: World) -> None:
    for _ in range(3):
        world.hold("b@leaf.edu")
    letters = world.letters()
    letter = following(letters)
    assert letter is not None
    letters.returned(letter)
    letters.close()
    assert world.queue() == [("b@leaf.edu", "held")] * 3


def test_a_call_takes_along_what_is_held_for_no_peer(world: World) -> None:
    world.hold("b@leaf.edu", "x@far.edu", "d@old.edu")
    letters = world.peering.outgoing()
    letter = following(letters)
    assert letter is not None and [r.path.mailbox for r in letter.recipients] == ["x@far.edu"]


def test_mail_that_is_not_fetched_within_keep_fails_and_younger_mail_stays(world: World) -> None:
    for _ in range(AT_ONCE + 1):
        world.hold("b@leaf.edu")
    world.clock.advance(31 * DAY)
    world.hold("d@leaf.edu")
    assert found(world.peering.expire()) == [AT_ONCE + 1]
    assert world.settling.failed == ["b@leaf.edu"] * (AT_ONCE + 1)
    assert world.queue() == [("d@leaf.edu", "held")]


def test_a_call_leaves_what_an_operator_holds_for_a_user_of_ours(world: World) -> None:
    world.hold("postmaster@hub.edu", "x@far.edu")
    letters = world.peering.outgoing()
    letter = following(letters)
    assert letter is not None and [r.path.mailbox for r in letter.recipients] == ["x@far.edu"]
    assert following(letters) is None
    answer(letters, letter, Reply(250, "ok"))
    letters.close()
    assert world.queue() == [("postmaster@hub.edu", "held")]


def test_a_peer_that_is_known_by_name_gets_its_own_mail_from_any_address(world: World) -> None:
    peer = world.peering.peer_of(Client(address="192.0.2.7", identity="leaf"))
    assert peer is LEAF
