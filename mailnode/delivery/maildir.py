"""Writes messages into Maildirs, many at a time, so that they share what durability costs.

The order for one batch; a power cut between any two steps loses nothing that was reported:

1. each message is written to a new file in tmp/,
2. the files are made durable: one syncfs for many, an fsync each for few,
3. each is renamed into new/,
4. each new/ is made durable, likewise.

An fsync that failed is not tried again on the same file, for its data may be gone by then; nothing of
its batch counts as delivered. Everything here blocks and is meant for a thread of its own.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from msgspec import Struct

from mailnode.delivery.stored import stored
from mailnode.mail import Body, Path

FEW: Final = 4  # files up to which an fsync each is cheaper than a syncfs
STALE: Final = 36 * 3600.0  # seconds after which a file in tmp/ is a leftover (maildir(5))
_SWEPT: Final = 10_000  # folders that are remembered as swept

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE: Final = _FOLDER | os.O_NOFOLLOW
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder(Struct, frozen=True, gc=False, array_like=True):
    """Where a Maildir lies: `base` is trusted, and in `parts` below it no symlink is followed."""

    base: str
    parts: tuple[str, ...]
    make_base: bool  # whether `base` is ours to create


class Job(Struct, frozen=True, gc=False, array_like=True):
    """One message to be stored. `uid` and `gid` are -1 where it is to belong to the node's own user."""

    folder: Folder
    name: str
    body: Body
    reverse_path: Path
    address: str = ""  # that it is delivered to; a message that had it on it before is not stored again
    binary: bool = False  # octets, not lines
    uid: int = -1
    gid: int = -1
    recovered: bool = False  # it may lie there already, in cur/ under the same name


