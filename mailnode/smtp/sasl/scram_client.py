"""SCRAM-SHA-256, the sender's side: the server has to prove itself too (RFC 5802, RFC 7677)."""

from __future__ import annotations

import hmac
import re
from enum import Enum
from typing import Final

from mailnode.smtp.sasl.coding import decode, encode
from mailnode.smtp.sasl.keys import SHA256, derive, proof, signature
from mailnode.smtp.sasl.steps import MESSAGE_SIZE, Nonce

# RFC 7677 4: less would make the secret cheap to guess for who only pretends to be the server; more is a
# server that wants our time (0.1 s at this limit).
MIN_ITERATIONS: Final = 4096
MAX_ITERATIONS: Final = 500_000
SALT_SIZE: Final = 1024  # octets

_server_first = re.compile(
    rb"r=([\x21-\x2b\x2d-\x7e]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,8})(?:,[A-Za-z]=[^\0,]+)*\Z"
).match
_server_final = re.compile(rb"v=([A-Za-z0-9+/=]+)(?:,[A-Za-z]=[^\0,]+)*\Z").match


class _Turn(Enum):
    FIRST = "server-first is next"
    FINAL = "server-final is next"
    OVER = "over"


class ScramClient:
    """One exchange. `name` and `secret` are prepared (RFC 4013)."""

    def __init__(self, name: str, secret: str, nonce: Nonce, algorithm: str = SHA256) -> None:
        self._secret = secret
        self._algorithm = algorithm
        self._nonce = nonce().encode("ascii")
        escaped = name.replace("=", "=3D").replace(",", "=2C")  # RFC 5802 5.1
        self._bare = b"n=%b,r=%b" % (escaped.encode(), self._nonce)
        self._signature = b""
        self._turn = _Turn.FIRST
        self.done = False

    def first(self) -> bytes | None:
        return b"n,," + self._bare

    def respond(self, challenge: bytes) -> bytes | None:
        turn, self._turn = self._turn, _Turn.OVER
        if len(challenge) > MESSAGE_SIZE:
            return None
        if turn is _Turn.FIRST:
            return self._answer(challenge)
        if turn is _Turn.FINAL:
            return self._believe(challenge)
        return None

    def _answer(self, challenge: bytes) -> bytes | None:
        match = _server_first(challenge)
        if match is None:
            return None
        nonce, salt, iterations = match[1], decode(match[2]), int(match[3])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            return None  # RFC 5802 5.1: an old dialogue, played again
        if not salt or len(salt) > SALT_SIZE or not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            return None
        client_key, keys = derive(self._secret, salt, iterations, self._algorithm)
        without_proof = b"c=biws,r=" + nonce  # "biws" is the header "n,,"
        dialogue = b"%b,%b,%b" % (self._bare, challenge, without_proof)
        self._signature = signature(keys, dialogue, self._algorithm)
        self._turn = _Turn.FINAL
        proved = encode(proof(client_key, keys, dialogue, self._algorithm))
        return b"%b,p=%b" % (without_proof, proved.encode())

    def _believe(self, challenge: bytes) -> bytes | None:
        match = _server_final(challenge)
        said = decode(match[1]) if match is not None else None
        if said is None or not hmac.compare_digest(said, self._signature):
            return None
        self.done = True
        return b""
