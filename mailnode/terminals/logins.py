"""Who is logged in to this host, as one of its records says: a name, a line, a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Login(NamedTuple):
    """One session of a user. Its texts are printable; whether they are true is not known."""

    user: str
    line: str  # "pts/3", "tty1", ":0"
    host: str
    since: int  # seconds since the epoch


class Logins(Protocol):
    """A record of sessions. `kind` names it: "utmp" or "logind"."""

    @property
    def kind(self) -> str: ...

    def current(self) -> Iterable[Login]:
        """The sessions as they are now; nothing waits."""


class NoLogins:
    """Where no record is to be looked at."""

    kind = "none"

    def current(self) -> Iterable[Login]:
        return ()


def printable(text: str) -> str:
    """`text` with "?" for what is not printable; that matches no user and no device."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)
