"""Each of the 21 reply codes of RFC 821 is met by a user, and docs/replies.md says by which test."""

from __future__ import annotations

import ast
import os
import pwd
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# RFC 821 4.2.2
CODES = {
    *(211, 214, 220, 221, 250, 251, 354, 421, 450, 451, 452),
    *(500, 501, 502, 503, 504, 550, 551, 552, 553, 554),
}
ME = pwd.getpwuid(os.geteuid()).pw_name
HOUSE = """
hostname = "mit.edu"
[users]
names = ["jones", "ANN", "Ann", "{me}"]
[terminals]
utmp = "{utmp}"
[forward]
smith = "smith@usc.edu"
[moved]
green = "green@usc.edu"
[limits]
message_size = "2K"
recipients = 2
errors = 5
"""


@pytest.fixture
def pty() -> Iterator[int]:
    """The slave of a real terminal that accepts messages; its master reads nothing."""
    master, slave = os.openpty()
    os.fchmod(slave, 0o620)
    yield slave
    os.close(slave)
    os.close(master)


@pytest.fixture
def node(make_node: Any, tmp_path: Path, pty: int) -> Any:
    utmp = tmp_path / "utmp"
    line = os.ttyname(pty).removeprefix("/dev/").encode()
    record = struct.pack(
        "hi32s4s32s256shhiii4i20x", 7, 1, line, b"", ME.encode(), b"", 0, 0, 0, int(time.time()), *[0] * 5
    )
    utmp.write_bytes(record)
    return make_node(HOUSE.format(utmp=utmp, me=ME)).start()


def tables() -> list[list[tuple[int, str]]]:
    """The codes and tests of each table: of RFC 821, and of later RFCs."""
    parts = (ROOT / "docs/replies.md").read_text().split("## Replies of later RFCs")
    row = re.compile(r"^\| (\d{3}) \|.*\| `([^`]+)` \|$", re.MULTILINE)
    return [[(int(code), test) for code, test in row.findall(part)] for part in parts]


def test_the_tables_have_every_code_and_name_tests_that_exist() -> None:
    first, later = tables()
    assert sorted(code for code, _ in first) == sorted(CODES)
    assert {code for code, _ in later} >= {220, 235, 334, 454, 530, 535, 550, 553}
    for name in {test for _, test in first + later}:
        file, _, function = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_the_successes(node: Any) -> None:
    talk = node.talk()
    assert talk.greeting[0].startswith("220 mit.edu ")
    assert talk.say("HELP")[0].startswith("211")
    assert talk.say("HELP SOML") == ["214 SOML FROM:<reverse-path>: to a terminal, or else the mailbox"]
    assert talk.say("HELO a") == ["250 mit.edu"]
    assert talk.codes("MAIL FROM:<a@b.c>") == [250]
    assert talk.say("RCPT TO:<smith@mit.edu>") == ["251 User not local; will forward to <smith@usc.edu>"]
    assert talk.codes("RCPT TO:<jones@mit.edu>", "DATA", "hi\r\n.") == [250, 354, 250]
    assert talk.say("QUIT") == ["221 mit.edu Service closing transmission channel"]


def test_the_mistakes_of_a_client(node: Any) -> None:
    talk = node.talk()
    assert talk.codes("MAIL FROM:<a@b.c>", "FOO", "HELO", "HELO a", "TURN", "HELP FOO") == [
        *(503, 500, 501, 250, 502, 504)
    ]
    assert talk.reply()[0].startswith("421 mit.edu Too many errors")  # the fifth was one too many
    assert talk.reply() == []  # and the channel is closed


def test_the_refusals_of_recipients_and_messages(node: Any) -> None:
    talk = node.talk()
    opening = ("HELO a", "MAIL FROM:<a@b.c>")
    assert talk.codes(*opening, "RCPT TO:<white@mit.edu>", "DATA") == [250, 250, 550, 554]
    assert talk.codes("RCPT TO:<green@mit.edu>", "RCPT TO:<aNN@mit.edu>") == [551, 553]
    assert talk.codes("RSET", "EHLO a", "MAIL FROM:<a@b.c> SIZE=999999") == [250, 250, 552]
    names = [f"RCPT TO:<{name}@mit.edu>" for name in ("jones", "Ann", ME)]
    assert talk.codes("MAIL FROM:<a@b.c>", *names) == [250, 250, 250, 452]
    # larger than it said, and larger than we take: read to its end and refused
    assert talk.codes("DATA", "x" * 3000 + "\r\n.", "QUIT") == [354, 552, 221]
    assert node.mailbox("jones") == []


def test_what_a_terminal_decides(node: Any, pty: int) -> None:
    talk = node.talk()
    assert talk.codes("HELO a", "SEND FROM:<a@b.c>", "RCPT TO:<jones@mit.edu>") == [250, 250, 450]
    assert talk.codes(f"RCPT TO:<{ME}@mit.edu>", "DATA") == [250, 354]
    os.fchmod(pty, 0o600)  # mesg n, after the RCPT and before the dot
    assert talk.codes("hello\r\n.") == [451]


def test_a_host_with_too_many_connections_is_told_so(make_node: Any) -> None:
    node = make_node('hostname = "mit.edu"\n[limits]\nconnections_per_host = 2\n').start()
    talks = [node.talk() for _ in range(2)]
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as third:
        assert third.makefile("rb").read().startswith(b"421 mit.edu Too many connections from your host")
    assert talks[0].codes("HELO a") == [250]
