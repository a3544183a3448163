"""A conversation: line by line, to its end, and nothing of a line is lost or torn."""

from __future__ import annotations

import io
import os

from hypothesis import given
from hypothesis import strategies as st

from mailnode.commands.conversation import LINE, converse, folded
from mailnode.commands.verdict import Verdict

SHOWN = Verdict("shown on a terminal", "", True, os.EX_OK, "shown")
LATER = Verdict("not shown", "450 User not active now", False, os.EX_TEMPFAIL, "not shown")
UNKNOWN = Verdict("refused", "550 No such user here", False, os.EX_NOUSER, "refused")
NOT_ALLOWED = Verdict("not shown", "502 Command not implemented", False, os.EX_UNAVAILABLE, "not shown")


def held(typed: bytes, *verdicts: list[Verdict]) -> tuple[list[bytes], int]:
    """What was given away of what was typed, line by line, and the exit status."""
    given_away: list[bytes] = []
    answers = iter(verdicts)

    def give(text: bytes) -> list[Verdict]:
        given_away.append(text)
        return next(answers)

    return given_away, converse(io.BytesIO(typed), give)


def test_each_line_is_given_by_itself() -> None:
    assert held(b"one\ntwo\n", [SHOWN], [SHOWN]) == ([b"one\r\n", b"two\r\n"], os.EX_OK)


def test_empty_lines_are_not_sent_and_a_last_line_needs_no_end() -> None:
    assert held(b"\n  \n\t\nlast", [SHOWN]) == ([b"last\r\n"], os.EX_OK)
    assert held(b"") == ([], os.EX_OK)


def test_who_left_may_come_back_so_it_goes_on() -> None:
    assert held(b"a\nb\nc\n", [LATER], [SHOWN], [LATER])[1] == os.EX_TEMPFAIL
    assert held(b"a\nb\n", [LATER, UNKNOWN], [SHOWN, UNKNOWN])[1] == os.EX_NOUSER


def test_where_nobody_can_ever_be_reached_it_ends() -> None:
    assert held(b"a\nb\n", [UNKNOWN]) == ([b"a\r\n"], os.EX_NOUSER)
    assert held(b"a\nb\n", [NOT_ALLOWED, UNKNOWN]) == ([b"a\r\n"], os.EX_NOUSER)


@given(st.text(max_size=30), st.integers(1, 200))
def test_a_long_line_is_folded_and_no_character_torn(text: str, times: int) -> None:
    line = (text * times).replace("\n", "").replace("\r", "").encode("utf-8", "replace")
    rows = list(folded(line + b"\n"))
    assert all(len(row) <= LINE + 1 and row.endswith(b"\n") for row in rows)
    assert b"".join(row[:-1] for row in rows) == line
    assert [row.decode() for row in rows]


def test_what_is_not_text_is_folded_all_the_same() -> None:
    rows = list(folded(b"\x80" * 5000))
    assert b"".join(row[:-1] for row in rows) == b"\x80" * 5000 and max(map(len, rows)) <= LINE + 1
