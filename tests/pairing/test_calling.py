"""The call to a hub: ends in time and within bounds, whatever the hub says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mailnode.pairing.calling import OCTETS, Called, PinnedCall
from mailnode.smtp.events import Ending
from mailnode.smtp.script import Plan

PLAN = Plan("leaf.example", name="leaf", secret="open sesame", tls="required", pair="a 4096 b c")

Serve = Callable[[socket.socket], None]


@pytest.fixture
def call() -> Iterator[Callable[[Serve], Called]]:
    """A call to a hub that `serve` plays, at the other end of a pair of sockets."""
    ends: list[socket.socket] = []

    def run(serve: Serve) -> Called:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        theirs.settimeout(15)

        def play() -> None:
            with suppress(OSError):  # we have hung up
                serve(theirs)
            theirs.close()

        thread = threading.Thread(target=play)
        thread.start()
        one = PinnedCall(ours, PLAN, "hub.example", "sha256:" + "ab" * 32)
        try:
            return one.run()
        finally:
            one.close()
            thread.join()

    yield run
    for end in ends:
        end.close()


def test_a_hub_that_hangs_up_is_broken_and_nothing_was_used(call: Callable[[Serve], Called]) -> None:
    for serve in (lambda _: None, lambda hub: hub.sendall(b"220 hub.example\r\n")):
        called = call(serve)
        assert (called.ended.ending, called.pairing) == (Ending.BROKEN, False)
        assert "connection was lost" in str(called.ended.reply)


def test_a_hub_that_talks_without_end_is_left(call: Callable[[Serve], Called]) -> None:
    sent: list[int] = []

    def serve(hub: socket.socket) -> None:
        line = b"220-" + b"x" * 4000 + b"\r\n"
        while sum(sent) < 8 * OCTETS:
            hub.sendall(line)
            sent.append(len(line))

    called = call(serve)
    assert called.ended.ending is Ending.BROKEN and "too much" in str(called.ended.reply)
    assert sum(sent) < 4 * OCTETS


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n", b"\x16\x03\x01\x02\x00\r\n", b"\r\n"])
def test_what_does_not_speak_smtp_is_no_hub(call: Callable[[Serve], Called], words: bytes) -> None:
    called = call(lambda hub: hub.sendall(words))
    assert called.ended.ending is Ending.BROKEN and str(called.ended.reply).isprintable()


def test_a_hub_without_tls_is_told_nothing(call: Callable[[Serve], Called]) -> None:
    heard: list[bytes] = []

    def serve(hub: socket.socket) -> None:
        hub.sendall(b"220 hub.example\r\n")
        stream = hub.makefile("rb")
        for answer in (b"250-hub.example\r\n250 AUTH SCRAM-SHA-256 PLAIN\r\n", b"221 bye\r\n"):
            heard.append(stream.readline())
            hub.sendall(answer)

    called = call(serve)
    assert (called.ended.ending, called.pairing) == (Ending.INSECURE, False)
    assert heard == [b"EHLO leaf.example\r\n", b"QUIT\r\n"]


def test_octets_behind_the_reply_to_starttls_are_not_obeyed(call: Callable[[Serve], Called]) -> None:
    def serve(hub: socket.socket) -> None:
        hub.sendall(b"220 hub.example\r\n")
        stream = hub.makefile("rb")
        stream.readline()
        hub.sendall(b"250-hub.example\r\n250 STARTTLS\r\n")
        stream.readline()
        hub.sendall(b"220 go\r\n250-hub.example\r\n250 AUTH PLAIN\r\n")
        stream.readline()

    assert call(serve).ended.ending is Ending.BROKEN
