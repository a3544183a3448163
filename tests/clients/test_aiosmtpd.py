"""The Sender against aiosmtpd: bodies arrive octet for octet, refusals come to the right place."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

CHUNK = 65536  # octets; bodies over it are streamed


class Received:
    """An aiosmtpd handler that keeps what it is given, and answers as it is told."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.sessions: list[Any] = []  # the client's address and port for each message
        self.recipient_replies: list[str] = []  # said one after another, then 250
        self.data_replies: list[str] = []
        self.lock = threading.Lock()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.recipient_replies:
            return self.recipient_replies.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.data_replies:
            return self.data_replies.pop(0)
        with self.lock:
            self.envelopes.append(envelope)
            self.sessions.append(session.peer)
        return "250 OK"

    def bodies(self) -> list[bytes]:
        """What was received, without the trace that our node put on top."""
        with self.lock:
            return [body_of(envelope.original_content or b"") for envelope in self.envelopes]


def body_of(content: bytes) -> bytes:
    lines = content.split(b"\r\n")
    assert lines[0].startswith(b"Received: from ")
    trace = 1
    while lines[trace].startswith(b"\t"):
        trace += 1
    return b"\r\n".join(lines[trace:])


@pytest.fixture
def next_hop(free_port: Callable[[], int]) -> Iterator[tuple[Received, int]]:
    received = Received()
    port = free_port()
    controller = Controller(
        received, hostname="127.0.0.1", port=port, data_size_limit=None, ident="aiosmtpd", server_hostname="b"
    )
    controller.start()
    yield received, port
    controller.stop()


def house(port: int) -> str:
    return f"""
hostname = "mit.edu"
[users]
names = ["Jones"]
[routes]
"*" = "tcp:127.0.0.1:{port}"
[retry]
first = "1s"
"""


def submit(node: Any, body: bytes, *recipients: str, sender: str = "Jones@mit.edu") -> None:
    with smtplib.SMTP("127.0.0.1", node.port, local_hostname="usc.edu", timeout=20) as client:
        assert client.sendmail(sender, recipients or ["green@usc.edu"], body) == {}


HEADER = b"Subject: a body\r\n\r\n"

