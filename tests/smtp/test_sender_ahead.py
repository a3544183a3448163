"""Many letters under way on one line: what is said at once, and what becomes of each whatever is answered."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mailnode.mail import Body, Letter, Mode, Outcome, Path, Recipient, Terms
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.giving import CHUNK, OCTETS_UNDER_WAY, UNDER_WAY
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender

HELLO = "250-mit.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SEND\r\n250 XONCE"
TAKEN = "250 OK\r\n250 OK\r\n250 safe"
JONES, GREEN = Path("jones", "mit.example"), Path("green", "mit.example")


def letter(
    name: str, *paths: Path, size: int = 4, mode: Mode = Mode.MAIL, terms: Terms | None = None
) -> Letter:
    recipients = tuple(Recipient(path, mode, number) for number, path in enumerate(paths or (JONES,), 1))
    data = b"x" * (size - 2) + b"\r\n"
    return Letter(mode, Path("smith", "usc.example"), recipients, Body.of(data), terms or Terms(), name)


class Line:
    """A Sender, what it wrote, and what became of its letters."""

    def __init__(self, *letters: Letter, hello: str = HELLO, plan: Plan | None = None) -> None:
        self.sender = Sender(plan or Plan("usc.example"))
        self.letters = list(letters)
        self.written = ""
        self.outcomes: dict[str, list[str]] = {}
        self.ended: Ended | None = None
        self.hear("220 ready")
        self.hear(hello)

    def hear(self, text: str) -> Line:
        self.sender.feed(text.encode() + b"\r\n")
        while (event := self.sender.next()) is not None:
            assert self.ended is None
            if isinstance(event, events.Write):
                self.written += event.octets.decode("ascii")
            elif isinstance(event, events.LetterWanted):
                self.sender.give(self.letters.pop(0) if self.letters else None)
            elif isinstance(event, events.WriteBody):
                self.written += f"<{event.letter.body.size} octets>"
                self.sender.body_written()
            elif isinstance(event, events.Settled):
                found = self.outcomes.setdefault(event.letter.id, [])
                found += [result.outcome.value for result in event.results.values()]
            else:
                assert isinstance(event, Ended)
                self.ended = event
        return self

    def verbs(self) -> list[str]:
        """The verbs that were written since the last look."""
        lines, self.written = self.written.split("\r\n"), ""
        return [line.split(" ")[0] for line in lines if line and not line.startswith("x")]


def test_all_that_is_at_hand_goes_out_at_once_and_each_is_settled_by_its_own_replies() -> None:
    line = Line(letter("a"), letter("b", JONES, GREEN), letter("c"))
    group = ["MAIL", "RCPT", "BDAT"]
    assert line.verbs() == ["EHLO", *group, "MAIL", "RCPT", *group[1:], *group]
    line.hear(TAKEN)
    assert line.outcomes == {"a": ["delivered"]}
    line.hear("250 OK\r\n250 OK\r\n550 nobody\r\n250 safe").hear("250 OK\r\n250 OK\r\n452 full")
    assert line.outcomes == {"a": ["delivered"], "b": ["delivered", "failed"], "c": ["later"]}
    assert line.verbs() == ["RSET"]  # the last one may have left a transaction open
    line.hear("250 OK")
    assert line.verbs() == ["QUIT"]
    line.hear("221 bye")
    assert line.ended is not None and line.ended.ending is Ending.DONE


def test_a_transaction_has_the_same_name_each_time_for_the_same_recipients() -> None:
    once = letter("abc", JONES, GREEN)
    names = [Line(once).written.partition("XONCE=")[2].partition("\r\n")[0] for _ in range(2)]
    assert names == ["abc-1.2", "abc-1.2"]
    many = letter("abc", *(Path(f"user{n}", "mit.example") for n in range(40)))
    name, again, other = (
        Line(it).written.partition("XONCE=")[2].partition("\r\n")[0]
        for it in (many, many, replace(many, recipients=many.recipients[1:]))
    )
    assert name == again != other and len(name) < 64


def test_without_one_of_the_three_keywords_letters_go_one_by_one() -> None:
    for keyword in ("PIPELINING", "CHUNKING", "XONCE"):
        line = Line(letter("a"), letter("b"), hello=HELLO.replace(keyword, "X-" + keyword))
        assert line.verbs().count("MAIL") == 1, keyword
        assert ("XONCE=" in line.written) is False
    named = Line(letter("a"), hello="250-mit.example\r\n250 XONCE")
    assert "MAIL FROM:<smith@usc.example> XONCE=a-1\r\n" in named.written


@pytest.mark.parametrize(
    "alone",
    [
        letter("x", size=CHUNK + 4),
        letter("x", mode=Mode.SEND),
        letter("x", *(Path(f"user{n}", "mit.example") for n in range(101))),
        letter("x", terms=Terms(eight_bit=True)),  # 8BITMIME was not offered: it is settled without a word
        letter(""),
    ],
    ids=["large", "SEND", "many recipients", "8-bit", "nameless"],
)
def test_a_letter_that_has_to_go_alone_waits_for_those_before_it(alone: Letter) -> None:
    line = Line(letter("a"), alone, letter("b"))
    assert line.verbs().count("MAIL") == 1
    line.hear(TAKEN)
    if alone.terms.eight_bit:
        assert line.outcomes["x"] == ["failed"]
        assert line.verbs().count("MAIL") == 1  # and so b is under way
    else:
        assert line.verbs().count("BDAT") <= 1
        assert len(line.letters) == 1  # b is still to come


def test_no_more_are_under_way_than_may_be() -> None:
    small = Line(*(letter(str(n)) for n in range(UNDER_WAY + 9)))
    assert small.verbs().count("MAIL") == UNDER_WAY
    assert small.hear(TAKEN).verbs().count("MAIL") == 1
    large = Line(*(letter(str(n), size=CHUNK) for n in range(20)))
    assert large.verbs().count("MAIL") == OCTETS_UNDER_WAY // CHUNK


def test_after_a_transaction_that_did_not_end_the_others_are_given_again() -> None:
    line = Line(*(letter(name) for name in "abc"))
    line.verbs()
    line.hear("250 OK\r\n550 nobody\r\n554 no valid recipients")
    line.hear("503 open\r\n250 OK\r\n554 no").hear("503 open\r\n250 OK\r\n554 no")
    assert line.outcomes == {"a": ["failed"]}
    assert line.verbs() == ["RSET"]
    line.hear("250 OK")
    assert line.verbs() == ["MAIL", "RCPT", "BDAT"] * 2
    line.hear(TAKEN).hear(TAKEN)
    assert line.outcomes == {"a": ["failed"], "b": ["delivered"], "c": ["delivered"]}
    assert line.verbs() == ["QUIT"]


def test_a_refused_mail_settles_its_letter_and_no_other() -> None:
    line = Line(letter("a"), letter("b"))
    line.hear("451 not now\r\n503 no\r\n503 no").hear(TAKEN)
    assert line.outcomes == {"a": ["later"], "b": ["delivered"]}


def test_a_host_that_always_says_503_ends_the_loop() -> None:
    line = Line(letter("a"), letter("b"), letter("c"))
    refused = "503 no\r\n503 no\r\n503 no"
    line.hear(refused).hear(refused).hear(refused)
    for _ in range(10):
        if line.verbs()[-1:] == ["QUIT"]:
            break
        line.hear("250 OK" if line.sender._unheard == 0 else refused)
    assert set(line.outcomes) == {"a", "b", "c"}
    assert all(found == ["failed"] for found in line.outcomes.values())


def test_canned_replies_mark_nothing_as_delivered() -> None:
    line = Line(letter("a"), letter("b"), letter("c"))
    line.hear("\r\n".join([TAKEN] * 4))  # one group more than was said
    assert line.ended is not None and line.ended.ending is Ending.BROKEN
    assert line.outcomes == {}


def test_replies_that_wait_before_the_first_group_break_the_protocol() -> None:
    line = Line(letter("a"), hello=HELLO + "\r\n" + TAKEN)
    assert line.ended is not None and line.ended.ending is Ending.BROKEN
    assert line.outcomes == {}


def test_421_in_the_middle_counts_what_was_answered_before_it_and_nothing_behind() -> None:
    line = Line(letter("a"), letter("b"), letter("c"))
    line.hear(TAKEN + "\r\n250 OK\r\n421 going down\r\n250 safe\r\n" + TAKEN)
    assert line.outcomes == {"a": ["delivered"]}
    assert line.ended is not None and (line.ended.ending, line.ended.reply.code) == (Ending.BROKEN, 421)


def test_a_promise_before_the_message_is_none() -> None:
    line = Line(letter("a"))
    line.hear("250 OK\r\n250 OK\r\n354 go on")
    assert line.outcomes == {"a": [Outcome.LATER.value]}


def test_a_line_that_breaks_leaves_the_rest_unsettled() -> None:
    line = Line(letter("a"), letter("b"))
    line.hear(TAKEN)
    line.sender.fail(line.sender.peer and events.Reply(451, "lost"))
    assert line.hear("").outcomes == {"a": ["delivered"]}


def test_a_host_that_takes_only_so_many_gets_no_more() -> None:
    hello = HELLO + "\r\n"
    hello = hello.replace("250 XONCE\r\n", "250-XONCE\r\n250 LIMITS MAILMAX=2")
    line = Line(letter("a"), letter("b"), letter("c"), hello=hello)
    assert line.verbs().count("MAIL") == 2
    line.hear(TAKEN).hear(TAKEN)
    assert line.verbs() == ["QUIT"] and len(line.letters) == 1
    failed = Line(letter("a"), letter("b"), hello=hello)
    failed.hear("250 OK\r\n550 nobody\r\n554 nobody").hear("503 open\r\n250 OK\r\n554 no").hear("250 OK")
    assert failed.outcomes == {"a": ["failed"], "b": ["untried"]}
    alone = Line(letter("a"), letter("b"), letter("c", size=CHUNK + 4), hello=hello)
    alone.hear(TAKEN).hear(TAKEN)
    assert "c" not in alone.outcomes and len(alone.letters) == 1


def test_the_line_is_turned_when_all_are_answered() -> None:
    line = Line(letter("a"), letter("b"), plan=Plan("usc.example", turn="TURN"))
    line.verbs()
    assert line.hear(TAKEN).verbs() == []
    assert line.hear(TAKEN).verbs() == ["TURN"]
