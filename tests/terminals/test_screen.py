"""What a stranger's message looks like on a screen, and that it can do nothing else there."""

from __future__ import annotations

import base64
import re
import time

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailnode.interfaces import Message
from mailnode.mail import NULL_PATH, Path
from mailnode.terminals.folding import most_columns
from mailnode.terminals.likeness import resembles
from mailnode.terminals.screen import LINES, SIZE, Screens, screen_text, visible

SMITH = Path("smith", "usc.example")
NOON = time.mktime((2026, 1, 5, 14, 7, 0, 0, 0, -1))
FRAME = b"\r\n\a Message from smith@usc.example on mit.example at 14:07 ...\r\n"
HEADER = b"From: smith@usc.example\r\nTo: jones@mit.example\r\n"


def shown(body: bytes, sender: Path = SMITH, charset: str = "utf-8", width: int = 80) -> bytes:
    return screen_text(Message(sender, body), "mit.example", NOON, charset, width)


def text(body: bytes, charset: str = "utf-8") -> str:
    """What stands between the frame's lines."""
    octets = shown(body, charset=charset)
    assert octets.startswith(FRAME)
    assert octets.endswith(b"EOF\r\n")
    return octets[len(FRAME) : -len(b"EOF\r\n")].decode()


# -------------------------------------------------------------------------- frame


def test_the_frame_is_the_one_that_is_promised() -> None:
    assert shown(b"Blah blah blah...\r\n") == FRAME + b"Blah blah blah...\r\nEOF\r\n"


def test_the_null_sender_is_named() -> None:
    assert b" Message from <> on mit.example at 14:07 ...\r\n" in shown(b"x\r\n", NULL_PATH)


def test_the_sender_goes_through_the_same_filter() -> None:
    hostile = Path("a\x1b]0;title\x07\r\nMessage from root", "b\u202e.example")
    first, *rest = shown(b"x\r\n", hostile, width=200)[3:].split(b"\r\n")
    assert first.startswith(b' Message from "a^[]0;title^G^M^JMessage\\x20from\\x20root"@b\\u{202e}.')
    assert rest == [b"x", b"EOF", b""]


@pytest.mark.parametrize(("name", "seen"), [
    ("grüße", "grüße"),
    ("用户", "用户"),
    ("שלום", "\\u{5e9}\\u{5dc}\\u{5d5}\\u{5dd}"),  # would turn the rest of the line round
    ("مثال", "\\u{645}\\u{62b}\\u{627}\\u{644}"),
    ("a\u00a0b\u3000c", "a\\x20b\\x20\\x20c"),
])  # fmt: skip
def test_a_name_in_the_frame_is_one_word_that_runs_as_the_line_does(name: str, seen: str) -> None:
    row = shown(b"x\r\n", Path("a", f"{name}.example"), width=200).decode().split("\r\n")[1]
    assert row[1:].startswith(f" Message from a@{seen}.example on mit.example at ")


def test_a_long_sender_cannot_begin_a_line_of_the_screen() -> None:
    sender = Path("x" * 62 + " Message from root@mit.example on mit.example at 14:07 ...", "evil")
    rows = shown(b"x\r\n", sender).decode().split("\r\n")[1:]
    assert all(row.startswith("    ") for row in rows[1:-3])
    assert all(len(row.strip("\a")) < 80 for row in rows)


# -------------------------------------------------------------------------- limits


def test_at_most_24_lines_are_shown_and_the_rest_is_named() -> None:
    lines = text(b"".join(b"line %d\r\n" % number for number in range(100))).split("\r\n")
    assert lines[LINES - 1 : LINES + 1] == ["line 23", "[The rest of the message was cut.]"]


def test_exactly_24_lines_are_not_cut() -> None:
    assert "cut" not in text(b"line\r\n" * 24)


def test_one_endless_line_is_cut_at_4_kib() -> None:
    octets = shown(b"x" * 10_000_000, width=4000)
    assert len(octets) < SIZE + 200
    assert b"was cut" in octets


