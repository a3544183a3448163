"""Who the peers are, how each proves itself, and what it may ask for (pure).

The rule is that of access: a name that was proved by AUTH outweighs all else, then a certificate, then
the address of a legacy host; never what a client calls itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from mailnode.interfaces import INVITED
from mailnode.mail import Client, Reply, Turn
from mailnode.smtp.replies import TURN_REFUSED

NOT_YOURS: Final = Reply(450, "ATRN request refused: that is not all yours", "4.7.1")  # RFC 2645 5.2.1

_ADDRESS_IS_NOTHING: Final = ("submission", "odmr")  # listeners where only AUTH proves anything


@dataclass(frozen=True, slots=True)
class Peer:
    """A host whose mail is held until it fetches it."""

    name: str
    domains: tuple[str, ...]  # lower case
    by_auth: bool = True
    networks: tuple[
        IPv4Network | IPv6Network, ...
    ] = ()  # a legacy host that can prove itself by nothing else
    keep: float = 30 * 86400  # seconds
    fingerprint: str = ""  # "sha256:..." of its client certificate, if that proves it
    deliver: str = ""  # where ETRN sends its mail, as `mail.Hop.target`; "": ETRN sends nothing


def peer_of(peers: Sequence[Peer], client: Client) -> Peer | None:
    """The peer that `client` has proved to be."""
    if client.turned or client.identity.startswith(INVITED):
        return None  # we called that host: it has a stranger's rights here; or it is no peer yet
    found: Iterator[Peer] = (it for it in peers if it.by_auth and client.identity == it.name)
    if client.identity and (peer := next(found, None)) is not None:
        return peer
    found = (it for it in peers if client.fingerprint and client.fingerprint == it.fingerprint)
    if (peer := next(found, None)) is not None:
        return peer
    if client.identity or not client.address or client.listener in _ADDRESS_IS_NOTHING:
        return None
    where = ip_address(client.address)
    return next((it for it in peers if any(where in network for network in it.networks)), None)


def granted(peer: Peer | None, turn: Turn) -> tuple[str, ...] | Reply:
    """The domains whose mail `peer` gets, or the refusal; one foreign domain, and it gets nothing."""
    if peer is None:
        return NOT_YOURS if turn.atrn else TURN_REFUSED
    if not set(turn.domains) <= set(peer.domains):
        return NOT_YOURS
    return turn.domains or peer.domains


def meant(node: str, peers: Sequence[Peer], routed: Sequence[str]) -> tuple[str, ...]:
    """The domains served here that the node of an ETRN means (RFC 1985 5, 5.3), in lower case.

    `@domain` is the domain and all below it; `#queue` is a peer by its name. `routed` are domains with a
    next hop of their own.
    """
    if node.startswith("#"):
        return next((peer.domains for peer in peers if peer.name.lower() == node[1:]), ())
    served = dict.fromkeys([*(domain for peer in peers for domain in peer.domains), *routed])
    if node.startswith("@"):
        return tuple(it for it in served if it == node[1:] or it.endswith("." + node[1:]))
    return (node,) if node in served else ()
