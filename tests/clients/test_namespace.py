"""A leaf behind NAT, in network namespaces of its own: nobody can call it, and its link comes and goes.

    hub 198.51.100.2 ---- 198.51.100.1 router 192.168.77.1 ---- 192.168.77.2 leaf

The router masquerades what the leaf sends and lets nothing in that is no answer to it. The hub has no
route to the leaf's network. The test speaks to both nodes by local sockets.
"""

from __future__ import annotations

import os
import shutil
import smtplib
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool

SECRET = "open sesame"
PATIENCE = 30.0
SIGN_OF_LIFE = 1.0  # seconds
NOTICED = 2 * SIGN_OF_LIFE
LATE = 2.0  # seconds that a busy machine may be

HUB = """
hostname = "hub.example"
[[listen]]
endpoint = "tcp:2525:interface=198.51.100.2"
[[listen]]
endpoint = "unix:SOCKET"
[users]
names = ["hubert"]
passwords = "passwords"
[routes]
"*" = "hold"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["auth"]
"""
LEAF = """
hostname = "leaf.example"
[[listen]]
endpoint = "tcp:2525:interface=127.0.0.1"
[[listen]]
endpoint = "unix:SOCKET"
[users]
names = ["leo"]
passwords = "passwords"
[routes]
"*" = "hold"
[[dial]]
name = "hub"
endpoint = "tcp:198.51.100.2:2525:timeout=2"
command = "ATRN"
user = "leaf"
wait = "1s"
every = "2s"
"""  # the back-off between calls grows up to `every`


def wait_until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain: {what}")
        time.sleep(0.005)


class Network:
    """Three namespaces: hub, router, leaf."""

    def __init__(self, ip: str, iptables: str) -> None:
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

    def slow_down(self, tc: str) -> None:
        """The way to the leaf takes a megabyte a second from now on."""
        words = "qdisc add dev to-leaf root tbf rate 8mbit burst 32k latency 200ms"
        self._run(tc, "-n", self.spaces["router"], *words.split())

    def close(self) -> None:
        for space in self.spaces.values():
            subprocess.run([self._ip, "netns", "delete", space], capture_output=True, check=False)

    def _run(self, *command: object) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([str(word) for word in command], capture_output=True, check=False, timeout=20)
        if done.returncode:
            raise OSError(f"{command}: {done.stderr.decode()}")
        return done


@pytest.fixture(scope="module")
def network(need: Callable[[str], str]) -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    ip, iptables = need("ip"), need("iptables")
    probe = subprocess.run([ip, "netns", "add", f"mailnode-{os.getpid()}"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no network namespaces here: {probe.stderr.decode().strip()}")
    subprocess.run([ip, "netns", "delete", f"mailnode-{os.getpid()}"], check=True)
    network = Network(ip, iptables)
    yield network
    network.close()


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mailnode"))  # short: a socket's name must fit into 108 octets
    yield folder
    shutil.rmtree(folder)


def make(
    make_shared_node: Callable[..., Any], network: Network, sockets: Path, name: str, config: str
) -> Any:
    node = make_shared_node(config.replace("SOCKET", str(sockets / name)), name)
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    passwords.set("leaf", SECRET, recoverable=True)
    node.launcher = network.inside(name)
    node.socket = sockets / name
    return node


@pytest.fixture(scope="module")
def hub(make_shared_node: Any, network: Network, sockets: Path) -> Any:
    return make(make_shared_node, network, sockets, "hub", HUB).start()


@pytest.fixture(scope="module")
def leaf(make_shared_node: Any, network: Network, sockets: Path, hub: Any) -> Any:
    return make(make_shared_node, network, sockets, "leaf", LEAF)


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


def wait_for_open_line(leaf: Any, after: int) -> None:
    leaf.wait_for_log("line open: ", PATIENCE, after)


def test_nobody_can_call_the_leaf(network: Network, leaf: Any) -> None:
    connect = "import socket; socket.create_connection(('192.168.77.2', 2525), 3)"
    with pytest.raises(OSError, match="unreachable"):
        network.run("hub", shutil.which("python3"), "-c", connect)


def test_one_connection_takes_a_hundred_messages_out_and_brings_a_hundred_in(
    network: Network, hub: Any, leaf: Any
) -> None:
    network.link("leaf", False)
    leaf.start()
    outgoing, incoming = ([f"{way} {number}" for number in range(100)] for way in ("out", "in"))
    give(leaf, "hubert@hub.example", *outgoing)
    give(hub, "leo@leaf.example", *incoming)
    assert spooled(leaf) == spooled(hub) == ["held"] * 100
    network.link("leaf", True)
    wait_for_open_line(leaf, 0)
    leaf.wait_for_log("call to hub: 100 given, 100 received, line open", PATIENCE)
    wait_until(lambda: texts(hub, "hubert") == Counter(outgoing), "the outgoing mail, each once")
    wait_until(lambda: texts(leaf, "leo") == Counter(incoming), "the incoming mail, each once")
    assert spooled(leaf) == spooled(hub) == []
    assert hub.text().count("leaf turned the line") == 1


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


@pytest.mark.parametrize("side", ["leaf", "hub"])
def test_a_link_that_goes_down_in_mid_message_loses_nothing(
    network: Network, hub: Any, leaf: Any, side: str, need: Callable[[str], str]
) -> None:
    """Where the side of the leaf goes down the router remembers the connection; where that of the hub does,
    it forgets it, as after a new dial-up, and no word of the hub ever reaches the leaf or comes back."""
    if side == "leaf":
        network.slow_down(need("tc"))
    before, after = texts(leaf, "leo"), len(leaf.text())
    drafts = leaf.data / "drafts"
    large = "\r\n".join(["x" * 72] * 40_000)  # some three seconds
    give(hub, "leo@leaf.example", f"{large}\r\nlarge by {side}")
    wait_until(lambda: sum(it.stat().st_size for it in drafts.iterdir()) > 200_000, "a part of the message")
    network.link(side, False)
    cut = time.monotonic()
    small = [f"meanwhile {number} by {side}" for number in range(5)]
    give(hub, "leo@leaf.example", *small)
    leaf.wait_for_log("the open line to hub has ended", PATIENCE, after)
    noticed = time.monotonic() - cut
    assert noticed < NOTICED + LATE
    network.link(side, True)
    back = time.monotonic()
    wait_for_open_line(leaf, after)
    expected = before + Counter([f"large by {side}", *small])
    wait_until(lambda: expected.keys() <= texts(leaf, "leo").keys(), "all that came meanwhile", 60)
    wait_until(lambda: spooled(hub) == [], "an empty spool")
    took = time.monotonic() - back
    duplicates = (texts(leaf, "leo") - expected).total()
    print(
        f"\nlink of the {side}: noticed in {noticed:.1f} s, {duplicates} duplicates, all there {took:.1f} s after"
    )
    assert duplicates <= 1
