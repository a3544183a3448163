"""A node that is started as root: it binds, becomes somebody else, and needs nothing but its data folder."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import mailnode

ROOT = Path(mailnode.__file__).parents[1]
NODE = """
hostname = "mit.example"
[users]
names = ["jones"]
system = true
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
"""


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may look into; the ones of pytest are its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="mailnode-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def python() -> tuple[str, dict[str, str]]:
    """An interpreter that nobody may run, and its environment: the one of the tests may be in root's home."""
    ours = [path for path in sys.path if path.endswith("site-packages")] + [str(ROOT)]
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    for program, environment in ((sys.executable, {}), (system, {"PYTHONPATH": ":".join(ours)})):
        command = [program, "-c", "import mailnode.node"]
        with suppress(OSError):  # it is not there, or not for nobody
            done = subprocess.run(
                command, user="nobody", cwd="/", env=environment, capture_output=True, check=False
            )
            if done.returncode == 0:
                return program, environment
    pytest.skip("there is no Python that an ordinary user can run")


@pytest.fixture
def node(
    public: Path, make_node: Callable[..., Any], authority: Any, python: tuple[str, dict[str, str]]
) -> Any:
    """A node, not started yet, that is to become nobody; its data folder is not there."""
    node = make_node(NODE)
    node.python, node.environment = python
    text = node.file.read_text().replace(str(node.data), str(public / "var" / "data"))
    node.folder, node.data = public, public / "var" / "data"
    node.file = public / "mailnode.toml"
    node.file.write_text(text)
    authority.issue("mit.example", into=public)
    (public / "privkey.pem").chmod(0o600)  # root's, as certificates are kept
    node.options = ["--uid=nobody", f"--gid={grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name}"]
    return node


def identity(pid: int) -> tuple[set[int], set[int]]:
    """All user and group ids of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    users = {int(word) for word in fields["Uid"].split()}
    return users, {int(word) for word in (fields["Gid"] + fields["Groups"]).split()}


def processes(node: Any) -> list[int]:
    """The node and what it has started."""
    children = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text()
    return [node.process.pid, *map(int, children.split())]


def give(node: Any, user: str, octets: bytes = b"") -> None:
    talk = node.talk()
    codes = talk.codes("EHLO me", "MAIL FROM:<>", f"RCPT TO:<{user}@mit.example>", "DATA")
    assert codes == [250, 250, 250, 354]
    talk.raw(b"Subject: x\r\n\r\n" + octets + b".\r\n")
    assert talk.reply()[0].startswith("250")
    node.wait_for_mail(user)


def test_it_binds_as_root_and_works_as_nobody_in_a_folder_of_its_own(node: Any) -> None:
    with socket.socket() as probe:
        port = next(port for port in range(1023, 0, -1) if probe.connect_ex(("127.0.0.1", port)) != 0)
    node.file.write_text(node.file.read_text().replace("tcp:0", f"tcp:{port}"))
    node.start()
    assert node.port == port < 1024
    give(node, "jones", b"hello\r\n" * 20000)
    give(node, "root")  # a login name, whose mailbox cannot be given to it any more
    nobody = pwd.getpwnam("nobody")
    for pid in processes(node):
        users, groups = identity(pid)
        assert users == {nobody.pw_uid}
        assert 0 not in groups
    assert stat.S_IMODE(node.data.stat().st_mode) == 0o700
    for path in node.data.rglob("*"):
        with suppress(FileNotFoundError):  # the spool goes on tidying up
            status = path.lstat()
            assert status.st_uid == nobody.pw_uid, path
            for_all = stat.S_ISSOCK(status.st_mode) and path.name == "terminals.sock"
            assert for_all or not stat.S_IMODE(status.st_mode) & 0o077, path
    assert stat.S_IMODE((node.data / "control.sock").stat().st_mode) == 0o600
    after = len(node.text())
    node.file.write_text(node.file.read_text().replace('["jones"]', '["jones", "brown"]'))
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log("configuration reread", after=after)
    assert "privkey.pem: Permission denied" in node.text()[after:]  # and the one that root has read serves
    assert "250-STARTTLS" in node.talk().say("EHLO me")
    give(node, "brown")


def test_an_empty_folder_of_roots_is_handed_over_and_serves_the_next_start_too(node: Any) -> None:
    node.data.mkdir(parents=True)
    node.start()
    assert node.data.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    node.stop()
    node.start()
    assert node.status()["hostname"] == "mit.example"


def test_a_folder_with_roots_files_is_not_touched_and_said_to_be_in_the_way(node: Any, run: Any) -> None:
    node.data.mkdir(parents=True, mode=0o700)
    (node.data / "precious").write_text("root's")
    with pytest.raises(AssertionError, match=r"data: .*Permission denied"):
        node.start()
    assert "Traceback" not in node.text()
    assert node.data.stat().st_uid == (node.data / "precious").stat().st_uid == 0


def test_a_link_in_the_place_of_the_folder_gives_nothing_away(node: Any, public: Path) -> None:
    target = public / "target"
    target.mkdir(mode=0o700)
    node.data.parent.mkdir()
    node.data.symlink_to(target)
    with pytest.raises(AssertionError, match="data: "):
        node.start()
    assert target.stat().st_uid == 0


def test_without_a_group_it_is_the_users_own(node: Any) -> None:
    node.options = ["--uid=nobody"]
    node.start()
    _, groups = identity(node.process.pid)
    assert groups == {node.data.stat().st_gid} == {pwd.getpwnam("nobody").pw_gid}


def test_in_the_group_tty_it_writes_to_terminals_that_let_it(node: Any, public: Path, terminal: Any) -> None:
    os.chown(terminal.device, -1, grp.getgrnam("tty").gr_gid)  # as login(1) and sshd(8) leave it
    terminal.log_in()
    shutil.copy(terminal.utmp, public / "utmp")
    node.file.write_text(f'{node.file.read_text()}[terminals]\nutmp = "{public}/utmp"\n')
    node.options = ["--uid=nobody", "--gid=tty"]
    node.start()
    users, groups = identity(node.process.pid)
    assert 0 not in users | groups
    opening = ("EHLO me", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{terminal.user}@mit.example>", "DATA")
    talk = node.talk()
    assert talk.codes(*opening, "Lunch?\r\n.") == [250, 250, 250, 354, 250]
    assert "Lunch?\r\nEOF" in terminal.shown()
    terminal.accept(False)  # mesg n
    assert talk.codes(*opening[1:3]) == [250, 450]
    talk.say("RSET")
    terminal.accept(True)
    os.chown(terminal.device, -1, 65534)  # of another group
    assert talk.codes(*opening[1:3]) == [250, 450]


def test_who_keeps_the_group_root_is_told(node: Any) -> None:
    node.options = ["--uid=nobody", "--gid=root"]
    node.start()
    assert "is still in the group root" in node.text()
