"""The passwords file: what is right, what is not, and how it is written."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, succeed

from mailnode.access.kept import hash_secret
from mailnode.access.passwords import FILE_SIZE, RUNNING, WAITING, Passwords
from mailnode.access.turnstile import FullError
from mailnode.smtp.sasl.keys import derive

T = TypeVar("T")


def at_once(work: Callable[[], T], /) -> Deferred[T]:
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
    text = (tmp_path / "passwords").read_text()
    assert text.startswith("# ours\nbroken line\nleaf:scrypt$1\njones:scrypt$")
    assert not passwords.check("leaf", "1")
    assert passwords.names() == ["jones"]


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


def test_old_files_with_one_hash_go_on_working(passwords: Passwords, tmp_path: Path) -> None:
    hashed = hash_secret("ro\u2168", b"salt")
    (tmp_path / "passwords").write_text(f"jones:{hashed}\n")
    assert passwords.check("jones", "ro\u2168")  # as it was typed: the hash is older than SASLprep
    assert not passwords.check("jones", "roIX")
    assert passwords.kept("jones").scram is None
    assert passwords.find_keys("jones") == passwords.find_keys("jones") != passwords.find_keys("smith")


def test_a_new_secret_is_right_in_every_form_that_is_prepared_to_the_same(passwords: Passwords) -> None:
    passwords.set("jones", "ro\u2168")
    assert passwords.check("jones", "ro\u2168") and passwords.check("jones", "roIX")
    assert not passwords.check("jones", "roIY") and not passwords.check("jones", "ro\x07")


def test_a_secret_that_is_only_readable_is_right_as_it_is(passwords: Passwords, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("us:secret$b3BlbiBzZXNhbWU=\n")
    assert passwords.check("us", "open sesame") and not passwords.check("us", "sesame")
    assert passwords.recoverable("us") == "open sesame"


def test_a_digest_is_right_for_a_readable_secret_only(passwords: Passwords) -> None:
    """RFC 2195 2."""
    passwords.set("tim", "tanstaaftanstaaf", recoverable=True)
    passwords.set("jones", "tanstaaftanstaaf")
    challenge, digest = (
        b"<1896.697170952@postoffice.reston.mci.net>",
        "b913a602c7eda7a495b4e6e7334d3890",
    )
    results: list[bool] = []
    for name, said in (
        ("tim", digest),
        ("tim", "0" * 32),
        ("tim", "\u00e9"),
        ("jones", digest),
        ("", digest),
    ):
        passwords.verify_digest(name, challenge, said).addCallback(results.append)
    assert results == [True, False, False, False, False]


def test_a_digest_by_the_key_of_nobody_is_right_for_nobody(tmp_path: Path) -> None:
    passwords = Passwords(str(tmp_path / "passwords"), at_once, random=lambda size: b"0" * size)
    digest = hmac.digest(b"0" * 32, b"<a@b>", "md5").hex()
    assert not passwords.check_digest("nobody", b"<a@b>", digest)


def test_the_keys_of_scram_are_those_that_were_set(passwords: Passwords) -> None:
    passwords.set("jones", "pencil")
    keys = passwords.find_keys("jones")
    assert keys == derive("pencil", keys.salt, keys.iterations)[1]


def test_an_unknown_name_has_keys_of_its_own_that_look_like_true_ones(passwords: Passwords) -> None:
    passwords.set("jones", "pencil")
    true, one, other = (passwords.find_keys(name) for name in ("jones", "one", "other"))
    assert one == passwords.find_keys("one")
    assert (
        len({one.salt, other.salt, one.stored_key, other.stored_key, one.server_key, other.server_key}) == 6
    )
    for made in (one, other):
        assert made.iterations == true.iterations
        for field in ("salt", "stored_key", "server_key"):
            assert len(getattr(made, field)) == len(getattr(true, field))


def test_the_keys_of_unknown_names_differ_from_process_to_process(tmp_path: Path) -> None:
    first, second = (Passwords(str(tmp_path / "passwords"), at_once) for _ in range(2))
    assert first.find_keys("one") != second.find_keys("one")


def test_unknown_names_have_the_iterations_of_most(passwords: Passwords, tmp_path: Path) -> None:
    stored = base64.b64encode(b"s" * 32).decode()
    lines = [f"u{number}:scram-sha-256$8192$c2FsdA==${stored}${stored}" for number in range(3)]
    (tmp_path / "passwords").write_text("\n".join([*lines, f"v:scram-sha-256$4096$YQ==${stored}${stored}"]))
    assert passwords.find_keys("nobody").iterations == 8192


def test_what_comes_too_late_is_turned_away_and_the_others_are_served(tmp_path: Path) -> None:
    begun: list[Deferred[Any]] = []

    def in_thread(work: Callable[[], Any], /) -> Deferred[Any]:
        begun.append(Deferred())
        return begun[-1].addCallback(lambda _: work())

    passwords = Passwords(str(tmp_path / "passwords"), in_thread)
    results: list[object] = []
    for number in range(RUNNING + WAITING + 5):
        if number % 16 == 1:
            answer = passwords.verify("nobody", "x")
        else:
            answer = passwords.verify_digest("nobody", b"", "x")
        answer.addErrback(lambda failure: failure.type).addBoth(results.append)
    assert results == [FullError] * 5 and len(begun) == RUNNING
    passwords.keys("jones").addCallback(results.append)
    begun.pop().callback(None)  # a look at the file waits for nobody
    assert results[5] == passwords.find_keys("jones")
    while begun:
        begun.pop(0).callback(None)
    assert results[6:] == [False] * (RUNNING + WAITING)


def test_a_file_without_end_is_not_read(passwords: Passwords, tmp_path: Path) -> None:
    (tmp_path / "passwords").touch()
    os.truncate(tmp_path / "passwords", FILE_SIZE + 1)
    with pytest.raises(OSError, match="larger than"):
        passwords.check("jones", "x")


@pytest.mark.parametrize("ask", ["check", "check_digest", "find_keys"])
def test_an_unknown_name_costs_the_same_work(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    passwords.set("jones", "x" * 32, recoverable=True)
    passwords.set("smith", "x" * 32)
    costs: list[object] = []
    count(monkeypatch, costs, hashlib, "scrypt")
    count(monkeypatch, costs, hashlib, "pbkdf2_hmac")
    count(monkeypatch, costs, hmac, "digest")
    count(monkeypatch, costs, hmac, "compare_digest")
    said = {"check": ("two",), "check_digest": (b"<a@b>", "0" * 32), "find_keys": ()}[ask]
    found = []
    for name in ("jones", "smith", "nobod", "\0jone"):
        getattr(passwords, ask)(name, *said)
        found.append(costs.copy())
        costs.clear()
    assert found == [found[0]] * 4 and found[0]
    kinds = {"check": "scrypt", "check_digest": "compare_digest", "find_keys": "digest"}
    assert any(kinds[ask] == cost[0] for cost in found[0])  # type: ignore[index]


def count(monkeypatch: pytest.MonkeyPatch, costs: list[object], module: Any, name: str) -> None:
    """Notes each call of a function and the sizes of what it was given."""
    function = getattr(module, name)

    def size(value: object) -> object:
        return len(value) if isinstance(value, str | bytes) else value

    def counted(*args: object, **named: object) -> object:
        costs.append((name, [size(arg) for arg in args], {key: size(arg) for key, arg in named.items()}))
        return function(*args, **named)

    monkeypatch.setattr(module, name, counted)


def test_two_equal_secrets_are_not_seen_to_be_equal(passwords: Passwords, tmp_path: Path) -> None:
    passwords.set("a", "same")
    passwords.set("b", "same")
    lines = [line.partition(":")[2] for line in (tmp_path / "passwords").read_text().splitlines()]
    assert len(set(lines)) == len(lines) == 4
