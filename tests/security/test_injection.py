"""What was said before TLS, or before the line was turned, counts for nothing after it: on both sides."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.house import House, Letters
from mailnode.channel.tls import ClientTls
from mailnode.mail import Body, Letter, Mode, Outcome, Path, Recipient
from mailnode.smtp.events import Ending
from mailnode.smtp.script import Plan

BEHIND = {
    "a command": b"NOOP\r\n",
    "a transaction": b"MAIL FROM:<evil@else.example>\r\nRCPT TO:<jones@mit.example>\r\nDATA\r\nx\r\n.\r\n",
    "half a command": b"MAIL FR",
    "one octet": b"x",
    "an empty line": b"\r\n",
    "a bare LF": b"\n",
    "AUTH": b"AUTH PLAIN AGxlYWYAc2VjcmV0\r\n",
    "the beginning of a handshake": b"\x16\x03\x01",
}
REPLIES = {
    "a reply": b"250 injected\r\n",
    "many replies": b"250 injected\r\n" * 10,
    "an EHLO reply": b"250-else.example\r\n250-AUTH PLAIN\r\n250 SIZE 1\r\n",
    "half a reply": b"250",
    "one octet": b"2",
    "the first line of a reply": b"250-x\r\n",
    "an empty line": b"\r\n",
    "a greeting": b"220 again\r\n",
}


def letter() -> Letter:
    path = Path("smith", "else.example")
    return Letter(Mode.MAIL, Path("jones", "mit.example"), (Recipient(path),), Body.of(b"hello\r\n"))


# ------------------------------------------------------------------------------ STARTTLS


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
def test_octets_behind_a_clients_starttls_close_the_channel(server_tls: Any, behind: bytes) -> None:
    house = House(tls=server_tls)
    line = house.hear()
    assert line.codes(b"EHLO else.example\r\n") == [250]
    codes = line.codes(b"STARTTLS\r\n" + behind)
    assert codes == [503] and line.closed  # no 220, so no handshake either
    house.works()
    assert house.mailbox.messages == {} and house.empty


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
def test_plain_octets_behind_our_220_are_no_commands(
    server_tls: Any, client_creator: Any, behind: bytes
) -> None:
    house = House(tls=server_tls)
    line = house.hear()
    assert line.codes(b"EHLO else.example\r\nSTARTTLS\r\n") == [250, 220]
    line.end.write(behind)  # in the clear, before the handshake
    line.end.startTLS(client_creator)
    for _ in range(3):
        line.wire.runs()
        house.clock.advance(400)
    line.wire.runs()
    house.works()
    assert house.factory._channels == {} and house.mailbox.messages == {} and house.empty


def test_a_receiver_forgets_under_tls_what_was_said_before(server_tls: Any, client_creator: Any) -> None:
    house = House(tls=server_tls, passwords={"leaf": "secret"}, trusted=["198.51.100.0/24"])
    line = house.hear()
    assert line.codes(b"EHLO else.example\r\nMAIL FROM:<a@else.example>\r\nSTARTTLS\r\n") == [250, 250, 503]
    assert line.codes(b"RSET\r\nSTARTTLS\r\n") == [250, 220]
    line.end.startTLS(client_creator)
    line.wire.runs()
    assert line.codes(b"MAIL FROM:<a@else.example>\r\n") == [503]  # no HELO was said
    assert line.codes(b"STARTTLS\r\n") == [503]
    said = line.say(b"EHLO else.example\r\n")
    assert not any(b"STARTTLS" in row for row in said)
    assert any(row.startswith(b"250-AUTH ") and b"PLAIN" in row for row in said)
    assert line.codes(b"STARTTLS\r\n") in ([502], [503])


def test_a_password_is_taken_only_under_tls(server_tls: Any, client_creator: Any) -> None:
    house = House(tls=server_tls, passwords={"leaf": "secret"})
    line = house.hear()
    said = line.say(b"EHLO else.example\r\n")
    assert not any(b"PLAIN" in row or b"LOGIN" in row for row in said)
    assert line.codes(b"AUTH PLAIN AGxlYWYAc2VjcmV0\r\n")[0] in (502, 504, 530, 538)
    assert line.codes(b"AUTH LOGIN\r\n")[0] in (502, 504, 530, 538)
    secure = house.hear_secured(client_creator)
    assert secure.codes(b"EHLO else.example\r\nAUTH PLAIN AGxlYWYAc2VjcmV0\r\n") == [250, 235]


@pytest.mark.parametrize("behind", REPLIES.values(), ids=REPLIES.keys())
def test_replies_behind_a_servers_220_are_not_obeyed(behind: bytes) -> None:
    letters = Letters(letter())
    house = House()
    line = house.answered(Plan("mit.example", tls="opportunistic"), letters, tls=ClientTls())
    assert line.say(b"220 else.example\r\n") == [b"EHLO mit.example"]
    assert line.say(b"250-else.example\r\n250 STARTTLS\r\n") == [b"STARTTLS"]
    line.say(b"220 go\r\n" + behind)
    assert line.closed and letters.outcomes == [] and len(letters.waiting) == 1
    assert [how.ending for how in letters.ended] in ([Ending.BROKEN], [Ending.INSECURE])


@pytest.mark.parametrize("tls", ["required", "verified"])
@pytest.mark.parametrize("offer", [b"250 else.example\r\n", b"250-else.example\r\n250 X-STARTTLS\r\n"])
def test_where_tls_is_required_nothing_goes_to_a_host_whose_offer_was_taken_out(
    offer: bytes, tls: str
) -> None:
    letters = Letters(letter())
    line = House().answered(
        Plan("mit.example", tls=tls, name="leaf", secret="open sesame"), letters, tls=ClientTls()
    )
    line.say(b"220 else.example\r\n")
    said = line.say(offer)
    assert said == [b"QUIT"]
    line.say(b"221 bye\r\n")
    assert [how.ending for how in letters.ended] == [Ending.INSECURE]
    assert letters.outcomes == [] and len(letters.waiting) == 1


def test_a_secret_goes_to_no_host_in_the_clear() -> None:
    letters = Letters(letter())
    line = House().answered(Plan("mit.example", name="leaf", secret="open sesame"), letters)
    line.say(b"220 else.example\r\n")
    said = line.say(b"250-else.example\r\n250 AUTH PLAIN LOGIN\r\n")
    assert said == [b"QUIT"]


@pytest.mark.parametrize("tls", ["opportunistic", "required"])
def test_who_stands_in_between_with_any_certificate_is_told_no_password(server_tls: Any, tls: str) -> None:
    letters = Letters(letter())
    plan = Plan("mit.example", tls=tls, name="leaf", secret="open sesame")
    line = House().answered(plan, letters, tls=ClientTls())
    line.say(b"220 else.example\r\n")
    assert line.say(b"250-else.example\r\n250 STARTTLS\r\n") == [b"STARTTLS"]
    line.end.write(b"220 go\r\n")
    line.end.startTLS(server_tls.creator)
    assert line.say(b"") == [b"EHLO mit.example"]
    assert line.say(b"250-else.example\r\n250 AUTH PLAIN LOGIN\r\n") == [b"QUIT"]
    line.say(b"221 bye\r\n")
    assert [how.reply.status for how in letters.ended] == ["5.7.4"]
    assert letters.outcomes == [] and len(letters.waiting) == 1


# ------------------------------------------------------------------------------ TURN


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
def test_octets_behind_a_clients_turn_close_the_channel_and_the_mail_stays(behind: bytes) -> None:
    house = House(peers={"leaf": ["192.0.2.7"]})
    give = house.hear("203.0.113.9")
    assert give.codes(
        b"EHLO a\r\nMAIL FROM:<a@else.example>\r\nRCPT TO:<leo@leaf.example>\r\nDATA\r\nhello\r\n.\r\n"
    ) == [250, 250, 250, 354, 250]
    house.works()
    line = house.hear("192.0.2.7")
    assert line.codes(b"EHLO leaf.example\r\nTURN\r\n" + behind) == [250, 503]
    assert line.closed and not house.empty and house.mailbox.messages == {}


@pytest.mark.parametrize("behind", {**BEHIND, **REPLIES}.values(), ids={**BEHIND, **REPLIES}.keys())
def test_octets_behind_a_servers_250_to_our_turn_close_the_channel(behind: bytes) -> None:
    house = House(users=["leo"], hostname="leaf.example")
    letters = Letters()
    line = house.answered(Plan("leaf.example", turn="TURN"), letters, doors=house.doors)
    line.say(b"220 hub\r\n")
    assert line.say(b"250 hub\r\n") == [b"TURN"]
    assert line.say(b"250 your turn\r\n" + behind) == []
    assert line.closed and house.mailbox.messages == {} and house.empty
    assert [how.ending for how in letters.ended] == [Ending.BROKEN]


def test_canned_replies_behind_a_granted_turn_mark_nothing_as_delivered() -> None:
    """The peer says its greeting and all its replies at once, and then has never read a letter."""
    house = House(peers={"leaf": ["192.0.2.7"]})
    give = house.hear("203.0.113.9")
    give.say(b"EHLO a\r\nMAIL FROM:<a@else.example>\r\nRCPT TO:<leo@leaf.example>\r\nDATA\r\nhello\r\n.\r\n")
    house.works()
    line = house.hear("192.0.2.7")
    assert line.codes(b"EHLO leaf.example\r\nTURN\r\n") == [250, 250]
    line.say(b"220 leaf\r\n250 leaf\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n221 bye\r\n")
    line.wire.runs()
    assert line.closed and not house.empty


def test_a_letter_is_delivered_when_nothing_was_injected(server_tls: Any) -> None:
    """That the tests above can fail: the same dialogue between two houses, under TLS, to its end."""
    mit, other = House(), House("else.example", users=["smith"], tls=server_tls)
    letters = Letters(letter())
    plan = Plan("mit.example", tls="required")
    wire = mit.call(other, plan, letters, letters.ended, tls=ClientTls())
    wire.runs()
    other.works()
    assert letters.outcomes == [Outcome.DELIVERED] and len(other.mail("smith")) == 1
    assert b"ESMTPS" in other.mail("smith")[0]
