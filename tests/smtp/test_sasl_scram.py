"""SCRAM-SHA-256, both sides: the RFC's dialogues, and everything that is nearly one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.mail import ScramKeys, ScramProof
from mailnode.smtp.sasl import Challenge, Claim, NeedKeys, Step
from mailnode.smtp.sasl.keys import derive, proof, signature
from mailnode.smtp.sasl.scram import NONCE_SIZE, SCRAM_SIZE, Scram
from mailnode.smtp.sasl.scram_client import MAX_ITERATIONS, MIN_ITERATIONS, SALT_SIZE, ScramClient

# RFC 7677 3
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

CLIENT_KEY, KEYS = derive("pencil", SALT, 4096)


def server(keys: ScramKeys | None = None, first: bytes = CLIENT_FIRST) -> Scram:
    """A server that waits for client-first, or with `keys` for client-final."""
    made = Scram(lambda: SERVER_NONCE, "mit.example")
    made.start(None)
    if keys is not None:
        assert isinstance(made.respond(first), NeedKeys)
        assert isinstance(made.keys(keys), Challenge)
    return made


def client(secret: str = "pencil", name: str = "user") -> ScramClient:
    return ScramClient(name, secret, lambda: CLIENT_NONCE)


# ------------------------------------------------------------------ the dialogues of the RFCs


def test_the_dialogue_of_rfc_7677_as_a_server() -> None:
    made = Scram(lambda: SERVER_NONCE, "mit.example")
    assert made.start(CLIENT_FIRST) == NeedKeys("user")
    assert made.keys(KEYS) == Challenge(SERVER_FIRST)
    assert made.respond(CLIENT_FINAL) == Challenge(SERVER_FINAL)
    assert made.respond(b"") == Claim(ScramProof("user", True))


def test_the_dialogue_of_rfc_7677_as_a_client() -> None:
    made = client()
    assert made.first() == CLIENT_FIRST
    assert made.respond(SERVER_FIRST) == CLIENT_FINAL
    assert not made.done
    assert made.respond(SERVER_FINAL) == b""
    assert made.done
    assert made.respond(b"") is None


def test_the_dialogue_of_rfc_5802_on_both_sides() -> None:
    made = ScramClient("user", "pencil", lambda: "fyko+d2lbbFgONRv9qkxdawL", "sha1")
    machine = Scram(lambda: "3rfcNHYJY1ZVvWVs7j", "mit.example", "sha1")
    _, keys = derive("pencil", base64.b64decode("QSXCR+Q6sek8bf92"), 4096, "sha1")
    first = made.first()
    assert first == b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"
    assert machine.start(first) == NeedKeys("user")
    challenge = b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096"
    assert machine.keys(keys) == Challenge(challenge)
    final = b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
    assert made.respond(challenge) == final
    assert machine.respond(final) == Challenge(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=")
    assert made.respond(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=") == b"" and made.done


# ------------------------------------------------------------------ the server


def test_a_wrong_proof_is_claimed_as_wrong_at_once() -> None:
    _, others = derive("pen", SALT, 4096)
    made = server(others)
    assert made.respond(CLIENT_FINAL) == Claim(ScramProof("user", False))
    assert made.respond(b"") is None


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"n,,n=user,r=abc", "user"),
        (b"y,,n=user,r=abc", "user"),  # it could bind to a channel, and thinks that we cannot
        (b"n,a=user,n=user,r=abc", "user"),
        (b"n,,n=a=2Cb=3Dc,r=abc", "a,b=c"),
        (b"n,a=a=2Cb,n=a=2Cb,r=abc", "a,b"),
        ("n,,n=\u2168,r=abc".encode(), "IX"),
        (b"n,,n=user,r=abc,x=new,y=er", "user"),
        (b"n,,n=user,r=" + b"x" * NONCE_SIZE, "user"),
    ],
)
def test_a_client_first_names_a_user(first: bytes, name: str) -> None:
    assert server().respond(first) == NeedKeys(name)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=user",
        b"n,,r=abc,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,n=user,r=a\x80b",
        b"n,,n=user,r=" + b"x" * (NONCE_SIZE + 1),
        b"p=tls-unique,,n=user,r=abc",  # we offer no channel binding
        b"x,,n=user,r=abc",
        b"n,,m=must,n=user,r=abc",  # RFC 5802 5.1: an extension that must be understood
        b"n,a=root,n=user,r=abc",
        b"n,a=,n=user,r=abc",
        b"n,user,n=user,r=abc",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2cer,r=abc",
        b"n,,n=user,r=abc,",
        b"n,,n=user,r=abc,x",
        b"n,,n=user,r=abc,xx=1",
        b"n,,n=us\0er,r=abc",
        b"n,,n=us\x07er,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=user,r=abc\n",
        b"n,,n=" + b"x" * 256 + b",r=abc",
        b"n,,n=user,r=abc,x=" + b"y" * SCRAM_SIZE,
    ],
)
def test_a_malformed_client_first_ends_the_exchange(first: bytes) -> None:
    made = server()
    assert made.respond(first) is None
    assert made.respond(CLIENT_FIRST) is None


@pytest.mark.parametrize(
    "change",
    [
        (b"c=biws", b"c=eSws"),  # "y,,": another header than before
        (b"c=biws", b"c=bi=="),
        (b"c=biws", b"c="),
        (b"c=biws,", b""),
        (b"hNlF$k0", b"hNlF$k1"),  # another nonce
        (b"r=rOpr", b"r=,rOpr"),
        (b",p=", b",q="),
        (b",p=dHzb", b",p=!!!!"),
        (b"dVQ=", b"dVQ"),
        (b"dVQ=", b"dVQ=,x=y"),
        (b"c=biws", b" c=biws"),
    ],
)
def test_a_malformed_client_final_ends_the_exchange(change: tuple[bytes, bytes]) -> None:
    made = server(KEYS)
    assert change[0] in CLIENT_FINAL
    assert made.respond(CLIENT_FINAL.replace(*change)) is None
    assert made.respond(CLIENT_FINAL) is None


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_a_proof_of_another_length_is_wrong(length: int) -> None:
    short = base64.b64encode(b"x" * length) or b"="
    step = server(KEYS).respond(CLIENT_FINAL.partition(b",p=")[0] + b",p=" + short)
    assert step == Claim(ScramProof("user", False))


def test_every_octet_of_the_dialogue_is_proved() -> None:
    """A man in the middle who turns "y" into "n", or takes an extension out, spoils the proof."""
    keys = KEYS
    bare, final = b"n=user,r=" + CLIENT_NONCE.encode(), CLIENT_FINAL.partition(b",p=")[0] + b",x=1"
    right = base64.b64encode(proof(CLIENT_KEY, keys, b"%b,%b,%b" % (bare, SERVER_FIRST, final)))
    assert isinstance(server(keys).respond(final + b",p=" + right), Challenge)
    wrong: Step = server(keys).respond(final.removesuffix(b",x=1") + b",p=" + right)
    assert wrong == Claim(ScramProof("user", False))
    changed = server(keys, CLIENT_FIRST + b",x=1").respond(final + b",p=" + right)
    assert changed == Claim(ScramProof("user", False))


def test_the_server_signs_only_for_who_has_proved() -> None:
    made = server(KEYS)
    made.respond(CLIENT_FINAL)
    assert made.respond(b"x") is None
    assert made.respond(b"") is None


def test_keys_that_nobody_asked_for_end_the_exchange() -> None:
    made = server(KEYS)
    assert made.keys(KEYS) is None
    assert made.respond(CLIENT_FINAL) is None


def test_an_exchange_starts_once() -> None:
    made = server(KEYS)
    assert made.start(CLIENT_FIRST) is None


# ------------------------------------------------------------------ the client


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"e=other-error",
        b"m=must," + SERVER_FIRST,
        SERVER_FIRST.replace(b"rOpr", b"xxxx"),  # not our nonce
        b"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",  # nothing of the server's
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s="),
        SERVER_FIRST.replace(b"s=W22ZaJ0SNY7soEsUEjb6gQ==", b"s=W22Z=aJ0"),
        SERVER_FIRST.replace(b"W22ZaJ0SNY7soEsUEjb6gQ==", base64.b64encode(b"x" * (SALT_SIZE + 1))),
        SERVER_FIRST.replace(b"4096", b"0"),
        SERVER_FIRST.replace(b"4096", b"%d" % (MIN_ITERATIONS - 1)),
        SERVER_FIRST.replace(b"4096", b"%d" % (MAX_ITERATIONS + 1)),
        SERVER_FIRST.replace(b"4096", b"9" * 40),
        SERVER_FIRST.replace(b"4096", b"+4096"),
        SERVER_FIRST + b",",
        SERVER_FIRST + b"\n",
        SERVER_FIRST + b",x=" + b"y" * 10000,
    ],
)
def test_a_server_first_that_breaks_the_rules_is_not_answered(first: bytes) -> None:
    made = client()
    assert made.respond(first) is None
    assert made.respond(SERVER_FIRST) is None
    assert not made.done


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"v=",
        b"v=AAAA",
        b"e=invalid-proof",
        SERVER_FINAL.replace(b"6rri", b"7rri"),
        SERVER_FINAL[:-1],
        SERVER_FINAL + b"\n",
        SERVER_FIRST,
        b"v=" + base64.b64encode(signature(derive("pen", SALT, 4096)[1], b"")),
    ],
)
def test_a_server_that_does_not_know_the_secret_is_not_believed(final: bytes) -> None:
    made = client()
    made.respond(SERVER_FIRST)
    assert made.respond(final) is None
    assert not made.done
    assert made.respond(SERVER_FINAL) is None


def test_a_server_that_is_satisfied_too_early_is_not_believed() -> None:
    made = client()
    assert not made.done
    made.respond(SERVER_FIRST)
    assert not made.done


def test_a_server_final_may_say_more() -> None:
    made = client()
    made.respond(SERVER_FIRST + b",x=1")  # changes the dialogue, and with it the signature
    assert made.respond(SERVER_FINAL) is None
    made = client()
    made.respond(SERVER_FIRST)
    assert made.respond(SERVER_FINAL + b",x=1") == b""


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_whatever_a_server_says_the_client_answers_or_cancels(challenges: list[bytes]) -> None:
    made = client()
    for challenge in challenges:
        answer = made.respond(challenge)
        assert answer is None or isinstance(answer, bytes)
    assert not made.done


@pytest.mark.parametrize("name", ["user", "a,b=c", "sm\u00efth", "=2C", ",,,"])
@pytest.mark.parametrize("secret", ["pencil", "p\u00e9ncil \u4e2d", ",=", "x" * 1000])
def test_client_and_server_agree_on_every_name_and_secret(name: str, secret: str) -> None:
    _, keys = derive(secret, SALT, 4096)
    theirs, ours = client(secret, name), server()
    step = ours.respond(theirs.first() or b"")
    assert step == NeedKeys(name)
    step = ours.keys(keys)
    while isinstance(step, Challenge):
        answer = theirs.respond(step.octets)
        assert answer is not None
        step = ours.respond(answer)
    assert step == Claim(ScramProof(name, True)) and theirs.done
