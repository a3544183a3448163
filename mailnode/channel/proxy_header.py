"""The PROXY protocol's header, versions 1 and 2: whom a proxy in front of us speaks for.

What came before it is not mail: the header is read whole, within its limits, or the connection is over.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final

V1_SIZE: Final = 107  # octets with CRLF, the longest there is (proxy-protocol.txt 2.1)
V2_SIZE: Final = 2048  # octets; addresses take 36, the rest are remarks of the proxy (2.2)
NOBODY: Final = ("0.0.0.0", 0)  # the proxy does not say for whom: a stranger

_V2_MAGIC: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_START: Final = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21


class HeaderError(Exception):
    """It is no PROXY header, or a wrong one."""


def parse_header(octets: bytes) -> tuple[tuple[str, int], bytes] | None:
    """The address and port of the client, and the octets behind the header; None if more must come.

    HeaderError for all else.
    """
    if octets.startswith(_V2_MAGIC[: len(octets)]):
        return _version_2(octets)
    if octets.startswith(b"PROXY "[: len(octets)]):
        return _version_1(octets)
    raise HeaderError("no PROXY header")


def _version_1(octets: bytes) -> tuple[tuple[str, int], bytes] | None:
    """`PROXY TCP4 client proxy port port CRLF`."""
    line, end, rest = octets[:V1_SIZE].partition(b"\r\n")
    if not end:
        if len(octets) >= V1_SIZE:
            raise HeaderError("the PROXY header has no end")
        return None
    rest += octets[V1_SIZE:]
    words = line.decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return NOBODY, rest
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise HeaderError("a PROXY header of an unknown form")
    try:
        client, proxy = ip_address(words[2]), ip_address(words[3])
    except ValueError:
        raise HeaderError("a PROXY header without addresses") from None
    version = 4 if words[1] == "TCP4" else 6
    ports = words[4:]
    if {client.version, proxy.version} != {version} or not all(map(_is_port, ports)):
        raise HeaderError("a PROXY header that contradicts itself")
    return (str(client), int(ports[0])), rest


def _is_port(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 65535


def _version_2(octets: bytes) -> tuple[tuple[str, int], bytes] | None:
    if len(octets) < _V2_START.size:
        return None
    _, command, family, length = _V2_START.unpack_from(octets)
    if command not in (_LOCAL, _PROXY):
        raise HeaderError("a PROXY header of an unknown version")
    if length > V2_SIZE:
        raise HeaderError("the PROXY header is too long")
    end = _V2_START.size + length
    if len(octets) < end:
        return None
    block, rest = octets[_V2_START.size : end], octets[end:]
    size = {_TCP4: 4, _TCP6: 16}.get(family)
    if command == _LOCAL or size is None:  # the proxy's own look, or a client without an IP address
        return NOBODY, rest
    if len(block) < 2 * size + 4:
        raise HeaderError("a PROXY header without addresses")
    (port,) = struct.unpack_from("!H", block, 2 * size)
    return (str(ip_address(block[:size])), port), rest
