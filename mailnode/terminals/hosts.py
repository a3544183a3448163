"""The terminals of people who are logged in to this host, as utmp knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from mailnode.interfaces import ITerminals, Message, Terminal
from mailnode.terminals import tty
from mailnode.terminals.screen import screen_text
from mailnode.terminals.utmp import RECORD_SIZE, Login, logins

_RECORDS: Final = 8192  # of a utmp file that are looked at


@implementer(ITerminals)
class HostTerminals:
    """Terminals found in a utmp file and written to as devices. Nothing here ever waits.

    `utmp` is a file name, or "none" where there are to be no host terminals; `devices` the folder
    that its lines lie in; `uid_of` gives the user id of a login name, None if there is no such user;
    `clock` gives seconds since the epoch; `charset` of the terminals is "utf-8" or "ascii".
    """

    _log = Logger()

    def __init__(
        self,
        utmp: str,
        devices: str,
        hostname: str,
        uid_of: Callable[[str], int | None],
        clock: Callable[[], float],
        charset: str = "utf-8",
    ) -> None:
        self._utmp = utmp
        self._devices = devices
        self._hostname = hostname
        self._uid_of = uid_of
        self._clock = clock
        self._charset = charset

    def logged_in(self, user: str | None = None) -> list[Terminal]:
        now = self._clock()
        return [
            Terminal(
                user=login.user,
                line=login.line,
                kind="host",
                accepting=device.accepting,
                since=float(login.since),
                idle=max(0.0, now - device.read),
                host=login.host,
            )
            for login, _, device in self._found(user)
        ]

    def accepts(self, user: str) -> bool:
        return any(
            device.accepting and tty.reachable(self._devices, login.line, uid)
            for login, uid, device in self._found(user)
        )

    def show(self, user: str, message: Message) -> Deferred[int]:
        lines = [(login.line, uid) for login, uid, device in self._found(user) if device.accepting]
        if not lines:
            return succeed(0)
        octets = screen_text(message, self._hostname, self._clock(), self._charset)
        return succeed(sum(tty.write(self._devices, line, uid, octets) for line, uid in lines))

    def _found(self, user: str | None) -> Iterator[tuple[Login, int, tty.Device]]:
        """Each device once, though utmp may name it twice; a device of somebody else is a stale record."""
        seen: set[int] = set()
        uids: dict[str, int | None] = {}
        for login in logins(self._records()):
            if user is not None and login.user != user:
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

    def _records(self) -> bytes:
        if self._utmp == "none":
            return b""
        try:
            with open(self._utmp, "rb", buffering=0) as file:
                return file.read(_RECORDS * RECORD_SIZE)
        except FileNotFoundError:  # nobody has logged in yet
            return b""
        except OSError as error:
            self._log.warn("utmp cannot be read: {reason}", reason=error.strerror)
            return b""
