"""The open line (docs/xwait.md): two real nodes, and between them a wire that can be cut or go silent."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.spools import spooled
from tests.clients.waiting import wait_until

SECRET = "open sesame"
SIGN_OF_LIFE = 1.0  # seconds; the shortest there is
NOTICED = 2 * SIGN_OF_LIFE
DRAINED = 8.0  # seconds; `drain` is 10
LATE = 1.0  # seconds that a busy machine may be
PATIENCE = 20.0

HUB = """
hostname = "hub.example"
[users]
names = ["hubert"]
passwords = "passwords"
[relay]
networks = []
[retry]
first = "1s"
[routes]
"*" = "hold"
[[listen]]
endpoint = "tcp:PORT:interface=127.0.0.1"
[[peer]]
name = "leaf"
domains = ["leaf.example", "branch.example"]
allow = ["auth"]
[[peer]]
name = "other"
domains = ["other.example"]
allow = ["auth"]
"""
LEAF = """
hostname = "leaf.example"
domains = ["leaf.example", "branch.example"]
[users]
names = ["leo", "lea"]
passwords = "passwords"
[retry]
first = "1s"
[routes]
"*" = "hold"
[[dial]]
name = "hub"
endpoint = "tcp:127.0.0.1:PORT"
command = "ATRN"
user = "leaf"
wait = "1s"
every = "2s"
"""  # the back-off between calls grows up to `every`


class Wire:
    """What lies between the leaf and the hub: passes octets on, keeps them for the test to read, goes
    silent, or is cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.begin()
        self._thread.start()

    def begin(self) -> None:
        """For a new test."""
        self.calls = 0
        self.down = False  # nobody gets through
        self.silent = False  # what comes goes nowhere, and nobody is told
        self.heard = {"leaf": b"", "hub": b""}
        self.cut_at: tuple[str, bytes] | None = None  # whose words, and behind which of them to cut, once

    def cut(self) -> None:
        """Ends every connection at once."""
        for pair in list(self._pairs):
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self._thread.join(PATIENCE)
        for end in (self._server, *(end for pair in self._pairs for end in pair)):
            end.close()

    def _run(self) -> None:
        while not self._closed:
            ends = {} if self.silent else {end: pair for pair in self._pairs for end in pair}
            server = [] if self.silent else [self._server]
            for end in select.select([*server, *ends], [], [], 0.02)[0]:
                if end is self._server:
                    self._called(self._server.accept()[0])
                elif ends[end] in self._pairs:
                    self._pass_on(end, *ends[end])

    def _called(self, leaf: socket.socket) -> None:
        if self.down:
            leaf.close()
            return
        self.calls += 1
        try:
            self._pairs.append((leaf, socket.create_connection(("127.0.0.1", self._to), 5)))
        except OSError:  # the hub is not there
            leaf.close()

    def _pass_on(self, end: socket.socket, leaf: socket.socket, hub: socket.socket) -> None:
        octets = b""
        with suppress(OSError):
            octets = end.recv(65536)
        if self.silent:
            return
        who, other = ("leaf", hub) if end is leaf else ("hub", leaf)
        cut = not octets
        if self.cut_at is not None and who == self.cut_at[0] and self.cut_at[1] in octets:
            octets = octets[: octets.index(self.cut_at[1])]
            cut, self.cut_at = True, None
        self.heard[who] += octets
        with suppress(OSError):
            other.sendall(octets)
        if cut:
            self._pairs.remove((leaf, hub))
            leaf.close()
            hub.close()


