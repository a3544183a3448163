"""Builds the terminals of a node from its configuration, and opens and closes what they need.

What is attached lasts as long as the process; what follows from the configuration is built anew on SIGHUP.
"""

from __future__ import annotations

import errno
import os
import pwd
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from mailnode.config import Configuration
from mailnode.terminals import tty
from mailnode.terminals.attached import AnswerUser, AttachedTerminals
from mailnode.terminals.hosts import HostTerminals
from mailnode.terminals.logins import Logins, NoLogins
from mailnode.terminals.rates import Rates
from mailnode.terminals.say import Say
from mailnode.terminals.say_file import Login, SayFiles
from mailnode.terminals.terminals import Terminals
from mailnode.terminals.utmp_file import UtmpFile
from mailnode.unix_sockets import remove_stale

UTMP: Final = "/run/utmp"
BACKLOG: Final = 1000  # connections that wait to be accepted; after a restart everybody comes at once
NO_LIBRARY: Final = (
    "this host has no utmp, and systemd-logind is asked by the package jeepney: "
    'pip install "mailnode[logind]", or set [terminals] utmp'
)


class TerminalRoom:
    """The terminals of a process. `receive`: it is the one that takes messages, so people attach to it.
    `became` answers users what became of messages of theirs, if this process knows."""

    _log = Logger("mailnode.terminals")

    def __init__(self, reactor: Any, *, receive: bool, became: AnswerUser | None = None) -> None:
        self._reactor = reactor
        self._became = became
        self._receive = receive
        self._rates = Rates(time.monotonic)
        self._attached: AttachedTerminals | None = None
        self._socket = ""
        self._port: IListeningPort | None = None
        self._logind: Any = None  # a LogindLogins, where the library is there
        self._open = False

    def furnish(self, configuration: Configuration, is_user: Callable[[str], bool]) -> Terminals:
        """The terminals that a configuration means; `is_user` knows the names of this node's users."""
        section = configuration.terminals

        def user_of(uid: int) -> str | None:
            login = _name_of(uid)
            return login if login is not None and is_user(login) else None

        def is_ours(line: str, device: tuple[int, int]) -> bool:
            return tty.is_device(section.devices, line, device)

        if self._attached is not None:
            self._attached.use(user_of, is_ours, section.charset)
        elif section.attached and self._receive:
            self._socket = str(section.socket)
            more: dict[str, Any] = {"charset": section.charset, "became": self._became}
            self._attached = AttachedTerminals(
                configuration.host, user_of, is_ours, self._reactor, time.time, **more
            )
        hosts = _host_terminals(configuration, self._logins(configuration))
        say = say_files(configuration, time.monotonic)
        return Terminals(hosts, self._attached, say.of, self._rates)

    def _logins(self, configuration: Configuration) -> Logins:
        kind = logins_kind(configuration)
        if kind == "logind" and self._logind is None:
            if not has_logind():
                self._log.warn(NO_LIBRARY)
                return NoLogins()
            from jeepney.bus import find_system_bus

            from mailnode.terminals.logind_bus import LogindLogins

            def bus() -> UNIXClientEndpoint:
                return UNIXClientEndpoint(self._reactor, find_system_bus(), timeout=10)

            self._logind = LogindLogins(bus, self._reactor)
            if self._open:
                self._logind.start()
        elif kind != "logind" and self._logind is not None:
            self._logind.stop()
            self._logind = None
        return self._logind if kind == "logind" else _file_or_none(kind)

    # ------------------------------------------------------------- life

    def open(self) -> None:
        """Begins to listen for terminals and to follow logind. OSError if the socket cannot be had."""
        self._open = True
        if self._logind is not None:
            self._logind.start()
        if self._attached is None:
            return
        remove_stale(self._socket)
        try:
            # Anybody on this host may connect, if the folder lets them in: who it is the system says.
            self._port = self._reactor.listenUNIX(
                self._socket, self._attached.factory, backlog=BACKLOG, mode=0o666
            )
        except CannotListenError as error:
            reason = error.socketError
            number = getattr(reason, "errno", None) or errno.EINVAL
            raise OSError(number, getattr(reason, "strerror", None) or str(reason)) from None

    def close(self) -> None:
        """Lets everybody go."""
        self._open = False
        if self._logind is not None:
            self._logind.stop()
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        if self._attached is not None:
            self._attached.close()


# ------------------------------------------------------------- parts, also for the command line


def logins_kind(configuration: Configuration) -> str:
    """Where it stands who is logged in to this host: the name of a utmp file, "logind" or "none"."""
    utmp = configuration.terminals.utmp
    if utmp:
        return utmp
    return UTMP if os.path.exists(UTMP) else "logind"


def has_logind() -> bool:
    """Whether the library by which systemd-logind is asked is installed."""
    return find_spec("jeepney") is not None


def say_files(configuration: Configuration, clock: Callable[[], float]) -> SayFiles:
    """What people say; `clock` gives seconds that never go back."""
    section = configuration.terminals
    return SayFiles(Say(section.welcome, section.rate, section.rate_all), _login_of, clock)


def build_terminals(configuration: Configuration) -> HostTerminals:
    """The terminals of this host, for a command that can wait: logind is asked when they are looked at."""
    kind = logins_kind(configuration)
    if kind != "logind":
        return _host_terminals(configuration, _file_or_none(kind))
    if not has_logind():
        return _host_terminals(configuration, NoLogins())
    from mailnode.terminals.logind_now import LogindNow

    return _host_terminals(configuration, LogindNow())


def _file_or_none(kind: str) -> Logins:
    return NoLogins() if kind == "none" else UtmpFile(kind)


def _host_terminals(configuration: Configuration, logins: Logins) -> HostTerminals:
    section = configuration.terminals
    return HostTerminals(logins, section.devices, configuration.host, _uid_of, time.time, section.charset)


def _uid_of(user: str) -> int | None:
    login = _login_of(user)
    return None if login is None else login.uid


def _login_of(user: str) -> Login | None:
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        return None
    return Login(entry.pw_uid, entry.pw_dir)


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, ValueError, OverflowError):
        return None
