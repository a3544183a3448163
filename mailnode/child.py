"""A child process that does blocking work for one thread of the node: its own interpreter, its own lock.

Both ends are the same program. What goes over the socket between them is a text behind its length; what
the texts say is agreed between the two who use it. The child finds the modules where the node found
them, and nowhere else. It ends when the node closes the socket, and is killed with the thread that started
it, so with a node that is killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec.inspect import type_info

from mailnode import __version__

_LENGTH: Final = 4  # octets, most significant first
_CLOSING: Final = 10.0  # seconds that the process has to end
_BUFFER: Final = 1 << 20  # octets that the socket should hold
_PROGRAM: Final = (
    "import sys; count = int(sys.argv[3]); sys.path[:] = sys.argv[4 + count:]; "
    "from importlib import import_module; from mailnode.child import Node; "
    "import_module(sys.argv[1]).main(Node(int(sys.argv[2])), *sys.argv[4:4 + count])"
)
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class Child:
    """The child, for who asks it. `module` has a function `main` that gets a `Node` and `arguments`.

    OSError if it cannot be started. Whatever `ask` raises, it is dead afterwards: an answer that was not
    heard to its end would be taken for that to the next question.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            path = [os.path.abspath(entry) for entry in sys.path]
            told = [module, str(theirs.fileno()), str(len(arguments)), *arguments, *path]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, *told],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def ask(self, text: bytes) -> bytes:
        """What it says to `text`; blocks until it does."""
        try:
            _send(self._socket, text)
            return _receive(self._socket)
        except BaseException:
            self.kill()
            raise

    def has_spoken(self) -> bool:
        """Whether it has said something that nobody asked for, or is gone. Does not wait."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def hear(self) -> bytes:
        """What it says unasked; blocks until it does."""
        return _receive(self._socket)

    def close(self) -> None:
        """Lets it end when it has done what it has in hand; one that does not is killed."""
        self._socket.close()
        try:
            self._process.wait(_CLOSING)
        except subprocess.TimeoutExpired:  # its disk hangs
            self._process.kill()

    def kill(self) -> None:
        """Ends it at once, and waits until it can do nothing any more."""
        self._process.kill()
        self._socket.close()
        self._process.wait()


class Node:
    """The node, for the child. EOFError when it has gone."""

    def __init__(self, descriptor: int) -> None:
        # A signal from the keyboard or the service manager is for the node: it ends us when it has drained.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        with suppress(AttributeError):  # Linux: a node that is killed leaves nobody behind who still writes
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(AttributeError, OSError):  # Linux: it takes nobody's processor the moment it has work
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        self._socket = socket.socket(fileno=descriptor)

    def hear(self) -> bytes:
        """What it wants next."""
        try:
            return _receive(self._socket)
        except ConnectionError:
            raise EOFError from None

    def say(self, text: bytes) -> None:
        """An answer."""
        try:
            _send(self._socket, text)
        except ConnectionError:
            raise EOFError from None


def greeting(*kinds: Any, also: str = "") -> bytes:
    """What the child says first, and who started it expects: a digest of the version, of the layout of
    `kinds`, which one tells the other, and of `also`. Another version may have been installed meanwhile."""
    said = repr([__version__, also, *map(type_info, kinds)])
    return blake2b(said.encode(), digest_size=16).hexdigest().encode()


def encoder() -> msgspec.msgpack.Encoder:
    """For texts in MessagePack, which knows nothing of names that are texts of their own kinds."""
    return msgspec.msgpack.Encoder(enc_hook=_as_text)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")


def _send(channel: socket.socket, text: bytes) -> None:
    channel.sendall(len(text).to_bytes(_LENGTH, "big") + text)


def _receive(channel: socket.socket) -> bytes:
    return _exactly(channel, int.from_bytes(_exactly(channel, _LENGTH), "big"))


def _exactly(channel: socket.socket, size: int) -> bytes:
    text = bytearray(size)
    rest = memoryview(text)
    while rest:
        got = channel.recv_into(rest)
        if not got:
            raise EOFError("it has gone")
        rest = rest[got:]
    return bytes(text)
