"""TLS: what each side shows and checks, and files that cannot be used; two ends in memory, no ports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.channel.tls import ClientTls, ServerTls, UntrustedError, described, fingerprint, reason

HOST = "mit.example"


class Application(Protocol):
    """What stands on top of TLS at one end."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.lost = reason


class Wire(StringTransport):
    """A TCP connection that is no connection."""

    gone = False

    def loseConnection(self) -> None:
        self.gone = True

    def abortConnection(self) -> None:
        self.gone = True


@implementer(IOpenSSLClientConnectionCreator)
class Made:
    """A client of another make."""

    def __init__(self, make: Callable[[Any], SSL.Connection]) -> None:
        self.clientConnectionForTLS = make


class Ends:
    """A client and a server with a wire between them; `run` carries octets until there are none."""

    def __init__(self, server_creator: Any, client_creator: Any) -> None:
        self._clock = Clock()
        self.server, self._server_tls = self._end(server_creator, False)
        self.client, self._client_tls = self._end(client_creator, True)

    def _end(self, creator: Any, is_client: bool) -> tuple[Application, Any]:
        application = Factory.forProtocol(Application)
        tls = TLSMemoryBIOFactory(creator, is_client, application, self._clock).buildProtocol(None)
        assert tls is not None
        tls.makeConnection(Wire())
        return tls.wrappedProtocol, tls

    def run(self) -> Ends:
        ends = (self._client_tls, self._server_tls), (self._server_tls, self._client_tls)
        carried = True
        while carried:
            carried = False
            self._clock.advance(0)  # Twisted gathers small writes until the next turn of the reactor
            for here, there in ends:
                octets = here.transport.value()
                here.transport.clear()
                if octets and there.transport is not None:
                    there.dataReceived(octets)
                    carried = True
        for end in (self._client_tls, self._server_tls):
            if end.transport.gone:
                end.connectionLost(Failure(ConnectionError("gone")))
        return self

    def works(self) -> bool:
        assert self.client.transport is not None
        self.client.transport.write(b"octets that nobody else reads")
        self.run()
        return self.server.got == b"octets that nobody else reads"

    @property
    def why(self) -> str:
        """Why the client gave up."""
        assert self.client.lost is not None
        return reason(self.client.lost)


@pytest.fixture
def server(authority: Any) -> ServerTls:
    return ServerTls(*authority.issue(HOST, "192.0.2.1"))


def test_a_client_that_does_not_verify_talks_to_any_server(server: ServerTls) -> None:
    ends = Ends(server.creator, ClientTls().creator("other.example", False)).run()
    assert ends.works()
    assert described(ends.client.transport) == described(ends.server.transport)
    assert described(ends.client.transport).startswith("TLSv1.3 TLS_")


@pytest.mark.parametrize("host", [HOST, "192.0.2.1", "MIT.example", "mit.example."])
def test_a_client_that_verifies_takes_the_right_name_from_a_root_it_trusts(
    server: ServerTls, authority: Any, host: str
) -> None:
    assert Ends(server.creator, ClientTls(str(authority.roots)).creator(host, True)).run().works()


@pytest.mark.parametrize("host", ["usc.example", "192.0.2.2", "it.example", "a.mit.example"])
def test_a_client_that_verifies_refuses_another_name(server: ServerTls, authority: Any, host: str) -> None:
    ends = Ends(server.creator, ClientTls(str(authority.roots)).creator(host, True)).run()
    assert ends.why == f"The certificate is not for {host}"
    assert not ends.server.got


def test_a_client_that_verifies_refuses_a_root_that_it_does_not_trust(server: ServerTls) -> None:
    ends = Ends(server.creator, ClientTls().creator(HOST, True)).run()
    assert ends.why == "The certificate is signed by an authority that is not trusted"
    assert ends.client.lost is not None and ends.client.lost.check(UntrustedError)


def test_a_client_that_verifies_refuses_an_expired_certificate(authority: Any) -> None:
    server = ServerTls(*authority.issue("old.example", days=-1))
    ends = Ends(server.creator, ClientTls(str(authority.roots)).creator("old.example", True)).run()
    assert ends.why == "The certificate has expired"


@pytest.mark.parametrize("host", ["", "[192.0.2.1]", "a b.example", "a\0.example", "x" * 300])
def test_what_can_be_in_no_certificate_is_refused(server: ServerTls, authority: Any, host: str) -> None:
    ends = Ends(server.creator, ClientTls(str(authority.roots)).creator(host, True)).run()
    assert ends.why.startswith("The certificate cannot be for ")


