"""How many messages a minute reach a person: from one sender, and from all of them (pure but for a clock)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

MINUTE: Final = 60.0  # seconds
USERS: Final = 10_000  # of whom is remembered what they were shown


class Rates:
    """What users were shown in the last minute. `clock` gives seconds that never go back.

    A place is taken before a message is shown and given back if nobody saw it, so that many at once
    cannot pass together.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shown: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()  # (when, sender) by user

    def has_room(self, user: str, sender: str, rate: int, rate_all: int) -> bool:
        """Whether one more message fits: `rate` a minute from `sender`, `rate_all` from everybody."""
        shown = self._shown.get(user)
        if shown is None:
            return rate > 0 and rate_all > 0
        self._forget(user, shown)
        return len(shown) < rate_all and sum(name == sender for _, name in shown) < rate

    def take(self, user: str, sender: str, rate: int, rate_all: int) -> bool:
        """Takes a place for one message if there is one."""
        if not self.has_room(user, sender, rate, rate_all):
            return False
        shown = self._shown.setdefault(user, deque())
        self._shown.move_to_end(user)
        shown.append((self._clock(), sender))
        if len(self._shown) > USERS:
            self._shown.popitem(last=False)
        return True

    def give_back(self, user: str, sender: str) -> None:
        """The message that took the last place of `sender` was not seen."""
        shown = self._shown.get(user, deque())
        for index in range(len(shown) - 1, -1, -1):
            if shown[index][1] == sender:
                del shown[index]
                break
        if not shown:
            self._shown.pop(user, None)

    def _forget(self, user: str, shown: deque[tuple[float, str]]) -> None:
        before = self._clock() - MINUTE
        while shown and shown[0][0] <= before:
            shown.popleft()
        if not shown:
            del self._shown[user]
