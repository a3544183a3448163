"""Clients that break the rules: the right reply or a quiet close, one line in the log, and nothing kept."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones", "Brown"]
"""

OPENED = b"MAIL FROM:<smith@usc.edu>\r\nRCPT TO:<Jones@mit.edu>\r\n"
CHANNEL = "[mailnode.channel#"


@pytest.fixture(scope="module")
def node(make_shared_node: Any) -> Any:
    return make_shared_node(HOUSE).start()


@pytest.fixture
def nothing_kept(node: Any) -> Iterator[Callable[[], str]]:
    """After the test: exactly one line in the log about its client, no mail anywhere, the node serves on.

    The test may ask for that line.
    """
    mark = len(node.text())

    def channel_lines() -> list[str]:
        return [line for line in node.text()[mark:].splitlines() if CHANNEL in line]

    def line() -> str:
        node.wait_for_log(CHANNEL, after=mark)
        (one,) = channel_lines()
        return str(one)

    yield line
    line()
    talk = node.talk()  # a client that does everything right leaves no line at all
    assert talk.codes("HELO usc.edu", "NOOP", "QUIT") == [250, 250, 221]
    talk.close()
    assert len(channel_lines()) == 1
    assert "Traceback" not in node.text()
    assert node.mailbox("Jones") == node.mailbox("Brown") == []
    node.wait_for_empty_spool()  # a draft is removed by the thread of the disk, after the reply


def dialogue(node: Any, octets: bytes, replies: int) -> list[int]:
    """Sends everything at once after a HELO and QUIT behind it; gives the codes of `replies` replies."""
    talk = node.talk()
    assert talk.codes("HELO usc.edu") == [250]
    talk.raw(octets)
    codes = [int(talk.reply()[0][:3]) for _ in range(replies)]
    talk.raw(b"RSET\r\nQUIT\r\n")
    assert [talk.reply()[0][:3] for _ in range(2)] == ["250", "221"]
    assert talk.reply() == []
    talk.close()
    return codes


# --------------------------------------------------------------------- commands


def test_commands_before_helo_are_503(node: Any, nothing_kept: Any) -> None:
    talk = node.talk()
    before = (
        "MAIL FROM:<smith@usc.edu>",
        "SEND FROM:<smith@usc.edu>",
        "RCPT TO:<Jones@mit.edu>",
        "DATA",
        "TURN",
    )
    assert talk.codes(*before) == [503] * 5
    assert talk.codes("HELP", "NOOP", "RSET", "VRFY Jones", "QUIT") == [211, 250, 250, 250, 221]
    talk.close()


@pytest.mark.parametrize(
    "octets, codes",
    [
        (b"RCPT TO:<Jones@mit.edu>\r\n", [503]),
        (b"DATA\r\n", [503]),
        (OPENED + b"MAIL FROM:<smith@usc.edu>\r\n", [250, 250, 503]),
        (OPENED + b"SOML FROM:<smith@usc.edu>\r\nTURN\r\n", [250, 250, 503, 503]),
        (b"MAIL FROM:<smith@usc.edu>\r\nDATA\r\n", [250, 503]),
        (b"MAIL FROM:<smith@usc.edu>\r\nRCPT TO:<Green@mit.edu>\r\nDATA\r\n", [250, 550, 554]),
    ],
)
def test_wrong_order_is_refused_and_changes_nothing(
    node: Any, nothing_kept: Any, octets: bytes, codes: list[int]
) -> None:
    assert dialogue(node, octets, len(codes)) == codes
    assert f"{len([code for code in codes if code >= 500])} refused" in nothing_kept()


