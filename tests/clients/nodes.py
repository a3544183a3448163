"""A real node as a real process, and a dialogue with it by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.clients.launcher import Launched, launcher
from tests.clients.waiting import PATIENCE, wait_until


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
        self.process: subprocess.Popen[bytes] | Launched | None = None
        self.port = 0
        self.launcher: list[object] = []  # a program that starts the node, with its arguments
        self.options: list[object] = []  # of twistd
        self.python = sys.executable
        self.environment: dict[str, str] = {}  # besides that of the tests

    # ------------------------------------------------------------- life

    def start(self) -> RunningNode:
        twistd = [self.python, "-c", "from twisted.scripts.twistd import run; run()"]
        arguments = ["-n", f"--pidfile={self.folder}/{self.plugin}.pid", *map(str, self.options)]
        arguments += [self.plugin, "--config", str(self.file)]
        environment = {**os.environ, **self.environment}
        is_plain = not (self.launcher or self.options) and self.python == sys.executable
        with self.log.open("ab") as log:
            if is_plain and launcher().fits(environment):
                self.process = launcher().start(arguments, log.fileno(), self.folder, environment)
            else:
                self.process = subprocess.Popen(
                    [*map(str, self.launcher), *twistd, *arguments],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd=self.folder,
                    env=environment,
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

    def wait_for_mail(self, user: str, count: int = 1, seconds: float = PATIENCE) -> list[str]:
        wait_until(lambda: len(self.mailbox(user)) >= count, f"{count} messages for {user}", seconds)
        return self.mailbox(user)

    def wait_for_log(self, words: str, seconds: float = PATIENCE, after: int = 0) -> None:
        """Waits for `words` in the log behind its first `after` characters."""
        wait_until(lambda: words in self.text()[after:], f"{words!r} in the log", seconds)

    def wait_until(self, true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
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

    def wait_for_empty_spool(self, seconds: float = PATIENCE) -> None:
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
