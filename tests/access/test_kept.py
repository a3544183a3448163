"""What is kept of a secret, and how it is read from a line."""

from __future__ import annotations

import base64
import os

import pytest

from mailnode.access.kept import ITERATIONS, NOTHING, SECRET_SIZE, Kept, add, hash_secret, keep, matches
from mailnode.access.kept import read_line as read
from mailnode.mail import ScramKeys
from mailnode.smtp.sasl.keys import derive
from mailnode.smtp.sasl.scram_client import MAX_ITERATIONS, MIN_ITERATIONS

STORED = base64.b64encode(b"s" * 32).decode()
SERVER = base64.b64encode(b"k" * 32).decode()
SCRAM = f"scram-sha-256$4096$c2FsdA==${STORED}${SERVER}"


def kept(*parts: str) -> Kept:
    found = NOTHING
    for part in parts:
        found = add(found, part)
    return found


def test_a_secret_is_kept_as_two_hashes_and_readable_only_where_it_must_be() -> None:
    parts = keep("open sesame", os.urandom, recoverable=False)
    assert [part.split("$")[0] for part in parts] == ["scrypt", "scram-sha-256"]
    assert all("sesame" not in part and "b3Blbi" not in part for part in parts)
    readable = keep("open sesame", os.urandom, recoverable=True)
    assert readable[2] == "secret$" + base64.b64encode(b"open sesame").decode()
    assert kept(*readable).secret == "open sesame" and kept(*parts).secret is None


def test_the_keys_of_scram_are_those_of_the_prepared_secret() -> None:
    """RFC 5802 3: whoever prepares "\u2168" as RFC 4013 says has the secret "IX"."""
    found = kept(*keep("\u2168", os.urandom, recoverable=False))
    assert found.scram is not None
    assert found.scram == derive("IX", found.scram.salt, ITERATIONS)[1]
    assert matches("IX", found.scrypt)


def test_our_own_client_takes_as_many_iterations_as_we_ask_for() -> None:
    assert MIN_ITERATIONS <= ITERATIONS <= MAX_ITERATIONS


def test_the_two_hashes_have_salts_of_their_own() -> None:
    salts = iter([b"a" * 16, b"b" * 16])
    hashed, scram = keep("x", lambda size: next(salts), recoverable=False)
    assert base64.b64decode(hashed.split("$")[4]) == b"a" * 16
    assert base64.b64decode(scram.split("$")[2]) == b"b" * 16


@pytest.mark.parametrize("secret", ["", "x" * (SECRET_SIZE + 1), "é" * (SECRET_SIZE // 2 + 1)])
def test_an_empty_or_endless_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024"):
        keep(secret, os.urandom, recoverable=False)


@pytest.mark.parametrize(
    "secret", ["a\tb", "a\x1b[2J", "\ue000", "\u06271", "\u00ad", "\U0001f600", "\ufdfa" * 100]
)
def test_what_sasl_could_not_say_is_refused_unless_another_host_has_made_it(secret: str) -> None:
    with pytest.raises(ValueError, match="RFC 4013"):
        keep(secret, os.urandom, recoverable=False)
    assert kept(*keep(secret, os.urandom, recoverable=True)) == Kept(secret=secret)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("jones:secret$eA==", ("jones", "secret$eA==")),
        ("  jones:scrypt$1\r", ("jones", "scrypt$1")),
        (f"leaf-1:{SCRAM}", ("leaf-1", SCRAM)),
        ("# jones:secret$eA==", None),
        ("jones:md5$eA==", None),
        ("jones:secret$", None),
        (":secret$eA==", None),
        ("jones:secret$" + "A" * 1600, None),
        ("", None),
    ],
)
def test_a_line_has_a_name_and_what_is_kept(line: str, found: tuple[str, str] | None) -> None:
    assert read(line) == found


def test_the_lines_of_a_name_come_together_and_of_one_kind_the_last_counts() -> None:
    hashed = hash_secret("x", b"salt")
    keys = ScramKeys(b"salt", 4096, b"s" * 32, b"k" * 32)
    assert kept("secret$YQ==", SCRAM, hashed, "secret$Yg==") == Kept(hashed, keys, "b")


@pytest.mark.parametrize(
    "part",
    [
        "scrypt$1",
        "scrypt$16384$8$1$YQ==",
        "scram-sha-256$4096$c2FsdA==$AAAA$AAAA",
        f"scram-sha-256$0$c2FsdA==${STORED}${SERVER}",
        f"scram-sha-256$4096$c2FsdA${STORED}${SERVER}",
        f"scram-sha-256$4096${STORED}${SERVER}",
        "secret$eA",
    ],
)
def test_a_malformed_line_says_nothing(part: str) -> None:
    assert kept(part) == NOTHING
    assert kept("secret$YQ==", part) == Kept(secret="a")


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


@pytest.mark.parametrize("secret", ["", "x" * (SECRET_SIZE + 1)])
def test_a_hash_has_no_empty_or_endless_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024"):
        hash_secret(secret, b"salt")
    assert not matches(secret, hash_secret("x" * SECRET_SIZE, b"salt"))
