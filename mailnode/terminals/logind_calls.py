"""The messages to systemd-logind on D-Bus, and what their answers say. Needs jeepney."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from jeepney import (
    DBusAddress,
    HeaderFields,
    MatchRule,
    MessageType,
    Properties,
    message_bus,
    new_method_call,
)

from mailnode.terminals.logind import MANAGER, NAME, PATH, SESSION, is_session

_MANAGER: Final = DBusAddress(PATH, NAME, MANAGER)

# Signals only say where to look again; what is there is asked of logind itself, for anybody on the bus
# can send a signal to somebody.
RULES: Final = (
    MatchRule(type="signal", sender=NAME, path=PATH, interface=MANAGER),
    MatchRule(
        type="signal",
        sender=NAME,
        path_namespace=PATH + "/session",
        interface="org.freedesktop.DBus.Properties",
        member="PropertiesChanged",
    ),
)


class Heard(NamedTuple):
    """A message of the bus: an answer to the call `serial`, or a signal about the session `path`."""

    serial: int = 0
    failed: bool = False
    body: tuple[Any, ...] = ()
    path: str = ""


def hello() -> Any:
    return message_bus.Hello()


def watch(rule: MatchRule) -> Any:
    return message_bus.AddMatch(rule)


def list_sessions() -> Any:
    return new_method_call(_MANAGER, "ListSessions")


def session(path: str) -> Any:
    """The call for all properties of the session at `path`."""
    return Properties(DBusAddress(path, NAME, SESSION)).get_all()


def heard(message: Any) -> Heard:
    """What a message says; an empty `Heard` for one that is not for us."""
    fields = message.header.fields
    kind, body = message.header.message_type, message.body
    if kind in (MessageType.method_return, MessageType.error):
        serial = int(fields.get(HeaderFields.reply_serial, 0))
        return Heard(serial=serial, failed=kind is MessageType.error, body=body)
    if kind is MessageType.signal:
        if fields.get(HeaderFields.member) in ("SessionNew", "SessionRemoved"):
            path = body[1] if len(body) == 2 else ""
        else:
            path = fields.get(HeaderFields.path, "")
        return Heard(path=path) if is_session(path) else Heard()
    return Heard()
