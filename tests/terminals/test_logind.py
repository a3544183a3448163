"""systemd-logind: what its answers mean, and a bus that goes, comes, lies or does not answer."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher

from mailnode.terminals import logind_bus
from mailnode.terminals.logind import SESSIONS, login_of, paths_of
from mailnode.terminals.logind_bus import LogindLogins
from mailnode.terminals.logins import Login

SESSION = "/org/freedesktop/login1/session/"
Properties = dict[str, tuple[str, Any]]


def session(user: str = "jones", tty: str = "pts/3", **more: tuple[str, Any]) -> Properties:
    return {
        "Name": ("s", user),
        "TTY": ("s", tty),
        "Class": ("s", "user"),
        "State": ("s", "active"),
        "RemoteHost": ("s", "192.0.2.7"),
        "Timestamp": ("t", 1_732_356_000_000_001),
        **more,
    }


# ------------------------------------------------------------------ what it means


def test_a_session_with_a_terminal_is_a_login() -> None:
    assert login_of(session()) == Login("jones", "pts/3", "192.0.2.7", 1_732_356_000)
    assert login_of(session(tty="/dev/tty1")) == Login("jones", "tty1", "192.0.2.7", 1_732_356_000)


@pytest.mark.parametrize(
    "properties",
    [
        session(tty=""),
        session(user=""),
        session(Class=("s", "greeter")),
        session(Class=("s", "lock-screen")),
        session(State=("s", "closing")),
        {},
        None,
        [],
        {"Name": "jones", "TTY": "pts/3", "Class": "user"},
        session(TTY=("u", 3)),
    ],
)
def test_what_is_no_login_of_a_person_on_a_terminal(properties: Any) -> None:
    assert login_of(properties) is None


def test_names_are_printable_and_bounded() -> None:
    login = login_of(session("\x1b[2J", "pts/3\n", RemoteHost=("s", "x" * 9999), Timestamp=("s", "now")))
    assert login == Login("?[2J", "pts/3?", "x" * 256, 0)


def test_the_answer_to_list_sessions_gives_paths_of_sessions_only() -> None:
    rows = [("1", 1000, "jones", "seat0", SESSION + "_31"), ("2", 0, "x", "", "/etc"), "x", (1, 2)]
    assert paths_of(rows) == [SESSION + "_31"]
    assert paths_of(None) == []
    many = [("1", 1000, "jones", "seat0", f"{SESSION}c{number}") for number in range(SESSIONS + 5)]
    assert len(paths_of(many)) == SESSIONS


# ------------------------------------------------------------------ a bus


class Bus:
    """A bus with logind on it, as one client sees it: `sessions` by the last part of their paths."""

    def __init__(self, there: bool = True) -> None:
        self.clock = Clock()
        self.there = there
        self.logind = True
        self.answers = True
        self.calls = 0
        self.sessions: dict[str, Properties] = {}
        self.wire: Wire | None = None
        self.logins = LogindLogins(lambda: self, self.clock)  # type: ignore[arg-type,return-value]

    def connect(self, factory: Any) -> Deferred[Any]:
        self.calls += 1
        if not self.there:
            return fail(ConnectError(2))
        line = factory.buildProtocol(None)
        self.wire = Wire(self, line)
        line.makeConnection(self.wire)
        self.wire.send(b"OK 0123456789abcdef\r\n")
        return succeed(line)

    def signal(self, member: str, name: str) -> None:
        address = DBusAddress("/org/freedesktop/login1", interface="org.freedesktop.login1.Manager")
        self.emit(new_signal(address, member, "so", (name, SESSION + name)))

    def changed(self, name: str) -> None:
        address = DBusAddress(SESSION + name, interface="org.freedesktop.DBus.Properties")
        body = ("org.freedesktop.login1.Session", {}, ["TTY"])
        self.emit(new_signal(address, "PropertiesChanged", "sa{sv}as", body))

    def emit(self, message: Message) -> None:
        assert self.wire is not None
        self.wire.send(message.serialise(serial=next(self.wire.serials)))

    def users(self) -> list[str]:
        return sorted(login.user for login in self.logins.current())


class Wire(StringTransport):
    """The bus's end of a connection."""

    def __init__(self, bus: Bus, line: Any) -> None:
        super().__init__()
        self.bus = bus
        self.line = line
        self.serials = count(1)
        self.parser = Parser()
        self.begun = False
        self.closed = False

    def abortConnection(self) -> None:
        if not self.closed:
            self.closed = True
            self.line.connectionLost()

    def send(self, octets: bytes) -> None:
        for octet in octets:  # as torn as it can be
            if not self.closed:
                self.line.dataReceived(bytes([octet]))
        self.answer()

    def answer(self) -> None:
        while octets := self.value():
            self.clear()
            if not self.begun:
                _, self.begun, octets = octets.partition(b"BEGIN\r\n")  # type: ignore[assignment]
            if self.begun and self.bus.answers:
                for call in self.parser.feed(octets):
                    reply = self.reply(call)
                    self.send(reply.serialise(serial=next(self.serials)))

    def reply(self, call: Message) -> Message:
        member = call.header.fields[HeaderFields.member]
        if member == "Hello":
            return new_method_return(call, "s", (":1.7",))
        if member == "AddMatch":
            return new_method_return(call)
        if not self.bus.logind:
            return new_error(call, "org.freedesktop.DBus.Error.ServiceUnknown", "s", ("gone",))
        if member == "ListSessions":
            rows = [(name, 1000, "x", "seat0", SESSION + name) for name in self.bus.sessions]
            return new_method_return(call, "a(susso)", (rows,))
        found = self.bus.sessions.get(call.header.fields[HeaderFields.path].removeprefix(SESSION))
        if found is None:
            return new_error(call, "org.freedesktop.DBus.Error.UnknownObject", "s", ("gone",))
        return new_method_return(call, "a{sv}", (found,))


