"""A host that refuses mail data before its end: that is its verdict on the message, and the channel's end."""

from __future__ import annotations

import pytest

from mailnode.mail import Body, Letter, Mode, Path, Recipient
from mailnode.smtp import events
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender

JONES, GREEN = (Recipient(Path(name, "mit.example")) for name in ("jones", "green"))


def in_the_middle(reply: str, *before: str) -> tuple[dict[str, str], events.Ended | None]:
    """The outcomes of a letter to two recipients, the second of whom the host does not know, and the end."""
    sender = Sender(Plan("usc.example"))
    letter = Letter(Mode.MAIL, Path("smith", "usc.example"), (JONES, GREEN), Body.of(b"x" * 100))
    letters = [letter]
    outcomes: dict[str, str] = {}
    ended = None
    for text in ("220 hi", "250 mit", "250 ok", "250 ok", "550 who?", "354 go", *before, reply):
        sender.feed(text.encode() + b"\r\n")
        while (event := sender.next()) is not None:
            if isinstance(event, events.LetterWanted):
                sender.give(letters.pop())
            elif isinstance(event, events.Settled):
                outcomes |= {r.path.local: result.outcome.value for r, result in event.results.items()}
            elif isinstance(event, events.Ended):
                ended = event
    return outcomes, ended


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [("552 too large", "failed"), ("554 looks like spam", "failed"), ("452 disk full", "later")],
)
def test_a_refusal_in_mid_data_settles_the_letter_and_ends_the_channel(reply: str, outcome: str) -> None:
    outcomes, ended = in_the_middle(reply)
    assert outcomes == {"jones": outcome, "green": "failed"}
    assert ended is not None and (ended.ending, str(ended.reply)) == (events.Ending.BROKEN, reply)


def test_a_promise_in_mid_data_is_none() -> None:
    outcomes, ended = in_the_middle("250 taken")
    assert outcomes == {}
    assert ended is not None and ended.ending is events.Ending.BROKEN


def test_a_refusal_of_mail_data_for_nobody_settles_nothing() -> None:
    """SOML was refused, and DATA answered all the same: as MAIL the letter has not been tried."""
    sender = Sender(Plan("usc.example"))
    letter = Letter(Mode.SOML, Path("smith", "usc.example"), (JONES,), Body.of(b"x"))
    letters = [letter]
    found = []
    hello = "250-mit\r\n250-SOML\r\n250 PIPELINING"
    for text in ("220 hi", hello, "502 no SOML", "503 no", "354 go", "554 no"):
        sender.feed(text.encode() + b"\r\n")
        while (event := sender.next()) is not None:
            found.append(event)
            if isinstance(event, events.LetterWanted):
                sender.give(letters.pop())
    assert not any(isinstance(event, events.Settled) for event in found)
    assert isinstance(found[-1], events.Ended) and found[-1].ending is events.Ending.BROKEN
