"""What a stranger's message looks like on a terminal.

Invariants:
- No message raises anything, in either charset and at any width.
- The octets are CR LF BEL, then lines of printable text ended by CR LF, the last of them "EOF".
- No character on the screen is a control, a format character, unassigned, private or a separator of lines.
- However long the message, a bounded number of rows and octets is shown.
- No row but the first is one that a reader could take for our own first or last line.
- What is shown in ASCII is ASCII.
"""

from __future__ import annotations

import unicodedata

from fuzz.choices import pick, split
from mailnode.interfaces import Message
from mailnode.mail import Path
from mailnode.terminals.plain import plain
from mailnode.terminals.screen import screen_text

MAX_LENGTH = 9000
ROWS = 24 + 1 + 1 + 40  # text, our note, EOF, and a first line folded at its worst
OCTETS = 8192

SENDERS = (
    Path("smith", "usc.example"),
    Path(""),
    Path("EOF\x1b[2J\r\n", "usc.example"),
    Path('" Message from root@mit.example on mit.example at 14:07 ...', "usc.example"),
    Path("\u202e\u0301" * 30, "usc.example"),
)
WIDTHS = (80, 0, 20, 40, 132, 1000)
FORBIDDEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    charset = pick(decisions[0], ("utf-8", "ascii"))
    sender = pick(decisions[1], SENDERS)
    message = Message(sender, octets, cut=bool(decisions[3] & 1))
    shown = screen_text(message, "mit.example", 1e9, charset, pick(decisions[2], WIDTHS))
    assert len(shown) <= OCTETS, len(shown)
    assert shown.startswith(b"\r\n\a ") and shown.endswith(b"\r\nEOF\r\n")
    text = shown[3:].decode("ascii" if charset == "ascii" else "utf-8")
    rows = text[:-2].split("\r\n")
    assert len(rows) <= ROWS
    assert rows[0].startswith(" Message from ") and rows[-1] == "EOF"
    for row in rows:
        _is_plain(row)
    for row in rows[1:-1]:
        letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", row).casefold()))
        imitates = letters == "eof" or letters.startswith("messagefrom")
        assert not imitates or row.startswith("    "), row
    letter = plain(octets)
    # A character takes at least one octet, or, where a charset widens it, half of one.
    assert len(letter.text or "") <= len(octets) and len(letter.subject) <= len(octets)


def _is_plain(row: str) -> None:
    for char in row:
        assert char == " " or unicodedata.category(char) not in FORBIDDEN, hex(ord(char))
        assert unicodedata.category(char) != "Zs" or char.isprintable(), hex(ord(char))
