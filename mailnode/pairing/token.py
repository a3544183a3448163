"""The token of an invitation: all that a home node needs to call the hub that invites it, in one word.

    mailnode-<base64url>    of a MessagePack array, with the first octets of its SHA-256 behind it

The sum is for the eye that copied half of the word; what the token is worth hangs on its secret alone.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

import msgspec

from mailnode.smtp.grammar import parse_domain

VERSION: Final = 1
PREFIX: Final = "mailnode-"
SUM_SIZE: Final = 4  # octets
LENGTH: Final = 16384  # characters; a hundred long domains fit
DOMAINS: Final = 100
SECRET_SIZE: Final = 24  # octets: nobody guesses them, so a thief of the hub's file cannot either
ID_SIZE: Final = 9  # octets; the invitation's name on the wire tells nothing of the secret

_word = re.compile(r"[A-Za-z0-9_-]+\Z").match
_name = re.compile(r"(?!\.)[A-Za-z0-9._+-]{1,64}\Z").match


class TokenError(ValueError):
    """The text is no token; it says why, for whoever pasted it."""


@dataclass(frozen=True, slots=True)
class Token:
    """An invitation as it is handed over. `host` is a name or an IP address, under which the home node
    reaches the hub; `hub` what the hub calls itself; `name` what it calls the home node."""

    host: str
    port: int
    hub: str
    name: str
    domains: tuple[str, ...]  # lower case; their mail is held
    secret: bytes = field(repr=False)
    fingerprint: str  # "sha256:..." of the certificate that the hub must show
    expires: int  # seconds since the epoch, on the hub's clock
    implicit: bool = False  # TLS from the first octet, else STARTTLS

    @property
    def id(self) -> str:
        return invitation_id(self.secret)

    @property
    def password(self) -> str:
        """The secret as SCRAM says it."""
        return said(self.secret)

    def encode(self) -> str:
        mark = bytes.fromhex(self.fingerprint.removeprefix("sha256:"))
        fields = [VERSION, self.host, self.port, self.hub, self.name, self.domains, self.secret, mark]
        octets = msgspec.msgpack.encode([*fields, self.expires, *([True] if self.implicit else [])])
        return PREFIX + _base64(octets + _sum(octets))


def decode(text: str) -> Token:
    """The token that `text` is; blanks and line ends in it do not count. TokenError."""
    if len(text) > 2 * LENGTH:
        raise TokenError("that is no token: it is too long")
    word = "".join(text.split())
    if not word.startswith(PREFIX) or not _word(word) or len(word) > LENGTH:
        raise TokenError(f'that is no token: one begins with "{PREFIX}" and is a single word')
    try:
        octets = urlsafe_b64decode(word.removeprefix(PREFIX) + "=" * (-len(word.removeprefix(PREFIX)) % 4))
    except ValueError:
        octets = b""
    octets, found = octets[:-SUM_SIZE], octets[-SUM_SIZE:]
    if not octets or found != _sum(octets):
        raise TokenError("the token is garbled: it is not the whole of what `mailnode invite` printed")
    try:
        fields = msgspec.msgpack.decode(octets)
    except (msgspec.DecodeError, RecursionError):
        fields = None
    if not isinstance(fields, list) or not fields or not isinstance(fields[0], int):
        raise TokenError("the token cannot be understood")
    if fields[0] != VERSION:
        raise TokenError(f"the token is of version {fields[0]}, and this mailnode knows {VERSION} alone")
    return _read(fields[1:])


def _read(fields: list[Any]) -> Token:
    """Whoever can sum can make a token, so nothing in it is believed to be what it should be."""
    kinds = (str, int, str, str, list, bytes, bytes, int, bool)
    if len(fields) == len(kinds) - 1:  # by STARTTLS
        fields = [*fields, False]
    if len(fields) != len(kinds) or not all(map(isinstance, fields, kinds)):
        raise TokenError("the token cannot be understood: parts of it are missing or of another kind")
    host, port, hub, name, domains, secret, mark, expires, implicit = fields
    right = (
        (is_host(host) and 0 < port < 65536, "an address to call"),
        (parse_domain(hub) is not None, "the name of the hub"),
        (is_name(name), "a name for this node"),
        (0 < len(domains) <= DOMAINS and all(map(_is_domain, domains)), "domains"),
        (len(secret) == SECRET_SIZE, "a secret"),
        (len(mark) == hashlib.sha256().digest_size, "the fingerprint of a certificate"),
        (0 <= expires < 1 << 40, "a time at which it ends"),
    )
    for is_right, what in right:
        if not is_right:
            raise TokenError(f"the token cannot be used: it has not {what}")
    return Token(host, port, hub, name, tuple(domains), secret, f"sha256:{mark.hex()}", expires, implicit)


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a peer, and so of its files."""
    return _name(text) is not None


def is_host(text: str) -> bool:
    """Whether `text` is an IP address, or a name of letters, digits, dots and hyphens."""
    try:
        ip_address(text)
    except ValueError:
        return parse_domain(text) is not None and "[" not in text
    return "%" not in text


def _is_domain(domain: object) -> bool:
    return isinstance(domain, str) and parse_domain(domain) is not None and domain == domain.lower()


def new_secret(random: Callable[[int], bytes]) -> bytes:
    return random(SECRET_SIZE)


def said(secret: bytes) -> str:
    """A random secret as text, of characters that every SASL mechanism can say."""
    return _base64(secret)


def invitation_id(secret: bytes) -> str:
    """The name of an invitation, from its secret."""
    return hashlib.sha256(b"mailnode invitation\0" + secret).digest()[:ID_SIZE].hex()


def _sum(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()[:SUM_SIZE]


def _base64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).decode().rstrip("=")
