"""Delivery status notifications and binary mail from end to end, across real nodes."""

from __future__ import annotations

import email
import smtplib
from collections.abc import Callable
from typing import Any

import pytest

TEXT = b"Subject: lunch\r\n\r\nAt noon?\r\n"


def give(
    node: Any, to: str, *options: str, text: bytes = TEXT, envelope: tuple[str, ...] = ()
) -> tuple[int, bytes]:
    """One message of Brown's; the reply to its end."""
    with smtplib.SMTP("127.0.0.1", node.port, local_hostname="usc.edu", timeout=20) as client:
        client.ehlo()
        assert client.mail("Brown@mit.edu", list(envelope))[0] == 250
        assert client.rcpt(to, list(options))[0] == 250
        return client.data(text)


def fields(notice: str) -> tuple[dict[str, str], dict[str, str]]:
    """The fields about the message and about its first recipient."""
    mail = email.message_from_string(notice)
    status = mail.get_payload()[1]  # type: ignore[index]
    message, recipient = status.get_payload()[:2]  # type: ignore[union-attr]
    return dict(message.items()), dict(recipient.items())  # type: ignore[union-attr]


@pytest.fixture
def pair(make_node: Any, free_port: Callable[[], int]) -> tuple[Any, Any]:
    """mit.edu and leaf.edu, each the other's next hop."""
    house = """
hostname = "{name}"
[users]
names = ["{user}"]
[aliases]
far = ["green@leaf.edu"]
[routes]
"*" = "tcp:127.0.0.1:{port}"
[[listen]]
endpoint = "tcp:{own}:interface=127.0.0.1"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
"""
    one, two = free_port(), free_port()
    mit = make_node(house.format(name="mit.edu", user="Brown", own=one, port=two), "mit").start()
    leaf = make_node(house.format(name="leaf.edu", user="green", own=two, port=one), "leaf").start()
    return mit, leaf


def test_the_host_that_delivers_at_last_tells_the_sender_and_no_other_does(pair: tuple[Any, Any]) -> None:
    mit, leaf = pair
    assert give(mit, "far@mit.edu", "NOTIFY=SUCCESS,FAILURE", envelope=("ENVID=QQ+2B1", "RET=HDRS"))[0] == 250
    leaf.wait_for_mail("green")
    (notice,) = mit.wait_for_mail("Brown")
    message, recipient = fields(notice)
    assert message["Original-Envelope-Id"] == "QQ+1" and message["Reporting-MTA"] == "dns; leaf.edu"
    assert recipient["Original-Recipient"] == "rfc822;far@mit.edu"
    assert (recipient["Final-Recipient"], recipient["Action"]) == ("rfc822; green@leaf.edu", "delivered")
    mit.wait_for_empty_spool()
    leaf.wait_for_empty_spool()
    assert len(mit.mailbox("Brown")) == 1


def test_a_failure_is_told_of_unless_it_was_not_to_be(pair: tuple[Any, Any]) -> None:
    mit, _ = pair
    for notify in ("NEVER", "SUCCESS,DELAY"):
        assert give(mit, "nobody@leaf.edu", f"NOTIFY={notify}")[0] == 250
        mit.wait_for_empty_spool()
    assert mit.mailbox("Brown") == []
    assert (
        give(mit, "nobody@leaf.edu", "NOTIFY=FAILURE", "ORCPT=rfc822;N+2E", envelope=("RET=FULL",))[0] == 250
    )
    (notice,) = mit.wait_for_mail("Brown")
    _, recipient = fields(notice)
    assert (recipient["Original-Recipient"], recipient["Action"]) == ("rfc822;N.", "failed")
    assert "At noon?" in notice


def test_a_message_sent_round_to_its_own_mailbox_again_is_refused_as_a_loop(pair: tuple[Any, Any]) -> None:
    mit, _ = pair
    assert give(mit, "Brown@mit.edu")[0] == 250
    (message,) = mit.wait_for_mail("Brown")
    assert message.startswith("Return-Path: <Brown@mit.edu>\nDelivered-To: Brown@mit.edu\nReceived: ")
    code, words = give(mit, "Brown@mit.edu", text=message.replace("\n", "\r\n").encode())
    assert code == 554 and words.startswith(b"5.4.6 ")
    mit.wait_for_empty_spool()
    assert len(mit.mailbox("Brown")) == 1


def test_binary_mail_lies_in_the_mailbox_octet_for_octet_across_hosts(pair: tuple[Any, Any]) -> None:
    mit, leaf = pair
    data = b"Subject: octets\r\n\r\n" + bytes(range(256)) * 400 + b"\r\n.\r\n\n\r no end"
    talk = mit.talk()
    assert (
        talk.codes("EHLO usc.edu", "MAIL FROM:<Brown@mit.edu> BODY=BINARYMIME", "RCPT TO:<green@leaf.edu>")
        == [250] * 3
    )
    for start in range(0, len(data), 50_000):
        piece = data[start : start + 50_000]
        last = " LAST" if start + 50_000 >= len(data) else ""
        talk.raw(f"BDAT {len(piece)}{last}\r\n".encode() + piece)
        assert talk.reply()[-1].startswith("250")
    leaf.wait_for_mail("green")
    (file,) = (leaf.data / "mail" / "green" / "new").iterdir()
    octets = file.read_bytes()
    assert octets.endswith(b"\r\n" + data) and octets.startswith(b"Return-Path: <Brown@mit.edu>\r\n")
