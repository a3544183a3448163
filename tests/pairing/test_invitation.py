"""An invitation: what is kept, how long it is good, and the name under which its holder is known."""

from __future__ import annotations

import json
import os

import pytest
from msgspec.structs import replace

from mailnode.access.kept import ITERATIONS as OF_PASSWORDS
from mailnode.pairing.invitation import (
    ITERATIONS,
    Invitation,
    from_octets,
    identity,
    invitation_for,
    parse_identity,
    to_octets,
)
from mailnode.pairing.token import Token
from mailnode.smtp.sasl.keys import derive

NOW = 1_800_000_000.0
DAY = 86400


def test_the_keys_are_those_of_the_token_and_the_secret_is_not_kept(
    token: Token, invitation: Invitation
) -> None:
    _, keys = derive(token.password, invitation.salt, invitation.iterations)
    assert keys == invitation.keys
    octets = to_octets(invitation)
    assert token.password.encode() not in octets and token.secret not in octets
    assert token.secret.hex().encode() not in octets


def test_each_has_a_salt_of_its_own_and_costs_as_much_as_a_password(token: Token) -> None:
    salts = {invitation_for(token, NOW, os.urandom).salt for _ in range(3)}
    assert len(salts) == 3
    assert ITERATIONS == OF_PASSWORDS  # or their names could be told from those that there are not


def test_it_comes_back_from_its_octets(invitation: Invitation) -> None:
    assert from_octets(to_octets(invitation)) == invitation


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"name": "../leaf"},
        {"name": None},
        {"salt": "not base64!"},
        {"stored_key": "AAAA"},
        {"iterations": 1},
        {"ended": "perhaps"},
    ],
)
def test_octets_that_are_none_are_a_value_error(invitation: Invitation, change: dict[str, object]) -> None:
    values = json.loads(to_octets(invitation))
    with pytest.raises(ValueError):
        from_octets(json.dumps({**values, **change}).encode())
    for octets in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError):
            from_octets(octets)


@pytest.mark.parametrize(
    ("change", "when", "state", "words"),
    [
        ({}, NOW, "open", ""),
        ({}, NOW + DAY - 1, "open", ""),
        ({}, NOW + DAY, "expired", "expired at 2027-01-16T08:00:00Z, and here it is 2027-01-16T08:00:00Z"),
        ({"ended": "used", "ended_at": NOW, "ended_by": "192.0.2.7"}, NOW + 9 * DAY, "used",
         "used at 2027-01-15T08:00:00Z from 192.0.2.7"),
        ({"ended": "revoked", "ended_at": NOW}, NOW + 1, "revoked", "revoked at 2027-01-15T08:00:00Z"),
    ],
)  # fmt: skip
def test_it_is_good_until_it_was_used_revoked_or_has_expired(
    invitation: Invitation, change: dict[str, object], when: float, state: str, words: str
) -> None:
    one = replace(invitation, **change)
    assert one.state(when) == state
    refusal = one.refusal(when)
    assert (refusal is None) is (state == "open")
    assert refusal is None or (refusal.code == 550 and words in str(refusal))


def test_its_holder_has_a_name_that_no_user_can_have() -> None:
    name = identity("leaf", "0a1b")
    assert parse_identity(name) == ("leaf", "0a1b") and ":" in name
    for other in ("leaf", "leaf:0a1b", "invitation:leaf", "invitation:../x:0a1b", "invitation::0a1b", ""):
        assert parse_identity(other) is None