@pytest.mark.parametrize("size", [2049, 4096, 1 << 20])
def test_an_over_long_line_is_500_once_and_no_part_of_it_is_obeyed(
    node: Any, nothing_kept: Any, size: int
) -> None:
    filler = b"QUIT " * (size // 5)
    assert dialogue(node, b"NOOP " + filler + b"\r\nNOOP\r\n", 2) == [500, 250]
    assert "1 refused, last refusal: 500" in nothing_kept()


@pytest.mark.parametrize(
    "line",
    [
        *[b"XYZZY", b"", b" ", b" NOOP", b"MAILFROM:<smith@usc.edu>", b"A" * 100, b"WIZ", b"DEBUG"],
        *[b"NOOP\tNOOP", b"\xff\xfe", b"HELO \xfc.example", b"VRFY J\xf6nes", b"NO\0OP", b"NOOP \0"],
        *[b"NOOP\nNOOP", b"NOOP\rNOOP", b"HELO usc.edu\nMAIL FROM:<smith@usc.edu>", b"\x1b[2J"],
        b"GET / HTTP/1.1",
    ],
)
def test_what_is_no_command_is_500(node: Any, nothing_kept: Any, line: bytes) -> None:
    assert dialogue(node, line + b"\r\nNOOP\r\n", 2) == [500, 250]
    logged = nothing_kept()
    assert logged.isascii() and logged.isprintable()


@pytest.mark.parametrize(
    "path",
    [
        *[b"smith@usc.edu", b"<smith@usc.edu", b"smith@usc.edu>", b"<smith@>", b"<@usc.edu>", b"<smith>"],
        *[b"<smith@usc.edu>x", b"<smith@usc..edu>", b"<smith@-usc.edu>", b"<sm ith@usc.edu>", b"<a@b@c>"],
        *[b"<@a,b:smith@usc.edu>", b"<@a:@b:smith@usc.edu>", b'<"smith@usc.edu>', b"<smith@[300.1.1.1]>"],
        *[b"<" + b"a" * 65 + b"@usc.edu>", b"<a@" + b"b." * 130 + b"edu>", b"<../../etc/passwd>"],
        *[b"", b"<smith@usc.edu> NONSENSE=1 =", b"<smith@usc.edu> SIZE=x", b"<smith@usc.edu> SIZE=1 SIZE=1"],
    ],
)
def test_a_broken_path_is_501(node: Any, nothing_kept: Any, path: bytes) -> None:
    octets = b"MAIL FROM:" + path + b"\r\nMAIL FROM:<>\r\nRCPT TO:" + path + b"\r\nDATA\r\n"
    assert dialogue(node, octets, 4) == [501, 250, 501, 503]


def test_octets_over_127_in_a_path_are_500_and_come_back_filtered(node: Any, nothing_kept: Any) -> None:
    assert dialogue(node, b"MAIL FROM:<sm\xefth@usc.edu>\r\n", 1) == [500]
    assert "only printable ASCII" in nothing_kept()


def test_too_many_errors_end_the_channel_with_421(make_node: Any) -> None:
    node = make_node(HOUSE + "[limits]\nerrors = 5\n").start()
    talk = node.talk()
    talk.raw(b"HELO usc.edu\r\n" + OPENED + b"NONSENSE\r\n" * 5 + b"DATA\r\nnot obeyed\r\n.\r\n")
    codes = [int(talk.reply()[0][:3]) for _ in range(9)]
    assert codes == [250, 250, 250, 500, 500, 500, 500, 500, 421]
    assert talk.reply() == []
    node.wait_for_log("Too many errors")
    assert len([line for line in node.text().splitlines() if CHANNEL in line]) == 1
    assert node.mailbox("Jones") == []
    assert node.left_in_spool() == []


# -------------------------------------------------------------------- mail data


@pytest.mark.parametrize(
    "data",
    [
        *[b"one\ntwo\r\n", b"one\rtwo\r\n", b"\n", b"\r", b"one\r\r\ntwo\r\n", b"one\n\r\ntwo\r\n"],
        b"one\n.\nMAIL FROM:<x@usc.edu>\nRCPT TO:<Brown@mit.edu>\nDATA\nsmuggled\r\n",
        b"one\n.\r\nMAIL FROM:<x@usc.edu>\r\nRCPT TO:<Brown@mit.edu>\r\nDATA\r\nsmuggled\r\n",
        b"one\r\n.\nMAIL FROM:<x@usc.edu>\r\nRCPT TO:<Brown@mit.edu>\r\nDATA\r\nsmuggled\r\n",
        b"one\r\n.\rMAIL FROM:<x@usc.edu>\r\nRCPT TO:<Brown@mit.edu>\r\nDATA\r\nsmuggled\r\n",
        b"x\r\n" * 40_000 + b"a bare\nline feed behind 64 KiB\r\n",
    ],
)
def test_bare_line_ends_are_554_and_smuggle_nothing(node: Any, nothing_kept: Any, data: bytes) -> None:
    octets = OPENED + b"DATA\r\n" + data + b"\r\n.\r\n"
    assert dialogue(node, octets, 4) == [250, 250, 354, 554]
    assert "1 refused, last refusal: 554" in nothing_kept()


def test_a_message_over_the_limit_is_552_when_declared_and_when_sent(make_node: Any) -> None:
    node = make_node(HOUSE + '[limits]\nmessage_size = "64K"\n').start()
    declared = b"EHLO usc.edu\r\nMAIL FROM:<smith@usc.edu> SIZE=65537\r\n"
    assert dialogue(node, declared + OPENED + b"DATA\r\n" + b"0123456\r\n" * 10_000 + b".\r\n", 6) == [
        *[250, 552, 250, 250, 354, 552]
    ]
    assert dialogue(node, OPENED + b"DATA\r\n" + b"0123456\r\n" * 7_000 + b".\r\n", 4)[3] == 250
    node.wait_for_empty_spool()
    assert len(node.mailbox("Jones")) == 1


def test_a_message_that_has_passed_too_many_hosts_is_554(node: Any, nothing_kept: Any) -> None:
    trace = b"Received: from a by b; Thu, 1 Jan 1970 00:00:00 +0000\r\n" * 51
    assert dialogue(node, OPENED + b"DATA\r\n" + trace + b"\r\nround and round\r\n.\r\n", 4)[3] == 554
    assert "mail loop" in nothing_kept()


def test_nul_and_octets_over_127_in_mail_data_are_kept_as_they_are(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    data = b"Subject: all\r\n\r\n" + bytes(octet for octet in range(256) if octet not in b"\r\n") + b"\r\n"
    assert dialogue(node, OPENED + b"DATA\r\n" + data + b".\r\n", 4) == [250, 250, 354, 250]
    node.wait_for_mail("Jones")
    (message,) = node.octets("Jones")
    assert message.endswith(data.replace(b"\r\n", b"\n"))


# --------------------------------------------------------------- going away, idling


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize(
    "octets, replies, where",
    [
        (b"MAIL FR", 0, "in a command"),
        (OPENED, 2, "in a transaction"),
        (OPENED + b"DATA\r\nSubject: half a mess", 3, "in a transaction"),
        (OPENED + b"DATA\r\n" + b"x" * 70 + b"\r\n" * 100_000, 3, "in a transaction"),
        (OPENED + b"DATA\r\nall but the last octet\r\n.\r", 3, "in a transaction"),
    ],
)
def test_a_client_that_goes_away_leaves_nothing(
    node: Any, nothing_kept: Any, octets: bytes, replies: int, where: str, how: str
) -> None:
    talk = node.talk()
    talk.codes("HELO usc.edu")
    talk.raw(octets)
    for _ in range(replies):
        assert talk.reply()[0][:3] in ("250", "354")
    if how == "resets":
        talk.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.close()
    assert f"went away {where}" in nothing_kept()


def test_an_idle_client_gets_421_wherever_it_stopped(make_node: Any) -> None:
    node = make_node(HOUSE + '[limits]\ncommand_timeout = "1s"\n').start()
    starts = [b"", b"HELO usc.edu\r\n", b"HELO usc.edu\r\n" + OPENED + b"DATA\r\nhalf", b"HELO usc.edu\r\nNO"]
    talks = [node.talk() for _ in starts]
    began = time.monotonic()
    for talk, octets in zip(talks, starts, strict=True):
        talk.raw(octets)
    for talk, octets in zip(talks, starts, strict=True):
        for _ in range(octets.count(b"\r\n")):
            assert talk.reply()[0][:3] in ("250", "354")
        assert talk.reply() == ["421 mit.edu Timeout, closing transmission channel"]
        assert talk.reply() == []
        talk.close()
    assert 0.9 < time.monotonic() - began < 5
    node.wait_until(lambda: node.text().count(CHANNEL) == len(starts), "a log line for each")
    assert node.mailbox("Jones") == []
    assert node.left_in_spool() == []


def test_one_connection_too_many_from_a_host_is_421_and_the_next_is_served(make_node: Any) -> None:
    node = make_node(HOUSE + "[limits]\nconnections_per_host = 2\n").start()
    first, second, third = node.talk(), node.talk(), node.talk()
    refusal = "421 mit.edu Too many connections from your host, closing transmission channel"
    assert third.greeting == [refusal]
    assert third.reply() == []
    node.wait_for_log("Too many connections from your host")
    assert len([line for line in node.text().splitlines() if CHANNEL in line]) == 1
    assert first.codes("HELO usc.edu") == second.codes("HELO usc.edu") == [250]
    assert first.codes("QUIT") == [221]
    assert first.reply() == []
    third.close()

    def served() -> bool:
        talk = node.talk()
        greeting = talk.greeting[0]
        talk.close()
        return bool(greeting.startswith("220"))

    node.wait_until(served, "a connection is free again")
    assert second.codes("NOOP") == [250]


def test_the_connections_of_a_host_are_counted_over_all_listeners(make_node: Any) -> None:
    listeners = '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n' * 2
    node = make_node(HOUSE + "[limits]\nconnections_per_host = 2\n" + listeners).start()
    ports = [int(it["where"].rsplit(":", 1)[1]) for it in node.status()["listening"]]
    with ExitStack() as closing:
        greetings = []
        for port in (*ports, *ports):
            channel = closing.enter_context(socket.create_connection(("127.0.0.1", port), timeout=15))
            greetings.append(channel.recv(3))
    assert greetings == [b"220", b"220", b"421", b"421"]


def test_replies_that_nobody_reads_fill_no_memory_and_hold_no_connection(make_node: Any) -> None:
    limits = '[limits]\ncommand_timeout = "1s"\nconnections_per_host = 1\ncommands = 1000000\n'
    node = make_node(HOUSE + limits).start()
    talk = node.talk()
    before = node.resident()
    talk.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):  # it stops reading from us
        for _ in range(100):
            talk.socket.sendall(b"HELP\r\n" * 10_000)
    assert node.resident() - before < 16 << 20

    def served() -> bool:
        other = node.talk()
        greeting = other.greeting[0]
        other.close()
        return bool(greeting.startswith("220"))

    node.wait_until(served, "the connection was cut")
