"""The reader of a receiver's replies.

Invariants:
- Nothing but ProtocolError is raised, and however the octets are cut the same replies come out.
- A reply has a code of 200 to 599, all its lines have that code, and its text is printable ASCII.
- No octets are kept beyond one line of bounded length, no lines beyond a bounded number.
- Written again, a reply is read as the same reply.
"""

from __future__ import annotations

import re

from fuzz.choices import arrivals, split
from mailnode.mail import Reply
from mailnode.smtp.replies import MAX_LINE, MAX_LINES, ProtocolError, ReplyReader, readable

MAX_LENGTH = 12000


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    replies, broken = _read(arrivals(octets, decisions))
    assert (replies, broken) == _read([octets])
    for reply in replies:
        _is_sound(reply)
    _follow(octets, replies, broken)
    assert readable(octets).isascii() and len(readable(octets)) <= len(octets)


def _read(pieces: list[bytes]) -> tuple[list[Reply], bool]:
    reader = ReplyReader()
    replies = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (reply := reader.next()) is not None:
                replies.append(reply)
            assert len(reader.pending) <= MAX_LINE and b"\n" not in reader.pending
            assert not (reader.idle and reader.pending)
    except ProtocolError as error:
        assert str(error).isascii() and str(error).isprintable() and len(str(error)) < 200
        return replies, True
    return replies, False


def _is_sound(reply: Reply) -> None:
    assert 200 <= reply.code < 600 and 1 <= len(reply.lines) <= MAX_LINES
    for line in reply.lines:
        assert line.isascii() and (line.isprintable() or not line) and len(line) <= MAX_LINE
    assert not reply.status or reply.status[0] == str(reply.code)[0]
    again, broken = _read([Reply(reply.code, reply.text).encode()])
    assert not broken and [one.code for one in again] == [reply.code]


def _follow(octets: bytes, replies: list[Reply], broken: bool) -> None:
    """Whether the replies are those that the lines say, read by other means."""
    codes = []
    code = b""
    for line in octets.split(b"\n")[:-1]:
        match = re.match(rb"([2-5]\d\d)([ -]|\r?\Z)", line)
        if match is None or (code and match[1] != code):
            break
        code = match[1] if match[2] == b"-" else b""
        if not code:
            codes.append(int(match[1]))
    found = [reply.code for reply in replies]
    assert found == codes[: len(found)]
    assert broken or found == codes
