"""Postfix's smtp-source: many sessions at once, and not one message too few or too many."""

from __future__ import annotations

from typing import Any

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones", "2Jones", "3Jones"]
"""


def test_every_message_of_many_sessions_is_in_the_mailbox_once(make_node: Any, need: Any, run: Any) -> None:
    node = make_node(HOUSE).start()
    done = run(
        *[need("smtp-source"), "-s", 20, "-m", 300, "-l", 4096, "-M", "usc.edu", "-d"],
        *["-f", "smith@usc.edu", "-t", "Jones@mit.edu", f"127.0.0.1:{node.port}"],
    )
    assert done.returncode == 0, done.stderr
    messages = node.wait_for_mail("Jones", 300)
    node.wait_for_empty_spool()
    assert len(node.mailbox("Jones")) == 300
    assert len(set(messages)) == 300  # each has its own id in its trace


def test_a_connection_for_each_message_is_as_good(make_node: Any, need: Any, run: Any) -> None:
    node = make_node(HOUSE).start()
    done = run(
        *[need("smtp-source"), "-s", 10, "-m", 100, "-l", 200, "-M", "usc.edu"],
        *["-f", "smith@usc.edu", "-t", "Jones@mit.edu", f"127.0.0.1:{node.port}"],
    )
    assert done.returncode == 0, done.stderr
    node.wait_for_mail("Jones", 100)
    node.wait_for_empty_spool()
    assert len(node.mailbox("Jones")) == 100


def test_several_recipients_of_large_messages_each_get_every_one(make_node: Any, need: Any, run: Any) -> None:
    node = make_node(HOUSE).start()
    done = run(
        *[need("smtp-source"), "-s", 4, "-m", 20, "-r", 3, "-l", 200_000, "-M", "usc.edu", "-d"],
        *["-f", "smith@usc.edu", "-t", "Jones@mit.edu", f"127.0.0.1:{node.port}"],
    )
    assert done.returncode == 0, done.stderr
    for user in ("Jones", "2Jones", "3Jones"):  # these are the names that smtp-source makes
        messages = node.wait_for_mail(user, 20)
        assert [len(message) > 190_000 for message in messages] == [True] * 20
    node.wait_for_empty_spool()
