"""Nothing but CR LF . CR LF ends mail data, however it arrives and on whatever line: nothing is smuggled."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mailnode.smtp.framing import END_OF_DATA, DataReader, Stuffer

FALSE_ENDS = {
    "LF dot LF": b"\n.\n",
    "LF dot CRLF": b"\n.\r\n",
    "CRLF dot LF": b"\r\n.\n",
    "CR dot CR": b"\r.\r",
    "CR dot CRLF": b"\r.\r\n",
    "CRLF dot CR": b"\r\n.\r",
    "LF dot CR": b"\n.\r",
    "CR dot LF": b"\r.\n",
    "LF LF dot LF LF": b"\n\n.\n\n",
    "LF CR dot LF CR": b"\n\r.\n\r",
    "CRLF dot CR CRLF": b"\r\n.\r\r\n",
    "CRLF dot LF CRLF": b"\r\n.\n\r\n",
    "CRLF CR dot CRLF": b"\r\n\r.\r\n",
    "CRLF LF dot CRLF": b"\r\n\n.\r\n",
    "CRLF dot NUL CRLF": b"\r\n.\0\r\n",
    "CRLF NUL dot CRLF": b"\r\n\0.\r\n",
    "CRLF dot space CRLF": b"\r\n. \r\n",
    "CRLF space dot CRLF": b"\r\n .\r\n",
    "CRLF dot tab CRLF": b"\r\n.\t\r\n",
    "CRLF dot dot CRLF": b"\r\n..\r\n",
    "CRLF dot control-Z CRLF": b"\r\n.\x1a\r\n",
    "vertical tabs": b"\v.\v",
    "form feeds": b"\f.\f",
    "next lines, C1": b"\x85.\x85",
    "line separators, UTF-8": "\u2028.\u2028".encode(),
    "a full-width dot": "\r\n\uff0e\r\n".encode(),
    "a dot in quoted-printable": b"\r\n=2E\r\n",
}
SMUGGLED = b"MAIL FROM:<evil@else.example>\r\nRCPT TO:<brown@mit.example>\r\nDATA\r\nsmuggled\r\n"
OPENING = b"EHLO else.example\r\nMAIL FROM:<smith@else.example>\r\nRCPT TO:<jones@mit.example>\r\n"

table = pytest.mark.parametrize("end", FALSE_ENDS.values(), ids=FALSE_ENDS.keys())


def text_with(end: bytes) -> bytes:
    return b"Subject: one\r\n\r\nfirst" + end + SMUGGLED


def is_bare(text: bytes) -> bool:
    return re.search(rb"\r(?!\n)|(?<!\r)\n", text) is not None


def check(house: Any, end: bytes, code: int) -> None:
    """One message, whole, or none: a line end of its own refuses it (RFC 5321 2.3.8)."""
    house.works()
    text = text_with(end)
    if is_bare(text):
        assert code == 550
        assert house.mail("jones") == []
    else:
        assert code == 250
        (message,) = house.mail("jones")
        plain = text.replace(b"\r\n.", b"\r\n").replace(b"\r\n", b"\n")
        assert message.endswith(b"\n" + plain)
    assert house.mail("brown") == []
    assert house.relay.letters == [] and house.empty


def test_there_are_at_least_25_of_them_and_none_is_a_true_end() -> None:
    assert len(FALSE_ENDS) >= 25 and len(set(FALSE_ENDS.values())) == len(FALSE_ENDS)
    assert not any(END_OF_DATA in text_with(end) for end in FALSE_ENDS.values())


@table
def test_a_false_end_ends_nothing_when_all_comes_at_once(lead: Any, end: bytes) -> None:
    line = lead()
    assert line.codes(OPENING + b"DATA\r\n") == [250, 250, 250, 354]
    (code,) = line.codes(text_with(end) + b".\r\n")
    assert line.codes(b"NOOP\r\n") == [250]
    check(lead.house, end, code)


@table
def test_a_false_end_ends_nothing_when_each_octet_comes_alone(lead: Any, end: bytes) -> None:
    line = lead()
    *opened, code = line.codes(OPENING + b"DATA\r\n" + text_with(end) + b".\r\n", 1)
    assert opened == [250, 250, 250, 354]
    assert line.codes(b"NOOP\r\n") == [250]
    check(lead.house, end, code)


@table
def test_a_false_end_ends_nothing_with_commands_behind_the_true_one(lead: Any, end: bytes) -> None:
    line = lead()
    *opened, code, noop, quit = line.codes(
        OPENING + b"DATA\r\n" + text_with(end) + b".\r\n" + b"NOOP\r\nQUIT\r\n"
    )
    assert opened == [250, 250, 250, 354] and [noop, quit] == [250, 221] and line.closed
    check(lead.house, end, code)


@table
def test_a_false_end_in_a_chunk_is_text_or_refused(lead: Any, end: bytes) -> None:
    text = text_with(end)
    line = lead()
    *opened, code, noop = line.codes(OPENING + b"BDAT %d LAST\r\n%bNOOP\r\n" % (len(text), text))
    assert opened == [250, 250, 250] and noop == 250
    lead.house.works()
    assert code == (550 if is_bare(text) else 250)
    assert len(lead.house.mail("jones")) == (code == 250)
    assert lead.house.mail("brown") == [] and lead.house.empty


@table
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_what_we_send_has_one_end_whatever_the_text_holds(end: bytes, size: int) -> None:
    text = text_with(end)
    stuffer = Stuffer()
    wire = b"".join(stuffer.stuff(text[at : at + size]) for at in range(0, len(text), size)) + stuffer.end()
    assert not is_bare(wire)
    assert (b"\r\n" + wire).find(END_OF_DATA) == len(wire) - 3
    reader = DataReader()
    kept, behind = reader.feed(wire)
    assert reader.ended and behind == b""
    assert kept == re.sub(rb"\r\n|\r|\n", b"\r\n", text)
