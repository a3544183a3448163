"""What is kept of a secret: hashes that it is checked against, and itself only where it must be said again.

A line of the passwords file is `name:kept`, and a name may have a line of each kind:

    scrypt$n$r$p$salt$key                          PLAIN and LOGIN are checked against it (RFC 7914)
    scram-sha-256$iterations$salt$stored$server    the keys of SCRAM (RFC 5802 3)
    secret$base64                                  the secret itself, for CRAM-MD5 and our own calls
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from mailnode.mail import ScramKeys
from mailnode.smtp.sasl.keys import derive
from mailnode.smtp.sasl.preparation import LIMIT, saslprep

SECRET_SIZE: Final = 1024  # octets; longer ones are nobody's
SALT_SIZE: Final = 16
KEY_SIZE: Final = 32
# RFC 7677 4 asks for 4096 at least, and for 0.1 s of a machine's time: this is 20 ms of ours, and of every
# client's. Who steals the file pays nearly the time of scrypt for a guess, but not its memory: SCRAM knows
# no better function.
ITERATIONS: Final = 100_000

NOT_SAID: Final = (
    "a password has no control characters and none that RFC 4013 prohibits; if it is not all ASCII, "
    f"{LIMIT} characters at most"
)

SCRYPT: Final = (2**14, 8, 1)  # n, r, p (RFC 7914): 16 MiB of memory and some 30 ms

_line = re.compile(
    r"([A-Za-z0-9._+-]{1,64}+):((?:scrypt|scram-sha-256|secret)\$[0-9$A-Za-z+/=]{1,1500}+)\Z"
).match
_hash = re.compile(
    r"scrypt\$([0-9]{1,8})\$([0-9]{1,3})\$([0-9]{1,3})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)\Z"
).match
_scram = re.compile(
    r"scram-sha-256\$([1-9][0-9]{0,8})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)\Z"
).match
_readable = re.compile(r"secret\$([A-Za-z0-9+/=]+)\Z").match


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is kept for one name."""

    scrypt: str = ""  # the line's part behind the name
    scram: ScramKeys | None = None
    secret: str | None = None


NOTHING: Final = Kept()


def octets_of(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")


def hash_secret(secret: str, salt: bytes) -> str:
    """The line's part behind the name. ValueError for a secret that is empty or too long."""
    octets = octets_of(secret)
    if not 0 < len(octets) <= SECRET_SIZE:
        raise ValueError(f"a password has 1 to {SECRET_SIZE} octets")
    n, r, p = SCRYPT
    key = hashlib.scrypt(octets, salt=salt, n=n, r=r, p=p, dklen=KEY_SIZE)
    return f"scrypt${n}${r}${p}${_base64(salt)}${_base64(key)}"


def matches(secret: str, hashed: str) -> bool:
    """Whether `hashed` was made from `secret`. Constant time over the key; False if it is malformed."""
    octets = octets_of(secret)
    match = _hash(hashed)
    if match is None:
        return False
    n, r, p = int(match[1]), int(match[2]), int(match[3])
    try:
        salt, key = b64decode(match[4], validate=True), b64decode(match[5], validate=True)
        made = hashlib.scrypt(octets[:SECRET_SIZE], salt=salt, n=n, r=r, p=p, dklen=len(key), maxmem=64 << 20)
    except ValueError:  # not base64, or parameters that scrypt refuses
        return False
    return hmac.compare_digest(made, key) and 0 < len(octets) <= SECRET_SIZE


def keep(secret: str, random: Callable[[int], bytes], recoverable: bool) -> list[str]:
    """The parts of the lines behind the name. ValueError for what cannot be a password."""
    if not 0 < len(octets_of(secret)) <= SECRET_SIZE:
        raise ValueError(f"a password has 1 to {SECRET_SIZE} octets")
    readable = [f"secret${_base64(octets_of(secret))}"] if recoverable else []
    prepared = saslprep(secret, stored=True)
    if prepared is None:
        if recoverable:
            return readable  # another host has made it, and takes it as it is
        raise ValueError(NOT_SAID)
    hashed = hash_secret(prepared, random(SALT_SIZE))
    _, keys = derive(prepared, random(SALT_SIZE), ITERATIONS)
    return [hashed, scram_part(keys), *readable]


def scram_part(keys: ScramKeys) -> str:
    """The line's part behind the name."""
    words = (keys.salt, keys.stored_key, keys.server_key)
    return "$".join(["scram-sha-256", str(keys.iterations), *map(_base64, words)])


def read_line(line: str) -> tuple[str, str] | None:
    """The name and the part behind it; None if `line` is not one of ours."""
    match = _line(line.strip())
    return (match[1], match[2]) if match is not None else None


def add(kept: Kept, part: str) -> Kept:
    """`kept` and what one more line says; a malformed one says nothing, and of one kind the last counts."""
    if _hash(part) is not None:
        return replace(kept, scrypt=part)
    try:
        if (match := _scram(part)) is not None:
            salt, stored, server = (b64decode(match[at], validate=True) for at in (2, 3, 4))
            if len(stored) == len(server) == KEY_SIZE:
                return replace(kept, scram=ScramKeys(salt, int(match[1]), stored, server))
        elif (match := _readable(part)) is not None:
            secret = b64decode(match[1], validate=True).decode("utf-8", "surrogateescape")
            return replace(kept, secret=secret)
    except ValueError:  # not base64
        return kept
    return kept


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode()
