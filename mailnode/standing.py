"""Where a message for a terminal comes from, as this host sees it (pure)."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from mailnode.interfaces import Standing
from mailnode.mail import Client, Rights


def standing(client: Client, rights: Rights) -> Standing:
    """What a client's messages may claim on a terminal. Nothing that the client says counts here."""
    # A client that leads because we called it sits at the other end of that call.
    return Standing(not client.turned and _on_this_host(client.address), rights.relay)


def _on_this_host(address: str) -> bool:
    if not address:
        return True  # a local socket
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback
