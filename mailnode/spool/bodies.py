"""Bodies over 64 KiB as files: written as locked drafts, then renamed; all in a thread of its own.

    drafts/<name>   being written; its flock is held by who writes it
    bodies/<id>     complete and synced; the lock is held until its row is committed

A file here whose lock can be taken and that has no row is an orphan. fsync is never tried twice on one
file: after a failure the file is removed and the message refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import NamedTuple

from twisted.internet.defer import Deferred

from mailnode.batch import Batch, BatchNow, BatchThread
from mailnode.spool import ids
from mailnode.spool.errors import SpoolError, spool_error
from mailnode.spool.locks import create_locked, try_lock


class Step(NamedTuple):
    """Something to do in the file thread. `named`: it gave a file its name, so sync the folders after it."""

    act: Callable[[], object]
    named: bool = False


class BodyFile:
    """One body file. All methods but `abandon` run in the file thread, in the order they were asked for."""

    def __init__(self, draft: str) -> None:
        self._path = draft
        self._descriptor: int | None = None
        self._error: OSError | None = None
        self._abandoned = False

    def abandon(self) -> None:
        """What is still to be written need not be. Any thread."""
        self._abandoned = True

    def write(self, data: bytes) -> None:
        """Appends. An error is kept for `finish`, and its disk space is given back at once."""
        if self._error is not None or self._abandoned:
            return
        try:
            if self._descriptor is None:
                self._descriptor = create_locked(self._path)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self._error = error
            self.remove()

    def finish(self, path: str) -> None:
        """Syncs and gives the file its final name. OSError if that, or a write before it, failed."""
        if self._error is not None:
            raise self._error
        if self._descriptor is None:
            raise SpoolError("the body has been discarded")
        os.fsync(self._descriptor)
        os.rename(self._path, path)
        self._path = path

    def close(self) -> None:
        """Gives up the lock: the file belongs to its row now."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Removes it, under whatever name it has by now."""
        if self._descriptor is not None:
            try:
                os.unlink(self._path)
            finally:
                self.close()


class BodyStore:
    """The folders `drafts` and `bodies` below a data folder, and the thread that works in them."""

    def __init__(self, data: str, call_from_thread: Callable[..., object] | None) -> None:
        self.folder = os.path.join(data, "bodies")
        self._drafts = os.path.join(data, "drafts")
        self._thread: Batch[Step, None]
        if call_from_thread is None:
            self._thread = BatchNow(self._work)
        else:
            self._thread = BatchThread("spool-bodies", self._work, call_from_thread, 64)

    def prepare(self) -> None:
        """Creates the folders."""
        for folder in (self.folder, self._drafts):
            os.makedirs(folder, 0o700, exist_ok=True)

    def new(self, name: str) -> BodyFile:
        """A body that will be written as draft `name`."""
        return BodyFile(os.path.join(self._drafts, name))

    def do(self, act: Callable[[], object]) -> Deferred[None]:
        """Runs `act` in the file thread; errbacks with what it raises."""
        return self._thread.submit(Step(act))

    def finish(self, file: BodyFile, id: str) -> Deferred[None]:
        """Makes `file` the body of `id`; fires when file and folders are synced. SpoolError."""
        return self._thread.submit(Step(lambda: file.finish(os.path.join(self.folder, id)), named=True))

    def unlink(self, id: int) -> Deferred[None]:
        """Removes the body of a message whose row is gone."""
        return self.do(lambda: _unlink(os.path.join(self.folder, ids.show(id))))

    def stop(self) -> Deferred[None]:
        return self._thread.stop()

    def _work(self, steps: list[Step]) -> list[BaseException | None]:
        results: list[BaseException | None] = []
        for step in steps:
            try:
                step.act()
                results.append(None)
            except Exception as error:  # handed to whoever asked for the step
                results.append(spool_error(error, "cannot store a body"))
        named = [place for place, step in enumerate(steps) if step.named and results[place] is None]
        if named:
            try:
                # Without these a power cut may take the name away again.
                sync_folder(self.folder)
                sync_folder(self._drafts)
            except OSError as error:
                for place in named:
                    results[place] = spool_error(error, "cannot store a body")
        return results

    def clean(self, known: Collection[int], has_row: Callable[[int], bool]) -> int:
        """Removes orphans; `known` are messages with body files, `has_row` looks again. How many went."""
        removed = 0
        for folder in (self._drafts, self.folder):
            for name in os.listdir(folder):
                if not ids.is_id(name) or (folder == self.folder and ids.parse(name) in known):
                    continue
                descriptor = try_lock(path := os.path.join(folder, name))
                if descriptor is None:
                    continue  # somebody is at work on it
                try:
                    # The row is looked for under the lock: who held it may have committed just before.
                    if folder == self._drafts or not has_row(ids.parse(name)):
                        removed += _unlink(path)
                finally:
                    os.close(descriptor)
        return removed


def sync_folder(folder: str) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False  # another process cleaned it away
    return True
