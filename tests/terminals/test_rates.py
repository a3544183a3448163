"""How many messages a minute: counted by the sender and in all, given back when nobody saw them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailnode.terminals import rates
from mailnode.terminals.rates import Rates


class Now:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_the_rate_of_one_sender_leaves_room_for_others() -> None:
    book = Rates(Now())
    assert [book.take("jones", "smith", 2, 30) for _ in range(3)] == [True, True, False]
    assert book.take("jones", "green", 2, 30) and book.take("brown", "smith", 2, 30)


def test_the_rate_of_all_is_for_all_together() -> None:
    book = Rates(Now())
    assert [book.take("jones", f"s{number}", 10, 3) for number in range(4)] == [True, True, True, False]
    assert not book.has_room("jones", "somebody else", 10, 3)


def test_a_minute_later_there_is_room_again() -> None:
    now = Now()
    book = Rates(now)
    assert book.take("jones", "smith", 1, 1)
    now.seconds += 59.9
    assert not book.has_room("jones", "smith", 1, 1)
    now.seconds += 0.2
    assert book.take("jones", "smith", 1, 1)


def test_to_ask_takes_no_place_and_what_nobody_saw_gives_it_back() -> None:
    book = Rates(Now())
    assert all(book.has_room("jones", "smith", 1, 1) for _ in range(5))
    assert book.take("jones", "smith", 1, 1)
    book.give_back("jones", "green")
    assert not book.has_room("jones", "smith", 1, 1)
    book.give_back("jones", "smith")
    assert book.take("jones", "smith", 1, 1)


def test_a_rate_of_none_lets_nobody_through() -> None:
    assert not Rates(Now()).take("jones", "smith", 0, 30)
    assert not Rates(Now()).take("jones", "smith", 10, 0)


def test_what_is_remembered_is_bounded() -> None:
    book = Rates(Now())
    for number in range(rates.USERS + 100):
        book.take(f"u{number}", "smith", 1, 1)
    assert len(book._shown) == rates.USERS
    assert book.take("u0", "smith", 1, 1)  # the longest ago were forgotten
    assert not book.take(f"u{rates.USERS}", "smith", 1, 1)


@given(st.lists(st.tuples(st.floats(0, 40), st.sampled_from("abc"), st.booleans()), max_size=60))
def test_no_minute_ever_holds_more_than_the_rates(steps: list[tuple[float, str, bool]]) -> None:
    now = Now()
    book = Rates(now)
    shown: list[tuple[float, str]] = []
    for pause, sender, seen in steps:
        now.seconds += pause
        if book.take("jones", sender, 2, 4):
            if seen:
                shown.append((now.seconds, sender))
            else:
                book.give_back("jones", sender)
        minute = [name for when, name in shown if when > now.seconds - 60]
        assert len(minute) <= 4 and all(minute.count(name) <= 2 for name in minute)
