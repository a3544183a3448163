"""A traced dialogue: both roles, the turn marked, mail data shortened, no secrets, however it is cut."""

from __future__ import annotations

import pytest

from mailnode.trace import DATA_LINES, TraceLines

Said = list[tuple[str, str]]


def traced(*passed: tuple[str, bytes], cut: int = 0) -> Said:
    said: Said = []
    trace = TraceLines(lambda speaker, text: said.append((speaker, text)))
    for speaker, octets in passed:
        step = cut or max(len(octets), 1)
        for start in range(0, max(len(octets), 1), step):
            trace(speaker, octets[start : start + step])
    return said


LONG = b"".join(b"line %d\r\n" % number for number in range(DATA_LINES + 3))


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_both_roles_are_shown_with_the_turn_and_tls_between(cut: int) -> None:
    said = traced(
        ("S", b"220 hub\r\n"),
        ("C", b"STARTTLS\r\n"),
        ("S", b"220 go\r\n"),
        ("tls", b""),
        ("C", b"EHLO leaf\r\nTURN\r\n"),
        ("S", b"250-hub\r\n250 TURN\r\n250 OK\r\n"),
        ("turn", b""),
        ("S", b"220 leaf\r\n"),
        ("C", b"QUIT\r\n"),
        cut=cut,
    )
    assert said == [
        *[("S", "220 hub"), ("C", "STARTTLS"), ("S", "220 go"), ("tls", "")],
        *[("C", "EHLO leaf"), ("C", "TURN"), ("S", "250-hub"), ("S", "250 TURN"), ("S", "250 OK")],
        *[("turn", ""), ("S", "220 leaf"), ("C", "QUIT")],
    ]


@pytest.mark.parametrize("cut", [0, 1, 7, 50])
def test_a_chunk_is_shortened_like_mail_data_and_the_commands_behind_it_are_commands(cut: int) -> None:
    chunk = b"BDAT %d LAST\r\n" % len(LONG) + LONG
    said = traced(("C", b"MAIL FROM:<a@b.example>\r\n" + chunk + b"RSET\r\n"), cut=cut)
    shown = [("C", f"line {number}") for number in range(DATA_LINES)]
    size = len(LONG)
    assert said == [
        ("C", "MAIL FROM:<a@b.example>"),
        ("C", f"BDAT {size} LAST"),
        *shown,
        ("C", f"[3 more lines, {size} octets in all]"),
        ("C", "RSET"),
    ]


def test_whole_lines_of_a_chunk_are_shown_as_they_are() -> None:
    said = traced(("C", b"BDAT 11\r\n"), ("C", b"one\r\ntwo\r\n."), ("C", b"NOOP\r\n"))
    assert [text for _, text in said] == ["BDAT 11", "one", "two", ".", "NOOP"]


def test_an_empty_chunk_takes_nothing_with_it() -> None:
    assert [text for _, text in traced(("C", b"BDAT 0 LAST\r\nQUIT\r\n"))] == ["BDAT 0 LAST", "QUIT"]


@pytest.mark.parametrize("cut", [0, 1])
def test_what_proves_somebody_is_not_shown(cut: int) -> None:
    said = traced(
        ("C", b"AUTH PLAIN AGxlYWYAc2VzYW1l\r\n"),
        ("S", b"235 ok\r\n"),
        ("C", b"AUTH CRAM-MD5\r\n"),
        ("S", b"334 PDEyMzQ+\r\n"),
        ("C", b"bGVhZiBkaWdlc3Q=\r\n"),
        ("S", b"235 ok\r\n"),
        cut=cut,
    )
    text = " ".join(words for _, words in said)
    assert "AGxl" not in text and "bGVh" not in text and text.count("***") == 2


def test_mail_data_is_shortened() -> None:
    said = traced(("S", b"354 go\r\n"), ("C", LONG + b".\r\n"), ("S", b"250 ok\r\n"))
    assert len(said) == DATA_LINES + 4
    assert said[-3:] == [("C", f"[3 more lines, {len(LONG)} octets in all]"), ("C", "."), ("S", "250 ok")]


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    said = traced(("C", b"x" * 200_000), cut=60_000)
    assert said and all(len(text) <= 303 for _, text in said)
