"""How fast held mail reaches a host that fetches it: mailnode's turned line beside Postfix's ETRN flush.

Run as root (Postfix wants it): `python bench/turn.py [--messages N] [--rounds R] [--only NAME]`. Each round
has two fresh servers of one kind, both on loopback and on one file system. A hub takes N messages of 4 KiB
from Postfix's smtp-source and keeps them, for the leaf does not take them yet; nobody counts that. Then:

- mailnode: the leaf calls, says TURN, and gets everything over that one connection;
- postfix: somebody says ETRN, and the hub connects to the leaf as it likes to (up to 20 at once). Its mail
  is kept by `defer_transports`, as its manual advises for hosts that are not always there, so that no time
  is lost with attempts in vain.

The clock starts before the call or the ETRN. "Taken" is when the hub's spool or queue is empty: the leaf has
acknowledged every message, which both do once it is safe on disk. "In the Maildir" is when the leaf, which
delivers at the same time, is through.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from accept import MASTER_CF, SESSIONS, SIZE, free_port, stop, wait_for_port

PATIENCE = 600.0  # seconds for a round
PROFILES = {"hub": "hub.raw", "leaf": "leaf.raw"}  # what py-spy writes: stacks, a line each

HUB = """
hostname = "hub.example"
data = "{folder}/data"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[users]
names = ["hubert"]
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["address"]
addresses = ["127.0.0.0/8"]
"""
LEAF = """
hostname = "leaf.example"
data = "{folder}/data"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[users]
names = ["jones"]
[[dial]]
name = "hub"
endpoint = "tcp:127.0.0.1:{hub}"
outbound = false
tls = "none"
"""

# In common: what bench/accept.py gives Postfix, but for the users, which only the leaf has.
MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/lib
myhostname = {name}
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
"""
HUB_CF = """
relay_domains = leaf.example
relay_transport = relay:[127.0.0.1]:{leaf}
fast_flush_domains = leaf.example
defer_transports = relay
"""
LEAF_CF = """
virtual_mailbox_domains = leaf.example
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:jones/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
"""
HUB_MASTER_CF = """
relay     unix - - n - -   smtp
flush     unix n - n 1000? 0 flush
"""


@dataclass
class Round:
    """A hub that keeps mail, and a leaf."""

    flush: Callable[[], None]  # sets it going
    kept: Callable[[], int]  # messages that the hub has put by
    waiting: Callable[[], int]  # all messages that it has
    mailbox: Path  # where they appear at the leaf
    port: int  # of the hub
    pids: dict[str, int]


def count(folder: Path) -> int:
    return len(os.listdir(folder)) if folder.is_dir() else 0


# ----------------------------------------------------------------- mailnode


@contextmanager
def node(folder: Path, port: int, config: str, **values: object) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir()
    (folder / "mailnode.toml").write_text(config.format(folder=folder, port=port, **values))
    run = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command = [*run, "-n", f"--pidfile={folder}/pid", "mailnode", "--config", f"{folder}/mailnode.toml"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for_port(port, process, folder / "log")
        yield process
    finally:
        stop(process)


def ask(folder: Path, **request: object) -> dict[str, object]:
    """A request to the control socket of a node, and the answer."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(PATIENCE)
        channel.connect(str(folder / "data" / "control.sock"))
        with channel.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            return dict(json.loads(stream.readline()))


@contextmanager
def mailnode(folder: Path) -> Iterator[Round]:
    hub, leaf = free_port(), free_port()
    database = f"file:{folder}/hub/data/spool.sqlite?mode=ro"

    def recipients(state: str = "") -> int:
        where = f"WHERE state = '{state}'" if state else ""
        with closing(sqlite3.connect(database, uri=True, timeout=10)) as spool:
            return int(spool.execute(f"SELECT count(*) FROM recipient {where}").fetchone()[0])

    def call() -> None:
        answer = ask(folder / "leaf", do="dial", name="hub")
        if not answer.get("turned"):
            sys.exit(f"the line was not turned: {answer}")

    with (
        node(folder / "hub", hub, HUB) as hub_process,
        node(folder / "leaf", leaf, LEAF, hub=hub) as leaf_process,
    ):
        pids = {"hub": hub_process.pid, "leaf": leaf_process.pid}
        yield Round(
            call, lambda: recipients("held"), recipients, folder / "leaf/data/mail/jones/new", hub, pids
        )


# ----------------------------------------------------------------- Postfix


@contextmanager
def postfix(folder: Path) -> Iterator[Round]:
    hub, leaf = free_port(), free_port()
    owner = pwd.getpwnam("nobody")
    queue = folder / "hub/queue"

    def files(*folders: str) -> int:
        return sum(len(files) for name in folders for _, _, files in os.walk(queue / name))

    def waiting() -> int:
        return files("maildrop", "incoming", "active", "deferred")

    def etrn() -> None:
        with socket.create_connection(("127.0.0.1", hub), 30) as channel, channel.makefile("rwb") as stream:
            stream.readline()
            for line in (b"EHLO leaf.example", b"ETRN leaf.example", b"QUIT"):
                stream.write(line + b"\r\n")
                stream.flush()
                while (reply := stream.readline())[3:4] == b"-":
                    pass
                if reply[:1] != b"2":
                    sys.exit(f"{line!r} was answered {reply!r}")

    values = {"uid": owner.pw_uid, "gid": owner.pw_gid, "leaf": leaf}
    with (
        instance(folder / "hub", hub, "hub.example", HUB_CF, HUB_MASTER_CF, values),
        instance(folder / "leaf", leaf, "leaf.example", LEAF_CF, "", values),
    ):
        yield Round(etrn, lambda: files("deferred"), waiting, folder / "leaf/mail/jones/new", hub, {})


@contextmanager
def instance(
    folder: Path, port: int, name: str, main: str, master: str, values: dict[str, int]
) -> Iterator[None]:
    """A Postfix of its own."""
    config = folder / "etc"
    for part in ("", "etc", "queue", "lib", "mail"):
        (folder / part).mkdir()
    folder.chmod(0o755)
    shutil.chown(folder / "lib", "postfix")
    os.chown(folder / "mail", values["uid"], values["gid"])
    values = {"folder": folder, "port": port, "name": name, **values}  # type: ignore[dict-item]
    (config / "main.cf").write_text((MAIN_CF + main).format(**values))
    (config / "master.cf").write_text((MASTER_CF + master).format(**values))
    subprocess.run(["postfix", "-c", config, "check"], check=True, capture_output=True)
    where = subprocess.run(
        ["postconf", "-c", config, "-h", "daemon_directory"], check=True, capture_output=True
    )
    process = subprocess.Popen(
        [Path(where.stdout.decode().strip(), "master"), "-c", config, "-d"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(port, process, folder / "log")
        yield
    finally:
        stop(process)


# ----------------------------------------------------------------- a round

SERVERS = {"mailnode": mailnode, "postfix": postfix}


def wait_for(true: Callable[[], bool], what: str) -> float:
    """Looks until `true`, and gives the time."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain: {what}")
        time.sleep(0.02)
    return time.monotonic()


