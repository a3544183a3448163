"""The sessions of systemd-logind as they are at this moment, for a command that can wait. Needs jeepney."""

from __future__ import annotations

import time
from typing import Any, Final

from jeepney.io.blocking import DBusConnection, open_dbus_connection

from mailnode.terminals.logind import login_of, paths_of
from mailnode.terminals.logind_calls import heard, list_sessions, session
from mailnode.terminals.logins import Login

PATIENCE: Final = 3.0  # seconds for all of it


class LogindNow:
    """Logins of the system bus, asked afresh each time. `current` waits; OSError when nobody answers."""

    kind = "logind"

    def current(self) -> list[Login]:
        until = time.monotonic() + PATIENCE
        try:
            bus = open_dbus_connection("SYSTEM", auth_timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:  # an address that is none; who does not know us
            raise ConnectionError(str(error)) from None
        with bus:
            logins = [
                login_of(body[0]) for path in _paths(bus, until) if (body := _ask(bus, session(path), until))
            ]
        return [login for login in logins if login is not None]


def _paths(bus: DBusConnection, until: float) -> list[str]:
    body = _ask(bus, list_sessions(), until)
    if not body:
        raise ConnectionError("systemd-logind does not answer")
    return paths_of(body[0])


def _ask(bus: DBusConnection, call: Any, until: float) -> tuple[Any, ...]:
    """The answer to a call, empty if it failed: a session may be gone by then."""
    answer = heard(bus.send_and_get_reply(call, timeout=max(0.0, until - time.monotonic())))
    return () if answer.failed else answer.body