class Pair:
    """A hub, a leaf that keeps its line open, and the wire between them."""

    def __init__(self, hub: Any, leaf: Any, wire: Wire) -> None:
        self.hub, self.leaf, self.wire = hub, leaf, wire
        self.at = {"hub": 0, "leaf": 0}  # where in their logs the test began

    def begin(self) -> None:
        """For a new test: no mail anywhere, and the line is open."""
        self.wire.begin()
        for node in (self.hub, self.leaf):
            if node.process is None or node.process.poll() is not None:
                node.start()
        wait_until(self.is_open, "the open line")
        for node in (self.hub, self.leaf):
            empty(node)
        self.wire.begin()
        self.at = {"hub": len(self.hub.text()), "leaf": len(self.leaf.text())}

    def is_open(self) -> bool:
        """Whether the leaf has opened its line, and the line has not ended since."""
        said = self.leaf.text()
        return max(map(said.rfind, ENDS)) < said.rfind("line open: ")

    def is_open_again(self) -> bool:
        """Whether it was opened in this test."""
        return self.is_open() and "line open: " in self.leaf.text()[self.at["leaf"] :]

    def wait_for_end(self) -> None:
        self.leaf.wait_for_log("the open line to hub has ended", PATIENCE, self.at["leaf"])

    def give(self, *texts: str, recipient: str = "leo@leaf.example") -> list[float]:
        """Messages by a stranger to the hub, one after another; when each was acknowledged."""
        talk = self.hub.talk()
        assert talk.codes("HELO usc.example") == [250]
        times = []
        for text in texts:
            commands = ["MAIL FROM:<smith@usc.example>", f"RCPT TO:<{recipient}>", "DATA"]
            assert talk.codes(*commands) == [250, 250, 354]
            assert talk.codes(f"Subject: x\r\n\r\n{text}\r\n.") == [250]
            times.append(time.monotonic())
        assert talk.codes("QUIT") == [221]
        talk.close()
        return times

    def texts(self, user: str = "leo") -> list[str]:
        return [message.splitlines()[-1] for message in self.leaf.mailbox(user)]

    def wait_for(self, *texts: str) -> None:
        """Each of `texts` is there, each once."""
        wait_until(
            lambda: sorted(self.texts()) == sorted(texts), f"{texts} in the mailbox, not {self.texts()}"
        )

    def reread(self, node: Any, old: str, new: str) -> None:
        """A node that runs goes by a changed configuration."""
        text = node.file.read_text()
        assert old in text
        node.file.write_text(text.replace(old, new))
        node.process.send_signal(signal.SIGHUP)


ENDS = ("the open line to hub has ended", "mailnode ready", "call to hub: ")  # in the log of the leaf


def empty(node: Any) -> None:
    """Takes away all mail, also what some connection still has in hand."""

    def delete() -> bool:
        spool = SqliteSpool(str(node.data), None, time.time)
        try:
            spool.change(Selection(), "delete").addErrback(pytest.fail)
        finally:
            spool.close()
        return not node.left_in_spool()

    wait_until(delete, "an empty spool")
    shutil.rmtree(node.data / "mail", ignore_errors=True)


def set_password(node: Any, recoverable: bool = False) -> None:
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    passwords.set("leaf", SECRET, recoverable=recoverable)


@pytest.fixture(scope="module")
def shared_pair(make_shared_node: Callable[..., Any], free_port: Callable[[], int]) -> Iterator[Pair]:
    hub = make_shared_node(HUB.replace("PORT", str(free_port())), "hub")
    set_password(hub)
    wire = Wire(hub.start().port)
    leaf = make_shared_node(LEAF.replace("PORT", str(wire.port)), "leaf")
    set_password(leaf, recoverable=True)
    yield Pair(hub, leaf.start(), wire)
    wire.close()


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    shared_pair.begin()
    return shared_pair


# ----------------------------------------------------------------- an open line


@pytest.mark.parametrize("command", ["TURN", "ATRN"])
def test_a_message_is_in_the_mailbox_of_the_leaf_at_once(pair: Pair, command: str) -> None:
    if f'command = "{command}"' not in pair.leaf.file.read_text():
        pair.reread(pair.leaf, 'command = "', f'command = "{command}" # "')
        wait_until(pair.is_open_again, "the line opened by the other command")
    new = pair.leaf.data / "mail" / "leo" / "new"
    took = []
    for number in range(60):
        (acknowledged,) = pair.give(f"message {number}")
        while not new.is_dir() or len(os.listdir(new)) <= number:
            assert time.monotonic() < acknowledged + PATIENCE, "it did not come"
            time.sleep(0.0005)
        took.append(time.monotonic() - acknowledged)
    took.sort()
    median = statistics.median(took)
    print(f"\n{command}: median {median * 1000:.1f} ms, 95 of 100 within {took[-3] * 1000:.1f} ms")
    assert median < 0.1
    assert b"MAIL" not in pair.wire.heard["leaf"]
    assert sorted(pair.texts()) == sorted(f"message {number}" for number in range(60))
    wait_until(lambda: spooled(pair.hub) == [], "an empty spool")


