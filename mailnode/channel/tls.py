"""TLS for channels, over Twisted's own with pyOpenSSL: contexts for both sides, and who the peer is.

A server asks for a client certificate and takes any: the handshake proves that the client has its key,
and who that is follows from the fingerprint. A client checks the server's certificate only where it was
told to; otherwise encryption to anybody beats none (RFC 7435).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

FILE_SIZE: Final = 1 << 20  # octets of a certificate, key or roots file
SOON: Final = timedelta(days=7)  # to the end of a certificate

# TLS 1.2 with forward secrecy and authenticated encryption (RFC 9325 4.2); TLS 1.3 has no other.
STRONG: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
# To a server that is not authenticated anyway, the alternative is no encryption at all (RFC 7435 3).
ANY: Final = b"HIGH:!aNULL:!kPSK:!SRP"

# X509_verify_cert(3), in words for an operator
_REASONS: Final = {
    7: "has a signature that is wrong",
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted",
    21: "is signed by an authority that is not trusted",
    23: "was revoked",
    26: "is not for a server",
}


class UntrustedError(Exception):
    """A server's certificate is not what was asked for; the text says why."""


# ------------------------------------------------------------------------ the server's side


class ServerTls:
    """What a listener shows. `certificate` and `key` are PEM files, the certificate's with its chain.

    ValueError with words for the operator when they cannot be used.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self._certificate = certificate
        self._key = key
        self._creator = _ServerCreator(self)
        self.leaf: x509.Certificate
        self.context: SSL.Context
        self.reload()

    @property
    def creator(self) -> IOpenSSLServerConnectionCreator:
        """For `transport.startTLS`; what it makes has the certificate of the last good `reload`."""
        return cast(IOpenSSLServerConnectionCreator, self._creator)

    def reload(self) -> None:
        """Reads the files again. ValueError when they cannot be used; then all stays as it was."""
        context = _context(STRONG)
        leaf = _show(context, self._certificate, self._key)
        # Any certificate will do, and none: `fingerprint` is what is looked at.
        context.set_verify(SSL.VERIFY_PEER, _anybody)
        context.set_session_id(b"mailnode")  # sessions are resumed by tickets alone, none is kept here
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self.context, self.leaf = context, leaf

    @property
    def fingerprint(self) -> str:
        """As `fingerprint_of` gives it of the certificate that is shown."""
        return fingerprint_of(self.leaf)

    def doubts(self, hostname: str, now: datetime | None = None) -> list[str]:
        """What an operator should know of the certificate, for it does not keep the node from running."""
        return [f"{self._certificate}: {doubt}" for doubt in _doubts(self.leaf, hostname, now)]


@implementer(IOpenSSLServerConnectionCreator)
class _ServerCreator:
    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._tls.context, None)


def _anybody(_connection: object, _certificate: object, _error: int, _depth: int, _ok: int) -> bool:
    return True


# ------------------------------------------------------------------------ the client's side


class ClientTls:
    """How we speak TLS to a host that we call.

    `roots` is a PEM file of the authorities that are trusted, None for those of the platform; with
    `certificate` and `key` a server that asks for a certificate is shown this one. ValueError with words
    for the operator when the files cannot be used.
    """

    def __init__(
        self, roots: str | None = None, certificate: str | None = None, key: str | None = None
    ) -> None:
        self._roots = roots
        self._any = _context(ANY)
        self._strong = _context(STRONG)
        self._with_roots = False
        self._has_certificate = certificate is not None and key is not None
        if certificate is not None and key is not None:
            for context in (self._any, self._strong):
                _show(context, certificate, key)
        if roots is not None:
            self._load_roots()

    def creator(self, host: str, verified: bool, pin: str = "") -> IOpenSSLClientConnectionCreator:
        """For `transport.startTLS` to `host`, a name or an IP address.

        With `verified` the handshake fails, as UntrustedError, unless the certificate leads to a root and
        is for `host` (RFC 6125). With `pin`, a fingerprint as `fingerprint_of` gives it, it fails unless
        the certificate has it, and nothing else matters: neither roots, nor names, nor dates.
        """
        name = _name_of(host)
        if pin:
            return cast(IOpenSSLClientConnectionCreator, _ClientCreator(self._strong, name, None, pin))
        if not verified:
            return cast(IOpenSSLClientConnectionCreator, _ClientCreator(self._any, name, None))
        if not self._with_roots:
            self._load_roots()
        creator = _ClientCreator(self._strong, name, name or host)
        return cast(IOpenSSLClientConnectionCreator, creator)

    @property
    def has_certificate(self) -> bool:
        """Whether a server that asks for a certificate gets one."""
        return self._has_certificate

    def _load_roots(self) -> None:
        if self._roots is None:
            self._strong.set_default_verify_paths()
        else:
            _certificates_in(self._roots)  # for its words
            try:
                self._strong.load_verify_locations(self._roots)
            except SSL.Error as error:
                raise ValueError(f"{self._roots}: {_words(error)}") from None
        self._with_roots = True


@implementer(IOpenSSLClientConnectionCreator)
class _ClientCreator:
    """`name` goes out as SNI (RFC 6066 3) if not empty; the certificate must be for `expected`, or any, or
    the one with the fingerprint `pin`."""

    def __init__(self, context: SSL.Context, name: str, expected: str | None, pin: str = "") -> None:
        self._context = context
        self._name = name
        self._expected = expected
        self._pin = pin

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if self._name:
            connection.set_tlsext_host_name(self._name.encode("ascii"))
        check = None
        if self._pin:
            check = functools.partial(_check_pin, self._pin, tlsProtocol.failVerification)
        elif self._expected is not None:
            check = functools.partial(_check, self._expected, tlsProtocol.failVerification)
        if check is not None:
            connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, check)
        return connection


def _check_pin(
    pin: str,
    fail: Callable[[Failure], None],
    _connection: SSL.Connection,
    certificate: Any,
    _error: int,
    depth: int,
    _ok: int,
) -> bool:
    """OpenSSL's question about each certificate of a chain, once or more: the first one decides."""
    if depth:
        return True  # who signed it does not matter
    try:
        found = fingerprint_of(certificate.to_cryptography())
    except Exception as broken:  # a stranger wrote the certificate: whatever is wrong in it is a no
        found = f"not to be read: {broken}"
    if found == pin:
        return True
    fail(Failure(UntrustedError(f"The certificate is another than the one that is known: {found}")))
    return False


