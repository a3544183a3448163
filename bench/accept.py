"""How many messages a second are accepted durably and lie in the Maildir, beside the machine's own Postfix.

Run as root (Postfix wants it): `python bench/accept.py [--messages N] [--rounds R]`. Both servers are
fresh for each round, take turns, listen on loopback only, deliver 4 KiB messages to Maildirs on the same
file system, and are fed by Postfix's smtp-source: 20 sessions, one connection for many messages.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SESSIONS = 20
SIZE = 4096  # octets

NODE = """
hostname = "mit.example"
data = "{folder}/data"
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[users]
names = ["jones"]
"""

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/lib
myhostname = mit.example
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
virtual_mailbox_domains = mit.example
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:jones/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
"""

MASTER_CF = """
127.0.0.1:{port} inet n - n - 100 smtpd
cleanup   unix n - n - 0   cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n - -   trivial-rewrite
bounce    unix - - n - 0   bounce
defer     unix - - n - 0   bounce
trace     unix - - n - 0   bounce
verify    unix - - n - 1   verify
virtual   unix - n n - -   virtual
error     unix - - n - -   error
retry     unix - - n - -   error
proxymap  unix - - n - -   proxymap
anvil     unix - - n - 1   anvil
scache    unix - - n - 1   scache
tlsmgr    unix - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"the server did not start:\n{log.read_text() if log.exists() else ''}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def mailnode(folder: Path, port: int) -> Iterator[Path]:
    """A node; gives the folder in which messages arrive."""
    (folder / "mailnode.toml").write_text(NODE.format(folder=folder, port=port))
    run = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command = [*run, "-n", f"--pidfile={folder}/pid", "mailnode", "--config", f"{folder}/mailnode.toml"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for_port(port, process, folder / "log")
        yield folder / "data/mail/jones/new"
    finally:
        stop(process)


@contextmanager
def postfix(folder: Path, port: int) -> Iterator[Path]:
    """A Postfix of its own; gives the folder in which messages arrive."""
    owner = pwd.getpwnam("nobody")
    config = folder / "etc"
    for name in ("etc", "queue", "lib", "mail"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    shutil.chown(folder / "lib", "postfix")
    os.chown(folder / "mail", owner.pw_uid, owner.pw_gid)
    values = {"folder": folder, "port": port, "uid": owner.pw_uid, "gid": owner.pw_gid}
    (config / "main.cf").write_text(MAIN_CF.format(**values))
    (config / "master.cf").write_text(MASTER_CF.format(**values))
    subprocess.run(["postfix", "-c", config, "check"], check=True, capture_output=True)
    daemon = subprocess.run(
        ["postconf", "-c", config, "-h", "daemon_directory"], check=True, capture_output=True
    )
    master = Path(daemon.stdout.decode().strip(), "master")
    process = subprocess.Popen(
        [master, "-c", config, "-d"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, process, folder / "log")
        yield folder / "mail/jones/new"
    finally:
        stop(process)


SERVERS = {"mailnode": mailnode, "postfix": postfix}


def one_round(name: str, messages: int, root: Path) -> tuple[float, float]:
    """(accepted a second, in the Maildir a second)."""
    folder = Path(tempfile.mkdtemp(prefix=name, dir=root))  # fresh: deleted files nearby slow ext4 down
    port = free_port()
    command = [
        *["smtp-source", "-d", "-s", str(SESSIONS), "-m", str(messages), "-l", str(SIZE)],
        *["-f", "smith@usc.example", "-t", "jones@mit.example", f"127.0.0.1:{port}"],
    ]
    with SERVERS[name](folder, port) as new:
        began = time.monotonic()
        subprocess.run(command, check=True, timeout=300)
        accepted = time.monotonic() - began
        while (count := len(os.listdir(new)) if new.is_dir() else 0) < messages:
            if time.monotonic() - began > 300:
                sys.exit(f"{name}: only {count} of {messages} messages arrived")
            time.sleep(0.02)
        delivered = time.monotonic() - began
    return messages / accepted, messages / delivered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=sorted(SERVERS))
    options = parser.parse_args()
    names = [options.only] if options.only else list(SERVERS)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="mailnode-bench", ignore_cleanup_errors=True) as root:
        Path(root).chmod(0o755)
        for number in range(options.rounds):
            for name in names:
                figures[name].append(one_round(name, options.messages, Path(root)))
                accepted, delivered = figures[name][-1]
                print(
                    f"round {number + 1}  {name:9} accepted {accepted:6.0f}/s   "
                    f"in the Maildir {delivered:6.0f}/s",
                    flush=True,
                )
    medians = {name: statistics.median(delivered for _, delivered in rows) for name, rows in figures.items()}
    for name, median in medians.items():
        print(f"median   {name:9} in the Maildir {median:6.0f}/s")
    if len(medians) == 2:
        print(f"mailnode / postfix: {medians['mailnode'] / medians['postfix']:.2f}")


if __name__ == "__main__":
    main()
