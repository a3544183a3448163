"""Base64 of SASL messages on the wire (RFC 4954 4)."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode


def decode(line: bytes) -> bytes | None:
    """The octets that `line` stands for, a lone "=" for none at all; None if it is not base64.

    Strict: no other character, padding at the end only, and no bits that the octets would not give.
    """
    if line == b"=":
        return b""
    try:
        octets = b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return None
    return octets if b64encode(octets) == line else None


def encode(octets: bytes) -> str:
    """The base64 of a challenge or response. For an empty initial response the line has "=" instead."""
    return b64encode(octets).decode()
