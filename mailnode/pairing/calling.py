"""The home node's call to a hub whose certificate it knows, over a blocking socket: a person waits for it.

Nothing is said under TLS before the certificate was compared with the fingerprint, so whoever stands in
between hears EHLO and STARTTLS and no more; where TLS begins with the first octet, nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from mailnode.mail import Reply
from mailnode.smtp import events
from mailnode.smtp.events import Ended
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender

CONNECT: Final = 30.0  # seconds
PATIENCE: Final = 60.0  # seconds for a reply; a hub that takes longer is called another time
READ: Final = 65536  # octets
OCTETS: Final = 1 << 20  # of one conversation; a hub that says more than that is none

CONNECTION_LOST: Final = Reply(451, "The connection was lost", "4.4.2")
TIMED_OUT: Final = Reply(451, "The host did not answer in time", "4.4.2")
TOO_MUCH: Final = Reply(451, "The host says too much", "4.5.0")

Trace = Callable[[str, bytes], None]  # speaker "C", "S" or "tls", octets


class WrongCertificateError(Exception):
    """The host has shown another certificate than the one that is expected; `shown` is its fingerprint."""

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self.shown = shown


class UnverifiedError(Exception):
    """The certificate is the one, and no authority speaks for it; the text says why."""


@dataclass(frozen=True, slots=True)
class Called:
    """How a call went. `offered` are the keywords of the last EHLO, `pairing` whether XPAIR was said."""

    ended: Ended
    offered: Collection[str]
    pairing: bool


class PinnedCall:
    """One conversation on `wire`, a connected socket, by `plan`. `host` is what it was connected to; its
    certificate must have `fingerprint` ("sha256:..."), and with `verify` an authority of these must have
    signed it for `host`, too. With `implicit` TLS begins with the first octet, else by STARTTLS."""

    def __init__(
        self,
        wire: socket.socket,
        plan: Plan,
        host: str,
        fingerprint: str,
        verify: ssl.SSLContext | None = None,
        trace: Trace | None = None,
        *,
        implicit: bool = False,
    ) -> None:
        self._wire = wire
        self._implicit = implicit
        self._host = host
        self._fingerprint = fingerprint
        self._context = _any_certificate() if verify is None else verify
        self._trace = trace
        self._sender = Sender(plan)
        self._pairing = False
        self._heard = 0

    def run(self) -> Called:
        """Speaks until the end. WrongCertificateError, UnverifiedError: then nothing was said."""
        if self._implicit:
            self._handshake()
        while True:
            event = self._sender.next()
            if event is None:
                self._receive()
            elif isinstance(event, events.Write):
                self._send(event.octets)
            elif isinstance(event, events.StartTls):
                if self._handshake():
                    self._sender.secured()
            elif isinstance(event, events.LetterWanted):
                self._sender.give(None)
            elif isinstance(event, Ended):
                return Called(event, frozenset(self._sender.peer.keywords), self._pairing)

    def close(self) -> None:
        self._wire.close()

    def _send(self, octets: bytes) -> None:
        self._pairing = self._pairing or octets.startswith(b"XPAIR ")
        if self._trace is not None:
            self._trace("C", octets)
        try:
            self._wire.sendall(octets)
        except OSError:
            self._sender.fail(CONNECTION_LOST)

    def _receive(self) -> None:
        self._wire.settimeout(min(self._sender.patience, PATIENCE))
        try:
            octets = self._wire.recv(READ)
        except TimeoutError:
            self._sender.fail(TIMED_OUT)
            return
        except OSError:
            octets = b""
        self._heard += len(octets)
        if not octets:
            self._sender.fail(CONNECTION_LOST)
        elif self._heard > OCTETS:
            self._sender.fail(TOO_MUCH)
        else:
            if self._trace is not None:
                self._trace("S", octets)
            self._sender.feed(octets)

    def _handshake(self) -> bool:
        """Whether TLS came about; else the conversation has failed."""
        if self._trace is not None:
            self._trace("tls", b"")
        self._wire.settimeout(CONNECT)
        try:
            self._wire = wire = self._context.wrap_socket(self._wire, server_hostname=self._host)
        except ssl.SSLCertVerificationError as error:
            raise UnverifiedError(error.verify_message or str(error)) from None
        except OSError as error:  # ssl.SSLError is one of them
            why = getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__
            self._sender.fail(Reply(451, f"TLS did not come about: {why}", "4.7.5"))
            return False
        shown = "sha256:" + hashlib.sha256(wire.getpeercert(True) or b"").hexdigest()
        if not hmac.compare_digest(shown, self._fingerprint):
            raise WrongCertificateError(shown)
        return True


class HubCaller:
    """Calls one hub, as often as it is called itself; `roots` is a PEM file of the authorities to trust,
    None for those of the platform; `trace` makes what hears the octets of one call. `implicit` as above."""

    def __init__(
        self,
        host: str,
        port: int,
        fingerprint: str,
        roots: str | None = None,
        trace: Callable[[], Trace] | None = None,
        *,
        implicit: bool = False,
    ) -> None:
        self._where = (host, port)
        self._fingerprint = fingerprint
        self._roots = roots
        self._trace = trace
        self._implicit = implicit

    def __call__(self, plan: Plan, verify: bool) -> Called:
        """How the call went. OSError if the hub cannot be reached; WrongCertificateError, UnverifiedError."""
        verifying = _trusting(self._roots) if verify else None
        trace = self._trace() if self._trace is not None else None
        wire = socket.create_connection(self._where, timeout=CONNECT)
        host, pin = self._where[0], self._fingerprint
        call = PinnedCall(wire, plan, host, pin, verifying, trace, implicit=self._implicit)
        try:
            return call.run()
        finally:
            call.close()


def _trusting(roots: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _any_certificate() -> ssl.SSLContext:
    """The fingerprint is what is looked at: dates, names and authorities add nothing to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
