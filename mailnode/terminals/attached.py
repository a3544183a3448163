"""Terminals that people attach with `mailnode terminal`: who they are, and what became of what was shown.

A text counts as shown only when the client says that it has written it; a client that does not say so in
time is dropped, and nobody waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from mailnode.interfaces import Message, Terminal
from mailnode.terminals.attached_line import NO_USER, AttachedLine, Uid, peer_uid
from mailnode.terminals.attaching import Attach, Became
from mailnode.terminals.screen import Screens

SOCKET: Final = "terminals.sock"
LINES: Final = 4000  # connections at once
LINES_OF_ONE: Final = 20  # connections at once of one login name
REPORT: Final = 60.0  # seconds between two log lines about refused connections

# (user, id of a message, seconds that the answer may take)
AnswerUser: TypeAlias = Callable[[str, str, float], Deferred[Mapping[str, Any]]]


class AttachedTerminals:
    """The attached terminals of this host.

    `user_of` gives the user of this node that a user id (uid) of this host is, None if it is none;
    `is_ours(line, device)` says whether a terminal's name and its (st_dev, st_ino) are those of a
    device of this host; `clock` runs the timers, `now` gives seconds since the epoch; `charset` is
    that of clients which do not know theirs; `uid_of` tells who is at the other end of a connection;
    `became` answers a user what became of a message of that user, where this process knows.
    """

    _log = Logger("mailnode.terminals")

    def __init__(
        self,
        hostname: str,
        user_of: Callable[[int], str | None],
        is_ours: Callable[[str, tuple[int, int]], bool],
        clock: IReactorTime,
        now: Callable[[], float],
        *,
        charset: str = "utf-8",
        uid_of: Uid = peer_uid,
        became: AnswerUser | None = None,
        lines: int = LINES,
        lines_of_one: int = LINES_OF_ONE,
    ) -> None:
        self.hostname = hostname
        self.clock = clock
        self.now = now
        self.uid_of = uid_of
        self.factory = AttachedFactory(self)
        self._user_of = user_of
        self._is_ours = is_ours
        self._charset = charset
        self._became = became
        self._lines = lines
        self._lines_of_one = lines_of_one
        self._open: dict[AttachedLine, int] = {}  # with the uid
        self._by_uid: Counter[int] = Counter()
        self._by_user: dict[str, list[AttachedLine]] = {}
        self._screens: dict[str, Screens] = {}  # of the last message, by charset
        self._refused_until = float("-inf")

    def use(
        self,
        user_of: Callable[[int], str | None],
        is_ours: Callable[[str, tuple[int, int]], bool],
        charset: str,
    ) -> None:
        """The configuration has changed; who is attached already stays so."""
        self._user_of = user_of
        self._is_ours = is_ours
        self._charset = charset

    # ------------------------------------------------------------- who is there

    def logged_in(self, user: str | None = None) -> list[Terminal]:
        """The attached terminals of `user`, or of everybody."""
        lists = self._by_user.values() if user is None else [self._by_user.get(user, [])]
        now = self.now()
        return [line.terminal(now) for lines in lists for line in lines]

    def accepts(self, user: str) -> bool:
        """Whether a message would reach a terminal of `user` now."""
        return any(line.ready for line in self._by_user.get(user, ()))

    def held(self, user: str) -> frozenset[str]:
        """The lines of this host, such as "pts/3", on which `user` has attached: they are looked after."""
        lines = self._by_user.get(user)
        return frozenset(line.held for line in lines if line.held) if lines else frozenset()

    def show(self, user: str, message: Message) -> Deferred[int]:
        """Writes to every accepting terminal of `user` once; fires with how many were reached."""
        lines = [line for line in self._by_user.get(user, ()) if line.ready]
        if not lines:
            return succeed(0)
        shown = [line.show(self._octets(message, line.said)) for line in lines]
        return gatherResults(shown).addCallback(sum)

    def _octets(self, message: Message, said: Attach) -> bytes:
        charset = said.charset or self._charset
        screens = self._screens.get(charset)
        if screens is None or screens.message is not message:  # one message may be shown to many
            screens = self._screens[charset] = Screens(message, self.hostname, self.now(), charset)
        return screens.at(said.columns)

    def close(self) -> None:
        """Ends every connection: the node goes down."""
        for line in list(self._open):
            line.drop()

    # ------------------------------------------------------------- for its lines

    def opened(self, line: AttachedLine, uid: int) -> str:
        """Counts a connection; why it must be refused, empty if it need not."""
        self._open[line] = uid
        self._by_uid[uid] += 1
        wrong = ""
        if len(self._open) > self._lines:
            wrong = "too many terminals are attached to this node"
        elif self._by_uid[uid] > self._lines_of_one:
            wrong = f"you have {self._lines_of_one} terminals attached already"
        if wrong and self.now() >= self._refused_until:
            self._refused_until = self.now() + REPORT
            self._log.warn("uid {uid} is refused a terminal: {wrong}", uid=uid, wrong=wrong)
        return wrong

    def attached(self, line: AttachedLine, said: Attach) -> str | None:
        """The user whose terminal `line` is from now on; None if whoever is there is no user."""
        user = self._user_of(self._open[line])
        if user is not None:
            self._by_user.setdefault(user, []).append(line)
        return user

    def became(self, line: AttachedLine, wants: Became) -> Deferred[Mapping[str, Any]] | str:
        """What became of a message of the user at the other end of `line`; or why it is not told."""
        user = self._user_of(self._open[line])
        if user is None:
            return NO_USER
        if self._became is None:
            return "this process does not know what became of messages"
        return self._became(user, wants.id, wants.seconds)

    def is_ours(self, said: Attach) -> bool:
        """Whether the terminal is a device of this host, and not of a container on it."""
        return bool(said.line) and said.device is not None and self._is_ours(said.line, said.device)

    def closed(self, line: AttachedLine) -> None:
        uid = self._open.pop(line, None)
        if uid is None:
            return
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]
        lines = self._by_user.get(line.user, [])
        if line in lines:
            lines.remove(line)
            if not lines:
                del self._by_user[line.user]


class AttachedFactory(Factory):
    """Listens for clients of `terminals`."""

    noisy = False

    def __init__(self, terminals: AttachedTerminals) -> None:
        self._terminals = terminals

    def buildProtocol(self, addr: object) -> AttachedLine:
        return AttachedLine(self._terminals)
