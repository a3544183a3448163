"""The sender's side of PLAIN, LOGIN, CRAM-MD5 and EXTERNAL, and which mechanism it takes."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from mailnode.smtp.sasl.coding import encode
from mailnode.smtp.sasl.preparation import saslprep
from mailnode.smtp.sasl.scram_client import ScramClient
from mailnode.smtp.sasl.steps import MESSAGE_SIZE, ClientExchange, Nonce


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Answers:
    """An exchange of so many answers that look at no challenge, the first of them perhaps initial."""

    done = True  # these mechanisms never prove the server

    def __init__(self, initial: bytes | None, *answers: bytes) -> None:
        self._initial = initial
        self._answers = list(answers)

    def first(self) -> bytes | None:
        return self._initial

    def respond(self, challenge: bytes) -> bytes | None:
        return self._answers.pop(0) if self._answers else None


class PlainClient(_Answers):
    """PLAIN (RFC 4616 2)."""

    def __init__(self, name: str, secret: str) -> None:
        super().__init__(b"\0%b\0%b" % (_octets(name), _octets(secret)))


class LoginClient(_Answers):
    """LOGIN: name and secret whatever the questions, for every server has its own words."""

    def __init__(self, name: str, secret: str) -> None:
        super().__init__(None, _octets(name), _octets(secret))


class ExternalClient(_Answers):
    """EXTERNAL (RFC 4422 Appendix A): the name that is wanted, empty for whoever the certificate names."""

    def __init__(self, name: str) -> None:
        super().__init__(_octets(name))


class CramMd5Client:
    """CRAM-MD5 (RFC 2195 2)."""

    done = True

    def __init__(self, name: str, secret: str) -> None:
        self._name = name
        self._secret: str | None = secret

    def first(self) -> bytes | None:
        return None

    def respond(self, challenge: bytes) -> bytes | None:
        secret, self._secret = self._secret, None
        # An empty challenge would give a digest that serves for every other day.
        if secret is None or not 0 < len(challenge) <= MESSAGE_SIZE:
            return None
        digest = hmac.new(_octets(secret), challenge, "md5").hexdigest()
        return b"%b %b" % (_octets(self._name), digest.encode())


def choose(
    offered: Collection[str], name: str, secret: str, *, private: bool, certificate: bool, nonce: Nonce
) -> tuple[str, ClientExchange] | None:
    """The mechanism to take and its exchange, None if none of `offered` will do.

    `private`: nobody but the host itself can read it (loopback, a local socket, TLS with a certificate that
    was looked at). `certificate`: ours was shown.
    """
    words = {word.upper() for word in offered}
    if certificate and not secret:
        return ("EXTERNAL", ExternalClient(name)) if "EXTERNAL" in words else None
    if not name or not secret or "\0" in name + secret:  # RFC 4616 2: nobody could say them
        return None
    prepared_name, prepared = saslprep(name), saslprep(secret)
    if "SCRAM-SHA-256" in words and prepared_name is not None and prepared is not None:
        return "SCRAM-SHA-256", ScramClient(prepared_name, prepared, nonce)
    if private and "PLAIN" in words:
        return "PLAIN", PlainClient(name, secret)
    if private and "LOGIN" in words:
        return "LOGIN", LoginClient(name, secret)
    if "CRAM-MD5" in words:
        return "CRAM-MD5", CramMd5Client(name, secret)
    return None


def plain_response(name: str, secret: str) -> bytes:
    """The initial response of PLAIN, in base64."""
    return encode(b"\0%b\0%b" % (_octets(name), _octets(secret))).encode()
