"""The passwords file: what is right, what is not, and how it is written."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed

from mailnode.access.passwords import SECRET_SIZE, Passwords, hash_secret, matches


def at_once(work: Callable[[], bool]) -> Deferred[bool]:
    return succeed(work())


@pytest.fixture
def passwords(tmp_path: Path) -> Passwords:
    return Passwords(str(tmp_path / "passwords"), at_once)


def test_a_secret_is_right_for_its_name_only(passwords: Passwords) -> None:
    passwords.set("jones", "sécret word")
    passwords.set("leaf", "other")
    results: list[bool] = []
    for name, secret in (("jones", "sécret word"), ("jones", "other"), ("leaf", "other"), ("", "other")):
        passwords.verify(name, secret).addCallback(results.append)
    assert results == [True, False, True, False]
    assert passwords.names() == ["jones", "leaf"]


def test_a_new_secret_replaces_the_old_one_and_may_be_taken_away(passwords: Passwords) -> None:
    passwords.set("jones", "one")
    passwords.set("jones", "two")
    assert not passwords.check("jones", "one")
    assert passwords.check("jones", "two")
    assert passwords.remove("jones")
    assert not passwords.remove("jones")
    assert not passwords.check("jones", "two")


def test_without_a_file_nobody_is_known(passwords: Passwords) -> None:
    assert not passwords.check("jones", "x")
    assert passwords.names() == []


def test_a_file_that_another_wrote_is_read_again(passwords: Passwords, tmp_path: Path) -> None:
    passwords.set("jones", "one")
    assert passwords.check("jones", "one")
    Passwords(str(tmp_path / "passwords"), at_once).set("jones", "two")
    assert passwords.check("jones", "two")


def test_the_file_is_private_and_holds_no_secret(passwords: Passwords, tmp_path: Path) -> None:
    passwords.set("jones", "verysecret")
    file = tmp_path / "passwords"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "verysecret" not in file.read_text()
    assert os.listdir(tmp_path) == ["passwords"]


def test_what_else_is_in_the_file_stays(passwords: Passwords, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("# ours\nbroken line\nleaf:scrypt$1\n")
    passwords.set("jones", "x")
    assert (
        (tmp_path / "passwords").read_text().startswith("# ours\nbroken line\nleaf:scrypt$1\njones:scrypt$")
    )
    assert not passwords.check("leaf", "1")


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(
    passwords: Passwords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords.set("jones", "one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        passwords.set("jones", "two")
    assert os.listdir(tmp_path) == ["passwords"]
    assert passwords.check("jones", "one")


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a b", "x" * 65, "é"])
def test_a_name_that_would_break_the_file_is_refused(passwords: Passwords, name: str) -> None:
    with pytest.raises(ValueError, match="user name"):
        passwords.set(name, "x")


@pytest.mark.parametrize("secret", ["", "x" * (SECRET_SIZE + 1)])
def test_an_empty_or_endless_secret_is_refused(passwords: Passwords, secret: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024"):
        passwords.set("jones", secret)
    assert not matches(secret, hash_secret("x" * SECRET_SIZE, b"salt"))


@pytest.mark.parametrize(
    "hashed",
    [
        "",
        "scrypt$",
        "plain$x",
        "scrypt$3$8$1$YQ==$YQ==",
        "scrypt$99999999$8$1$YQ==$YQ==",
        "scrypt$16384$8$1$YQ$Y",
    ],
)
def test_a_malformed_hash_matches_nothing(hashed: str) -> None:
    assert not matches("x", hashed)


def test_an_unknown_name_costs_the_same_work(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    passwords.set("jones", "one")
    costs: list[object] = []
    scrypt = hashlib.scrypt

    def counted(*args: object, **named: object) -> bytes:
        costs.append((named["n"], named["r"], named["p"], named["dklen"], len(named["salt"])))  # type: ignore[arg-type]
        return scrypt(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "scrypt", counted)
    assert not passwords.check("jones", "two")
    assert not passwords.check("nobody", "two")
    assert costs == [(16384, 8, 1, 32, 16)] * 2


def test_two_equal_secrets_are_not_seen_to_be_equal(passwords: Passwords, tmp_path: Path) -> None:
    passwords.set("a", "same")
    passwords.set("b", "same")
    first, second = (tmp_path / "passwords").read_text().splitlines()
    assert first.partition(":")[2] != second.partition(":")[2]
