"""Small files in the data folder, written so that each is there whole or not at all, for the node alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

SIZE: Final = 65536  # octets


def prepare_folder(folder: str) -> None:
    """Makes `folder` (0700) and what leads to it, each owned as the folder that it is in. OSError."""
    above = os.path.dirname(os.path.abspath(folder))
    if not os.path.isdir(above):
        prepare_folder(above)
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
        _give(folder, above)


def write_file(folder: str, name: str, octets: bytes) -> None:
    """Puts the file `name` (0600) into `folder`, durably, in the place of one that is there. OSError.

    It belongs to the owner of the folder: the node reads it, whoever runs the command.
    """
    descriptor, draft = tempfile.mkstemp(prefix=".draft-", dir=folder)  # 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        _give(draft, folder)
        os.rename(draft, os.path.join(folder, name))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    sync_folder(folder)


def remove_file(folder: str, name: str) -> bool:
    """Takes a file away, durably; whether there was one. OSError."""
    try:
        os.unlink(os.path.join(folder, name))
    except FileNotFoundError:
        return False
    sync_folder(folder)
    return True


def read_file(folder: str, name: str) -> bytes | None:
    """The octets of a file, None if there is none. OSError, also for one that is too large to be ours."""
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            octets = file.read(SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(octets) > SIZE:
        raise OSError(0, f"larger than {SIZE} octets", path)
    return octets


def sync_folder(folder: str) -> None:
    with _opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keeps out every other process, and every other thread, that would change what is in `folder`."""
    with _opened(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _give(path: str, folder: str) -> None:
    """To the owner of `folder`, where root works in the folder of another."""
    if os.geteuid() == 0:
        status = os.stat(folder)
        os.chown(path, status.st_uid, status.st_gid)
