"""The replies to VRFY and EXPN (RFC 821 3.3): what a person is told of what the directory found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mailnode.interfaces import Account, Addresses, Ambiguous, Finding, Forward, Moved, Unknown
from mailnode.mail import Path, Reply

# RFC 5321 3.5.3 and 7.3: the same words whoever is asked for
CANNOT_VERIFY: Final = Reply(252, "Cannot VRFY user, but will accept message and attempt delivery", "2.5.2")
ACCESS_DENIED: Final = Reply(550, "Access Denied to You.", "5.7.1")
NO_SUCH_USER: Final = Reply(550, "No such user here", "5.1.1")
NO_SUCH_LIST: Final = Reply(550, "No such mailing list here", "5.1.1")
AMBIGUOUS: Final = Reply(553, "User ambiguous", "5.1.4")
IS_LIST: Final = Reply(550, "That is a mailing list, not a user", "5.2.4")
IS_USER: Final = Reply(550, "That is a user name, not a mailing list", "5.2.4")

_plain_phrase = re.compile(r"[A-Za-z0-9 .'-]*\Z").match

Qualify = Callable[[Path], Path]  # gives a path without a domain that of this node


def will_forward(path: Path) -> Reply:
    """RFC 821 3.2; a sender may read this text (RFC 1123 5.2.10)."""
    return Reply(251, f"User not local; will forward to {path}", "2.1.5")


def please_try(path: Path) -> Reply:
    """RFC 821 3.2; a sender may read this text (RFC 1123 5.2.10)."""
    return Reply(551, f"User not local; please try {path}", "5.1.6")


def verification(found: Finding, qualify: Qualify) -> Reply:
    """The reply to VRFY for a client that may know."""
    match found:
        case Account():
            return Reply(250, mailbox_line(found.full_name, qualify(Path(found.name))), "2.1.5")
        case Forward(path):
            return will_forward(qualify(path))
        case Moved(path):
            return please_try(qualify(path))
        case Ambiguous():
            return AMBIGUOUS
        case Addresses(is_list=True):
            return IS_LIST
        case Addresses():
            return Reply(250, str(qualify(Path(found.name))), "2.1.5")
        case Unknown():
            return NO_SUCH_USER


def expansion(found: Finding, qualify: Qualify, full_name: Callable[[Path], str]) -> Reply:
    """The reply to EXPN for a client that may know; `full_name` is that of a user here, else empty."""
    match found:
        case Addresses():
            lines = [mailbox_line(phrase or full_name(path), qualify(path)) for phrase, path in found.members]
            return Reply(250, tuple(lines), "2.1.5")
        case Unknown():
            return NO_SUCH_LIST
        case _:
            return IS_USER


def mailbox_line(full_name: str, path: Path) -> str:
    """`Full Name <mailbox>`, the name quoted where it holds more than a phrase may (RFC 822 3.3)."""
    if not full_name:
        return str(path)
    if not _plain_phrase(full_name):
        full_name = '"' + full_name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{full_name} {path}"
