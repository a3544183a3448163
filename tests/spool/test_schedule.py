"""When to try again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailnode.spool.schedule import LEAST_ATTEMPTS, Retry, decide
from mailnode.spool.sqlite import LONGEST

RETRY = Retry()
jitters = st.floats(0, 1, exclude_max=True)


def test_the_first_retry_comes_after_first_and_the_next_after_twice_as_long() -> None:
    afters = [decide(RETRY, attempts, 0, False, 0.5).after for attempts in range(1, 9)]
    assert afters == [300, 600, 1200, 2400, 4800, 9600, 14400, 14400]


@given(st.integers(1, 10_000), st.floats(-1e9, 1e9), jitters)
def test_no_interval_is_longer_than_the_longest_or_shorter_than_three_quarters_of_first(
    attempts: int, age: float, jitter: float
) -> None:
    after = decide(RETRY, attempts, age, False, jitter).after
    assert after is None or 225 <= after <= RETRY.longest


@given(st.integers(1, 5), jitters, jitters)
def test_intervals_grow_whatever_the_jitter(attempts: int, one: float, other: float) -> None:
    before, then = decide(RETRY, attempts, 0, False, one), decide(RETRY, attempts + 1, 0, False, other)
    assert before.after is not None
    assert then.after is not None
    assert before.after < then.after


def test_jitter_spreads_a_quarter_either_way() -> None:
    assert decide(RETRY, 1, 0, False, 0.0).after == 225
    assert 374 < (decide(RETRY, 1, 0, False, 0.999).after or 0) < 375


def test_it_gives_up_when_the_message_has_expired() -> None:
    assert decide(RETRY, 20, RETRY.expire, True, 0.5).after is None
    assert decide(RETRY, 20, RETRY.expire - 1, True, 0.5).after is not None


@given(st.integers(0, LEAST_ATTEMPTS - 1), jitters)
def test_a_clock_stepped_forward_bounces_nothing(attempts: int, jitter: float) -> None:
    assert decide(RETRY, attempts, 1e9, False, jitter).after is not None


def test_the_sender_is_told_of_a_delay_once() -> None:
    assert not decide(RETRY, 6, RETRY.warn - 1, False, 0.5).warn
    assert decide(RETRY, 6, RETRY.warn, False, 0.5).warn
    assert not decide(RETRY, 6, RETRY.warn, True, 0.5).warn


def test_the_sender_is_not_told_of_a_delay_by_the_first_attempt_nor_with_a_bounce_nor_if_switched_off() -> (
    None
):
    assert not decide(RETRY, 1, RETRY.warn, False, 0.5).warn
    assert not decide(RETRY, 20, RETRY.expire, False, 0.5).warn
    assert not decide(Retry(warn=0), 6, RETRY.warn, False, 0.5).warn


def test_a_first_interval_over_the_cap_stays_as_it_was_asked_for() -> None:
    daily = Retry(first=86400)
    assert [decide(daily, attempts, 0, False, 0.5).after for attempts in (1, 2, 3)] == [86400] * 3
    assert daily.longest == 86400 * 1.25


def test_the_default_spool_knows_of_no_shorter_longest_interval() -> None:
    assert RETRY.longest <= LONGEST
