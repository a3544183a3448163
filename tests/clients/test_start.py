"""A node starts, takes a message for a mailbox, and ends."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones", "Brown"]
"""


def test_the_example_of_rfc_821_gives_its_very_codes_and_two_mailboxes(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    talk = node.talk()
    assert talk.greeting == ["220 mit.edu Simple Mail Transfer Service Ready"]
    codes = talk.codes(
        "HELO usc.edu",
        "MAIL FROM: <Smith@usc.edu>",
        "RCPT TO:<Jones@mit.edu>",
        "RCPT TO:<Green@mit.edu>",
        "RCPT TO:<Brown@mit.edu>",
        "DATA",
        "Blah blah blah...\r\n...etc. etc. etc.\r\n.",
        "QUIT",
    )
    assert codes == [250, 250, 250, 550, 250, 354, 250, 221]
    for user in ("Jones", "Brown"):
        (message,) = node.wait_for_mail(user)
        trace = f"Return-Path: <Smith@usc.edu>\nDelivered-To: {user}@mit.edu\n"
        assert message.startswith(f"{trace}Received: from usc.edu ([127.0.0.1])\n")
        assert message.endswith("\n\nBlah blah blah...\n..etc. etc. etc.\n")
    assert node.mailbox("Green") == []
    assert node.stop() == -15  # twistd ends by the signal that it was told to end by


def test_who_tells_a_node_twice_to_go_down_waits_for_nobody(make_node: Any) -> None:
    node = make_node("drain = 60\n" + HOUSE).start()
    talk = node.talk()
    assert talk.codes("HELO a", "MAIL FROM:<a@b.edu>", "RCPT TO:<Jones@mit.edu>", "DATA") == [
        250,
        250,
        250,
        354,
    ]
    node.process.send_signal(signal.SIGTERM)
    node.wait_for_log("going down")
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == -signal.SIGTERM
    assert "told again: going down at once" in node.text() and "mailnode stopped" in node.text()
    assert "Traceback" not in node.text()


@pytest.mark.parametrize("how", ["daemon", "-n", "-n with a log"])
def test_a_node_that_cannot_start_says_why_once_and_leaves_no_pid_file(
    tmp_path: Path, run: Any, how: str
) -> None:
    (tmp_path / "mailnode.toml").write_text(
        'data = "data"\n[[listen]]\nendpoint = "tcp:PORT:interface=127.0.0.1"\n'
    )
    options = {"daemon": ["--logfile=log"], "-n": ["-n"], "-n with a log": ["-n", "--logfile=log"]}[how]
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *options]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = tmp_path / "mailnode.toml"
        file.write_text(file.read_text().replace("PORT", str(taken.getsockname()[1])))
        done = run(*twistd, "mailnode", "--config", file, cwd=tmp_path)
    why = "listen[0].endpoint: cannot listen: "
    assert done.returncode == 1 and done.stderr.count(why) == 1 and why not in done.stdout
    assert "log" not in "".join(options) or (tmp_path / "log").read_text().count(why) == 1
    assert not (tmp_path / "twistd.pid").exists() and "Traceback" not in done.stdout + done.stderr
