"""Whoever takes for ever is let go: by the clock, and on either end of a channel."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from fuzz.house import House, Letters, Line
from mailnode.channel.receiving import Listener
from mailnode.channel.tls import ClientTls
from mailnode.mail import Body, Letter, Mode, Outcome, Path, Recipient
from mailnode.smtp.receiver import Limits
from mailnode.smtp.script import Plan

PATIENCE = 300  # seconds (RFC 1123 5.3.2)
OPENING = b"EHLO else.example\r\nMAIL FROM:<a@else.example>\r\nRCPT TO:<jones@mit.example>\r\nDATA\r\n"


def drips(line: Line, house: House, octets: bytes, seconds: float, pause: float) -> float:
    """Says `octets` one by one, over and over; the seconds until the line is closed, or `seconds`."""
    began = house.clock.seconds()
    while house.clock.seconds() - began < seconds and not line.closed:
        for octet in octets:
            line.say(bytes([octet]))
            house.clock.advance(pause)
            line.wire.runs()
            if line.closed:
                break
    return house.clock.seconds() - began


def waits_out(house: House, line: Line) -> None:
    """A handshake has a minute, whatever time a command has."""
    house.clock.advance(61)
    line.wire.runs()


def test_a_client_that_says_nothing_is_let_go(lead: Any) -> None:
    line = lead()
    lead.house.clock.advance(PATIENCE + 1)
    assert line.say(b"")[0].startswith(b"421 ") and line.closed


def test_a_client_that_says_a_command_octet_by_octet_has_no_more_time_for_it(lead: Any) -> None:
    line = lead()
    line.say(b"EHLO else.example\r\n")
    assert drips(line, lead.house, b"x", 3600, 20) < PATIENCE + 30
    assert line.closed and lead.house.empty


def test_a_client_that_sends_mail_data_octet_by_octet_is_let_go_soon(lead: Any) -> None:
    line = lead()
    assert line.codes(OPENING) == [250, 250, 250, 354]
    assert drips(line, lead.house, b"x", 3600, 5) < 2 * 60
    assert line.closed and lead.house.empty


def test_a_client_that_sends_a_chunk_octet_by_octet_is_let_go_soon(lead: Any) -> None:
    line = lead()
    line.say(OPENING.replace(b"DATA\r\n", b"BDAT 1000000 LAST\r\n"))
    assert drips(line, lead.house, b"x", 3600, 5) < 2 * 60
    assert line.closed and lead.house.empty


def test_a_client_on_a_slow_line_is_served(lead: Any) -> None:
    """300 octets a second, as a modem of 2,400 baud."""
    line = lead()
    assert line.codes(OPENING) == [250, 250, 250, 354]
    for _ in range(600):
        assert line.say(b"x" * 298 + b"\r\n") == []
        lead.house.clock.advance(1)
    assert line.codes(b".\r\nQUIT\r\n") == [250, 221]


def test_a_client_that_keeps_saying_nothing_of_use_is_let_go() -> None:
    """But not a host that we called: it keeps a turned line open with NOOPs."""
    line = House(limits=Limits(commands=50)).hear()
    codes = line.codes(b"EHLO else.example\r\n" + b"NOOP\r\n" * 1000)
    assert codes[-1] == 421 and len(codes) < 60 and line.closed


def test_a_client_that_tries_names_is_let_go() -> None:
    line = House(limits=Limits(commands=50)).hear()
    names = b"".join(b"RCPT TO:<user%d@mit.example>\r\n" % number for number in range(1000))
    codes = line.codes(OPENING.replace(b"DATA\r\n", b"") + names + b"NOOP\r\n")
    assert len(codes) < 1100 and 421 in codes[:200] and line.closed


def test_a_client_that_starts_tls_and_goes_no_further_is_let_go(server_tls: Any) -> None:
    house = House(tls=server_tls)
    line = house.hear()
    assert line.codes(b"EHLO else.example\r\nSTARTTLS\r\n") == [250, 220]
    waits_out(house, line)
    assert house.factory._channels == {}


def test_a_disk_that_is_slow_leaves_no_more_time_for_a_handshake(server_tls: Any) -> None:
    house = House(tls=server_tls)
    begin, late = house.intake.begin, Deferred[None]()

    def slowly(*arguments: Any) -> Any:
        custody = begin(*arguments)

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(custody, name)

            def write(self, piece: bytes) -> Deferred[None]:
                custody.write(piece)
                return late

        return Slow()

    house.intake.begin = slowly  # type: ignore[method-assign]
    line = house.hear()
    chunk = OPENING.replace(b"DATA\r\n", b"BDAT 5\r\nhello")
    assert line.codes(chunk + b"RSET\r\nSTARTTLS\r\n") == [250, 250, 250, 250, 250, 220]
    house.clock.advance(1)
    late.callback(None)
    waits_out(house, line)
    assert house.factory._channels == {}


@pytest.mark.parametrize("how", ["starttls", "implicit"])
def test_a_client_that_shakes_hands_and_then_says_nothing_has_the_time_of_a_command(
    server_tls: Any, client_creator: Any, how: str
) -> None:
    house = House(tls=server_tls, listener=Listener(tls=how))
    line = house.hear()
    if how == "starttls":
        assert line.codes(b"EHLO else.example\r\nSTARTTLS\r\n") == [250, 220]
    line.end.startTLS(client_creator)
    line.wire.runs()
    house.clock.advance(61)
    line.wire.runs()
    house.clock.advance(PATIENCE - 62)
    line.wire.runs()
    assert line.codes(b"EHLO else.example\r\n")[-1] == 250 and not line.closed
    house.clock.advance(PATIENCE + 1)
    assert line.say(b"")[0].startswith(b"421 ") and line.closed


def test_a_host_that_we_called_by_tls_may_be_as_quiet_behind_a_turn_as_it_agreed_to(server_tls: Any) -> None:
    """It has shaken hands long ago."""
    house = House()
    plan = Plan("mit.example", turn="TURN", tls="required")
    line = house.answered(plan, Letters(), doors=house.doors, tls=ClientTls())
    for words in (b"220 hub\r\n", b"250-hub\r\n250 STARTTLS\r\n"):
        line.say(words)
    line.end.write(b"220 go\r\n")
    line.end.startTLS(server_tls.creator)
    line.wire.runs()
    line.say(b"250 hub\r\n")
    assert line.say(b"250 your turn\r\n")[-1].startswith(b"220 mit.example ")
    house.clock.advance(PATIENCE - 1)
    assert line.codes(b"EHLO hub\r\n")[-1] == 250 and not line.closed


def test_a_client_that_shakes_hands_octet_by_octet_is_let_go(server_tls: Any, client_creator: Any) -> None:
    house = House(tls=server_tls)
    line = house.hear()
    assert line.codes(b"EHLO else.example\r\nSTARTTLS\r\n") == [250, 220]
    line.end.startTLS(client_creator)
    for _ in range(100):  # a ClientHello has more octets than that
        line.wire.moves(True, 1)
        house.clock.advance(20)
        line.wire.looks()
    assert house.factory._channels == {}


def test_a_client_that_speaks_plainly_to_an_implicit_tls_port_is_let_go(server_tls: Any) -> None:
    house = House(tls=server_tls, listener=Listener(tls="implicit"))
    for octets in (b"", b"EHLO else.example\r\n", b"\x16\x03\x01"):
        line = house.hear()
        line.end.write(octets)
        line.wire.runs()
        waits_out(house, line)
        assert house.factory._channels == {}


# ------------------------------------------------------------------------------ servers


def letter() -> Letter:
    path = Path("smith", "else.example")
    return Letter(Mode.MAIL, Path("jones", "mit.example"), (Recipient(path),), Body.of(b"hello\r\n"))


DIALOGUE = (b"220 x\r\n", b"250 x\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")


@pytest.mark.parametrize("heard", range(len(DIALOGUE) + 1))
def test_a_server_that_falls_silent_is_left_and_the_letter_is_tried_again(heard: int) -> None:
    house = House()
    letters = Letters(letter())
    line = house.answered(Plan("mit.example"), letters)
    for reply in DIALOGUE[:heard]:
        line.say(reply)
    house.clock.advance(601)
    line.wire.runs()
    assert line.closed
    assert letters.outcomes == ([Outcome.LATER] if heard >= 2 else [])
    assert len(letters.ended) == 1 and house.factory._channels == {}


@pytest.mark.parametrize("heard", range(len(DIALOGUE) + 1))
@pytest.mark.parametrize("octets", [b"2", b"250-x\r\n"], ids=["one line", "many lines"])
def test_a_server_that_answers_octet_by_octet_is_left(octets: bytes, heard: int) -> None:
    """The wait for a reply ends however little of it comes meanwhile: or a host holds a line for weeks."""
    house = House()
    letters = Letters(letter())
    line = house.answered(Plan("mit.example"), letters)
    for reply in DIALOGUE[:heard]:
        line.say(reply)
    assert drips(line, house, octets, 4 * 3600, 30) < 3600
    assert line.closed and len(letters.ended) == 1
    assert letters.outcomes == ([Outcome.LATER] if heard >= 2 else [])
