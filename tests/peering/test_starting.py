"""ETRN (RFC 1985): its replies, and that it starts the queue of that domain and no other."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.interfaces import Selection
from mailnode.mail import Client, Hop, Reply
from mailnode.peering.starting import AT_ONCE, IN_VAIN, PAUSE, Starting

STRANGER = Client(address="198.51.100.7", hello="sent.edu")
SENT = Client(address="198.51.100.7", identity="sent")
LEAF = Client(address="198.51.100.7", identity="leaf")


@pytest.fixture
def starting(house: Any) -> Starting:
    starting = Starting(house.spool, house.peering, house.relay, house.dispatch.wake, house.clock)
    house.peering.start_queues = starting.start
    return starting


def etrn(house: Any, hands: Any, node: str, client: Client = STRANGER) -> tuple[int, str]:
    reply = hands.found(house.peering.start(client, node))
    return reply.code, str(reply.lines[0])


# ------------------------------------------------------------------------ replies


def test_a_stranger_hears_the_same_words_whatever_waits(house: Any, hands: Any, starting: Starting) -> None:
    before = etrn(house, hands, "sent.edu")
    assert before == (250, "OK, queuing for node sent.edu started")
    house.give("s@sent.edu")
    assert etrn(house, hands, "sent.edu") == before
    assert etrn(house, hands, "sent.edu", LEAF) == before  # another peer is a stranger here


def test_a_proved_peer_hears_how_much_waits(house: Any, hands: Any, starting: Starting) -> None:
    assert etrn(house, hands, "sent.edu", SENT) == (251, "OK, no messages waiting for node sent.edu")
    for _ in range(3):
        house.give("s@sent.edu", "t@sent.edu")
    assert etrn(house, hands, "sent.edu", SENT) == (253, "OK, 3 pending messages for node sent.edu started")


def test_how_much_is_not_counted_without_end(
    house: Any, hands: Any, starting: Starting, monkeypatch: Any
) -> None:
    monkeypatch.setattr("mailnode.peering.held.COUNTED", 2)
    for _ in range(3):
        house.give("s@sent.edu")
    assert etrn(house, hands, "sent.edu", SENT) == (252, "OK, pending messages for node sent.edu started")


@pytest.mark.parametrize(
    ("node", "code"),
    [
        ("sent.edu", 250),
        ("route.edu", 250),  # it has a next hop of its own
        ("@edu", 250),
        ("@sent.edu", 250),
        ("#sent", 250),
        ("leaf.edu", 458),  # it has to be fetched
        ("@leaf.edu", 458),
        ("#leaf", 458),
        ("twig.sent.edu", 459),
        ("nobody.edu", 459),
        ("hub.edu", 459),
        ("@nobody.edu", 459),
        ("@ent.edu", 459),  # no part of a label
        ("#nobody", 459),
        ("#uucp", 459),
    ],
)
def test_what_is_not_served_is_459_and_what_cannot_be_sent_is_458(
    house: Any, hands: Any, starting: Starting, node: str, code: int
) -> None:
    for client in (STRANGER, LEAF):
        assert etrn(house, hands, node, client)[0] == code


def test_without_anybody_who_could_start_a_queue_it_is_458(house: Any, hands: Any) -> None:
    assert etrn(house, hands, "sent.edu")[0] == 458
    from twisted.internet.defer import succeed

    for there, code in ((True, 250), (False, 458)):
        house.peering.start_queues = lambda domains, stranger, there=there: succeed(there)
        assert etrn(house, hands, "sent.edu")[0] == code


def test_it_is_458_while_the_node_goes_down(house: Any, hands: Any, starting: Starting) -> None:
    starting.stop()
    assert etrn(house, hands, "sent.edu")[0] == 458


# ------------------------------------------------------------------------ what is started


def test_held_mail_goes_out_to_where_deliver_says(house: Any, hands: Any, starting: Starting) -> None:
    house.give("s@sent.edu", "o@old.edu")
    house.give("b@leaf.edu")
    etrn(house, hands, "sent.edu")
    assert house.relay.answer(hands.ok) == (Hop("sent.edu", "tcp:sent.edu:25"), ["s@sent.edu"])
    assert house.relay.letters == []
    assert house.queue() == [("o@old.edu", "held"), ("b@leaf.edu", "held")]


def test_what_could_not_be_given_is_held_again(house: Any, hands: Any, starting: Starting) -> None:
    house.give("s@sent.edu")
    etrn(house, hands, "sent.edu", SENT)
    house.relay.answer(hands.busy)
    assert house.queue() == [("s@sent.edu", "held")]
    etrn(house, hands, "sent.edu", SENT)
    house.relay.answer(Reply(550, "who?"))
    assert house.notices.told == [("failed", ["s@sent.edu"])] and house.queue() == []


def test_queued_mail_of_the_domain_gets_due_now_and_of_others_not(
    house: Any, hands: Any, starting: Starting
) -> None:
    house.give("r@route.edu")
    house.give("x@far.edu")
    for _ in range(2):
        house.relay.answer(hands.busy)
    assert house.relay.letters == []
    etrn(house, hands, "route.edu")
    assert house.relay.answer(hands.ok)[1] == ["r@route.edu"]
    assert house.queue() == [("x@far.edu", "queued")]


def test_what_an_operator_holds_is_not_started(house: Any, hands: Any, starting: Starting) -> None:
    house.give("s@sent.edu")
    hands.found(house.spool.change(Selection(), "hold"))
    assert etrn(house, hands, "sent.edu", SENT)[0] == 251
    assert house.relay.letters == [] and house.queue() == [("s@sent.edu", "stopped")]


def test_few_letters_are_under_way_and_all_go_in_the_end(house: Any, hands: Any, starting: Starting) -> None:
    for number in range(3 * AT_ONCE):
        house.give(f"s{number}@sent.edu")
    etrn(house, hands, "sent.edu")
    given = []
    while house.relay.letters:
        assert len(house.relay.letters) <= AT_ONCE
        given += house.relay.answer(hands.ok)[1]
    assert len(set(given)) == 3 * AT_ONCE and house.queue() == []


def test_a_host_that_is_not_there_is_not_tried_for_every_message(
    house: Any, hands: Any, starting: Starting
) -> None:
    for _ in range(4 * IN_VAIN):
        house.give("s@sent.edu")
    etrn(house, hands, "sent.edu")
    tried = 0
    while house.relay.letters:
        house.relay.answer(hands.busy)
        tried += 1
    assert tried <= 2 * IN_VAIN
    assert house.queue() == [("s@sent.edu", "held")] * (4 * IN_VAIN)


def test_a_start_while_one_is_under_way_finds_what_is_new(house: Any, hands: Any, starting: Starting) -> None:
    house.give("s@sent.edu")
    etrn(house, hands, "sent.edu", SENT)
    house.give("t@sent.edu")
    etrn(house, hands, "sent.edu", SENT)
    assert [house.relay.answer(hands.ok)[1] for _ in range(2)] == [["s@sent.edu"], ["t@sent.edu"]]


def test_strangers_start_a_queue_at_no_rate_they_like_but_none_is_forgotten(
    house: Any, hands: Any, starting: Starting
) -> None:
    etrn(house, hands, "sent.edu")
    house.give("s@sent.edu")
    for _ in range(5):
        etrn(house, hands, "sent.edu")
    assert house.relay.letters == []
    house.clock.advance(PAUSE)
    assert house.relay.answer(hands.ok)[1] == ["s@sent.edu"]
    house.give("t@sent.edu")
    etrn(house, hands, "sent.edu", SENT)  # the peer itself need not wait
    assert house.relay.answer(hands.ok)[1] == ["t@sent.edu"]


def test_when_the_node_goes_down_what_is_not_given_is_held(
    house: Any, hands: Any, starting: Starting
) -> None:
    for _ in range(AT_ONCE + 5):
        house.give("s@sent.edu")
    etrn(house, hands, "sent.edu")
    starting.stop()
    while house.relay.letters:
        house.relay.answer(hands.busy)
    assert house.queue() == [("s@sent.edu", "held")] * (AT_ONCE + 5)