@pytest.mark.parametrize("host", ["", "[192.0.2.1]", "a b.example", "x" * 300, "localhost"])
def test_without_verification_any_host_will_do(server: ServerTls, host: str) -> None:
    assert Ends(server.creator, ClientTls().creator(host, False)).run().works()


def test_the_name_of_the_server_is_said_before_the_handshake(server: ServerTls) -> None:
    ends = Ends(server.creator, ClientTls().creator("mx.mit.example", False)).run()
    handle = ends._server_tls.getHandle()
    assert handle.get_servername() == b"mx.mit.example"


# ------------------------------------------------------------------ client certificates


def test_the_fingerprint_of_a_client_is_that_of_its_certificate(server: ServerTls, authority: Any) -> None:
    certificate, key = authority.issue("leaf.example")
    der = x509.load_pem_x509_certificate(Path(certificate).read_bytes()).public_bytes(Encoding.DER)
    client = ClientTls(certificate=certificate, key=key)
    for creator in (client.creator(HOST, False), client.creator(HOST, False)):
        ends = Ends(server.creator, creator).run()
        assert ends.works()
        assert fingerprint(ends.server.transport) == "sha256:" + hashlib.sha256(der).hexdigest()


def test_a_certificate_of_any_authority_and_age_is_taken_from_a_client(
    server: ServerTls, authority: Any
) -> None:
    certificate, key = authority.issue("expired.example", days=-1)
    ends = Ends(server.creator, ClientTls(certificate=certificate, key=key).creator(HOST, False)).run()
    assert ends.works() and fingerprint(ends.server.transport)


def test_a_client_without_a_certificate_has_no_fingerprint(server: ServerTls) -> None:
    ends = Ends(server.creator, ClientTls().creator(HOST, False)).run()
    assert ends.works()
    assert fingerprint(ends.server.transport) == ""


def test_without_tls_there_is_neither_fingerprint_nor_description() -> None:
    assert fingerprint(StringTransport()) == described(StringTransport()) == ""


def test_a_resumed_session_keeps_the_fingerprint(server: ServerTls, authority: Any) -> None:
    certificate, key = authority.issue("resumed.example")
    creator = ClientTls(certificate=certificate, key=key).creator(HOST, False)
    first = Ends(server.creator, creator).run()
    assert first.works()
    session = first._client_tls.getHandle().get_session()

    def resumed(protocol: Any) -> SSL.Connection:
        connection = creator.clientConnectionForTLS(protocol)
        connection.set_session(session)
        return connection

    second = Ends(server.creator, Made(resumed)).run()
    assert second.works()
    assert SSL._lib.SSL_session_reused(second._server_tls.getHandle()._ssl)  # pyOpenSSL does not ask it
    assert fingerprint(second.server.transport) == fingerprint(first.server.transport) != ""


# ------------------------------------------------------------------ versions and ciphers


def old(version: int, ciphers: bytes = b"ALL:@SECLEVEL=0") -> Any:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(ciphers)
    context.set_max_proto_version(version)
    return Made(lambda _: SSL.Connection(context, None))


def test_tls_1_2_is_spoken(server: ServerTls) -> None:
    ends = Ends(server.creator, old(SSL.TLS1_2_VERSION)).run()
    assert ends.works()
    assert described(ends.server.transport).startswith("TLSv1.2 ECDHE-")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])
def test_older_protocols_are_not(server: ServerTls, version: int) -> None:
    ends = Ends(server.creator, old(version)).run()
    assert "protocol version" in ends.why


@pytest.mark.parametrize("ciphers", [b"AES128-SHA", b"AES256-GCM-SHA384", b"ECDHE-ECDSA-AES128-SHA"])
def test_ciphers_without_forward_secrecy_or_authenticated_encryption_are_not(
    server: ServerTls, ciphers: bytes
) -> None:
    ends = Ends(server.creator, old(SSL.TLS1_2_VERSION, ciphers)).run()
    assert "handshake failure" in ends.why


# ------------------------------------------------------------------ files


def test_the_chain_in_the_certificate_file_is_shown(authority: Any, tmp_path: Path) -> None:
    certificate, key = authority.issue("chain.example", into=tmp_path)
    with open(certificate, "ab") as file:
        file.write(authority.roots.read_bytes())
    ends = Ends(ServerTls(certificate, key).creator, ClientTls().creator("chain.example", False)).run()
    assert ends.works()
    shown = ends._client_tls.getHandle().get_peer_cert_chain(as_cryptography=True)
    assert [one.subject.rfc4514_string() for one in shown] == [
        "CN=chain.example",
        "CN=Authority of the tests",
    ]


