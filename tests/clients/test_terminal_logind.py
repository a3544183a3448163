"""systemd-logind on a real bus: sessions of python-dbusmock's logind, and a real node that follows them."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.waiting import wait_until

ME = pwd.getpwuid(os.geteuid()).pw_name
NODE = f"""
hostname = "mit.example"
[users]
names = ["{ME}"]
[terminals]
utmp = "logind"
attached = false
"""
CONFIGURATION = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/><allow receive_sender="*"/><allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""
# What systemd does as people log in and out, said to the mock, which says nothing to others by itself.
ACT = """
import sys
import dbus

NAME, PATH, MOCK = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.DBus.Mock"
bus = dbus.SystemBus()

def mock(path):
    return dbus.Interface(bus.get_object(NAME, path), MOCK)

def tell(signal, name):
    mock(PATH).EmitSignal(NAME + ".Manager", signal, "so", [name, dbus.ObjectPath(PATH + "/session/" + name)])

act, name, uid, user, line = sys.argv[1:]
if act == "in":
    path = mock(PATH).AddSession(name, "seat0", dbus.UInt32(uid), user, True)
    tell("SessionNew", name)
    mock(path).UpdateProperties(NAME + ".Session", {"TTY": line})  # sshd knows it a moment later
elif act == "out":
    mock(PATH).RemoveObject(PATH + "/session/" + name)
    tell("SessionRemoved", name)
else:
    bus.get_object(NAME, PATH).ListSessions(dbus_interface=NAME + ".Manager")
"""


class Logind:
    """A bus, and on it the logind of python-dbusmock."""

    def __init__(self, folder: Path, daemon: str, python: str, start: Callable[..., Any]) -> None:
        self._folder = folder
        self._daemon = daemon
        self._python = python
        self._start = start
        self._processes: list[Any] = []
        self.socket = folder / "bus"
        self.environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.socket}"}
        (folder / "bus.conf").write_text(CONFIGURATION.format(socket=self.socket))

    def start(self) -> None:
        """Both; until logind answers."""
        self.socket.unlink(missing_ok=True)
        daemon = self._start(self._daemon, "--nofork", f"--config-file={self._folder}/bus.conf")
        wait_until(self.socket.exists, "the bus listens")
        words = ["-m", "dbusmock", "--template", "logind"]
        self._processes = [self._start(self._python, *words, env=self.environment), daemon]
        wait_until(lambda: self.act("list").returncode == 0, "logind answers")

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def act(self, what: str, name: str = "c1", line: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._python, "-c", ACT, what, name, str(os.geteuid()), ME, line],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )


@pytest.fixture
def logind(tmp_path: Path, need: Any, start_program: Any, monkeypatch: pytest.MonkeyPatch) -> Logind:
    """A logind that has been started, and is the system's for whatever the test starts."""
    python = shutil.which("python3", path="/usr/bin") or need("python3")
    if subprocess.run([python, "-c", "import dbusmock"], capture_output=True, check=False).returncode:
        message = "python3-dbusmock is not installed"
        if os.environ.get("MAILNODE_NO_SKIPS"):
            pytest.fail(message)
        pytest.skip(message)
    logind = Logind(tmp_path, need("dbus-daemon"), python, start_program)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", logind.environment["DBUS_SYSTEM_BUS_ADDRESS"])
    logind.start()
    return logind


def rcpt(node: Any) -> int:
    talk = node.talk()
    codes: list[int] = talk.codes("EHLO x", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{ME}@mit.example>")
    talk.close()
    return codes[-1]


def test_a_session_of_logind_is_a_terminal_while_it_lasts(
    logind: Logind, make_node: Any, terminal: Any
) -> None:
    node = make_node(NODE).start()
    assert rcpt(node) == 450
    line = terminal.device.removeprefix("/dev/")
    assert logind.act("in", "c1", line).returncode == 0
    wait_until(lambda: rcpt(node) == 250, "the node knows of the session")
    talk = node.talk()
    talk.codes("EHLO x", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{ME}@mit.example>", "DATA")
    assert talk.say("hello by logind\r\n.")[0].startswith("250")
    assert "hello by logind" in terminal.wait_for("EOF")
    terminal.accept(False)
    assert rcpt(node) == 450
    terminal.accept(True)
    assert logind.act("out", "c1").returncode == 0
    wait_until(lambda: rcpt(node) == 450, "the node knows that it ended")


def test_a_node_knows_who_was_there_before_it_and_survives_a_restart_of_the_bus(
    logind: Logind, make_node: Any, terminal: Any
) -> None:
    line = terminal.device.removeprefix("/dev/")
    logind.act("in", "c1", line)
    node = make_node(NODE).start()
    wait_until(lambda: rcpt(node) == 250, "the node knows of the session")
    logind.stop()
    node.wait_for_log("systemd-logind cannot be asked who is logged in: ")
    assert rcpt(node) == 450
    logind.start()
    logind.act("in", "c2", line)
    wait_until(lambda: rcpt(node) == 250, "the node follows it again")
    node.wait_for_log("systemd-logind says again who is logged in")
    node.stop()
    assert "Traceback" not in node.text()


def test_who_asks_logind_itself_where_no_node_is_running(
    logind: Logind, make_node: Any, terminal: Any, run: Any
) -> None:
    node = make_node(NODE)
    program = [sys.executable, "-c", "from mailnode.cli import main; main()", "--config", node.file]
    assert run(*program, "who").stdout == "Nobody is logged in.\n"
    line = terminal.device.removeprefix("/dev/")
    logind.act("in", "c1", line)
    (found,) = map(json.loads, run(*program, "who", "--json").stdout.splitlines())
    assert (found["user"], found["terminal"], found["kind"], found["accepting"]) == (ME, line, "logind", True)
    logind.stop()
    alone = run(*program, "who")
    assert alone.returncode == 0 and alone.stdout == "Nobody is logged in, as far as can be seen.\n"
    assert alone.stderr.startswith("mailnode: host terminals are not seen: systemd-logind does not answer: ")
