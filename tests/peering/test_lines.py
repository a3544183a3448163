"""The open line: mail goes over the moment it is held, and the line ends when somebody says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mailnode.mail import Mode, Reply
from mailnode.peering.letters import AGAIN, AT_ONCE, HeldLetters
from mailnode.peering.peers import Peer


def wait(house: Any, hands: Any, *domains: str) -> tuple[HeldLetters, Any]:
    """An open line with nothing left to give, and what will come of its next letter."""
    letters = house.letters(30.0, *domains)
    assert isinstance(letters, HeldLetters)
    fired = hands.fired(letters.next())
    assert fired == []
    return letters, fired


def test_a_letter_is_there_when_its_message_is_accepted(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    house.give("o@old.edu", "h@hold.edu")
    assert fired == []
    id = house.give("jones@hub.edu", "b@leaf.edu", "o@old.edu")
    assert [letter.id for letter in fired] == [id]
    assert [recipient.path.mailbox for recipient in fired[0].recipients] == ["b@leaf.edu"]
    hands.answer(letters, fired[0], hands.ok)
    assert hands.fired(letters.next()) == []
    assert house.queue() == [("o@old.edu", "held"), ("h@hold.edu", "held"), ("o@old.edu", "held")]


def test_what_waited_before_the_line_was_open_comes_first(house: Any, hands: Any) -> None:
    made = [house.give("b@leaf.edu") for _ in range(AT_ONCE + 3)]
    letters = house.letters(30.0)
    made.append(house.give("b@leaf.edu"))
    seen = []
    for _ in made:
        letter = hands.found(letters.next())
        seen.append(letter.id)
        hands.answer(letters, letter, hands.ok)
    assert seen == made and hands.fired(letters.next()) == []


def test_mail_that_comes_while_a_letter_is_given_is_not_missed(house: Any, hands: Any) -> None:
    letters = house.letters(30.0)
    house.give("b@leaf.edu")
    letter = hands.found(letters.next())
    house.give("c@leaf.edu")
    hands.answer(letters, letter, hands.ok)
    assert str(hands.found(letters.next()).recipients[0].path) == "<c@leaf.edu>"


def test_mail_that_becomes_held_later_wakes_the_line_too(house: Any, hands: Any) -> None:
    _, fired = wait(house, hands)
    house.give("branch@hub.edu")  # an alias: dispatch finds out
    assert [str(letter.recipients[0].path) for letter in fired] == ["<b@leaf.edu>"]


def test_what_another_process_put_there_is_found_when_it_wakes_us(house: Any, hands: Any) -> None:
    _, fired = wait(house, hands)
    house.intake.holding, holding = None, house.intake.holding
    house.settling.holding = None
    house.give("b@leaf.edu")
    assert fired == [] and house.queue() == [("b@leaf.edu", "held")]
    house.settling.holding = holding
    house.peering.wake()
    assert len(fired) == 1


def test_a_line_takes_mail_only_for_the_domains_it_was_granted(house: Any, hands: Any) -> None:
    _, fired = wait(house, hands, "twig.leaf.edu")
    house.give("b@leaf.edu")
    assert fired == []
    house.give("b@twig.leaf.edu")
    assert len(fired) == 1


def test_of_two_open_lines_of_one_peer_one_gets_a_message_and_the_other_waits(house: Any, hands: Any) -> None:
    (_, first), (_, second) = wait(house, hands), wait(house, hands)
    house.give("b@leaf.edu")
    assert len([*first, *second]) == 1
    house.give("c@leaf.edu")
    assert len(first) == len(second) == 1


def test_a_line_that_breaks_in_mid_message_leaves_it_to_the_next(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    _, waiting = wait(house, hands)
    house.give("b@leaf.edu")
    letters.settle(fired[0], {r: hands_later(hands) for r in fired[0].recipients}, "leaf")
    letters.close()
    assert [letter.id for letter in waiting] == [fired[0].id]


def hands_later(hands: Any) -> Any:
    from mailnode.mail import Result

    return Result.later(hands.busy)


def test_a_connection_that_is_gone_waits_for_nothing(house: Any, hands: Any) -> None:
    letters = house.letters(30.0)
    wanted = letters.next()
    wanted.addErrback(lambda failure: None)
    wanted.cancel()
    letters.close()
    assert not house.peering.lines.is_open("leaf.edu")
    house.give("b@leaf.edu")
    assert house.queue() == [("b@leaf.edu", "held")]


@pytest.mark.parametrize(
    "how",
    [
        "its peer has changed",
        "its peer is none any more",
        "its peer has another secret",
        "its peer has no secret any more",
        "the node goes down",
    ],
)
def test_a_line_ends_when(house: Any, hands: Any, how: str) -> None:
    house.secrets["leaf"] = "secret"
    _, fired = wait(house, hands)
    if how == "the node goes down":
        house.peering.drain()
    elif how == "its peer has changed":
        house.reread(replace(house.LEAF, domains=("leaf.edu",)), house.OLD)
    elif how == "its peer is none any more":
        house.reread(house.OLD)
    else:
        house.secrets.pop("leaf")
        if how == "its peer has another secret":
            house.secrets["leaf"] = "another"
        house.reread(*house.peers)
    assert fired == [None]
    assert not house.peering.lines.is_open("leaf.edu")


def test_a_line_goes_on_when_others_have_changed_and_goes_by_what_is_new(house: Any, hands: Any) -> None:
    house.secrets.update(leaf="secret", old="secret")
    letters, fired = wait(house, hands)
    house.secrets["old"] = "another"
    house.reread(house.LEAF, replace(house.OLD, domains=("new.edu",)), Peer("more", ("more.edu",)))
    assert fired == [] and house.peering.lines.is_open("leaf.edu")
    house.give("m@more.edu", "b@leaf.edu")
    assert [recipient.path.mailbox for recipient in fired[0].recipients] == ["b@leaf.edu"]
    assert letters._routing is house.routing
    hands.answer(letters, fired[0], hands.ok)
    house.secrets["leaf"] = "another"  # the line that was opened with the new secret stays
    second, again = wait(house, hands)
    house.reread(*house.peers)
    assert again == [] and not second.is_over
    assert hands.fired(letters.next()) == [None]


def test_a_line_that_is_ended_in_mid_letter_gives_what_is_there_and_no_more(house: Any, hands: Any) -> None:
    letters = house.letters(30.0)
    house.give("b@leaf.edu")
    letter = hands.found(letters.next())
    house.peering.drain()
    hands.answer(letters, letter, hands.ok)
    assert hands.found(letters.next()) is None


def test_what_the_peer_could_not_take_is_offered_again_after_a_while(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    house.give("b@leaf.edu")
    hands.answer(letters, fired[0], hands.busy)
    again = hands.fired(letters.next())
    house.peering.wake()
    house.clock.advance(AGAIN - 1)
    assert again == [] and house.queue() == [("b@leaf.edu", "held")]
    house.clock.advance(1)
    assert [letter.id for letter in again] == [fired[0].id]
    hands.answer(letters, again[0], hands.ok)
    letters.close()
    assert house.queue() == [] and house.clock.getDelayedCalls() == []


def test_the_timer_of_an_open_line_ends_with_it(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    house.give("b@leaf.edu")
    hands.answer(letters, fired[0], hands.busy)
    wanted = letters.next()
    wanted.addErrback(lambda failure: None)
    wanted.cancel()
    letters.close()
    assert house.clock.getDelayedCalls() == []


# ------------------------------------------------------------------------ SEND


def test_a_send_goes_over_the_open_line(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    house.give("b@leaf.edu", mode=Mode.SEND)
    assert [letter.mode for letter in fired] == [Mode.SEND]
    hands.answer(letters, fired[0], hands.ok)
    assert house.queue() == [] and house.notices.told == []


@pytest.mark.parametrize("name", ["b@leaf.edu", "branch@hub.edu", "h@hold.edu"])
def test_a_send_for_which_no_line_is_open_comes_back_at_once(house: Any, name: str) -> None:
    house.give(name, mode=Mode.SEND)
    assert house.notices.told == [("failed", [name.replace("branch@hub", "b@leaf")])]
    assert house.queue() == []


def test_a_send_that_the_host_does_not_take_comes_back_at_once(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    house.give("b@leaf.edu", mode=Mode.SEND)
    hands.answer(letters, fired[0], Reply(502, "The next host shows no messages on terminals"))
    assert house.notices.told == [("failed", ["b@leaf.edu"])]


def test_a_send_whose_line_breaks_before_it_is_given_comes_back(house: Any, hands: Any) -> None:
    letters, fired = wait(house, hands)
    house.give("b@leaf.edu", mode=Mode.SEND)
    letters.returned(fired[0])
    letters.close()
    house.clock.advance(61)
    hands.found(house.peering.expire())
    assert house.notices.told == [("failed", ["b@leaf.edu"])] and house.queue() == []


def test_soml_and_saml_are_held_like_mail(house: Any, hands: Any) -> None:
    house.give("b@leaf.edu", mode=Mode.SOML)
    house.give("b@leaf.edu", mode=Mode.SAML)
    letters = house.letters()
    assert [hands.found(letters.next()).mode for _ in range(2)] == [Mode.SOML, Mode.SAML]
