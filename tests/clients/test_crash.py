"""A node that is killed in the middle of its work loses nothing that it has acknowledged.

The oracle: lost = acknowledged - delivered and unexpected = delivered - attempted are empty; what arrives
twice is counted, and must be something that was on its way to another host when a node died.

MAILNODE_CRASH_MESSAGES (300) is how many messages a campaign sends, MAILNODE_CRASH_SEED (821) what it
draws its moments from.
"""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.waiting import wait_until

MESSAGES = int(os.environ.get("MAILNODE_CRASH_MESSAGES", "300"))
SEED = int(os.environ.get("MAILNODE_CRASH_SEED", "821"))
SESSIONS = 6
ROUNDS = 4
PATIENCE = 30.0 + MESSAGES / 20  # seconds
BURST = 20  # messages that may be on their way between two hosts when one of them dies

NODE = """
hostname = "mit.example"
[users]
names = ["jones", "brown"]
[lists]
jones-list = ["jones"]
brown-list = ["brown"]
[retry]
first = "1s"
"""
RELAY = NODE + '[routes]\n"usc.example" = "tcp:127.0.0.1:PORT"\n'
NEXT = NODE.replace("mit", "usc") + '[[listen]]\nendpoint = "tcp:PORT:interface=127.0.0.1"\n'

_ID = re.compile(rb"^X-Id: (\S+) ([0-9]+) ([0-9]+)$", re.MULTILINE)


