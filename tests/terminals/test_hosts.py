"""Host terminals, on real pseudo-terminals and a utmp file of the test's own."""

from __future__ import annotations

import os
import struct
import termios
import time
import tty as modes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path as File

import pytest
from twisted.internet.defer import Deferred

from mailnode.interfaces import ITerminals, Message, Terminal
from mailnode.mail import Path
from mailnode.terminals import tty
from mailnode.terminals.hosts import HostTerminals
from mailnode.terminals.logins import NoLogins
from mailnode.terminals.memory import MemoryTerminals
from mailnode.terminals.screen import screen_text
from mailnode.terminals.utmp_file import UtmpFile

MESSAGE = Message(Path("smith", "usc.example"), b"Blah blah blah...\r\n")
NOW = 1_800_000_000.0
ME = os.getuid()


class Pty:
    """A pseudo-terminal on which somebody is logged in: `master` is the screen."""

    def __init__(self, mode: int = 0o620) -> None:
        self.master, self._slave = os.openpty()
        modes.setraw(self._slave)  # else the line discipline writes CR CR LF
        os.set_blocking(self.master, False)
        self.device = os.ttyname(self._slave)
        self.line = self.device.removeprefix("/dev/")
        os.chmod(self.device, mode)

    def screen(self) -> bytes:
        try:
            return os.read(self.master, 65536)
        except BlockingIOError:
            return b""

    def fill(self) -> None:
        """As after ^S: nobody reads, until the terminal takes no more."""
        os.set_blocking(self._slave, False)
        deadline = time.monotonic() + 0.1  # the kernel moves what was written on, and has room again
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                os.write(self._slave, b"x" * 1024)

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        for fd in (self.master, self._slave):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pty() -> Iterator[Pty]:
    terminal = Pty()
    yield terminal
    terminal.close()


@pytest.fixture
def other() -> Iterator[Pty]:
    terminal = Pty()
    yield terminal
    terminal.close()


def record(line: str, user: str = "jones", kind: int = 7) -> bytes:
    return struct.pack(
        *("hi32s4s32s256shhiii4i20x", kind, 99, line.encode(), b"id", user.encode(), b"host"),
        *(0, 0, 0, 1000, 0, 0, 0, 0, 0),
    )


def uid_of(user: str) -> int | None:
    return {"jones": ME, "brown": ME + 1, "named": -1}.get(user)


def terminals(folder: File, *records: bytes, devices: str = "/dev") -> HostTerminals:
    utmp = folder / "utmp"
    utmp.write_bytes(b"".join(records))
    return HostTerminals(UtmpFile(str(utmp)), devices, "mit.example", uid_of, lambda: NOW)


def reached(result: Deferred[int]) -> int:
    count = result.result
    assert isinstance(count, int)
    return count


def test_the_door_is_provided() -> None:
    assert ITerminals.providedBy(MemoryTerminals())


def test_a_message_appears_octet_for_octet(tmp_path: File, pty: Pty) -> None:
    assert reached(terminals(tmp_path, record(pty.line)).show("jones", MESSAGE)) == 1
    assert pty.screen() == screen_text(MESSAGE, "mit.example", NOW)


def test_every_accepting_terminal_of_the_user_is_written_to_once(
    tmp_path: File, pty: Pty, other: Pty
) -> None:
    found = terminals(tmp_path, record(pty.line), record(other.line), record(pty.line), record("pts/999999"))
    assert reached(found.show("jones", MESSAGE)) == 2
    assert pty.screen().count(b"EOF") == other.screen().count(b"EOF") == 1


def test_each_terminal_gets_lines_of_its_own_width(tmp_path: File, pty: Pty, other: Pty) -> None:
    message = Message(Path("smith", "usc.example"), b"x" * 100)
    found = terminals(tmp_path, record(pty.line), record(other.line))
    for narrow, wide in ((40, 200), (60, 100)):  # as wide as it is now: windows change
        termios.tcsetwinsize(pty.master, (24, narrow))
        termios.tcsetwinsize(other.master, (24, wide))
        assert reached(found.show("jones", message)) == 2
        assert pty.screen() == screen_text(message, "mit.example", NOW, width=narrow)
        assert other.screen() == screen_text(message, "mit.example", NOW, width=wide)


def test_one_message_is_shown_to_many_and_the_next_is_another(tmp_path: File, pty: Pty) -> None:
    found = terminals(tmp_path, record(pty.line))
    for text in (b"one", b"two", b"one"):
        message = Message(Path("smith", "usc.example"), text)
        for _ in range(2):
            assert reached(found.show("jones", message)) == 1
            assert pty.screen() == screen_text(message, "mit.example", NOW)


def test_who_is_logged_in_since_when_and_idle_how_long(tmp_path: File, pty: Pty) -> None:
    os.utime(pty.device, (NOW - 90, NOW))
    found = terminals(tmp_path, record(pty.line))
    assert found.logged_in() == [Terminal("jones", pty.line, "utmp", True, 1000.0, 90.0, "host")]
    assert found.logged_in("brown") == []
    assert found.accepts("jones") and not found.accepts("brown")


