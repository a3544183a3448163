"""The Sender against Postfix: its smtp-sink, and a whole Postfix with a queue of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HEADER = b"Subject: a body\r\n\r\n"


def house(port: int) -> str:
    return f"""
hostname = "mit.edu"
[users]
names = ["Jones"]
[routes]
"usc.edu" = "tcp:127.0.0.1:{port}"
[retry]
first = "1s"
"""


def submit(node: Any, *bodies: bytes, to: tuple[str, ...] = ("green@usc.edu",)) -> None:
    with smtplib.SMTP("127.0.0.1", node.port, local_hostname="host.mit.edu", timeout=20) as client:
        for body in bodies:
            assert client.sendmail("Jones@mit.edu", to, body) == {}


# -------------------------------------------------------------------- smtp-sink


@pytest.fixture
def sink(
    need: Any, start_program: Any, free_port: Callable[[], int], wait_for_port: Any, tmp_path: Path
) -> Callable[..., tuple[int, Path]]:
    """Starts smtp-sink with options; gives its port and the folder in which it leaves what it was told."""

    def start(*options: str) -> tuple[int, Path]:
        port, folder = free_port(), tmp_path / "sink"
        folder.mkdir()
        root = ("-u", "root") if os.geteuid() == 0 else ()  # it will not run as root without being told
        start_program(
            need("smtp-sink"), *root, *options, "-d", f"{folder}/message.", f"127.0.0.1:{port}", 100
        )
        wait_for_port(port)
        return port, folder

    return start


def taken_by_sink(folder: Path) -> list[bytes]:
    """The transactions so far: smtp-sink's own X- fields, then what it received."""
    return [file.read_bytes() for file in sorted(folder.iterdir())]


def test_smtp_sink_is_told_the_right_paths_of_a_hundred_messages(make_node: Any, sink: Any) -> None:
    port, folder = sink()
    node = make_node(house(port)).start()
    submit(node, *[HEADER + b".%03d\r\n" % number for number in range(100)])
    node.wait_for_empty_spool()
    taken = taken_by_sink(folder)
    assert sorted(dump.rstrip(b"\n")[-4:] for dump in taken) == [b".%03d" % number for number in range(100)]
    assert all(b"X-Mail-Args: <Jones@mit.edu>" in dump for dump in taken)
    assert all(b"X-Rcpt-Args: <green@usc.edu>" in dump for dump in taken)
    assert all(b"X-Helo-Args: mit.edu" in dump for dump in taken)


def test_a_host_that_knows_only_helo_is_served(make_node: Any, sink: Any) -> None:
    port, folder = sink("-e")
    node = make_node(house(port)).start()
    submit(node, HEADER + b"one\r\n", HEADER + b"two\r\n")
    node.wait_for_empty_spool()
    taken = taken_by_sink(folder)
    assert len(taken) == 2
    assert all(b"X-Client-Proto: SMTP\n" in dump for dump in taken)
    assert node.mailbox("Jones") == []


def test_eight_bit_text_for_a_host_that_does_not_take_it_comes_back(make_node: Any, sink: Any) -> None:
    port, folder = sink("-8")
    node = make_node(house(port)).start()
    submit(node, HEADER + b"\xe9\r\n", HEADER + b"e\r\n")
    (notice,) = node.wait_for_mail("Jones")
    assert "Status: 5.6.3\n" in notice
    node.wait_for_empty_spool()
    assert len(taken_by_sink(folder)) == 1


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
def test_whatever_is_refused_for_good_comes_back_once(make_node: Any, sink: Any, command: str) -> None:
    port, _ = sink("-f", command)
    node = make_node(house(port)).start()
    submit(node, HEADER + b"refused\r\n")
    (notice,) = node.wait_for_mail("Jones")
    assert "Final-Recipient: rfc822; green@usc.edu\nAction: failed\nStatus: 5.3.0\n" in notice
    node.wait_for_empty_spool()
    assert len(node.mailbox("Jones")) == 1


@pytest.mark.parametrize(
    "option, command", [("-r", "RCPT"), ("-r", "."), ("-q", "DATA"), ("-Q", "MAIL"), ("-r", "CONNECT")]
)
def test_whatever_is_refused_for_now_stays_in_the_spool_and_is_tried_again(
    make_node: Any, sink: Any, option: str, command: str
) -> None:
    port, _ = sink(option, command)
    node = make_node(house(port)).start()
    submit(node, HEADER + b"later\r\n")
    node.wait_until(
        lambda: node.rows("SELECT 1 FROM recipient WHERE attempts >= 2"), "two attempts", seconds=20
    )
    assert node.rows("SELECT local, state FROM recipient") in ([("green", "queued")], [("green", "leased")])
    assert node.mailbox("Jones") == []