def test_a_message_of_which_we_hold_the_head_only_is_cut() -> None:
    octets = screen_text(Message(SMITH, b"hello\r\n", cut=True), "mit.example", NOON)
    assert octets.endswith(b"hello\r\n[The rest of the message was cut.]\r\nEOF\r\n")


def test_a_terminal_that_does_not_say_is_80_columns_wide() -> None:
    assert shown(b"x" * 200, width=0) == shown(b"x" * 200, width=80)


def test_a_message_is_made_once_for_each_width() -> None:
    screens = Screens(Message(SMITH, b"x" * 50), "mit.example", NOON)
    assert screens.at(80) is screens.at(80)
    assert screens.at(40) == shown(b"x" * 50, width=40) != screens.at(80)


def test_a_long_line_is_folded_by_us_at_a_space() -> None:
    rows = text(b"word " * 40 + b"\r\n").split("\r\n")
    assert [len(row) for row in rows] == [75, 75, 49, 0]


def test_wide_characters_count_twice_when_folding() -> None:
    rows = text("漢".encode() * 100).split("\r\n")
    assert [len(row) for row in rows] == [39, 39, 22, 0]


# ------------------------------------------------------------------------- filter

HOSTILE = [
    ("\x1b[2J", "^[[2J"),
    ("\x1b]52;c;ZXZpbA==\x07", "^[]52;c;ZXZpbA==^G"),
    ("\x1b]0;title\x1b\\", "^[]0;title^[\\"),
    ('\x1bP$q"p\x1b\\', '^[P$q"p^[\\'),
    ("\x1b[21t\x1b[6n\x1b[c", "^[[21t^[[6n^[[c"),
    ("\x9b31m", "\\u{9b}31m"),  # C1 as UTF-8
    ("\x85", "\\u{85}"),
    ("safe\rEVIL", "safe^MEVIL"),
    ("abc\b\b\bxyz", "abc^H^H^Hxyz"),
    ("\x0e\x0f\x0b\x0c\x00\x7f", "^N^O^K^L^@^?"),
    ("\u202egnp.exe", "\\u{202e}gnp.exe"),  # bidi
    ("\u2066\u2069\u061c\u200f", "\\u{2066}\\u{2069}\\u{61c}\\u{200f}"),
    ("a\u200bb\u200cc\u200dd\ufeffe\u2060f", None),  # zero width
    ("\U000e0041\U000e007f", None),  # tags
    ("\u2028\u2029", None),
    ("\u3164\u115f\u1160\uffa0\u034f\u17b4\U000e0100", None),  # printable to Python, not to the eye
    ("\ue000\uf8ff\ufff9\ufffb", None),
    ("e" + "\u0301" * 50, None),
    ("\u0301at the start", "\\u{301}at the start"),
]


@pytest.mark.parametrize(("raw", "seen"), HOSTILE)
def test_what_is_not_plainly_printable_is_shown_escaped(raw: str, seen: str | None) -> None:
    result = visible(raw)
    assert result.isprintable()
    if seen is not None:
        assert result == seen
    assert text(raw.encode()).replace("\r\n", "") == result


@pytest.mark.parametrize("char", [raw for raw, seen in HOSTILE if seen is None and not raw.startswith("e")])
def test_invisible_characters_never_pass(char: str) -> None:
    assert visible(char).isascii()


def test_two_combining_marks_on_a_base_pass_and_the_third_does_not() -> None:
    assert visible("e\u0301\u0302\u0303x\u0301") == "e\u0301\u0302\\u{303}x\u0301"


