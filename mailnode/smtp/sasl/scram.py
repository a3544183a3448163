"""SCRAM-SHA-256, the receiver's side, without channel binding (RFC 5802, RFC 7677).

C: n,,n=jones,r=<nonce>                       client-first
S: r=<nonce><ours>,s=<salt>,i=<iterations>    server-first, once the keys are here
C: c=biws,r=<nonce><ours>,p=<proof>           client-final
S: v=<signature>                              server-final, only if the proof was right
C: (empty)                                    RFC 4954 4: SMTP has no data beside its 235
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from mailnode.mail import ScramKeys, ScramProof
from mailnode.smtp.sasl.coding import decode, encode
from mailnode.smtp.sasl.keys import SHA256, fits, signature
from mailnode.smtp.sasl.preparation import name_of
from mailnode.smtp.sasl.steps import Challenge, Claim, NeedKeys, Nonce, Step

SCRAM_SIZE: Final = 2048  # octets of one message; NONCE_SIZE and a name that is escaped fit in it
NONCE_SIZE: Final = 256  # characters that a client may choose

_PRINTABLE: Final = rb"[\x21-\x2b\x2d-\x7e]"  # RFC 5802 7: printable is all but the comma
_VALUE: Final = rb"[^\0,=]|=2C|=3D"  # saslname; UTF-8 is looked at when it is decoded
_EXTENSIONS: Final = rb"(?:,[A-Za-z]=[^\0,]+)*"

# gs2-header: "p" would bind to a channel that we do not offer; "m=" is a mandatory extension.
_client_first = re.compile(
    rb"([ny],(?:a=((?:%b)+))?,)(n=((?:%b)+),r=(%b{1,%d})%b)\Z"
    % (_VALUE, _VALUE, _PRINTABLE, NONCE_SIZE, _EXTENSIONS)
).match
_client_final = re.compile(
    rb"(c=([A-Za-z0-9+/=]+),r=(%b+)%b),p=([A-Za-z0-9+/=]+)\Z" % (_PRINTABLE, _EXTENSIONS)
).match


class _Turn(Enum):
    START = "nothing was said"
    FIRST = "client-first is next"
    KEYS = "the keys are next"
    FINAL = "client-final is next"
    EMPTY = "the empty response to server-final is next"
    OVER = "over"


class Scram:
    """One exchange. A `nonce` with a comma or other octets than printable ASCII would break it."""

    def __init__(self, nonce: Nonce, hostname: str, algorithm: str = SHA256) -> None:
        self._our_nonce = nonce
        self._algorithm = algorithm
        self._turn = _Turn.START
        self._name = ""
        self._header = b""
        self._nonce = b""
        self._dialogue = b""  # the AuthMessage as far as it was said
        self._keys: ScramKeys | None = None

    def start(self, initial: bytes | None) -> Step:
        if self._turn is not _Turn.START:
            return None
        self._turn = _Turn.FIRST
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        turn, self._turn = self._turn, _Turn.OVER
        if len(octets) > SCRAM_SIZE:
            return None
        if turn is _Turn.FIRST:
            return self._first(octets)
        if turn is _Turn.FINAL:
            return self._final(octets)
        if turn is _Turn.EMPTY and not octets:
            return Claim(ScramProof(self._name, True))
        return None

    def keys(self, keys: ScramKeys) -> Step:
        if self._turn is not _Turn.KEYS:
            self._turn = _Turn.OVER
            return None
        self._turn = _Turn.FINAL
        self._keys = keys
        self._nonce += self._our_nonce().encode("ascii", "replace")
        first = b"r=%b,s=%b,i=%d" % (self._nonce, encode(keys.salt).encode(), keys.iterations)
        self._dialogue += b"," + first
        return Challenge(first)

    def _first(self, octets: bytes) -> Step:
        match = _client_first(octets)
        if match is None:
            return None
        self._header, authorization, self._dialogue, name, self._nonce = match.groups()
        prepared = _unescaped(name)
        if prepared is None or (authorization is not None and _unescaped(authorization) != prepared):
            return None  # nobody acts for another here
        self._name = prepared
        self._turn = _Turn.KEYS
        return NeedKeys(prepared)

    def _final(self, octets: bytes) -> Step:
        match = _client_final(octets)
        if match is None:
            return None
        without_proof, header, nonce, proof = match.groups()
        claimed = decode(proof)
        # The header again, so that nobody on the way has changed it.
        if claimed is None or decode(header) != self._header or nonce != self._nonce:
            return None
        assert self._keys is not None
        dialogue = b"%b,%b" % (self._dialogue, without_proof)
        if not fits(claimed, self._keys, dialogue, self._algorithm):
            return Claim(ScramProof(self._name, False))
        self._turn = _Turn.EMPTY
        proof_of_ours = encode(signature(self._keys, dialogue, self._algorithm))
        return Challenge(b"v=" + proof_of_ours.encode())


def _unescaped(name: bytes) -> str | None:
    """A saslname as a prepared name (RFC 5802 5.1)."""
    return name_of(name.replace(b"=2C", b",").replace(b"=3D", b"="))
