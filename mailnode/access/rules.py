"""Who may do what: the rights that follow from where a client is and what it has proved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Protocol

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailnode.interfaces import IAccess
from mailnode.mail import Client, Credentials, Mode, Password, Reply, Rights
from mailnode.smtp.replies import AUTH_FAILED as FAILED

TERMINALS_ALLOW: Final = ("anyone", "trusted", "authenticated", "none")

_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_MAIL: Final = (Mode.MAIL,)
_ALL_MODES: Final = (Mode.MAIL, Mode.SEND, Mode.SOML, Mode.SAML)

Network = IPv4Network | IPv6Network


class Secrets(Protocol):
    """Where passwords are known."""

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        """Whether `secret` is the password of `name`; takes the same time if there is none."""


@dataclass(frozen=True, slots=True)
class PeerRule:
    """How a peer proves itself: by AUTH under its name, by a client certificate, by its address."""

    name: str
    auth: bool = True
    fingerprint: str = ""
    networks: tuple[str, ...] = ()


@implementer(IAccess)
class Access:
    """`relay_networks` are trusted; `terminals_allow` says who may SEND, SOML and SAML.

    Without `secrets` nobody can authenticate. ValueError for a network or a word that is none.
    """

    def __init__(
        self,
        relay_networks: Collection[str],
        terminals_allow: str,
        peers: Sequence[PeerRule] = (),
        secrets: Secrets | None = None,
    ) -> None:
        if terminals_allow not in TERMINALS_ALLOW:
            raise ValueError(f"{terminals_allow!r} is none of {TERMINALS_ALLOW}")
        self._trusted = _in_networks(relay_networks)
        self._loopback = _in_networks(str(network) for network in _LOOPBACK)
        self._terminals_allow = terminals_allow
        self._peers = {peer.name: peer for peer in peers}
        self._peer_networks = [(peer.name, _in_networks(peer.networks)) for peer in peers if peer.networks]
        self._secrets = secrets

    def rights(self, client: Client) -> Rights:
        if client.turned:
            # It leads because we called it: nothing was proved, and its address proves nothing either.
            return Rights(self._modes(trusted=False, authenticated=False))
        authenticated = bool(client.identity)
        trusted = authenticated or not client.address or self._trusted(client.address)
        return Rights(
            modes=self._modes(trusted, authenticated),
            relay=trusted,
            verify=trusted,
            expand=trusted,
            turn=bool(self.peer(client)),
            mechanisms=self._mechanisms(client),
        )

    def authenticate(self, client: Client, credentials: Credentials) -> Deferred[str | Reply]:
        if self._secrets is None or "PLAIN" not in self._mechanisms(client):
            return succeed(FAILED)
        assert isinstance(credentials, Password)
        name = credentials.name
        peer = self._peers.get(name)
        # A peer that has to prove itself otherwise is as unknown here as anybody: same words, same time.
        right = self._secrets.verify(name if peer is None or peer.auth else "", credentials.secret)
        return right.addCallback(lambda right: name if right else FAILED)

    def peer(self, client: Client) -> str:
        """The peer that `client` has proved to be, "" if it is none. A HELO name proves nothing."""
        if client.turned:
            return ""
        by_name = self._peers.get(client.identity)
        if by_name is not None and by_name.auth:
            return by_name.name
        for peer in self._peers.values():
            if peer.fingerprint and peer.fingerprint == client.fingerprint:
                return peer.name
        if client.identity or not client.address:
            return ""
        return next((name for name, holds in self._peer_networks if holds(client.address)), "")

    def _modes(self, trusted: bool, authenticated: bool) -> tuple[Mode, ...]:
        allowed = {
            "anyone": True,
            "trusted": trusted,
            "authenticated": authenticated,
            "none": False,
        }[self._terminals_allow]
        return _ALL_MODES if allowed else _MAIL

    def _mechanisms(self, client: Client) -> tuple[str, ...]:
        """PLAIN only where nobody on the way can read it (RFC 4954 4)."""
        if self._secrets is None or client.identity or client.turned:
            return ()
        safe = client.tls or not client.address or self._loopback(client.address)
        return ("PLAIN",) if safe else ()


def _in_networks(networks: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address is in one of `networks`; the last answers are remembered."""
    parsed: list[Network] = [ip_network(network) for network in networks]

    @lru_cache(maxsize=1024)
    def holds(address: str) -> bool:
        ip = _address(address)
        return ip is not None and any(ip in network for network in parsed)

    return holds


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, an IPv4 one that came over an IPv6 socket as itself; None if it is none."""
    try:
        ip = ip_address(text)
    except ValueError:
        return None  # an address that cannot be read is in no network
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip
