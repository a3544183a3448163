"""Who may do what, as tables."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface.verify import verifyObject

from mailnode.access.rules import Access, PeerRule
from mailnode.interfaces import IAccess
from mailnode.mail import Client, Mode, Password, Reply, Rights
from mailnode.smtp.replies import AUTH_FAILED

ALL = (Mode.MAIL, Mode.SEND, Mode.SOML, Mode.SAML)
MAIL = (Mode.MAIL,)

PEERS = [
    PeerRule("leaf"),
    PeerRule("old", auth=False, networks=("192.0.2.7/32", "2001:db8::/64")),
    PeerRule("cert", auth=False, fingerprint="sha256:ab"),
]


class Secrets:
    """Everybody's secret is the name in upper case; notes who was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        self.asked.append(name)
        return succeed(bool(name) and secret == name.upper())


def access(allow: str = "trusted", secrets: Secrets | None = None) -> Access:
    return Access(["127.0.0.0/8", "::1/128", "10.0.0.0/8"], allow, PEERS, secrets or Secrets())


STRANGER = Client("198.51.100.1")
INSIDE = Client("10.1.2.3")
LOOPBACK = Client("127.0.0.1")
MAPPED = Client("::ffff:10.1.2.3")
SOCKET = Client("")
USER = Client("198.51.100.1", identity="jones", tls=True)
LEAF = Client("198.51.100.1", identity="leaf")
OLD = Client("192.0.2.7", hello="whoever")
LIAR = Client("198.51.100.1", hello="old")
TURNED = Client("127.0.0.1", identity="leaf", turned=True, tls=True)


def test_access_keeps_the_contract() -> None:
    assert verifyObject(IAccess, access())


@pytest.mark.parametrize(
    ("client", "relay", "turn"),
    [
        (STRANGER, False, False),
        (INSIDE, True, False),
        (MAPPED, True, False),
        (LOOPBACK, True, False),
        (SOCKET, True, False),
        (USER, True, False),
        (LEAF, True, True),
        (OLD, False, True),
        (Client("2001:db8::5"), False, True),
        (LIAR, False, False),
        (Client("198.51.100.1", fingerprint="sha256:ab", tls=True), False, True),
        (Client("198.51.100.1", fingerprint="sha256:cd", tls=True), False, False),
        (Client("198.51.100.1", identity="old"), True, False),
        (TURNED, False, False),
        (Client("", turned=True), False, False),
        (Client("192.0.2.7", turned=True), False, False),
        (Client("garbage"), False, False),
    ],
)
def test_relay_verify_expand_and_turn(client: Client, relay: bool, turn: bool) -> None:
    rights = access().rights(client)
    assert (rights.relay, rights.verify, rights.expand, rights.turn) == (relay, relay, relay, turn)


@pytest.mark.parametrize(
    ("allow", "stranger", "trusted", "authenticated", "turned"),
    [
        ("anyone", ALL, ALL, ALL, ALL),
        ("trusted", MAIL, ALL, ALL, MAIL),
        ("authenticated", MAIL, MAIL, ALL, MAIL),
        ("none", MAIL, MAIL, MAIL, MAIL),
    ],
)
def test_who_may_write_to_terminals(
    allow: str, stranger: object, trusted: object, authenticated: object, turned: object
) -> None:
    rules = access(allow)
    given = [rules.rights(client).modes for client in (STRANGER, INSIDE, USER, TURNED)]
    assert given == [stranger, trusted, authenticated, turned]


def test_a_turned_client_has_a_strangers_rights_and_nothing_else() -> None:
    assert access().rights(TURNED) == Rights()


@pytest.mark.parametrize(
    ("client", "mechanisms"),
    [
        (STRANGER, ()),
        (INSIDE, ()),
        (LOOPBACK, ("PLAIN",)),
        (Client("127.8.9.1"), ("PLAIN",)),
        (Client("::1"), ("PLAIN",)),
        (SOCKET, ("PLAIN",)),
        (Client("198.51.100.1", tls=True), ("PLAIN",)),
        (USER, ()),
        (TURNED, ()),
    ],
)
def test_plain_is_offered_only_where_nobody_reads_it(client: Client, mechanisms: tuple[str, ...]) -> None:
    assert access().rights(client).mechanisms == mechanisms
    assert Access([], "none").rights(client).mechanisms == ()


@pytest.mark.parametrize(
    ("client", "name", "secret", "right", "asked"),
    [
        (LOOPBACK, "jones", "JONES", True, ["jones"]),
        (LOOPBACK, "jones", "wrong", False, ["jones"]),
        (LOOPBACK, "leaf", "LEAF", True, ["leaf"]),
        (LOOPBACK, "old", "OLD", False, [""]),
        (STRANGER, "jones", "JONES", False, []),
        (TURNED, "jones", "JONES", False, []),
    ],
)
def test_authentication(client: Client, name: str, secret: str, right: bool, asked: list[str]) -> None:
    secrets = Secrets()
    results: list[str | Reply] = []
    access(secrets=secrets).authenticate(client, Password(name, secret)).addCallback(results.append)
    assert results == [name if right else AUTH_FAILED]
    assert secrets.asked == asked


def test_without_a_passwords_file_nobody_authenticates() -> None:
    results: list[str | Reply] = []
    Access([], "none").authenticate(LOOPBACK, Password("a", "A")).addCallback(results.append)
    assert results == [AUTH_FAILED]


def test_words_and_networks_that_are_none_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="none of"):
        Access([], "everybody")
    with pytest.raises(ValueError, match="network"):
        Access(["x"], "none")


@pytest.mark.parametrize(
    ("client", "name"),
    [(LEAF, "leaf"), (OLD, "old"), (LIAR, ""), (USER, ""), (TURNED, ""), (SOCKET, "")],
)
def test_the_peer_that_a_client_proved_to_be(client: Client, name: str) -> None:
    assert access().peer(client) == name
