"""The utmp file of this host: read afresh each time it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twisted.logger import Logger

from mailnode.terminals.logins import Login
from mailnode.terminals.utmp import RECORD_SIZE, logins

_RECORDS: Final = 8192  # of the file that are looked at


class UtmpFile:
    """Logins in the utmp file `path`."""

    kind = "utmp"
    _log = Logger()

    def __init__(self, path: str) -> None:
        self._path = path

    def current(self) -> Iterable[Login]:
        return logins(self._records())

    def _records(self) -> bytes:
        try:
            with open(self._path, "rb", buffering=0) as file:
                return file.read(_RECORDS * RECORD_SIZE)
        except FileNotFoundError:  # nobody has logged in yet
            return b""
        except OSError as error:
            self._log.warn("utmp cannot be read: {reason}", reason=error.strerror)
            return b""
