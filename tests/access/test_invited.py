"""Who proves to hold an invitation: under TLS, by its keys, and with the right to use it and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, succeed

from mailnode.access.passwords import Passwords
from mailnode.access.rules import Access, PeerRule
from mailnode.mail import Client, Password, Rights, ScramKeys, ScramProof
from mailnode.smtp.replies import AUTH_FAILED

T = TypeVar("T")

NAME = "invitation:leaf:00"
KEYS = ScramKeys(b"s" * 16, 100_000, b"t" * 32, b"u" * 32)


def at_once(work: Callable[[], T], /) -> Deferred[T]:
    return succeed(work())


def now(deferred: Deferred[T]) -> T:
    results: list[T] = []
    deferred.addCallback(results.append)
    (result,) = results
    return result


class OneInvitation:
    def keys(self, identity: str) -> Deferred[ScramKeys | None]:
        return succeed(KEYS if identity == NAME else None)


@pytest.fixture
def passwords(tmp_path: Path) -> Passwords:
    return Passwords(str(tmp_path / "passwords"), at_once)


@pytest.fixture
def access(passwords: Passwords) -> Access:
    peers = [PeerRule("leaf", networks=("192.0.2.0/24",), fingerprint="sha256:ab")]
    return Access(["192.0.2.0/24"], "anyone", peers, passwords, invited=OneInvitation())


def test_the_keys_of_an_invitation_are_given_under_tls_alone(access: Access) -> None:
    assert now(access.scram_keys(Client("192.0.2.7", tls=True), NAME)) == KEYS
    assert now(access.scram_keys(Client("192.0.2.7"), NAME)) != KEYS


def test_one_that_there_is_not_has_keys_like_any_unknown_name(access: Access, passwords: Passwords) -> None:
    client = Client("192.0.2.7", tls=True)
    unknown: Any = now(access.scram_keys(client, "invitation:leaf:01"))
    assert unknown == now(access.scram_keys(client, "invitation:leaf:01"))
    assert (len(unknown.salt), unknown.iterations) == (len(KEYS.salt), KEYS.iterations)
    assert unknown == passwords.find_keys("invitation:leaf:01")


def test_a_right_proof_makes_its_holder_and_nothing_else_does(access: Access) -> None:
    client = Client("192.0.2.7", tls=True)
    assert now(access.authenticate(client, ScramProof(NAME, True))) == NAME
    assert now(access.authenticate(client, ScramProof(NAME, False))) == AUTH_FAILED
    assert now(access.authenticate(client, Password(NAME, "secret"))) == AUTH_FAILED


@pytest.mark.parametrize("listener", ["smtp", "submission", "odmr"])
def test_its_holder_may_use_it_and_nothing_besides_wherever_it_comes_from(
    access: Access, listener: str
) -> None:
    """Not even what its address or its certificate would let it do."""
    client = Client("192.0.2.7", identity=NAME, tls=True, fingerprint="sha256:ab", listener=listener)
    assert access.rights(client) == Rights(modes=(), pair=True)
    assert access.peer(client) == ""


def test_nobody_who_has_not_proved_it_may_use_one(access: Access) -> None:
    for client in (
        Client("192.0.2.7"),
        Client("192.0.2.7", identity="leaf"),
        Client(identity=NAME, turned=True),
    ):
        assert not access.rights(client).pair


def test_keys_alone_are_a_secret_that_scram_knows_and_plain_does_not(passwords: Passwords) -> None:
    passwords.set("leaf", "old")
    passwords.set_keys("leaf", KEYS)
    assert passwords.find_keys("leaf") == KEYS and passwords.names() == ["leaf"]
    assert not passwords.check("leaf", "old") and passwords.recoverable("leaf") is None


def test_keys_for_a_name_that_is_none_are_refused(passwords: Passwords) -> None:
    with pytest.raises(ValueError, match="not a user name"):
        passwords.set_keys("a:b", KEYS)
    assert passwords.names() == []
