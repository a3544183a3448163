"""What is said on the socket of attached terminals: one JSON object a line (pure).

The first line says what the client wants, and in which version:

    {"mailnode": "terminal", "version": 1, "columns": 80, "accepting": true, "charset": "utf-8",
     "line": "pts/3", "device": [25, 6]}
    {"mailnode": "who", "version": 1, "user": "jones"}
    {"mailnode": "became", "version": 1, "id": "362necygczm9h", "seconds": 6}

The answer to the first is `{"attached": "jones", "hostname": "mit.example", "version": 1}`, then come
`{"show": 7, "text": "...", "at": 1732356000.0}`, which the client answers by `{"shown": 7}` once the text
is on its screen, or by `{"missed": 7}`. In between it says `{"columns": 100}`, `{"accepting": false}`, or
`{"read": 1732356000.0}`: when a key was last taken. The answer to the second is one line for each terminal
and `{"end": 2}`. That to the third, what became of a message that this user has sent, is one for each of
its recipients (`mailnode.outcomes` has the words) and `{"end": 2, "whole": true}`. An answer
`{"error": "...", "again": false}` is the last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mailnode.interfaces import Terminal
from mailnode.terminals.logins import printable

VERSION: Final = 1
MAX_LINE: Final = 1024  # octets that a client says in one line
COLUMNS: Final = (20, 1000)  # of a terminal that are believed
COLUMNS_UNKNOWN: Final = 80
LONGEST: Final = 10.0  # seconds that an answer may be waited for

_LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9/._-]{0,31}\Z")  # what a terminal is called, to be shown only
_NUMBER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Attach:
    """A terminal that somebody attaches."""

    columns: int = COLUMNS_UNKNOWN
    accepting: bool = True
    charset: str = ""  # "utf-8", "ascii", empty if the client does not know
    line: str = ""
    device: tuple[int, int] | None = None  # of the terminal: st_dev and st_ino


@dataclass(frozen=True, slots=True)
class Who:
    """A question who is attached."""

    user: str | None = None


@dataclass(frozen=True, slots=True)
class Became:
    """A question what became of a message; the answer may be waited for so many seconds."""

    id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Columns:
    columns: int


@dataclass(frozen=True, slots=True)
class Accepting:
    accepting: bool


@dataclass(frozen=True, slots=True)
class Read:
    """When a key was last taken, seconds since the epoch."""

    at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a text: it is on the screen, or it is not."""

    number: int
    shown: bool


Said: TypeAlias = Columns | Accepting | Read | Outcome


class WordsError(ValueError):
    """What the other end says cannot be understood; the text is one line."""


def first(line: bytes) -> Attach | Who | Became:
    """What the first line of a client wants. WordsError."""
    words = _object(line)
    wants = words.get("mailnode")
    if wants not in ("terminal", "who", "became"):
        raise WordsError("this socket is for mailnode's own terminals")
    if words.get("version") != VERSION:
        raise WordsError(f"this node speaks version {VERSION} of attached terminals")
    if wants == "who":
        user = words.get("user")
        return Who(user if isinstance(user, str) else None)
    if wants == "became":
        id, seconds = words.get("id"), words.get("seconds")
        waits = float(seconds) if isinstance(seconds, int | float) and 0 <= seconds <= LONGEST else 0.0
        return Became(id if isinstance(id, str) else "", waits)
    name = words.get("line")
    return Attach(
        _columns(words.get("columns")),
        words.get("accepting") is not False,
        str(words["charset"]) if words.get("charset") in ("utf-8", "ascii") else "",
        name if isinstance(name, str) and _LINE.match(name) else "",
        _device(words.get("device")),
    )


def later(line: bytes) -> Said:
    """What an attached client says after its first line. WordsError."""
    words = _object(line)
    match words:
        case {"shown": int(number)}:
            return Outcome(number, True)
        case {"missed": int(number)}:
            return Outcome(number, False)
        case {"columns": columns}:
            return Columns(_columns(columns))
        case {"accepting": bool(accepting)}:
            return Accepting(accepting)
        case {"read": int(at) | float(at)}:
            return Read(float(at) if abs(at) < _NUMBER else 0.0)
    raise WordsError("not what a terminal says")


def of_terminal(terminal: Terminal) -> dict[str, Any]:
    """A terminal as one line of the answer to `who`."""
    return {
        "user": terminal.user,
        "line": terminal.line,
        "accepting": terminal.accepting,
        "since": terminal.since,
        "idle": terminal.idle,
    }


def to_terminal(words: Mapping[str, Any]) -> Terminal:
    """The terminal that a line of an answer is. WordsError."""
    match words:
        case {
            "user": str(user),
            "line": str(line),
            "accepting": bool(accepting),
            "since": int(since) | float(since),
            "idle": int(idle) | float(idle),
        }:
            return Terminal(
                printable(user), printable(line), "attached", accepting, float(since), float(idle)
            )
    raise WordsError("not a terminal")


def encode(words: Mapping[str, Any]) -> bytes:
    """One line. In ASCII: whatever it holds stays one line."""
    return json.dumps(words).encode("ascii") + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        words = json.loads(line)
    except (ValueError, RecursionError):
        raise WordsError("not a line of JSON") from None
    if not isinstance(words, dict):
        raise WordsError("not an object")
    return words


def _columns(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return COLUMNS_UNKNOWN
    return min(max(value, COLUMNS[0]), COLUMNS[1])


def _device(value: object) -> tuple[int, int] | None:
    match value:
        case [int(device), int(inode)] if 0 <= device < _NUMBER and 0 <= inode < _NUMBER:
            return device, inode
    return None
