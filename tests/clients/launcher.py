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
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

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
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(SPACE)
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


def serve(channel: socket.socket) -> None:
    """Forks a node for every request, and says how those that have ended did."""
    ended: dict[int, int] = {}
    while True:
        text, descriptors, _, _ = socket.recv_fds(channel, SPACE, 1)
        if not text:
            return
        request = json.loads(text)
        answer: int | None
        if "poll" in request:
            pid = request["poll"]
            if pid not in ended and (status := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = os.waitstatus_to_exitcode(status[1])
            answer = ended.get(pid)
        else:
            (log,) = descriptors
            answer = os.fork()
            if not answer:
                channel.close()
                become(log, **request)
            os.close(log)
        channel.send(json.dumps(answer).encode())


def become(log: int, arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """This process is twistd from now on."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for new, old in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(new, old)
        os.close(nothing)
        os.close(log)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["twistd", *arguments]
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.path[0] = ""  # a node's own folder, as with `python -c`
    import gc

    from twisted.scripts.twistd import run

    import mailnode.node
    import mailnode.service
    import mailnode.tap
    import mailnode.tap_receiver
    import mailnode.tap_sender  # noqa: F401

    assert "twisted.internet.reactor" not in sys.modules, "a reactor cannot be shared"
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        serve(channel)
