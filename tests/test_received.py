"""Trace fields: what we put on top of a message, and what is read from those of others."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.mail import Client, Path
from mailnode.received import header_of, hops, missing_fields, protocol, received, was_delivered_to

NOW = 1_700_000_000.0
JONES = "jones@mit.example"


@pytest.mark.parametrize(
    ("client", "utf8", "word"),
    [  # RFC 3848, RFC 6531 4.3
        (Client(), False, "SMTP"),
        (Client(tls=True, identity="smith"), False, "SMTP"),
        (Client(extended=True), False, "ESMTP"),
        (Client(extended=True, tls=True), False, "ESMTPS"),
        (Client(extended=True, identity="smith"), False, "ESMTPA"),
        (Client(extended=True, identity="smith", tls=True), False, "ESMTPSA"),
        (Client(extended=True, listener="submission"), True, "UTF8SMTP"),
        (Client(extended=True, identity="smith"), True, "UTF8SMTPA"),
        (Client(extended=True, tls=True), True, "UTF8SMTPS"),
        (Client(extended=True, identity="smith", tls=True), True, "UTF8SMTPSA"),
        (Client(extended=True, listener="lmtp"), False, "LMTP"),
        (Client(extended=True, listener="lmtp", tls=True), False, "LMTPS"),
        (Client(extended=True, listener="lmtp", identity="smith", tls=True), False, "LMTPSA"),
        (Client(extended=True, listener="lmtp"), True, "UTF8LMTP"),
        (Client(extended=True, listener="lmtp", identity="smith"), True, "UTF8LMTPA"),
    ],
)
def test_the_protocol_is_named_as_the_registry_has_it(client: Client, utf8: bool, word: str) -> None:
    assert protocol(client, utf8) == word
    field = received(client, "mit.example", "1kz", None, NOW, utf8)
    assert f"\r\n\tby mit.example with {word} id 1kz;\r\n".encode() in field


def test_a_recipient_is_named_alone_and_in_ascii() -> None:
    client = Client("192.0.2.1", "usc.example")
    assert b"\tfor <jones@mit.example>;" in received(client, "h", "1", Path("jones", "mit.example"), NOW)
    for other in (None, Path("jürgen", "mit.example"), Path("x" * 600, "mit.example")):
        assert b"for" not in received(client, "h", "1", other, NOW)


def test_hops_are_counted_in_the_header_alone() -> None:
    header = b"Received: a\r\nRECEIVED: b\r\nX-Received: c\r\n\treceived: folded\r\n"
    assert hops(header + b"\r\nReceived: text\r\n") == 2
    assert hops(b"\r\nReceived: text\r\n") == 0


def test_a_header_ends_at_the_empty_line() -> None:
    assert header_of(b"A: b\r\nC: d\r\n\r\nE: f\r\n") == b"A: b\r\nC: d\r\n"
    assert header_of(b"A: b\r\nC: d") == b"A: b\r\nC: d"
    assert header_of(b"\r\nA: b\r\n\r\n") == b""


@pytest.mark.parametrize(
    "field",
    [
        "Delivered-To: jones@mit.example",
        "DELIVERED-TO: JONES@mit.EXAMPLE  ",
        "delivered-to\t:\tjones@mit.example",
    ],
)
@pytest.mark.parametrize("before", ["", "Received: x\r\n\tfolded\r\n", "Delivered-To: brown@mit.example\r\n"])
def test_an_earlier_delivery_is_found_by_the_address_whatever_its_case(field: str, before: str) -> None:
    assert was_delivered_to(f"{before}{field}\r\nSubject: x\r\n".encode(), JONES)


@pytest.mark.parametrize(
    "field",
    ["Delivered-To: jones@mit.example.org", "Delivered-To: a.jones@mit.example", "Delivered-To:",
     "X-Delivered-To: jones@mit.example", "X: y\r\n\tDelivered-To: jones@mit.example",
     "Delivered-To: <jones@mit.example>"],
)  # fmt: skip
def test_no_other_field_is_an_earlier_delivery(field: str) -> None:
    assert not was_delivered_to(f"{field}\r\n".encode(), JONES)


def test_addresses_beyond_ascii_are_compared_as_text() -> None:
    header = "Delivered-To: JÜRGEN@mit.example\r\n".encode()
    assert was_delivered_to(header, "jürgen@mit.example")
    assert not was_delivered_to(b"Delivered-To: j\xfcrgen@mit.example\r\n", "jürgen@mit.example")


def test_a_header_made_to_take_long_does_not() -> None:
    header = b"Delivered-To: x" + b" " * 900 + b"y\r\n"
    started = time.process_time()
    assert not was_delivered_to(header * 70, JONES)
    assert time.process_time() - started < 0.05


# ------------------------------------------------------------------ submission

DATE, MESSAGE_ID = b"Date: ", b"Message-ID: <1kz@mit.example>\r\n"


@pytest.mark.parametrize(
    ("header", "date", "message_id"),
    [
        (b"", True, True),
        (b"Subject: x\r\n", True, True),
        (b"Date: now\r\n", False, True),
        (b"DATE : now\r\nSubject: x\r\n", False, True),
        (b"message-id: <x@y>\r\nSubject: x\r\n", True, False),
        (b"Subject: x\r\nMessage-Id: <x@y>\r\nDate: now\r\n", False, False),
        (b"Resent-Date: now\r\nX-Message-ID: x\r\nSubject: x\r\n\tDate: now\r\n", True, True),
    ],
)
def test_fields_that_every_message_needs_are_added_where_they_are_missing(
    header: bytes, date: bool, message_id: bool
) -> None:
    fields = missing_fields(header, "mit.example", "1kz", NOW)
    assert (fields.startswith(DATE), MESSAGE_ID in fields) == (date, message_id)
    assert fields.count(b"\r\n") == date + message_id


@given(st.binary(max_size=200))
def test_nothing_in_a_header_lets_the_trace_fail(header: bytes) -> None:
    assert missing_fields(header, "mit.example", "1kz", NOW).count(b"\r\n") <= 2
    assert was_delivered_to(header, JONES) in (True, False)
