"""Real nodes as real processes, for tests against programs that nobody here wrote."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import pyte
import pytest


def wait_until(true: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Looks again and again until `true`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


class RunningNode:
    """A node under twistd in a folder of its own. `config` is TOML; folder and listener come from here."""

    def __init__(self, folder: Path, config: str, plugin: str = "mailnode") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.plugin = plugin
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "mailnode.toml"
        text = config
        if "data =" not in text:
            text = f'data = "{self.data}"\n' + text
        if "[[listen]]" not in text:
            text += '\n[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
        self.file.write_text(text)
        self.log = folder / f"{plugin}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.launcher: list[object] = []  # a program that starts the node, with its arguments
        self.options: list[object] = []  # of twistd
        self.python = sys.executable
        self.environment: dict[str, str] = {}  # besides that of the tests

    # ------------------------------------------------------------- life

    def start(self) -> RunningNode:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *map(str, self.launcher),
                    *[self.python, "-c", "from twisted.scripts.twistd import run; run()"],
                    *["-n", f"--pidfile={self.folder}/{self.plugin}.pid", *map(str, self.options)],
                    *[self.plugin, "--config", str(self.file)],
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={**os.environ, **self.environment},
            )
        before = self.text().count("mailnode ready")
        wait_until(lambda: self.text().count("mailnode ready") > before or self._dead(), "mailnode ready")
        assert self.process.poll() is None, self.text()
        if self.plugin != "mailnode-sender":
            self.port = int(self.status()["listening"][0]["where"].rsplit(":", 1)[1])
        return self

    def _dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Ends the process and gives its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    # ------------------------------------------------------------- looking at it

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ask(self, **request: Any) -> list[dict[str, Any]]:
        """Everything that the control socket says to a request; the last one is the answer."""
        name = "receiver.sock" if self.plugin == "mailnode-receiver" else "control.sock"
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(30)
            channel.connect(str(self.data / name))
            stream = channel.makefile("rwb")
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            answers: list[dict[str, Any]] = []
            while not answers or "said" in answers[-1]:
                answers.append(json.loads(stream.readline()))
            return answers

    def status(self) -> dict[str, Any]:
        return self.ask(do="status")[-1]

    def mailbox(self, user: str) -> list[str]:
        """The messages in the mailbox of `user`, oldest first."""
        files: list[Path] = []
        for part in ("new", "cur"):
            folder = self.data / "mail" / user / part
            files += folder.iterdir() if folder.is_dir() else []
        return [
            file.read_text(errors="surrogateescape") for file in sorted(files, key=lambda file: file.name)
        ]

    def wait_for_mail(self, user: str, count: int = 1, seconds: float = 15.0) -> list[str]:
        wait_until(lambda: len(self.mailbox(user)) >= count, f"{count} messages for {user}", seconds)
        return self.mailbox(user)

    def wait_for_log(self, words: str, seconds: float = 15.0, after: int = 0) -> None:
        """Waits for `words` in the log behind its first `after` characters."""
        wait_until(lambda: words in self.text()[after:], f"{words!r} in the log", seconds)

    def wait_until(self, true: Callable[[], object], what: str, seconds: float = 15.0) -> None:
        wait_until(true, what, seconds)

    def octets(self, user: str) -> list[bytes]:
        """The messages in the mailbox of `user` as they are on disk, oldest first."""
        return [message.encode("utf-8", "surrogateescape") for message in self.mailbox(user)]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the spool's database answers, read while the node runs."""
        file = f"file:{self.data}/spool.sqlite?mode=ro"
        with closing(sqlite3.connect(file, uri=True, timeout=10)) as database:
            return database.execute(query).fetchall()

    def left_in_spool(self) -> list[str]:
        """Everything that the spool still has: rows, drafts, bodies."""
        left = [f"message {id}" for (id,) in self.rows("SELECT id FROM message")]
        left += [f"recipient {local}" for (local,) in self.rows("SELECT local FROM recipient")]
        return left + [str(file) for part in ("drafts", "bodies") for file in (self.data / part).iterdir()]

    def wait_for_empty_spool(self, seconds: float = 15.0) -> None:
        wait_until(lambda: not self.left_in_spool(), "an empty spool", seconds)

    def resident(self) -> int:
        """The resident set, octets."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def peak(self) -> int:
        """The largest resident set there ever was, octets."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def talk(self, port: int = 0, first: bytes = b"") -> Talk:
        """A dialogue with the first listener, or that on `port`; `first` is said before the greeting."""
        return Talk(port or self.port, first)


