"""The short way on a real node: past the spool where the mailbox answers, by the spool where it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mailnode.delivery.short_way import PATIENCE
from tests.clients.waiting import gone, wait_until

NODE = """
hostname = "mit.example"
[users]
names = ["jones", "brown"]
"""


MAILNODE = [sys.executable, "-c", "from mailnode.cli import main; main()"]


def writer(node: Any) -> int:
    """The process that writes the mailboxes of `node`, when it is ready; that is before the first message."""
    found: list[int] = []

    def look() -> bool:
        for tasks in Path(f"/proc/{node.process.pid}/task").iterdir():
            for pid in map(int, (tasks / "children").read_text().split()):
                if b"maildir_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return bool(found)

    wait_until(look, "the process that writes mailboxes")
    wait_until(lambda: os.sched_getscheduler(found[0]) == os.SCHED_BATCH, "its readiness")
    return found[0]


def send(talk: Any, *users: str, text: str = "At noon?") -> str:
    """Sends a message; gives the reply to the end of its data."""
    codes = talk.codes(
        "MAIL FROM:<smith@usc.example>", *(f"RCPT TO:<{user}@mit.example>" for user in users), "DATA"
    )
    assert codes == [250] * (1 + len(users)) + [354]
    reply: list[str] = talk.say(f"Subject: lunch\r\n\r\n{text}\r\n.")
    return reply[0]


@pytest.fixture
def node(make_node: Any) -> Any:
    return make_node(NODE).start()


def test_a_message_for_one_mailbox_lies_there_when_its_sender_is_told_so(node: Any) -> None:
    talk = node.talk()
    assert talk.codes("HELO usc.example") == [250]
    assert send(talk, "jones") == "250 OK"
    (message,) = node.mailbox("jones")  # no waiting
    assert message.startswith("Return-Path: <smith@usc.example>\nDelivered-To: jones@mit.example\nReceived: ")
    assert message.endswith("Subject: lunch\n\nAt noon?\n")
    assert node.rows("SELECT count(*) FROM message") == [(0,)]
    node.wait_for_log("octets, at once")
    assert " taken: " not in node.text()


def test_a_mailbox_that_does_not_answer_keeps_no_sender_waiting_and_gets_the_message_once(node: Any) -> None:
    pid = writer(node)
    os.kill(pid, signal.SIGSTOP)
    try:
        talk = node.talk()
        assert talk.codes("EHLO usc.example") == [250]
        began = time.monotonic()
        assert send(talk, "jones", text="first").startswith("250 ")
        assert PATIENCE <= time.monotonic() - began < 10
        assert node.rows("SELECT state, local FROM recipient") == [("leased", "jones")]
        began = time.monotonic()
        assert send(talk, "jones", text="second").startswith("250 ")  # nobody waits for it now
        assert time.monotonic() - began < PATIENCE
        assert not node.mailbox("jones")
    finally:
        os.kill(pid, signal.SIGCONT)
    node.wait_for_empty_spool()
    assert [message.splitlines()[-1] for message in node.mailbox("jones")] == ["first", "second"]
    assert send(talk, "jones", text="third").startswith("250 ")
    node.wait_for_mail("jones", 3)


def test_a_node_that_is_killed_while_a_delivery_is_late_delivers_it_when_it_is_there_again(node: Any) -> None:
    pid = writer(node)
    os.kill(pid, signal.SIGSTOP)
    talk = node.talk()
    assert talk.codes("HELO usc.example") == [250]
    assert send(talk, "jones") == "250 OK"
    node.kill()
    assert gone(pid)
    assert not node.mailbox("jones")
    node.start()
    node.wait_for_empty_spool()
    assert len(node.mailbox("jones")) == 1


def test_a_sender_does_not_hear_of_it_when_the_process_that_writes_mailboxes_is_killed(node: Any) -> None:
    os.kill(writer(node), signal.SIGKILL)
    talk = node.talk()
    assert talk.codes("HELO usc.example") == [250]
    assert send(talk, "jones") == "250 OK"
    assert len(node.wait_for_mail("jones")) == 1
    node.wait_for_empty_spool()
    node.stop()
    assert len(node.mailbox("jones")) == 1


def test_a_mailbox_that_cannot_be_written_leaves_the_message_in_the_queue(node: Any, run: Any) -> None:
    talk = node.talk()
    assert talk.codes("HELO usc.example") == [250]
    assert send(talk, "jones") == "250 OK"
    box = node.data / "mail" / "brown"
    box.write_text("this is no folder")
    assert send(talk, "brown") == "250 OK"
    query = "SELECT attempts, reply FROM recipient WHERE state = 'queued'"
    node.wait_until(lambda: node.rows(query), "the next attempt")
    ((attempts, reply),) = node.rows(query)
    assert attempts == 1 and "Not a directory" in reply
    box.unlink()
    run(*MAILNODE, "--config", node.file, "queue", "retry", "--all")
    assert len(node.wait_for_mail("brown")) == 1
    node.wait_for_empty_spool()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_under_load_every_message_arrives_once_whatever_happens_to_the_writer(
    node: Any, need: Any, blow: signal.Signals
) -> None:
    command = [
        *[need("smtp-source"), "-s", "20", "-m", "2000", "-l", "4096", "-M", "usc.example", "-d"],
        *["-f", "smith@usc.example", "-t", "jones@mit.example", f"127.0.0.1:{node.port}"],
    ]
    pid, box = writer(node), node.data / "mail/jones/new"
    with subprocess.Popen(command) as source:
        wait_until(lambda: box.is_dir() and len(os.listdir(box)) >= 500, "500 messages")
        os.kill(pid, blow)
        if blow is signal.SIGSTOP:
            time.sleep(3 * PATIENCE)
            os.kill(pid, signal.SIGCONT)
        assert source.wait(60) == 0
    node.wait_for_mail("jones", 2000)
    node.wait_for_empty_spool()
    assert len(node.mailbox("jones")) == 2000


@pytest.mark.parametrize(
    ("after", "who"),
    [
        ('names = ["jones", "brown"]', {"jones"}),
        ('names = ["brown"]\n[forward]\njones = "brown@mit.example"', {"brown"}),
        ('names = ["jones", "brown"]\n[aliases]\njones = ["jones", "brown"]', {"jones", "brown"}),
    ],
    ids=["the same", "a forward", "a copy"],
)
def test_a_message_that_was_begun_before_a_reread_goes_where_the_new_configuration_says(
    node: Any, after: str, who: set[str]
) -> None:
    talk = node.talk()
    opening = ("HELO usc.example", "MAIL FROM:<smith@usc.example>", "RCPT TO:<jones@mit.example>", "DATA")
    assert talk.codes(*opening) == [250, 250, 250, 354]
    text = node.file.read_text()
    node.file.write_text(text.replace('names = ["jones", "brown"]', after))
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log("configuration reread")
    assert talk.say("Subject: lunch\r\n\r\nAt noon?\r\n.") == ["250 OK"]
    for user in who:
        node.wait_for_mail(user)
    node.wait_for_empty_spool()
    assert {user for user in ("jones", "brown") if node.mailbox(user)} == who
    assert "failed" not in node.text()
