"""What hostile messages do on the way from a client through a node to terminals that people look at: nothing.

Each goes by SEND to a real node, which shows it on a pseudo-terminal with pyte behind it and in tmux.
"""

from __future__ import annotations

import base64
import os
import re
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyte
import pytest

ESC, ST = b"\x1b", b"\x1b\\"


class Case(NamedTuple):
    name: str
    body: bytes
    sender: str = ""  # what stands between the brackets of SEND FROM
    refused: bool = False  # it does not come past the node


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def mime(body: bytes, kind: str = "text/plain", encoding: str = "7bit") -> bytes:
    head = f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode() + body


def packed(body: bytes, charset: str = "utf-8") -> bytes:
    """As base64, which brings any octets through any channel."""
    return mime(base64.encodebytes(body).replace(b"\n", b"\r\n"), f"text/plain; charset={charset}", "base64")


def subject(words: bytes) -> bytes:
    return b"From: a@usc.example\r\nSubject: " + words + b"\r\n\r\nhello"


NESTED = b"".join(
    b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(1500)
)
FRAME = "Message from root@mit.example on mit.example at 14:07 ..."
COMMANDS = ESC + b"[2J" + ESC + b"]0;owned\x07" + ESC + b"[c"  # clear, title, who are you

CASES = [
    # --- sequences as they are
    Case("csi clears the screen", ESC + b"[2J" + ESC + b"[H" + ESC + b"[3J"),
    Case("csi moves the cursor up over our frame", b"x" + ESC + b"[5A" + ESC + b"[2Kowned"),
    Case("csi colours and conceals", ESC + b"[8m" + ESC + b"[31;5m"),
    Case("csi switches to the other screen, hides the cursor", ESC + b"[?1049h" + ESC + b"[?25l"),
    Case("csi switches the mouse and bracketed paste on", ESC + b"[?1000h" + ESC + b"[?1006h\x1b[?2004h"),
    Case("csi inserts, sets margins, origin, no wrap", ESC + b"[4h\x1b[5;9r\x1b[?6h\x1b[?7l\x1b[?69h"),
    Case("csi asks what and where we are", ESC + b"[c\x1b[>c\x1b[=c\x1b[6n\x1b[5n\x1b[?6n\x1b[x\x1b[18t"),
    Case("csi reports the title", ESC + b"]0;rm -rf ~\x07" + ESC + b"[21t" + ESC + b"[20t"),
    Case("csi resizes and iconifies the window", ESC + b"[8;5;5t\x1b[2t\x1b[3;0;0t"),
    Case("csi asks for modes and repeats", ESC + b"[?2026$p" + b"a" + ESC + b"[60000b"),
    Case("osc sets title and icon", ESC + b"]0;owned\x07\x1b]1;owned\x07\x1b]2;owned" + ST),
    Case("osc 52 writes and reads the clipboard", ESC + b"]52;c;b3duZWQ=\x07" + ESC + b"]52;c;?" + ST),
    Case("osc 8 hides a link", ESC + b"]8;;https://evil.example/" + ST + b"mit.example" + ESC + b"]8;;" + ST),
    Case("osc asks for colours and sets them", ESC + b"]4;0;?\x07\x1b]10;?\x07\x1b]11;#f00\x07\x1b]104\x07"),
    Case("osc 7 names a folder", ESC + b"]7;file:///etc\x07"),
    Case("osc 9 and 777 notify", ESC + b"]9;x\x07\x1b]777;notify;a;b\x07"),
    Case("osc 1337 opens a file", ESC + b"]1337;File=name=eA==;inline=1:eHh4\x07"),
    Case("osc without end swallows what follows", ESC + b"]0;never ended\r\nsecond line"),
    Case("dcs asks for settings and the terminal's name", ESC + b'P$q"p' + ST + ESC + b"P+q544e" + ST),
    Case("dcs passes tmux by", ESC + b"Ptmux;\x1b\x1b]0;owned\x07" + ST),
    Case("dcs draws sixels and keys", ESC + b"Pq#0;2;0;0;0~~" + ST + ESC + b"P1;1|17/6f776e6564" + ST),
    Case("dcs without end swallows what follows", ESC + b"P+q never ended\r\nsecond line"),
    Case("apc, pm and sos", ESC + b"_Gf=24;AAAA" + ST + ESC + b"^hidden" + ST + ESC + b"Xhidden" + ST),
    Case("esc resets, sets the screen's name, keypad", ESC + b"c\x1bkowned\x1b\\\x1b=\x1b>\x1b#8"),
    Case("esc chooses other charsets", ESC + b"(0lqqk\x1b)0\x0elqqk\x1b%@\x1b%G\x1b G\x1bn\x1b~"),
    Case("esc saves, goes away, restores", ESC + b"7\x1bD\x1bM\x1bE\x1b8\x1bH"),
    Case("all control characters", bytes(range(1, 10)) + b"\x0b\x0c" + bytes(range(14, 32)) + b"\x7f lqqk"),
    Case("shift out draws lines", b"\x0elqqqk\x0f"),
    Case("enquiry asks for the answerback", b"\x05\x05\x05"),
    Case("a flood of bells", b"\x07" * 3000),
    Case("backspaces over the line", b"safe\b\b\b\bEVIL" + b"\b" * 200),
    Case("tabs over the edge", b"\t" * 300 + b"x"),
    Case("vertical tabs and form feeds scroll", b"\x0b" * 100 + b"\x0c" * 100),
    Case("nul, delete and cancel", b"\x00\x7f\x18\x1a\x1b\x18[2J"),
    Case("a bare CR is refused", b"safe\rEVIL", refused=True),
    Case("a bare LF is refused", b"safe\nEVIL", refused=True),
    # --- eight bits
    Case("c1 in eight bits", b"\x9b2J\x9d0;owned\x9c\x90$q\x9c\x9e\x9f\x98\x9c\x84\x85\x8d\x8e\x8f\x9ac"),
    Case("c1 as utf-8", utf8("\x9b2J\x9d0;owned\x9c\x90$q\x9c\x9e\x9f\x98\x84\x85\x8d")),
    Case("invalid utf-8", b"\xff\xfe\xc3\x28\xe2\x82 \x80\xbf \xf0\x9f\x98 \xe9t\xe9"),
    Case("overlong utf-8", b"\xc0\x9b[2J \xe0\x80\x9b[2J \xf0\x80\x80\x9b[2J \xc1\x9b]0;owned\xc0\x87"),
    Case("utf-8 beyond unicode", b"\xf4\x90\x80\x80\xf8\x88\x80\x80\x80"),
    Case("utf-8 of surrogates", b"\xed\xa0\x80\xed\xb2\x9b2J"),
    Case("an escape in pieces of utf-8", b"\xe2\x1b[2J\x82\xac \xc2\x1b]0;owned\x07\x9b2J"),
    # --- unicode
    Case("bidi overrides", utf8("\u202egpj.exe\u202c \u202da\u202b\u202ab\u200f\u200e\u061c")),
    Case("bidi isolates", utf8("\u2066a\u2069\u2067b\u2068c\u2069")),
    Case("zero width", utf8("a\u200bb\u200cc\u200dd\ufeffe\u2060f\u2062g\u180eh\u00adi")),
    Case("tag characters", utf8("\U000e0001" + "".join(chr(0xE0000 + ord(c)) for c in "hidden orders"))),
    Case("a flood of combining marks", utf8("e" + "\u0301\u0489\u20dd" * 1300)),
    Case("marks that begin the line", utf8("\u0301\u0336" * 10)),
    Case("a flood of joining vowels", utf8("\u1100" + "\u1161" * 1000 + "\u11a8" * 300)),
    Case("a flood of variation selectors", utf8("a" + "\ufe0f" * 500 + "\ufe00\U000e0100\u180b" * 200)),
    Case("private use and unassigned", utf8("\ue000\uf8ff\U000f0000\U0010fffd\u0378\uffff\U0001ffff")),
    Case("line and paragraph separators", utf8("one\u2028two\u2029three\x85four")),
    Case("letters that nobody sees", utf8("\u3164\u115f\u1160\uffa0\u034f\u17b4\u17b5\u2800\ufffc")),
    Case("wide characters on the edge", utf8("x" * 78 + "漢" * 50 + "ｗ" * 50 + "😀" * 50)),
    # --- our own lines
    Case("our first line", FRAME.encode() + b"\r\n " + FRAME.encode() + b"\r\nEOF\r\n\r\n " + FRAME.encode()),
    Case("our first line in other letters", utf8("Ｍｅｓｓａｇｅ ｆｒｏｍ a\r\nМеssаgе frоm\r\n𝐌essage")),
    Case("our first line behind a full row", b"x" * 79 + FRAME.encode() + b"\r\n" + b"-" * 78 + b" EOF"),
    Case("our first line behind a row of marks", utf8("é" * 78 + FRAME + "\r\n" + "α" * 39 + FRAME)),
    Case("our bell", packed(b"EOF\r\n\r\n\x07 " + FRAME.encode() + b"\r\nlog in again:\r\n")),
    Case("our last line", b"EOF\r\neof\r\n E O F \r\nEOF.\r\n" + utf8("ЕОҒ\r\nＥＯＦ")),
    Case("our note about the rest", b"[The rest of the message was cut.]\r\nEOF\r\n"),
    # --- the subject
    Case("a word that decodes to newlines", subject(b"=?utf-8?q?a=0D=0AEOF=0D=0A_Message_from_root?=")),
    Case("a word that decodes to escapes", subject(b"=?utf-8?b?" + base64.b64encode(COMMANDS) + b"?=")),
    Case("words that are an escape together", subject(b"=?utf-8?q?=1B?= =?utf-8?q?=5D0=3Bowned=07?=")),
    Case("a word of c1 in latin-1", subject(b"=?iso-8859-1?q?=9B2J=9D0;owned=9C=90?=")),
    Case("a word in iso-2022-jp with escapes", subject(b"=?iso-2022-jp?q?=1B[2J=1B$B=1B]0;x=07?=")),
    Case("a word that decodes to a word", subject(b"=?utf-8?q?=3D=3Futf-8=3Fq=3F=3D1B[2J=3F=3D?=")),
    Case("a word of bidi and tags", subject(b"=?utf-8?q?=E2=80=AEabc=F3=A0=81=81?=")),
    Case("a raw escape in the subject", subject(COMMANDS + b"\x9b2J\x00")),
    Case("a subject of a thousand words", subject(b" ".join([b"=?utf-8?q?=1B[2J?="] * 1000))),
    Case("escapes in other fields", b"From: " + COMMANDS + b"\r\nTo: \x9b2J\r\nSubject: x\r\n\r\nhello"),
    # --- MIME
    Case("base64 of escapes", packed(COMMANDS + b"\r\n" + ESC + b"]52;c;eA==\x07")),
    Case("quoted-printable escapes, CR and backspaces", mime(
        b"safe=0DEVIL=1B[2J=1B]0;owned=07=08=08=9B2J=C2=9B2J=00", encoding="quoted-printable")),
    Case("parts nested 1500 deep", b"From: a@usc.example\r\n" + NESTED + b"\r\n" + COMMANDS),
    Case("a thousand parts", mime((b"--b\r\nContent-Type: image/png\r\n\r\n" + COMMANDS + b"\r\n") * 1000,
                                  "multipart/mixed; boundary=b")),
    Case("a boundary of escapes", mime(b"--\x1b[2J\r\n\r\n" + COMMANDS, 'multipart/x; boundary="\x1b[2J"')),
    Case("a multipart in itself", mime(b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" * 500,
                                       "multipart/mixed; boundary=b")),
    Case("only html", mime(b"<title>\x1b]0;owned\x07</title><script>", "text/html")),
    Case("only a picture", packed(COMMANDS).replace(b"text/plain", b"image/png")),
    Case("charset utf-7", mime(b"+ABs-[2J +ABs-]0;owned+AAc- +AJs-2J", "text/plain; charset=utf-7")),
    Case("charset iso-2022-jp", mime(b"\x1b$B\x1b[2J\x1b(J\x1b[2J\x0e", "text/plain; charset=iso-2022-jp")),
    Case("charset iso-2022-kr and -cn", mime(b"\x1b$)C\x0e\x1b[2J\x0f", "text/plain; charset=iso-2022-kr")),
    Case("charset utf-16", packed("\x1b[2J\x1b]0;owned\x07\x9b2J".encode("utf-16"), "utf-16")),
    Case("charset ebcdic", packed(COMMANDS.decode().encode("cp037"), "cp037")),
    Case("charset big5 that eats an escape", packed(b"\xa4\x1b[2J\x81\x1b]0;owned\x07\xff", "big5")),
    Case("charset gb18030 of c1", packed(b"\x81\x30\x84\x37" + "\x9b2J\u202e".encode("gb18030"), "gb18030")),
    Case("charset unicode_escape", mime(rb"\x1b[2J \u009b2J \033[2J", "text/plain; charset=unicode_escape")),
    Case("charset of a path", mime(COMMANDS, 'text/plain; charset="../../etc/passwd\x1b[2J"')),
    Case("an encoding that nobody knows", mime(COMMANDS, encoding="x-\x1b[2J")),
    Case("uuencode", mime(b"begin 644 \x1b[2J\r\n#&ULR\r\n`\r\nend", encoding="x-uuencode")),
    Case("base64 that is broken", mime(b"!!\x1b[2J!!Gw==G1sy\x9b", encoding="base64")),
    Case("an encoding twice", mime(b"G1sySg==\r\n", encoding="base64\r\nContent-Transfer-Encoding: 8bit")),
    # --- sizes
    Case("10 MB in one line", b"x" * 10_000_000 + COMMANDS),
    Case("10 MB of escapes in one line", COMMANDS * 500_000),
    Case("a million lines", b"\r\n" * 1_000_000 + b"x"),
    Case("a header of 20,000 fields", b"a:\r\n" * 20_000 + b"\r\n" + COMMANDS),
    # --- the sender
    Case("a sender that holds our line", b"x", '"x on mit.example at 14:07 ... Message from r"@usc.example'),
    Case("a sender of escapes is refused", b"x", '"\x1b[2J\x1b]0;owned\x07"@usc.example', True),
    Case("a sender of c1 is refused", b"x", "\x9b2J@usc.example", True),
    Case("a sender that fills the row", b"x", f"{'e' * 60}@{'.'.join(['usc'] * 40)}.example"),
    Case("a sender that could be a sequence", b"x", '"[2J\\]0;owned"@usc.example'),
]  # fmt: skip


