"""PLAIN (RFC 4616): what is read from a response, and what is not."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.smtp.sasl import MECHANISMS, Plain, plain_response

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(TEXT, TEXT)
def test_what_is_sent_is_what_is_read(name: str, secret: str) -> None:
    assert Plain().respond(plain_response(name, secret)) == (name, secret)


def test_the_authorization_identity_may_be_named_if_it_is_the_same() -> None:
    assert Plain().respond(base64.b64encode(b"leaf\0leaf\0secret")) == ("leaf", "secret")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"=",
        b"!!!",
        b"AGxlYWY",  # no padding
        b"AGxlYWY=AGxl",
        b"\xff\xfe",
        base64.b64encode(b"leaf"),
        base64.b64encode(b"\0leaf"),
        base64.b64encode(b"\0leaf\0secret\0more"),
        base64.b64encode(b"\0\0secret"),
        base64.b64encode(b"\0leaf\0"),
        base64.b64encode(b"root\0leaf\0secret"),
        base64.b64encode(b"\0leaf\0\xff\xfe"),
        b" " + base64.b64encode(b"\0leaf\0secret"),
    ],
)
def test_a_malformed_response_names_nobody(line: bytes) -> None:
    assert Plain().respond(line) is None


def test_plain_is_known_by_name() -> None:
    assert isinstance(MECHANISMS["PLAIN"](), Plain)
