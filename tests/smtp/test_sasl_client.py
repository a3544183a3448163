"""The sender's side of SASL: which mechanism it takes, and what it says."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Any

import pytest
from rich.pretty import pretty_repr

from mailnode.mail import CramDigest, Credentials, External, Password, ScramKeys, ScramProof
from mailnode.smtp import sasl
from mailnode.smtp.sasl import Challenge, Claim, NeedKeys, choose
from mailnode.smtp.sasl.keys import derive

ALL = ("SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL", "GSSAPI")


def nonce() -> str:
    return "fyko+d2lbbFgONRv9qkxdawL"


def chosen(
    offered: Collection[str],
    name: str = "tim",
    secret: str = "tanstaaftanstaaf",
    private: bool = True,
    certificate: bool = False,
) -> Any:
    return choose(offered, name, secret, private=private, certificate=certificate, nonce=nonce)


@pytest.mark.parametrize(
    ("offered", "options", "mechanism"),
    [
        (ALL, {}, "SCRAM-SHA-256"),
        (ALL, {"private": False}, "SCRAM-SHA-256"),
        (ALL[1:], {}, "PLAIN"),
        (ALL[2:], {}, "LOGIN"),
        (ALL[3:], {}, "CRAM-MD5"),
        (ALL[1:], {"private": False}, "CRAM-MD5"),
        (("PLAIN", "LOGIN"), {"private": False}, None),
        (("scram-sha-256", "plain"), {}, "SCRAM-SHA-256"),
        (("GSSAPI",), {}, None),
        ((), {}, None),
        (ALL, {"certificate": True}, "SCRAM-SHA-256"),
        (ALL, {"certificate": True, "secret": ""}, "EXTERNAL"),
        (ALL, {"certificate": True, "secret": "", "name": ""}, "EXTERNAL"),
        (ALL[:4], {"certificate": True, "secret": ""}, None),
        (ALL, {"secret": ""}, None),
        (ALL, {"name": ""}, None),
        (ALL, {"secret": "a\0b"}, None),
        (ALL, {"secret": "a\tb"}, "PLAIN"),  # SASLprep prohibits it; another host may have made it so
        (ALL, {"secret": "a\udcffb"}, "PLAIN"),
        (("SCRAM-SHA-256",), {"secret": "a\tb"}, None),
    ],
)
def test_the_best_mechanism_that_will_do_is_taken(
    offered: Collection[str], options: dict[str, Any], mechanism: str | None
) -> None:
    found = chosen(offered, **options)
    assert (found and found[0]) == mechanism
    if found:
        initial = found[1].first()
        assert initial is None or isinstance(initial, bytes)


def test_plain_says_all_at_once() -> None:
    _, exchange = chosen(["PLAIN"])
    assert exchange.first() == b"\0tim\0tanstaaftanstaaf"  # RFC 4616 4
    assert exchange.respond(b"") is None and exchange.done


def test_login_answers_two_questions_in_any_words_and_no_third() -> None:
    _, exchange = chosen(["LOGIN"])
    assert exchange.first() is None
    answers = [exchange.respond(words) for words in (b"Benutzername:", b"", b"Once more:")]
    assert answers == [b"tim", b"tanstaaftanstaaf", None]


def test_cram_md5_answers_the_challenge_of_rfc_2195() -> None:
    _, exchange = chosen(["CRAM-MD5"])
    assert exchange.first() is None
    challenge = b"<1896.697170952@postoffice.reston.mci.net>"
    assert exchange.respond(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert exchange.respond(challenge) is None


@pytest.mark.parametrize("challenge", [b"", b"x" * 10000])
def test_cram_md5_answers_no_empty_or_endless_challenge(challenge: bytes) -> None:
    assert chosen(["CRAM-MD5"])[1].respond(challenge) is None


def test_external_says_who_is_wanted_and_nothing_more() -> None:
    _, exchange = chosen(["EXTERNAL"], secret="", certificate=True)
    assert exchange.first() == b"tim"
    assert exchange.respond(b"") is None


# ------------------------------------------------------------------ both sides

CHALLENGE = b"<fyko+d2lbbFgONRv9qkxdawL@mit.example>"
KEYS: ScramKeys = derive("tanstaaftanstaaf", b"salt", 4096)[1]


def converse(mechanism: str, name: str, secret: str, initial: bool) -> Credentials:
    """What our receiver hears from our sender, by an initial response or after an empty challenge."""
    found = chosen([mechanism], name, secret, certificate=mechanism == "EXTERNAL")
    assert found is not None
    client, server = found[1], sasl.MECHANISMS[mechanism](nonce, "mit.example")
    first = client.first()
    if initial or first is None:
        step = server.start(first)
    else:
        assert server.start(None) == Challenge(b"")
        step = server.respond(first)
    for _ in range(4):
        if isinstance(step, NeedKeys):
            step = server.keys(KEYS)
        elif isinstance(step, Challenge):
            answer = client.respond(step.octets)
            assert answer is not None
            step = server.respond(answer)
    assert isinstance(step, Claim)
    right = step.credentials != ScramProof(name, False)
    assert client.done is right
    return step.credentials


@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.parametrize(
    ("mechanism", "secret", "claim"),
    [
        ("PLAIN", "s\u00e9cret", Password("tim", "s\u00e9cret")),
        ("LOGIN", "s\u00e9cret", Password("tim", "s\u00e9cret")),
        ("EXTERNAL", "", External("tim")),
        ("SCRAM-SHA-256", "tanstaaftanstaaf", ScramProof("tim", True)),
        ("SCRAM-SHA-256", "tanstaaftanstaa", ScramProof("tim", False)),
        (
            "CRAM-MD5",
            "tanstaaftanstaaf",
            CramDigest("tim", CHALLENGE, hmac.digest(b"tanstaaftanstaaf", CHALLENGE, "md5").hex()),
        ),
    ],
)
def test_our_receiver_hears_what_our_sender_says(
    mechanism: str, secret: str, claim: Credentials, initial: bool
) -> None:
    assert converse(mechanism, "tim", secret, initial) == claim


def test_a_password_shows_in_no_representation() -> None:
    claim = Claim(Password("tim", "s3cret"))
    assert "s3cret" not in repr(claim) and "s3cret" not in pretty_repr(claim)
