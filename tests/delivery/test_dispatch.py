"""Dispatch: each recipient afresh to where it leads, once, and written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mailnode.delivery.dispatch import GATHER, REFILL, ROOM, Dispatch
from mailnode.delivery.dsn import success
from mailnode.delivery.mailbox import MemoryMailbox
from mailnode.delivery.settling import Settling
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.interfaces import INotices, IOutcomes, IRelay, Results, Selection
from mailnode.mail import Body, Entry, Envelope, Hop, Letter, Mode, Outcome, Path, Recipient, Reply, Result
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.terminals.memory import MemoryTerminals


@implementer(IRelay)
class Relay:
    """Gives letters to nobody until the test answers."""

    def __init__(self) -> None:
        self.letters: list[tuple[Hop, Letter, Deferred[Results]]] = []

    def deliver(self, hop: Hop, letter: Letter) -> Deferred[Results]:
        told: Deferred[Results] = Deferred()
        self.letters.append((hop, letter, told))
        return told

    def answer(self, reply: Reply) -> None:
        _, letter, told = self.letters.pop(0)
        told.callback(dict.fromkeys(letter.recipients, Result.of(reply)))


@implementer(INotices)
class Notices:
    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []

    def failed(self, entry: Entry, results: Results) -> Deferred[None]:
        self.told.append(("failed", sorted(r.path.mailbox for r in results)))
        return succeed(None)

    def delayed(self, entry: Entry, results: Results, until: float) -> Deferred[None]:
        self.told.append(("delayed", sorted(r.path.mailbox for r in results)))
        return succeed(None)

    def succeeded(self, entry: Entry, results: Results) -> Deferred[None]:
        self.told.append(("succeeded", sorted(f"{r.path.mailbox} {success(r, results[r])}" for r in results)))
        return succeed(None)


def members(*names: str) -> tuple[tuple[str, Path], ...]:
    return tuple(("", Path(*name.split("@"))) for name in names)


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.spool = MemorySpool(self.clock.seconds)
        self.directory = Directory(
            [NamedUsers([("jones", ""), ("brown", "")])],
            aliases={"boss": members("jones@mit.edu"), "all": members("jones@mit.edu", "x@usc.edu")},
            lists={"crew": members("brown@mit.edu"), "team": members("brown@mit.edu", "y@usc.edu")},
            forward={"joe": Path("joe", "leaf.edu"), "far": Path("x", "usc.edu")},
            domains=["mit.edu"],
        )
        self.routing = Routing("mit.edu", ["mit.edu"], self.directory, held=["leaf.edu"])
        self.mailbox = MemoryMailbox()
        self.terminals = MemoryTerminals()
        self.relay = Relay()
        self.notices = Notices()
        settling = Settling(self.spool, self.notices, self.decide, 99, self.clock, self.clock.seconds)
        self.settling = settling
        self.dispatch = Dispatch(
            *(self.spool, self.routing, self.mailbox, self.terminals, self.relay, settling),
            self.clock,
            self.clock.seconds,
        )

    def decide(self, attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
        return (None, False) if attempts > 2 else (60.0, attempts == 2)

    def give(
        self,
        *names: str,
        mode: Mode = Mode.MAIL,
        notify: tuple[str, ...] = (),
        orcpt: str = "",
        text: bytes = b"Subject: x\r\n\r\nhi\r\n",
    ) -> None:
        draft = self.spool.draft()
        draft.write(text)
        recipients = tuple(
            Recipient(Path(*name.split("@")), mode, notify=notify, orcpt=orcpt) for name in names
        )
        envelope = Envelope(mode, Path("smith", "usc.edu"), recipients)
        lease = self.dispatch.has_room()
        self.spool.accept(self.spool.new_id(), envelope, draft, lease).addCallback(
            lambda entry: self.dispatch.take(entry) if entry is not None else None
        )

    def queue(self) -> list[tuple[str, str]]:
        """(recipient, state) of all that is in the spool."""
        (listing,) = found(self.spool.listing(Selection()))
        return [(r.path.mailbox, r.state) for message in listing for r in message.recipients]


def found(deferred: Deferred[Any]) -> list[Any]:
    result: list[Any] = []
    deferred.addCallback(result.append)
    return result


@pytest.fixture
def world() -> World:
    return World()


def test_a_local_recipient_has_the_message_and_the_spool_forgets_it(world: World) -> None:
    world.give("jones@mit.edu")
    assert len(world.mailbox.messages["jones"]) == 1 and world.queue() == []


def test_a_user_of_several_names_gets_a_message_once(world: World) -> None:
    world.give("jones@mit.edu", "boss@mit.edu", "all@mit.edu")
    assert len(world.mailbox.messages["jones"]) == 1
    world.clock.advance(GATHER)
    world.relay.answer(Reply(250, "ok"))
    assert world.queue() == []


def test_what_is_done_is_written_down_while_the_rest_takes_long(world: World) -> None:
    world.give("jones@mit.edu", "x@usc.edu")
    assert len(world.queue()) == 2
    world.clock.advance(GATHER)
    assert world.queue() == [("x@usc.edu", "leased")]
    world.relay.answer(Reply(250, "ok"))
    assert world.queue() == []


def test_a_member_that_must_wait_takes_the_place_of_its_alias(world: World) -> None:
    world.give("all@mit.edu")
    world.relay.answer(Reply(450, "busy"))
    assert world.queue() == [("x@usc.edu", "queued")]
    world.clock.advance(61)
    assert [str(letter.recipients[0].path) for _, letter, _ in world.relay.letters] == ["<x@usc.edu>"]
    assert len(world.mailbox.messages["jones"]) == 1


def test_a_later_recipient_is_tried_again_warned_of_and_given_up(world: World) -> None:
    world.give("x@usc.edu")
    for told in ([], [("delayed", ["x@usc.edu"])], [("delayed", ["x@usc.edu"]), ("failed", ["x@usc.edu"])]):
        world.relay.answer(Reply(450, "busy"))
        assert world.notices.told == told
        world.clock.advance(61)
    assert world.queue() == [] and world.relay.letters == []


def test_what_became_of_a_message_for_a_terminal_is_told_once_it_is_written_down(world: World) -> None:
    told: list[tuple[list[tuple[str, str]], int]] = []

    @implementer(IOutcomes)
    class Outcomes:
        def told(self, entry: Entry, results: Results) -> None:
            outcomes = sorted((r.path.mailbox, result.outcome.value) for r, result in results.items())
            told.append((outcomes, len(world.queue())))

    world.settling.outcomes = Outcomes()
    world.give("x@usc.edu")
    world.relay.answer(Reply(250, "ok"))
    assert told == []  # nobody waits for mail
    world.give("x@usc.edu", mode=Mode.SEND)
    world.relay.answer(Reply(450, "busy"))
    world.give("all@mit.edu", mode=Mode.SOML)  # the members, not the name
    world.relay.answer(Reply(250, "ok"))
    assert told == [
        ([("x@usc.edu", "failed")], 0),
        ([("jones@mit.edu", "delivered"), ("x@usc.edu", "delivered")], 0),
    ]


def test_a_send_is_not_queued(world: World) -> None:
    world.give("x@usc.edu", mode=Mode.SEND)
    world.relay.answer(Reply(451, "busy"))
    assert world.queue() == [] and world.notices.told == [("failed", ["x@usc.edu"])]


def test_mail_for_a_peer_is_held_and_not_tried(world: World) -> None:
    world.give("b@leaf.edu", "jones@mit.edu")
    assert world.queue() == [("b@leaf.edu", "held")]
    world.clock.advance(100_000)
    assert world.queue() == [("b@leaf.edu", "held")]


def test_mail_that_leads_to_a_peer_by_another_name_is_held_for_that_peer(world: World) -> None:
    world.give("joe@mit.edu")
    assert world.queue() == [("joe@leaf.edu", "held")]
    (entries,) = found(world.spool.claim_held(["leaf.edu"], 5))
    assert [str(entry.envelope.recipients[0].path) for entry in entries] == ["<joe@leaf.edu>"]


def test_a_body_that_cannot_be_read_is_tried_later_and_strands_nothing(world: World) -> None:
    draft = world.spool.draft()
    draft.write(b"x")
    envelope = Envelope(Mode.SOML, Path("a", "b.edu"), (Recipient(Path("jones", "mit.edu"), Mode.SOML),))
    (entry,) = found(world.spool.accept(world.spool.new_id(), envelope, draft, True))
    world.dispatch.take(replace(entry, body=Body(99, None, "/nonexistent/body")))
    assert world.queue() == [("jones@mit.edu", "queued")]


def test_a_user_who_is_gone_when_the_mail_comes_is_a_notice(world: World) -> None:
    world.give("nobody@mit.edu")
    assert world.queue() == [] and world.notices.told == [("failed", ["nobody@mit.edu"])]


@pytest.mark.parametrize("mode", [Mode.SOML, Mode.SAML])
def test_a_verb_for_terminals_falls_back_to_the_mailbox(world: World, mode: Mode) -> None:
    world.give("jones@mit.edu", mode=mode)
    assert len(world.mailbox.messages["jones"]) == 1 and world.terminals.shown == []


def test_soml_that_is_shown_is_not_mailed_and_saml_is_both(world: World) -> None:
    world.terminals.log_in("jones")
    world.give("jones@mit.edu", mode=Mode.SOML)
    assert len(world.terminals.shown) == 1 and "jones" not in world.mailbox.messages
    world.give("jones@mit.edu", mode=Mode.SAML)
    assert len(world.terminals.shown) == 2 and len(world.mailbox.messages["jones"]) == 1


def test_what_does_not_fit_stays_queued_and_is_taken_when_there_is_room(world: World) -> None:
    for number in range(ROOM + 3):
        world.give(f"u{number}@usc.edu")
    assert [state for _, state in world.queue()].count("leased") == ROOM
    assert not world.dispatch.has_room()
    for _ in range(ROOM + 3):
        if not world.relay.letters:
            world.clock.advance(REFILL)
            world.clock.advance(0)
        world.relay.answer(Reply(250, "ok"))
    assert world.queue() == []


def test_what_did_not_fit_is_taken_when_there_is_room_though_the_spool_was_empty_before(world: World) -> None:
    found(world.dispatch.start())  # nothing is due, so the next look is far away
    for _ in range(ROOM + 3):
        world.give("x@usc.edu")
    world.dispatch.wake()  # as intake does for what was not leased
    for _ in range(ROOM):
        world.relay.answer(Reply(250, "ok"))
    world.clock.advance(REFILL)
    for _ in range(3):
        world.relay.answer(Reply(250, "ok"))
    assert world.queue() == []


def test_stop_waits_for_what_is_in_hand_and_takes_nothing_more(world: World) -> None:
    world.give("x@usc.edu")
    stopped = found(world.dispatch.stop())
    assert stopped == [] and not world.dispatch.has_room()
    world.relay.answer(Reply(250, "ok"))
    assert stopped == [None]


def test_start_takes_back_what_was_in_hand_when_the_node_died(world: World) -> None:
    world.give("x@usc.edu")
    after = World()
    after.spool = world.spool
    settling = Settling(after.spool, after.notices, after.decide, 99, after.clock, after.clock.seconds)
    dispatch = Dispatch(
        *(after.spool, after.routing, after.mailbox, after.terminals, after.relay, settling),
        after.clock,
        after.clock.seconds,
    )
    dispatch.start()
    assert len(after.relay.letters) == 1


def test_a_disk_that_refuses_settlements_is_asked_again_until_it_takes_them(world: World) -> None:
    real: Callable[..., Deferred[None]] = world.spool.settle
    refusals = [OSError("full"), OSError("full")]

    def settle(settlement: Any) -> Deferred[None]:
        if refusals:
            failed: Deferred[None] = Deferred()
            failed.errback(refusals.pop())
            return failed
        return real(settlement)

    world.spool.settle = settle  # type: ignore[method-assign]
    world.give("jones@mit.edu")
    assert world.queue() == [("jones@mit.edu", "leased")]
    world.clock.pump([10.0, 10.0])
    assert world.queue() == []


# ------------------------------------------------------------------ names that lead elsewhere


def test_a_name_that_stands_for_itself_and_others_is_expanded_once(world: World) -> None:
    world.directory = Directory(
        [NamedUsers([("jones", "")])],
        aliases={"jones": members("jones@mit.edu", "x@usc.edu")},
        domains=["mit.edu"],
    )
    routing = Routing("mit.edu", ["mit.edu"], world.directory)
    world.dispatch.use(routing, world.mailbox, world.terminals, world.relay, world.settling)
    world.mailbox.refuse("jones", Result.later(Reply(452, "full")))
    world.give("jones@mit.edu")
    world.relay.answer(Reply(250, "ok"))
    assert world.queue() == [("jones@mit.edu", "queued")]
    world.mailbox.refuse("jones", None)
    world.clock.advance(61)
    assert world.relay.letters == []  # x has had it
    assert len(world.mailbox.messages["jones"]) == 1 and world.queue() == []


@pytest.mark.parametrize("name", ["crew", "team"])
def test_the_owner_of_a_list_hears_of_failures_however_many_members_it_has(world: World, name: str) -> None:
    world.mailbox.refuse("brown", Result.failed(Reply(550, "no")))
    owners = []

    def failed(entry: Entry, results: Results) -> Deferred[None]:
        owners.extend([(r.path.mailbox, str(r.sender), r.notify) for r in results])
        return succeed(None)

    world.notices.failed = failed  # type: ignore[method-assign]
    world.give(f"{name}@mit.edu", notify=("SUCCESS", "FAILURE"))
    if name == "team":
        world.relay.answer(Reply(250, "ok"))
    assert owners == [("brown@mit.edu", "<postmaster@mit.edu>", ())]


def test_a_mailbox_behind_an_alias_knows_its_own_address(world: World) -> None:
    world.give("boss@mit.edu")
    (message,) = world.mailbox.messages["jones"]
    assert b"\nDelivered-To: jones@mit.edu\n" in message


def test_a_message_that_comes_back_bounces_and_is_not_delivered_again(world: World) -> None:
    text = b"Delivered-To: Jones@mit.edu\r\nSubject: x\r\n\r\n"
    world.give("boss@mit.edu", "brown@mit.edu", text=text)
    assert world.notices.told == [("failed", ["boss@mit.edu"])]
    assert list(world.mailbox.messages) == ["brown"] and world.queue() == []


# ------------------------------------------------------------------ what senders asked to hear

ASKED = ("SUCCESS", "FAILURE")


def test_a_delivery_is_told_of_only_if_that_was_asked_for(world: World) -> None:
    world.give("jones@mit.edu")
    world.give("jones@mit.edu", notify=("FAILURE", "DELAY"))
    assert world.notices.told == []
    world.give("jones@mit.edu", notify=ASKED)
    assert world.notices.told == [("succeeded", ["jones@mit.edu delivered"])]


def test_a_notice_is_in_the_spool_before_the_recipient_it_is_about_is_gone(world: World) -> None:
    spooled: Deferred[None] = Deferred()
    world.notices.succeeded = lambda entry, results: spooled  # type: ignore[method-assign]
    world.give("jones@mit.edu", notify=ASKED)
    assert world.queue() == [("jones@mit.edu", "leased")]
    spooled.callback(None)
    assert world.queue() == []


def test_a_notice_that_the_disk_refuses_is_tried_until_it_is_taken_and_others_are_not_repeated(
    world: World,
) -> None:
    real = world.notices.succeeded
    refusals = [OSError("full"), OSError("full")]

    def succeeded(entry: Entry, results: Results) -> Deferred[None]:
        return fail(refusals.pop()) if refusals else real(entry, results)

    world.notices.succeeded = succeeded  # type: ignore[method-assign]
    world.give("jones@mit.edu", "nobody@mit.edu", notify=ASKED)
    assert [state for _, state in world.queue()] == ["leased", "leased"]
    world.clock.pump([10.0, 10.0])
    assert world.queue() == []
    assert [what for what, _ in world.notices.told] == ["failed", "succeeded"]


@pytest.mark.parametrize(("dsn", "action"), [(False, "relayed"), (True, "")])
def test_a_host_that_takes_over_the_promise_keeps_us_silent(world: World, dsn: bool, action: str) -> None:
    world.give("x@usc.edu", notify=ASKED)
    _, letter, told = world.relay.letters.pop()
    assert letter.recipients[0].notify == ASKED
    told.callback(
        {r: Result(Outcome.DELIVERED, Reply(250, "ok"), "mx.usc.edu", dsn=dsn) for r in letter.recipients}
    )
    assert world.notices.told == [("succeeded", [f"x@usc.edu {action}"])] and world.queue() == []


def test_a_forward_to_one_address_carries_the_wishes_on(world: World) -> None:
    world.give("far@mit.edu", notify=ASKED)
    ((_, letter, _),) = world.relay.letters
    (recipient,) = letter.recipients
    assert (recipient.path.mailbox, recipient.notify) == ("x@usc.edu", ASKED)
    assert recipient.orcpt == "rfc822;far@mit.edu"


def test_an_alias_of_several_is_told_of_once_and_its_members_report_failures_alone(world: World) -> None:
    world.give("all@mit.edu", notify=ASKED, orcpt="rfc822;All@mit.edu")
    ((_, letter, _),) = world.relay.letters
    assert [(r.notify, r.orcpt) for r in letter.recipients] == [(("FAILURE",), "rfc822;All@mit.edu")]
    world.relay.answer(Reply(450, "busy"))
    assert world.notices.told == [("succeeded", ["all@mit.edu expanded", "jones@mit.edu ", "x@usc.edu "])]
    world.clock.advance(61)
    world.relay.answer(Reply(250, "ok"))
    assert len(world.notices.told) == 1 and world.queue() == []


def test_a_list_has_the_message_when_it_went_to_its_members(world: World) -> None:
    world.give("team@mit.edu", notify=ASKED)
    ((_, letter, _),) = world.relay.letters
    assert [r.notify for r in letter.recipients] == [()]
    world.relay.answer(Reply(250, "ok"))
    ((what, told),) = world.notices.told
    assert what == "succeeded" and told[1] == "team@mit.edu delivered"


def test_mail_that_is_held_under_another_name_keeps_its_wishes_in_the_spool(world: World) -> None:
    world.give("joe@mit.edu", notify=ASKED)
    (entries,) = found(world.spool.claim_held(["leaf.edu"], 5))
    (recipient,) = entries[0].envelope.recipients
    assert (recipient.notify, recipient.orcpt) == (ASKED, "rfc822;joe@mit.edu")
    assert world.notices.told == [("succeeded", ["joe@leaf.edu ", "joe@mit.edu "])]


def test_a_send_that_was_shown_is_delivered(world: World) -> None:
    world.terminals.log_in("jones")
    world.give("jones@mit.edu", mode=Mode.SEND, notify=ASKED)
    assert world.notices.told == [("succeeded", ["jones@mit.edu delivered"])]
