"""The open line (docs/xwait.md): two real nodes, and between them a wire that can be cut or go silent."""

from __future__ import annotations

import os
import select
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool

SECRET = "open sesame"
SIGN_OF_LIFE = 1.0  # seconds; the shortest there is
NOTICED = 2 * SIGN_OF_LIFE
CALLED_AGAIN = NOTICED + 1.25  # seconds: the first call comes after one, a quarter more or less
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
command = "COMMAND"
user = "leaf"
wait = "1s"
"""


def wait_until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


def spooled(node: Any) -> list[tuple[str, str]]:
    """State and mailbox of every recipient in the spool of `node`, oldest first."""
    spool = SqliteSpool(str(node.data), None, time.time)
    try:
        found: list[Any] = []
        spool.listing(Selection()).addCallback(found.extend)
        return [(it.state, it.path.mailbox) for message in found for it in message.recipients]
    finally:
        spool.close()


class Wire:
    """What lies between the leaf and the hub: passes octets on, keeps them for the test to read, goes
    silent, or is cut."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.calls = 0
        self.down = False  # nobody gets through; what is open goes silent
        self.silent = False  # what comes goes nowhere
        self.heard = {"leaf": b"", "hub": b""}
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Ends every connection at once."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self._thread.join(PATIENCE)
        self.cut()
        for end in (self._server, *(end for pair in self._pairs for end in pair)):
            end.close()

    def _run(self) -> None:
        while not self._closed:
            ends = {} if self.silent else {end: pair for pair in self._pairs for end in pair}
            server = [] if self.silent else [self._server]
            for end in select.select([*server, *ends], [], [], 0.02)[0]:
                if end is self._server:
                    self._called(self._server.accept()[0])
                else:
                    self._pass_on(end, ends[end])

    def _called(self, leaf: socket.socket) -> None:
        if self.down:
            leaf.close()
            return
        self.calls += 1
        try:
            self._pairs.append((leaf, socket.create_connection(("127.0.0.1", self._to), 5)))
        except OSError:  # the hub is not there
            leaf.close()

    def _pass_on(self, end: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        octets = b""
        leaf, hub = pair
        with suppress(OSError):
            octets = end.recv(65536)
        if octets and not self.silent:
            self.heard["leaf" if end is leaf else "hub"] += octets
            with suppress(OSError):
                (hub if end is leaf else leaf).sendall(octets)
        elif not octets and pair in self._pairs:
            self._pairs.remove(pair)
            leaf.close()
            hub.close()


@pytest.fixture
def make_wire() -> Iterator[Callable[[int], Wire]]:
    wires: list[Wire] = []

    def make(to: int) -> Wire:
        wires.append(Wire(to))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()


class Pair:
    """A hub, a leaf that keeps its line open, and the wire between them."""

    def __init__(self, hub: Any, leaf: Any, wire: Wire) -> None:
        self.hub, self.leaf, self.wire = hub, leaf, wire

    def is_open(self, opened: int = 1) -> bool:
        return self.leaf.text().count("line open") >= opened

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

    def wait_for(self, *texts: str, user: str = "leo") -> None:
        """Each of `texts` is there, each once."""
        wait_until(
            lambda: sorted(self.texts(user)) == sorted(texts),
            f"{texts} in the mailbox, not {self.texts(user)}",
        )


@pytest.fixture(params=["ATRN", "TURN"])
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(make_node: Callable[..., Any], make_wire: Callable[[int], Wire]) -> Pair:
    return open_pair(make_node, make_wire, "ATRN")


def open_pair(
    make_node: Callable[..., Any], make_wire: Callable[[int], Wire], command: str, config: str = LEAF
) -> Pair:
    hub = make_node(HUB, "hub")
    set_password(hub)
    wire = make_wire(hub.start().port)
    leaf = make_node(config.replace("PORT", str(wire.port)).replace("COMMAND", command), "leaf")
    set_password(leaf, recoverable=True)
    pair = Pair(hub, leaf.start(), wire)
    wait_until(pair.is_open, "the open line")
    return pair


def set_password(node: Any, recoverable: bool = False) -> None:
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    passwords.set("leaf", SECRET, recoverable=recoverable)


# ----------------------------------------------------------------- an open line


@pytest.mark.parametrize("command", ["TURN", "ATRN"])
def test_a_message_is_in_the_mailbox_of_the_leaf_at_once(
    make_node: Callable[..., Any], make_wire: Callable[[int], Wire], command: str
) -> None:
    pair = open_pair(make_node, make_wire, command)
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
    assert pair.wire.calls == 1
    heard = pair.wire.heard["leaf"]
    assert heard.index(b"XWAIT 1\r\n") < heard.index(command.encode() + b"\r\n")
    assert sorted(pair.texts()) == sorted(f"message {number}" for number in range(60))
    wait_until(lambda: spooled(pair.hub) == [], "an empty spool")


def test_the_line_stays_open_with_signs_of_life_and_only_these(pair: Pair) -> None:
    before = len(pair.wire.heard["hub"])
    wait_until(lambda: pair.wire.heard["hub"].count(b"NOOP\r\n", before) >= 3, "three signs of life")
    assert set(pair.wire.heard["hub"][before:].splitlines()) == {b"NOOP"}
    assert pair.wire.calls == 1
    pair.give("later")
    pair.wait_for("later")
    assert pair.wire.calls == 1


def test_it_is_given_the_mail_of_all_its_domains_and_of_no_other(pair: Pair) -> None:
    pair.give("for another", recipient="leo@other.example")
    pair.give("one")
    pair.give("two", recipient="leo@branch.example")
    pair.wait_for("one", "two")
    assert spooled(pair.hub) == [("held", "leo@other.example")]


def test_outgoing_mail_does_not_wait_for_the_line_to_end(pair: Pair) -> None:
    talk = pair.leaf.talk()
    commands = ["HELO x", "MAIL FROM:<leo@leaf.example>", "RCPT TO:<hubert@hub.example>", "DATA"]
    assert talk.codes(*commands, "Subject: x\r\n\r\nout\r\n.", "QUIT") == [250, 250, 250, 354, 250, 221]
    (message,) = pair.hub.wait_for_mail("hubert")
    assert message.endswith("\nout\n")
    pair.give("in")
    pair.wait_for("in")
    assert pair.leaf.text().count("line open") == 1


# ----------------------------------------------------------------- it ends


def test_a_line_that_is_cut_is_called_again_and_brings_what_came_meanwhile(pair: Pair) -> None:
    pair.give("before")
    pair.wait_for("before")
    pair.wire.down = True
    pair.wire.cut()
    pair.leaf.wait_for_log("the open line to hub has ended")
    pair.give("meanwhile")
    pair.wire.down = False
    pair.wait_for("before", "meanwhile")
    wait_until(lambda: pair.is_open(2), "the line open again")


def test_a_line_that_goes_silent_is_noticed_within_two_signs_of_life_and_called_again(pair: Pair) -> None:
    pair.give("before")
    pair.wait_for("before")
    pair.wire.silent = True
    silent_since = time.monotonic()
    pair.leaf.wait_for_log("the open line to hub has ended")
    assert time.monotonic() - silent_since < NOTICED + 1.0  # a loaded machine
    pair.hub.wait_for_log("the turned line of leaf ended: broken")
    assert time.monotonic() - silent_since < NOTICED + 1.0
    pair.give("meanwhile")
    pair.wire.silent = False
    pair.wait_for("before", "meanwhile")
    assert pair.wire.calls >= 2


@pytest.mark.parametrize("octets", [b"BDAT", b"DATA", b"three hundred"])
def test_a_line_that_breaks_in_mid_message_costs_one_duplicate_at_most(pair: Pair, octets: bytes) -> None:
    texts = [f"message {number}" for number in range(20)]
    stop = threading.Event()

    def cut_in_the_middle() -> None:
        while not stop.is_set():
            if octets in pair.wire.heard["hub"]:
                pair.wire.cut()
                return

    large = "\r\n".join(["three hundred octets " * 15] * 300)  # more than a chunk: it goes by DATA
    cutting = threading.Thread(target=cut_in_the_middle)
    cutting.start()
    try:
        pair.give(*(f"{large if number % 5 == 0 else 'x'}\r\n{text}" for number, text in enumerate(texts)))
        wait_until(lambda: set(pair.texts()) == set(texts), "every message")
        wait_until(lambda: spooled(pair.hub) == [], "an empty spool")
    finally:
        stop.set()
        cutting.join()
    duplicates = sum(Counter(pair.texts()).values()) - len(texts)
    print(f"\ncut at {octets!r}: {duplicates} duplicates")
    assert duplicates <= 1
    assert pair.wire.calls >= 2


def test_a_hub_that_goes_down_ends_the_line_with_quit_and_is_called_again(pair: Pair) -> None:
    port = pair.hub.port
    assert pair.hub.stop(signal.SIGTERM) == 0
    assert pair.wire.heard["hub"].endswith(b"QUIT\r\n")
    pair.leaf.wait_for_log("the open line to hub has ended")
    pair.hub.file.write_text(pair.hub.file.read_text().replace("tcp:0:", f"tcp:{port}:"))
    pair.hub.start()
    wait_until(lambda: pair.is_open(2), "the line open again")
    pair.give("after")
    pair.wait_for("after")


def test_a_leaf_that_goes_down_leaves_its_mail_held(pair: Pair) -> None:
    began = time.monotonic()
    assert pair.leaf.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 10.0
    pair.hub.wait_for_log("the turned line of leaf ended")
    pair.give("meanwhile")
    assert spooled(pair.hub) == [("held", "leo@leaf.example")]
    pair.leaf.start()
    pair.wait_for("meanwhile")


def test_a_leaf_that_is_killed_leaves_its_mail_held(pair: Pair) -> None:
    pair.give("before")
    pair.wait_for("before")
    pair.leaf.kill()
    pair.hub.wait_for_log("the turned line of leaf ended")
    pair.give("meanwhile")
    pair.leaf.start()
    pair.wait_for("before", "meanwhile")
    wait_until(lambda: spooled(pair.hub) == [], "an empty spool")


def test_a_domain_that_a_peer_gets_while_its_line_is_open_is_its_from_then_on(pair: Pair) -> None:
    talk = pair.hub.talk()
    codes = talk.codes("HELO x", "MAIL FROM:<a@b.example>", "RCPT TO:<leo@late.example>", "QUIT")
    assert codes == [250, 250, 550, 221]
    text = pair.hub.file.read_text().replace('"branch.example"', '"branch.example", "late.example"', 1)
    pair.hub.file.write_text(text)
    text = pair.leaf.file.read_text().replace('"branch.example"', '"branch.example", "late.example"', 1)
    pair.leaf.file.write_text(text)
    for node in (pair.hub, pair.leaf):
        node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: pair.is_open(2), "the line open again")

    def is_taken() -> bool:
        talk = pair.hub.talk()
        codes = talk.codes("HELO x", "MAIL FROM:<a@b.example>", "RCPT TO:<leo@late.example>", "QUIT")
        talk.close()
        return codes == [250, 250, 250, 221]

    wait_until(is_taken, "the new domain")
    pair.give("late", recipient="leo@late.example")
    pair.wait_for("late")


