"""Bombs: what has no end or no measure is refused in bounded memory, and the node serves on.

MAILNODE_BOMB_MIB (`make bombs`: 1024) is how large the largest are.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
BOMB = int(os.environ.get("MAILNODE_BOMB_MIB", "64")) * MIB
RECIPIENTS = 100_000 if BOMB >= 1 << 30 else 20_000
ALLOWED = 8 * MIB  # that the highest resident set may be above what it was before

HOUSE = """
hostname = "mit.example"
[users]
names = ["jones"]
[limits]
message_size = "20M"
"""
OPENED = ("EHLO else.example", "MAIL FROM:<smith@else.example>", "RCPT TO:<jones@mit.example>")


@pytest.fixture(scope="module")
def shared(make_shared_node: Any) -> Any:
    """A node that has done everything once."""
    node = make_shared_node(HOUSE).start()
    talk = node.talk()
    assert talk.codes(*OPENED, "DATA", "x" * 90_000 + "\r\n.", "HELP") == [250, 250, 250, 354, 250, 211]
    talk.close()
    node.wait_for_mail("jones")
    return node


@pytest.fixture
def node(shared: Any) -> Iterator[Any]:
    """After the test it has nothing in hand, was never larger, and serves on."""
    node = shared
    before = node.resident()
    (Path("/proc") / str(node.process.pid) / "clear_refs").write_text("5")  # the peak begins anew
    yield node
    assert node.peak() - before < ALLOWED, f"{(node.peak() - before) / MIB:.1f} MiB"
    talk = node.talk()
    assert talk.codes("HELO else.example", "QUIT") == [250, 221]
    talk.close()
    assert "Traceback" not in node.text()
    assert len(node.mailbox("jones")) == 1
    node.wait_for_empty_spool()


def pour(talk: Any, size: int, piece: bytes = b"x" * MIB) -> None:
    for _ in range(size // len(piece)):
        talk.raw(piece)


@pytest.mark.parametrize("opened", [False, True], ids=["before HELO", "in a transaction"])
def test_a_command_line_without_end_is_swallowed_and_refused_once(node: Any, opened: bool) -> None:
    talk = node.talk()
    if opened:
        talk.codes(*OPENED)
    talk.raw(b"NOOP ")
    pour(talk, BOMB)
    assert talk.codes("", "NOOP") == [500, 250]
    talk.close()


def test_a_line_of_mail_data_without_end_is_drained_and_refused(node: Any) -> None:
    talk = node.talk()
    assert talk.codes(*OPENED, "DATA")[-1] == 354
    pour(talk, BOMB)
    assert talk.codes("\r\n.", "NOOP") == [552, 250]
    talk.close()


def test_a_header_of_10_mib_is_drained_and_refused(node: Any) -> None:
    talk = node.talk()
    assert talk.codes(*OPENED, "DATA")[-1] == 354
    field = b"X-Filler: " + b"x" * 900 + b"\r\n"
    pour(talk, 10 * MIB, field * 1000)
    refused, noop = talk.codes("\r\nhello\r\n.", "NOOP")
    assert refused in (552, 554) and noop == 250
    talk.close()


def test_a_header_field_without_end_is_drained_and_refused(node: Any) -> None:
    talk = node.talk()
    assert talk.codes(*OPENED, "DATA")[-1] == 354
    talk.raw(b"Subject: ")
    pour(talk, 10 * MIB, b"x\r\n " * 65536)
    refused, noop = talk.codes("\r\n.", "NOOP")
    assert refused in (552, 554) and noop == 250
    talk.close()


def test_a_hundred_thousand_recipients_fill_no_memory(node: Any) -> None:
    talk = node.talk()
    talk.socket.settimeout(120)
    assert talk.codes(*OPENED[:2]) == [250, 250]
    codes: list[str] = []

    def read() -> None:
        with suppress(ConnectionError):  # what is on its way to a closed socket resets the connection
            while reply := talk.reply():
                codes.append(reply[0][:3])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    lines = b"RCPT TO:<jones@mit.example>\r\n" * 1000
    with suppress(ConnectionError):  # it has been cut off
        for _ in range(RECIPIENTS // 1000):
            talk.socket.sendall(lines)
        talk.socket.sendall(b"QUIT\r\n")
    reader.join(120)
    assert codes[:1000] == ["250"] * 1000  # the configured limit
    refused = codes[1000:]
    assert set(refused[:-1]) == {"452"} and refused[-1] in ("452", "421", "221")
    assert len(refused) < 3000  # it was cut off
    node.wait_for_log("Too many commands without mail")
    talk.close()


def test_a_chunk_of_a_size_without_measure_is_refused_and_kept_nowhere(node: Any) -> None:
    talk = node.talk()
    assert talk.codes(*OPENED) == [250, 250, 250]
    talk.raw(b"BDAT %d\r\n" % BOMB)
    pour(talk, BOMB)
    assert talk.reply()[0][:3] == "552"
    assert talk.codes("NOOP") == [250]
    talk.close()


def test_an_auth_line_without_end_is_refused(node: Any) -> None:
    talk = node.talk()
    assert talk.codes("EHLO else.example") == [250]
    talk.raw(b"AUTH PLAIN ")
    pour(talk, BOMB)
    assert talk.codes("", "NOOP") == [500, 250]
    talk.close()


def test_ten_thousand_mime_parts_and_one_nested_1500_deep_hurt_nothing(make_node: Any) -> None:
    node = make_node(HOUSE + '[terminals]\nallow = "anyone"\n').start()
    deep = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(1500))
    wide = "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + "--b\r\n\r\nx\r\n" * 10_000
    for verb in ("SAML", "SOML", "MAIL"):
        for text in (deep, wide):
            talk = node.talk()
            opened = talk.codes("EHLO else.example", f"{verb} FROM:<a@else.example>", OPENED[2], "DATA")
            assert opened == [250, 250, 250, 354]
            assert talk.codes(text + "\r\n.", "QUIT") == [250, 221]
            talk.close()
    assert len(node.wait_for_mail("jones", 6)) == 6
    assert "Traceback" not in node.text()


def test_the_control_socket_bears_garbage_without_end(node: Any) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(15)
        channel.connect(str(node.data / "control.sock"))
        with pytest.raises(ConnectionError):  # it is cut off
            for _ in range(BOMB // MIB):
                channel.sendall(b"[" * MIB)
    assert node.status()["listening"]
