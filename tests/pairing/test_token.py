"""The token: what it carries, and what is no token."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.pairing.token import (
    DOMAINS,
    LENGTH,
    PREFIX,
    SECRET_SIZE,
    VERSION,
    Token,
    TokenError,
    decode,
    invitation_id,
    is_host,
    is_name,
)

TOKEN = Token(
    "hub.example",
    587,
    "hub.example",
    "leaf",
    ("leaf.example", "other.example"),
    b"s" * SECRET_SIZE,
    "sha256:" + "ab" * 32,
    1_800_000_000,
)


def word(fields: Any) -> str:
    """A token with a right sum, whatever its fields."""
    octets = msgspec.msgpack.encode(fields)
    octets += hashlib.sha256(octets).digest()[:4]
    return PREFIX + urlsafe_b64encode(octets).decode().rstrip("=")


def fields(**changed: Any) -> list[Any]:
    values = {
        "version": VERSION,
        "host": "hub.example",
        "port": 587,
        "hub": "hub.example",
        "name": "leaf",
        "domains": ["leaf.example"],
        "secret": b"s" * SECRET_SIZE,
        "mark": b"\xab" * 32,
        "expires": 1_800_000_000,
    }
    return list({**values, **changed}.values())


def test_a_token_is_one_word_and_comes_back_whole() -> None:
    text = TOKEN.encode()
    assert len(text.split()) == 1 and text.startswith(PREFIX) and len(text) < 250
    assert decode(text) == TOKEN
    implicit = replace(TOKEN, implicit=True)
    assert decode(implicit.encode()) == implicit and len(implicit.encode()) < 250


def test_the_secret_is_shown_in_no_description() -> None:
    assert "secret" not in repr(TOKEN) and TOKEN.password not in repr(TOKEN)


def test_a_token_that_was_folded_on_its_way_is_whole() -> None:
    text = TOKEN.encode()
    assert decode(f"  {text[:40]}\r\n\t{text[40:]}\n") == TOKEN


@given(st.data())
def test_a_token_that_lost_or_changed_a_character_is_garbled(data: st.DataObject) -> None:
    text = TOKEN.encode()
    at = data.draw(st.integers(len(PREFIX), len(text) - 1))
    other = data.draw(st.sampled_from("Az09-_").filter(lambda char: char != text[at]))
    cut = data.draw(st.integers(len(PREFIX), len(text) - 1))
    for wrong in (text[:at] + text[at + 1 :], text[:at] + other + text[at + 1 :], text[:cut]):
        try:
            found = decode(wrong)
        except TokenError:
            continue
        # The last character has bits that stand for nothing: there, and only there, it may be another.
        assert found == TOKEN and at == len(text) - 1


@given(st.one_of(st.text(), st.text(alphabet="Az09-_").map(lambda text: PREFIX + text)))
def test_any_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(TokenError) as refused:
        decode(text)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with"),
        ("eyJhbGciOi", "begins with"),
        (PREFIX, "garbled"),
        (PREFIX + "AAAAA", "garbled"),
        (PREFIX + "A" * LENGTH, "single word"),
        (PREFIX + "A" * 2 * LENGTH, "too long"),
        (TOKEN.encode() + TOKEN.encode(), "garbled"),
        (word(fields(version=2)), "of version 2"),
        (word([]), "understood"),
        (word({"version": 1}), "understood"),
        (word(7), "understood"),
        (word(fields()[:-1]), "understood"),
        (word(fields(port="25")), "understood"),
    ],
)
def test_what_is_no_token_is_said(text: str, why: str) -> None:
    with pytest.raises(TokenError, match=why):
        decode(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", ""),
        ("host", "hub.example\r\nQUIT"),
        ("host", "tcp:evil:25:bindAddress=1.2.3.4"),
        ("host", "/run/secret.sock"),
        ("host", "[::1]"),
        ("host", "fe80::1%eth0"),
        ("port", 0),
        ("port", 65536),
        ("port", -1),
        ("hub", "../../etc/passwd"),
        ("hub", 'x"\n[[dial]]'),
        ("name", ""),
        ("name", ".hidden"),
        ("name", "../leaf"),
        ("name", "a:b"),
        ("name", "x" * 65),
        ("domains", []),
        ("domains", ["leaf.example", 7]),
        ("domains", ["LEAF.example"]),
        ("domains", ["leaf example"]),
        ("domains", ["leaf.example"] * (DOMAINS + 1)),
        ("secret", b""),
        ("secret", b"s" * (SECRET_SIZE - 1)),
        ("mark", b"\xab" * 31),
        ("expires", -1),
        ("expires", 1 << 63),
    ],
)
def test_a_token_that_somebody_made_up_goes_nowhere(key: str, value: object) -> None:
    with pytest.raises(TokenError, match="cannot be used"):
        decode(word(fields(**{key: value})))
    decode(word(fields()))  # as it is without that


@pytest.mark.parametrize("implicit", [1, 0, "yes", None, [True]])
def test_tls_begins_with_the_first_octet_or_it_does_not(implicit: object) -> None:
    assert decode(word(fields(implicit=True))).implicit and not decode(word(fields(implicit=False))).implicit
    with pytest.raises(TokenError, match="cannot be understood"):
        decode(word(fields(implicit=implicit)))


def test_the_name_of_an_invitation_hangs_on_its_secret_and_does_not_tell_it() -> None:
    other = replace(TOKEN, secret=b"t" * SECRET_SIZE)
    assert TOKEN.id == invitation_id(TOKEN.secret) != other.id
    assert TOKEN.secret.hex() not in TOKEN.id and TOKEN.password not in TOKEN.id


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("hub.example", True), ("192.0.2.7", True), ("2001:db8::1", True), ("hub_1.example", False), ("", False),
     ("[192.0.2.7]", False), ("::1%lo", False)],
)  # fmt: skip
def test_a_host_is_a_domain_or_an_address(text: str, is_one: bool) -> None:
    assert is_host(text) is is_one


def test_a_name_is_fit_for_a_file() -> None:
    assert all(map(is_name, ("leaf", "leaf.example", "a+b_c-d")))
    assert not any(map(is_name, ("", "..", ".a", "a/b", "a\0", "a b", "ä", "a\n")))