class Disk:
    """The calls that wait for the disk, apart, so that a test can let them fail or last."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._syncfs = getattr(libc, "syncfs", None)  # Linux

    @property
    def has_syncfs(self) -> bool:
        return self._syncfs is not None

    def now(self) -> float:
        """Seconds on a clock that nobody sets."""
        return monotonic()

    def fsync(self, descriptor: int) -> None:
        """Makes a file or folder durable. OSError if it cannot be."""
        os.fsync(descriptor)

    def syncfs(self, descriptor: int) -> None:
        """Makes the file system of `descriptor` durable. OSError if anything on it was lost since the
        descriptor was opened (Linux 5.8)."""
        if self._syncfs is None or self._syncfs(descriptor) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


@dataclass(slots=True)
class _Box:
    """An open Maildir, for the time of one batch."""

    new: int
    tmp: int
    device: int  # of the file system
    cur: int = -1
    seen: frozenset[str] | None = None  # names in cur/, without their flags

    def close(self) -> None:
        for descriptor in (self.new, self.tmp, self.cur):
            if descriptor >= 0:
                os.close(descriptor)


@dataclass(slots=True)
class _Batch:
    boxes: dict[Folder, _Box | OSError] = field(default_factory=dict)
    written: list[tuple[int, _Box, int]] = field(default_factory=list)  # job, box, descriptor or -1
    renamed: set[int] = field(default_factory=set)  # numbers of jobs
    folders: dict[int, int] = field(default_factory=dict)  # to be made durable: descriptor -> device
    errors: dict[int, OSError] = field(default_factory=dict)  # by the number of the job


class MaildirWriter:
    """Stores batches of messages. `clock` gives seconds since the epoch; with `privileged` (root),
    what is created is given to the owner of the mailbox."""

    def __init__(self, disk: Disk, clock: Callable[[], float], privileged: bool) -> None:
        self._disk = disk
        self._clock = clock
        self._privileged = privileged
        self._swept: set[Folder] = set()
        # Seconds that the last batch took to be durable: its folders, or a file where that took longer.
        self.flush: float | None = None

    def write(self, jobs: Sequence[Job]) -> list[OSError | None]:
        """Stores every message durably; for each None, or the error that prevented it."""
        batch = _Batch()
        self.flush = None
        try:
            self._write_all(jobs, batch)
            try:
                self._sync_files(batch)
                self._rename_all(jobs, batch)
                self._sync_folders(batch)
            except OSError as error:
                self._take_back(jobs, batch)
                return [batch.errors.get(number, error) for number in range(len(jobs))]
            return [batch.errors.get(number) for number in range(len(jobs))]
        finally:
            self._close_all(jobs, batch)

    # ------------------------------------------------------------------- steps

    def _write_all(self, jobs: Sequence[Job], batch: _Batch) -> None:
        keep_open = not self._in_bulk(len(jobs))
        for number, job in enumerate(jobs):
            try:
                box = self._box(batch, job)
                if job.recovered and self._in_cur(box, job):
                    batch.folders |= {box.new: box.device, box.cur: box.device}
                    continue
                batch.written.append((number, box, self._write_one(box, job, keep_open)))
            except OSError as error:
                batch.errors[number] = error

    def _write_one(self, box: _Box, job: Job, keep_open: bool) -> int:
        """Writes the message to tmp/; its descriptor if that is to stay open, else -1."""
        try:
            descriptor = os.open(job.name, _CREATE, 0o600, dir_fd=box.tmp)
        except FileExistsError:  # left by a delivery that did not come to its end
            os.unlink(job.name, dir_fd=box.tmp)
            descriptor = os.open(job.name, _CREATE, 0o600, dir_fd=box.tmp)
        try:
            self._own(descriptor, job)
            for piece in stored(job.body, job.reverse_path, job.address, job.binary):
                done = os.write(descriptor, piece)
                while done < len(piece):  # a full disk, or more than the system takes at once
                    done += os.write(descriptor, piece[done:])
        except BaseException:
            os.close(descriptor)
            _discard(job.name, box)
            raise
        if keep_open:
            return descriptor
        os.close(descriptor)
        return -1

    def _sync_folders(self, batch: _Batch) -> None:
        began = self._disk.now()
        if self._in_bulk(len(batch.folders)):
            for descriptor in {device: folder for folder, device in batch.folders.items()}.values():
                self._disk.syncfs(descriptor)
        else:
            for descriptor in batch.folders:
                self._disk.fsync(descriptor)
        if batch.folders:
            self.flush = max(self._disk.now() - began, self.flush or 0.0)

    def _in_bulk(self, count: int) -> bool:
        return count > FEW and self._disk.has_syncfs

    def _sync_files(self, batch: _Batch) -> None:
        began = self._disk.now()
        # The descriptor of tmp/ was open before the first write: a syncfs on it reports any loss since.
        for descriptor in {box.device: box.tmp for _, box, file in batch.written if file < 0}.values():
            self._disk.syncfs(descriptor)
        for _, _, file in batch.written:
            if file >= 0:
                self._disk.fsync(file)
        if batch.written:
            self.flush = (self._disk.now() - began) / len(batch.written)

    def _rename_all(self, jobs: Sequence[Job], batch: _Batch) -> None:
        for number, box, _ in batch.written:
            name = jobs[number].name
            try:
                os.rename(name, name, src_dir_fd=box.tmp, dst_dir_fd=box.new)
                batch.renamed.add(number)
                batch.folders[box.new] = box.device
            except OSError as error:
                batch.errors[number] = error

    def _take_back(self, jobs: Sequence[Job], batch: _Batch) -> None:
        """Nobody is told that these are there, so they will come again: if it can be, not twice."""
        for number, box, _ in batch.written:
            if number in batch.renamed:
                with suppress(OSError):
                    os.unlink(jobs[number].name, dir_fd=box.new)

    def _close_all(self, jobs: Sequence[Job], batch: _Batch) -> None:
        for number, box, file in batch.written:
            if file >= 0:
                os.close(file)
            if number not in batch.renamed:
                _discard(jobs[number].name, box)
        for box_or_error in batch.boxes.values():
            if isinstance(box_or_error, _Box):
                box_or_error.close()

    # ----------------------------------------------------------------- folders

    def _box(self, batch: _Batch, job: Job) -> _Box:
        """The open Maildir of `job`. OSError if there is none and none can be made."""
        box = batch.boxes.get(job.folder)
        if box is None:
            try:
                box = self._open(job)
            except OSError as error:
                box = error
            batch.boxes[job.folder] = box
        if isinstance(box, OSError):
            raise box
        return box

    def _open(self, job: Job) -> _Box:
        """Opens the Maildir component by component, and makes what is not there yet."""
        if job.folder.make_base:
            self._make_base(job.folder.base)
        maildir = os.open(job.folder.base, _FOLDER)
        try:
            for part in job.folder.parts:
                inner = self._enter(maildir, part, job)
                os.close(maildir)
                maildir = inner
            return self._open_parts(maildir, job)
        finally:
            os.close(maildir)

    def _open_parts(self, maildir: int, job: Job) -> _Box:
        try:
            new = os.open("new", _INSIDE, dir_fd=maildir)
        except FileNotFoundError:  # made last, so if it is there the others are
            os.close(self._enter(maildir, "cur", job))
            os.close(self._enter(maildir, "tmp", job))
            new = self._enter(maildir, "new", job)
        try:
            tmp = self._enter(maildir, "tmp", job)
        except OSError:
            os.close(new)
            raise
        box = _Box(new, tmp, os.fstat(tmp).st_dev)
        try:
            if job.recovered:
                box.cur = self._enter(maildir, "cur", job)
            self._sweep(box, job.folder)
        except OSError:
            box.close()
            raise
        return box

    def _enter(self, parent: int, name: str, job: Job) -> int:
        """Opens a folder inside `parent`, never through a symlink; makes it, durably, if it is missing."""
        try:
            return os.open(name, _INSIDE, dir_fd=parent)
        except FileNotFoundError:
            with suppress(FileExistsError):  # somebody else was quicker
                os.mkdir(name, 0o700, dir_fd=parent)
        folder = os.open(name, _INSIDE, dir_fd=parent)
        try:
            self._own(folder, job)
            self._disk.fsync(parent)
        except OSError:
            os.close(folder)
            raise
        return folder

    def _make_base(self, base: str) -> None:
        """Makes the folder that all the Maildirs lie in, with the folders above it, durably."""
        if os.path.isdir(base):
            return
        above = os.path.dirname(base) or "."
        if above != base:
            self._make_base(above)
        with suppress(FileExistsError):
            os.mkdir(base, 0o700)
        parent = os.open(above, _FOLDER)
        try:
            self._disk.fsync(parent)
        finally:
            os.close(parent)

    def _own(self, descriptor: int, job: Job) -> None:
        if self._privileged and job.uid >= 0:
            os.fchown(descriptor, job.uid, job.gid)

    # ---------------------------------------------------------------- contents

    def _in_cur(self, box: _Box, job: Job) -> bool:
        """Whether the message was delivered before and the reader has moved it to cur/ since."""
        if box.cur < 0:
            raise FileNotFoundError("cur/ was not opened")
        if box.seen is None:
            box.seen = frozenset(_without_flags(os.listdir(box.cur)))
        return job.name in box.seen

    def _sweep(self, box: _Box, folder: Folder) -> None:
        """Removes leftovers from tmp/, once in the life of this process."""
        if folder in self._swept:
            return
        if len(self._swept) >= _SWEPT:
            self._swept.clear()
        self._swept.add(folder)
        before = self._clock() - STALE
        for name in os.listdir(box.tmp):
            with suppress(FileNotFoundError):  # its owner was quicker
                status = os.stat(name, dir_fd=box.tmp, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                    os.unlink(name, dir_fd=box.tmp)


def _discard(name: str, box: _Box) -> None:
    with suppress(OSError):  # if it cannot be removed now, the sweep of tmp/ does it
        os.unlink(name, dir_fd=box.tmp)


def _without_flags(names: Iterable[str]) -> Iterable[str]:
    return (name.partition(":")[0] for name in names)
