"""Python's smtplib."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from typing import Any

import pytest

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones", "Mark Crispin <Admin.MRC>"]
[lists]
staff = ["Jones", "Mark Crispin <Admin.MRC>"]
"""


@pytest.fixture(scope="module")
def node(make_shared_node: Any) -> Any:
    return make_shared_node(HOUSE).start()


@pytest.fixture
def client(node: Any) -> Any:
    with smtplib.SMTP("127.0.0.1", node.port, local_hostname="usc.edu", timeout=20) as client:
        yield client


def arrived(node: Any, user: str, word: str) -> bytes:
    """The one message of `user` with `word` in it; the tests of this file share a mailbox."""
    node.wait_for_empty_spool()
    (message,) = [message for message in node.octets(user) if word.encode() in message]
    return bytes(message)


def test_sendmail_delivers_a_message_whose_lines_begin_with_dots(node: Any, client: Any) -> None:
    text = "Subject: dots\r\n\r\n.\r\n..\r\n.end\r\nlast, without a line end"
    assert client.sendmail("smith@usc.edu", ["Jones@mit.edu"], text) == {}
    message = arrived(node, "Jones", "Subject: dots")
    assert message.endswith(b"Subject: dots\n\n.\n..\n.end\nlast, without a line end\n")
    assert message.startswith(b"Return-Path: <smith@usc.edu>\n")


def test_sendmail_is_told_which_recipients_were_refused(node: Any, client: Any) -> None:
    refused = client.sendmail("smith@usc.edu", ["Green@mit.edu", "Jones@mit.edu"], "Subject: partly\r\n\r\n")
    assert refused == {"Green@mit.edu": (550, b"5.1.1 No such user here")}
    assert b"Subject: partly" in arrived(node, "Jones", "Subject: partly")


def test_sendmail_fails_when_every_recipient_is_refused(node: Any, client: Any) -> None:
    before = node.mailbox("Jones")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail("smith@usc.edu", ["Green@mit.edu", "Brown@mit.edu"], "Subject: nobody\r\n\r\n")
    assert client.noop()[0] == 250  # smtplib said RSET, and the channel goes on
    assert node.mailbox("Jones") == before
    assert node.left_in_spool() == []


def test_a_message_object_with_a_postal_name_arrives_whole(node: Any, client: Any) -> None:
    message = EmailMessage()
    message["From"] = "Smith <smith@usc.edu>"
    message["To"] = "Mark Crispin <Admin.MRC@mit.edu>"
    message["Subject"] = "An object"
    message.set_content("Blah blah blah...\n...etc. etc. etc.\n")
    assert client.send_message(message) == {}
    assert b"\n\nBlah blah blah...\n...etc. etc. etc.\n" in arrived(node, "Admin.MRC", "Subject: An object")


def test_eight_bit_text_arrives_octet_for_octet(node: Any, client: Any) -> None:
    octets = b"Subject: 8bit\r\n\r\n" + bytes(range(128, 256)) + b"\r\n\xff\xfe \x80\r\n"
    assert client.sendmail("smith@usc.edu", "Jones@mit.edu", octets, ["BODY=8BITMIME"]) == {}
    assert arrived(node, "Jones", "Subject: 8bit").endswith(octets.replace(b"\r\n", b"\n"))


def test_verify_and_expand_answer_with_mailboxes(client: Any) -> None:
    client.ehlo()
    assert client.verify("Crispin") == (250, b"2.1.5 Mark Crispin <Admin.MRC@mit.edu>")
    assert client.verify("Green")[0] == 550
    code, text = client.expn("staff")
    assert code == 250
    assert text.splitlines() == [b"2.1.5 <Jones@mit.edu>", b"2.1.5 Mark Crispin <Admin.MRC@mit.edu>"]
    assert client.expn("Jones")[0] == 550


def test_ehlo_names_what_this_client_may_use(client: Any) -> None:
    client.ehlo()
    for keyword in ("pipelining", "8bitmime", "enhancedstatuscodes", "help", "expn", "send", "soml", "saml"):
        assert client.has_extn(keyword), keyword
    assert int(client.esmtp_features["size"]) == 50 << 20
    assert not client.has_extn("turn")
    assert not client.has_extn("auth")  # nobody has a password here


def test_rset_in_mid_session_forgets_sender_and_recipients(node: Any, client: Any) -> None:
    client.helo()
    assert client.mail("smith@usc.edu")[0] == 250
    assert client.rcpt("Admin.MRC@mit.edu")[0] == 250
    assert client.rset()[0] == 250
    assert client.rcpt("Jones@mit.edu")[0] == 503
    assert client.sendmail("green@usc.edu", "Jones@mit.edu", "Subject: after RSET\r\n\r\n") == {}
    assert arrived(node, "Jones", "Subject: after RSET").startswith(b"Return-Path: <green@usc.edu>\n")
    assert not [message for message in node.mailbox("Admin.MRC") if "after RSET" in message]


def test_a_hundred_recipients_of_one_message_all_get_it(make_node: Any) -> None:
    users = [f"user{number}" for number in range(100)]  # RFC 821 4.5.3: a receiver must take as many
    node = make_node(f'hostname = "mit.edu"\n[users]\nnames = {users}\n').start()
    with smtplib.SMTP("127.0.0.1", node.port, timeout=20) as client:
        refused = client.sendmail(
            "smith@usc.edu", [f"{user}@mit.edu" for user in users], "Subject: all\r\n\r\n"
        )
    assert refused == {}
    node.wait_for_empty_spool()
    assert [len(node.mailbox(user)) for user in users] == [1] * 100


def test_each_of_several_messages_on_one_connection_keeps_its_own_sender_and_text(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    with smtplib.SMTP("127.0.0.1", node.port, timeout=20) as client:
        for number in range(20):
            client.sendmail(
                f"smith{number}@usc.edu", "Jones@mit.edu", f"Subject: {number}\r\n\r\n{number}\r\n"
            )
    messages = node.wait_for_mail("Jones", 20)
    senders = [message.splitlines()[0] for message in messages]
    assert sorted(senders) == sorted(f"Return-Path: <smith{number}@usc.edu>" for number in range(20))
    for message in messages:
        number = message.splitlines()[0].removeprefix("Return-Path: <smith").partition("@")[0]
        assert message.endswith(f"Subject: {number}\n\n{number}\n")