def _check(
    expected: str,
    fail: Callable[[Failure], None],
    _connection: SSL.Connection,
    certificate: Any,
    error: int,
    depth: int,
    ok: int,
) -> bool:
    """OpenSSL's question about each certificate of a chain; nothing may be raised into it."""
    if not ok:
        why = f"The certificate {_REASONS.get(error, f'cannot be verified ({error})')}"
    elif depth:
        return True
    else:
        try:
            leaf = certificate.to_cryptography()
            if _is_address(expected):
                verify_certificate_ip_address(leaf, expected)
                return True
            if _name_of(expected):
                verify_certificate_hostname(leaf, expected)
                return True
            why = f"The certificate cannot be for {expected or 'a host without a name'}"
        except (VerificationError, CertificateError):
            why = f"The certificate is not for {expected}"
        except Exception as broken:  # a stranger wrote the certificate: whatever is wrong in it is a no
            why = f"The certificate cannot be read: {broken}"
    fail(Failure(UntrustedError(why)))
    return False


# ------------------------------------------------------------------------ who is at the other end


def fingerprint(transport: object) -> str:
    """ "sha256:" and the hexadecimal SHA-256 of the peer's certificate; "" if it has shown none."""
    connection = _connection(transport)
    if connection is None:
        return ""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    return fingerprint_of(certificate) if certificate is not None else ""


