"""The terminals of people who are logged in to this host, as utmp or logind knows them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from twisted.internet.defer import Deferred, succeed

from mailnode.interfaces import Message, Terminal
from mailnode.terminals import tty
from mailnode.terminals.logins import Login, Logins
from mailnode.terminals.screen import Screens


class HostTerminals:
    """Terminals that `logins` names, written to as devices. Nothing here ever waits.

    `devices` is the folder that their lines lie in; `uid_of` gives the user id of a login name, None
    if there is no such user; `clock` gives seconds since the epoch; `charset` of the terminals is
    "utf-8" or "ascii". `without` names lines that are left out: somebody else looks after them.
    """

    def __init__(
        self,
        logins: Logins,
        devices: str,
        hostname: str,
        uid_of: Callable[[str], int | None],
        clock: Callable[[], float],
        charset: str = "utf-8",
    ) -> None:
        self._logins = logins
        self._devices = devices
        self._hostname = hostname
        self._uid_of = uid_of
        self._clock = clock
        self._charset = charset
        self._screens: Screens | None = None

    def logged_in(self, user: str | None = None, without: Collection[str] = ()) -> list[Terminal]:
        now = self._clock()
        return [
            Terminal(
                user=login.user,
                line=login.line,
                kind=self._logins.kind,
                accepting=device.accepting,
                since=float(login.since),
                idle=max(0.0, now - device.read),
                host=login.host,
            )
            for login, _, device in self._found(user, without)
        ]

    def accepts(self, user: str, without: Collection[str] = ()) -> bool:
        """Whether a message would reach a terminal of `user` now."""
        return any(
            device.accepting and tty.reachable(self._devices, login.line, uid)
            for login, uid, device in self._found(user, without)
        )

    def show(self, user: str, message: Message, without: Collection[str] = ()) -> Deferred[int]:
        """Writes to every accepting terminal of `user` once; fires with how many were reached."""
        lines = [(login.line, uid) for login, uid, device in self._found(user, without) if device.accepting]
        if not lines:
            return succeed(0)
        screens = self._screens
        if screens is None or screens.message is not message:  # a message may be shown to many, one by one
            screens = self._screens = Screens(message, self._hostname, self._clock(), self._charset)
        return succeed(sum(tty.write(self._devices, line, uid, screens.at) for line, uid in lines))

    def _found(self, user: str | None, without: Collection[str]) -> Iterator[tuple[Login, int, tty.Device]]:
        """Each device once, though it may be named twice; a device of somebody else is a stale record."""
        seen: set[int] = set()
        uids: dict[str, int | None] = {}
        for login in self._logins.current():
            if (user is not None and login.user != user) or login.line in without:
                continue
            if login.user not in uids:
                uids[login.user] = self._uid_of(login.user)
            uid = uids[login.user]
            if uid is None or uid < 0:
                continue
            device = tty.look(self._devices, login.line, uid)
            if device is not None and device.number not in seen:
                seen.add(device.number)
                yield login, uid, device