def test_mesg_n_is_logged_in_but_not_reached(tmp_path: File, pty: Pty) -> None:
    os.chmod(pty.device, 0o600)
    found = terminals(tmp_path, record(pty.line))
    assert [terminal.accepting for terminal in found.logged_in("jones")] == [False]
    assert not found.accepts("jones")
    assert reached(found.show("jones", MESSAGE)) == 0
    assert not tty.write("/dev", pty.line, ME, lambda _: b"x")  # looked at again when it is opened
    assert pty.screen() == b""


def test_a_stopped_terminal_is_not_reached_and_nobody_waits(tmp_path: File, pty: Pty, other: Pty) -> None:
    pty.fill()
    found = terminals(tmp_path, record(pty.line), record(other.line))
    started = time.perf_counter()
    assert reached(found.show("jones", MESSAGE)) == 1
    assert time.perf_counter() - started < 0.1
    assert other.screen().endswith(b"EOF\r\n")


def test_a_hung_up_line_is_not_a_terminal(tmp_path: File, pty: Pty) -> None:
    found = terminals(tmp_path, record(pty.line))
    pty.hang_up()
    assert not found.accepts("jones")
    assert reached(found.show("jones", MESSAGE)) == 0


def test_the_device_of_another_user_is_a_stale_record(tmp_path: File, pty: Pty) -> None:
    found = terminals(tmp_path, record(pty.line, "brown"))
    assert found.logged_in() == [] and not found.accepts("brown")
    assert reached(found.show("brown", MESSAGE)) == 0
    assert not tty.write("/dev", pty.line, ME + 1, lambda _: b"x")
    assert pty.screen() == b""


@pytest.mark.parametrize("user", ["nobody-here", "named"])
def test_a_user_without_login_has_no_terminal(tmp_path: File, pty: Pty, user: str) -> None:
    assert terminals(tmp_path, record(pty.line, user)).logged_in() == []


def test_a_symlink_is_not_followed(tmp_path: File, pty: Pty) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / "tty1").symlink_to(pty.device)
    (devices / "pts").symlink_to("/dev/pts")
    found = terminals(tmp_path, record("tty1"), record(pty.line), devices=str(devices))
    assert found.logged_in() == []
    assert not tty.write(str(devices), "tty1", ME, lambda _: b"x")
    assert not tty.write(str(devices), pty.line, ME, lambda _: b"x")
    assert pty.screen() == b""


def test_only_a_character_device_is_a_terminal(tmp_path: File) -> None:
    (tmp_path / "tty1").touch(0o620)
    os.mkfifo(tmp_path / "tty2", 0o620)
    found = terminals(tmp_path, record("tty1"), record("tty2"), devices=str(tmp_path))
    assert found.logged_in() == [] and not found.accepts("jones")
    assert (tmp_path / "tty1").read_bytes() == b""


@pytest.mark.parametrize(
    "line", ["{0}", "../{0}", "pts/../{1}", "/dev/{1}", ":0", "", "pts/", "pts/..", "ptmx", "{1}\n"]
)
def test_a_line_that_leads_elsewhere_is_refused(tmp_path: File, pty: Pty, line: str) -> None:
    line = line.format(pty.device, pty.line)
    assert tty.look("/dev", line, ME) is None
    assert not tty.reachable("/dev", line, ME)
    assert not tty.write("/dev", line, ME, lambda _: b"x")
    assert terminals(tmp_path, record(line)).logged_in() == [] or line.endswith("\n")
    assert pty.screen() == b""


def test_no_utmp_file_means_nobody(tmp_path: File) -> None:
    for logins in (UtmpFile(str(tmp_path / "missing")), UtmpFile(str(tmp_path)), NoLogins()):
        found = HostTerminals(logins, "/dev", "mit.example", uid_of, lambda: NOW)
        assert found.logged_in() == [] and not found.accepts("jones")
        assert reached(found.show("jones", MESSAGE)) == 0


def test_a_line_that_somebody_else_looks_after_is_left_out(tmp_path: File, pty: Pty, other: Pty) -> None:
    found = terminals(tmp_path, record(pty.line), record(other.line))
    assert [one.line for one in found.logged_in(None, {pty.line})] == [other.line]
    assert reached(found.show("jones", MESSAGE, {pty.line})) == 1 and pty.screen() == b""
    assert not found.accepts("jones", {pty.line, other.line})


def test_no_descriptor_is_left_open(tmp_path: File, pty: Pty) -> None:
    found = terminals(tmp_path, record(pty.line), record("../x"), record("tty1"))
    before = len(os.listdir("/proc/self/fd"))
    found.show("jones", MESSAGE)
    found.accepts("jones")
    assert len(os.listdir("/proc/self/fd")) == before


# --------------------------------------------------------------------- in memory


def test_memory_terminals_keep_what_was_shown() -> None:
    found = MemoryTerminals(lambda: NOW)
    found.log_in("jones", "pts/1")
    found.log_in("jones", "pts/2", accepting=False)
    found.log_in("brown", "pts/3")
    assert reached(found.show("jones", MESSAGE)) == 1
    assert [(user, line) for user, line, _ in found.shown] == [("jones", "pts/1")]
    found.stop("pts/1")
    assert found.accepts("jones") and reached(found.show("jones", MESSAGE)) == 0
    found.log_out("pts/1")
    assert not found.accepts("jones") and len(found.logged_in()) == 2
