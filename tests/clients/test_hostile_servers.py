"""Hosts that answer garbage: nothing is reported as delivered, memory stays bounded, and mail waits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

MIB = 1 << 20
ALLOWED = 16 * MIB

Behaviour = Callable[[socket.socket], None]

GREETING = b"220 hostile.example ready\r\n"
HELLO = b"250 hostile.example\r\n"


def forever(start: bytes, piece: bytes) -> Behaviour:
    """Says something and never stops."""

    def behave(channel: socket.socket) -> None:
        channel.sendall(start)
        if start:
            channel.recv(4096)
        while True:
            channel.sendall(piece)

    return behave


def once(octets: bytes) -> Behaviour:
    """Says something whatever it hears, and then listens."""

    def behave(channel: socket.socket) -> None:
        channel.sendall(octets)
        while channel.recv(65536):
            pass

    return behave


def in_turn(*replies: bytes) -> Behaviour:
    """One reply to each arrival; then it closes."""

    def behave(channel: socket.socket) -> None:
        for reply in replies:
            channel.sendall(reply)
            if not channel.recv(65536):
                return

    return behave


OK = b"250 ok\r\n"
LATER = {
    "multiline-greeting": forever(b"", b"220-and more\r\n" * 1000),
    "line-without-end": forever(b"", b"x" * 65536),
    "multiline-ehlo": forever(GREETING, b"250-KEYWORD\r\n" * 1000),
    "replies-without-end": forever(GREETING, OK * 1000),
    "zeros": forever(b"", bytes(65536)),
    "noise": once(bytes(range(256)) * 20 + b"\r\n"),
    "ssh": once(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "http": once(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html>\r\n"),
    "tls": once(b"\x15\x03\x01\x00\x02\x02\x16\r\n"),
    "canned": once(GREETING + HELLO + OK * 2 + b"354 go\r\n" + OK + b"221 bye\r\n"),
    "closes": in_turn(),
    "busy": in_turn(b"421 too busy\r\n"),
    "other-code": in_turn(b"220-one\r\n221 two\r\n"),
    "code-999": in_turn(b"999 hello\r\n"),
    "code-199": in_turn(b"199 hello\r\n"),
    "escape-in-code": in_turn(b"\x1b[2J220 hello\r\n"),
    "closes-in-hello": in_turn(GREETING),
    "closes-in-mail": in_turn(GREETING, HELLO),
    "closes-in-data": in_turn(GREETING, HELLO, OK, OK, b"354 go\r\n"),
    "250-to-data": in_turn(GREETING, HELLO, OK, OK, OK, OK, OK),
    "354-early": in_turn(GREETING, HELLO, b"354 go\r\n", OK, OK, OK),
    "421-for-data": in_turn(GREETING, HELLO, OK, OK, b"354 go\r\n", b"421 going down\r\n"),
    "451-with-escapes": in_turn(
        GREETING, HELLO, OK, OK, b"354 go\r\n", b"451 \x1b]0;x\x07\xff\0 later\r\n", OK
    ),
}
FAILED = {
    "550-with-escapes": in_turn(GREETING, HELLO, OK, b"550 \x1b[2J\x1b]0;owned\x07 \xff\0 no\r\n", OK, OK),
    "550-with-fields": in_turn(GREETING, HELLO, OK, b"550 no\rX-Field: yes\r\n", OK, OK),
    "554-of-500-lines": in_turn(GREETING, HELLO, OK, b"554-no\r\n" * 500 + b"554 no\r\n", OK, OK),
}


class Hostile:
    """A host with one behaviour to whoever connects."""

    def __init__(self, behave: Behaviour) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self._behave = behave
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                channel, _ = self.server.accept()
                channel.settimeout(20)
                self._open.append(channel)
                threading.Thread(target=self._talk, args=(channel,), daemon=True).start()

    def _talk(self, channel: socket.socket) -> None:
        with closing(channel), suppress(OSError):  # the node cuts the line of who breaks the protocol
            self._behave(channel)

    def close(self) -> None:
        for one in (self.server, *self._open):
            with suppress(OSError):  # it may be shut down already
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module")
def node(make_shared_node: Any) -> Iterator[Any]:
    """A node with a letter for each of the hosts, when all of them have behaved."""
    hosts = {name: Hostile(behave) for name, behave in {**LATER, **FAILED}.items()}
    routes = "".join(f'"{name}.example" = "tcp:127.0.0.1:{host.port}"\n' for name, host in hosts.items())
    node = make_shared_node(
        f'hostname = "mit.example"\n[users]\nnames = ["jones"]\n[retry]\nfirst = "1h"\n[routes]\n{routes}'
    ).start()
    node.before = node.resident()
    talk = node.talk()
    assert talk.codes("EHLO mit.example") == [250]
    for name in hosts:
        opened = talk.codes("MAIL FROM:<jones@mit.example>", f"RCPT TO:<user@{name}.example>", "DATA")
        assert opened == [250, 250, 354]
        assert talk.codes(f"Subject: {name}\r\n\r\nhello\r\n.") == [250]
    talk.close()
    tried = "SELECT count(*) FROM recipient WHERE state = 'queued' AND attempts = 1"
    node.wait_until(lambda: node.rows(tried) == [(len(LATER),)], "every host was tried")
    node.wait_for_mail("jones", len(FAILED))
    yield node
    for host in hosts.values():
        host.close()


@pytest.mark.parametrize("name", LATER)
def test_mail_for_a_host_that_breaks_the_protocol_waits_and_says_why(node: Any, name: str) -> None:
    rows = node.rows(f"SELECT state, attempts, reply FROM recipient WHERE domain = '{name}.example'")
    ((state, attempts, reply),) = rows
    assert (state, attempts) == ("queued", 1)
    assert reply[0] == "4" and reply.isascii() and reply.isprintable() and len(reply) < 1000


@pytest.mark.parametrize("name", FAILED)
def test_a_refusal_full_of_escapes_comes_back_as_a_notice_without_them(node: Any, name: str) -> None:
    (notice,) = [one for one in node.octets("jones") if f"user@{name}.example".encode() in one]
    assert all(octet in b"\t\n" or 32 <= octet < 127 for octet in notice)
    assert b"\nX-Field:" not in notice
    assert len(notice) < 100_000


def test_no_host_that_answers_garbage_fills_the_memory_or_the_log(node: Any) -> None:
    assert node.resident() - node.before < ALLOWED
    text = node.text()
    assert "Traceback" not in text and "Unhandled" not in text
    assert all(line.isascii() and line.isprintable() for line in text.splitlines())
    assert len(text) < 100_000


def test_the_node_serves_on(node: Any) -> None:
    talk = node.talk()
    assert talk.codes("HELO mit.example", "VRFY jones", "QUIT") == [250, 250, 221]
    talk.close()