BODIES = {
    "empty line only": b"\r\n",
    "a dot at the very start": b".begins with a dot\r\n",
    "dots alone": HEADER + b".\r\n..\r\n...\r\n",
    "dots at line starts": HEADER + b".a\r\n..b\r\n.\r\n\r\n.\r\n",
    "dots that begin no line": HEADER + b"a.\r\nb..\r\n x .\r\n",
    "8-bit text": HEADER + bytes(octet for octet in range(1, 256) if octet not in b"\r\n") + b"\r\n",
    "just below a chunk": HEADER + b".234567\r\n" * (CHUNK // 9 - 40),
    # Every third octet is a dot that begins a line: in each of the three shifts others lie at a chunk's end.
    "dots at every chunk boundary, 0": HEADER + b".\r\n" * CHUNK,
    "dots at every chunk boundary, 1": HEADER + b"x\r\n" + b".\r\n" * CHUNK,
    "dots at every chunk boundary, 2": HEADER + b"xx\r\n" + b".\r\n" * CHUNK,
    "large": HEADER + b"".join(b".%07d\r\n" % number for number in range(50_000)),
}


def test_bodies_arrive_octet_for_octet_whatever_their_dots(
    make_node: Any, next_hop: tuple[Received, int]
) -> None:
    received, port = next_hop
    node = make_node(house(port)).start()
    for count, (name, body) in enumerate(BODIES.items(), 1):
        submit(node, body)
        node.wait_until(lambda count=count: len(received.envelopes) == count, f"the message: {name}")
        expected = body if body.startswith((HEADER, b"\r\n")) else b"\r\n" + body
        assert received.bodies()[-1] == expected, name
    node.wait_for_empty_spool()
    assert node.mailbox("Jones") == []  # no notice


def test_eight_bit_text_is_declared_and_seven_bit_text_is_not(
    make_node: Any, next_hop: tuple[Received, int]
) -> None:
    received, port = next_hop
    node = make_node(house(port)).start()
    submit(node, HEADER + b"plain\r\n")
    node.wait_until(lambda: len(received.envelopes) == 1, "the first message")
    submit(node, HEADER + b"\xe9t\xe9\r\n")
    node.wait_until(lambda: len(received.envelopes) == 2, "the second message")
    plain, eight_bit = (envelope.mail_options for envelope in received.envelopes)
    assert not [option for option in plain if option.startswith("BODY")]
    assert "BODY=8BITMIME" in eight_bit
    assert received.envelopes[0].mail_from == "Jones@mit.edu"
    assert received.envelopes[0].rcpt_tos == ["green@usc.edu"]


def test_many_messages_go_over_few_connections(make_node: Any, next_hop: tuple[Received, int]) -> None:
    received, port = next_hop
    node = make_node(house(port)).start()
    with smtplib.SMTP("127.0.0.1", node.port, local_hostname="usc.edu", timeout=20) as client:
        for number in range(60):
            client.sendmail("Jones@mit.edu", ["green@usc.edu"], HEADER + b"%d\r\n" % number)
    node.wait_until(lambda: len(received.envelopes) >= 60, "all messages")
    node.wait_for_empty_spool()
    assert sorted(received.bodies()) == sorted(HEADER + b"%d\r\n" % number for number in range(60))
    assert len(set(received.sessions)) < 60


def test_a_permanent_refusal_comes_back_as_a_notice(make_node: Any, next_hop: tuple[Received, int]) -> None:
    received, port = next_hop
    received.recipient_replies = ["550 5.1.1 No such\x1b[2J user"]
    node = make_node(house(port)).start()
    submit(node, HEADER + b"to one who is there and one who is not\r\n", "white@usc.edu", "green@usc.edu")
    (notice,) = node.wait_for_mail("Jones")
    assert notice.startswith("Return-Path: <>\n")
    assert "Content-Type: multipart/report; report-type=delivery-status;" in notice
    assert "\nFinal-Recipient: rfc822; white@usc.edu\nAction: failed\nStatus: 5.1.1\n" in notice
    assert "No such?[2J user" in notice  # nothing of a stranger's reply moves a cursor
    assert "green@usc.edu" not in notice
    node.wait_for_empty_spool()
    assert [envelope.rcpt_tos for envelope in received.envelopes] == [["green@usc.edu"]]


def test_a_refused_body_comes_back_as_a_notice_too(make_node: Any, next_hop: tuple[Received, int]) -> None:
    received, port = next_hop
    received.data_replies = ["554 5.6.0 I do not like it"]
    node = make_node(house(port)).start()
    submit(node, HEADER + b"not liked\r\n")
    (notice,) = node.wait_for_mail("Jones")
    assert "Status: 5.6.0\n" in notice
    assert "Subject: a body\n" in notice
    node.wait_for_empty_spool()
    assert received.envelopes == []


@pytest.mark.parametrize("where", ["recipient_replies", "data_replies"])
def test_a_temporary_refusal_is_tried_again(
    make_node: Any, next_hop: tuple[Received, int], where: str
) -> None:
    received, port = next_hop
    setattr(received, where, ["450 4.2.1 Not now"])
    node = make_node(house(port)).start()
    submit(node, HEADER + b"at the second attempt\r\n")
    node.wait_until(lambda: received.envelopes, "the second attempt")
    node.wait_for_empty_spool()
    assert received.bodies() == [HEADER + b"at the second attempt\r\n"]
    assert node.mailbox("Jones") == []


def test_a_host_that_is_down_is_tried_again_until_it_is_up(
    make_node: Any, free_port: Callable[[], int]
) -> None:
    port = free_port()
    node = make_node(house(port)).start()
    submit(node, HEADER + b"patience\r\n")
    node.wait_until(lambda: _attempts(node) == 1, "a first attempt in vain")
    received = Received()
    controller = Controller(received, hostname="127.0.0.1", port=port, server_hostname="b")
    controller.start()
    try:
        node.wait_until(lambda: received.envelopes, "the message")
        node.wait_for_empty_spool()
    finally:
        controller.stop()
    assert received.bodies() == [HEADER + b"patience\r\n"]


def _attempts(node: Any) -> int:
    return max(node.rows("SELECT attempts FROM recipient"), default=(0,))[0]
