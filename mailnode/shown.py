"""What terminals are told and tell: who is logged in, and what is to be shown."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from mailnode.mail import Path


class Terminal(Struct, frozen=True, gc=False, array_like=True):
    """A terminal on which a user is logged in."""

    user: str
    line: str  # "pts/3"
    kind: str  # "utmp" or "logind": of this host; "attached": opened with `mailnode terminal`
    accepting: bool  # mesg y
    since: float  # seconds since the epoch
    idle: float  # seconds since the last key
    host: str = ""  # where the user came from


class Standing(Struct, frozen=True, gc=False, array_like=True):
    """Where a message for a terminal comes from, as far as this host has seen it itself."""

    same_host: bool = False  # by a local socket or the loopback network
    trusted: bool = False  # from a client that may relay


STRANGER: Final = Standing()


class Message(Struct, frozen=True, gc=False, array_like=True):
    """What is to be shown on a terminal, as it came from outside: nothing in it is filtered yet."""

    sender: Path
    body: bytes  # the head of the message, header included
    cut: bool = False  # the message is longer than `body`
    standing: Standing = STRANGER
