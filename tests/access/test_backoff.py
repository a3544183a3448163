"""The back-off of hosts that failed: counts, waits, forgetting, and the size of the table."""

from __future__ import annotations

import pytest

from mailnode.access.backoff import FREE, LONGEST_WAIT, QUIET, Backoff

A, B = "192.0.2.1", "192.0.2.2"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(backoff: Backoff, times: int, address: str = A) -> float:
    """The last wait of so many failures, each let in after the wait before it."""
    return [backoff.failed(address) for _ in range(times)][-1]


def test_three_failures_and_then_a_wait_that_doubles_up_to_a_limit(clock: Clock) -> None:
    backoff = Backoff(clock)
    waits = []
    for _ in range(12):
        assert backoff.admits(A)
        waits.append(backoff.failed(A))
        clock.now += waits[-1]
    assert waits == [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_no_count_of_failures_makes_the_wait_longer_than_the_limit(clock: Clock) -> None:
    assert fail(Backoff(clock), 5000) == LONGEST_WAIT


def test_while_a_host_waits_nothing_of_it_is_looked_at_and_others_are(clock: Clock) -> None:
    backoff = Backoff(clock)
    fail(backoff, FREE)
    assert backoff.waits(A) and not backoff.admits(A)
    assert not backoff.waits(B) and backoff.admits(B)
    clock.now += 1.9
    assert backoff.waits(A) and not backoff.admits(A)
    clock.now += 0.1
    assert not backoff.waits(A) and backoff.admits(A)


def test_being_turned_away_makes_the_wait_no_longer(clock: Clock) -> None:
    backoff = Backoff(clock)
    fail(backoff, FREE)
    for _ in range(100):
        assert not backoff.admits(A)
    clock.now += 2
    assert backoff.admits(A)


def test_after_the_free_failures_attempts_go_one_at_a_time(clock: Clock) -> None:
    backoff = Backoff(clock)
    assert [backoff.admits(A) for _ in range(5)] == [True] * 5  # nothing failed yet
    fail(backoff, FREE)
    clock.now += 2
    assert [backoff.admits(A) for _ in range(5)] == [True, False, False, False, False]


def test_asking_whether_a_host_waits_is_no_attempt(clock: Clock) -> None:
    backoff = Backoff(clock)
    fail(backoff, FREE)
    clock.now += 2
    assert not backoff.waits(A) and not backoff.waits(A) and backoff.admits(A)


def test_an_attempt_that_could_not_be_checked_was_none(clock: Clock) -> None:
    backoff = Backoff(clock)
    fail(backoff, FREE)
    clock.now += 2
    assert backoff.admits(A)
    backoff.unchecked(A)
    assert backoff.admits(A)
    assert backoff.failed(A) == 4
    backoff.unchecked(B)  # of a host that never failed
    assert len(backoff) == 1


def test_a_success_forgets_the_failures(clock: Clock) -> None:
    backoff = Backoff(clock)
    fail(backoff, 2)
    backoff.succeeded(A)
    assert len(backoff) == 0
    assert fail(backoff, 2) == 0


@pytest.mark.parametrize("failures", [1, FREE, 20])
def test_quiet_time_after_the_wait_forgets_the_failures(clock: Clock, failures: int) -> None:
    backoff = Backoff(clock)
    wait = fail(backoff, failures)
    clock.now += wait + QUIET - 1
    assert backoff.admits(A) and len(backoff) == 1
    clock.now += LONGEST_WAIT + QUIET
    assert backoff.admits(A) and len(backoff) == 0
    assert backoff.failed(A) == 0


def test_the_table_has_an_end_and_the_oldest_failure_is_forgotten(clock: Clock) -> None:
    backoff = Backoff(clock, hosts=3)
    for number in (1, 2, 3, 1, 4):
        backoff.failed(f"192.0.2.{number}")
    assert len(backoff) == 3
    # 1 failed again, so 2 was the oldest: its count starts anew.
    assert [fail(backoff, 1, f"192.0.2.{number}") for number in (1, 2)] == [2, 0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
        ("", "192.0.2.1", False),
        ("garbage", "garbage", True),
        ("x" * 64 + "y", "x" * 64 + "z", True),  # nobody's address makes the table larger
    ],
)
def test_what_counts_as_one_host(clock: Clock, one: str, other: str, same: bool) -> None:
    backoff = Backoff(clock)
    fail(backoff, FREE, one)
    assert backoff.waits(other) is same
