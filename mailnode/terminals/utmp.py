"""Who is logged in, read from the records of a utmp file (utmp(5), Linux on 64-bit hosts)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from mailnode.terminals.logins import Login, printable

# type, pid, line, id, user, host, exit (2), session, seconds, microseconds, address (4), unused
_RECORD: Final = struct.Struct("hi32s4s32s256shhiii4i20x")
RECORD_SIZE: Final = 384
USER_PROCESS: Final = 7


def logins(octets: bytes) -> Iterator[Login]:
    """The USER_PROCESS records in `octets`; a torn record at the end is not one."""
    whole = len(octets) - len(octets) % RECORD_SIZE
    for record in _RECORD.iter_unpack(octets[:whole]):
        kind, _, line, _, user, host, _, _, _, seconds = record[:10]
        if kind == USER_PROCESS and user[0] and line[0]:
            yield Login(_name(user), _name(line), _name(host), seconds)


def _name(field: bytes) -> str:
    """A field up to its first NUL."""
    return printable(field.partition(b"\0")[0].decode("utf-8", "replace"))
