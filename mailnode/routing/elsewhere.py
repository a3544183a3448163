"""Which addresses can be those of another host: what a stranger's DNS names is not always one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

# On this side of every router: "this network" (RFC 1122 3.2.1.3), and reserved with broadcast (RFC 1112 4).
_NO_HOST: Final = (ip_network("0.0.0.0/8"), ip_network("240.0.0.0/4"))
_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052 2.1
_COMPATIBLE: Final = ip_network("::/96")  # RFC 4291 2.5.5.1


def is_elsewhere(address: str) -> bool:
    """Whether `address` can be another host that mail may be sent to because its DNS says so.

    Loopback, link-local, multicast, unspecified and reserved addresses cannot; IPv6 addresses that carry
    an IPv4 one are as good as that. Private networks can: their hosts exchange mail by DNS, too.
    """
    ip = ip_address(address)
    inner = _carried(ip) if isinstance(ip, IPv6Address) else None
    if inner is not None:
        return _is_host(inner)
    return _is_host(ip)


def _is_host(ip: IPv4Address | IPv6Address) -> bool:
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    if isinstance(ip, IPv6Address):
        return not ip.is_site_local
    return not any(ip in network for network in _NO_HOST)


def _carried(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which packets for an IPv6 address go in the end."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 0xFFFF):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def certified_name(endpoint: str, domain: str) -> str:
    """The name that the certificate of a next hop must be for: the host that the endpoint string names;
    where it names an address or a socket, the `domain` whose mail goes there."""
    words = endpoint.replace("\\:", "\0").split(":")
    if words[0] not in ("tcp", "tls", "ssl"):
        return domain
    named = [word.partition("=")[2] for word in words[1:] if word.startswith("host=")]
    host = (named or [word for word in words[1:2] if "=" not in word] or [""])[0].replace("\0", ":")
    try:
        ip_address(host)
    except ValueError:
        return host or domain
    return domain
