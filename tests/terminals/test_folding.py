"""Columns of characters, and lines that are folded by nobody but us."""

from __future__ import annotations

import sys

import pytest
import wcwidth
from hypothesis import given
from hypothesis import strategies as st

from mailnode.terminals.folding import columns, joins, most_columns, split
from mailnode.terminals.screen import visible


def test_no_character_that_is_shown_takes_more_columns_than_we_count() -> None:
    shown = [char for char in map(chr, range(32, sys.maxunicode + 1)) if visible(char) == char]
    assert len(shown) > 100_000
    assert [hex(ord(char)) for char in shown if columns(char) < wcwidth.wcwidth(char)] == []
    assert [hex(ord(char)) for char in shown if most_columns(char) < columns(char)] == []


def test_a_row_holds_what_fits_and_is_cut_at_a_space_of_its_second_half() -> None:
    assert split("one two three", 13) == ("one two three", "")
    assert split("one two three", 10) == ("one two ", "three")
    assert split("o nehundredandone", 10) == ("o nehundre", "dandone")


def test_wide_characters_take_two_columns_and_marks_none() -> None:
    assert split("漢字漢字", 5) == ("漢字", "漢字")
    assert split("e\u0301" * 5, 5) == ("e\u0301" * 5, "")
    assert split("ααα", 5, most_columns) == ("αα", "α")


@pytest.mark.parametrize("marks", ["\u0301", "\u0301\u0302", "\u1161\u11a8"])
def test_a_mark_stays_with_its_base(marks: str) -> None:
    line = f"x{marks}" * 40
    for limit in range(5, 12):
        for width in (columns, most_columns):
            row, rest = split(line, limit, width)
            assert row + rest == line and row and not joins(rest[0])


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200), st.integers(6, 80))
def test_a_line_is_folded_into_rows_that_fit_and_nothing_is_lost(text: str, limit: int) -> None:
    line = visible(text)
    for width in (columns, most_columns):
        rows, rest = [], line
        while rest:
            row, rest = split(rest, limit, width)
            rows.append(row)
            assert row and sum(map(width, row)) <= limit
        assert "".join(rows) == line
