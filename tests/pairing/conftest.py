"""What the tests of pairing share: a token, and what a hub keeps of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mailnode.pairing.invitation import Invitation, invitation_for
from mailnode.pairing.token import Token, new_secret

NOW = 1_800_000_000.0
DAY = 86400


@pytest.fixture
def make_token() -> Callable[..., Token]:
    def make(name: str = "leaf", host: str = "hub.example", lasts: int = DAY) -> Token:
        return Token(
            host,
            587,
            "hub.example",
            name,
            (f"{name}.example",),
            new_secret(os.urandom),
            "sha256:" + "ab" * 32,
            int(NOW) + lasts,
        )

    return make


@pytest.fixture
def token(make_token: Callable[..., Token]) -> Token:
    return make_token()


@pytest.fixture
def invitation(token: Token) -> Invitation:
    return invitation_for(token, NOW, os.urandom)