@pytest.mark.parametrize(("raw", "seen"), [
    ("a\u00a0b\u2009c\u202fd\u3000e", "a b c d  e"),  # spaces of other kinds
    ("❤\ufe0f 1\ufe0f\u20e3 ☎\ufe0e", "❤ 1\u20e3 ☎"),  # text or picture: the sign is the same
    ("a\ufe0f\ufe0eb\ufe00", "a\\u{fe0f}\\u{fe0e}b\\u{fe00}"),  # more than one is a message for somebody else
    ("\u1100\u1161\u11a8", "\u1100\u1161\u11a8"),  # one syllable of Hangul
    ("\u1100" + "\u1161" * 4, "\u1100\u1161\u1161" + "\\u{1161}" * 2),
    ("\u0915\u094d\u0937\u093f", "\u0915\u094d\u0937\u093f"),  # Devanagari
    ("\u0915" + "\u093f" * 4, "\u0915\u093f\u093f" + "\\u{93f}" * 2),
    ("👩\u200d🚀", "👩\\u{200d}🚀"),
    ("\udc9b\ud800", "\\x9b\\u{d800}"),
])  # fmt: skip
def test_what_people_write_is_readable_and_nothing_piles_up(raw: str, seen: str) -> None:
    assert visible(raw) == seen
    assert visible(raw, ascii_only=True).isascii()


def test_octets_that_are_no_utf8_are_shown_in_hex() -> None:
    assert text(b"caf\xe9 \x9b2J \xed\xb2\x80\r\n") == "caf\\xe9 \\x9b2J \\xed\\xb2\\x80\r\n"


def test_utf8_text_is_readable() -> None:
    assert text("Grüße, 漢字 😀\r\n".encode()) == "Grüße, 漢字 😀\r\n"


def test_an_ascii_terminal_gets_ascii() -> None:
    assert text("Grüße\r\n".encode(), "ascii") == "Gr\\u{fc}\\u{df}e\r\n"


def test_tab_becomes_spaces() -> None:
    assert text(b"a\tb\r\n") == "a       b\r\n"


# -------------------------------------------------------------- imitations of ours


@pytest.mark.parametrize(
    "line",
    [
        "Message from root@mit.example on mit.example at 14:07 ...",
        "  MESSAGE  FROM root",
        "Ｍｅｓｓａｇｅ from root@mit.example",
        "Broadcast message from root@mit",
        "M\u0301essage from root",
        "Меssage from root on mit at 14:07 ...",  # the first two letters are Cyrillic
        "EOF",
        "E O F",
        "-- eof --",
    ],
)
def test_a_line_that_looks_like_ours_is_indented(line: str) -> None:
    assert text(b"hello\r\n" + line.encode() + b"\r\nbye\r\n") == f"hello\r\n    {visible(line)}\r\nbye\r\n"


def test_a_frame_behind_a_full_row_is_indented_too() -> None:
    line = b"x" * 79 + b"Message from root@mit.example on mit.example at 14:07 ..."
    assert [row[:16] for row in text(line).split("\r\n")[:2]] == ["x" * 16, "    Message from"]


def test_our_note_cannot_be_imitated() -> None:
    assert text(b"[The rest of the message was cut.]\r\n") == "    [The rest of the message was cut.]\r\n"


def test_a_terminal_that_draws_greek_wide_folds_no_frame_line_out_of_a_row() -> None:
    line = "α" * 40 + "Message from root@mit.example on mit.example at 14:07 ..."
    rows = text(line.encode()).split("\r\n")[:-1]
    assert [row for row in rows if sum(map(most_columns, row)) > 79] == []
    assert "".join(row.strip() for row in rows).replace(" ", "") == line.replace(" ", "")
    assert text("α".encode() * 79) == "α" * 79 + "\r\n"  # an innocent line is not cut short


def test_an_ordinary_line_about_a_message_is_left_alone() -> None:
    assert text(b"The message from Smith came at noon.\r\n") == "The message from Smith came at noon.\r\n"


# ------------------------------------------------------------------ header or none


def test_a_header_is_cut_off_and_the_subject_shown() -> None:
    assert text(HEADER + b"Subject: lunch\r\n\r\nAt noon?\r\n") == "Subject: lunch\r\nAt noon?\r\n"


