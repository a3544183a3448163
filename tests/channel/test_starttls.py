"""STARTTLS and implicit TLS through real channels: two of them, a wire in memory, Twisted's own TLS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from fuzz.wire import Wire
from mailnode.channel.factories import ReceiverFactory, SenderFactory
from mailnode.channel.receiving import Doors, Listener
from mailnode.channel.tls import ClientTls, ServerTls, fingerprint_of
from mailnode.interfaces import IAccess, ICustody, IIntake, ILetters, IRouting
from mailnode.mail import (
    Body,
    Client,
    Credentials,
    External,
    Letter,
    Mode,
    Password,
    Path,
    Recipient,
    Reply,
    Result,
    Rights,
)
from mailnode.smtp import replies
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.sasl import plain_response
from mailnode.smtp.script import Plan

HUB = "hub.example"
OPPORTUNISTIC = Plan("leaf.example", tls="opportunistic")


@implementer(IAccess, IRouting, IIntake)
class House:
    """What a receiver asks, and what it was told. The peer "leaf" may relay, a stranger may not."""

    def __init__(self, certificate: str = "") -> None:
        self.certificate = certificate  # fingerprint that proves the peer
        self.senders: list[Client] = []
        self.bodies: list[bytes] = []

    def rights(self, client: Client) -> Rights:
        mechanisms = ("PLAIN",) if client.tls else ()
        if client.fingerprint and client.fingerprint == self.certificate:
            mechanisms = ("EXTERNAL", *mechanisms)
        return Rights(tuple(Mode), relay=bool(client.identity), mechanisms=mechanisms)

    def authenticate(self, client: Client, credentials: Credentials) -> Deferred[str | Reply]:
        if credentials == Password("leaf", "secret"):
            return succeed("leaf")
        if isinstance(credentials, External) and client.fingerprint == self.certificate:
            return succeed("leaf")
        return succeed(replies.AUTH_FAILED)

    def scram_keys(self, client: Client, name: str) -> Any:
        raise AssertionError("nobody was offered SCRAM")

    def verify(self, text: str, rights: Rights) -> Reply:
        return Reply(252, f"relay {rights.relay}")

    expand = verify

    def begin(self, client: Client, *_: object) -> Any:
        self.senders.append(client)
        return Custody(self)

    def submit(self, *_: object) -> Any:
        raise AssertionError("no notices here")


@implementer(ICustody)
class Custody:
    def __init__(self, house: House) -> None:
        self._house = house
        self._body = b""

    def recipient(self, *_: object) -> Reply:
        return replies.RECIPIENT_OK

    def open(self) -> Reply:
        return replies.START_INPUT

    def write(self, piece: bytes) -> None:
        self._body += piece

    def commit(self, hurry: bool = True) -> Deferred[Reply]:
        self._house.bodies.append(self._body)
        return succeed(replies.OK)

    def abort(self) -> None:
        self._body = b""


@implementer(ILetters)
class Letters:
    def __init__(self, *letters: Letter) -> None:
        self.waiting = list(letters)
        self.results: list[Result] = []

    def next(self) -> Letter | None:
        return self.waiting.pop(0) if self.waiting else None

    at_hand = next

    def settle(self, letter: Letter, results: Any, host: str) -> None:
        self.results += results.values()

    def returned(self, letter: Letter) -> None:
        self.waiting.insert(0, letter)

    def close(self) -> None:
        pass


def letter(octets: bytes = b"The secret of the leaf\r\n", file: str | None = None) -> Letter:
    body = Body(len(octets), None, file) if file else Body.of(octets)
    return Letter(Mode.MAIL, Path("leo", "leaf.example"), (Recipient(Path("hubert", HUB)),), body)


class Raw(Protocol):
    """A client or a server by hand."""

    def __init__(self) -> None:
        self.heard = b""

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.gone = True

    gone = False


class Line:
    """A wire with a channel at either end, or something by hand."""

    def __init__(self, house: House, server: ServerTls | None, tls: str = "starttls") -> None:
        self.clock = Clock()
        self.house = house
        self.wire = Wire(self.clock)
        doors = Doors(HUB, house, house, house, tls=server)
        self.receivers = ReceiverFactory(doors, self.clock, listener=Listener(tls=tls))
        self.on_the_wire = b""
        self.ended: list[Ended] = []

    def called(self) -> Any:
        return self.receivers.buildProtocol(IPv4Address("TCP", "192.0.2.7", 40000))

    def caller(self, letters: Letters, plan: Plan, client: ClientTls | None, **options: Any) -> Any:
        options.setdefault("tls_name", HUB)
        factory = SenderFactory(plan, letters, self.clock, self.ended.append, host=HUB, tls=client, **options)
        return factory.buildProtocol(IPv4Address("TCP", "192.0.2.25", 25))

    def run(self, size: int = 1 << 20) -> Line:
        """Everything arrives; what goes by is taken down."""
        moved = True
        while moved:
            self.clock.advance(0)
            moved = False
            for end, upward in ((self.wire.caller, True), (self.wire.called, False)):
                self.on_the_wire += bytes(end.out[:size])
                moved |= self.wire.moves(upward, size)
            moved |= self.wire.looks()
        return self

    def send(
        self, letters: Letters, plan: Plan = OPPORTUNISTIC, client: ClientTls | None = None, **more: Any
    ) -> Line:
        self.wire.connect(self.caller(letters, plan, client or ClientTls(), **more), self.called())
        return self.run()


@pytest.fixture
def server(authority: Any) -> ServerTls:
    return ServerTls(*authority.issue(HUB))


# ------------------------------------------------------------------ both sides


@pytest.mark.parametrize("tls", ["opportunistic", "required", "verified"])
def test_mail_goes_under_tls_where_it_is_offered(server: ServerTls, authority: Any, tls: str) -> None:
    house, letters = House(), Letters(letter(), letter(b".\r\n"))
    line = Line(house, server).send(letters, replace(OPPORTUNISTIC, tls=tls), ClientTls(str(authority.roots)))
    assert [how.ending for how in line.ended] == [Ending.DONE]
    assert house.bodies == [b"The secret of the leaf\r\n", b".\r\n"]
    assert all(client.tls and client.hello == "leaf.example" for client in house.senders)
    assert b"STARTTLS" in line.on_the_wire and b"hubert" not in line.on_the_wire
    assert b"secret" not in line.on_the_wire
    assert line.wire.over and line.receivers.open == 0


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_large_body_passes_octet_for_octet(server: ServerTls, tmp_path: File, size: int) -> None:
    octets = b".x" * 40 + b"\r\n"
    octets *= 20 if size == 1 else 4000
    file = tmp_path / "body"
    file.write_bytes(octets)
    house, letters = House(), Letters(letter(octets, str(file)))
    line = Line(house, server)
    line.wire.connect(line.caller(letters, OPPORTUNISTIC, ClientTls()), line.called())
    line.run(size)
    assert house.bodies == [octets]
    assert [how.ending for how in line.ended] == [Ending.DONE]


@pytest.mark.parametrize("tls", ["required", "verified"])
def test_where_tls_is_required_nothing_is_sent_without(server: ServerTls, tls: str) -> None:
    house, letters = House(), Letters(letter())
    line = Line(house, server, tls="none").send(letters, replace(OPPORTUNISTIC, tls=tls))
    assert [how.ending for how in line.ended] == [Ending.INSECURE]
    assert letters.waiting and not letters.results and not house.senders
    assert "TLS is required" in line.ended[0].reply.lines[0]


def test_without_tls_on_offer_mail_goes_as_it_is_where_that_is_allowed(server: ServerTls) -> None:
    house = House()
    line = Line(house, server, tls="none").send(Letters(letter()))
    assert house.bodies == [b"The secret of the leaf\r\n"] and not house.senders[0].tls
    assert b"STARTTLS" not in line.on_the_wire


@pytest.mark.parametrize(
    ("named", "trusted", "words"),
    [
        (HUB, False, "TLS did not come about: The certificate is signed by an authority that is not trusted"),
        ("usc.example", True, "TLS did not come about: The certificate is not for usc.example"),
        ("[192.0.2.25]", True, "TLS did not come about: The certificate cannot be for [192.0.2.25]"),
    ],
)
def test_a_host_that_is_not_who_it_should_be_gets_nothing_and_the_operator_is_told_why(
    server: ServerTls, authority: Any, named: str, trusted: bool, words: str
) -> None:
    house, letters = House(), Letters(letter())
    roots = str(authority.roots) if trusted else None
    line = Line(house, server).send(
        letters, replace(OPPORTUNISTIC, tls="verified"), ClientTls(roots), tls_name=named
    )
    (how,) = line.ended
    assert how.reply == Reply(451, words, "4.7.5")
    assert how.ending is Ending.INSECURE
    assert letters.waiting and not letters.results and not house.senders


def test_a_host_that_answers_the_handshake_with_garbage_was_insecure(server: ServerTls) -> None:
    line, hand, letters = Line(House(), None), Raw(), Letters(letter())
    line.wire.connect(line.caller(letters, OPPORTUNISTIC, ClientTls()), hand)
    for octets in (b"220 hub\r\n", b"250-hub\r\n250 STARTTLS\r\n", b"220 go\r\n", b"250 hub\r\n" * 9):
        line.wire.called.write(octets)
        line.run()
    assert [how.ending for how in line.ended] == [Ending.INSECURE]
    assert line.ended[0].reply.lines[0].startswith("TLS did not come about: ")
    assert letters.waiting and not letters.results


def test_a_host_that_is_silent_in_the_handshake_is_given_up(server: ServerTls) -> None:
    line, hand, letters = Line(House(), None), Raw(), Letters(letter())
    line.wire.connect(line.caller(letters, OPPORTUNISTIC, ClientTls()), hand)
    for octets in (b"220 hub\r\n", b"250-hub\r\n250 STARTTLS\r\n", b"220 go\r\n"):
        line.wire.called.write(octets)
        line.run()
    line.clock.advance(299)
    assert not line.ended
    line.clock.advance(2)
    line.run()
    assert [how.ending for how in line.ended] == [Ending.INSECURE]
    line.clock.advance(10)
    line.run()
    assert hand.gone and letters.waiting


# ------------------------------------------------------------------ injection


@pytest.mark.parametrize(
    "behind", [b"250-hub\r\n250 AUTH PLAIN\r\n", b"250 hub\r\n250 OK\r\n250 OK\r\n", b"x"]
)
def test_octets_behind_the_220_are_not_obeyed_by_the_client(server: ServerTls, behind: bytes) -> None:
    """Somebody on the way adds them to the last plain octets of the server."""
    house, letters = House(), Letters(letter())
    plan = replace(OPPORTUNISTIC, name="leaf", secret="secret")
    line = Line(house, server)
    line.wire.connect(line.caller(letters, plan, ClientTls()), line.called())
    while not line.wire.called.out.startswith(b"220 2.0.0 Ready"):
        assert line.wire.moves(True, 1 << 20) or line.wire.moves(False, 1 << 20)
    line.wire.called.out += behind
    line.run()
    assert [how.ending for how in line.ended] == [Ending.BROKEN]
    assert letters.waiting and not letters.results and not house.senders
    assert plain_response("leaf", "secret") not in line.on_the_wire


@pytest.mark.parametrize("behind", [b"MAIL FROM:<evil@usc.example>\r\n", b"EHLO a\r\nMAIL FROM:<>\r\n", b"x"])
@pytest.mark.parametrize("together", [True, False])
def test_octets_behind_starttls_are_not_obeyed_by_the_server(
    server: ServerTls, behind: bytes, together: bool
) -> None:
    house, hand = House(), Raw()
    line = Line(house, server)
    line.wire.connect(hand, line.called())
    line.wire.caller.write(b"EHLO a\r\n")
    line.run()
    line.wire.caller.write(b"STARTTLS\r\n" + (behind if together else b""))
    line.run()
    line.wire.caller.write(b"" if together else behind)
    line.run()
    if together:
        assert hand.heard.endswith(b"503 5.5.1 Bad sequence of commands, wait for the reply\r\n")
        assert hand.gone
    else:  # that is no handshake: either TLS ends it, or it waits for more
        assert hand.heard.split(b"\r\n")[-2].startswith(b"220 ") or hand.gone
    assert not house.senders and b"250 2.1.0" not in hand.heard


class Talker:
    """A client by hand that can begin TLS."""

    def __init__(self, line: Line, client: ClientTls | None = None, implicit: bool = False) -> None:
        self.line, self.hand = line, Raw()
        self.client = client or ClientTls()
        if implicit:
            line.wire.caller.protocol = self.hand
            line.wire.caller.startTLS(self.client.creator(HUB, False))
            self.hand.makeConnection(line.wire.caller)  # type: ignore[arg-type]
            line.wire.called.connect(line.called())
        else:
            line.wire.connect(self.hand, line.called())
        line.run()

    def say(self, text: bytes) -> bytes:
        self.hand.heard = b""
        self.line.wire.caller.write(text + b"\r\n")
        self.line.run()
        return self.hand.heard

    def secure(self) -> None:
        assert self.say(b"STARTTLS").startswith(b"220 ")
        self.line.wire.caller.startTLS(self.client.creator(HUB, False))
        self.line.run()


AUTH = b"AUTH PLAIN " + plain_response("leaf", "secret")


def test_who_the_client_was_before_the_handshake_is_forgotten(server: ServerTls) -> None:
    house = House()
    talker = Talker(Line(house, server))
    assert b"STARTTLS" in talker.say(b"EHLO first.example")
    assert talker.say(b"VRFY x") == b"252 relay False\r\n"
    talker.secure()
    assert talker.say(b"MAIL FROM:<a@b.example>").startswith(b"503 ")
    hello = talker.say(b"EHLO second.example")
    assert b"STARTTLS" not in hello and b"AUTH PLAIN" in hello
    assert talker.say(AUTH).startswith(b"235 ")
    assert talker.say(b"VRFY x") == b"252 relay True\r\n"
    assert talker.say(b"STARTTLS").startswith(b"502 ")
    assert talker.say(b"MAIL FROM:<a@b.example>").startswith(b"250 ")
    (client,) = house.senders
    assert (client.hello, client.tls, client.identity) == ("second.example", True, "leaf")


def test_a_client_that_fails_the_handshake_leaves_nothing_behind(server: ServerTls) -> None:
    line = Line(House(), server)
    talker = Talker(line)
    talker.say(b"EHLO a")
    talker.say(b"STARTTLS")
    line.wire.caller.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
    line.run()
    line.clock.advance(301)
    line.run()
    line.clock.advance(301)
    line.run()
    assert line.receivers.open == 0 and line.wire.over
    assert line.clock.getDelayedCalls() == []


# ------------------------------------------------------------------ implicit TLS, certificates


def test_implicit_tls_greets_under_tls(server: ServerTls) -> None:
    house = House()
    line = Line(house, server, tls="implicit")
    talker = Talker(line, implicit=True)
    assert talker.hand.heard.startswith(b"220 hub.example ")
    assert b"220" not in line.on_the_wire
    hello = talker.say(b"EHLO a")
    assert b"AUTH PLAIN" in hello and b"STARTTLS" not in hello
    talker.say(b"MAIL FROM:<a@b.example>")
    assert house.senders[0].tls


def test_a_client_certificate_is_known_as_soon_as_the_handshake_is_over(
    server: ServerTls, authority: Any
) -> None:
    from cryptography import x509

    certificate, key = authority.issue("leaf.example")
    mark = fingerprint_of(x509.load_pem_x509_certificate(File(certificate).read_bytes()))
    for tls in ("starttls", "implicit"):
        house = House(mark)
        client = ClientTls(certificate=certificate, key=key)
        talker = Talker(Line(house, server, tls=tls), client, implicit=tls == "implicit")
        if tls == "starttls":
            assert b"EXTERNAL" not in talker.say(b"EHLO a")
            talker.secure()
        assert b"AUTH EXTERNAL PLAIN" in talker.say(b"EHLO a")
        assert talker.say(b"AUTH EXTERNAL =").startswith(b"235 ")
        talker.say(b"MAIL FROM:<a@b.example>")
        assert (house.senders[0].identity, house.senders[0].fingerprint) == ("leaf", mark)
    stranger = Talker(Line(House(mark), server, tls="implicit"), implicit=True)
    assert b"AUTH PLAIN" in stranger.say(b"EHLO a")


@pytest.mark.parametrize("secret", ["secret", "wrong"])
def test_our_own_secret_is_said_under_tls_only(server: ServerTls, secret: str) -> None:
    plan = replace(OPPORTUNISTIC, name="leaf", secret=secret, known=True)
    house, letters = House(), Letters(letter())
    line = Line(house, server).send(letters, plan)
    assert [how.ending for how in line.ended] == [Ending.DONE if secret == "secret" else Ending.REFUSED]
    assert [client.identity for client in house.senders] == (["leaf"] if secret == "secret" else [])
    assert plain_response("leaf", secret) not in line.on_the_wire


@pytest.mark.parametrize(("known", "ending"), [(True, Ending.DONE), (False, Ending.REFUSED)])
def test_under_tls_from_the_start_our_secret_is_said_to_a_host_that_is_known_alone(
    server: ServerTls, known: bool, ending: Ending
) -> None:
    """As with the endpoints tls:, which looks at the certificate, and ssl:, which does not."""
    house, letters = House(), Letters()
    line = Line(house, server, tls="implicit")
    caller = line.caller(letters, Plan("leaf.example", name="leaf", secret="secret", known=known), None)
    end = line.wire.caller
    end.protocol = caller
    end.startTLS(ClientTls().creator(HUB, False))
    caller.makeConnection(end)
    line.wire.called.connect(line.called())
    line.run()
    assert [how.ending for how in line.ended] == [ending]


@pytest.mark.parametrize("tls", ["required", "verified"])
def test_a_call_by_implicit_tls_is_tls_from_the_first_octet(
    server: ServerTls, authority: Any, tls: str
) -> None:
    """The password goes to who is verified, and to nobody else, as behind STARTTLS."""
    house, letters = House(), Letters(letter())
    plan = Plan("leaf.example", tls=tls, name="leaf", secret="secret")
    line = Line(house, server, tls="implicit")
    line.send(letters, plan, ClientTls(str(authority.roots)), implicit=True)
    assert [how.ending for how in line.ended] == [Ending.DONE if tls == "verified" else Ending.REFUSED]
    assert [client.identity for client in house.senders] == (["leaf"] if tls == "verified" else [])
    assert b"SMTP" not in line.on_the_wire and b"STARTTLS" not in line.on_the_wire


@pytest.mark.parametrize("pinned", [True, False])
def test_a_call_by_implicit_tls_is_made_to_the_certificate_that_is_pinned_alone(
    server: ServerTls, pinned: bool
) -> None:
    house, letters = House(), Letters(letter())
    pin = fingerprint_of(server.leaf) if pinned else "sha256:" + "0" * 64
    line = Line(house, server, tls="implicit")
    line.send(letters, replace(OPPORTUNISTIC, tls="required"), tls_pin=pin, implicit=True)
    if pinned:
        assert [how.ending for how in line.ended] == [Ending.DONE] and len(house.bodies) == 1
        return
    (how,) = line.ended
    # Not INSECURE, which would be called again without TLS where that is opportunistic.
    assert how.ending is Ending.BROKEN and how.reply.status == "4.7.5"
    assert "another than the one that is known" in str(how.reply)
    assert not house.senders and len(letters.waiting) == 1


def test_a_host_without_tls_is_told_nothing_by_implicit_tls(server: ServerTls) -> None:
    house, letters = House(), Letters(letter())
    line = Line(house, server, tls="none").send(letters, implicit=True)
    assert [how.ending for how in line.ended] == [Ending.BROKEN]
    assert b"EHLO" not in line.on_the_wire and not house.senders and len(letters.waiting) == 1
