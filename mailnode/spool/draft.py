"""The body of a message while it arrives: in memory up to 64 KiB, then a file that the disk keeps up with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import ISpoolDraft
from mailnode.mail import CHUNK, Body
from mailnode.spool.bodies import BodyFile, BodyStore
from mailnode.spool.errors import SpoolError

HIGH_WATER: Final = 4 * CHUNK  # octets on their way to the disk at which the writer is asked to pause
LOW_WATER: Final = HIGH_WATER // 2

_log = Logger()


@implementer(ISpoolDraft)
class Draft:
    """A draft of the SQLite spool. A disk error shows when the message is accepted, not before: until
    then the client is heard out, and what it says is thrown away."""

    def __init__(self, store: BodyStore, new_name: Callable[[], str], arrived: float) -> None:
        self.size = 0
        self.arrived = arrived  # seconds since the epoch
        self._store = store
        self._new_name = new_name
        self._pieces: list[bytes] = []
        self._waiting = 0  # octets in `_pieces`
        self._head = b""
        self._file: BodyFile | None = None
        self._in_flight = 0
        self._paused: list[Deferred[None]] = []
        self._ended = False

    def write(self, piece: bytes) -> Deferred[None] | None:
        """Takes more octets. A Deferred asks for a pause until the disk has caught up."""
        if self._ended:
            raise SpoolError("the draft has ended")
        self._pieces.append(piece)
        self._waiting += len(piece)
        self.size += len(piece)
        if self._file is None:
            if self.size <= CHUNK:
                return None
            self._file = self._store.new(self._new_name())
            self._head = b"".join(self._pieces)[:CHUNK]
        if self._waiting >= CHUNK:
            self._flush(self._file)
        if self._in_flight < HIGH_WATER:
            return None
        pause: Deferred[None] = Deferred()
        self._paused.append(pause)
        return pause

    def _flush(self, file: BodyFile) -> None:
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        self._in_flight += len(data)
        self._store.do(lambda: file.write(data)).addBoth(self._written, len(data)).addErrback(report)

    def _written(self, result: object, size: int) -> object:
        self._in_flight -= size
        if self._in_flight <= LOW_WATER:
            paused, self._paused = self._paused, []
            for pause in paused:
                pause.callback(None)
        return result

    def head(self) -> bytes:
        """The first octets written, up to 64 KiB."""
        if self._file is not None:
            return self._head
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def discard(self) -> None:
        """Forgets it and removes what is on disk; nothing happens to a draft that was accepted."""
        if self._ended:
            return
        self._ended = True
        self._pieces.clear()
        if self._file is not None:
            self._file.abandon()
            self._store.do(self._file.remove).addErrback(report)

    def finish(self, id: str) -> Body | Deferred[Body]:
        """Ends the draft as the body of message `id`: at once, or when its file is safe. SpoolError."""
        if self._ended:
            raise SpoolError("the draft has ended")
        self._ended = True
        if self._file is None:
            data = b"".join(self._pieces)
            self._pieces.clear()
            return Body(len(data), data)
        if self._waiting:
            self._flush(self._file)
        body = Body(self.size, None, f"{self._store.folder}/{id}")
        return self._store.finish(self._file, id).addCallback(lambda _: body)

    def committed(self) -> None:
        """The row is there: the file belongs to it now."""
        if self._file is not None:
            self._store.do(self._file.close).addErrback(report)

    def refused(self) -> Deferred[None]:
        """There is no row: removes the file; fires when it is gone."""
        if self._file is None:
            return succeed(None)
        return self._store.do(self._file.remove).addErrback(report)


def report(failure: Failure) -> None:
    """Logs a failure to tidy up; the next start cleans what is left."""
    _log.failure("the spool could not tidy up", failure)
