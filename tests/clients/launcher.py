"""Nodes that need not import everything anew: over four hundred are started, and each would do so for most
of a second. A launcher imports it once, and every node is a fork of it: a process of its own that goes on
with twistd's own `run`, as `twistd` would.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

SPACE = 1 << 20  # octets of a request, with a whole environment in it


class Launched:
    """A node that was started by the launcher; what a `Popen` can do, as far as tests want it."""

    def __init__(self, ask: Callable[..., Any], pid: int) -> None:
        self._ask = ask
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a node", timeout or 0.0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Launcher:
    """The process that nodes are forks of, for who asks it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = Lock()
        self._own = _read_at_start(os.environ)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SPACE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a program that starts in `environment` would have started as the launcher did."""
        return _read_at_start(environment) == self._own

    def start(
        self, arguments: Sequence[str], log: int, folder: Path, environment: Mapping[str, str]
    ) -> Launched:
        """twistd with `arguments`, which says all that it says to the open file `log`."""
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        return Launched(self._ask, self._ask(request, [log]))

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        with self._lock:
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
                answer = self._socket.recv(SPACE)
            except BaseException:  # an answer that comes later would be taken for that to the next question
                self._socket.close()
                raise
        assert answer, "the launcher of nodes has died"
        return json.loads(answer)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python and the dynamic linker read of an environment."""
    return {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LD_"))}


@cache
def launcher() -> Launcher:
    """The one of this process."""
    return Launcher()


# ----------------------------------------------------------------- in the launcher


def serve(channel: socket.socket) -> tuple[int, dict[str, Any]] | None:
    """Forks a node for every request, and says how those that have ended did. In a fork it returns the log
    and the request; in the launcher, when the tests have gone, None, and no node is left."""
    alive: set[int] = set()
    while request := _next(channel):
        text, descriptors = request
        words = json.loads(text)
        answer: int | None = None
        if "poll" in words:
            pid, status = os.waitpid(words["poll"], os.WNOHANG)
            if pid:
                alive.remove(pid)
                answer = os.waitstatus_to_exitcode(status)
        else:
            (log,) = descriptors
            answer = os.fork()
            if not answer:
                channel.close()
                return log, words
            alive.add(answer)
            os.close(log)
        channel.send(json.dumps(answer).encode())
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return None


def _next(channel: socket.socket) -> tuple[bytes, list[int]] | None:
    with suppress(ConnectionError):
        text, descriptors, _, _ = socket.recv_fds(channel, SPACE, 1)
        if text:
            return text, descriptors
    return None


def become(log: int, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """This process is as one that was started so."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for new, old in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(new, old)
    os.close(nothing)
    os.close(log)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, "")  # as with `python -c`
    sys.argv = ["twistd", *arguments]


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    import gc

    from twisted.scripts.twistd import run

    import mailnode.node
    import mailnode.service
    import mailnode.tap
    import mailnode.tap_receiver
    import mailnode.tap_sender  # noqa: F401

    assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared"
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.freeze()
    node = serve(socket.socket(fileno=int(sys.argv[1])))
    if node is not None:
        become(node[0], **node[1])
        run()
