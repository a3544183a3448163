"""swaks, the postmaster's own test client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailnode.access.kept import hash_secret

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones", "Brown"]
passwords = "passwords"
[relay]
networks = []
[routes]
"*" = "hold"
"""


@pytest.fixture(scope="module")
def node(make_shared_node: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    node = make_shared_node(HOUSE)
    Path(node.folder / "passwords").write_text(f"jones:{hash_secret('rosebud', b'0' * 16)}\n")
    return node.start()


@pytest.fixture
def swaks(need: Any, run: Any, node: Any) -> Any:
    program = need("swaks")

    def speak(*arguments: object) -> Any:
        return run(
            *[program, "--server", "127.0.0.1", "--port", node.port, "--timeout", 20],
            *["--helo", "usc.edu", "--from", "smith@usc.edu", *arguments],
        )

    return speak


def test_a_message_goes_through(node: Any, swaks: Any) -> None:
    done = swaks("--to", "Jones@mit.edu", "--header", "Subject: plain", "--body", ".dot\\n..\\nend")
    assert done.returncode == 0, done.stdout
    node.wait_for_empty_spool()
    (message,) = [text for text in node.mailbox("Jones") if "Subject: plain" in text]
    assert "\n\n.dot\n..\nend\n" in message


def test_a_whole_pipelined_group_goes_through(node: Any, swaks: Any) -> None:
    done = swaks("--pipeline", "--to", "Jones@mit.edu,Brown@mit.edu", "--header", "Subject: pipelined")
    assert done.returncode == 0, done.stdout
    replies = [line[4:] for line in done.stdout.splitlines() if line.startswith("<-  ")]
    transaction = [reply[:3] for reply in replies[-6:]]
    assert transaction == ["250", "250", "250", "354", "250", "221"]
    node.wait_for_empty_spool()
    for user in ("Jones", "Brown"):
        assert [text for text in node.mailbox(user) if "Subject: pipelined" in text], user


def test_a_pipelined_group_without_a_known_recipient_is_refused_in_order(node: Any, swaks: Any) -> None:
    done = swaks("--pipeline", "--to", "Green@mit.edu,White@mit.edu", "--header", "Subject: refused")
    assert done.returncode == 24  # no recipient was accepted
    codes = [line[4:7] for line in done.stdout.splitlines() if line[:4] in ("<-  ", "<** ")]
    assert codes[-5:] == ["250", "550", "550", "554", "221"]
    assert node.left_in_spool() == []


@pytest.mark.parametrize("protocol, word", [("SMTP", "with SMTP id"), ("ESMTP", "with ESMTP id")])
def test_the_protocol_that_was_spoken_is_named_in_the_trace(
    node: Any, swaks: Any, protocol: str, word: str
) -> None:
    done = swaks("--protocol", protocol, "--to", "Jones@mit.edu", "--header", f"Subject: by {protocol}.")
    assert done.returncode == 0, done.stdout
    node.wait_for_empty_spool()
    (message,) = [text for text in node.mailbox("Jones") if f"Subject: by {protocol}." in text]
    assert word in message


def test_who_has_authenticated_may_relay_and_others_may_not(node: Any, swaks: Any) -> None:
    stranger = swaks("--to", "green@usc.edu")
    assert stranger.returncode == 24
    assert "550 5.7.1" in stranger.stdout
    plain = ("--auth", "PLAIN", "--auth-user", "jones", "--auth-password")
    wrong = swaks("--to", "green@usc.edu", *plain, "wrong")
    assert wrong.returncode == 28  # swaks: authentication error
    assert "535 5.7.8" in wrong.stdout
    right = swaks("--to", "green@usc.edu", *plain, "rosebud", "--protocol", "ESMTPA")
    assert right.returncode == 0, right.stdout
    assert "235 2.7.0" in right.stdout
    assert node.left_in_spool()[1:] == ["recipient green"]  # held, as the route says
    assert "rosebud" not in node.text()
