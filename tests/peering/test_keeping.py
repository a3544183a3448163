"""The end of patience: who is told that mail waits, when it fails, and that nobody else is touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from mailnode.interfaces import Selection
from mailnode.mail import Mode, Path, Recipient
from mailnode.peering.held import DOUBT
from mailnode.peering.keeping import LEAST, MOST, SEND_MAY, Keeping

DAY = 86400.0
WARN = 4 * 3600.0


def live(house: Any, hands: Any, seconds: float, step: float = 3600.0) -> int:
    """Time passes, and somebody looks after the held mail again and again; how many messages failed."""
    failed = 0
    for _ in range(int(seconds // step)):
        house.clock.advance(step)
        failed += hands.found(house.peering.expire())
    house.clock.advance(seconds % step)
    return failed + hands.found(house.peering.expire())


def test_the_sender_is_told_once_and_hears_of_the_failure_after_keep(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    arrived = house.clock.seconds()
    live(house, hands, WARN - 1)
    assert house.notices.told == []
    live(house, hands, 2)
    assert house.notices.told == [("delayed", ["b@leaf.edu"])]
    assert house.notices.until == [arrived + 30 * DAY]
    assert live(house, hands, 29.5 * DAY, DAY / 4) == 0
    assert len(house.notices.told) == 1 and house.queue() == [("b@leaf.edu", "held")]
    assert live(house, hands, 0.5 * DAY) == 1
    assert house.notices.told[1:] == [("failed", ["b@leaf.edu"])] and house.queue() == []


def test_what_a_route_holds_expires_as_any_mail(house: Any, hands: Any) -> None:
    house.give("h@hold.edu")
    live(house, hands, 5 * DAY - 10)
    assert house.queue() == [("h@hold.edu", "held")]
    assert live(house, hands, 20) == 1
    assert house.notices.told == [("delayed", ["h@hold.edu"]), ("failed", ["h@hold.edu"])]


def test_of_one_message_only_that_fails_whose_time_has_come(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu", "h@hold.edu")
    live(house, hands, 6 * DAY, DAY / 4)
    assert house.notices.told == [("delayed", ["b@leaf.edu", "h@hold.edu"]), ("failed", ["h@hold.edu"])]
    assert house.queue() == [("b@leaf.edu", "held")]


def test_what_was_offered_and_could_not_be_taken_keeps_its_time(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    for _ in range(29):
        live(house, hands, DAY, DAY)
        letters = house.letters()
        hands.take(letters, hands.busy)
        letters.close()
    assert house.queue() == [("b@leaf.edu", "held")]
    assert live(house, hands, DAY, DAY) == 1


def test_a_peer_that_is_given_more_time_has_it_and_one_that_is_given_less_loses_it(
    house: Any, hands: Any
) -> None:
    house.give("b@leaf.edu")
    house.give("o@old.edu")
    live(house, hands, 2 * DAY)
    house.reread(replace(house.LEAF, keep=60 * DAY), replace(house.OLD, keep=3 * DAY))
    assert live(house, hands, 2 * DAY + 60) == 1
    assert house.queue() == [("b@leaf.edu", "held")]
    assert live(house, hands, 50 * DAY, DAY / 2) == 0


def test_mail_of_a_peer_that_is_one_no_longer_is_routed_anew(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    house.reread(house.OLD)
    live(house, hands, DAY + 60)
    assert [str(letter.recipients[0].path) for _, letter, _ in house.relay.letters] == ["<b@leaf.edu>"]


def test_what_an_operator_holds_does_not_fail(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    hands.found(house.spool.change(Selection(), "hold"))
    assert live(house, hands, 40 * DAY, DAY) == 0
    assert house.notices.told == [] and house.queue() == [("b@leaf.edu", "stopped")]


def test_a_look_costs_nothing_where_nothing_is_due(house: Any, hands: Any, monkeypatch: Any) -> None:
    for _ in range(30):
        house.give("b@leaf.edu")
    settled = []
    monkeypatch.setattr(house.spool, "settle", settled.append)
    for _ in range(10):
        house.clock.advance(60)
        hands.found(house.peering.expire())
    assert settled == []


def test_no_mail_fails_because_the_time_of_day_was_set(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu")
    hands.found(house.peering.expire())
    house.wrong_time = 40 * DAY
    if hasattr(house.spool, "_clock"):
        house.spool._clock = house.now
    assert live(house, hands, DOUBT - 120, 60) == 0
    assert house.queue() == [("b@leaf.edu", "held")]
    assert live(house, hands, 600, 60) == 1  # it is right after all


# ------------------------------------------------------------------------ the rules by themselves


KEEPING = Keeping({"leaf.edu": 1000.0, "long.edu": 30 * DAY}, expire=500.0, warn=100.0)


@pytest.mark.parametrize(
    ("host", "mode", "warned", "age", "look"),
    [
        ("leaf.edu", Mode.MAIL, False, 0, 100),
        ("LEAF.edu", Mode.MAIL, True, 100, 900),
        ("hold.edu", Mode.MAIL, True, 100, 400),
        ("leaf.edu", Mode.MAIL, True, 999, LEAST),
        ("leaf.edu", Mode.MAIL, False, 5000, LEAST),
        ("long.edu", Mode.MAIL, True, 0, MOST),
        ("leaf.edu", Mode.SEND, False, 0, SEND_MAY),
        ("leaf.edu", Mode.MAIL, False, -5000, 5100),  # the clock was set back
    ],
)
def test_when_somebody_looks_next(host: str, mode: Mode, warned: bool, age: float, look: float) -> None:
    now = 1_800_000_000.0
    recipient = Recipient(Path("x", host), mode)
    assert KEEPING.look(recipient, now - age, warned, now) == now + look


@pytest.mark.parametrize(
    ("host", "age", "late"),
    [("leaf.edu", 99, False), ("leaf.edu", 100, True), ("leaf.edu", 1000, False), ("hold.edu", 499, True)],
)
def test_who_hears_that_mail_waits(host: str, age: float, late: bool) -> None:
    recipient = Recipient(Path("x", host))
    assert KEEPING.is_late(recipient, 0.0, age) is late
    assert not Keeping({}, warn=0.0).is_late(recipient, 0.0, 200.0)
    assert not KEEPING.is_late(structs.replace(recipient, mode=Mode.SEND), 0.0, age)
