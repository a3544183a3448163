"""The receiver's side of the SASL mechanisms: what a response claims, and what is malformed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.mail import CramDigest, External, Password, ScramKeys, ScramProof
from mailnode.smtp import sasl
from mailnode.smtp.sasl import Challenge, Claim, NeedKeys, decode, encode, plain_response
from mailnode.smtp.sasl.preparation import LIMIT, NAME_SIZE, saslprep
from mailnode.smtp.sasl.steps import MESSAGE_SIZE

KEYS = ScramKeys(b"salt", 4096, b"s" * 32, b"k" * 32)
CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"  # RFC 2195 2
DIGEST = "b913a602c7eda7a495b4e6e7334d3890"


def exchange(name: str) -> Any:
    return sasl.MECHANISMS[name](lambda: "1896.697170952", "postoffice.reston.mci.net")


# ------------------------------------------------------------------ base64


@given(st.binary(max_size=200))
def test_what_is_encoded_is_decoded(octets: bytes) -> None:
    assert decode(encode(octets).encode()) == octets


@given(st.binary(max_size=12))
def test_only_the_base64_of_what_it_gives_is_decoded(line: bytes) -> None:
    octets = decode(line)
    assert octets is None or line == b"=" or encode(octets).encode() == line


@pytest.mark.parametrize(
    "line",
    [
        b"!!!",
        b"AGxlYWY",  # no padding
        b"AGxlYWY=AGxl",  # RFC 4954 4: "AAA=BBB"
        b"=AAA",
        b"==",
        b"AAAA=",
        b"YR==",  # bits that no octet has
        b"AGxl\nYWY=",
        b" AGxlYWY=",
        b"AGxlYWY= ",
        b"AGxl-WY_",
        b"\xff\xfe",
    ],
)
def test_what_is_not_strictly_base64_is_not_decoded(line: bytes) -> None:
    assert decode(line) is None


def test_an_equals_sign_is_the_empty_initial_response() -> None:
    assert decode(b"=") == b"" == decode(b"")


# ------------------------------------------------------------------ SASLprep (RFC 4013)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", None),
        ("\u06271", None),
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u0627a\u0628", None),
        ("a\u00a0b", "a b"),
        ("\u00ad", None),
        ("", None),
        ("a\0b", None),
        ("a\x7fb", None),
        ("\u212b\u0301", "\u01fa"),
        ("\ue000", None),
        ("\ud800", None),
        ("\ufffd", None),
        ("\u200e", None),
        ("\U0001f600", "\U0001f600"),  # after Unicode 3.2: allowed in a question
        ("é" * LIMIT, "é" * LIMIT),
        ("é" * (LIMIT + 1), None),
        ("\ufdfa" * (LIMIT // 18 + 1), None),  # longer when it is prepared
        ("x" * 6000, "x" * 6000),
    ],
)
def test_text_is_prepared_as_rfc_4013_says(text: str, prepared: str | None) -> None:
    assert saslprep(text) == prepared


def test_what_unicode_3_2_does_not_know_is_not_stored() -> None:
    assert saslprep("\U0001f600", stored=True) is None
    assert saslprep("\u00aa", stored=True) == "a"


@given(st.text(max_size=40))
def test_what_is_prepared_stays_as_it_is(text: str) -> None:
    prepared = saslprep(text)
    assert prepared is None or saslprep(prepared) == prepared


# ------------------------------------------------------------------ PLAIN (RFC 4616)


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=80)


@given(PRINTABLE, PRINTABLE)
def test_what_is_sent_is_what_is_claimed(name: str, secret: str) -> None:
    octets = decode(plain_response(name, secret))
    assert octets is not None
    assert exchange("PLAIN").start(octets) == Claim(Password(name, secret))


@pytest.mark.parametrize(
    ("octets", "name", "secret"),
    [
        (b"\0tim\0tanstaaftanstaaf", "tim", "tanstaaftanstaaf"),  # RFC 4616 4
        (b"leaf\0leaf\0secret", "leaf", "secret"),
        ("\uff4c\uff45\uff41\uff46\0leaf\0\u2168".encode(), "leaf", "\u2168"),  # the secret as it was said
        ("\0leaf\0sécret".encode(), "leaf", "sécret"),
    ],
)
def test_plain_is_read_from_the_initial_or_a_later_response(octets: bytes, name: str, secret: str) -> None:
    assert exchange("PLAIN").start(octets) == Claim(Password(name, secret))
    later = exchange("PLAIN")
    assert later.start(None) == Challenge(b"")
    assert later.respond(octets) == Claim(Password(name, secret))
    assert later.respond(octets) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"leaf",
        b"\0leaf",
        b"\0leaf\0secret\0more",
        b"\0\0secret",
        b"\0leaf\0",
        b"Ursel\0Kurt\0xipj3plmq",  # RFC 4616 4: nobody acts for another here
        b"\xff\0leaf\0secret",
        b"\0leaf\0\xff\xfe",
        b"\0le\x07af\0secret",
        b"\0leaf\0sec\x1bret",
        b"\0" + b"x" * (NAME_SIZE + 1) + b"\0secret",
        b"\0leaf\0" + b"x" * MESSAGE_SIZE,
    ],
)
def test_a_malformed_plain_response_claims_nothing(octets: bytes) -> None:
    assert exchange("PLAIN").start(octets) is None


# ------------------------------------------------------------------ LOGIN


def test_login_asks_for_the_name_and_the_password() -> None:
    login = exchange("LOGIN")
    assert login.start(None) == Challenge(b"Username:")
    assert login.respond(b"tim") == Challenge(b"Password:")
    assert login.respond(b"tanstaaftanstaaf") == Claim(Password("tim", "tanstaaftanstaaf"))
    assert login.respond(b"tanstaaftanstaaf") is None


def test_an_initial_response_of_login_is_the_name() -> None:
    login = exchange("LOGIN")
    assert login.start(b"tim") == Challenge(b"Password:")
    assert login.respond(b"x") == Claim(Password("tim", "x"))


@pytest.mark.parametrize(
    "answers",
    [(b"",), (b"\xff",), (b"a\0b",), (b"x" * 256,), (b"tim", b""), (b"tim", b"\xff"), (b"tim", b"a\0b")],
)
def test_a_malformed_answer_to_login_ends_it(answers: tuple[bytes, ...]) -> None:
    login = exchange("LOGIN")
    login.start(None)
    steps = [login.respond(answer) for answer in answers]
    assert steps[-1] is None and None not in steps[:-1]
    assert login.respond(b"tim") is None


# ------------------------------------------------------------------ CRAM-MD5 (RFC 2195)


def test_cram_md5_speaks_first_and_takes_the_digest() -> None:
    cram = exchange("CRAM-MD5")
    assert cram.start(None) == Challenge(CHALLENGE)
    assert cram.respond(f"tim {DIGEST}".encode()) == Claim(CramDigest("tim", CHALLENGE, DIGEST))
    assert cram.respond(f"tim {DIGEST}".encode()) is None


def test_a_name_of_two_words_and_a_digest_in_capitals_are_understood() -> None:
    cram = exchange("CRAM-MD5")
    cram.start(None)
    expected = CramDigest("tim the elder", CHALLENGE, DIGEST)
    assert cram.respond(f"tim the elder {DIGEST.upper()}".encode()) == Claim(expected)


def test_cram_md5_has_no_initial_response() -> None:
    assert exchange("CRAM-MD5").start(b"") is None
    assert exchange("CRAM-MD5").start(f"tim {DIGEST}".encode()) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"tim",
        DIGEST.encode(),
        b" " + DIGEST.encode(),
        b"tim " + DIGEST.encode()[:-1],
        b"tim " + DIGEST.encode() + b"0",
        b"tim " + b"g" * 32,
        b"tim " + DIGEST.encode() + b"\n",
        b"\xff " + DIGEST.encode(),
        b"t\0m " + DIGEST.encode(),
        b"x" * 256 + b" " + DIGEST.encode(),
    ],
)
def test_a_malformed_digest_claims_nothing(octets: bytes) -> None:
    cram = exchange("CRAM-MD5")
    cram.start(None)
    assert cram.respond(octets) is None


def test_every_challenge_has_a_nonce_of_its_own() -> None:
    nonces = iter("abc")
    made = [sasl.MECHANISMS["CRAM-MD5"](lambda: next(nonces), "h.example").start(None) for _ in range(3)]
    assert made == [Challenge(b"<%c@h.example>" % char) for char in b"abc"]


# ------------------------------------------------------------------ EXTERNAL (RFC 4422 Appendix A)


@pytest.mark.parametrize(
    ("octets", "step"),
    [
        (b"", Claim(External())),
        (b"leaf", Claim(External("leaf"))),
        ("\uff4ceaf".encode(), Claim(External("leaf"))),
        (b"\xff", None),
        (b"le\0af", None),
        (b"x" * (NAME_SIZE + 1), None),
    ],
)
def test_external_names_who_is_wanted_or_nobody(octets: bytes, step: object) -> None:
    assert exchange("EXTERNAL").start(octets) == step
    later = exchange("EXTERNAL")
    assert later.start(None) == Challenge(b"")
    assert later.respond(octets) == step


# ------------------------------------------------------------------ all of them

NAMES = sorted(sasl.MECHANISMS)
SHAPED = st.sampled_from(
    [
        b"",
        b"n,,n=jones,r=abc",
        b"y,a=jones,n=jones,r=abc",
        b"p=tls-unique,,n=jones,r=abc",
        b"c=biws,r=abc1896.697170952,p=AAAA",
        b"\0jones\0secret",
        b"jones " + DIGEST.encode(),
        b"jones",
    ]
)
CALLS = st.one_of(
    st.tuples(st.just("start"), st.none() | SHAPED | st.binary(max_size=60)),
    st.tuples(st.just("respond"), SHAPED | st.binary(max_size=60)),
    st.tuples(st.just("keys"), st.just(KEYS)),
)


@given(st.sampled_from(NAMES), st.lists(CALLS, max_size=6))
def test_whatever_comes_in_whatever_order_gives_a_step(name: str, calls: list[tuple[str, Any]]) -> None:
    machine = exchange(name)
    for method, argument in calls:
        step = getattr(machine, method)(argument)
        assert step is None or isinstance(step, Challenge | NeedKeys | Claim)
        # KEYS fit no proof, and nobody else may say that one was right.
        assert step != Claim(ScramProof("jones", True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "call", [lambda it: it.respond(b"jones"), lambda it: it.respond(b""), lambda it: it.keys(KEYS)]
)
def test_nothing_is_taken_before_the_start(name: str, call: Callable[[Any], object]) -> None:
    assert call(exchange(name)) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_message_without_end_is_malformed(name: str) -> None:
    machine = exchange(name)
    machine.start(None)
    assert machine.respond(base64.b64encode(b"x" * MESSAGE_SIZE)) is None
