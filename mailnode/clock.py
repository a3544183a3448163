"""Timers that a stepped wall clock cannot harm.

Twisted's timers run on `time.time`: set back two days, a time-out of two seconds never fires; set forward
an hour, every time-out fires at once. A reactor that is told to use the monotonic clock, before the
first timer is set, has neither fault. The time of day, where it is needed, comes from `time.time`.
"""

from __future__ import annotations

import time

from twisted.internet.base import ReactorBase
from twisted.logger import Logger


def use_monotonic(reactor: object) -> bool:
    """Puts the timers of a real reactor on the monotonic clock; whether it could.

    Must come before the first timer: those that are set already would count from another zero.
    """
    if not isinstance(reactor, ReactorBase) or reactor.seconds is time.monotonic:
        return isinstance(reactor, ReactorBase)
    if reactor.getDelayedCalls():
        Logger("mailnode.node").warn("timers were set before the node began: they follow the wall clock")
        return False
    reactor.seconds = time.monotonic
    return True
