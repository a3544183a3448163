"""The terminal in which a command runs, written to so that neither it nor the command can be held up."""

from __future__ import annotations

import os
import signal
import stat
from typing import NamedTuple

_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NoTerminalError(Exception):
    """The command does not run in a terminal."""


class Look(NamedTuple):
    """The terminal as it is now."""

    columns: int  # 0 if it does not say
    takes_messages: bool  # the group-write bit, which mesg(1) sets
    read: float  # when a key was last taken, seconds since the epoch


class OwnTerminal:
    """The terminal that one of `descriptors` is. NoTerminalError if none of them is one.

    It is opened once more, so that not waiting (O_NONBLOCK) is ours alone and not the shell's too.
    """

    def __init__(self, descriptors: tuple[int, ...] = (0, 1, 2)) -> None:
        origin = next((one for one in descriptors if _is_terminal(one)), None)
        if origin is None:
            raise NoTerminalError
        try:
            path = os.ttyname(origin)
            self.name = path.removeprefix("/dev/")
        except OSError:  # in a container, on a terminal of the host
            path, self.name = "", ""
        self._path = path
        self._file = _opened(path)
        self.device: tuple[int, int] | None = None
        if path:
            status = os.stat(path)
            self.device = status.st_dev, status.st_ino

    def look(self) -> Look:
        """OSError when the terminal has hung up."""
        columns = os.get_terminal_size(self._file).columns
        status = os.stat(self._path) if self._path else os.fstat(self._file)
        return Look(columns, bool(status.st_mode & stat.S_IWGRP), status.st_atime)

    def write(self, octets: bytes) -> bool:
        """Writes at once; False if the terminal did not take all of it (it is stopped, or hung up)."""
        # Written from the background too, where `stty tostop` would stop us.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            return os.write(self._file, octets) == len(octets)
        except OSError:
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        os.close(self._file)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def _opened(path: str) -> int:
    """The terminal by its name; by /dev/tty where the name is not ours to open, as after su(1)."""
    for name in (path, "/dev/tty"):
        if not name:
            continue
        try:
            return os.open(name, _WRITE)
        except OSError:
            continue
    raise NoTerminalError