class Emulator(pyte.Screen):
    """A terminal that notes what it would have sent back."""

    answers = ""

    def write_process_input(self, data: str) -> None:
        self.answers += data

    def state(self) -> dict[str, Any]:
        """Everything that a sequence may change but the text itself."""
        return {
            "modes": set(self.mode),
            "title": (self.title, self.icon_name),
            "charset": (self.charset, self.g0_charset, self.g1_charset),
            "margins": self.margins,
            "tabulators": set(self.tabstops),
            "saved": list(self.savepoints),
            "size": (self.lines, self.columns),
            "pen": (self.cursor.attrs, self.cursor.hidden),
            "colours": {cell._replace(data="") for row in self.buffer.values() for cell in row.values()},
            "answers": self.answers,
        }


def watched(octets: bytes) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The state of an emulator before and after `octets`, and its screen."""
    screen = Emulator(80, 60)
    screen.draw(" ")  # so that there is a cell
    screen.carriage_return()
    before = screen.state()
    pyte.ByteStream(screen).feed(octets)
    return before, screen.state(), [row.rstrip() for row in screen.display]


class Stage(NamedTuple):
    """A node, and somebody who is logged in on a bare pseudo-terminal and in tmux."""

    node: Any
    user: str
    master: int
    pane: Any
    answers: Path  # what tmux has sent to the program in it

    def perform(self, case: Case) -> tuple[tuple[int, ...], bytes]:
        """The codes of the replies, and what has come to the bare terminal when the last was said."""
        number = CASES.index(case)
        body = re.sub(rb"(?m)^\.", b"..", case.body).removesuffix(b"\r\n") + b"\r\n.\r\n"
        talk = self.node.talk()
        talk.say("HELO usc.example")
        codes = talk.codes(f"SEND FROM:<{case.sender or f'case{number}@usc.example'}>")
        if codes == [250]:
            codes += talk.codes(f"RCPT TO:<{self.user}@mit.example>", "DATA")
            talk.raw(body)
            codes.append(int(talk.reply()[0][:3]))
        talk.close()
        return tuple(codes), self.read()

    def read(self) -> bytes:
        octets = b""
        try:
            while piece := os.read(self.master, 65536):
                octets += piece
        except BlockingIOError:
            pass  # that was all
        return octets


@pytest.fixture(scope="module")
def stage(
    make_shared_node: Any, make_pane: Any, open_utmp: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    utmp = open_utmp(folder / "utmp")
    answers = folder / "answers"
    pane = make_pane(f"stty raw -echo; exec cat > {answers}")
    pane.wait_until(answers.exists, "the program in tmux")
    master, slave = os.openpty()
    tty.setraw(slave)  # what is written comes out as it is
    os.set_blocking(master, False)
    device = os.ttyname(slave)
    for name in (device, pane.device):
        os.chmod(name, 0o620)
    utmp.log_in(device, pane.device)
    node = make_shared_node(
        f"""