def test_the_line_stays_open_with_signs_of_life_and_only_these(pair: Pair) -> None:
    before = len(pair.wire.heard["hub"])
    wait_until(lambda: pair.wire.heard["hub"].count(b"NOOP\r\n", before) >= 3, "three signs of life")
    assert set(pair.wire.heard["hub"][before:].splitlines()) == {b"NOOP"}
    pair.give("later")
    pair.wait_for("later")
    assert not pair.wire.calls


def test_it_is_given_the_mail_of_all_its_domains_and_of_no_other(pair: Pair) -> None:
    pair.give("for another", recipient="leo@other.example")
    pair.give("one")
    pair.give("two", recipient="leo@branch.example")
    pair.wait_for("one", "two")
    wait_until(lambda: spooled(pair.hub) == [("held", "leo@other.example")], "the mail of the other alone")


def test_outgoing_mail_does_not_wait_for_the_line_to_end(pair: Pair) -> None:
    talk = pair.leaf.talk()
    commands = ["HELO x", "MAIL FROM:<leo@leaf.example>", "RCPT TO:<hubert@hub.example>", "DATA"]
    assert talk.codes(*commands, "Subject: x\r\n\r\nout\r\n.", "QUIT") == [250, 250, 250, 354, 250, 221]
    (message,) = pair.hub.wait_for_mail("hubert")
    assert message.endswith("\nout\n")
    pair.give("in")
    pair.wait_for("in")
    assert not pair.is_open_again() and pair.is_open()


# ----------------------------------------------------------------- it ends


def test_a_line_that_is_cut_is_called_again_and_brings_what_came_meanwhile(pair: Pair) -> None:
    pair.give("before")
    pair.wait_for("before")
    pair.wire.down = True
    pair.wire.cut()
    pair.wait_for_end()
    pair.give("meanwhile")
    assert spooled(pair.hub) == [("held", "leo@leaf.example")]
    pair.wire.down = False
    pair.wait_for("before", "meanwhile")
    wait_until(pair.is_open_again, "the line open again")


def test_a_line_that_goes_silent_is_noticed_within_two_signs_of_life_and_called_again(pair: Pair) -> None:
    pair.give("before")
    pair.wait_for("before")
    pair.wire.silent = True
    silent_since = time.monotonic()
    pair.wait_for_end()
    pair.hub.wait_for_log("the turned line of leaf ended: broken", after=pair.at["hub"])
    assert time.monotonic() - silent_since < NOTICED + LATE
    pair.give("meanwhile")
    pair.wire.silent = False
    pair.wait_for("before", "meanwhile")
    assert pair.wire.calls


CUTS = {
    # who is cut short, before which words of it
    "in a command": ("hub", b"RCPT TO"),
    "in a message": ("hub", b"halfway"),
    "in a large message": ("hub", b"a long way"),
    "before the reply to a message": ("leaf", b"queued as"),  # RFC 1047: the hub cannot know
}


@pytest.mark.parametrize("where", CUTS)
def test_a_line_that_breaks_at_a_message_loses_nothing_and_brings_nothing_twice(
    pair: Pair, where: str
) -> None:
    who, words = CUTS[where]
    pair.wire.cut_at = (who, words)
    large = "\r\n".join(["three hundred octets " * 15] * 400)  # it goes in several pieces
    texts = [f"message {number}" for number in range(12)]
    pair.give(*(f"{text}\r\nhalfway\r\n{text}" for text in texts))
    pair.give(f"{large}\r\na long way\r\n{large}\r\nlarge")
    texts.append("large")
    wait_until(lambda: set(pair.texts()) == set(texts), "every message")
    wait_until(lambda: spooled(pair.hub) == [], "an empty spool")
    assert pair.wire.cut_at is None, "it was not cut"
    assert len(pair.texts()) == len(texts)
    assert pair.wire.calls == 1