# ----------------------------------------------------------------- one side does not know of it


def test_a_hub_without_xwait_turns_the_line_as_ever(
    make_node: Callable[..., Any], make_wire: Callable[[int], Wire]
) -> None:
    said: list[bytes] = []
    replies = {b"EHLO": b"250-hub\r\n250-AUTH PLAIN\r\n250 ATRN\r\n", b"AUTH": b"235 ok\r\n"}
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(PATIENCE)
    leaf = make_node(LEAF.replace("PORT", str(server.getsockname()[1])).replace("COMMAND", "ATRN"), "leaf")
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
    assert [line[:4] for line in said] == [b"EHLO", b"AUTH", b"ATRN"]
    leaf.wait_for_log("call to hub: 0 given, 0 received, line turned")


def test_a_peer_that_does_not_ask_for_it_gets_its_mail_and_a_quit(pair: Pair) -> None:
    pair.leaf.stop()
    pair.leaf.file.write_text(pair.leaf.file.read_text().replace('wait = "1s"', ""))
    pair.leaf.start()
    pair.give("one")
    *said, answer = pair.leaf.ask(do="dial", name="hub", trace=True)
    assert answer["turned"], answer
    assert not any("XWAIT" in text for _, text in (line["said"] for line in said) if text.startswith("XWAIT"))
    assert said[-1]["said"][1].startswith("221")
    pair.wait_for("one")