hostname = "mit.example"
[users]
names = ["{utmp.user}"]
[terminals]
utmp = "{utmp.file}"
rate = 1000
rate_all = 1000
"""
    ).start()
    yield Stage(node, utmp.user, master, pane, answers)
    os.close(slave)
    os.close(master)


def test_the_table_is_long_enough_and_names_each_case_once() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_message_is_text_and_nothing_else(stage: Stage, case: Case) -> None:
    state = stage.pane.state()
    codes, octets = stage.perform(case)
    if case.refused:
        assert codes[-1] // 100 == 5 and octets == b""
        return
    assert codes == (250, 250, 354, 250)

    # On the wire: our BEL, and else printable text and CR LF.
    assert octets.startswith(b"\r\n\a Message from ") and octets.endswith(b"\r\nEOF\r\n")
    rows = octets[3:].decode("utf-8").split("\r\n")
    assert all(row.isprintable() for row in rows)
    assert len(octets) < 6000 and len(rows) < 40
    # None of the sender's rows looks like one of ours.
    assert not [row for row in rows[1:-2] if re.match(r"\W{0,3}(EOF\W*$|message from)", row, re.I)]

    # In pyte: text, and the cursor behind it.
    before, after, display = watched(octets)
    assert after == before
    assert [row for row in display if row][-1] == "EOF"
    assert display[1].startswith(" Message from ")

    # In tmux, which has got the same.
    first = rows[0] if case.sender else f" Message from case{CASES.index(case)}@usc.example on"

    def behind() -> str:
        return str(stage.pane.shown().rpartition(first)[2])

    stage.pane.wait_until(lambda: re.search(r"^EOF *$", behind(), re.M), f"{case.name} in tmux")
    assert stage.pane.state() == state
    assert stage.pane.tell("list-buffers") == ""
    assert stage.answers.read_bytes() == b""
    seen = [row.rstrip() for row in behind().split("\n")[1:]]
    assert seen[: len(rows) - 2] == [row.rstrip() for row in rows[1:-1]]


# What the checks above would say if the octets came through as they are.
RAW = [
    (b"\x1b]2;owned\x07", "title", "pane_title"),
    (b"\x1b[?25l", "modes", "cursor_flag"),
    (b"\x1b[4h", "modes", "insert_flag"),
    (b"\x1b[5;9r", "margins", "scroll_region_upper"),
    (b"\x1b[c", "answers", ""),
    (b"\x1b%@\x1b(0", "charset", ""),
    (b"\x1b[31mx", "colours", ""),
    (b"\x1b]52;c;b3duZWQ=\x07", "", "buffer_name"),
]


@pytest.mark.parametrize(("octets", "in_pyte", "in_tmux"), RAW)
def test_the_same_octets_unfiltered_would_be_noticed(
    make_pane: Any, tmp_path: Path, octets: bytes, in_pyte: str, in_tmux: str
) -> None:
    before, after, _ = watched(octets)
    assert (before != after) == bool(in_pyte)
    assert not in_pyte or before[in_pyte] != after[in_pyte]
    answers = tmp_path / "answers"
    pane = make_pane(f"stty raw -echo; exec cat > {answers}")
    pane.wait_until(answers.exists, "the program in tmux")
    state = pane.state()
    Path(pane.device).write_bytes(octets)
    if in_tmux:
        pane.wait_until(lambda: pane.state()[in_tmux] != state[in_tmux], f"{in_tmux} in tmux")
    if in_pyte == "answers":
        pane.wait_until(lambda: answers.read_bytes() != b"", "an answer of tmux")
