"""A node behind a proxy: whoever the PROXY header names is the client; only such listeners read one."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

NODE = """
hostname = "mit.example"
[users]
names = ["jones"]
[relay]
networks = ["127.0.0.0/8", "192.0.2.7/32"]
[[listen]]
endpoint = "haproxy:tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "haproxy:tcp:0:interface=localhost"
tls = "implicit"
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
"""


@pytest.fixture(scope="module")
def node(make_shared_node: Any, authority: Any) -> Any:
    node = make_shared_node(NODE)
    authority.issue("mit.example", into=node.folder)
    return node.start()


class Proxy:
    """What a proxy does: a connection, and a header in front of it."""

    def __init__(self, node: Any, header: bytes, listener: int = 0) -> None:
        port = int(node.status()["listening"][listener]["where"].rsplit(":", 1)[1])
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.socket.sendall(header)

    def reads(self) -> bytes:
        return self.socket.recv(4096)

    def says(self, command: str) -> str:
        self.socket.sendall(command.encode() + b"\r\n")
        return self.reads().decode()

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def proxy(node: Any) -> Iterator[Any]:
    proxies: list[Proxy] = []

    def connect(header: bytes, listener: int = 0) -> Proxy:
        proxies.append(Proxy(node, header, listener))
        return proxies[-1]

    yield connect
    for one in proxies:
        one.close()


def header(address: str) -> bytes:
    family = "TCP6" if ":" in address else "TCP4"
    return f"PROXY {family} {address} {'::1' if ':' in address else '127.0.0.1'} 40000 25\r\n".encode()


@pytest.mark.parametrize(
    ("address", "code"), [("192.0.2.7", "250"), ("192.0.2.8", "550"), ("2001:db8::1", "550")]
)
def test_the_rights_are_those_of_the_client_and_not_of_the_proxy(proxy: Any, address: str, code: str) -> None:
    line = proxy(header(address))
    assert line.reads().startswith(b"220 mit.example")
    line.says("EHLO me")
    line.says("MAIL FROM:<smith@usc.example>")
    assert line.says("RCPT TO:<x@isi.example>").startswith(code)


def test_a_client_that_the_proxy_does_not_name_is_a_stranger(proxy: Any) -> None:
    line = proxy(b"PROXY UNKNOWN\r\n")
    line.reads()
    line.says("EHLO me")
    line.says("MAIL FROM:<smith@usc.example>")
    assert line.says("RCPT TO:<x@isi.example>").startswith("550")


def test_the_clients_address_is_in_the_trace_field(proxy: Any, node: Any) -> None:
    line = proxy(header("192.0.2.8"))
    line.reads()
    for command in ("EHLO me", "MAIL FROM:<>", "RCPT TO:<jones@mit.example>", "DATA"):
        line.says(command)
    assert line.says("Subject: x\r\n\r\nbehind the proxy\r\n.").startswith("250")
    message = next(one for one in node.wait_for_mail("jones") if "behind the proxy" in one)
    assert "[192.0.2.8]" in message and "127.0.0.1" not in message


def test_without_a_header_nothing_is_said(proxy: Any) -> None:
    line = proxy(b"EHLO me\r\n")
    with pytest.raises(ConnectionResetError):
        while True:
            assert line.reads() == b""
            raise ConnectionResetError  # closed in good order is as good


def test_a_listener_without_a_proxy_takes_a_header_for_a_command(proxy: Any) -> None:
    line = proxy(b"", listener=1)
    assert line.reads().startswith(b"220")
    assert line.says(header("192.0.2.7").decode().strip()).startswith("500")


def test_tls_begins_behind_the_header(proxy: Any, authority: Any) -> None:
    line = proxy(header("192.0.2.7"), listener=2)
    context = ssl.create_default_context(cafile=str(authority.roots))
    with closing(context.wrap_socket(line.socket, server_hostname="mit.example")) as channel:
        assert channel.recv(4096).startswith(b"220 mit.example")
        channel.sendall(b"EHLO me\r\n")
        assert b"PIPELINING" in channel.recv(4096)


def test_starttls_works_behind_a_proxy(proxy: Any, authority: Any) -> None:
    line = proxy(header("192.0.2.7"))
    line.reads()
    assert "STARTTLS" in line.says("EHLO me")
    assert line.says("STARTTLS").startswith("220")
    context = ssl.create_default_context(cafile=str(authority.roots))
    with closing(context.wrap_socket(line.socket, server_hostname="mit.example")) as channel:
        channel.sendall(b"EHLO me\r\n")
        assert b"STARTTLS" not in channel.recv(4096)
