"""What systemd-logind says of a session, as a login (pure; org.freedesktop.login1(5))."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from mailnode.terminals.logins import Login, printable

NAME: Final = "org.freedesktop.login1"
PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
SESSION: Final = "org.freedesktop.login1.Session"
SESSIONS: Final = 8192  # that are looked at

_TEXT: Final = 256  # characters of a name
_USEC: Final = 1_000_000


def paths_of(reply: object) -> list[str]:
    """The object paths in the answer to ListSessions: an array of (id, uid, user, seat, path)."""
    if not isinstance(reply, Iterable):
        return []
    rows = [row for row in reply if isinstance(row, tuple) and len(row) == 5]
    return [str(row[4]) for row in rows if is_session(row[4])][:SESSIONS]


def is_session(path: object) -> bool:
    return isinstance(path, str) and path.startswith(PATH + "/session/")


def login_of(properties: object) -> Login | None:
    """The login that a session is; None if it has no terminal, is no person's, or is about to end.

    `properties` is the answer to GetAll: names, each with a pair of signature and value.
    """
    if not isinstance(properties, Mapping):
        return None
    user, line = _text(properties, "Name"), _text(properties, "TTY").removeprefix("/dev/")
    if not user or not line or not _text(properties, "Class").startswith("user"):
        return None
    if _text(properties, "State") == "closing":
        return None
    since = _value(properties, "Timestamp")
    seconds = since // _USEC if isinstance(since, int) else 0
    return Login(user, line, _text(properties, "RemoteHost"), seconds)


def _text(properties: Mapping[str, object], name: str) -> str:
    value = _value(properties, name)
    return printable(value[:_TEXT]) if isinstance(value, str) else ""


def _value(properties: Mapping[str, object], name: str) -> object:
    variant = properties.get(name)
    return variant[1] if isinstance(variant, tuple) and len(variant) == 2 else None
