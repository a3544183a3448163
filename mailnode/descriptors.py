"""Open files: how near the process is to its limit. New ones are refused before it is reached."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Final

LOOK_EVERY: Final = 0.1  # seconds
RESERVE: Final = (16, 8, 256)  # descriptors kept free: at least, a part of all (1/n), at most


class Descriptors:
    """How near the process is to its limit of open files.

    `count` tells how many are open; it is asked at most ten times a second, and not at all while the
    channels are few, for it has to look at each of them. `clock` gives monotonic seconds.
    """

    def __init__(self, limit: int, count: Callable[[], int], clock: Callable[[], float]) -> None:
        least, part, most = RESERVE
        self.limit = limit
        self.reserve = max(least, min(limit // part, most))
        self._count = count
        self._clock = clock
        self._looked = float("-inf")
        self._open = 0
        self._channels = 0  # that there were then

    def are_scarce(self, channels: int) -> bool:
        """Whether nothing more may be opened that can wait; `channels` are open now."""
        if channels * 4 < self.limit - self.reserve:
            return False
        now = self._clock()
        if now - self._looked >= LOOK_EVERY:
            self._looked, self._channels, self._open = now, channels, self._count()
        return self._open + max(0, channels - self._channels) + self.reserve > self.limit


def raise_limit() -> None:
    """Lets this process open as many files as it ever may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # a sandbox may forbid it: then it is as many as now
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def count_descriptors() -> int:
    """The open files of this process; the limit's worth of them if even that cannot be looked at."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # without /proc, or none is left to open it with
        return descriptor_limit()
