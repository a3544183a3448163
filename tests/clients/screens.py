"""Terminals that people could sit in front of: bare ones, tmux, and programs on a terminal of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import struct
import subprocess
import tempfile
import termios
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyte

from tests.clients.waiting import wait_until

UTMP_RECORD: Final = struct.Struct("hi32s4s32s256shhiii4i20x")  # utmp(5)
USER_PROCESS: Final = 7


class TerminalOfMine:
    """A real terminal of the user who runs the tests, and the utmp file that says so."""

    def __init__(self, folder: Path) -> None:
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.utmp = folder / "utmp"
        self._master, slave = os.openpty()
        tty.setraw(slave)  # what is written comes out as it is
        os.set_blocking(self._master, False)
        self._slave: int | None = slave
        self.device = os.ttyname(slave)
        self._shown = b""
        self.accept(True)
        self.utmp.write_bytes(b"")

    def accept(self, yes: bool) -> None:
        """What `mesg y` and `mesg n` do."""
        os.chmod(self.device, 0o620 if yes else 0o600)

    def log_in(self) -> None:
        line = self.device.removeprefix("/dev/").encode()
        record = UTMP_RECORD.pack(
            *[USER_PROCESS, os.getpid(), line, line[-4:], self.user.encode(), b"", 0, 0, 0],
            *[int(time.time()), 0, 0, 0, 0, 0],
        )
        self.utmp.write_bytes(record)

    def log_out(self) -> None:
        self.utmp.write_bytes(b"")

    def shown(self) -> str:
        """All that has appeared on the screen so far."""
        try:
            while piece := os.read(self._master, 65536):
                self._shown += piece
        except BlockingIOError:
            pass  # that was all
        return self._shown.decode("utf-8", "replace")

    def wait_for(self, words: str) -> str:
        wait_until(lambda: words in self.shown(), f"{words!r} on the terminal; it shows {self.shown()!r}")
        return self.shown()

    def hang_up(self) -> None:
        """The window is closed: the device goes while utmp still names it."""
        if self._slave is not None:
            os.close(self._slave)
            os.close(self._master)
            self._slave = None


class Utmp:
    """A utmp file of the test's own: `log_in` says who is there now, whoever was there before is gone."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.log_in()

    def log_in(self, *devices: str, **others: str) -> None:
        """The user who runs the tests is logged in on `devices`, others on one each, and nobody else."""
        logins = [(self.user, device) for device in devices] + list(others.items())
        lines = [(user.encode(), device.removeprefix("/dev/").encode()) for user, device in logins]
        records = [
            UTMP_RECORD.pack(
                *[USER_PROCESS, os.getpid(), line, line[-4:], user, b"", 0, 0, 0],
                *[int(time.time()), 0, 0, 0, 0, 0],
            )
            for user, line in lines
        ]
        self.file.write_bytes(b"".join(records))


class Pane:
    """A terminal in tmux, an emulator that people sit in front of. `command` runs in it."""

    COLUMNS: Final = 80
    ROWS: Final = 60

    # What escape sequences change: modes, margins, tabulators, title, path.
    STATE: Final = (
        *("alternate_on", "cursor_flag", "insert_flag", "keypad_flag", "keypad_cursor_flag", "wrap_flag"),
        *("mouse_any_flag", "mouse_sgr_flag", "mouse_utf8_flag", "origin_flag", "pane_tabs", "pane_in_mode"),
        *("scroll_region_upper", "scroll_region_lower", "pane_title", "pane_path", "window_name"),
        *("pane_width", "pane_height", "pane_dead", "window_panes", "session_windows", "buffer_name"),
    )

    def __init__(self, tmux: str, command: str, **environment: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="tmux")  # short: the socket's name must fit into 108 octets
        self._tmux = [tmux, "-u", "-S", f"{self._folder}/socket", "-f", "/dev/null"]
        self._environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **environment}
        # Everything that a message might abuse is switched on; the server stays when the program ends.
        options = (
            "exit-empty off",
            "automatic-rename off",
            "set-clipboard on",
            "allow-rename on",
            "allow-passthrough on",
        )
        (Path(self._folder) / "conf").write_text("".join(f"set -g {option}\n" for option in options))
        self._tmux[-1] = f"{self._folder}/conf"
        size = ("-x", str(self.COLUMNS), "-y", str(self.ROWS))
        self.tell("new-session", "-d", *size, command)
        self.device = self.tell("display-message", "-p", "#{pane_tty}").strip()

    def tell(self, *arguments: str) -> str:
        """A command to tmux; gives what it prints."""
        done = subprocess.run(
            [*self._tmux, *arguments],
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=True,
            env=self._environment,
        )
        return done.stdout

    def type(self, keys: str) -> None:
        """What a person types, and the return key."""
        self.tell("send-keys", "-l", keys)
        self.tell("send-keys", "Enter")

    def shown(self) -> str:
        """What is on the screen now."""
        return self.tell("capture-pane", "-p")

    def state(self) -> dict[str, str]:
        words = self.tell("display-message", "-p", "\n".join(f"#{{{name}}}" for name in self.STATE))
        return dict(zip(self.STATE, words.split("\n"), strict=False))

    def wait_for(self, words: str) -> str:
        wait_until(lambda: words in self.shown(), f"{words!r} in tmux")
        return self.shown()

    def wait_until(self, true: Callable[[], object], what: str) -> None:
        wait_until(true, what)

    def close(self) -> None:
        self.tell("kill-server")
        shutil.rmtree(self._folder)


class Session:
    """A program on a pseudo-terminal of its own, with an emulator behind it."""

    def __init__(self, words: list[str], environment: dict[str, str], columns: int = 80) -> None:
        self._master, slave = os.openpty()
        self.device = os.ttyname(slave)
        os.chmod(self.device, 0o620)
        self._stream = pyte.ByteStream(screen := pyte.HistoryScreen(columns, 24, history=1000))
        self._screen = screen
        self.octets = b""
        self.resize(columns)
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "LANG": "C.UTF-8", "TERM": "linux", **environment},
            preexec_fn=lambda: os.login_tty(slave),  # a session of its own, whose terminal this is
        )
        os.close(slave)
        os.set_blocking(self._master, False)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        self._screen.resize(24, columns)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def shown(self) -> str:
        """The lines of the screen, with what has scrolled away."""
        with contextlib.suppress(BlockingIOError, OSError):  # EIO: the program has ended
            while piece := os.read(self._master, 65536):
                self.octets += piece
                self._stream.feed(piece)
        above = ["".join(row[x].data for x in sorted(row)) for row in self._screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self._screen.display]).rstrip()

    def wait_for(self, words: str, count: int = 1) -> str:
        deadline = time.monotonic() + 15
        while self.shown().count(words) < count:
            assert time.monotonic() < deadline, f"waited for {words!r} in vain; the screen:\n{self.shown()}"
            time.sleep(0.01)
        return self.shown()

    def wait(self, seconds: float = 15.0) -> int:
        """The exit status; what the program wrote as it ended is on the screen."""
        wait_until(lambda: (self.shown(), self.process.poll())[1] is not None, "the end of it", seconds)
        return self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