def _weak(folder: Path) -> None:
    """A key that OpenSSL will not use."""
    (folder / "privkey.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


def _encrypt(folder: Path) -> None:
    key = load_pem_private_key((folder / "privkey.pem").read_bytes(), None)
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (folder / "privkey.pem").write_bytes(octets)


def _other_key(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "privkey.pem").write_bytes(octets)


SPOILED = {
    "no key": (lambda folder: (folder / "privkey.pem").unlink(), r"privkey\.pem: No such file"),
    "no certificate": (lambda folder: (folder / "fullchain.pem").unlink(), r"fullchain\.pem: No such file"),
    "empty key": (lambda folder: (folder / "privkey.pem").write_bytes(b""), r"privkey\.pem: no private key"),
    "garbage": (
        lambda folder: (folder / "fullchain.pem").write_bytes(b"\0\xff" * 50),
        r"fullchain\.pem: no certificate in PEM",
    ),
    "broken key": (_weak, r"privkey\.pem: no private key in PEM"),
    "the files are swapped": (
        lambda folder: (folder / "fullchain.pem").write_bytes((folder / "privkey.pem").read_bytes()),
        r"fullchain\.pem: no certificate in PEM",
    ),
    "too large": (
        lambda folder: (folder / "fullchain.pem").write_bytes(b"#" * (2 << 20)),
        r"fullchain\.pem: larger than",
    ),
    "encrypted": (_encrypt, r"privkey\.pem: the key is encrypted"),
    "another key": (_other_key, r"privkey\.pem: the key does not fit"),
    "a folder": (
        lambda folder: ((folder / "privkey.pem").unlink(), (folder / "privkey.pem").mkdir()),
        r"privkey\.pem: Is a directory",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_files_that_cannot_be_used_are_an_error_in_words(authority: Any, tmp_path: Path, how: str) -> None:
    files = authority.issue("spoiled.example", into=tmp_path)
    spoil, words = SPOILED[how]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        ServerTls(*files)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=words):
        ClientTls(certificate=files[0], key=files[1])


@pytest.mark.parametrize("how", SPOILED)
def test_a_reload_of_spoiled_files_keeps_the_old_certificate(
    authority: Any, tmp_path: Path, how: str
) -> None:
    server = ServerTls(*authority.issue("kept.example", into=tmp_path))
    spoil, words = SPOILED[how]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=words):
        server.reload()
    creator = ClientTls(str(authority.roots)).creator("kept.example", True)
    assert Ends(server.creator, creator).run().works()


def test_a_reload_shows_the_new_certificate_to_those_who_come_after(authority: Any, tmp_path: Path) -> None:
    server = ServerTls(*authority.issue("first.example", into=tmp_path))
    creator = server.creator
    before = Ends(creator, ClientTls().creator(HOST, False)).run()
    authority.issue("second.example", into=tmp_path)
    server.reload()
    client = ClientTls(str(authority.roots)).creator("second.example", True)
    assert Ends(creator, client).run().works()
    assert before.works()


@pytest.mark.parametrize("octets", [b"", b"nothing"])
def test_roots_that_are_no_certificates_are_an_error_in_words(tmp_path: Path, octets: bytes) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(octets)
    with pytest.raises(ValueError, match=r"roots\.pem: no certificate in PEM"):
        ClientTls(str(file))


@pytest.mark.parametrize(
    ("days", "hostname", "doubts"),
    [
        (30, HOST, []),
        (30, "localhost", ["is not for localhost"]),
        (3, HOST, ["expires on"]),
        (-1, HOST, ["has expired on"]),
        (-1, "usc.example", ["has expired on", "is not for usc.example"]),
        (30, "[192.0.2.1]", []),
    ],
)
def test_what_an_operator_should_know_of_a_certificate_is_said(
    authority: Any, tmp_path: Path, days: int, hostname: str, doubts: list[str]
) -> None:
    server = ServerTls(*authority.issue(HOST, days=days, into=tmp_path))
    found = server.doubts(hostname)
    assert len(found) == len(doubts)
    assert all(words in line for words, line in zip(doubts, found, strict=True))
    assert server.doubts(HOST, datetime.now(UTC) - timedelta(days=20))[0].count("not valid before") == 1


def test_the_reason_for_a_failed_handshake_is_printable() -> None:
    assert reason(Failure(UntrustedError("bad \x1b[2J name " + "x" * 500))).startswith("bad ?[2J name xxx")
    assert len(reason(Failure(UntrustedError("x" * 500)))) == 200
    error = SSL.Error([("SSL routines", "", "wrong version number")])
    assert reason(Failure(error)) == "wrong version number"
    assert reason(Failure(SSL.Error())) == "Error"
