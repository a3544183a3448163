"""What all tests share: certificates, and the rule that nothing may be skipped where all is installed.

With MAILNODE_NO_SKIPS set, a test that was skipped has failed: there every program must be installed.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("MAILNODE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        why: Any = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be: {why[2] if isinstance(why, tuple) else why}"
    return report


KEY_USAGES = (  # in the order in which x509.KeyUsage takes them
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Authority:
    """A certificate authority of the tests; `roots` is the PEM file of its certificate."""

    def __init__(self, folder: Path, name: str = "Authority of the tests") -> None:
        self.folder = folder
        self.roots = folder / "roots.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key, days=1, ca=True)
        self.roots.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, *names: str, days: float = 1, into: Path | None = None) -> tuple[str, str]:
        """The files of a certificate for `names` (domains, IP addresses) and of its key; with `days` below
        zero it has expired. `into` is a folder, for files of their own names."""
        folder = into or self.folder / names[0]
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        leaf = self._sign(subject, key, names, days)
        certificate_file, key_file = folder / "fullchain.pem", folder / "privkey.pem"
        certificate_file.write_bytes(leaf.public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(certificate_file), str(key_file)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[str, ...] = (),
        days: float = 1,
        ca: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        # RFC 5280 4.2.1: from Python 3.13 on what lacks these is not believed
        marks: tuple[x509.ExtensionType, ...] = (
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
        )
        for mark in marks:
            builder = builder.add_extension(mark, critical=False)
        if ca:
            signs = [usage in ("key_cert_sign", "crl_sign") for usage in KEY_USAGES]
            builder = builder.add_extension(x509.KeyUsage(*signs), critical=True)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Issues certificates: `certificate, key = authority.issue("mit.example")`."""
    return Authority(tmp_path_factory.mktemp("authority"))