def test_trace_fields_before_a_text_without_header_are_cut_off() -> None:
    assert (
        text(b"Received: from a\r\n\tby b; now\r\nBlah blah\r\n\r\nblah\r\n") == "Blah blah\r\n\r\nblah\r\n"
    )
    assert text(b"Received: from a\r\n\r\nBlah: blah\r\n") == "Blah: blah\r\n"


@pytest.mark.parametrize(
    "body", ["Note: call me\r\n", "Note: a\r\n\r\nb\r\n", "To: do\r\nbuy milk\r\n", "To: do\r\n x y\r\nz\r\n"]
)
def test_text_that_is_no_header_is_shown_whole(body: str) -> None:
    assert text(body.encode()) == body


def test_a_message_of_a_header_alone_shows_its_subject() -> None:
    assert text(b"Subject: ring me\r\n") == "Subject: ring me\r\n"


def test_an_empty_message_shows_the_frame_alone() -> None:
    assert text(b"") == ""
    assert text(HEADER + b"\r\n") == ""


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"=?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
        (b"=?utf-8?q?Gr=C3=BC?=\r\n =?utf-8?Q?=C3=9Fe_x?=", "Grüße x"),
        (b"=?iso-8859-1?q?caf=E9?=", "café"),
        (b"=?utf-8?q?=1B]0;x=07=0D=0AEOF?=", "^[]0;x^G^M^JEOF"),
        (b"=?utf-8?b?!!!?= =?x-unknown?b?eHh4?=", None),
        (b"=?utf-8?b?A?=", "=?utf-8?b?A?="),
        (b"a\x1b[2J", "a^[[2J"),
    ],
)
def test_the_subject_is_decoded_with_care(raw: bytes, seen: str | None) -> None:
    first = text(HEADER + b"Subject: " + raw + b"\r\n\r\ntext\r\n").split("\r\n")[0]
    assert first == f"Subject: {seen if seen is not None else raw.decode()}" or seen is None


# --------------------------------------------------------------------------- MIME


def mime(kind: str, encoding: str, body: bytes) -> bytes:
    return HEADER + f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + body


def test_base64_and_quoted_printable_are_decoded() -> None:
    assert (
        text(mime("text/plain; charset=utf-8", "base64", base64.encodebytes("Grüße\n".encode())))
        == "Grüße\r\n"
    )
    assert (
        text(mime('text/plain; charset="iso-8859-1"', "Quoted-Printable", b"caf=E9 =\r\nau lait\r\n"))
        == "café au lait\r\n"
    )


def test_the_first_plain_part_of_a_nested_multipart_is_shown() -> None:
    body = (
        b"preamble\r\n--b\r\nContent-Type: multipart/alternative; boundary=b1\r\n\r\n"
        b"--b1\r\nContent-Type: text/html\r\n\r\n<p>html\r\n"
        b"--b1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(b"the text\r\n")
        + b"--b1--\r\n\r\n--b\r\n\r\nlater\r\n--b--\r\n"
    )
    assert text(mime("multipart/mixed; boundary=b", "7bit", body)) == "the text\r\n"


def test_a_part_without_header_is_plain_text() -> None:
    assert (
        text(mime('multipart/mixed; boundary="a b"', "7bit", b"--a b\r\n\r\nhello\r\n--a b--\r\n"))
        == "hello\r\n"
    )


@pytest.mark.parametrize(
    ("kind", "encoding", "body"),
    [
        ("text/html", "7bit", b"<p>raw\r\n"),
        ("multipart/mixed", "7bit", b"raw\r\n"),
        ("multipart/mixed; boundary=none", "7bit", b"raw\r\n"),
        ("text/plain", "x-unknown", b"raw\r\n"),
        ("text/plain", "base64", b"raw!!\r\n\r\n="),
    ],
)
def test_what_cannot_be_understood_is_shown_raw_or_as_far_as_it_goes(
    kind: str, encoding: str, body: bytes
) -> None:
    assert text(mime(kind, encoding, body))


