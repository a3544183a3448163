"""What a spool raises: always an OSError, so that intake can answer 451 or 452 whatever the spool is."""

from __future__ import annotations

import errno
import sqlite3
from typing import Final


class SpoolError(OSError):
    """The spool could not do it, and nothing was acknowledged; `errno` says why."""


class DiskError(SpoolError):
    """The fault lies with the disk or a lock, not with one operation: all that were under way fail."""


class DoubtError(DiskError):
    """Nobody can say whether it was done. What it would have needed is left where it is."""


class CorruptRowError(ValueError):
    """A row does not hold what a row must hold. It is set aside, never fatal."""


_ERRNO: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_BUSY: errno.EAGAIN,
    sqlite3.SQLITE_LOCKED: errno.EAGAIN,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.ENOENT,
    sqlite3.SQLITE_CONSTRAINT: errno.EEXIST,
}


def primary_code(error: sqlite3.Error) -> int:
    """The primary result code of SQLite, 0 where the fault is Python's (https://sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_disk_fault(error: BaseException) -> bool:
    """Whether every other operation of the batch would meet the same fault."""
    codes = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_BUSY)
    return isinstance(error, sqlite3.Error) and primary_code(error) in codes


def spool_error(error: BaseException, what: str) -> BaseException:
    """`error` as a SpoolError if the disk or SQLite is to blame, else as it is (a mistake of ours)."""
    if isinstance(error, SpoolError):
        return error
    if isinstance(error, sqlite3.Error):
        return SpoolError(_ERRNO.get(primary_code(error), errno.EIO), f"{what}: {error}")
    if isinstance(error, OSError):
        return SpoolError(error.errno or errno.EIO, f"{what}: {error.strerror}")
    return error
