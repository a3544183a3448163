"""The receiver's side of PLAIN, LOGIN, CRAM-MD5 and EXTERNAL: who claims what; access says who is right."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from mailnode.mail import CramDigest, Credentials, External, Password, ScramKeys
from mailnode.smtp.sasl.preparation import name_of, saslprep, text_of
from mailnode.smtp.sasl.steps import MESSAGE_SIZE, Challenge, Claim, Nonce, Step

_digest = re.compile(rb"[0-9A-Fa-f]{32}\Z").match  # RFC 2195 2 says lower case; a digest has no case


def _password(name: str, octets: bytes) -> Password | None:
    """The secret stays as it was said: a hash that is older than SASLprep here was made from that."""
    secret = text_of(octets)
    return None if secret is None or saslprep(secret) is None else Password(name, secret)


class _OneResponse(ABC):
    """An exchange of one response, which is the initial one or answers an empty challenge."""

    def __init__(self, nonce: Nonce, hostname: str) -> None:
        self._waiting = False

    def start(self, initial: bytes | None) -> Step:
        self._waiting = True
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        waiting, self._waiting = self._waiting, False
        if not waiting or len(octets) > MESSAGE_SIZE:
            return None
        credentials = self._read(octets)
        return None if credentials is None else Claim(credentials)

    def keys(self, keys: ScramKeys) -> Step:
        return None

    @abstractmethod
    def _read(self, octets: bytes) -> Credentials | None:
        """Whom the response claims to be, None if it is malformed."""


class Plain(_OneResponse):
    """PLAIN (RFC 4616 2): [authzid] NUL authcid NUL passwd."""

    def _read(self, octets: bytes) -> Credentials | None:
        parts = octets.split(b"\0", 3)
        if len(parts) != 3:
            return None
        authorization, name = parts[0], name_of(parts[1])
        if name is None or (authorization and name_of(authorization) != name):
            return None  # nobody acts for another here
        return _password(name, parts[2])


class ByCertificate(_OneResponse):
    """EXTERNAL (RFC 4422 Appendix A): the name that is wanted, or nothing."""

    def _read(self, octets: bytes) -> Credentials | None:
        if not octets:
            return External()
        name = name_of(octets)
        return None if name is None else External(name)


class Login:
    """LOGIN (draft-murchison-sasl-login): two questions; an initial response answers the first."""

    def __init__(self, nonce: Nonce, hostname: str) -> None:
        self._name: str | None = None
        self._waiting = False

    def start(self, initial: bytes | None) -> Step:
        self._waiting = True
        return Challenge(b"Username:") if initial is None else self.respond(initial)

    def respond(self, octets: bytes) -> Step:
        waiting, self._waiting = self._waiting, False
        if not waiting or len(octets) > MESSAGE_SIZE:
            return None
        if self._name is None:
            self._name = name_of(octets)
            self._waiting = self._name is not None
            return Challenge(b"Password:") if self._waiting else None
        password = _password(self._name, octets)
        return None if password is None else Claim(password)

    def keys(self, keys: ScramKeys) -> Step:
        return None


class CramMd5:
    """CRAM-MD5 (RFC 2195 2): we begin, with a word that was never said before."""

    def __init__(self, nonce: Nonce, hostname: str) -> None:
        self._nonce = nonce
        self._hostname = hostname
        self._challenge = b""

    def start(self, initial: bytes | None) -> Step:
        if initial is not None:
            return None  # RFC 4954 4: this mechanism has no initial response
        self._challenge = f"<{self._nonce()}@{self._hostname}>".encode("ascii", "replace")
        return Challenge(self._challenge)

    def respond(self, octets: bytes) -> Step:
        challenge, self._challenge = self._challenge, b""
        words, _, digest = octets.rpartition(b" ")
        if not challenge or len(octets) > MESSAGE_SIZE or not _digest(digest):
            return None
        name = name_of(words)
        return None if name is None else Claim(CramDigest(name, challenge, digest.decode().lower()))

    def keys(self, keys: ScramKeys) -> Step:
        return None
