"""What a stranger can learn, and what cannot be sent back to somebody who never wrote."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.house import House
from mailnode.interfaces import Selection
from mailnode.mail import Path

NAMES = {
    "lists": {"staff": [("", Path("jones", "mit.example"))]},
    "aliases": {"root": [("", Path("jones", "mit.example"))]},
    "forward": {"smith": Path("smith", "usc.example")},
    "moved": {"green": Path("green", "usc.example")},
}
ASKED = (
    *("jones", "Jones", "brown", "nobody", "staff", "root", "smith", "green", "postmaster"),
    *("<jones@mit.example>", "jones@else.example", "../etc/passwd", "*", "j", '""', "a" * 500),
)


@pytest.mark.parametrize("text", ASKED)
def test_vrfy_tells_a_stranger_the_same_of_everybody(lead: Any, text: str) -> None:
    line = lead(names=NAMES)
    line.say(b"EHLO else.example\r\n")
    (known,) = line.say(b"VRFY brown\r\n")
    assert known.startswith(b"252 ")
    assert line.say(f"VRFY {text}\r\n".encode()) == [known]


@pytest.mark.parametrize("text", ASKED)
def test_expn_tells_a_stranger_nothing_of_anybody(lead: Any, text: str) -> None:
    line = lead(names=NAMES)
    line.say(b"EHLO else.example\r\n")
    (list_,) = line.say(b"EXPN staff\r\n")
    assert list_.startswith(b"550 ")
    assert line.say(f"EXPN {text}\r\n".encode()) == [list_]


def test_an_unknown_user_is_refused_at_rcpt_in_the_words_of_a_refused_relay(lead: Any) -> None:
    line = lead(names=NAMES)
    opening = b"HELO else.example\r\nMAIL FROM:<smith@else.example>\r\n"  # no enhanced codes: words alone
    assert line.codes(opening) == [250, 250]
    (unknown,) = line.say(b"RCPT TO:<nobody@mit.example>\r\n")
    (elsewhere,) = line.say(b"RCPT TO:<jones@usc.example>\r\n")
    assert unknown == elsewhere and unknown.startswith(b"550 ")


@pytest.mark.parametrize("verb", ["MAIL", "SEND", "SOML", "SAML"])
def test_no_notice_goes_to_a_sender_whose_name_was_borrowed(lead: Any, verb: str) -> None:
    """Unknown users are refused while the client is there: nothing is bounced to the reverse-path."""
    line = lead(names=NAMES)
    codes = line.codes(
        b"EHLO else.example\r\n%b FROM:<victim@usc.example>\r\nRCPT TO:<nobody@mit.example>\r\n"
        b"RCPT TO:<green@mit.example>\r\nDATA\r\nRSET\r\n" % verb.encode()
    )
    assert codes == [250, 250, 550, 551, 554, 250]
    house = lead.house
    house.works()
    house.clock.advance(6 * 86400)
    assert house.relay.letters == [] and house.empty


def test_a_stranger_learns_by_no_verb_who_is_logged_in() -> None:
    """Where strangers may not SEND, whether somebody is there changes no reply."""
    heard = []
    for there in (False, True):
        house = House(terminals_allow="trusted")
        if there:
            house.terminals.log_in("jones")
        line = house.hear()
        said = [line.say(b"EHLO else.example\r\n"), line.say(b"HELP\r\n")]
        for verb in (b"SEND", b"SOML", b"SAML"):
            said.append(line.say(verb + b" FROM:<a@else.example>\r\n"))
            said.append(line.say(b"RCPT TO:<jones@mit.example>\r\n"))
        heard.append(said)
    assert heard[0] == heard[1]
    assert not any(verb in b" ".join(heard[0][0]) for verb in (b"SEND", b"SOML", b"SAML"))
    assert {reply[0][:3] for reply in heard[0][2::2]} == {b"502"}


def test_etrn_and_turn_tell_a_stranger_nothing_of_held_mail(lead: Any) -> None:
    line = lead(peers={"leaf": ["198.51.100.0/24"]})
    opened = line.codes(b"EHLO else.example\r\nMAIL FROM:<a@else.example>\r\nRCPT TO:<leo@leaf.example>\r\n")
    assert opened == [250, 250, 250]
    assert line.codes(b"DATA\r\nhello\r\n.\r\n") == [354, 250]
    house = lead.house
    house.works()
    found: list[Any] = []
    house.spool.listing(Selection(state="held")).addCallback(found.extend)
    assert len(found) == 1
    assert line.codes(b"TURN\r\n") == [502]
    assert line.codes(b"NOOP\r\n") == [250] and not line.closed