class Campaign:
    """Sessions that send messages with ids, each id once, and write down which ones were acknowledged.

    A session whose connection breaks goes on with a new one and new ids until `count` are acknowledged.
    `sizes` are octets to choose from. To lists they go by the spool, also where a mailbox would be quick.
    """

    def __init__(
        self,
        port: Callable[[], int],
        count: int,
        domain: str,
        sizes: tuple[int, ...],
        to_lists: bool = False,
    ) -> None:
        self._to = "-list" if to_lists else ""
        self.attempted: set[str] = set()
        self.acknowledged: set[str] = set()
        self._port = port
        self._count = count
        self._domain = domain
        self._sizes = sizes
        self._stop = False
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._session, args=(number,), daemon=True) for number in range(SESSIONS)
        ]

    def start(self) -> Campaign:
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.acknowledged) >= count, f"{count} acknowledged; seed {SEED}", PATIENCE)

    def finish(self) -> None:
        self.wait_for(self._count)
        self.stop()

    def stop(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(PATIENCE)

    def _session(self, number: int) -> None:
        draw = random.Random(SEED + number)
        serial = 0
        while not self._stop and len(self.acknowledged) < self._count:
            with (
                suppress(OSError),  # the node was killed: a new connection, when it is there again
                socket.create_connection(("127.0.0.1", self._port()), timeout=PATIENCE) as channel,
                channel.makefile("rb") as replies,
            ):
                self._expect(replies, b"220")
                self._say(channel, replies, b"HELO client.example", b"250")
                for _ in range(20):  # messages over one connection
                    serial += 1
                    self._send(channel, replies, f"s{number}.{serial}", draw)
                    if self._stop or len(self.acknowledged) >= self._count:
                        return
            time.sleep(0.02)

    def _send(self, channel: socket.socket, replies: Any, id: str, draw: random.Random) -> None:
        body = draw.randbytes(16).hex().encode() + b" and so on\r\n"
        body *= max(1, draw.choice(self._sizes) // len(body))
        user = draw.choice(("jones", "brown"))
        self._say(channel, replies, b"MAIL FROM:<smith@client.example>", b"250")
        self._say(channel, replies, f"RCPT TO:<{user}{self._to}@{self._domain}>".encode(), b"250")
        self._say(channel, replies, b"DATA", b"354")
        text = body.replace(b"\r\n", b"\n")
        header = f"X-Id: {id} {len(text)} {zlib.crc32(text)}\r\n\r\n".encode()
        with self._lock:
            self.attempted.add(id)
        channel.sendall(header + body + b".\r\n")
        self._expect(replies, b"250")
        with self._lock:
            self.acknowledged.add(id)

    def _say(self, channel: socket.socket, replies: Any, line: bytes, code: bytes) -> None:
        channel.sendall(line + b"\r\n")
        self._expect(replies, code)

    def _expect(self, replies: Any, code: bytes) -> None:
        line = replies.readline()
        if not line.startswith(code):
            raise ConnectionError(f"{line!r} instead of {code!r}")


def messages(node: Any) -> list[bytes]:
    """All that lies in the mailboxes of `node`."""
    folders = [node.data / "mail" / user / "new" for user in ("jones", "brown")]
    return [file.read_bytes() for folder in folders if folder.is_dir() for file in folder.iterdir()]


def delivered(node: Any) -> Counter[str]:
    """How often each id is in the mailboxes; every message must be whole."""
    ids: Counter[str] = Counter()
    for message in messages(node):
        match = _ID.search(message)
        assert match is not None, message[:500]
        text = message[message.index(b"\n\n") + 2 :]
        assert (len(text), zlib.crc32(text)) == (int(match[2]), int(match[3])), f"{match[1]!r} is not whole"
        ids[match[1].decode()] += 1
    return ids


def names_of(node: Any) -> int:
    """How many messages are in the mailboxes, without reading them."""
    folders = [node.data / "mail" / user / "new" for user in ("jones", "brown")]
    return sum(len(os.listdir(folder)) for folder in folders if folder.is_dir())


def judge(campaign: Campaign, node: Any, relayed: bool = False, kills: int = 0) -> None:
    """The oracle over the mailboxes of `node`. Only what is `relayed` may be there twice (RFC 1047): what
    the next host had taken when somebody was killed, before that was written down."""
    wait_until(
        lambda: names_of(node) >= len(campaign.acknowledged),
        f"all that was acknowledged; seed {SEED}",
        PATIENCE,
    )
    found: Counter[str] = Counter()

    def all_there() -> bool:
        nonlocal found
        found = delivered(node)
        return campaign.acknowledged <= set(found)

    deadline = time.monotonic() + PATIENCE
    while not all_there() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert campaign.acknowledged - set(found) == set(), f"lost; seed {SEED}"
    assert set(found) - campaign.attempted == set(), f"unexpected; seed {SEED}"
    duplicates = sum(times - 1 for times in found.values())
    allowed = min(kills * BURST, len(campaign.acknowledged) // 2) if relayed else 0
    assert duplicates <= allowed, f"{duplicates} duplicates; seed {SEED}"
    assert max(found.values()) <= 1 + kills, f"more copies than kills; seed {SEED}"


def kill_and_start(draw: random.Random, campaign: Campaign, count: int, *nodes: Any) -> int:
    """Kills one of `nodes` at random moments while the campaign runs; returns how often."""
    kills = 0
    moments = sorted(draw.sample(range(count // 20, count * 9 // 10), ROUNDS))
    for moment in moments:
        campaign.wait_for(moment)
        time.sleep(draw.random() * 0.01)  # not always just behind a reply
        node = draw.choice(nodes)
        for _ in range(draw.randint(1, 2)):  # the second time while it takes up what was left
            node.kill()
            node.start()
            kills += 1
    return kills


def nothing_queued(node: Any) -> bool:
    """Whether the node's spool has no message in it."""
    spool = SqliteSpool(str(node.data), None, time.time)
    try:
        found: list[Any] = []
        spool.listing(Selection(), 1).addCallback(found.extend)
        return not found
    finally:
        spool.close()


def nothing_left(node: Any) -> bool:
    """Whether the node's spool has neither a message nor the file of any body."""
    files = [file for folder in ("bodies", "drafts") for file in os.listdir(node.data / folder)]
    return not files and nothing_queued(node)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


# ----------------------------------------------------------------- campaigns


@pytest.mark.parametrize(
    ("count", "sizes", "to_lists"),
    [
        (MESSAGES, (300, 4096, 30_000), False),
        (MESSAGES, (300, 4096, 30_000), True),
        (MESSAGES // 8, (100 << 10, 300 << 10, 1000), False),
    ],
    ids=["small", "spooled", "large"],
)
def test_no_acknowledged_message_is_lost_or_doubled_by_kill_9(
    make_node: Any, count: int, sizes: tuple[int, ...], to_lists: bool
) -> None:
    node = make_node(NODE).start()
    campaign = Campaign(lambda: node.port, count, "mit.example", sizes, to_lists).start()
    try:
        kill_and_start(random.Random(SEED), campaign, count, node)
        campaign.finish()
    finally:
        campaign.stop()
    # a delivery that is repeated replaces itself: the name of its file is the same
    judge(campaign, node)
    wait_until(lambda: nothing_left(node), f"an empty spool; seed {SEED}", PATIENCE)


def test_no_acknowledged_message_is_lost_on_its_way_through_two_nodes(make_node: Any) -> None:
    port = str(free_port())
    usc = make_node(NEXT.replace("PORT", port), "usc").start()
    mit = make_node(RELAY.replace("PORT", port), "mit").start()
    campaign = Campaign(lambda: mit.port, MESSAGES // 2, "usc.example", (300, 4096, 100 << 10)).start()
    try:
        kills = kill_and_start(random.Random(SEED + 1), campaign, MESSAGES // 2, mit, usc)
        campaign.finish()
    finally:
        campaign.stop()
    judge(campaign, usc, relayed=True, kills=kills)
    wait_until(lambda: nothing_left(mit) and nothing_left(usc), f"empty spools; seed {SEED}", PATIENCE)


def test_no_acknowledged_message_is_lost_by_a_receiver_and_a_sender_apart(make_node: Any) -> None:
    receiver = make_node(NODE, plugin="mailnode-receiver").start()
    sender = make_node(NODE, plugin="mailnode-sender").start()
    campaign = Campaign(lambda: receiver.port, MESSAGES // 2, "mit.example", (300, 4096, 100 << 10)).start()
    try:
        kill_and_start(random.Random(SEED + 2), campaign, MESSAGES // 2, receiver, sender)
        campaign.finish()
    finally:
        campaign.stop()
    judge(campaign, sender)
    wait_until(lambda: nothing_left(sender), f"an empty spool; seed {SEED}", PATIENCE)


class Witness:
    """A TCP proxy before a node: counts the messages whose 250 came out of the node."""

    def __init__(self, port: Callable[[], int]) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.attempted = 0
        self.acknowledged = 0
        self._target = port
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self.server.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),  # the node is killed now and then
            socket.create_connection(("127.0.0.1", self._target()), timeout=PATIENCE) as node,
        ):
            threading.Thread(target=self._commands, args=(client, node), daemon=True).start()
            with suppress(OSError):
                self._replies(node, client)
            client.shutdown(socket.SHUT_RDWR)  # a close alone waits for the other thread

    def _commands(self, client: socket.socket, node: socket.socket) -> None:
        with suppress(OSError):
            while octets := client.recv(65536):
                node.sendall(octets)

    def _replies(self, node: socket.socket, client: socket.socket) -> None:
        """smtp-source says one command at a time, so that every line here is a reply of its own."""
        in_data = False
        with node.makefile("rb") as replies:
            while line := replies.readline():
                if line.endswith(b"\n"):
                    with self._lock:
                        self.attempted += line.startswith(b"354")
                        self.acknowledged += in_data and line.startswith(b"250")
                    in_data = line.startswith(b"354")
                client.sendall(line)

    def close(self) -> None:
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


def test_what_smtp_source_was_told_is_safe_is_in_the_mailbox(make_node: Any, need: Any) -> None:
    node = make_node(NODE).start()
    program = need("smtp-source")
    draw = random.Random(SEED + 3)
    batch = MESSAGES // ROUNDS
    with closing(Witness(lambda: node.port)) as witness:
        for _ in range(ROUNDS):
            arguments = ["-m", str(batch), "-s", "5", "-l", "4096", "-t", "jones@mit.example"]
            source = subprocess.Popen(
                [program, *arguments, f"127.0.0.1:{witness.port}"], stderr=subprocess.DEVNULL
            )
            moment = witness.acknowledged + draw.randrange(batch // 10, batch // 2)
            try:
                wait_for_count(witness, moment)
                node.kill()
                source.wait(PATIENCE)  # it gives up when its connections are cut
            finally:
                source.kill()
                source.wait()
            node.start()
        assert witness.acknowledged >= ROUNDS * (batch // 10)
        wait_until(
            lambda: names_of(node) >= witness.acknowledged,
            f"all that was acknowledged; seed {SEED}",
            PATIENCE,
        )
        wait_until(lambda: nothing_queued(node), f"an empty spool; seed {SEED}", PATIENCE)
        assert witness.acknowledged <= names_of(node) <= witness.attempted, f"seed {SEED}"


def wait_for_count(witness: Witness, count: int) -> None:
    wait_until(lambda: witness.acknowledged >= count, f"{count} acknowledged; seed {SEED}", PATIENCE)
