"""TLS to other hosts: opportunistic, required and verified routes, to real nodes and to broken servers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

RELAY = 'hostname = "mit.example"\n[users]\nnames = ["smith"]\n[retry]\nfirst = "1s"\n'


class Server:
    """A host that says STARTTLS and cannot do it, or does not offer it; it takes mail in the clear.

    `how`: "garbage" answers the handshake with text, "close" hangs up at it, "refuse" says 454 to STARTTLS,
    "none" does not offer it; "tls" does it, with `context`.
    """

    def __init__(self, how: str, context: ssl.SSLContext | None = None) -> None:
        self.how = how
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.talks: list[list[str]] = []
        self.bodies: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = self.listener.accept()
                connection.settimeout(15)
                with suppress(OSError), connection:
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        said: list[str] = []
        self.talks.append(said)
        connection.sendall(b"220 usc.example\r\n")
        stream = connection.makefile("rwb")
        offers = self.how != "none"
        while line := stream.readline():
            command = line.decode().rstrip("\r\n")
            said.append(command)
            verb = command.split(":")[0].split(" ")[0]
            if verb == "EHLO":
                answer = (
                    b"250-usc.example\r\n" + (b"250-STARTTLS\r\n" if offers else b"") + b"250 SIZE 100000"
                )
            elif verb == "STARTTLS":
                if self.how == "refuse":
                    answer = b"454 TLS not available now"
                else:
                    connection.sendall(b"220 go\r\n")
                    if self.how == "close":
                        return
                    if self.how == "garbage":
                        connection.sendall(b"what do you mean by that?\r\n" * 10)
                        stream.read(1)
                        return
                    assert self.context is not None
                    connection = self.context.wrap_socket(connection, server_side=True)
                    stream, offers = connection.makefile("rwb"), False
                    said.append(connection.version() or "")
                    continue
            elif verb == "DATA":
                connection.sendall(b"354 go\r\n")
                body = b""
                while not body.endswith(b"\r\n.\r\n"):
                    body += stream.readline()
                self.bodies.append(body)
                answer = b"250 taken"
            elif verb == "QUIT":
                connection.sendall(b"221 bye\r\n")
                return
            else:
                answer = b"250 OK"
            connection.sendall(answer + b"\r\n")


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(how: str, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(how, context))
        return servers[-1]

    yield start
    for server in servers:
        server.listener.close()


def send(node: Any, recipient: str = "jones@usc.example") -> None:
    talk = node.talk()
    commands = ("EHLO me", "MAIL FROM:<smith@mit.example>", f"RCPT TO:<{recipient}>", "DATA")
    assert talk.codes(*commands) == [250, 250, 250, 354]
    talk.raw(b"Subject: over the wire\r\n\r\nsecret\r\n.\r\n")
    assert talk.reply()[0].startswith("250")
    talk.say("QUIT")
    talk.close()


def replies(node: Any) -> list[str]:
    """What the queue says of each recipient that waits."""
    return [str(reply) for (reply,) in node.rows("SELECT reply FROM recipient WHERE reply != ''")]


def server_context(authority: Any, *names: str, days: float = 1) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(*names, days=days))
    return context


def routes(to: dict[str, tuple[str, str]]) -> str:
    """[routes] from domains to endpoints and policies."""
    rows = [f'"{domain}" = {{ to = "{where}", tls = "{tls}" }}\n' for domain, (where, tls) in to.items()]
    return "[routes]\n" + "".join(rows)


# ------------------------------------------------------------------ between two nodes


def test_mail_between_two_nodes_goes_by_tls_unless_the_route_says_none(
    make_node: Any, authority: Any
) -> None:
    certificate, key = authority.issue("usc.example", "localhost")
    secure = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
    domains = 'domains = ["usc.example", "verified.example", "required.example", "none.example"]\n'
    users = '[users]\nnames = ["jones"]\n'
    target = make_node(f'hostname = "usc.example"\n{domains}{users}{secure}', "target").start()
    node = make_node(
        f'{RELAY}[tls]\nroots = "{authority.roots}"\n'
        + routes(
            {
                "usc.example": (f"tcp:127.0.0.1:{target.port}", "opportunistic"),
                "required.example": (f"tcp:127.0.0.1:{target.port}", "required"),
                "verified.example": (f"tcp:localhost:{target.port}", "verified"),
                "none.example": (f"tcp:127.0.0.1:{target.port}", "none"),
            }
        )
    ).start()
    for domain, protocol in (
        ("usc.example", "ESMTPS"),
        ("required.example", "ESMTPS"),
        ("verified.example", "ESMTPS"),
        ("none.example", "ESMTP"),
    ):
        before = len(target.mailbox("jones"))
        send(node, f"jones@{domain}")
        assert f"with {protocol} id" in " ".join(target.wait_for_mail("jones", before + 1)[-1].split())
    node.wait_for_empty_spool()


# ------------------------------------------------------------------ servers that cannot

BROKEN = ("garbage", "close", "refuse", "none")


def test_opportunistic_mail_goes_in_the_clear_to_a_host_whose_tls_does_not_work(
    make_node: Any, serve: Callable[..., Server]
) -> None:
    servers = {how: serve(how) for how in BROKEN}
    to = {f"{how}.example": (server.endpoint, "opportunistic") for how, server in servers.items()}
    node = make_node(RELAY + routes(to)).start()
    for how, server in servers.items():
        send(node, f"jones@{how}.example")
        node.wait_until(lambda server=server: server.bodies, f"the message at {how}")
        assert b"secret" in server.bodies[0]
        calls = 2 if how in ("garbage", "close") else 1  # the same host again, without TLS (RFC 7435 3)
        assert len(server.talks) == calls
        assert "STARTTLS" not in server.talks[-1] or how == "refuse"
    node.wait_for_empty_spool()


def test_where_tls_is_required_the_mail_waits_and_says_why(
    make_node: Any, serve: Callable[..., Server]
) -> None:
    servers = {f"{how}-{tls}.example": serve(how) for how in BROKEN for tls in ("required", "verified")}
    to = {
        domain: (server.endpoint, domain.partition("-")[2].removesuffix(".example"))
        for domain, server in servers.items()
    }
    node = make_node(RELAY + routes(to)).start()
    for domain in servers:
        send(node, f"jones@{domain}")
    node.wait_until(lambda: len(replies(node)) == len(servers), "a reply for each")
    assert all(reply.startswith("451 4.7.") for reply in replies(node)), replies(node)
    for server in servers.values():
        assert server.talks and not server.bodies
        assert not any(command.startswith("MAIL") for talk in server.talks for command in talk)


# ------------------------------------------------------------------ certificates


def test_a_verified_route_takes_only_a_certificate_of_the_right_name_age_and_root(
    make_node: Any, serve: Callable[..., Server], authority: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = type(authority)(tmp_path_factory.mktemp("other"), "Another authority")
    servers = {
        "right.example": (serve("tls", server_context(authority, "right.example")), ""),
        "wrong.example": (serve("tls", server_context(authority, "other.example")), "is not for wrong.exa"),
        "old.example": (serve("tls", server_context(authority, "old.example", days=-1)), "has expired"),
        "other.example": (serve("tls", server_context(other, "other.example")), "not trusted"),
    }
    to = {domain: (server.endpoint, "verified") for domain, (server, _) in servers.items()}
    to["any.example"] = (servers["wrong.example"][0].endpoint, "required")
    node = make_node(f'{RELAY}[tls]\nroots = "{authority.roots}"\n' + routes(to)).start()
    for domain in servers:
        send(node, f"jones@{domain}")
    node.wait_until(lambda: len(replies(node)) == 3, "replies")
    for domain, (server, why) in servers.items():
        if why:
            assert any("451 4.7.5 No safe connection" in one and why in one for one in replies(node)), domain
            assert not server.bodies
    node.wait_until(lambda: servers["right.example"][0].bodies, "the message")
    assert any(word.startswith("TLSv1.") for word in servers["right.example"][0].talks[-1])
    send(node, "jones@any.example")  # required is not verified
    node.wait_until(lambda: servers["wrong.example"][0].bodies, "the message")


def test_a_server_that_repairs_its_tls_gets_the_mail_that_waited(
    make_node: Any, serve: Callable[..., Server], authority: Any
) -> None:
    server = serve("garbage", server_context(authority, "usc.example"))
    to = {"usc.example": (server.endpoint, "verified")}
    node = make_node(f'{RELAY}[tls]\nroots = "{authority.roots}"\n' + routes(to)).start()
    send(node)
    node.wait_until(lambda: replies(node), "a reply")
    server.how = "tls"
    assert node.ask(do="wake")[-1]["ok"]
    node.wait_until(lambda: server.bodies, "the message, by TLS")
