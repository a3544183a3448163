"""Files whose flock says that their owner is alive: the kernel takes the lock back from whoever dies."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_OWNER = re.compile(r"[0-9a-f]{16}")


def create_locked(path: str) -> int:
    """Creates `path` (0600) and locks it; the descriptor holds the lock. OSError if it exists.

    Between the creation and the lock a cleaner may take the file for an orphan and remove it; then it is
    created again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def try_lock(path: str) -> int | None:
    """A descriptor that holds the lock of an existing file; None if another holds it or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Holds the lock of `path`, which is created where it is missing; waits for it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class SoleLock:
    """A lock that at most one process has, for as long as it lives or until `release`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours now; never waits."""
        if self._descriptor is None:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._descriptor = try_lock(self._path)
        return self._descriptor is not None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Owners:
    """Who may have leases: a folder with one locked file for each living owner.

    A file that can be locked belongs to an owner that died, or that closed with leases in hand.
    """

    def __init__(self, folder: str, owner: str) -> None:
        self.owner = owner
        self._folder = folder
        self._descriptor: int | None = None

    def announce(self) -> None:
        """Makes our life visible, before the first lease is taken."""
        if self._descriptor is None:
            self._descriptor = create_locked(os.path.join(self._folder, self.owner))

    def is_other_and_alive(self, owner: str | None) -> bool:
        """Whether the leases of `owner` (as a row names it) are in the hands of another living process."""
        if owner is None or owner == self.owner or not _OWNER.fullmatch(owner):
            return False
        descriptor = try_lock(path := os.path.join(self._folder, owner))
        if descriptor is None:
            return os.path.exists(path)
        os.close(descriptor)
        return False

    def dead(self) -> list[str]:
        """Others whose files are left but not locked."""
        names = [name for name in os.listdir(self._folder) if name != self.owner and _OWNER.fullmatch(name)]
        return [name for name in names if not self.is_other_and_alive(name)]

    def forget(self, owner: str | None) -> None:
        """Removes the file of an owner whose leases were released."""
        if owner is not None and owner != self.owner and _OWNER.fullmatch(owner):
            try:
                os.unlink(os.path.join(self._folder, owner))
            except FileNotFoundError:
                return  # someone else saw it too

    def leave(self) -> None:
        """Gives the lock back; the file stays for whoever releases the leases that may be left."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
