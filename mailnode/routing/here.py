"""Whether an address is one of this host's: asked of the kernel, which knows them all."""

from __future__ import annotations

import socket


def is_here(address: str) -> bool:
    """Whether `address` is bound to an interface of this host."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))  # the kernel lets nobody bind to an address of others
    except OSError:
        return False
    return True
