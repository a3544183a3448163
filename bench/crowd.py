"""Whether slow and idle clients hold up others: greetings, resident set, cost of an idle connection.

    python bench/crowd.py [--idle N] [--slow N] [--tls] [--json]

A node of its own on loopback; `--tls` puts the idle clients under TLS. The slow ones send mail data octet
by octet, stop in the middle of a command, or ask and do not read the answers. Exit status 1 if a limit is
passed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

GREETED = 1.0  # seconds, at most
RESIDENT = 200 << 20  # octets
EACH = 20 << 10  # octets for an idle connection
NEWCOMERS = 50

NODE = """
hostname = "mit.example"
data = "{folder}/data"
[users]
names = ["jones"]
[limits]
connections = 10000
connections_per_host = 10000
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
{tls}
"""
TLS = """
[tls]
certificate = "{folder}/fullchain.pem"
key = "{folder}/privkey.pem"
"""
OPENING = b"EHLO client.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<jones@mit.example>\r\nDATA\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certify(folder: Path) -> None:
    """A certificate that lasts for the measurement."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mit.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mit.example")]), False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class Node:
    """A node in a process of its own."""

    def __init__(self, folder: Path, tls: bool) -> None:
        self.port = free_port()
        if tls:
            certify(folder)
        text = NODE.format(folder=folder, port=self.port, tls=TLS.format(folder=folder) if tls else "")
        (folder / "mailnode.toml").write_text(text)
        run = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        command = [*run, "-n", f"--pidfile={folder}/pid", "mailnode", "--config", f"{folder}/mailnode.toml"]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        deadline = time.monotonic() + 20
        while b"mailnode ready" not in self._log.read_bytes():
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"the node did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def resident(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def call(self) -> socket.socket:
        channel = socket.create_connection(("127.0.0.1", self.port), 30)
        greeting = channel.recv(1000)
        if not greeting.startswith(b"220 "):
            sys.exit(f"not greeted: {greeting!r}")
        return channel

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def node(tls: bool) -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="crowd") as folder:
        one = Node(Path(folder), tls)
        try:
            yield one
        finally:
            one.stop()


def secured(channel: socket.socket, context: ssl.SSLContext) -> socket.socket:
    for command in (b"EHLO client.example\r\n", b"STARTTLS\r\n"):
        channel.sendall(command)
        reply = channel.recv(4096)
        if reply[:1] != b"2":
            sys.exit(f"refused: {reply!r}")
    return context.wrap_socket(channel)


class Slow:
    """Clients that take their time, all in one thread. They never end by themselves."""

    def __init__(self, node: Node, count: int) -> None:
        self.channels = [node.call() for _ in range(count)]
        for number, channel in enumerate(self.channels):
            channel.setblocking(False)
            opening = (OPENING, b"EHLO client.exam", OPENING, b"HELP\r\n" * 150)[number % 4]
            with suppress(BlockingIOError):
                channel.send(opening)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def _drip(self) -> None:
        while not self._over.wait(0.05):
            for channel in self.channels[::2]:  # the others say nothing more at all
                with suppress(OSError):
                    channel.send(b"x")

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        for channel in self.channels:
            channel.close()


def newcomers(node: Node) -> list[float]:
    """Seconds until each of some new clients was greeted."""
    waits = []
    for _ in range(NEWCOMERS):
        began = time.perf_counter()
        channel = node.call()
        waits.append(time.perf_counter() - began)
        channel.close()
        time.sleep(0.02)
    return waits


def measure(idle: int, slow: int, tls: bool) -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with node(tls) as one:
        first = [secured(one.call(), context) if tls else one.call() for _ in range(20)]
        before = one.resident()  # what is loaded and kept by the first of them is nobody's cost
        idlers = [secured(one.call(), context) if tls else one.call() for _ in range(idle)]
        each = (one.resident() - before) / idle
        crawlers = Slow(one, slow)
        waits = newcomers(one)
        resident = one.resident()
        crawlers.end()
        for channel in (*idlers, *first):
            channel.close()
    return {
        "idle": idle,
        "slow": slow,
        "tls": tls,
        "greeted_median_ms": round(statistics.median(waits) * 1000, 2),
        "greeted_worst_ms": round(max(waits) * 1000, 2),
        "idle_each_kib": round(each / 1024, 2),
        "resident_mib": round(resident / (1 << 20), 1),
        "within": max(waits) < GREETED and resident < RESIDENT and (tls or each < EACH),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found = measure(options.idle, options.slow, options.tls)
    if options.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key:18} {value}")
    return 0 if found["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
