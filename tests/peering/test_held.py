"""Held mail: who may have it, split by domain, never twice, never lost."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from zope.interface.verify import verifyObject

from mailnode.access.rules import Access, PeerRule
from mailnode.interfaces import IHolding, IPeering, Selection
from mailnode.mail import Client, Mode, Reply, Turn
from mailnode.peering.letters import AT_ONCE, REFUSALS, HeldLetters

LEAF = Client(address="127.0.0.1", identity="leaf")
ATRN = Turn(atrn=True)


def test_it_is_the_doors_that_the_interfaces_describe(house: Any) -> None:
    assert verifyObject(IPeering, house.peering) and verifyObject(IHolding, house.peering)


# ------------------------------------------------------------------------ who may


@pytest.mark.parametrize(
    ("client", "granted"),
    [
        (LEAF, True),
        (Client(address="127.0.0.1", identity="leaf", listener="odmr"), True),
        (Client(address="127.0.0.1", tls=True, fingerprint="sha256:1eaf"), True),
        (Client(address="127.0.0.1", tls=True, fingerprint="sha256:0"), False),
        (Client(address="192.0.2.7"), True),  # the legacy host, by its address
        (Client(address="192.0.2.7", listener="odmr"), False),  # where only AUTH counts
        (Client(address="127.0.0.1", hello="leaf"), False),  # HELO is a claim
        (Client(address="127.0.0.1", identity="old"), False),  # it is not known by AUTH
        (Client(address="127.0.0.1", identity="jones"), False),  # a user, and no peer
        (Client(address="198.51.100.1", hello="old.edu"), False),
        (Client(address=""), False),
        (Client(address="192.0.2.7", turned=True), False),  # we called it
        (Client(address="127.0.0.1", identity="leaf", turned=True), False),
        (Client(address="2001:db8::1"), False),
    ],
)
def test_only_a_peer_that_has_proved_itself_is_granted_the_line(
    house: Any, client: Client, granted: bool
) -> None:
    house.give("b@leaf.edu", "o@old.edu")
    for turn, code in ((Turn(), 502), (ATRN, 450)):
        answer = house.grant(turn, client)
        assert isinstance(answer, HeldLetters) is granted
        if not granted:
            assert isinstance(answer, Reply) and answer.code == code


def test_peering_and_access_agree_on_who_is_which_peer(house: Any) -> None:
    rules = [
        PeerRule("leaf", True, "sha256:1eaf"),
        PeerRule("old", False, "", ("192.0.2.0/24",)),
        PeerRule("sent", True),
    ]
    access = Access(["127.0.0.0/8"], "trusted", rules)
    clients = product(
        ("", "127.0.0.1", "192.0.2.7"),
        ("", "leaf", "old", "sent", "jones", "invitation:leaf"),
        ("", "sha256:1eaf", "sha256:0"),
        ("smtp", "odmr", "submission"),
        (False, True),
    )
    for address, identity, fingerprint, listener, turned in clients:
        client = Client(address, "leaf", True, identity, True, fingerprint, listener, turned)
        peer = house.peering.peer_of(client)
        assert (peer.name if peer is not None else "") == access.peer(client), client


def test_a_peer_that_is_known_by_name_gets_its_own_mail_from_any_address(house: Any) -> None:
    peer = house.peering.peer_of(Client(address="192.0.2.7", identity="leaf"))
    assert peer is house.LEAF


# ------------------------------------------------------------------------ ATRN


def test_one_foreign_domain_and_atrn_gives_no_mail_at_all(house: Any) -> None:
    house.give("b@leaf.edu", "o@old.edu")
    for domains in (("leaf.edu", "old.edu"), ("else.edu",), ("edu",)):
        for wait in (0.0, 30.0):
            assert house.grant(Turn(True, domains, wait)).code == 450
    assert house.queue() == [("b@leaf.edu", "held"), ("o@old.edu", "held")]


def test_atrn_gives_the_domains_it_names_and_without_any_all_that_are_the_peers(
    house: Any, hands: Any
) -> None:
    house.give("b@leaf.edu", "c@twig.leaf.edu")
    assert hands.take(house.letters(0, "twig.leaf.edu")) == [["c@twig.leaf.edu"]]
    house.give("c@twig.leaf.edu")
    assert hands.take(house.grant(ATRN)) == [["b@leaf.edu"], ["c@twig.leaf.edu"]]


def test_atrn_hears_453_when_nothing_is_queued_unless_the_line_is_to_stay_open(house: Any) -> None:
    house.give("o@old.edu")
    assert house.grant(ATRN).code == 453
    house.give("c@twig.leaf.edu")
    assert house.grant(Turn(True, ("leaf.edu",))).code == 453
    assert isinstance(house.grant(Turn(True, ("leaf.edu",), 30.0)), HeldLetters)
    assert isinstance(house.grant(Turn()), HeldLetters)  # TURN has no such reply (RFC 821 4.3)


def test_atrn_hears_451_while_its_mail_is_in_hand_on_another_line(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    first = house.letters()
    letter = hands.found(first.next())
    assert house.grant(ATRN).code == 451
    hands.answer(first, letter, hands.ok)
    first.close()
    assert house.grant(ATRN).code == 453


def test_atrn_hears_451_when_the_spool_cannot_tell(house: Any, monkeypatch: Any) -> None:
    def broken(*_: object) -> Any:
        return fail(OSError("the disk is gone"))

    monkeypatch.setattr(house.spool, "waiting", broken)
    assert house.grant(ATRN).code == 451


# ------------------------------------------------------------------------ letters


def test_mail_for_a_peer_is_held_by_the_commit_that_accepts_it(house: Any) -> None:
    house.give("b@leaf.edu", "jones@hub.edu", "h@hold.edu")
    assert house.queue() == [("b@leaf.edu", "held"), ("h@hold.edu", "held")]
    assert len(house.mailbox.messages["jones"]) == 1


def test_mail_that_leads_to_a_peer_by_an_alias_or_a_source_route_is_held(house: Any) -> None:
    house.give("branch@hub.edu")
    assert house.queue() == [("b@leaf.edu", "held")]


def test_a_message_is_split_by_the_domains_granted_every_time(house: Any, hands: Any) -> None:
    for _ in range(3):
        house.give("b@leaf.edu", "c@old.edu", "d@leaf.edu")
    letters = house.letters()
    assert hands.take(letters) == [["b@leaf.edu", "d@leaf.edu"]] * 3
    letters.close()
    assert house.queue() == [("c@old.edu", "held")] * 3
    assert letters.given == 6


def test_two_conversations_never_have_the_same_message(house: Any, hands: Any) -> None:
    for _ in range(2 * AT_ONCE + 5):
        house.give("b@leaf.edu")
    first, second = house.letters(), house.letters()
    seen = []
    for letters in (first, second) * (2 * AT_ONCE + 5):
        if (letter := hands.found(letters.next())) is not None:
            seen.append(letter.id)
            hands.answer(letters, letter, hands.ok)
    assert len(seen) == len(set(seen)) == 2 * AT_ONCE + 5 and house.queue() == []


def test_few_messages_are_leased_however_many_there_are(house: Any, hands: Any) -> None:
    for _ in range(4 * AT_ONCE):
        house.give("b@leaf.edu")
    letters = house.letters()
    for _ in range(2 * AT_ONCE):
        letter = hands.found(letters.next())
        assert letters.in_hand <= AT_ONCE + AT_ONCE // 2 + 1
        hands.answer(letters, letter, hands.ok)


def test_what_a_peer_cannot_take_now_is_held_at_once_and_offered_once_a_call(house: Any, hands: Any) -> None:
    for _ in range(AT_ONCE + 5):
        house.give("b@leaf.edu")
    letters = house.letters()
    letter = hands.found(letters.next())
    hands.answer(letters, letter, hands.busy)
    assert found_state(house, hands, letter.id) == ["held"]
    assert len(hands.take(letters, hands.busy)) == AT_ONCE + 4
    letters.close()
    assert house.queue() == [("b@leaf.edu", "held")] * (AT_ONCE + 5)
    assert len(hands.take(house.letters())) == AT_ONCE + 5


def found_state(house: Any, hands: Any, id: str) -> list[str]:
    (message,) = hands.found(house.spool.listing(Selection(ids=(id,))))
    return [recipient.state for recipient in message.recipients]


def test_a_peer_that_takes_nothing_at_all_is_not_offered_everything(house: Any, hands: Any) -> None:
    letters = house.letters()
    letters._refused = {f"message {number}" for number in range(REFUSALS - 2)}
    for _ in range(5):
        house.give("b@leaf.edu")
    assert len(hands.take(letters, hands.busy)) == 2
    letters.close()
    assert house.queue() == [("b@leaf.edu", "held")] * 5


def test_what_a_peer_refuses_for_good_fails(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    assert len(hands.take(house.letters(), Reply(550, "who?"))) == 1
    assert house.notices.told == [("failed", ["b@leaf.edu"])] and house.queue() == []


def test_a_conversation_that_ends_gives_back_what_it_had_not_given(house: Any, hands: Any) -> None:
    for _ in range(3):
        house.give("b@leaf.edu")
    letters = house.letters()
    letter = hands.found(letters.next())
    assert [state for _, state in house.queue()] == ["leased"] * 3
    letters.returned(letter)
    letters.close()
    assert house.queue() == [("b@leaf.edu", "held")] * 3
    assert hands.found(letters.next()) is None


def test_what_an_operator_holds_is_fetched_by_no_call_and_goes_back_when_it_is_released(
    house: Any, hands: Any
) -> None:
    house.give("b@leaf.edu")
    assert hands.found(house.spool.change(Selection(domain="leaf.edu"), "hold")) == 1
    assert hands.take(house.letters()) == []
    assert house.grant(ATRN).code == 453
    hands.found(house.spool.change(Selection(), "release"))
    house.dispatch.wake()
    assert house.queue() == [("b@leaf.edu", "held")]


def test_mail_of_a_peer_that_is_one_no_longer_goes_its_usual_way(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    letters = house.letters()
    house.reread(house.OLD)
    letters._routing = house.routing
    assert hands.take(letters) == []
    assert [str(letter.recipients[0].path) for _, letter, _ in house.relay.letters] == ["<b@leaf.edu>"]


def test_a_send_that_a_peer_does_not_take_waits_for_nothing(house: Any, hands: Any) -> None:
    letters = house.letters(30.0)
    house.give("b@leaf.edu", mode=Mode.SEND)
    letter = hands.found(letters.next())
    hands.answer(letters, letter, hands.busy)
    assert house.notices.told == [("failed", ["b@leaf.edu"])] and house.queue() == []


# ------------------------------------------------------------------------ outgoing


def test_a_call_takes_along_what_is_held_for_no_peer(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu", "x@hold.edu", "d@old.edu")
    assert hands.take(house.peering.outgoing()) == [["x@hold.edu"]]
    assert house.queue() == [("b@leaf.edu", "held"), ("d@old.edu", "held")]


def test_whether_there_is_outgoing_mail_can_be_seen_before_a_call(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    assert hands.found(house.peering.outgoing().peek()) is False
    house.give("x@hold.edu")
    letters = house.peering.outgoing()
    assert hands.found(letters.peek()) is True
    assert hands.take(letters) == [["x@hold.edu"]]


def test_outgoing_mail_is_announced_and_mail_of_peers_is_not(house: Any) -> None:
    calls = []
    house.peering.outgoing_held = lambda: calls.append("outgoing")
    house.peering.elsewhere = lambda: calls.append("elsewhere")
    house.give("b@leaf.edu")
    assert calls == ["elsewhere"]
    house.give("x@hold.edu")
    assert calls == ["elsewhere", "outgoing"]


def test_the_end_of_the_node_waits_for_what_is_being_settled(
    house: Any, hands: Any, monkeypatch: Any
) -> None:
    house.give("b@leaf.edu")
    letters = house.letters()
    letter = hands.found(letters.next())
    slow: Deferred[None] = Deferred()
    monkeypatch.setattr(house.spool, "settle", lambda settlement: slow)
    hands.answer(letters, letter, hands.ok)
    drained = hands.fired(house.peering.drain())
    assert not drained
    slow.callback(None)
    assert drained
