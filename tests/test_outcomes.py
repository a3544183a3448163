"""What became of messages for terminals: told, asked for, waited for, and forgotten in time."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailnode.interfaces import Selection, Settlement
from mailnode.mail import Body, Entry, Envelope, Handover, Mode, Path, Recipient, Reply, Result
from mailnode.outcomes import KEPT, MOMENT, MOST, NAMED, WAITING, Outcomes
from mailnode.spool.memory import MemorySpool

BROWN, GREEN = Path("brown", "usc.example"), Path("green", "usc.example")
NOT_ACTIVE = Result.failed(Reply(450, "User not active now", "4.2.1"), "usc.example")


class House:
    """A spool with the outcomes of what is settled in it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.spool = MemorySpool(self.clock.seconds)
        self.outcomes = Outcomes(self.spool, self.clock, self.clock.seconds)
        self.clock.advance(1)

    def take(self, *paths: Path, mode: Mode = Mode.SEND, held: dict[str, float] | None = None) -> Entry:
        """A message in the spool, leased as dispatch has it."""
        draft = self.spool.draft()
        draft.write(b"x\r\n")
        envelope = Envelope(
            mode, Path("smith", "mit.example"), tuple(Recipient(path, mode) for path in paths)
        )
        entries: list[Entry | None] = []
        id = self.spool.new_id()
        self.spool.accept(id, envelope, draft, True, held or {}).addCallback(entries.append)
        (entry,) = entries
        return entry or Entry(id, envelope, Body.of(b""), self.clock.seconds())

    def settle(self, entry: Entry, *results: Result) -> None:
        rows = tuple(zip(entry.envelope.recipients, results, strict=False))
        self.spool.settle(Settlement(entry.id, rows, due=self.clock.seconds() + 300))
        self.outcomes.told(entry, dict(rows))

    def ask(self, id: str, seconds: float = 6.0) -> list[dict[str, Any]]:
        """Where the answer will be."""
        answers: list[dict[str, Any]] = []
        asked: Deferred[dict[str, Any]] = self.outcomes.became(id, seconds)
        asked.addCallback(answers.append)
        return answers

    def states(self, id: str, seconds: float = 0.0) -> list[tuple[str, str]]:
        (answer,) = self.ask(id, seconds)
        return [(one["to"], one["state"]) for one in answer["recipients"]]

    def is_quiet(self) -> bool:
        """Nothing is left of questions."""
        no_timers = not self.clock.getDelayedCalls()
        return no_timers and not self.outcomes._waiting and not self.outcomes._questions


@pytest.fixture
def house() -> House:
    return House()


def test_what_was_told_before_the_question_is_answered_at_once(house: House) -> None:
    entry = house.take(BROWN)
    house.settle(entry, NOT_ACTIVE)
    assert house.ask(entry.id) == [
        {
            "whole": True,
            "recipients": [
                {
                    "to": "<brown@usc.example>", "path": "<brown@usc.example>", "state": "failed",
                    "code": 450, "reply": "User not active now", "host": "usc.example",
                    "verb": "", "rcpt_code": 0, "rcpt": "",
                }
            ],
        }
    ]  # fmt: skip
    assert house.is_quiet()


def test_how_another_host_took_it_is_told_too(house: House) -> None:
    entry = house.take(BROWN, mode=Mode.SOML)
    taken = Handover(Mode.SOML, Reply(250, "User not active now, so will do mail."))
    house.settle(entry, replace(Result.delivered(Reply(250, "OK")), handover=taken))
    (answer,) = house.ask(entry.id)
    (one,) = answer["recipients"]
    assert (one["verb"], one["rcpt_code"], one["rcpt"]) == ("SOML", 250, taken.reply.lines[0])


def test_a_question_waits_until_all_have_been_tried(house: House) -> None:
    entry = house.take(BROWN, GREEN)
    answers = house.ask(entry.id)
    first, second = entry.envelope.recipients
    house.spool.settle(Settlement(entry.id, ((first, NOT_ACTIVE),)))
    house.outcomes.told(entry, {first: NOT_ACTIVE})
    assert answers == []
    house.clock.advance(3)
    house.spool.settle(Settlement(entry.id, ((second, NOT_ACTIVE),)))
    house.outcomes.told(entry, {second: NOT_ACTIVE})
    assert [one["state"] for one in answers[0]["recipients"]] == ["failed", "failed"]
    assert house.is_quiet()


def test_a_question_waits_no_longer_than_it_may(house: House) -> None:
    entry = house.take(BROWN)
    answers = house.ask(entry.id, seconds=6)
    house.clock.advance(5.9)
    assert answers == []
    house.clock.advance(0.2)
    assert [one["state"] for one in answers[0]["recipients"]] == ["leased"] and not answers[0]["whole"]
    long = house.ask(entry.id, seconds=1e9)
    house.clock.advance(30)
    assert len(long) == 1 and house.is_quiet()


