"""Where a host that is invited can reach this node, and by what certificate it knows it."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Final, NamedTuple

import click

from mailnode.commands.invocation import CommandError
from mailnode.config import Configuration, Listen, Where, where_of
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets
from mailnode.pairing.token import is_host
from mailnode.parts import build_server_tls
from mailnode.submission import parse_where

NO_TLS: Final = (
    "this node has no TLS, and nobody can be invited over an open line: `mailnode certificate` makes a "
    "certificate and says what to put into the configuration"
)
NO_LISTENER: Final = (
    'no listener of role submission, odmr or smtp has tls = "starttls" or "implicit", '
    "by which a peer could join"
)
# Home lines often cannot reach port 25, so what is for customers comes first.
ROLES: Final = ("submission", "odmr", "smtp")
SECURE: Final = ("starttls", "implicit")


class Reachable(NamedTuple):
    host: str
    port: int
    fingerprint: str
    implicit: bool  # TLS from the first octet

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
    listeners = [one for one in configuration.listen if one.tls in SECURE and one.role in ROLES]
    if not listeners:
        raise CommandError(NO_LISTENER, os.EX_CONFIG)
    listen = min(listeners, key=lambda one: ROLES.index(one.role))
    interface, port = _listens(configuration, listen)
    if endpoint is not None:
        where = parse_where(endpoint.removeprefix("tcp:"), port or 25)
        if where is None or not where.port or not is_host(where.host):
            raise click.UsageError(f"{endpoint!a} is not HOST or HOST:PORT")
        # Where no listener has that port it is forwarded to one, to the best as far as we know.
        same = (one for one in listeners if _listens(configuration, one).port == where.port)
        return Reachable(where.host, where.port, tls.fingerprint, next(same, listen).tls == "implicit")
    if port is None or not port or _is_loopback(interface):
        text = f"{listen.endpoint} cannot be reached from elsewhere as it is: say --endpoint HOST:PORT"
        raise CommandError(text, os.EX_CONFIG)
    if "." not in configuration.host or not is_host(configuration.host):
        text = f"no other host finds this one by the name {configuration.host}: say --endpoint HOST:PORT"
        raise CommandError(text, os.EX_CONFIG)
    return Reachable(configuration.host, port, tls.fingerprint, listen.tls == "implicit")


def _listens(configuration: Configuration, listen: Listen) -> Where:
    """Where a listener is reached by others, as far as we know."""
    if listen.endpoint.startswith("haproxy:"):
        return Where("", None)  # by way of its proxy
    where = where_of(listen.endpoint)
    return where._replace(port=_bound(configuration, listen)) if where.port == 0 else where


def _bound(configuration: Configuration, listen: Listen) -> int:
    """The port that the running node was given, 0 if none is running."""
    for path in sockets(configuration.data):
        try:
            with ControlClient.connect(path) as node:
                status = node.ask("status")
        except (NoNodeError, RefusedError, OSError):
            continue  # then there is no such port
        # In the order of the configuration, for several endpoints with port 0 look the same.
        listening = status.get("listening", [])
        index = next(index for index, one in enumerate(configuration.listen) if one is listen)
        if index < len(listening) and listening[index].get("endpoint") == listen.endpoint:
            found = parse_where(str(listening[index].get("where")))
            return found.port if found is not None else 0
    return 0


def _is_loopback(interface: str) -> bool:
    try:
        return ip_address(interface).is_loopback
    except ValueError:
        return interface == "localhost"
