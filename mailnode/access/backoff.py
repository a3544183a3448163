"""How long a host that failed to prove itself has to wait before it may try again.

Some failures are free. After each further one the host waits, twice as long each time, up to a limit; an
attempt meanwhile is not looked at. A success forgets them all, and so does a time without attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from mailnode.access.networks import host_of

FREE: Final = 3  # failures; the wait begins with this one
FIRST_WAIT: Final = 2.0  # seconds
LONGEST_WAIT: Final = 300.0  # seconds
QUIET: Final = 900.0  # seconds after the wait; then a host is as new
HOSTS: Final = 10_000  # that are remembered; of more, those whose last failure is oldest are forgotten


class _Record:
    __slots__ = ("failures", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0  # attempts before are not looked at


class Backoff:
    """The hosts that failed lately. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, hosts: int = HOSTS) -> None:
        self._clock = clock
        self._hosts = hosts
        self._records: dict[str, _Record] = {}  # the oldest failure first

    def waits(self, address: str) -> bool:
        """Whether an attempt from there would not be looked at now."""
        record = self._find(address)
        return record is not None and self._clock() < record.until

    def admits(self, address: str) -> bool:
        """Whether an attempt from there is looked at now. It ends with `failed`, `succeeded` or `unchecked`.

        Once the free failures are used up attempts go one at a time: the next waits until this one is known.
        """
        record = self._find(address)
        if record is None:
            return True
        now = self._clock()
        if now < record.until:
            return False
        if record.failures >= FREE:
            record.until = now + _wait(record.failures)
        return True

    def failed(self, address: str) -> float:
        """Counts a failure. The seconds that the host has to wait, 0 if none."""
        host = host_of(address)
        record = self._find(address) or _Record()
        record.failures += 1
        wait = _wait(record.failures)
        record.until = self._clock() + wait
        self._records.pop(host, None)
        self._records[host] = record
        if len(self._records) > self._hosts:
            del self._records[next(iter(self._records))]
        return wait

    def succeeded(self, address: str) -> None:
        """The host has proved itself."""
        self._records.pop(host_of(address), None)

    def unchecked(self, address: str) -> None:
        """An attempt that was let in could not be checked: it is as if it had not been made."""
        record = self._find(address)
        if record is not None:
            record.until = self._clock()

    def __len__(self) -> int:
        return len(self._records)

    def _find(self, address: str) -> _Record | None:
        host = host_of(address)
        record = self._records.get(host)
        if record is not None and self._clock() >= record.until + QUIET:
            del self._records[host]
            return None
        return record


def _wait(failures: int) -> float:
    if failures < FREE:
        return 0.0
    doublings = min(failures - FREE, 16)  # far past the longest wait, and no number without end
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0**doublings)
