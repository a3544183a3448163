"""A conversation: each line that a person ends is a message of its own, and is answered for at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Final

import click

from mailnode.commands.message import with_crlf
from mailnode.commands.verdict import Verdict, exit_status

LINE: Final = 998  # octets of a line without its end (RFC 5321 4.5.3.1.6)
TYPED: Final = 65536  # octets of a line that are read at once
BEGIN: Final = "Each line is sent as you end it; ^D on an empty line ends the conversation."


def converse(lines: BinaryIO, give: Callable[[bytes], Sequence[Verdict]], prompt: str = "> ") -> int:
    """Gives each line of `lines` away as it comes, until their end, or until no recipient can be reached
    any more. The exit status is that of the last line."""
    status = os.EX_OK
    while True:
        click.echo(prompt, nl=False, err=True)
        line = lines.readline(TYPED)
        if not line:
            click.echo(err=True)  # the shell's prompt starts on a line of its own
            return status
        if not line.strip():
            continue
        verdicts = give(with_crlf(b"".join(folded(line))))
        status = exit_status(verdicts)
        if all(verdict.status in (os.EX_NOUSER, os.EX_UNAVAILABLE) for verdict in verdicts):
            return status


def folded(line: bytes) -> Iterator[bytes]:
    """`line` in pieces that every host takes, each with its end; no character is torn (UTF-8)."""
    rest = line.rstrip(b"\r\n")
    while len(rest) > LINE:
        cut = LINE
        while cut > LINE - 4 and rest[cut] & 0xC0 == 0x80:
            cut -= 1
        yield rest[:cut] + b"\n"
        rest = rest[cut:]
    yield rest + b"\n"
