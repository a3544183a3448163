"""The way to a terminal device: opened, checked and written to without ever waiting."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

# A line of utmp that names a device: "tty1", "pts/3"; no "..", no leading "/", no ":0", no symlink in
# between. `ptmx` is not one: to open it makes a new terminal.
_LINE = re.compile(r"(?:pts/[0-9]{1,9}|(?!ptmx\Z)[A-Za-z][A-Za-z0-9_.-]{0,30})\Z")

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NOCTTY: it must not become our controlling terminal; O_NONBLOCK: a stopped one must not stop us.
_DEVICE: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


class Device(NamedTuple):
    """What the device folder says of a terminal."""

    number: int  # device number
    accepting: bool  # the group-write bit, which mesg(1) sets
    read: float  # when a key was last taken, seconds since the epoch


def look(devices: str, line: str, uid: int) -> Device | None:
    """The device `line` under the folder `devices`, None unless it is a terminal device of `uid`."""
    try:
        with _folder(devices, line) as (folder, name):
            return _device(os.stat(name, dir_fd=folder, follow_symlinks=False), uid)
    except OSError:  # no such device: the record is stale
        return None


def is_device(devices: str, line: str, device: tuple[int, int]) -> bool:
    """Whether `line` under the folder `devices` is the very file that `device` (st_dev, st_ino) names."""
    try:
        with _folder(devices, line) as (folder, name):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == device


def reachable(devices: str, line: str, uid: int) -> bool:
    """Whether the terminal can be opened now and takes messages."""
    try:
        with _opened(devices, line, uid):
            return True
    except OSError:
        return False


def write(devices: str, line: str, uid: int, text: Callable[[int], bytes]) -> bool:
    """Writes what `text` gives for the terminal's width in columns (0 if it does not say) at once; False if
    the terminal did not take all of it. Never waits."""
    try:
        with _opened(devices, line, uid) as terminal, _in_background():
            octets = text(os.get_terminal_size(terminal).columns)  # TIOCGWINSZ, as wide as it is now
            return os.write(terminal, octets) == len(octets)
    except OSError:  # EAGAIN: stopped or unread; EIO: hung up; EACCES: not for us
        return False


@contextmanager
def _opened(devices: str, line: str, uid: int) -> Iterator[int]:
    """The open terminal. PermissionError if it is not one of `uid` that takes messages, else OSError."""
    with _folder(devices, line) as (folder, name):
        terminal = os.open(name, _DEVICE, dir_fd=folder)
    try:
        # Looked at again now that it is open: this is the device that will be written to.
        device = _device(os.fstat(terminal), uid)
        if device is None or not device.accepting or not os.isatty(terminal):
            raise PermissionError(f"not an accepting terminal: {line}")
        yield terminal
    finally:
        os.close(terminal)


@contextmanager
def _folder(devices: str, line: str) -> Iterator[tuple[int, str]]:
    """The open folder that the device lies in, and its name there."""
    if not _LINE.match(line):
        raise FileNotFoundError(f"not a device name: {line!r}")
    within, _, name = line.rpartition("/")
    with ExitStack() as stack:
        folder = os.open(devices, _FOLDER)
        stack.callback(os.close, folder)
        if within:
            folder = os.open(within, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            stack.callback(os.close, folder)
        yield folder, name


def _device(status: os.stat_result, uid: int) -> Device | None:
    if not stat.S_ISCHR(status.st_mode) or status.st_uid != uid:
        return None
    return Device(status.st_rdev, bool(status.st_mode & stat.S_IWGRP), status.st_atime)


@contextmanager
def _in_background() -> Iterator[None]:
    """A write to our own terminal while we run in its background must not stop us (`stty tostop`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
