"""Terminals that exist in memory only: for tests, and for programs that embed a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailnode.interfaces import STRANGER, ITerminals, Message, Standing, Terminal
from mailnode.mail import NULL_PATH, Path


class Shown(NamedTuple):
    user: str
    line: str
    message: Message


@implementer(ITerminals)
class MemoryTerminals:
    """Users are logged in and out by calls; what would appear on their screens is kept in `shown`.

    `clock` gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.shown: list[Shown] = []
        self._clock = clock
        self._terminals: dict[str, Terminal] = {}
        self._dead: set[str] = set()
        self._unwelcome: set[tuple[str, str]] = set()

    def log_in(self, user: str, line: str = "pts/0", accepting: bool = True) -> None:
        """Logs `user` in on `line`; whoever was there is logged out."""
        self.log_out(line)
        self._terminals[line] = Terminal(user, line, "utmp", accepting, self._clock(), 0.0)

    def log_out(self, line: str = "pts/0") -> None:
        self._terminals.pop(line, None)
        self._dead.discard(line)

    def set_accepting(self, line: str, accepting: bool) -> None:
        """As mesg(1) does. KeyError if nobody is logged in there."""
        self._terminals[line] = replace(self._terminals[line], accepting=accepting)

    def stop(self, line: str) -> None:
        """From now on the terminal seems to accept, and takes nothing (^S, a hung-up line)."""
        self._dead.add(line)

    def refuse(self, user: str, mailbox: str) -> None:
        """`user` wants no messages from `mailbox` any more."""
        self._unwelcome.add((user, mailbox))

    def logged_in(self, user: str | None = None) -> list[Terminal]:
        now = self._clock()
        return [
            replace(terminal, idle=now - terminal.since)
            for terminal in self._terminals.values()
            if user is None or terminal.user == user
        ]

    def accepts(self, user: str, sender: Path = NULL_PATH, standing: Standing = STRANGER) -> bool:
        welcome = (user, sender.mailbox) not in self._unwelcome
        return welcome and any(terminal.accepting for terminal in self.logged_in(user))

    def show(self, user: str, message: Message) -> Deferred[int]:
        reached = [
            terminal.line
            for terminal in self.logged_in(user)
            if terminal.accepting
            and terminal.line not in self._dead
            and (user, message.sender.mailbox) not in self._unwelcome
        ]
        self.shown.extend(Shown(user, line, message) for line in reached)
        return succeed(len(reached))
