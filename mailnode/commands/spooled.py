"""The spool for a command: opened if there is one, and asked in this thread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailnode.commands.invocation import CommandError, status_of, words_of
from mailnode.config import Configuration
from mailnode.spool.sqlite import SqliteSpool

FILE: Final = "spool.sqlite"

T = TypeVar("T")


@contextmanager
def opened(configuration: Configuration) -> Iterator[SqliteSpool]:
    """The spool of the configuration; none is made. CommandError if there is none or it cannot be read."""
    try:
        os.stat(os.path.join(configuration.data, FILE))
    except (FileNotFoundError, NotADirectoryError):
        raise CommandError(
            f"there is no spool in {configuration.data}: no node has run with this configuration",
            os.EX_NOINPUT,
        ) from None
    except OSError as error:
        raise CommandError(f"cannot open the spool: {words_of(error)}", status_of(error)) from None
    spool = SqliteSpool(configuration.data, None, time.time)
    try:
        try:
            spool.open()
        except OSError as error:
            raise CommandError(f"cannot open the spool: {words_of(error)}", status_of(error)) from None
        yield spool
    finally:
        now(spool.close())


def now(deferred: Deferred[T]) -> T:
    """The result of a spool that works in the calling thread: it has fired already."""
    results: list[T | Failure] = []
    deferred.addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
