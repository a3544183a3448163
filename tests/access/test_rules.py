"""Who may do what, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from mailnode.access.rules import Access, PeerRule
from mailnode.interfaces import IAccess
from mailnode.mail import Client, Mode, Rights

ALL = (Mode.MAIL, Mode.SEND, Mode.SOML, Mode.SAML)
MAIL = (Mode.MAIL,)

PEERS = [
    PeerRule("leaf"),
    PeerRule("old", auth=False, networks=("192.0.2.7/32", "2001:db8::/64")),
    PeerRule("cert", auth=False, fingerprint="sha256:ab"),
]
FETCHMAIL = PeerRule("fetchmail", cram_md5=True)


def access(allow: str = "trusted", *more: PeerRule, secrets: Any = "some") -> Access:
    return Access(["127.0.0.0/8", "::1/128", "10.0.0.0/8"], allow, [*PEERS, *more], secrets)


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
CERTIFIED = Client("198.51.100.1", fingerprint="sha256:ab", tls=True)


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
        (CERTIFIED, False, True),
        (Client("198.51.100.1", fingerprint="sha256:cd", tls=True), False, False),
        (Client("198.51.100.1", fingerprint="sha256:ab", identity="cert"), True, True),
        (Client("198.51.100.1", identity="cert"), True, False),
        (Client("198.51.100.1", identity="old"), True, False),
        (TURNED, False, False),
        (Client("", turned=True), False, False),
        (Client("192.0.2.7", turned=True), False, False),
        (Client("198.51.100.1", fingerprint="sha256:ab", turned=True), False, False),
        (Client("garbage"), False, False),
    ],
)
def test_relay_verify_expand_and_turn(client: Client, relay: bool, turn: bool) -> None:
    rights = access().rights(client)
    assert (rights.relay, rights.verify, rights.expand, rights.turn) == (relay, relay, relay, turn)


@pytest.mark.parametrize(
    ("client", "atrn", "etrn"),
    [
        (STRANGER, False, True),  # ETRN starts what would go there anyway: anybody may ask
        (LOOPBACK, False, True),
        (Client("198.51.100.1", listener="odmr"), True, True),  # named, so that it may prove itself
        (Client("198.51.100.1", listener="submission"), True, False),
        (Client("198.51.100.1", listener="lmtp"), False, False),
        (LEAF, True, True),  # a peer may on any listener
        (OLD, True, True),
        (USER, False, True),
        (TURNED, False, False),
        (Client("", turned=True, listener="odmr"), False, False),
    ],
)
def test_who_may_ask_for_mail_by_atrn_and_etrn(client: Client, atrn: bool, etrn: bool) -> None:
    rights = access().rights(client)
    assert (rights.atrn, rights.etrn) == (atrn, etrn)
    without_peers = Access(["127.0.0.0/8"], "trusted").rights(client)
    assert (without_peers.atrn, without_peers.etrn) == (False, False)


@pytest.mark.parametrize("listener", ["submission", "odmr"])
@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "::1", "", "192.0.2.7", "198.51.100.1"])
def test_where_auth_comes_first_no_address_proves_anything(listener: str, address: str) -> None:
    before = access().rights(Client(address, listener=listener))
    assert before.must_authenticate
    assert not (before.relay or before.verify or before.expand or before.turn)
    assert before.modes == MAIL
    after = access().rights(Client(address, listener=listener, identity="leaf"))
    assert not after.must_authenticate
    assert after.relay and after.turn and after.modes == ALL


@pytest.mark.parametrize("listener", ["smtp", "lmtp"])
def test_elsewhere_nobody_has_to_authenticate(listener: str) -> None:
    assert not access().rights(Client("198.51.100.1", listener=listener)).must_authenticate
    assert access().rights(Client("10.1.2.3", listener=listener)).relay


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


SCRAM = ("SCRAM-SHA-256",)
READ_BY_NOBODY = ("SCRAM-SHA-256", "PLAIN", "LOGIN")


@pytest.mark.parametrize(
    ("client", "mechanisms"),
    [
        (STRANGER, SCRAM),
        (INSIDE, SCRAM),
        (LOOPBACK, READ_BY_NOBODY),
        (Client("127.8.9.1"), READ_BY_NOBODY),
        (Client("::1"), READ_BY_NOBODY),
        (Client("::ffff:127.0.0.1"), READ_BY_NOBODY),
        (SOCKET, READ_BY_NOBODY),
        (Client("198.51.100.1", tls=True), READ_BY_NOBODY),
        (CERTIFIED, ("EXTERNAL", *READ_BY_NOBODY)),
        (Client("198.51.100.1", tls=True, fingerprint="sha256:cd"), READ_BY_NOBODY),
        (USER, ()),
        (Client("198.51.100.1", tls=True, fingerprint="sha256:ab", identity="cert"), ()),
        (TURNED, ()),
        (Client("198.51.100.1", tls=True, fingerprint="sha256:ab", turned=True), ()),
    ],
)
def test_a_mechanism_is_offered_only_where_it_can_be_used_safely(
    client: Client, mechanisms: tuple[str, ...]
) -> None:
    assert access().rights(client).mechanisms == mechanisms
    with_cram = access("trusted", FETCHMAIL).rights(client).mechanisms
    assert with_cram == ((*mechanisms, "CRAM-MD5") if mechanisms else ())


def test_cram_md5_of_a_peer_that_may_not_auth_is_not_offered() -> None:
    peer = PeerRule("x", auth=False, cram_md5=True)
    assert access("trusted", peer).rights(STRANGER).mechanisms == SCRAM


def test_without_a_passwords_file_only_a_certificate_authenticates() -> None:
    rules = access(secrets=None)
    assert rules.rights(LOOPBACK).mechanisms == ()
    assert rules.rights(CERTIFIED).mechanisms == ("EXTERNAL",)


def test_words_and_networks_that_are_none_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="none of"):
        Access([], "everybody")
    with pytest.raises(ValueError, match="network"):
        Access(["x"], "none")


@pytest.mark.parametrize(
    ("client", "name"),
    [
        (LEAF, "leaf"),
        (OLD, "old"),
        (CERTIFIED, "cert"),
        (LIAR, ""),
        (USER, ""),
        (TURNED, ""),
        (SOCKET, ""),
        (Client("192.0.2.7", listener="odmr"), ""),
        (Client("198.51.100.1", fingerprint="sha256:ab", listener="odmr"), "cert"),
    ],
)
def test_the_peer_that_a_client_proved_to_be(client: Client, name: str) -> None:
    assert access().peer(client) == name
