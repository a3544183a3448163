"""Addresses as access looks at them: whether they are in a network, and which of them are one host."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Network: TypeAlias = IPv4Network | IPv6Network

_LOOPBACK: Final = ("127.0.0.0/8", "::1/128")


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address, an IPv4 one that came over an IPv6 socket as itself; None if it is none."""
    try:
        ip = ip_address(text)
    except ValueError:
        return None  # an address that cannot be read is in no network
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def in_networks(networks: Iterable[str]) -> Callable[[str], bool]:
    """Whether an address is in one of `networks`; the last answers are remembered. ValueError."""
    parsed: list[Network] = [ip_network(network) for network in networks]

    @lru_cache(maxsize=1024)
    def holds(address: str) -> bool:
        ip = address_of(address)
        return ip is not None and any(ip in network for network in parsed)

    return holds


def loopback() -> Callable[[str], bool]:
    """Whether an address never leaves this host."""
    return in_networks(_LOOPBACK)


def host_of(address: str) -> str:
    """What counts as one host: an IPv4 address, the /64 of an IPv6 one, all that come by local sockets."""
    ip = address_of(address)
    if ip is None:
        return address[:64]
    return f"{int(ip) >> 64:x}::/64" if isinstance(ip, IPv6Address) else str(ip)
