"""The readable part of a message, however it was packed; bounded, and never an error."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailnode.terminals.plain import Plain, plain

CHARSETS = {
    "utf-8": "Grüße, 漢字 😀",
    "UTF8": "Grüße",
    "us-ascii": "plain",
    "iso-8859-1": "café",
    "windows-1252": "“10 €”",
    "iso-8859-2": "Łódź",
    "iso-8859-5": "Привет",
    "iso-8859-15": "10 €",
    "windows-1251": "Привет",
    "koi8-r": "Привет",
    "koi8-u": "Привіт",
    "gb2312": "你好",
    "gb18030": "你好 😀",
    "big5": "你好嗎",
    "euc-kr": "안녕",
    "shift_jis": "こんにちは",
    "euc-jp": "こんにちは",
    "iso-2022-jp": "こんにちは Smith",
}


def mime(body: bytes, kind: str = "text/plain", encoding: str = "8bit") -> bytes:
    head = f"Subject: s\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(("charset", "text"), CHARSETS.items())
def test_text_is_decoded_by_its_charset(charset: str, text: str) -> None:
    octets = text.encode(charset)
    assert plain(mime(octets, f"text/plain; charset={charset}")) == Plain("s", text)
    packed = base64.encodebytes(octets)
    assert plain(mime(packed, f'text/plain; format=flowed; charset="{charset}"', "BASE64")).text == text
    word = f"=?{charset}?b?{base64.b64encode(octets).decode()}?="
    assert plain(f"Subject: {word}\r\n\r\n".encode()).subject == text


@pytest.mark.parametrize(
    "charset",
    ["utf-7", "utf-16", "iso-2022-kr", "hz", "cp037", "unicode_escape", "idna", "zlib", "x", "", "*"],
)
def test_a_charset_that_we_do_not_decode_is_shown_as_it_came(charset: str) -> None:
    octets = b"+ABs-[2J \x1b$)C ~{ \\x1b caf\xe9"
    text = octets.decode("utf-8", "surrogateescape")
    assert plain(mime(octets, f'text/plain; charset="{charset}"')).text == text
    word = f"=?{charset}?q?=1B[2J?="
    assert plain(f"Subject: {word}\r\n\r\n".encode()).subject == word


@given(st.sampled_from(sorted(CHARSETS)), st.binary(max_size=100))
def test_octets_that_a_charset_does_not_know_are_no_error(charset: str, octets: bytes) -> None:
    assert isinstance(plain(mime(octets, f"text/plain; charset={charset}")).text, str)
    word = base64.b64encode(octets)
    assert isinstance(plain(b"Subject: =?" + charset.encode() + b"?b?" + word + b"?=\r\n\r\n").subject, str)


def test_every_octet_in_every_charset_is_no_error() -> None:
    for charset in CHARSETS:
        for octet in range(256):
            assert plain(mime(bytes((octet,)) * 3, f"text/plain; charset={charset}")).text


def parts(*kinds: str) -> bytes:
    body = "".join(f"--b\r\nContent-Type: {kind}\r\n\r\nthis is {kind}\r\n" for kind in kinds)
    return mime(f"{body}--b--\r\n".encode(), "multipart/mixed; boundary=b")


@pytest.mark.parametrize(
    ("kinds", "shown"),
    [
        (("text/html", "text/plain"), "this is text/plain"),
        (("text/plain", "text/html"), "this is text/plain"),
        (("image/png", "text/html", "text/enriched"), "this is text/html"),
        (("image/png", "application/pdf"), None),
        (("nonsense",), "this is nonsense"),  # RFC 2045 5.2: what is not understood is text/plain
    ],
)
def test_plain_text_comes_before_other_text_and_pictures_are_none(
    kinds: tuple[str, ...], shown: str | None
) -> None:
    assert plain(parts(*kinds)).text == shown


def test_a_message_that_is_a_picture_has_a_subject_and_no_text() -> None:
    assert plain(mime(b"iVBORw0KGgo=", "image/png", "base64")) == Plain("s", None)


@pytest.mark.parametrize(
    "kind", ["multipart/mixed", "multipart/mixed; boundary=b", 'multipart/x; boundary=""']
)
def test_a_multipart_in_which_no_part_is_found_is_shown_as_it_came(kind: str) -> None:
    assert plain(mime(b"hello\r\n--c\r\n\r\nthere", kind)).text == "hello\r\n--c\r\n\r\nthere"


def test_a_header_without_end_is_looked_at_so_far_and_no_further() -> None:
    header = b"Subject: s\r\n" + b"a: b\r\n" * 10_000
    assert plain(header + b"\r\nhello") == Plain("", (header + b"\r\nhello").decode())
    header = b"Subject: s\r\n" + b"a: b\r\n" * 1_000
    assert plain(header + b"\r\nhello") == Plain("s", "hello")


def nested(levels: int) -> bytes:
    return b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
        for level in range(levels)
    )


@pytest.mark.parametrize(
    "octets",
    [
        b"Subject: s\r\n" + nested(1500) + b"\r\nhello",
        mime(
            b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 1000, "multipart/mixed; boundary=b"
        ),
        mime(b"\n--bb" * 13_000, "multipart/mixed; boundary=b"),
        b"a:\n" * 21_000,
        b"Subject: " + b"=?" * 32_000,
        b"Subject: x\r\n" + b" =?utf-8?q?=41?=\r\n" * 3_000,
        b"Content-Type: a/b" + b"; a=b" * 13_000,
        b'Content-Type: multipart/mixed; boundary="' + b'\\"' * 30_000,
        mime(b"=" * 65_000, encoding="quoted-printable"),
        mime(b"G" * 65_000, encoding="base64"),
        b"\n" * 65_000 + b"x",
    ],
)
def test_the_worst_of_64_kib_takes_milliseconds(octets: bytes) -> None:
    times = []
    for _ in range(3):
        began = time.thread_time()
        plain(octets)
        times.append(time.thread_time() - began)
    assert min(times) < 0.05


def test_a_part_that_is_nested_too_deep_is_not_found() -> None:
    deep = b"Subject: s\r\n" + nested(1500) + b"\r\nhello"
    assert plain(deep) == Plain("s", None)
    assert plain(b"Subject: s\r\n" + nested(60) + b"\r\nhello") == Plain("s", "hello")


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_octets_give_text(octets: bytes) -> None:
    letter = plain(octets)
    assert isinstance(letter.subject, str) and (letter.text is None or isinstance(letter.text, str))