# ------------------------------------------------------------------ a whole Postfix

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {daemons}
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = postfix.usc.edu
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
relay_transport = error:no relay from here
default_transport = error:no mail leaves this host
virtual_mailbox_domains = usc.edu
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ {{ green@usc.edu = green/ }} {{ brown@usc.edu = brown/ }} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
local_header_rewrite_clients =
bounce_queue_lifetime = 0
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A Postfix on a port of its own, with configuration, queue and mail store in one folder."""

    def __init__(self, folder: Path, port: int, daemons: Path) -> None:
        self.folder = folder
        self.port = port
        owner = pwd.getpwnam("nobody")
        values = {
            "folder": folder,
            "port": port,
            "uid": owner.pw_uid,
            "gid": owner.pw_gid,
            "daemons": daemons,
        }
        folder.chmod(0o755)  # its daemons are other users
        for name in ("config", "queue", "data", "mail"):
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        shutil.chown(folder / "mail", owner.pw_uid, owner.pw_gid)
        (folder / "config" / "main.cf").write_text(MAIN.format(**values))
        (folder / "config" / "master.cf").write_text(MASTER.format(**values))

    def mailbox(self, user: str) -> list[bytes]:
        """Bodies and header of the messages of `user`, without what Postfix and our node put on top."""
        new = self.folder / "mail" / user / "new"
        files = sorted(new.iterdir(), key=lambda file: file.stat().st_mtime_ns) if new.is_dir() else []
        return [file.read_bytes().partition(b"\nSubject: ")[2] for file in files]

    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""


@pytest.fixture(scope="module")
def postfix(need: Any, run: Any, free_port: Any, wait_for_port: Any) -> Iterator[Postfix]:
    """Starts a Postfix; only root can, for its daemons change their user."""
    need("postfix")
    if os.geteuid() != 0:
        pytest.skip("only root can start a Postfix")
    daemons = next(
        folder
        for folder in map(Path, ("/usr/lib/postfix/sbin", "/usr/libexec/postfix", "/usr/lib/postfix"))
        if (folder / "master").exists()
    )
    folder = Path(tempfile.mkdtemp(prefix="mailnode-postfix-", dir="/tmp"))
    postfix = Postfix(folder, free_port(), daemons)
    config = str(folder / "config")
    try:
        run(need("postfix"), "-c", config, "check")  # makes the folders of the queue
        # Not by `postfix start-fg`: its master leaves our process group and would outlive us. This one is
        # our child, takes its own children with it, and ends by itself if nobody is left to end it.
        with (folder / "start").open("wb") as output:
            master = subprocess.Popen(
                [str(daemons / "master"), "-c", config, "-d", "-e", "600"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            try:
                wait_for_port(postfix.port)
            except pytest.fail.Exception:
                pytest.fail(f"Postfix did not start: {(folder / 'start').read_text()} {postfix.log()}")
            yield postfix
        finally:
            master.terminate()
            master.wait(15)
    finally:
        shutil.rmtree(folder)


BODIES = [
    b"plain\r\n",
    b".\r\n..\r\n.begins with a dot\r\n\r\n.\r\n",
    "8-bit: \xe9\xff\r\n".encode("latin-1"),
    b"".join(b".%07d\r\n" % number for number in range(20_000)),
    b"".join(b"%s\r\n" % (b"." * (number % 70)) for number in range(5_000)),
]


def test_a_real_postfix_gets_every_body_octet_for_octet(make_node: Any, postfix: Postfix) -> None:
    node = make_node(house(postfix.port)).start()
    for number, body in enumerate(BODIES):
        submit(node, b"Subject: %d\r\n\r\n" % number + body)
    node.wait_until(lambda: len(postfix.mailbox("green")) >= len(BODIES), "all messages")
    node.wait_for_empty_spool()
    expected = [b"%d\n\n" % number + body.replace(b"\r\n", b"\n") for number, body in enumerate(BODIES)]
    assert sorted(postfix.mailbox("green")) == sorted(expected)
    assert node.mailbox("Jones") == []


def test_a_real_postfix_takes_many_messages_over_few_connections(make_node: Any, postfix: Postfix) -> None:
    node = make_node(house(postfix.port)).start()
    before = postfix.log().count(": connect from")
    submit(node, *[b"Subject: many\r\n\r\n%d\r\n" % number for number in range(50)], to=("brown@usc.edu",))
    node.wait_until(lambda: len(postfix.mailbox("brown")) >= 50, "all messages")
    node.wait_for_empty_spool()
    assert sorted(postfix.mailbox("brown")) == sorted(b"many\n\n%d\n" % number for number in range(50))
    assert postfix.log().count(": connect from") - before < 50


def test_a_real_postfix_refuses_an_unknown_user_and_the_sender_is_told(
    make_node: Any, postfix: Postfix
) -> None:
    node = make_node(house(postfix.port)).start()
    submit(node, HEADER + b"to nobody\r\n", to=("white@usc.edu",))
    (notice,) = node.wait_for_mail("Jones")
    assert notice.startswith("Return-Path: <>\n")
    assert "Final-Recipient: rfc822; white@usc.edu\nAction: failed\nStatus: 5.1.1\n" in notice
    diagnostic = "Diagnostic-Code: smtp; 550 5.1.1 <white@usc.edu>: Recipient address rejected:"
    assert diagnostic in notice.replace("\n ", " ")
    node.wait_for_empty_spool()