def fingerprint_of(certificate: x509.Certificate) -> str:
    return "sha256:" + hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def described(transport: object) -> str:
    """The protocol and the cipher of a channel, "TLSv1.3 TLS_AES_256_GCM_SHA384"; "" without TLS."""
    connection = _connection(transport)
    if connection is None:
        return ""
    return f"{connection.get_protocol_version_name()} {connection.get_cipher_name() or 'no cipher'}"


def reason(failure: Failure) -> str:
    """Why a handshake failed: printable ASCII, at most 200 characters."""
    error = failure.value
    text = _words(error) if isinstance(error, SSL.Error) else str(error)
    text = text.encode("ascii", "replace").decode("ascii").rstrip(".")
    return "".join(c if c.isprintable() else "?" for c in text[:200]) or type(error).__name__


def _connection(transport: object) -> SSL.Connection | None:
    handle = getattr(transport, "getHandle", None)
    connection = handle() if handle is not None else None
    return connection if isinstance(connection, SSL.Connection) else None


# ------------------------------------------------------------------------ contexts and files


def _context(ciphers: bytes) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # CRIME; and a renegotiation costs the server ten times what it costs the client.
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection keeps no buffers
    context.set_cipher_list(ciphers)
    return context


def _show(context: SSL.Context, certificate: str, key: str) -> x509.Certificate:
    """Puts a certificate with its chain and its key into `context`; gives the certificate."""
    leaf, *chain = _certificates_in(certificate)
    octets = _read(key)
    try:
        secret = load_pem_private_key(octets, None)
    except TypeError:
        raise ValueError(f"{key}: the key is encrypted, and a node has nobody to ask") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{key}: no private key in PEM") from None
    if _public(secret.public_key()) != _public(leaf.public_key()):
        raise ValueError(f"{key}: the key does not fit the first certificate of {certificate}")
    try:
        context.use_certificate(leaf)
        for issuer in chain:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(cast(Any, secret))
        context.check_privatekey()
    except (SSL.Error, TypeError, ValueError) as error:  # too weak, or of a kind that TLS does not have
        raise ValueError(f"{certificate}: cannot be used: {_words(error)}") from None
    return leaf


def _certificates_in(file: str) -> list[x509.Certificate]:
    octets = _read(file)
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError:
        raise ValueError(f"{file}: no certificate in PEM") from None


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            octets = stream.read(FILE_SIZE + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or 'unreadable'}") from None
    if len(octets) > FILE_SIZE:
        raise ValueError(f"{file}: larger than {FILE_SIZE} octets")
    return octets


def _doubts(leaf: x509.Certificate, hostname: str, now: datetime | None) -> list[str]:
    now = now or datetime.now(UTC)
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    doubts = []
    if now < begins:
        doubts.append(f"is not valid before {begins:%Y-%m-%d %H:%M} UTC")
    if now >= ends:
        doubts.append(f"has expired on {ends:%Y-%m-%d %H:%M} UTC")
    elif now + SOON >= ends:
        doubts.append(f"expires on {ends:%Y-%m-%d %H:%M} UTC")
    if _name_of(hostname):
        try:
            verify_certificate_hostname(leaf, hostname)
        except (VerificationError, CertificateError):
            doubts.append(f"is not for {hostname}")
    return doubts


def _public(key: Any) -> bytes:
    return cast(bytes, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _name_of(host: str) -> str:
    """The name that `host` is for SNI: ASCII, no dot at the end; "" for an address or no name at all."""
    name = host.rstrip(".")
    if not name or _is_address(name) or "[" in name or len(name) > 253:
        return ""
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
    return name if name.isprintable() and " " not in name else ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _words(error: Exception) -> str:
    """What OpenSSL says, without its columns of names."""
    queue = error.args[0] if error.args else None
    if isinstance(error, SSL.Error) and isinstance(queue, list) and queue:
        return str(queue[0][-1]) or "no reason given"
    return str(error) or type(error).__name__
