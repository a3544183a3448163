"""Follows the sessions of systemd-logind on the system bus, without ever waiting for it. Needs jeepney.

The library turns octets into messages and back; the connection is Twisted's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Final

from jeepney import Parser
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailnode.terminals.logind import SESSIONS, login_of, paths_of
from mailnode.terminals.logind_calls import RULES, Heard, heard, hello, list_sessions, session, watch
from mailnode.terminals.logins import Login

AGAIN: Final = (1.0, 60.0)  # seconds until the bus is called again: at first, at most
LOOK: Final = 60.0  # seconds between two looks at everything
SOON: Final = 0.05  # seconds in which signals are gathered
PATIENCE: Final = 10.0  # seconds for an answer
MESSAGE: Final = 4 << 20  # octets under way; thousands of sessions are less

Answered = Callable[[Heard], None]


class LogindLogins:
    """The sessions as of the last signal. `bus` gives the endpoint of the system bus."""

    kind = "logind"
    _log = Logger("mailnode.terminals")

    def __init__(self, bus: Callable[[], IStreamClientEndpoint], clock: IReactorTime) -> None:
        self._bus = bus
        self._clock = clock
        self._sessions: dict[str, Login] = {}
        self._line: LogindLine | None = None
        self._connecting: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._pause = AGAIN[0]
        self._said = ""  # why it cannot be asked, as the log has it
        self._running = False

    def current(self) -> list[Login]:
        return list(self._sessions.values())

    def start(self) -> None:
        """Begins to follow; calls again whenever the bus is lost."""
        self._running = True
        self._call()

    def stop(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._line is not None:
            self._line.close()

    # ------------------------------------------------------------- the connection

    def _call(self) -> None:
        self._timer = None
        try:
            bus = self._bus()
        except (ValueError, RuntimeError):
            self._lost("$DBUS_SYSTEM_BUS_ADDRESS is not an address of a bus")
            return
        self._line = LogindLine(self._clock, self._listed, self._changed, self._lost)
        self._connecting = bus.connect(_Once(self._line))
        self._connecting.addErrback(self._unreachable)

    def _unreachable(self, failure: Failure) -> None:
        number = getattr(failure.value, "osError", None)
        why = os.strerror(number) if isinstance(number, int) else failure.getErrorMessage().rstrip(".")
        self._lost(f"the system bus: {why}")

    def _lost(self, why: str) -> None:
        """Without logind nobody is known to be there; what was known may not be true any more."""
        self._line = None
        self._sessions.clear()
        if not self._running:
            return
        if why != self._said:
            self._log.warn("systemd-logind cannot be asked who is logged in: {why}", why=why)
            self._said = why
        self._timer = self._clock.callLater(self._pause, self._call)
        self._pause = min(2 * self._pause, AGAIN[1])

    # ------------------------------------------------------------- what it says

    def _listed(self, paths: list[str]) -> None:
        for path in self._sessions.keys() - set(paths):
            del self._sessions[path]
        if self._said:
            self._log.info("systemd-logind says again who is logged in")
        self._said, self._pause = "", AGAIN[0]

    def _changed(self, path: str, login: Login | None) -> None:
        if login is None:
            self._sessions.pop(path, None)
        elif len(self._sessions) < SESSIONS or path in self._sessions:
            self._sessions[path] = login


class _Once(Factory):
    """Gives away the one protocol that there is."""

    noisy = False

    def __init__(self, line: LogindLine) -> None:
        self._line = line

    def buildProtocol(self, addr: object) -> LogindLine:
        return self._line


class LogindLine(Protocol):
    """One connection to the bus: tells `listed` all sessions, `changed` each as it is, `lost` the end."""

    def __init__(
        self,
        clock: IReactorTime,
        listed: Callable[[list[str]], None],
        changed: Callable[[str, Login | None], None],
        lost: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._listed = listed
        self._changed = changed
        self._lost = lost
        self._login = Authenticator()
        self._parser = Parser()
        self._serials = count(1)
        self._calls: dict[int, tuple[float, Answered]] = {}  # (when, who waits) by serial
        self._look_at: set[str] = set()
        self._soon: IDelayedCall | None = None
        self._next_look: IDelayedCall | None = None
        self._why = ""

    def close(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    # ------------------------------------------------------------- octets

    def connectionMade(self) -> None:
        self._write(self._login.data_to_send() or b"")
        self._next_look = self._clock.callLater(PATIENCE, self._give_up)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for timer in (self._soon, self._next_look):
            if timer is not None and timer.active():
                timer.cancel()
        self._lost(self._why or "the bus has closed the connection")

    def dataReceived(self, data: bytes) -> None:
        try:
            if self._login.authenticated:
                self._parse(data)
                return
            self._login.feed(data)
        except AuthenticationError:
            self._fail("the bus does not know us")
            return
        if self._login.authenticated:
            self._write(BEGIN)
            self._ask(hello(), self._greeted)

    def _parse(self, data: bytes) -> None:
        self._parser.add_data(data)
        while True:
            try:
                message = self._parser.get_next_message()
            except (ValueError, LookupError, TypeError):  # all that its decoding of wrong octets raises
                self._fail("the bus said what cannot be read")
                return
            if message is None:
                break
            self._hear(heard(message))
        if self._parser.buf.bytes_buffered > MESSAGE:
            self._fail("the bus said too much at once")

    def _write(self, octets: bytes) -> None:
        self.transport.write(octets)  # type: ignore[union-attr]

    def _fail(self, why: str) -> None:
        self._why = self._why or why
        self.close()

    def _give_up(self) -> None:
        self._fail("no answer in time")

    # ------------------------------------------------------------- calls

    def _ask(self, call: Any, answered: Answered) -> None:
        serial = next(self._serials)
        self._calls[serial] = self._clock.seconds(), answered
        self._write(call.serialise(serial=serial))

    def _hear(self, said: Heard) -> None:
        if said.serial in self._calls:
            self._calls.pop(said.serial)[1](said)
        elif said.path and len(self._look_at) < SESSIONS:
            self._look_at.add(said.path)
            if self._soon is None or not self._soon.active():
                self._soon = self._clock.callLater(SOON, self._look_again)

    def _greeted(self, answer: Heard) -> None:
        if answer.failed:
            self._fail("the bus does not know us")
            return
        for rule in RULES:
            self._ask(watch(rule), self._watching)
        self._look()

    def _watching(self, answer: Heard) -> None:
        if answer.failed:
            self._fail("the bus does not let us listen")

    # ------------------------------------------------------------- sessions

    def _look(self) -> None:
        """Looks at everything, and again after a while: a signal may be missing."""
        oldest = min((when for when, _ in self._calls.values()), default=self._clock.seconds())
        if self._clock.seconds() - oldest > PATIENCE:
            self._give_up()
            return
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()
        self._next_look = self._clock.callLater(LOOK, self._look)
        self._ask(list_sessions(), self._told_all)

    def _told_all(self, answer: Heard) -> None:
        if answer.failed or not answer.body:
            self._fail("there is no systemd-logind on the bus")
            return
        paths = paths_of(answer.body[0])
        self._listed(paths)
        for path in paths:
            self._ask(session(path), partial(self._told, path))

    def _look_again(self) -> None:
        paths, self._look_at = self._look_at, set()
        for path in paths:
            self._ask(session(path), partial(self._told, path))

    def _told(self, path: str, answer: Heard) -> None:
        gone = answer.failed or not answer.body
        self._changed(path, None if gone else login_of(answer.body[0]))
