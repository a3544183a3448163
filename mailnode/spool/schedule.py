"""When a recipient is tried again, when its sender is told of the delay, and when we give up (pure).

Rules:
- the first retry comes after `first`, each next one after twice as long, up to `cap`;
- jitter of a quarter either way keeps a thousand messages for one host from coming back together;
- we give up when the message is older than `expire`, but never before three attempts: a clock that
  was stepped forward must not bounce a whole queue;
- the sender is told once, when the message is older than `warn` and at least two attempts failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

LEAST_ATTEMPTS: Final = 3
_SPREAD: Final = 0.25


@dataclass(frozen=True, slots=True)
class Retry:
    """The retry policy, all in seconds (RFC 5321 4.5.4.1). `warn` 0 means that no sender is told."""

    first: float = 300.0
    warn: float = 4 * 3600.0
    expire: float = 5 * 86400.0
    cap: float = 4 * 3600.0

    @property
    def longest(self) -> float:
        """No interval is longer; a due time further away than this shows that the clock was set back."""
        return max(self.first, self.cap) * (1 + _SPREAD)


class Decision(NamedTuple):
    """`after` seconds there is another attempt, None: give up. `warn`: tell the sender of the delay now."""

    after: float | None
    warn: bool = False


def decide(retry: Retry, attempts: int, age: float, warned: bool, jitter: float) -> Decision:
    """What follows an attempt that ended LATER.

    `attempts` counts it and all before it, `age` is that of the message in seconds (negative where the
    clock was set back), `jitter` lies in [0, 1).
    """
    if age >= retry.expire and attempts >= LEAST_ATTEMPTS:
        return Decision(None)
    doublings = min(max(attempts - 1, 0), 32)
    interval = min(retry.first * 2**doublings, max(retry.first, retry.cap))
    warn = not warned and 0 < retry.warn <= age and attempts > 1
    return Decision(interval * (1 - _SPREAD + 2 * _SPREAD * jitter), warn)
