"""What a Twisted server endpoint string says of the address behind it."""

from __future__ import annotations

from typing import Final, NamedTuple

_KINDS: Final = ("tcp", "tcp6", "ssl")


class Where(NamedTuple):
    """`interface` is "" where none is named; `port` None for what is no TCP port of this host."""

    interface: str
    port: int | None


def where_of(endpoint: str) -> Where:
    """The interface and the port that an endpoint string names, of the listener behind a `haproxy:` too."""
    kind, *words = endpoint.removeprefix("haproxy:").replace("\\:", "\0").split(":")
    values = dict(word.split("=", 1) for word in words if "=" in word)
    port = values.get("port") or next((word for word in words if "=" not in word), "")
    if kind not in _KINDS or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return Where("", None)
    return Where(values.get("interface", "").replace("\0", ":"), int(port))
