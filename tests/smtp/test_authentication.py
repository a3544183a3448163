"""AUTH on both machines joined: who knows the secret gets in, and nobody else, by any mechanism."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mailnode.mail import (
    CramDigest,
    Credentials,
    External,
    Password,
    Reply,
    Rights,
    ScramKeys,
    ScramProof,
)
from mailnode.smtp import events, replies, sasl
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.receiver import AUTH_LINE, Limits, Receiver, State
from mailnode.smtp.sasl.keys import derive
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender

NAME, SECRET = "jones", "correct horse"
_, KEYS = derive(SECRET, b"salt of jones", 4096)
NOTHING_FITS = ScramKeys(b"salt of nobody", 4096, b"\0" * 32, b"\0" * 32)
PLAN = Plan("usc.example", name=NAME, secret=SECRET, private=True)


class Access:
    """What a house knows of one user; `certified` when the client has shown the right certificate."""

    def __init__(self, certified: bool = False) -> None:
        self.certified = certified
        self.claims: list[Credentials] = []

    def keys(self, name: str) -> ScramKeys | Reply:
        return KEYS if name == NAME else NOTHING_FITS

    def believes(self, claim: Credentials) -> bool:
        self.claims.append(claim)
        if isinstance(claim, Password):
            return claim == Password(NAME, SECRET)
        if isinstance(claim, CramDigest):
            right = hmac.new(SECRET.encode(), claim.challenge, "md5").hexdigest()
            return claim.name == NAME and claim.digest == right
        if isinstance(claim, ScramProof):
            return claim.right and claim.name == NAME
        return self.certified and claim.name in ("", NAME)


def meet(
    plan: Plan,
    mechanism: str,
    access: Access | None = None,
    size: int = 100_000,
    meddle: Callable[[bytes], bytes] = lambda octets: octets,
) -> tuple[Ended, Receiver, Access]:
    """A Sender and a Receiver that offers one mechanism; `meddle` changes what the receiver says."""
    access = access or Access()
    receiver = Receiver("mit.example", Rights(mechanisms=(mechanism,)))
    sender = Sender(plan)
    for _ in range(100_000):
        while (event := sender.next()) is not None:
            if isinstance(event, Ended):
                return event, receiver, access
            if isinstance(event, events.Write):
                for at in range(0, len(event.octets), size):
                    receiver.feed(event.octets[at : at + size])
            elif isinstance(event, events.LetterWanted):
                sender.give(None)
        while (told := receiver.next()) is not None:
            if isinstance(told, Reply):
                octets = meddle(told.encode(receiver.extended))
                for at in range(0, len(octets), size):
                    sender.feed(octets[at : at + size])
            elif isinstance(told, events.AskScramKeys):
                receiver.answer(access.keys(told.name))
            elif isinstance(told, events.AskCredentials):
                right = access.believes(told.credentials)
                receiver.answer(replies.AUTH_DONE if right else replies.AUTH_FAILED)
    raise AssertionError("no end")


MECHANISMS = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"]
EACH = pytest.mark.parametrize("mechanism", MECHANISMS)


@EACH
@pytest.mark.parametrize("size", [1, 100_000])
def test_who_knows_the_secret_gets_in(mechanism: str, size: int) -> None:
    ended, receiver, access = meet(PLAN, mechanism, size=size)
    assert ended.ending is Ending.DONE
    assert receiver.authenticated
    assert len(access.claims) == 1


@EACH
@pytest.mark.parametrize(
    "changes", [{"secret": "wrong horse"}, {"name": "brown"}, {"name": "nobody", "secret": "x"}]
)
def test_a_wrong_secret_and_an_unknown_name_are_refused_in_the_same_words(
    mechanism: str, changes: dict[str, str]
) -> None:
    ended, receiver, access = meet(replace(PLAN, **changes), mechanism)
    assert ended.ending is Ending.REFUSED
    assert (ended.reply.code, ended.reply.text) == (535, replies.AUTH_FAILED.text)
    assert not receiver.authenticated and len(access.claims) == 1


@pytest.mark.parametrize(("certified", "ending"), [(True, Ending.DONE), (False, Ending.REFUSED)])
def test_external_is_believed_by_the_certificate_alone(certified: bool, ending: Ending) -> None:
    plan = Plan("usc.example", certificate=True, secure=True)
    ended, receiver, access = meet(plan, "EXTERNAL", Access(certified))
    assert ended.ending is ending
    assert receiver.authenticated is certified
    assert access.claims == [External()]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5"])
def test_the_secret_itself_is_not_said(mechanism: str) -> None:
    heard: list[bytes] = []
    receiver_hears = Receiver.feed

    class Overheard(Receiver):
        def feed(self, octets: bytes) -> None:
            heard.append(octets)
            receiver_hears(self, octets)

    receiver, sender = (
        Overheard("mit.example", Rights(mechanisms=(mechanism,))),
        Sender(replace(PLAN, private=False)),
    )
    access = Access()
    while not receiver.authenticated:
        while (event := sender.next()) is not None:
            if isinstance(event, events.Write):
                receiver.feed(event.octets)
        while (told := receiver.next()) is not None:
            if isinstance(told, Reply):
                sender.feed(told.encode())
            elif isinstance(told, events.AskScramKeys):
                receiver.answer(access.keys(told.name))
            else:
                assert isinstance(told, events.AskCredentials)
                assert access.believes(told.credentials)
                receiver.answer(replies.AUTH_DONE)
    said = b"".join(heard)
    decoded = [sasl.decode(word) or b"" for word in said.split()]
    assert decoded and not any(SECRET.encode() in octets for octets in [said, *decoded])


def test_a_host_that_cannot_prove_that_it_knows_the_secret_gets_no_mail() -> None:
    """RFC 5802 3: its 235 does not count, with a false signature or with none."""

    def lie(octets: bytes) -> bytes:
        return b"235 2.7.0 welcome\r\n" if octets.startswith(b"334 dj") else octets

    ended, _, _ = meet(PLAN, "SCRAM-SHA-256", meddle=lie)
    assert (ended.ending, ended.reply.code) == (Ending.REFUSED, 504)
    assert "did not prove" in ended.reply.lines[0]

    def forge(octets: bytes) -> bytes:
        if not octets.startswith(b"334 dj"):
            return octets
        return b"334 " + sasl.encode(b"v=" + sasl.encode(b"\0" * 32).encode()).encode() + b"\r\n"

    ended, receiver, _ = meet(PLAN, "SCRAM-SHA-256", meddle=forge)
    assert (ended.ending, ended.reply.code) == (Ending.REFUSED, 504)
    assert "does not keep to" in ended.reply.lines[0]
    assert not receiver.authenticated


# ------------------------------------------------------------------ the receiver's side alone


def scram(converse: Any, **options: Any) -> Any:
    return converse(
        Rights(mechanisms=("SCRAM-SHA-256", "LOGIN", "CRAM-MD5", "EXTERNAL")),
        answers={events.AskScramKeys: KEYS, events.AskCredentials: replies.AUTH_FAILED},
        **options,
    )


FIRST = sasl.encode(b"n,,n=jones,r=abc").encode()


def test_the_keys_of_the_name_are_asked_for_and_the_challenge_holds_salt_and_iterations(
    converse: Any,
) -> None:
    host = scram(converse)
    host.receiver.nonce = lambda: "def"
    assert host.say(b"AUTH SCRAM-SHA-256 " + FIRST + b"\r\n") == [334]
    assert host.asked(events.AskScramKeys) == [events.AskScramKeys("jones")]
    assert sasl.decode(host.told[-1].text.encode()) == b"r=abcdef,s=c2FsdCBvZiBqb25lcw==,i=4096"
    assert host.receiver.state is State.AUTH


def test_each_exchange_has_a_nonce_of_its_own(converse: Any) -> None:
    host = scram(converse)
    for _ in range(3):
        host.say(b"AUTH SCRAM-SHA-256 " + FIRST + b"\r\n*\r\n")
    challenges = [event.text for event in host.told if isinstance(event, Reply) and event.code == 334]
    assert len(set(challenges)) == 3


@pytest.mark.parametrize("question", [events.AskScramKeys, events.AskCredentials])
def test_a_refusal_for_now_ends_the_exchange_and_is_no_failure(converse: Any, question: type) -> None:
    host = scram(converse)
    host.answers[question] = replies.AUTH_LATER
    line = b"AUTH SCRAM-SHA-256 " + FIRST if question is events.AskScramKeys else b"AUTH EXTERNAL ="
    assert host.say((line + b"\r\n") * 5) == [454] * 5
    assert host.receiver.state is State.IDLE
    host.answers[question] = replies.AUTH_FAILED
    assert host.say((line + b"\r\n") * 3) == [535, 535, 535, 421]
    assert host.closed


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(("line", "code"), [(b"*", 501), (b"!!!", 501), (b"", 501), (b"NOOP", 501)])
def test_an_exchange_can_be_cancelled_or_broken_at_each_step(
    converse: Any, at: int, line: bytes, code: int
) -> None:
    host = scram(converse)
    opening = b"AUTH SCRAM-SHA-256\r\n" + (FIRST + b"\r\n") * at
    assert host.say(opening + line + b"\r\nNOOP\r\n") == [334] * (1 + at) + [code, 250]
    assert host.receiver.state is State.IDLE and not host.receiver.authenticated


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"AUTH PLAIN", 504),
        (b"AUTH SCRAM-SHA-256-PLUS", 504),
        (b"AUTH LOGIN =", 501),
        (b"AUTH CRAM-MD5 AAAA", 501),
        (b"AUTH EXTERNAL ====", 501),
        (b"AUTH EXTERNAL =", 535),
        (b"auth login", 334),
        (b"AUTH", 501),
    ],
)
def test_auth_between_transactions_gets_its_code(converse: Any, line: bytes, code: int) -> None:
    assert scram(converse).say(line + b"\r\n") == [code]


def test_a_response_over_the_limit_ends_the_exchange_and_no_part_of_it_is_obeyed(converse: Any) -> None:
    host = scram(converse)
    octets = b"AUTH LOGIN\r\n" + b"A" * AUTH_LINE + b"AQUIT\r\nNOOP\r\n"
    assert host.say(octets, 1000) == [334, 500, 250]
    assert host.receiver.state is State.IDLE


def test_failures_of_all_mechanisms_count_together_and_errors_do_not(converse: Any) -> None:
    host = scram(converse, limits=Limits(auth_failures=3))
    assert host.say(b"AUTH EXTERNAL =\r\nAUTH PLAIN\r\nAUTH LOGIN\r\n*\r\n") == [535, 504, 334, 501]
    assert host.say(b"AUTH LOGIN\r\nam9uZXM=\r\nd3Jvbmc=\r\n") == [334, 334, 535]
    assert host.say(b"AUTH EXTERNAL =\r\nNOOP\r\n") == [535, 421]
    assert host.closed


def test_while_credentials_are_looked_at_nothing_is_obeyed(converse: Any) -> None:
    host = scram(converse)
    del host.answers[events.AskCredentials]
    host.say(b"AUTH EXTERNAL =\r\nMAIL FROM:<a@b.example>\r\n")
    assert host.receiver.asking and not host.asked(events.AskSender)
    host.receiver.answer(replies.AUTH_DONE)
    host.run()
    assert host.receiver.authenticated
    assert len(host.asked(events.AskSender)) == 1
