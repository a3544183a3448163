"""Who is logged in, as a command can see it: the host's own records, and what the running node knows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailnode.attached_client import attached_terminals
from mailnode.config import Configuration
from mailnode.control_client import NoNodeError, RefusedError
from mailnode.interfaces import ITerminals, Message, Standing, Terminal
from mailnode.mail import Path
from mailnode.terminal_room import NO_LIBRARY, build_terminals, has_logind, logins_kind, say_files
from mailnode.terminals.say import Say

SWITCHED_OFF: Final = 'host terminals are switched off: [terminals] utmp = "none"'
NOT_RUNNING: Final = "no node is running with this configuration: attached terminals are not seen"


@implementer(ITerminals)
class SeenTerminals:
    """Terminals as they were a moment ago. `notes` say, a line each, what could not be seen."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was hidden: what is switched off is not there; no node has nobody attached."""
        return all(note in (SWITCHED_OFF, NOT_RUNNING) for note in self.notes)

    def __init__(
        self, terminals: Sequence[Terminal], notes: Sequence[str], say: Callable[[str], Say | None]
    ) -> None:
        self.notes = tuple(notes)
        self._terminals = terminals
        self._say = say

    def logged_in(self, user: str | None = None) -> list[Terminal]:
        return [terminal for terminal in self._terminals if user is None or terminal.user == user]

    def accepts(self, user: str, sender: Path, standing: Standing) -> bool:
        """As the node would say; what senders have had in the last minute is not known here."""
        say = self._say(user)
        welcome = say is not None and say.welcome.holds(sender, standing)
        return welcome and any(terminal.accepting for terminal in self.logged_in(user))

    def show(self, user: str, message: Message) -> Deferred[int]:
        """Nothing: a command looks, the node writes."""
        return succeed(0)


def look(configuration: Configuration, user: str | None = None) -> SeenTerminals:
    """The terminals of `user`, or of everybody, of every kind that can be seen."""
    notes: list[str] = []
    attached = _attached(configuration, user, notes)
    held = {(terminal.user, terminal.line) for terminal in attached}
    hosts = [one for one in _hosts(configuration, user, notes) if (one.user, one.line) not in held]
    return SeenTerminals([*hosts, *attached], notes, say_files(configuration, time.monotonic).of)


def _attached(configuration: Configuration, user: str | None, notes: list[str]) -> list[Terminal]:
    if not configuration.terminals.attached:
        return []
    path = str(configuration.terminals.socket)
    try:
        terminals, count = attached_terminals(path, user)
    except NoNodeError:
        notes.append(NOT_RUNNING)
    except RefusedError as error:
        notes.append(f"attached terminals are not seen: {error}")
    except OSError as error:
        notes.append(f"attached terminals are not seen: {error.strerror or error}: {path}")
    else:
        if count > len(terminals):
            notes.append(f"{count - len(terminals)} more attached terminals are not shown")
        return terminals
    return []


def _hosts(configuration: Configuration, user: str | None, notes: list[str]) -> list[Terminal]:
    kind = logins_kind(configuration)
    if kind == "none":
        notes.append(SWITCHED_OFF)
        return []
    if kind == "logind" and not has_logind():
        notes.append(NO_LIBRARY)
        return []
    if kind != "logind" and not os.path.exists(kind):
        notes.append(f"host terminals are not seen: there is no {kind}; [terminals] utmp names another")
        return []
    try:
        return build_terminals(configuration).logged_in(user)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not configuration.terminals.utmp:
            notes.append("this host has no login records: neither utmp nor systemd-logind")
            return []
        notes.append(
            f"host terminals are not seen: systemd-logind does not answer: {error.strerror or error}"
        )
        return []
