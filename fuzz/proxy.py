"""The header that a proxy in front of a listener says, versions 1 and 2.

Invariants:
- Nothing but HeaderError is raised, with a text of one printable line.
- However the octets are cut, the same client and the same octets behind the header come out, or an error.
- What waits for more is within the limits of the header; what lies behind the header comes back whole.
- The client is an IP address in its canonical form, and a port.
"""

from __future__ import annotations

from ipaddress import ip_address

from fuzz.choices import arrivals, split
from mailnode.channel.proxy_header import V1_SIZE, V2_SIZE, HeaderError, parse_header

MAX_LENGTH = 4096

Found = tuple[tuple[str, int], bytes]


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    whole = _read([octets])
    assert _read(arrivals(octets, decisions)) == whole
    if not isinstance(whole, tuple):
        return
    (address, port), behind = whole
    bare = address.partition("%")[0]  # of an IPv6 address with a scope, which nobody looks at
    assert str(ip_address(bare)) == bare and 0 <= port <= 65535
    assert octets.endswith(behind)
    assert parse_header(octets[: len(octets) - len(behind)]) == ((address, port), b"")


def _read(pieces: list[bytes]) -> Found | str | None:
    """What comes out in the end: a client, the error, or None if more must come."""
    so_far = b""
    found: Found | None = None
    for number, piece in enumerate(pieces):
        so_far += piece
        try:
            found = parse_header(so_far)
        except HeaderError as error:
            assert str(error).isascii() and str(error).isprintable()
            return "error"
        if found is not None:
            return found[0], found[1] + b"".join(pieces[number + 1 :])
        assert len(so_far) < max(V1_SIZE, V2_SIZE + 16)
    return found