def test_deeply_nested_parts_cost_nothing() -> None:
    nested = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
        for level in range(1500)
    )
    started = time.perf_counter()
    assert len(shown(HEADER + nested)) < SIZE + 300
    assert time.perf_counter() - started < 1


# --------------------------------------------------------------------------- laws

PIECES = st.sampled_from(
    [
        *(raw.encode() for raw, _ in HOSTILE),
        *(b"\r\n", b"\n", b"\r", b"\x1b", b"\x9b", b"\xff", b"\t", b" ", b"--b", b"=?utf-8?q?=1b?=", b"EOF"),
        *(b"Subject: ", b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: text/plain"),
        *(b"Content-Transfer-Encoding: base64\r\n", b"Received: x\r\n", b"Message from a on b at 10:00 ..."),
    ]
)
BODIES = st.one_of(
    st.binary(max_size=6000),
    st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=60).map(b"".join),
    st.text(max_size=2000).map(lambda chars: chars.encode("utf-8", "surrogatepass")),
)
NAMES = st.text(max_size=300)


class Emulator(pyte.Screen):
    """A terminal that notes whether anything made it answer."""

    answers = ""

    def write_process_input(self, data: str) -> None:
        self.answers += data


@settings(deadline=None)
@given(BODIES, NAMES, NAMES, st.sampled_from(["utf-8", "ascii"]), st.integers(0, 300))
def test_only_printable_text_leaves_whatever_comes(
    body: bytes, local: str, domain: str, charset: str, width: int
) -> None:
    octets = shown(body, Path(local, domain), charset, width)
    rows = octets.decode(charset).split("\r\n")
    assert rows[0] == "" and rows[1].startswith("\a Message from ") and rows[-2:] == ["EOF", ""]
    assert all(row.isprintable() for row in [rows[1][1:], *rows[2:]])
    assert len(octets) <= SIZE + 4 * 300 * 4 and len(rows) < LINES + 160
    assert not any(re.match(r"\W*(EOF\W*$|Message from)", row) for row in rows[2:-2] if row[:4] != "    ")


LIKE_OURS = ("Message from", "EOF", "at 14:07 ...", "ＥＯＦ", "\nMеssage from", "α" * 39, "x" * 79)
LIKENESSES = st.lists(st.one_of(st.sampled_from(LIKE_OURS), st.text(max_size=5)), max_size=30).map("".join)


@settings(deadline=None)
@given(LIKENESSES, st.integers(20, 90))
def test_wherever_a_terminal_folds_no_row_of_the_sender_begins_as_ours(body: str, width: int) -> None:
    frame = shown(b"", width=width).decode().split("\r\n")[:-2]
    rows = shown(body.encode(), width=width).decode().split("\r\n")
    assert rows[: len(frame)] == frame
    ours = 3 if rows[-3] == "[The rest of the message was cut.]" else 2
    for row in rows[len(frame) : -ours]:
        assert row.startswith("    ") or not resembles(row)
        if sum(map(most_columns, row)) >= width:  # a terminal might fold it
            assert not any(resembles(row[start:]) for start in range(4, len(row)))


@settings(deadline=None)
@given(BODIES, NAMES)
def test_an_emulator_shows_text_and_nothing_else_changes(body: bytes, local: str) -> None:
    screen = Emulator(80, 24)
    modes = set(screen.mode)
    pyte.ByteStream(screen).feed(shown(body, Path(local, "usc.example")))
    assert screen.mode == modes
    assert (screen.title, screen.icon_name, screen.answers) == ("", "", "")
    assert screen.cursor.x == 0 and not screen.cursor.hidden and screen.margins is None
    assert screen.display[screen.cursor.y - 1].rstrip() == "EOF"
