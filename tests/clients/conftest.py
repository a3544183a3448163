"""Real nodes as real processes, for tests against programs that nobody here wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def wait_until(true: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Looks again and again until `true`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


class RunningNode:
    """A node under twistd in a folder of its own. `config` is TOML; the folder and listener come from here."""

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

    # ------------------------------------------------------------- life

    def start(self) -> RunningNode:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *[sys.executable, "-c", "from twisted.scripts.twistd import run; run()"],
                    *["-n", f"--pidfile={self.folder}/{self.plugin}.pid", self.plugin],
                    *["--config", str(self.file)],
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
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
            answers = []
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
        return [file.read_text(errors="surrogateescape") for file in sorted(files, key=lambda file: file.name)]

    def wait_for_mail(self, user: str, count: int = 1, seconds: float = 15.0) -> list[str]:
        wait_until(lambda: len(self.mailbox(user)) >= count, f"{count} messages for {user}", seconds)
        return self.mailbox(user)

    def wait_for_log(self, words: str, seconds: float = 15.0) -> None:
        wait_until(lambda: words in self.text(), f"{words!r} in the log", seconds)

    def resident(self) -> int:
        """The resident set, octets."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def talk(self) -> Talk:
        return Talk(self.port)


class Talk:
    """A dialogue by hand: `say` a command, get the reply's lines."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.stream = self.socket.makefile("rwb")
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

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., RunningNode]]:
    """Builds nodes (not started yet) and ends them after the test."""
    nodes: list[RunningNode] = []

    def make(config: str, name: str = "node", plugin: str = "mailnode") -> RunningNode:
        node = RunningNode(tmp_path / name, config, plugin)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.kill()


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