@pytest.fixture
def logged() -> Any:
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if "logind" in str(event.get("log_format")):
            lines.append(str(event.get("why", "back")))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_sessions_are_known_from_the_start() -> None:
    bus = Bus()
    bus.sessions = {"c1": session(), "c2": session("brown", ""), "c3": session("green", "tty1")}
    bus.logins.start()
    assert bus.users() == ["green", "jones"] and bus.logins.kind == "logind"
    bus.logins.stop()
    assert bus.clock.getDelayedCalls() == [] and bus.users() == []


def test_sessions_come_change_and_go_with_the_signals() -> None:
    bus = Bus()
    bus.logins.start()
    bus.sessions["c1"] = session(tty="")
    bus.signal("SessionNew", "c1")
    bus.clock.advance(1)
    assert bus.users() == []
    bus.sessions["c1"] = session()  # sshd tells the terminal later
    bus.changed("c1")
    bus.clock.advance(1)
    assert bus.users() == ["jones"]
    del bus.sessions["c1"]
    bus.signal("SessionRemoved", "c1")
    bus.clock.advance(1)
    assert bus.users() == []


def test_a_signal_only_says_where_to_look() -> None:
    bus = Bus()
    bus.sessions["c1"] = session()
    bus.logins.start()
    bus.signal("SessionRemoved", "c1")  # anybody on the bus may have sent that
    bus.clock.advance(1)
    assert bus.users() == ["jones"]


def test_signals_are_gathered() -> None:
    bus = Bus()
    bus.sessions["c1"] = session()
    bus.logins.start()
    bus.answers = False
    for _ in range(500):
        bus.changed("c1")
    bus.clock.advance(1)
    assert bus.wire is not None and len(bus.wire.value()) < 500


def test_everything_is_looked_at_again_though_a_signal_was_missed() -> None:
    bus = Bus()
    bus.sessions["c1"] = session()
    bus.logins.start()
    bus.sessions = {"c2": session("brown")}
    bus.clock.advance(logind_bus.LOOK)
    assert bus.wire is not None
    bus.wire.answer()
    assert bus.users() == ["brown"]


def test_a_bus_that_is_not_there_is_called_again_and_said_once(logged: list[str]) -> None:
    bus = Bus(there=False)
    bus.sessions["c1"] = session()
    bus.logins.start()
    for _ in range(10):
        bus.clock.advance(60)
    assert bus.calls == 11 and logged == ["the system bus: No such file or directory"]
    bus.there = True
    bus.clock.advance(60)
    assert bus.users() == ["jones"] and logged[1:] == ["back"]


def test_the_pause_between_calls_grows() -> None:
    bus = Bus(there=False)
    bus.logins.start()
    bus.clock.pump([0.5] * 120)
    assert bus.calls == 6  # at 0, 1, 3, 7, 15 and 31 seconds


def test_a_bus_that_is_lost_leaves_nobody_logged_in(logged: list[str]) -> None:
    bus = Bus()
    bus.sessions["c1"] = session()
    bus.logins.start()
    assert bus.wire is not None
    bus.wire.abortConnection()
    assert bus.users() == [] and logged == ["the bus has closed the connection"]
    bus.clock.advance(1)
    assert bus.users() == ["jones"]


def test_a_bus_without_logind_is_said_so(logged: list[str]) -> None:
    bus = Bus()
    bus.logind = False
    bus.logins.start()
    assert logged == ["there is no systemd-logind on the bus"]
    bus.logind, bus.sessions = True, {"c1": session()}
    bus.clock.advance(1)
    assert bus.users() == ["jones"]


def test_a_bus_that_does_not_answer_is_left(logged: list[str]) -> None:
    bus = Bus()
    bus.answers = False
    bus.logins.start()
    bus.clock.advance(logind_bus.PATIENCE)
    assert logged == ["no answer in time"]


@pytest.mark.parametrize("octets", [b"\0" * 64, b"l" + b"\xff" * 64, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_cannot_be_read_ends_the_connection(octets: bytes, logged: list[str]) -> None:
    bus = Bus()
    bus.sessions["c1"] = session()
    bus.logins.start()
    assert bus.wire is not None
    bus.wire.line.dataReceived(octets)
    bus.clock.pump([10] * 20)  # if it only waits for more, the next look finds that out
    assert bus.calls >= 2
    assert bus.users() == ["jones"]


def test_a_stop_while_it_connects_leaves_nothing_behind() -> None:
    bus = Bus()
    connecting: Deferred[Any] = Deferred()
    bus.connect = lambda factory: connecting  # type: ignore[method-assign]
    bus.logins.start()
    bus.logins.stop()
    assert connecting.called and bus.clock.getDelayedCalls() == []
