"""Message ids."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.spool.ids import Ids, is_id, numbers, parse, show


@given(st.integers(0, 2**63 - 1))
def test_every_number_of_63_bits_comes_back_from_its_13_characters(number: int) -> None:
    text = show(number)
    assert len(text) == 13
    assert text == text.lower()
    assert parse(text) == number


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_ids_sort_as_their_numbers(one: int, other: int) -> None:
    assert (show(one) < show(other)) == (one < other)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_other_numbers_have_no_id(number: int) -> None:
    with pytest.raises(ValueError, match="63 bits"):
        show(number)


@pytest.mark.parametrize(
    "text",
    ["", "0", "../../etc/pas", "8000000000000", "000000000000i", "00000000000000", "000000000000A",
     "0_00000000000", "0000000000000\n", " 000000000000", "-000000000000", "٠٠٠٠٠٠٠٠٠٠٠٠٠"],
)  # fmt: skip
def test_garbage_is_no_id(text: str) -> None:
    assert not is_id(text)
    assert numbers((text,)) == []
    with pytest.raises(ValueError, match="not a message id"):
        parse(text)


@given(st.text())
def test_text_is_an_id_only_if_show_gives_it(text: str) -> None:
    assert not is_id(text) or show(parse(text)) == text


def test_ids_strictly_increase_also_when_the_clock_stands_or_goes_back() -> None:
    times = iter([1_800_000_000.0] * 500 + [1_700_000_000.0] * 500 + [1_900_000_000.0])
    ids = Ids(lambda: next(times), random.Random(5).getrandbits)
    made = [ids.new() for _ in range(1001)]
    assert sorted(set(made)) == made


def test_an_id_tells_when_it_was_made() -> None:
    made = Ids(lambda: 1_800_000_000.25, lambda bits: (1 << bits) - 1).new()
    assert parse(made) >> 11 == 1_800_000_000_250_000
