"""SASL exchanges of both sides, without I/O and without secrets of our own (RFC 4422, RFC 4954)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailnode.smtp.sasl.client import choose, plain_response
from mailnode.smtp.sasl.coding import decode, encode
from mailnode.smtp.sasl.scram import Scram
from mailnode.smtp.sasl.server import ByCertificate, CramMd5, Login, Plain
from mailnode.smtp.sasl.steps import Challenge, Claim, ClientExchange, Exchange, NeedKeys, Nonce, Step

__all__ = [
    "MECHANISMS",
    "Challenge",
    "Claim",
    "ClientExchange",
    "Exchange",
    "NeedKeys",
    "Nonce",
    "Step",
    "choose",
    "decode",
    "encode",
    "plain_response",
]

# The receiver's side by name: `MECHANISMS[name](nonce, hostname)` for each exchange anew.
MECHANISMS: Final[dict[str, Callable[[Nonce, str], Exchange]]] = {
    "EXTERNAL": ByCertificate,
    "SCRAM-SHA-256": Scram,
    "PLAIN": Plain,
    "LOGIN": Login,
    "CRAM-MD5": CramMd5,
}
