"""curl, which speaks SMTP since 2009 and sends any command that it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Mark Crispin <Admin.MRC>", "Jones"]
[lists]
staff = ["Jones", "Mark Crispin <Admin.MRC>"]
"""

WEIRD_SERVER_REPLY, RECV_ERROR, SEND_ERROR, COULDNT_SEND_COMMAND = 8, 56, 55, 21


@pytest.fixture(scope="module")
def node(make_shared_node: Any) -> Any:
    return make_shared_node(HOUSE).start()


@pytest.fixture
def curl(need: Any, run: Any, node: Any) -> Any:
    program = need("curl")

    def speak(*arguments: object) -> Any:
        url = f"smtp://127.0.0.1:{node.port}/usc.edu"
        return run(program, "--silent", "--show-error", "--max-time", 20, url, *arguments)

    return speak


def test_an_uploaded_file_is_delivered(node: Any, curl: Any, tmp_path: Path) -> None:
    file = tmp_path / "letter"
    file.write_bytes(b"Subject: by curl\r\n\r\n.dot\r\n" + b"x" * 900 + b"\r\n.\r\n\r\n..\r\n")
    done = curl("--mail-from", "smith@usc.edu", "--mail-rcpt", "Jones@mit.edu", "-T", file)
    assert done.returncode == 0, done.stderr
    (message,) = node.wait_for_mail("Jones")
    trace = "Return-Path: <smith@usc.edu>\nDelivered-To: Jones@mit.edu\n"
    assert message.startswith(f"{trace}Received: from usc.edu ([127.0.0.1])\n")
    assert message.endswith("Subject: by curl\n\n.dot\n" + "x" * 900 + "\n.\n\n..\n")


def test_a_large_file_arrives_whole(node: Any, curl: Any, tmp_path: Path) -> None:
    lines = b"".join(b".%06d of a large message\r\n" % number for number in range(100_000))
    file = tmp_path / "letter"
    file.write_bytes(b"Subject: large\r\n\r\n" + lines)
    done = curl("--mail-from", "smith@usc.edu", "--mail-rcpt", "Admin.MRC@mit.edu", "-T", file)
    assert done.returncode == 0, done.stderr
    node.wait_for_empty_spool()
    (message,) = node.octets("Admin.MRC")
    assert message.partition(b"Subject: large\n\n")[2] == lines.replace(b"\r\n", b"\n")


def test_a_refused_recipient_ends_the_upload(node: Any, curl: Any, tmp_path: Path) -> None:
    file = tmp_path / "letter"
    file.write_bytes(b"Subject: to nobody\r\n\r\n")
    done = curl("--mail-from", "smith@usc.edu", "--mail-rcpt", "Green@mit.edu", "-T", file)
    assert done.returncode == SEND_ERROR
    assert "550" in done.stderr
    assert node.left_in_spool() == []


def test_without_a_message_curl_asks_for_help(curl: Any) -> None:
    done = curl()
    assert done.returncode == 0, done.stderr
    assert "SEND SOML SAML" in done.stdout


def test_vrfy_of_a_full_name_gives_the_mailbox(curl: Any) -> None:
    done = curl("--mail-rcpt", "Crispin")
    assert done.returncode == 0, done.stderr
    assert "Mark Crispin <Admin.MRC@mit.edu>" in done.stdout


def test_vrfy_of_an_unknown_name_is_550(curl: Any) -> None:
    done = curl("--mail-rcpt", "Green")
    assert done.returncode == WEIRD_SERVER_REPLY
    assert "550" in done.stderr


def test_expn_lists_the_members(curl: Any) -> None:
    done = curl("--mail-rcpt", "staff", "-X", "EXPN")
    assert done.returncode == 0, done.stderr
    assert "<Jones@mit.edu>" in done.stdout
    assert "Mark Crispin <Admin.MRC@mit.edu>" in done.stdout


def test_turn_from_a_stranger_is_502(curl: Any) -> None:
    done = curl("-X", "TURN")
    assert done.returncode == WEIRD_SERVER_REPLY
    assert "502" in done.stderr


def test_a_peer_that_says_quit_after_its_turn_was_granted_harms_nothing(
    make_node: Any, need: Any, run: Any
) -> None:
    node = make_node(
        HOUSE
        + """
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["address"]
addresses = ["127.0.0.1"]
"""
    ).start()
    talk = node.talk()
    talk.codes(
        "HELO usc.edu", "MAIL FROM:<smith@usc.edu>", "RCPT TO:<jones@leaf.example>", "DATA", "held\r\n."
    )
    talk.close()
    url = f"smtp://127.0.0.1:{node.port}/leaf.example"
    # curl takes the 250 for an answer like any other and says QUIT where a greeting is due.
    run(need("curl"), "--silent", "--show-error", "--max-time", 20, url, "-X", "TURN")
    node.wait_for_log("the turned line of")
    assert node.left_in_spool()[1:] == ["recipient jones"]  # still held
    assert node.talk().codes("HELO usc.edu", "NOOP") == [250, 250]
