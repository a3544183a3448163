"""A certificate that nobody but its owner has signed: enough for peers that know its fingerprint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mailnode.pairing.files import sync_folder


def self_signed(names: Sequence[str], days: int, now: datetime | None = None) -> tuple[bytes, bytes]:
    """A certificate for `names` (domains, IP addresses), and its key, in PEM."""
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    # RFC 5280 A.1: a common name has 64 characters at most; who checks a name looks at the others (RFC 9525).
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # for clocks that are behind
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(usage, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), secret


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write_new(certificate_file: str, key_file: str, certificate: bytes, key: bytes) -> None:
    """Writes both, the key for its owner alone (0600). FileExistsError rather than overwrite one; OSError."""
    _create(key_file, key, 0o600)
    try:
        _create(certificate_file, certificate, 0o644)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(key_file)  # it is of no use, and would be in the way
        raise


def _create(file: str, octets: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as stream:
        stream.write(octets)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(os.path.dirname(os.path.abspath(file)))