def test_what_is_told_while_the_spool_is_looked_at_is_not_missed(house: House) -> None:
    entry = house.take(BROWN)
    looked: Deferred[list[Any]] = Deferred()
    listing, house.spool.listing = house.spool.listing, lambda *_: looked  # type: ignore[method-assign]
    answers = house.ask(entry.id)
    found: list[Any] = []
    listing(Selection()).addCallback(found.append)
    house.settle(entry, NOT_ACTIVE)
    house.spool.listing = listing  # type: ignore[method-assign]
    looked.callback(found[0])  # as it was before
    assert [one["state"] for one in answers[0]["recipients"]] == ["failed"]
    assert house.is_quiet()


def test_one_that_is_to_be_tried_again_is_not_waited_for(house: House) -> None:
    entry = house.take(BROWN, mode=Mode.SOML)
    house.settle(entry, Result.later(Reply(451, "Cannot connect", "4.4.1")))
    (answer,) = house.ask(entry.id)
    (one,) = answer["recipients"]
    assert (one["state"], one["reply"]) == ("later", "451 4.4.1 Cannot connect")


def test_held_mail_is_waited_for_a_moment_as_an_open_line_takes_it_at_once(house: House) -> None:
    entry = house.take(BROWN, mode=Mode.SOML, held={"usc.example": 2_000_000.0})
    answers = house.ask(entry.id)
    assert answers == []
    house.clock.advance(MOMENT)
    assert [one["state"] for one in answers[0]["recipients"]] == ["held"] and house.is_quiet()


def test_of_what_may_be_forgotten_in_part_nothing_is_concluded(house: House) -> None:
    first = house.take(BROWN)
    house.settle(first, NOT_ACTIVE)
    house.clock.advance(KEPT + 1)
    second = house.take(GREEN)
    house.settle(second, NOT_ACTIVE)
    assert house.ask(first.id) == [{"whole": False, "recipients": []}]
    assert house.ask(second.id)[0]["whole"] is True
    old = Entry("x", first.envelope, first.body, first.arrived)
    house.outcomes.told(old, {first.envelope.recipients[0]: NOT_ACTIVE})
    assert house.ask("x")[0]["whole"] is False


def test_what_is_remembered_is_bounded(house: House) -> None:
    for number in range(MOST + 500):  # nothing but retries
        entry = Entry(f"id{number}", house.take(BROWN).envelope, Body.of(b""), house.clock.seconds())
        house.outcomes.told(entry, {Recipient(BROWN): Result.later(Reply(451, "x" * 9999))})
    assert len(house.outcomes._noted) == MOST
    many = [Recipient(Path(f"u{number}", "usc.example")) for number in range(MOST + 10)]
    house.outcomes.told(entry, dict.fromkeys(many, Result.failed(Reply(550, "y" * 9999))))
    assert sum(noted.size for noted in house.outcomes._noted.values()) <= MOST
    house.outcomes.told(entry, dict.fromkeys(many[: NAMED + 1], NOT_ACTIVE))
    assert house.ask(entry.id) == [{"whole": False, "recipients": []}]
    house.outcomes.told(
        Entry("y", entry.envelope, entry.body, 2e6), {many[0]: Result.failed(Reply(550, "y" * 9999))}
    )
    assert len(house.ask("y")[0]["recipients"][0]["reply"]) < 500


def test_only_so_many_questions_wait(house: House) -> None:
    entry = house.take(BROWN)
    waiting = [house.ask(entry.id) for _ in range(WAITING)]
    assert not any(waiting)
    assert [one["state"] for one in house.ask(entry.id)[0]["recipients"]] == ["leased"]
    house.settle(entry, NOT_ACTIVE)
    assert all(waiting) and house.is_quiet()


def test_who_may_not_hear_learns_what_an_unknown_message_would_teach(house: House) -> None:
    entry = house.take(BROWN)

    def ask(*names: str) -> list[Any]:
        answers: list[Any] = []
        asked: Deferred[Any] = house.outcomes.became(entry.id, 6, lambda sender: sender.local in names)
        asked.addCallback(answers.append)
        return answers

    nothing = [{"whole": False, "recipients": []}]
    smith = ask("smith")
    assert ask("jones") == nothing and smith == []  # at once, while it is under way
    house.settle(entry, NOT_ACTIVE)
    assert ask("jones") == nothing
    for answers in (smith, ask("smith")):
        assert [one["state"] for one in answers[0]["recipients"]] == ["failed"]
    assert house.is_quiet()


def test_a_spool_that_fails_leaves_nothing_behind(house: House) -> None:
    house.spool.listing = lambda *_: 1 / 0  # type: ignore[method-assign]
    failures: list[object] = []
    asked: Deferred[Any] = house.outcomes.became("x", 5)
    asked.addErrback(failures.append)
    assert len(failures) == 1 and house.is_quiet()
