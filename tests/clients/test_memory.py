"""Memory does not grow with the size of a message, neither where it is taken nor where it is relayed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SIZE = 50 * MIB  # octets of mail data
ALLOWED = 8 * MIB  # that the resident set may rise by
PATIENCE = 60.0  # seconds

NODE = """
hostname = "mit.example"
[users]
names = ["jones"]
[limits]
message_size = "60M"
"""
RELAY = """
hostname = "relay.example"
[users]
names = ["root"]
[limits]
message_size = "60M"
[routes]
"mit.example" = "tcp:127.0.0.1:PORT"
"""


class Watch:
    """The highest resident set of some nodes, looked at every few milliseconds."""

    def __init__(self, nodes: tuple[Any, ...]) -> None:
        self.before = [node.resident() for node in nodes]
        self.highest = list(self.before)
        self.looks = 0
        self._nodes = nodes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.003):
            self.looks += 1
            now = [node.resident() for node in self._nodes]
            self.highest = [max(pair) for pair in zip(self.highest, now, strict=True)]

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    @property
    def rises(self) -> list[int]:
        return [high - low for high, low in zip(self.highest, self.before, strict=True)]


@contextmanager
def watched(*nodes: Any) -> Iterator[Watch]:
    watch = Watch(nodes)
    try:
        yield watch
    finally:
        watch.end()


def body(size: int) -> Iterator[bytes]:
    """Lines of mail data, some of which begin with dots, in pieces that end anywhere."""
    piece = b"".join(b"%06d " % number + b"x" * 60 + b"\r\n" for number in range(900)) + b".. a dot\r\n"
    sent = 0
    while sent < size:
        yield piece
        sent += len(piece)


def give(node: Any, size: int) -> str:
    """A message; the SHA-256 of its text as it must lie in the mailbox."""
    talk = node.talk()
    talk.socket.settimeout(PATIENCE)
    opening = ("EHLO client.example", "MAIL FROM:<smith@usc.example>", "RCPT TO:<jones@mit.example>", "DATA")
    assert talk.codes(*opening) == [250, 250, 250, 354]
    digest = hashlib.sha256()
    talk.raw(b"Subject: large\r\n\r\n")
    for piece in body(size):
        talk.raw(piece)
        digest.update(piece.replace(b"\r\n..", b"\r\n.").replace(b"\r\n", b"\n"))
    talk.raw(b".\r\n")
    assert talk.reply()[0].startswith("250 ")
    assert talk.codes("QUIT") == [221]
    talk.close()
    return digest.hexdigest()


def wait_for_files(node: Any, count: int) -> list[Path]:
    """The messages in the mailbox, oldest first, without reading them."""
    new = node.data / "mail" / "jones" / "new"
    deadline = time.monotonic() + PATIENCE
    while not new.is_dir() or len(os.listdir(new)) < count:
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE} s in vain: {count} messages")
        time.sleep(0.01)
    return sorted(new.iterdir(), key=lambda file: file.stat().st_mtime_ns)


def text_digest(file: Path) -> str:
    """The SHA-256 of the text of a message, header left out."""
    with file.open("rb") as stream:
        while line := stream.readline():
            if line == b"\n":
                break
        return hashlib.file_digest(stream, "sha256").hexdigest()


def warm_up(node: Any) -> int:
    """Takes each road once, so that what it loads and keeps is loaded; the number of messages sent."""
    sizes = (1000, 60_000, 100_000, 300_000, 1000)
    for size in sizes:
        give(node, size)
    return len(sizes)


def test_a_message_of_50_mb_raises_the_resident_set_by_less_than_8_mb(make_node: Any) -> None:
    node = make_node(NODE).start()
    count = warm_up(node)
    wait_for_files(node, count)
    with watched(node) as watch:
        digest = give(node, SIZE)
        files = wait_for_files(node, count + 1)
    assert text_digest(files[-1]) == digest and files[-1].stat().st_size > SIZE * 0.98
    assert watch.looks > 20
    (rise,) = watch.rises
    assert rise < ALLOWED, f"{rise / MIB:.1f} MiB"


def test_a_message_of_50_mb_is_relayed_whole_and_neither_host_grows(make_node: Any) -> None:
    mit = make_node(NODE, "mit").start()
    relay = make_node(RELAY.replace("PORT", str(mit.port)), "relay").start()
    count = warm_up(relay)
    wait_for_files(mit, count)
    with watched(relay, mit) as watch:
        digest = give(relay, SIZE)
        files = wait_for_files(mit, count + 1)
    assert text_digest(files[-1]) == digest
    assert watch.looks > 20
    assert max(watch.rises) < ALLOWED, [f"{rise / MIB:.1f} MiB" for rise in watch.rises]


def test_a_message_that_is_too_large_is_read_to_its_end_and_refused_without_growth(make_node: Any) -> None:
    node = make_node(NODE.replace("60M", "1M")).start()
    count = warm_up(node)
    wait_for_files(node, count)
    with watched(node) as watch:
        talk = node.talk()
        opening = ("HELO a", "MAIL FROM:<smith@usc.example>", "RCPT TO:<jones@mit.example>", "DATA")
        assert talk.codes(*opening) == [250, 250, 250, 354]
        for piece in body(20 * MIB):
            talk.raw(piece)
        assert talk.codes(".", "NOOP") == [552, 250]
        talk.close()
    assert max(watch.rises) < ALLOWED
    node.wait_for_empty_spool()  # a draft is removed after the reply
    assert len(wait_for_files(node, count)) == count
