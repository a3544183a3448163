"""How long a message takes from the end of its data to a terminal: `python bench/terminal.py`.

A node of its own on loopback, a client that gives it one SEND after another on one connection, and a
pseudo-terminal on which the recipient is logged in. The clock starts before the client writes the last
line of the data, and stops when all of the message has come out at the terminal's other end; with
`--terminals` at the other ends of all of them. Needs no rights. A node shows one person a thousand messages
a minute at most: hence the largest number of them.
"""

from __future__ import annotations

import argparse
import os
import pwd
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GOAL = 0.002  # seconds, the median for one terminal
NODE = """
hostname = "mit.example"
data = "{folder}/data"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[users]
names = ["{user}"]
[terminals]
utmp = "{folder}/utmp"
rate = 1000
rate_all = 1000
"""
RECORD = struct.Struct("hi32s4s32s256shhiii4i20x")  # utmp(5)
END = b"EOF\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def node(folder: Path, user: str) -> Iterator[int]:
    """A node for `user`; gives its port."""
    port = free_port()
    (folder / "mailnode.toml").write_text(NODE.format(folder=folder, port=port, user=user))
    run = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command = [*run, "-n", f"--pidfile={folder}/pid", "mailnode", "--config", f"{folder}/mailnode.toml"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        deadline = time.monotonic() + 20
        while "mailnode ready" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the node did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def terminals(folder: Path, user: str, count: int) -> Iterator[list[int]]:
    """Pseudo-terminals on which `user` is logged in; gives the ends at which the screens would be."""
    pairs = [os.openpty() for _ in range(count)]
    records = []
    for master, slave in pairs:
        tty.setraw(slave)
        os.set_blocking(master, False)
        os.fchmod(slave, 0o620)
        line = os.ttyname(slave).removeprefix("/dev/").encode()
        records.append(RECORD.pack(7, 1, line, line[-4:], user.encode(), b"", 0, 0, 0, 0, 0, 0, 0, 0, 0))
    (folder / "utmp").write_bytes(b"".join(records))
    try:
        yield [master for master, _ in pairs]
    finally:
        for pair in pairs:
            for end in pair:
                os.close(end)


class Client:
    """One connection; every reply is of one line."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self.socket.makefile("rb")
        self.expect(b"220")

    def expect(self, code: bytes) -> None:
        line = self._stream.readline()
        if not line.startswith(code):
            sys.exit(f"the node says: {line!r}")

    def say(self, command: str, code: bytes) -> None:
        self.socket.sendall(command.encode() + b"\r\n")
        self.expect(code)


def wait_for_end(screens: list[int]) -> None:
    """Reads until each screen has got a whole message."""
    poll = select.poll()
    shown = dict.fromkeys(screens, b"")
    for screen in screens:
        poll.register(screen, select.POLLIN)
    while shown:
        ready = poll.poll(10_000)
        if not ready:
            sys.exit("a message did not come to the terminal")
        for screen, _ in ready:
            shown[screen] += os.read(screen, 65536)
            if shown[screen].endswith(END):
                poll.unregister(screen)
                del shown[screen]


def measure(client: Client, user: str, screens: list[int], count: int, text: bytes) -> list[float]:
    """Seconds from the end of the data to the screens, of `count` messages."""
    taken = []
    for _ in range(count):
        client.say("SEND FROM:<smith@usc.example>", b"250")
        client.say(f"RCPT TO:<{user}@mit.example>", b"250")
        client.say("DATA", b"354")
        began = time.perf_counter()
        client.socket.sendall(text + b".\r\n")
        wait_for_end(screens)
        taken.append(time.perf_counter() - began)
        client.expect(b"250")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=400, choices=range(1, 451), metavar="1-450")
    parser.add_argument("--terminals", type=int, default=1)
    options = parser.parse_args()
    user = pwd.getpwuid(os.geteuid()).pw_name
    texts = {
        "one line": b"Lunch is here.\r\n",
        "24 lines of UTF-8": "Grüße aus der Küche, 漢字 und 😀.\r\n".encode() * 24,
    }
    missed = False
    with tempfile.TemporaryDirectory(prefix="mailnode-bench") as name:
        folder = Path(name)
        with terminals(folder, user, options.terminals) as screens, node(folder, user) as port:
            client = Client(port)
            client.say("HELO usc.example", b"250")
            measure(client, user, screens, 50, b"warm\r\n")
            for what, text in texts.items():
                taken = sorted(measure(client, user, screens, options.messages, text))
                median, late = statistics.median(taken), taken[int(len(taken) * 0.99)]
                missed |= options.terminals == 1 and median > GOAL
                print(
                    f"{what:18} to {options.terminals} terminal{'s' * (options.terminals > 1)}: "
                    f"median {median * 1e3:.2f} ms, 99% under {late * 1e3:.2f} ms, {len(taken)} messages",
                    flush=True,
                )
    if options.terminals == 1:
        print(f"goal: median under {GOAL * 1e3:.0f} ms; {'missed' if missed else 'reached'}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
