"""Where a host that is invited can reach this node, and by what certificate it knows it."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Final, NamedTuple

import click

from mailnode.commands.invocation import CommandError
from mailnode.config import Configuration, Listen
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets
from mailnode.pairing.token import is_host
from mailnode.parts import build_server_tls
from mailnode.submission import parse_where

NO_TLS: Final = (
    "this node has no TLS, and nobody can be invited over an open line: `mailnode certificate` makes a "
    "certificate and says what to put into the configuration"
)
NO_LISTENER: Final = 'no listener has tls = "starttls", by which a peer could join'
# Home lines often cannot reach port 25, so what is for customers comes first.
ROLES: Final = ("submission", "odmr", "smtp")


class Reachable(NamedTuple):
    host: str
    port: int
    fingerprint: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def reachable(configuration: Configuration, endpoint: str | None) -> Reachable:
    """At `endpoint`, HOST or HOST:PORT, or by the host name and the best of the listeners. CommandError."""
    try:
        tls = build_server_tls(configuration)
    except ValueError as error:
        raise CommandError(f"tls: {error}", os.EX_CONFIG) from None
    if tls is None:
        raise CommandError(NO_TLS, os.EX_CONFIG)
    listeners = [one for one in configuration.listen if one.tls == "starttls" and one.role in ROLES]
    if not listeners:
        raise CommandError(NO_LISTENER, os.EX_CONFIG)
    listen = min(listeners, key=lambda one: ROLES.index(one.role))
    interface, port = _tcp(listen.endpoint)
    if port == 0:
        port = _bound(configuration, listen)
    if endpoint is not None:
        where = parse_where(endpoint.removeprefix("tcp:"), port or 25)
        if where is None or not where.port or not is_host(where.host):
            raise click.UsageError(f"{endpoint!a} is not HOST or HOST:PORT")
        return Reachable(where.host, where.port, tls.fingerprint)
    if port is None or not port or _is_loopback(interface):
        text = f"{listen.endpoint} cannot be reached from elsewhere as it is: say --endpoint HOST:PORT"
        raise CommandError(text, os.EX_CONFIG)
    if "." not in configuration.host or not is_host(configuration.host):
        text = f"no other host finds this one by the name {configuration.host}: say --endpoint HOST:PORT"
        raise CommandError(text, os.EX_CONFIG)
    return Reachable(configuration.host, port, tls.fingerprint)


def _tcp(endpoint: str) -> tuple[str, int | None]:
    """The interface and the port of a Twisted server endpoint string, None where it tells no port."""
    kind, *words = endpoint.replace(r"\:", "\0").split(":")
    values = dict(word.split("=", 1) for word in words if "=" in word)
    port = values.get("port") or next((word for word in words if "=" not in word), "")
    if kind not in ("tcp", "tcp6") or not port.isdigit() or int(port) > 65535:
        return "", None
    return values.get("interface", "").replace("\0", ":"), int(port)


def _bound(configuration: Configuration, listen: Listen) -> int:
    """The port that the running node was given, 0 if none is running."""
    for path in sockets(configuration.data):
        try:
            with ControlClient.connect(path) as node:
                status = node.ask("status")
        except (NoNodeError, RefusedError, OSError):
            continue  # then there is no such port
        for one in status.get("listening", ()):
            if one.get("endpoint") == listen.endpoint and (found := parse_where(str(one.get("where")))):
                return found.port
    return 0


def _is_loopback(interface: str) -> bool:
    try:
        return ip_address(interface).is_loopback
    except ValueError:
        return interface == "localhost"
