"""How long a message takes from the end of its data to a terminal, and what attached terminals cost.

    python bench/terminal.py [--messages N] [--terminals N]
    python bench/terminal.py --attached N [--json]

A node of its own on loopback, a client that gives it one SEND after another on one connection, and a
pseudo-terminal on which the recipient is logged in. The clock starts before the client writes the last
line of the data, and stops when all of the message has come out at the terminal's other end; with
`--terminals` at the other ends of all of them. Needs no rights. A node shows one person a thousand messages
a minute at most: hence the largest number of them.

With `--attached` as many users of a host attach a terminal each, as `mailnode terminal` does, and each is
shown a message; measured is how much the resident set of the node grows. Only root can be so many users: the
node runs in a mount namespace with a passwd(5) that has them, and each connection is made as its user.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import resource
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

GOAL = 0.002  # seconds, the median for one terminal
EACH = 50_000  # octets at most for an attached terminal: 50 MB for a thousand of them
UID = 1_000_000  # of the first user who attaches one; nobody real
NODE = """
hostname = "mit.example"
data = "{folder}/data"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[users]
names = {users}
[terminals]
utmp = "{folder}/utmp"
socket = "{folder}/terminals.sock"
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
def node(folder: Path, users: list[str], launcher: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """A node for `users`, started by `launcher`; gives its port and its process."""
    port = free_port()
    (folder / "mailnode.toml").write_text(NODE.format(folder=folder, port=port, users=json.dumps(users)))
    run = [*launcher, sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
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
        yield port, process.pid
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


def resident(pid: int) -> int:
    """The resident set of a process, octets."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def attach(folder: Path, uid: int) -> socket.socket:
    """A terminal of the user `uid`, as `mailnode terminal` attaches one."""
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(20)
    os.seteuid(uid)  # whoever connects is whom the node sees
    try:
        channel.connect(str(folder / "terminals.sock"))
    finally:
        os.seteuid(0)
    channel.sendall(b'{"mailnode": "terminal", "version": 1, "columns": 80, "charset": "utf-8"}\n')
    return channel


def measure_attached(folder: Path, count: int) -> dict[str, float]:
    """Attaches a terminal for each of `count` users and shows each a message; what the node grew by."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    users = [f"user{number}" for number in range(count)]
    rows = [f"{user}:x:{UID + number}:{UID}::{folder}/none:/bin/sh\n" for number, user in enumerate(users)]
    (folder / "passwd").write_text("root:x:0:0::/root:/bin/sh\n" + "".join(rows))
    (folder / "utmp").write_bytes(b"")
    folder.chmod(0o755)  # they all have to reach the socket
    bind = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'
    launcher = ["unshare", "--mount", "sh", "-c", bind, "sh", f"{folder}/passwd"]
    with ExitStack() as ends, node(folder, users, launcher) as (port, pid):
        client = Client(port)
        client.say("HELO usc.example", b"250")
        before = resident(pid)
        streams = []
        for number in range(count):
            channel = ends.enter_context(attach(folder, UID + number))
            streams.append((channel, channel.makefile("rb")))
        names = [json.loads(stream.readline()).get("attached") for _, stream in streams]
        if names != users:
            sys.exit(f"not everybody is attached: {names[:5]} ...")
        attached = resident(pid)
        for user, (channel, stream) in zip(users, streams, strict=True):
            client.say("SEND FROM:<smith@usc.example>", b"250")
            client.say(f"RCPT TO:<{user}@mit.example>", b"250")
            client.say("DATA", b"354")
            client.socket.sendall(b"Lunch is here.\r\n.\r\n")
            text = json.loads(stream.readline())
            if "Lunch is here." not in text["text"]:
                sys.exit(f"{user} is shown: {text}")
            channel.sendall(json.dumps({"shown": text["show"]}).encode() + b"\n")
            client.expect(b"250")
        return {
            "terminals": count,
            "attached_mb": round((attached - before) / 1e6, 1),
            "shown_mb": round((resident(pid) - before) / 1e6, 1),
            "each_kb": round((resident(pid) - before) / 1e3 / count, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=400, choices=range(1, 451), metavar="1-450")
    parser.add_argument("--terminals", type=int, default=1)
    parser.add_argument("--attached", type=int, choices=range(1, 3001), metavar="1-3000")
    parser.add_argument("--json", action="store_true", help="of what attached terminals cost")
    options = parser.parse_args()
    if options.attached:
        report_attached(options.attached, options.json)
    user = pwd.getpwuid(os.geteuid()).pw_name
    texts = {
        "one line": b"Lunch is here.\r\n",
        "24 lines of UTF-8": "Grüße aus der Küche, 漢字 und 😀.\r\n".encode() * 24,
    }
    missed = False
    with tempfile.TemporaryDirectory(prefix="mailnode-bench") as name:
        folder = Path(name)
        with terminals(folder, user, options.terminals) as screens, node(folder, [user]) as (port, _):
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


def report_attached(count: int, as_json: bool) -> None:
    """Measures, says what was found, and ends."""
    if os.geteuid():
        sys.exit("only root can be so many users")
    with tempfile.TemporaryDirectory(prefix="mailnode-bench") as name:
        found = measure_attached(Path(name), count)
    missed = found["each_kb"] * 1e3 > EACH
    if as_json:
        print(json.dumps({**found, "within": not missed}))
    else:
        print(
            f"{count} attached terminals of {count} users: {found['attached_mb']} MB, "
            f"{found['shown_mb']} MB after a message to each, {found['each_kb']} KB for one"
        )
        print(f"goal: 50 MB for 1,000; {'missed' if missed else 'reached'}")
    sys.exit(missed)


if __name__ == "__main__":
    main()
