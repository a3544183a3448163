"""Open files: when there are too few left, and how seldom that is looked at."""

from __future__ import annotations

import os
import resource

import pytest

from mailnode.descriptors import LOOK_EVERY, Descriptors, count_descriptors, descriptor_limit


class Process:
    """A process with open files, and a clock."""

    def __init__(self, limit: int, open_files: int) -> None:
        self.open = open_files
        self.looked = 0
        self.now = 0.0
        self.descriptors = Descriptors(limit, self.count, lambda: self.now)

    def count(self) -> int:
        self.looked += 1
        return self.open


@pytest.mark.parametrize(
    ("limit", "open_files", "scarce"),
    [
        (128, 128 - 16, False),
        (128, 128 - 15, True),
        (1024, 1024 - 128, False),
        (1024, 1024 - 127, True),
        (1 << 20, (1 << 20) - 256, False),
        (1 << 20, (1 << 20) - 255, True),
    ],
)
def test_files_are_scarce_when_only_the_reserve_is_left(limit: int, open_files: int, scarce: bool) -> None:
    assert Process(limit, open_files).descriptors.are_scarce(open_files) is scarce


def test_few_channels_are_not_worth_a_look() -> None:
    process = Process(1024, 1000)
    assert not process.descriptors.are_scarce(200)
    assert process.looked == 0


def test_one_look_serves_for_a_while_and_what_was_opened_since_is_added() -> None:
    process = Process(1024, 880)
    assert not process.descriptors.are_scarce(800)
    assert not process.descriptors.are_scarce(816)
    assert process.descriptors.are_scarce(817)
    assert process.looked == 1
    process.now += LOOK_EVERY
    process.open = 500
    assert not process.descriptors.are_scarce(817)
    assert process.looked == 2


def test_channels_that_went_since_the_look_free_nothing_before_the_next() -> None:
    process = Process(1024, 1000)
    assert process.descriptors.are_scarce(900)
    assert process.descriptors.are_scarce(300)


def test_the_open_files_of_this_process_are_counted() -> None:
    before = count_descriptors()
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    assert count_descriptors() == before + 5
    for file in files:
        os.close(file)
    assert descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
