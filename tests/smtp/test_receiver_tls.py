"""The Receiver and STARTTLS (RFC 3207): nothing that was said before the handshake counts after it."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.mail import Password, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import State
from mailnode.smtp.sasl import plain_response

BEFORE, AFTER = Rights(), Rights(relay=True, mechanisms=("PLAIN",))
AUTH = b"AUTH PLAIN " + plain_response("jones", "secret") + b"\r\n"


def keywords(conversation: Any) -> set[str]:
    conversation.say(b"EHLO usc.example\r\n")
    return {line.split(" ")[0] for line in conversation.told[-1].lines[1:]}


def test_starttls_is_220_and_then_nothing_is_read_until_the_handshake_is_over(converse: Any) -> None:
    host = converse(BEFORE, starttls=True)
    assert host.say(b"STARTTLS\r\n") == [220]
    assert [type(event) for event in host.told] == [Reply, events.StartTls]
    assert host.receiver.state is State.SECURING
    host.receiver.secured(AFTER)
    assert host.say(b"EHLO usc.example\r\n") == [250]


@pytest.mark.parametrize(
    "behind",
    [
        b"EHLO a\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"NOOP\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"x",
        b"\x16\x03\x01",
    ],
)
def test_octets_behind_starttls_close_the_channel_and_are_not_obeyed(converse: Any, behind: bytes) -> None:
    host = converse(BEFORE, starttls=True)
    assert host.say(b"STARTTLS\r\n" + behind) == [503]
    assert host.closed
    assert not host.asked(events.StartTls)
    assert host.say(b"NOOP\r\n") == []


@pytest.mark.parametrize(
    "octets", [b"MAIL FROM:<a@b.example>\r\n", b"EHLO a\r\nMAIL FROM:<a@b.exam", b"x" * 9000]
)
def test_octets_that_come_before_the_handshake_are_forgotten(converse: Any, octets: bytes) -> None:
    host = converse(BEFORE, starttls=True)
    host.say(b"STARTTLS\r\n")
    assert host.say(octets) == []
    host.receiver.secured(AFTER)
    assert host.receiver.pending == 0
    assert host.say(b"EHLO usc.example\r\n") == [250]
    assert not host.asked(events.AskSender)


def test_after_the_handshake_the_client_is_a_stranger_who_has_not_said_hello(converse: Any) -> None:
    host = converse(Rights(relay=True, mechanisms=("PLAIN",)), starttls=True)
    assert host.say(AUTH + b"STARTTLS\r\n") == [235, 220]
    host.receiver.secured(AFTER)
    receiver = host.receiver
    assert (receiver.hello, receiver.extended, receiver.authenticated) == ("", False, False)
    assert receiver.state is State.NEW and receiver.transaction is None
    assert host.say(b"MAIL FROM:<a@b.example>\r\n" + AUTH + b"EHLO a\r\n" + AUTH) == [503, 503, 250, 235]


def test_rights_that_tls_brings_are_named_after_it_and_starttls_no_more(converse: Any) -> None:
    host = converse(BEFORE, starttls=True)
    assert "STARTTLS" in keywords(host) and "AUTH" not in keywords(host)
    host.say(b"STARTTLS\r\n")
    host.receiver.secured(AFTER)
    assert "STARTTLS" not in keywords(host) and "AUTH" in keywords(host)
    assert host.say(b"STARTTLS\r\n") == [502]
    assert host.receiver.state is State.IDLE


def test_starttls_in_a_transaction_is_503_and_the_transaction_stays(opened: Any) -> None:
    host = opened(BEFORE, starttls=True)
    assert host.say(b"STARTTLS\r\nDATA\r\n.\r\n") == [503, 354, 250]
    assert not host.asked(events.StartTls)


def test_a_listener_without_tls_offers_none(converse: Any) -> None:
    host = converse(BEFORE)
    assert "STARTTLS" not in keywords(host)
    assert host.say(b"STARTTLS\r\nSTARTTLS now\r\n") == [502, 501]
    assert not host.asked(events.StartTls)


# ------------------------------------------------------------------ AUTH first


@pytest.mark.parametrize("verb", [b"MAIL", b"SEND", b"SOML", b"SAML"])
@pytest.mark.parametrize(
    ("mechanisms", "starttls", "reply"),
    [
        ((), True, replies.TLS_FIRST),
        ((), False, replies.AUTH_FIRST),
        (("PLAIN",), True, replies.AUTH_FIRST),
        (("PLAIN",), False, replies.AUTH_FIRST),
    ],
)
def test_where_auth_is_needed_no_transaction_begins_without_it(
    converse: Any, verb: bytes, mechanisms: tuple[str, ...], starttls: bool, reply: Reply
) -> None:
    rights = Rights(converse().receiver.rights.modes, mechanisms=mechanisms, must_authenticate=True)
    host = converse(rights, starttls=starttls)
    assert host.say(verb + b" FROM:<smith@usc.example>\r\n") == [530]
    assert host.told[-1] == reply
    assert not host.asked(events.AskSender)
    host.receiver.rights = AFTER
    assert host.say(b"MAIL FROM:<smith@usc.example>\r\n") == [250]


def test_a_name_and_its_secret_are_asked_for_as_they_were_said(converse: Any) -> None:
    host = converse(AFTER)
    assert host.say(AUTH) == [235]
    assert host.asked(events.AskCredentials) == [events.AskCredentials(Password("jones", "secret"))]
