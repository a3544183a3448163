"""A node that may open few files: new clients hear 421, those inside are served, and it lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

LIMIT = 96
NODE = """
hostname = "mit.example"
[users]
names = ["jones"]
[limits]
connections_per_host = 1000
"""


def processor_time(node: Any) -> float:
    """Seconds of processor time that the node has used."""
    words = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def limited(make_node: Any, need: Callable[[str], str], limits: str) -> Any:
    node = make_node(NODE)
    node.launcher = [need("prlimit"), f"--nofile={limits}", "--"]
    return node.start()


def soft_limit(node: Any) -> int:
    limits = Path(f"/proc/{node.process.pid}/limits").read_text()
    return int(limits.partition("Max open files")[2].split()[0])


def test_the_node_may_open_as_many_files_as_the_host_lets_it(
    make_node: Any, need: Callable[[str], str]
) -> None:
    assert soft_limit(limited(make_node, need, "128:1024")) == 1024


def test_too_many_clients_are_turned_away_and_those_inside_are_served(
    make_node: Any, need: Callable[[str], str]
) -> None:
    node = limited(make_node, need, f"{LIMIT}:{LIMIT}")
    first = node.talk()
    first.say("EHLO me")
    with ExitStack() as stack:
        greetings = []
        for _ in range(2 * LIMIT):
            talk = socket.create_connection(("127.0.0.1", node.port), timeout=15)
            stack.enter_context(talk)
            greetings.append(talk.recv(200)[:3])
        assert set(greetings) == {b"220", b"421"}
        assert greetings.index(b"421") > LIMIT // 4  # not at the first breath
        assert len(os.listdir(f"/proc/{node.process.pid}/fd")) < LIMIT
        text = b"Subject: x\r\n\r\n" + b"a large body needs a file of its own\r\n" * 5000 + b".\r\n"
        assert first.codes("MAIL FROM:<>", "RCPT TO:<jones@mit.example>", "DATA") == [250, 250, 354]
        first.raw(text)
        assert first.reply()[0].startswith("250")
        node.wait_for_mail("jones")
    node.wait_until(lambda: node.talk().greeting[0].startswith("220"), "room for a new client")
    assert node.text().count("connections are turned away") == 1
    assert "Traceback" not in node.text() and "Unhandled" not in node.text()


def test_a_burst_beyond_the_limit_neither_kills_nor_spins(make_node: Any, need: Callable[[str], str]) -> None:
    node = limited(make_node, need, f"{LIMIT}:{LIMIT}")
    with ExitStack() as stack:
        waiting = []
        for _ in range(3 * LIMIT):  # none is waited for, so that many are accepted at once
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", node.port))
            waiting.append(client)
        node.wait_until(lambda: "connections are turned away" in node.text(), "the limit")
        before, since = processor_time(node), time.monotonic()
        node.wait_until(lambda: time.monotonic() - since > 0.5, "half a second")
        assert processor_time(node) - before < 0.3
        assert node.process.poll() is None
    node.wait_until(lambda: node.talk().greeting[0].startswith("220"), "room for a new client")
    assert len(node.text()) < 100_000