class Talk:
    """A dialogue by hand: `say` a command, get the reply's lines."""

    def __init__(self, port: int, first: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.stream = self.socket.makefile("rwb")
        self.raw(first)
        self.greeting = self.reply()

    def raw(self, octets: bytes) -> None:
        self.stream.write(octets)
        self.stream.flush()

    def reply(self) -> list[str]:
        """The lines of the next reply; empty when the connection was closed."""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            line = self.stream.readline()
            if not line:
                return lines
            lines.append(line.decode("latin-1").rstrip("\r\n"))
        return lines

    def say(self, command: str) -> list[str]:
        self.raw(command.encode("latin-1") + b"\r\n")
        return self.reply()

    def codes(self, *commands: str) -> list[int]:
        return [int(self.say(command)[0][:3]) for command in commands]

    def starttls(self, context: ssl.SSLContext, name: str = "") -> None:
        """Goes on under TLS; what the node's certificate is for is checked if `context` says so."""
        assert self.say("STARTTLS")[0][:3] == "220"
        self.stream.close()
        self.socket = context.wrap_socket(self.socket, server_hostname=name or None)
        self.stream = self.socket.makefile("rwb")

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def _nodes_in(folder: Path) -> Iterator[Callable[..., RunningNode]]:
    nodes: list[RunningNode] = []

    def make(config: str, name: str = "node", plugin: str = "mailnode") -> RunningNode:
        node = RunningNode(folder / name, config, plugin)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.kill()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Builds nodes (not started yet) and ends them after the test."""
    yield from _nodes_in(tmp_path)


@pytest.fixture(scope="module")
def make_shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningNode]]:
    """As `make_node`, for nodes that all tests of a file share."""
    yield from _nodes_in(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """The path of a program from Debian's packages; without it the test is skipped, or, where every
    program must be there (MAILNODE_NO_SKIPS=1), fails."""

    def find(program: str) -> str:
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin:/sbin")
        if path is None:
            message = f"{program} is not installed"
            if os.environ.get("MAILNODE_NO_SKIPS"):
                pytest.fail(message)
            pytest.skip(message)
        return path

    return find


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program to its end, within a time; its output is text, octets over 127 as surrogates."""

    def run_program(
        *arguments: object, stdin: str = "", seconds: float = 30.0, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(argument) for argument in arguments],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=seconds,
            check=False,
            **more,
        )

    return run_program


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a program that serves a test; it and what it started end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **more: Any) -> subprocess.Popen[bytes]:
        with (tmp_path / "programs.log").open("ab") as log:
            process = subprocess.Popen(
                [str(argument) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **more,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port of 127.0.0.1 that nobody has, for programs that cannot choose one themselves."""

    def choose() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return choose


@pytest.fixture(scope="session")
def wait_for_port() -> Callable[[int], None]:
    """Waits until somebody listens on a port of 127.0.0.1."""

    def listens(port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return lambda port: wait_until(lambda: listens(port), f"somebody listens on port {port}")


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


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[TerminalOfMine]:
    """A terminal that accepts messages and on which nobody has logged in yet."""
    mine = TerminalOfMine(tmp_path)
    yield mine
    mine.hang_up()


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


@pytest.fixture
def utmp(tmp_path: Path) -> Utmp:
    return Utmp(tmp_path / "utmp")


@pytest.fixture(scope="session")
def open_utmp() -> type[Utmp]:
    return Utmp


@pytest.fixture(scope="module")
def make_pane(need: Callable[[str], str]) -> Iterator[Callable[..., Pane]]:
    """Opens terminals in tmux; they are closed after the tests of the file."""
    with ExitStack() as panes:

        def make(command: str, **environment: str) -> Pane:
            pane = Pane(need("tmux"), command, **environment)
            panes.callback(pane.close)
            return pane

        yield make


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


@pytest.fixture
def open_session() -> Iterator[Callable[..., Session]]:
    """Runs `mailnode` with some words, for the node in a folder, on a terminal of its own."""
    sessions: list[Session] = []

    def run_mailnode(folder: Path, *words: str, columns: int = 80, **environment: str) -> Session:
        program = [sys.executable, "-c", "from mailnode.cli import main; main()"]
        arguments = [*program, "--config", str(folder / "mailnode.toml"), *words]
        sessions.append(Session(arguments, environment, columns))
        return sessions[-1]

    yield run_mailnode
    for session in sessions:
        session.close()
