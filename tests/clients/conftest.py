"""Real nodes as real processes, for tests against programs that nobody here wrote."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.clients.nodes import RunningNode
from tests.clients.screens import Pane, Session, TerminalOfMine, Utmp
from tests.clients.waiting import wait_until


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


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[TerminalOfMine]:
    """A terminal that accepts messages and on which nobody has logged in yet."""
    mine = TerminalOfMine(tmp_path)
    yield mine
    mine.hang_up()


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
