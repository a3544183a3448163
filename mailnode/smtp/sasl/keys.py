"""The arithmetic of SCRAM that both sides and the passwords file share (RFC 5802 3, RFC 7677)."""

from __future__ import annotations

import hashlib
import hmac

from mailnode.mail import ScramKeys

SHA256 = "sha256"


def derive(secret: str, salt: bytes, iterations: int, algorithm: str = SHA256) -> tuple[bytes, ScramKeys]:
    """The ClientKey of a prepared `secret`, and what a server keeps of it; some 0.2 us an iteration."""
    salted = hashlib.pbkdf2_hmac(algorithm, secret.encode(), salt, iterations)  # Hi() of RFC 5802 2.2
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    stored_key = hashlib.new(algorithm, client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", algorithm)
    return client_key, ScramKeys(salt, iterations, stored_key, server_key)


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def proof(client_key: bytes, keys: ScramKeys, dialogue: bytes, algorithm: str = SHA256) -> bytes:
    """The ClientProof of `dialogue`, the AuthMessage of RFC 5802 3."""
    return xor(client_key, hmac.digest(keys.stored_key, dialogue, algorithm))


def fits(claimed: bytes, keys: ScramKeys, dialogue: bytes, algorithm: str = SHA256) -> bool:
    """Whether `claimed` is the ClientProof of who knows the secret."""
    signature = hmac.digest(keys.stored_key, dialogue, algorithm)
    if len(claimed) != len(signature):
        return False
    client_key = xor(claimed, signature)
    return hmac.compare_digest(hashlib.new(algorithm, client_key).digest(), keys.stored_key)


def signature(keys: ScramKeys, dialogue: bytes, algorithm: str = SHA256) -> bytes:
    """The ServerSignature: who gives it has the keys."""
    return hmac.digest(keys.server_key, dialogue, algorithm)
