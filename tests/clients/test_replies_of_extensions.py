"""The replies that RFC 821 does not know, over the wire of a node that takes mail in every way."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from mailnode.access.passwords import Passwords

HOUSE = """
hostname = "mit.example"
[users]
names = ["jones", "brown"]
passwords = "passwords"
[tls]
certificate = "{certificate}"
key = "{key}"
[limits]
message_size = "2K"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "tcp:0:interface=localhost"
role = "submission"
[[listen]]
endpoint = "tcp:00:interface=127.0.0.1"
role = "lmtp"
tls = "none"
"""
PLAIN = "AUTH PLAIN " + base64.b64encode(b"\0jones\0sesame").decode()
WRONG = "AUTH PLAIN " + base64.b64encode(b"\0jones\0wrong").decode()
MAIL, RCPT = "MAIL FROM:<a@b.example>", "RCPT TO:<jones@mit.example>"


def at_once(work: Callable[[], Any], /) -> Deferred[Any]:
    return succeed(work())


@pytest.fixture(scope="module")
def node(make_shared_node: Any, authority: Any) -> Any:
    certificate, key = authority.issue("mit.example")
    node = make_shared_node(HOUSE.format(certificate=certificate, key=key))
    Passwords(str(node.folder / "passwords"), at_once).set("jones", "sesame")
    return node.start()


@pytest.fixture
def talk(node: Any) -> Callable[[str], Any]:
    """A dialogue with the listener of a role."""
    ports = {it["role"]: int(it["where"].rsplit(":", 1)[1]) for it in node.status()["listening"]}
    return lambda role: type(node.talk())(ports[role])


def secure(talk: Any, authority: Any) -> None:
    """Goes on under TLS."""
    assert talk.say("STARTTLS") == ["220 2.0.0 Ready to start TLS"]
    context = ssl.create_default_context(cafile=str(authority.roots))
    talk.socket = context.wrap_socket(talk.socket, server_hostname="mit.example")
    talk.stream = talk.socket.makefile("rwb")


def test_tls_and_what_is_forgotten_by_it(talk: Any, authority: Any) -> None:
    here = talk("smtp")
    assert here.codes("EHLO a", PLAIN) == [250, 235]
    secure(here, authority)
    assert here.codes(MAIL, "EHLO a", "STARTTLS", PLAIN) == [503, 250, 502, 235]
    assert here.codes(MAIL, RCPT, "BDAT 4 LAST\r\nHi", "QUIT") == [250, 250, 250, 221]


def test_octets_behind_starttls(talk: Any) -> None:
    here = talk("smtp")
    here.say("EHLO a")
    assert here.say("STARTTLS\r\nEHLO a")[0].startswith("503 5.5.1 ")
    assert here.reply() == []


def test_who_one_is(talk: Any) -> None:
    here = talk("submission")
    assert here.codes("EHLO a", MAIL, "AUTH PLAIN", "*", "AUTH PLAIN !", "AUTH NTLM") == [
        *(250, 530, 334, 501, 501, 504)
    ]
    assert here.say(WRONG) == ["535 5.7.8 Authentication credentials invalid"]
    assert here.codes(PLAIN, PLAIN, MAIL) == [235, 503, 250]


def test_too_many_who_one_is_not(talk: Any) -> None:
    here = talk("submission")
    assert here.codes("EHLO a", WRONG, WRONG, WRONG) == [250, 535, 535, 535]
    assert here.reply()[0].startswith("421 4.3.2 mit.example Too many failed authentications")
    assert here.reply() == []


def test_chunks(talk: Any) -> None:
    here = talk("smtp")
    assert here.codes("EHLO a", "BDAT 6\r\nQUIT", MAIL, RCPT) == [250, 503, 250, 250]
    assert here.say("BDAT 4\r\nHi") == ["250 2.0.0 4 octets received"]
    assert here.codes("DATA", "BDAT 4000\r\n" + "x" * 3998, "BDAT 0 LAST") == [503, 552, 503]
    assert here.codes(MAIL + " BODY=BINARYMIME", RCPT, "DATA", "RSET") == [250, 250, 503, 250]
    assert here.say("BDAT many")[0].startswith("501 5.5.4 ")
    assert here.reply() == []


def test_line_ends_and_letters_that_were_not_asked_for(talk: Any) -> None:
    here = talk("smtp")
    assert here.codes("EHLO a", MAIL, RCPT, "DATA", "a\nb\r\n.") == [250, 250, 250, 354, 550]
    assert here.codes("HELO a", MAIL, RCPT, "DATA", "a\nb\r\n.") == [250, 250, 250, 354, 554]
    smith = "sm\u00edth".encode().decode("latin-1")
    assert here.codes("EHLO a", f"MAIL FROM:<{smith}@b.example>") == [250, 553]
    assert here.codes(f"MAIL FROM:<{smith}@b.example> SMTPUTF8", RCPT + " NOTIFY=SOON") == [250, 501]


def test_each_recipient(node: Any, talk: Any) -> None:
    here = talk("lmtp")
    assert here.codes("EHLO a", "LHLO a", MAIL, "DATA", RCPT) == [500, 250, 250, 503, 250]
    assert here.codes("RCPT TO:<brown@mit.example>", "RCPT TO:<nobody@mit.example>", "DATA") == [
        250,
        550,
        354,
    ]
    assert here.say("To each his own\r\n.")[0].startswith("250 ")
    assert here.reply()[0].startswith("250 ")
    for user in ("jones", "brown"):
        node.wait_until(
            lambda user=user: "To each his own" in "".join(node.mailbox(user)), f"mail for {user}"
        )
