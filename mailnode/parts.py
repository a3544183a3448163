"""What the rooms are built of, made from the configuration: for the house, and for the command line.

Like `mailnode.node` it sees the rooms; it starts nothing and keeps nothing.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from mailnode.access.passwords import Passwords
from mailnode.access.rules import PeerRule
from mailnode.channel.tls import ClientTls, ServerTls
from mailnode.configuration.sections import Configuration, Dial
from mailnode.configuration.sections import Peer as PeerSection
from mailnode.configuration.values import Route
from mailnode.directory.directory import Directory
from mailnode.directory.system import SystemUsers
from mailnode.directory.users import NamedUsers, UserSource
from mailnode.mail import Path
from mailnode.peering.calls import Call
from mailnode.peering.keeping import Keeping
from mailnode.peering.peers import Peer
from mailnode.routing.elsewhere import certified_name
from mailnode.routing.routes import Routing
from mailnode.spool.schedule import Retry


def invitations_folder(configuration: Configuration) -> str:
    return os.path.join(configuration.data, "invitations")


def own_addresses(configuration: Configuration) -> list[str]:
    """The addresses that the listeners are bound to, as far as the configuration names them."""
    found = []
    for listen in configuration.listen:
        for part in str(listen.endpoint).replace("\\:", "\0").split(":"):
            if part.startswith("interface="):
                found.append(part.removeprefix("interface=").replace("\0", ":"))
    return [address for address in found if address not in ("0.0.0.0", "::") and _is_address(address)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False  # a name; whose addresses are, the kernel knows
    return True


def build_server_tls(configuration: Configuration) -> ServerTls | None:
    """What listeners show, None without a certificate. ValueError with words for the operator."""
    tls = configuration.tls
    if tls is None or tls.certificate is None or tls.key is None:
        return None
    return ServerTls(str(tls.certificate), str(tls.key))


def build_client_tls(configuration: Configuration) -> ClientTls:
    """How hosts that we call are spoken to by TLS. ValueError with words for the operator."""
    tls = configuration.tls
    if tls is None:
        return ClientTls()
    shown = (tls.certificate, tls.key) if tls.client else (None, None)
    return ClientTls(tls.roots, *shown)


def build_directory(configuration: Configuration) -> Directory:
    sources: list[UserSource] = []
    if configuration.users.names:
        sources.append(NamedUsers([(user.name, user.full_name) for user in configuration.users.names]))
    if configuration.users.system:
        sources.append(SystemUsers(pwd.getpwnam, pwd.getpwall, time.monotonic))
    return Directory(
        sources,
        aliases={name: _members(targets) for name, targets in configuration.aliases.items()},
        lists={name: _members(targets) for name, targets in configuration.lists.items()},
        forward={name: target.path for name, target in configuration.forward.items()},
        moved={name: target.path for name, target in configuration.moved.items()},
        postmaster=configuration.postmaster.path if configuration.postmaster else None,
        domains=(configuration.host, *configuration.domains),
    )


def build_routing(configuration: Configuration, directory: Directory) -> Routing:
    return Routing(
        configuration.host,
        configuration.domains,
        directory,
        routes={pattern: route.to for pattern, route in configuration.routes.items()},
        tls={pattern: _policy(route) for pattern, route in configuration.routes.items()},
        held=[domain for peer in configuration.peer for domain in peer.domains],
        addresses=("127.0.0.1", "::1", *own_addresses(configuration)),
    )


def _members(targets: Sequence[Any]) -> tuple[tuple[str, Path], ...]:
    return tuple((target.phrase, target.path) for target in targets)


def build_retry(configuration: Configuration) -> Retry:
    retry = configuration.retry
    return Retry(first=retry.first, warn=retry.warn, expire=retry.expire)


def build_peer_rule(peer: PeerSection) -> PeerRule:
    by_address = tuple(peer.addresses) if "address" in peer.allow else ()
    fingerprint = str(peer.fingerprint or "") if "certificate" in peer.allow else ""
    return PeerRule(peer.name, "auth" in peer.allow, fingerprint, by_address, peer.cram_md5)


def build_peer(peer: PeerSection) -> Peer:
    networks = tuple(ip_network(network) for network in peer.addresses) if "address" in peer.allow else ()
    domains = tuple(domain.lower() for domain in peer.domains)
    return Peer(
        peer.name,
        domains,
        "auth" in peer.allow,
        networks,
        peer.keep,
        build_peer_rule(peer).fingerprint,
        str(peer.deliver or ""),
    )


def _policy(route: Route) -> str:
    """A `tls:` endpoint brings its own TLS, and verifies the host that it names."""
    return "none" if route.to.startswith(("tls:", "ssl:")) else route.tls


# ------------------------------------------------------------- peering


def build_keeping(configuration: Configuration) -> Keeping:
    keep: dict[str, float] = {
        domain: float(peer.keep) for peer in configuration.peer for domain in peer.domains
    }
    return Keeping(keep, configuration.retry.expire, configuration.retry.warn)


def routed_domains(configuration: Configuration) -> list[str]:
    """The domains that have a next hop of their own: ETRN may start their queues."""
    routes = configuration.routes.items()
    return [domain.lower() for domain, route in routes if "*" not in domain and route.to != "hold"]


def build_call(configuration: Configuration, dial: Dial, passwords: Passwords | None) -> Call:
    secret = (passwords.recoverable(dial.user) or "") if dial.user and passwords is not None else ""
    domains = tuple(dial.domains)
    return Call(
        dial.name,
        str(dial.endpoint),
        dial.user or "",
        secret,
        dial.outbound,
        dial.every,
        "required" if (dial.fingerprint or dial.implicit) and dial.tls == "opportunistic" else dial.tls,
        certified_name(dial.endpoint, dial.name),
        str(dial.fingerprint or ""),
        dial.command,
        domains or (tuple(configuration.domains) if dial.command == "ETRN" else ()),
        max(1, round(dial.wait)) if dial.wait is not None else 0,
        dial.implicit,
    )