def test_a_hub_that_goes_down_ends_the_line_with_quit_and_is_called_again(pair: Pair) -> None:
    began = time.monotonic()
    pair.hub.stop(signal.SIGTERM)
    assert time.monotonic() - began < DRAINED
    assert pair.wire.heard["hub"].endswith(b"QUIT\r\n")
    pair.wait_for_end()
    pair.hub.start()
    wait_until(pair.is_open_again, "the line open again")
    pair.give("after")
    pair.wait_for("after")


def test_a_leaf_that_goes_down_leaves_its_mail_held(pair: Pair) -> None:
    began = time.monotonic()
    pair.leaf.stop(signal.SIGTERM)
    assert time.monotonic() - began < DRAINED
    pair.hub.wait_for_log("the turned line of leaf ended", after=pair.at["hub"])
    pair.give("meanwhile")
    assert spooled(pair.hub) == [("held", "leo@leaf.example")]
    pair.leaf.start()
    pair.wait_for("meanwhile")


def test_a_leaf_that_is_killed_leaves_its_mail_held(pair: Pair) -> None:
    pair.give("before")
    pair.wait_for("before")
    pair.leaf.kill()
    pair.hub.wait_for_log("the turned line of leaf ended", after=pair.at["hub"])
    pair.give("meanwhile")
    pair.leaf.start()
    pair.wait_for("before", "meanwhile")
    wait_until(lambda: spooled(pair.hub) == [], "an empty spool")


def test_a_domain_that_a_peer_gets_while_its_line_is_open_is_its_from_then_on(pair: Pair) -> None:
    def codes() -> list[int]:
        talk = pair.hub.talk()
        found = talk.codes("HELO x", "MAIL FROM:<a@b.example>", "RCPT TO:<leo@late.example>", "QUIT")
        talk.close()
        return list(found)

    assert codes() == [250, 250, 550, 221]
    for node in (pair.leaf, pair.hub):
        pair.reread(node, '"branch.example"', '"branch.example", "late.example"')
    wait_until(lambda: codes() == [250, 250, 250, 221], "the new domain")
    wait_until(pair.is_open_again, "the line open again")
    pair.give("late", recipient="leo@late.example")
    pair.wait_for("late")


# ----------------------------------------------------------------- one side does not know of it


def test_a_hub_without_xwait_turns_the_line_as_ever(make_node: Callable[..., Any]) -> None:
    said: list[bytes] = []
    replies = {b"EHLO": b"250-hub\r\n250-AUTH PLAIN\r\n250 ATRN\r\n", b"AUTH": b"235 ok\r\n"}
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(PATIENCE)
    leaf = make_node(LEAF.replace("PORT", str(server.getsockname()[1])), "leaf")
    set_password(leaf, recoverable=True)
    leaf.start()
    with server, server.accept()[0] as channel, channel.makefile("rwb", buffering=0) as stream:
        channel.settimeout(PATIENCE)
        stream.write(b"220 hub\r\n")
        while not said or said[-1] != b"ATRN\r\n":
            said.append(stream.readline())
            stream.write(replies.get(said[-1][:4], b"250 ok\r\n"))
        assert stream.readline().startswith(b"220 leaf.example")
        stream.write(b"QUIT\r\n")
        assert stream.readline().startswith(b"221")
    assert {line.split()[0] for line in said} == {b"EHLO", b"AUTH", b"ATRN"}
    leaf.wait_for_log("call to hub: 0 given, 0 received, line turned")


def test_a_leaf_that_does_not_ask_for_it_gets_its_mail_and_a_quit(pair: Pair) -> None:
    pair.leaf.stop()
    text = pair.leaf.file.read_text()
    pair.leaf.file.write_text(text.replace('wait = "1s"', ""))
    pair.leaf.start()
    pair.give("one")
    *said, answer = pair.leaf.ask(do="dial", name="hub", trace=True)
    pair.leaf.stop()
    pair.leaf.file.write_text(text)
    assert answer["turned"], answer
    trace = [line["said"][1] for line in said]
    assert not any(line.startswith("XWAIT") for line in trace)
    assert trace[-2] == "QUIT" and trace[-1].startswith("221")
    assert pair.texts() == ["one"]
