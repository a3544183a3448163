"""A node starts, takes a message for a mailbox, and ends."""

from __future__ import annotations

from typing import Any

HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones", "Brown"]
"""


def test_the_example_of_rfc_821_gives_its_very_codes_and_two_mailboxes(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    talk = node.talk()
    assert talk.greeting == ["220 mit.edu Simple Mail Transfer Service Ready"]
    codes = talk.codes(
        "HELO usc.edu",
        "MAIL FROM: <Smith@usc.edu>",
        "RCPT TO:<Jones@mit.edu>",
        "RCPT TO:<Green@mit.edu>",
        "RCPT TO:<Brown@mit.edu>",
        "DATA",
        "Blah blah blah...\r\n...etc. etc. etc.\r\n.",
        "QUIT",
    )
    assert codes == [250, 250, 250, 550, 250, 354, 250, 221]
    for user in ("Jones", "Brown"):
        (message,) = node.wait_for_mail(user)
        trace = f"Return-Path: <Smith@usc.edu>\nDelivered-To: {user}@mit.edu\n"
        assert message.startswith(f"{trace}Received: from usc.edu ([127.0.0.1])\n")
        assert message.endswith("\n\nBlah blah blah...\n..etc. etc. etc.\n")
    assert node.mailbox("Green") == []
    assert node.stop() == -15  # twistd ends by the signal that it was told to end by