def one_round(name: str, messages: int, root: Path, profile: Path | None) -> tuple[float, float]:
    """(taken by the leaf a second, in its Maildir a second)."""
    folder = Path(tempfile.mkdtemp(prefix=name, dir=root))  # fresh: deleted files nearby slow ext4 down
    folder.chmod(0o755)
    with SERVERS[name](folder) as pair, ExitStack() as spies:
        command = ["smtp-source", "-d", "-s", str(SESSIONS), "-m", str(messages), "-l", str(SIZE)]
        paths = ["-f", "smith@usc.example", "-t", "jones@leaf.example"]
        subprocess.run([*command, *paths, f"127.0.0.1:{pair.port}"], check=True, timeout=PATIENCE)
        wait_for(lambda: pair.kept() == messages, "the hub keeps all messages")
        os.sync()
        if count(pair.mailbox):
            sys.exit("the hub has not kept its mail")
        if profile is not None:
            spies.enter_context(spy(pair.pids, profile))
        computed = {who: cpu_time(pid) for who, pid in pair.pids.items()}
        began = time.monotonic()
        pair.flush()
        taken = wait_for(lambda: pair.waiting() == 0, "the hub has given all messages") - began
        delivered = wait_for(lambda: count(pair.mailbox) >= messages, "all are in the Maildir") - began
        for who, pid in pair.pids.items():
            cost = (cpu_time(pid) - computed[who]) / messages
            print(f"         {name:9} {who} computes {cost * 1000:.2f} ms a message", flush=True)
    return messages / taken, messages / delivered


def cpu_time(pid: int) -> float:
    """Seconds that a process and its children have computed."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = sum(map(int, words[11:13])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_time(int(child)) for child in children)


@contextmanager
def spy(pids: dict[str, int], folder: Path) -> Iterator[None]:
    """py-spy on every process of a round; its samples are stacks that flamegraph.pl and speedscope read."""
    folder.mkdir(exist_ok=True)
    beside = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    program = shutil.which("py-spy", path=beside) or sys.exit("py-spy is not installed")
    spies = [
        subprocess.Popen(
            [
                *[program, "record", "--pid", str(pid), "--format", "raw", "--rate", "200"],
                *["--duration", "600", "--gil", "--output", str(folder / PROFILES[name])],
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, pid in pids.items()
    ]
    time.sleep(2)
    try:
        yield
    finally:
        for process in spies:
            process.send_signal(2)  # it writes what it has
            process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(SERVERS))
    parser.add_argument("--profile", type=Path, help="a folder for what py-spy finds in both nodes")
    options = parser.parse_args()
    names = [options.only] if options.only else list(SERVERS)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="mailnode-bench", ignore_cleanup_errors=True) as root:
        Path(root).chmod(0o755)
        for number in range(options.rounds):
            for name in names:
                figures[name].append(one_round(name, options.messages, Path(root), options.profile))
                taken, delivered = figures[name][-1]
                print(
                    f"round {number + 1}  {name:9} taken {taken:6.0f}/s   in the Maildir {delivered:6.0f}/s",
                    flush=True,
                )
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in figures.items()
    }
    for name, (taken, delivered) in medians.items():
        print(f"median   {name:9} taken {taken:6.0f}/s   in the Maildir {delivered:6.0f}/s")
    if len(medians) == 2:
        ratios = [ours / theirs for ours, theirs in zip(*medians.values(), strict=True)]
        print(f"mailnode / postfix: taken {ratios[0]:.2f}   in the Maildir {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
