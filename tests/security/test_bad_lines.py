"""A command line that is none is refused as a whole: no part of it is obeyed, and the next one is."""

from __future__ import annotations

from typing import Any

import pytest

HIDDEN = b"MAIL FROM:<evil@else.example>"
BAD = {
    "NUL inside": b"NO\0OP",
    "NUL before a command": b"\0NOOP",
    "NUL at the end": b"NOOP \0",
    "a bare LF and a command behind it": b"NOOP\n" + HIDDEN,
    "a bare CR and a command behind it": b"NOOP\r" + HIDDEN,
    "LF CR and a command behind it": b"NOOP\n\r" + HIDDEN,
    "CR CR and a command behind it": b"NOOP\r\r" + HIDDEN,
    "a bare LF before a command": b"\n" + HIDDEN,
    "a bare CR before a command": b"\r" + HIDDEN,
    "a vertical tab and a command": b"NOOP\v" + HIDDEN,
    "an 8-bit verb": b"\xc8ELO else.example",
    "an 8-bit argument": b"HELO \xfc.example",
    "UTF-8 where there is no path": "HELO jos\u00e9.example".encode(),
    "octets that are no UTF-8 in a path": b"MAIL FROM:<\xff\xfe@else.example>",
    "a C1 control in a path": "MAIL FROM:<a\u009b@else.example>".encode(),
    "a Cyrillic letter in the verb": "\u041cAIL FROM:<evil@else.example>".encode(),
    "a full-width verb": "\uff2d\uff21\uff29\uff2c FROM:<evil@else.example>".encode(),
    "a tab for a space": b"NOOP\tnow",
    "a tab before a command": b"\tNOOP",
    "a space before a command": b" NOOP",
    "telnet: interrupt process": b"\xff\xf4\xff\xfdNOOP",
    "telnet: an option": b"\xff\xfb\x01NOOP",
    "an escape sequence": b"\x1b[2JNOOP",
    "a backspace over a verb": b"NOO\bNOOP",
    "HTTP GET": b"GET / HTTP/1.1",
    "HTTP POST with a body": b"POST / HTTP/1.1\nContent-Length: 99\n\n" + HIDDEN,
    "an HTTP header": b"Host: mit.example:25",
    "a TLS ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03NOOP",
    "an SSH banner": b"SSH-2.0-OpenSSH_9.2",
    "a line of 3,000 octets": b"NOOP " + b"x" * 3000,
    "a line of 60 KiB with commands in it": b"NOOP " + (HIDDEN + b" ") * 2_000,
    "a verb of 1,000 letters": b"N" * 1000,
    "a verb that is none": b"DEBUG",
    "nothing at all": b"",
    "a comment": b"# NOOP",
    "two commands on a line": b"MAIL FROM:<a@else.example>;RCPT TO:<brown@mit.example>",
    "a path with a CR": b"MAIL FROM:<a\r@else.example>",
    "a path with a parameter in it": b"MAIL FROM:<a@else.example SIZE=1>",
    "MAIL without its colon": b"MAIL FROM <a@else.example>",
    "a parameter with a NUL": b"MAIL FROM:<a@else.example> BODY=\0",
}
OPENING = b"EHLO else.example\r\nMAIL FROM:<smith@else.example>\r\nRCPT TO:<jones@mit.example>\r\n"

table = pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())


def test_there_are_at_least_25_of_them() -> None:
    assert len(BAD) >= 25


@table
@pytest.mark.parametrize("size", [1 << 20, 7], ids=["whole", "cut"])
def test_a_bad_line_gets_one_refusal_and_nothing_of_it_is_obeyed(lead: Any, bad: bytes, size: int) -> None:
    line = lead()
    assert line.codes(b"EHLO else.example\r\n") == [250]
    refusal, mail, *behind = line.codes(bad + b"\r\n" + OPENING[OPENING.index(b"MAIL") :], size)
    assert refusal in (500, 501)
    assert (mail, behind) == (250, [250])  # no transaction was open, so nothing in the line has begun one


@table
def test_a_bad_line_in_a_transaction_leaves_it_as_it_was(lead: Any, bad: bytes) -> None:
    line = lead()
    *opened, refusal, data, done = line.codes(OPENING + bad + b"\r\nDATA\r\nhello\r\n.\r\n")
    assert opened == [250, 250, 250] and 500 <= refusal < 504 and (data, done) == (354, 250)
    house = lead.house
    house.works()
    (message,) = house.mail("jones")
    assert b"Return-Path: <smith@else.example>" in message
    assert house.mail("brown") == [] and house.relay.letters == [] and house.empty


@table
def test_a_bad_line_comes_back_in_no_reply(lead: Any, bad: bytes) -> None:
    line = lead()
    for reply in line.say(bad + b"\r\n"):
        assert reply.isascii() and reply.decode().isprintable() and len(reply) <= 510
