"""A leaf behind NAT, in network namespaces of its own: nobody can call it, and its link comes and goes.

    hub 198.51.100.2 ---- 198.51.100.1 router 192.168.77.1 ---- 192.168.77.2 leaf

The router masquerades what the leaf sends and lets nothing in that is no answer to it. The hub has no
route to the leaf's network. The test speaks to both nodes by local sockets.
"""

from __future__ import annotations

import os
import shutil
import signal
import smtplib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.waiting import wait_until

PATIENCE = 30.0
SIGN_OF_LIFE = 1.0  # seconds
NOTICED = 2 * SIGN_OF_LIFE
LATE = 1.5  # seconds that a busy machine may be

HUB = """
hostname = "hub.example"
[[listen]]
endpoint = "tcp:2525:interface=198.51.100.2"
[[listen]]
endpoint = "unix:SOCKET"
[users]
names = ["hubert"]
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
"""
LEAF = """
hostname = "leaf.example"
[[listen]]
endpoint = "tcp:2525:interface=127.0.0.1"
[[listen]]
endpoint = "unix:SOCKET"
[users]
names = ["leo"]
[routes]
"*" = "hold"
"""
MAILNODE = (sys.executable, "-c", "from mailnode.cli import main; main()")


class Network:
    """Three namespaces: hub, router, leaf."""

    def __init__(self, ip: str, iptables: str, tc: str) -> None:
        self._ip = ip
        names = ("hub", "router", "leaf")
        self.spaces = {name: f"mailnode-{os.getpid()}-{name}" for name in names}
        for space in self.spaces.values():
            self._run(ip, "netns", "add", space)
            self._run(ip, "-n", space, "link", "set", "lo", "up")
        for name, near, far in (
            ("hub", "198.51.100.2", "198.51.100.1"),
            ("leaf", "192.168.77.2", "192.168.77.1"),
        ):
            self._join(name, near, far)
        self._run(ip, "-n", self.spaces["leaf"], "route", "add", "default", "via", "192.168.77.1")
        self.run("router", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        # A large message takes some seconds, so that a link can go down in the middle of it.
        shaping = "qdisc add dev to-leaf root tbf rate 8mbit burst 32k latency 200ms"
        self._run(tc, "-n", self.spaces["router"], *shaping.split())
        for rule in (
            "-t nat -A POSTROUTING -o to-hub -j MASQUERADE",
            "-P FORWARD DROP",
            "-A FORWARD -i to-leaf -o to-hub -j ACCEPT",
            "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-P INPUT DROP",
        ):
            self.run("router", iptables, *rule.split())

    def _join(self, name: str, near: str, far: str) -> None:
        space, router = self.spaces[name], self.spaces["router"]
        words = ["link", "add", "eth0", "netns", space, "type", "veth", "peer", f"to-{name}", "netns", router]
        self._run(self._ip, *words)
        for where, device, address in ((space, "eth0", near), (router, f"to-{name}", far)):
            self._run(self._ip, "-n", where, "address", "add", f"{address}/24", "dev", device)
            self._run(self._ip, "-n", where, "link", "set", device, "up")

    def inside(self, name: str, *command: object) -> list[object]:
        """`command` as it is run in a namespace."""
        return [self._ip, "netns", "exec", self.spaces[name], *command]

    def run(self, name: str, *command: object) -> subprocess.CompletedProcess[bytes]:
        return self._run(*self.inside(name, *command))

    def link(self, side: str, up: bool) -> None:
        """The router's link to the hub or to the leaf."""
        self._run(self._ip, "-n", self.spaces["router"], "link", "set", f"to-{side}", "up" if up else "down")

    def close(self) -> None:
        for space in self.spaces.values():
            subprocess.run([self._ip, "netns", "delete", space], capture_output=True, check=False)

    def _run(self, *command: object) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([str(word) for word in command], capture_output=True, check=False, timeout=20)
        if done.returncode:
            raise OSError(f"{command}: {done.stderr.decode()}")
        return done


# They follow one another on one pair of nodes.
pytestmark = pytest.mark.xdist_group("namespace")


@pytest.fixture(scope="module")
def network(need: Callable[[str], str]) -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    ip, iptables, tc = need("ip"), need("iptables"), need("tc")
    probe = subprocess.run([ip, "netns", "add", f"mailnode-{os.getpid()}"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no network namespaces here: {probe.stderr.decode().strip()}")
    subprocess.run([ip, "netns", "delete", f"mailnode-{os.getpid()}"], check=True)
    network = Network(ip, iptables, tc)
    yield network
    network.close()


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mailnode"))  # short: a socket's name must fit into 108 octets
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(make_shared_node: Any, network: Network, sockets: Path, authority: Any) -> Any:
    node = make_shared_node(HUB.replace("SOCKET", str(sockets / "hub")), "hub")
    authority.issue("hub.example", into=node.folder)
    node.launcher, node.socket = network.inside("hub"), sockets / "hub"
    return node.start()


@pytest.fixture(scope="module")
def leaf(make_shared_node: Any, network: Network, sockets: Path) -> Any:
    node = make_shared_node(LEAF.replace("SOCKET", str(sockets / "leaf")), "leaf")
    node.launcher, node.socket = network.inside("leaf"), sockets / "leaf"
    return node.start()


class Local(smtplib.SMTP):
    """A client of a node by its local socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("", local_hostname="localhost")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.file = None
        assert self.getreply()[0] == 220


def give(node: Any, recipient: str, *texts: str) -> list[float]:
    """Messages for `recipient`, one after another; when each was acknowledged."""
    times = []
    with Local(node.socket) as smtp:
        for text in texts:
            refused = smtp.sendmail("smith@usc.example", recipient, f"Subject: x\r\n\r\n{text}\r\n")
            assert refused == {}
            times.append(time.monotonic())
    return times


def texts(node: Any, user: str) -> Counter[str]:
    """The last lines of the messages in a mailbox, and how often each is there."""
    return Counter(message.splitlines()[-1] for message in node.mailbox(user))


def spooled(node: Any) -> list[str]:
    """The state of every recipient in the spool of `node`."""
    spool = SqliteSpool(str(node.data), None, time.time)
    try:
        found: list[Any] = []
        spool.listing(Selection()).addCallback(found.extend)
        return [it.state for message in found for it in message.recipients]
    finally:
        spool.close()


def tell(node: Any, *words: object) -> str:
    """A command that the operator of a node gives there, and what it prints."""
    arguments = [*node.launcher, *MAILNODE, "--config", node.file, *words]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for_open_line(leaf: Any, after: int) -> None:
    leaf.wait_for_log("line open: ", PATIENCE, after)


def test_nobody_can_call_the_leaf(network: Network, hub: Any, leaf: Any) -> None:
    connect = "import socket; socket.create_connection(('192.168.77.2', 2525), 3)"
    with pytest.raises(OSError, match="unreachable"):
        network.run("hub", shutil.which("python3"), "-c", connect)


class Paired(NamedTuple):
    """What the leaf printed as it joined, the mail both ways before, and what was spooled then."""

    said: str
    outgoing: list[str]
    incoming: list[str]
    held: list[list[str]]


@pytest.fixture(scope="module")
def paired(hub: Any, leaf: Any) -> Paired:
    """The leaf joins when a hundred messages wait on either side."""
    outgoing, incoming = ([f"{way} {number}" for number in range(100)] for way in ("out", "in"))
    token = tell(hub, "invite", "leaf", "--domain", "leaf.example", "--endpoint", "198.51.100.2:2525").strip()
    give(leaf, "hubert@hub.example", *outgoing)
    give(hub, "leo@leaf.example", *incoming)
    held = [spooled(leaf), spooled(hub)]
    said = tell(leaf, "join", token)
    wait_for_open_line(leaf, 0)
    wait_until(lambda: texts(leaf, "leo").total() >= 100, "the incoming mail")
    return Paired(said, outgoing, incoming, held)


def test_paired_one_connection_takes_a_hundred_messages_out_and_brings_a_hundred_in(
    hub: Any, leaf: Any, paired: Paired
) -> None:
    assert paired.held == [["held"] * 100] * 2
    assert "100 messages" in paired.said and "XWAIT" in paired.said
    leaf.wait_for_log("call to hub.example: 100 given, 100 received, line open", PATIENCE)
    wait_until(lambda: texts(hub, "hubert") == Counter(paired.outgoing), "the outgoing mail, each once")
    wait_until(lambda: texts(leaf, "leo") == Counter(paired.incoming), "the incoming mail, each once")
    assert spooled(leaf) == spooled(hub) == []
    assert hub.text().count("leaf turned the line") == 1


@pytest.mark.usefixtures("paired")
def test_the_open_line_brings_a_message_at_once(hub: Any, leaf: Any) -> None:
    new = leaf.data / "mail" / "leo" / "new"
    took = []
    before = len(os.listdir(new))
    for number in range(40):
        (acknowledged,) = give(hub, "leo@leaf.example", f"at once {number}")
        while len(os.listdir(new)) <= before + number:
            assert time.monotonic() < acknowledged + PATIENCE, "it did not come"
            time.sleep(0.0005)
        took.append(time.monotonic() - acknowledged)
    median = statistics.median(took)
    print(f"\nthrough NAT: median {median * 1000:.1f} ms, the worst {max(took) * 1000:.1f} ms")
    assert median < 0.1
    assert hub.text().count("leaf turned the line") == 1


@pytest.fixture(scope="module")
def lively(hub: Any, leaf: Any, paired: Paired) -> None:
    """The paired leaf asks for the shortest signs of life, and does not wait long before it calls again."""
    (file,) = (leaf.data / "dials").glob("*.toml")
    text = file.read_text()
    assert 'wait = "30s"' in text
    file.write_text(text.replace('wait = "30s"', 'wait = "1s"\nevery = "2s"'))
    after = len(leaf.text())
    leaf.process.send_signal(signal.SIGHUP)
    wait_for_open_line(leaf, after)


@pytest.mark.parametrize("side", ["leaf", "hub"])
@pytest.mark.usefixtures("lively")
def test_a_link_that_goes_down_in_mid_message_loses_nothing(
    network: Network, hub: Any, leaf: Any, side: str
) -> None:
    """Where the side of the leaf goes down the router remembers the connection; where that of the hub does,
    it forgets it, as after a new dial-up: no word of the hub ever reaches the leaf again or comes back."""
    before, after, at_hub = texts(leaf, "leo"), len(leaf.text()), len(hub.text())
    drafts = leaf.data / "drafts"
    large = "\r\n".join(["x" * 72] * 40_000)  # some three seconds
    give(hub, "leo@leaf.example", f"{large}\r\nlarge by {side}")
    wait_until(lambda: sum(it.stat().st_size for it in drafts.iterdir()) > 200_000, "a part of the message")
    network.link(side, False)
    cut = time.monotonic()
    small = [f"meanwhile {number} by {side}" for number in range(5)]
    give(hub, "leo@leaf.example", *small)
    leaf.wait_for_log("the open line to hub.example has ended", PATIENCE, after)
    noticed = time.monotonic() - cut
    network.link(side, True)
    back = time.monotonic()
    wait_for_open_line(leaf, after)
    expected = before + Counter([f"large by {side}", *small])
    wait_until(lambda: expected.keys() <= texts(leaf, "leo").keys(), "all that came meanwhile")
    wait_until(lambda: spooled(hub) == [], "an empty spool")
    took = time.monotonic() - back
    twice = (texts(leaf, "leo") - expected).total()
    print(f"\nthe {side}'s link: noticed in {noticed:.1f} s, all there {took:.1f} s after, {twice} twice")
    assert noticed < NOTICED + LATE
    assert "the turned line of leaf ended: broken" in hub.text()[at_hub:]
    assert twice == 0  # docs/xonce.md
