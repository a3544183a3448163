"""SASL mechanisms, without I/O and without secrets (RFC 4422, RFC 4954 4)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final, Protocol


class Exchange(Protocol):
    """The receiver's side of one exchange."""

    def respond(self, line: bytes) -> tuple[str, str] | None:
        """The (name, secret) that a base64 response line holds, None if it cannot be decoded."""


class Plain:
    """PLAIN (RFC 4616): one message, [authzid] NUL authcid NUL password."""

    def respond(self, line: bytes) -> tuple[str, str] | None:
        try:
            # RFC 4954 4: a lone "=" is an empty initial response.
            octets = base64.b64decode(b"" if line == b"=" else line, validate=True)
            authorization, name, secret = octets.decode("utf-8").split("\0")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
        if not name or not secret or authorization not in ("", name):  # nobody acts for another here
            return None
        return name, secret


MECHANISMS: Final[dict[str, Callable[[], Exchange]]] = {"PLAIN": Plain}


def plain_response(name: str, secret: str) -> bytes:
    """The initial response of PLAIN, in base64."""
    return base64.b64encode(f"\0{name}\0{secret}".encode())
