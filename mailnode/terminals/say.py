"""What a person says about messages to their terminals: from whom, and how many a minute (pure).

The file `~/.mailnode` is TOML:

    [messages]
    from = "all"      # or "same host", "trusted", "nobody", or ["smith@usc.example", "@mit.example"]
    rate = 10         # a minute from one sender
    rate_all = 30     # a minute from all of them
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from mailnode.welcome import Welcome, read_welcome

RATE: Final = 1000  # a minute; more cannot be read anyway


class SayError(Exception):
    """A file says nothing that can be obeyed; the text is one line."""


@dataclass(frozen=True, slots=True)
class Say:
    """From whom messages are welcome, and how many."""

    welcome: Welcome = field(default_factory=Welcome)
    rate: int = 10  # messages a minute from one sender
    rate_all: int = 30  # messages a minute from all senders


def parse_say(octets: bytes, default: Say) -> Say:
    """What a file says; what it does not mention is as in `default`. SayError if it cannot be obeyed."""
    try:
        raw = tomllib.loads(octets.decode("utf-8"))
    except UnicodeDecodeError:
        raise SayError("not UTF-8") from None
    except (ValueError, RecursionError):  # a number of thousands of digits is a plain ValueError
        raise SayError("not TOML") from None
    _only(raw, "", ("messages",))
    messages = raw.get("messages", {})
    if not isinstance(messages, dict):
        raise SayError("messages: expected a table")
    _only(messages, "messages.", ("from", "rate", "rate_all"))
    say = default
    if "from" in messages:
        say = replace(say, welcome=_welcome(messages["from"]))
    if "rate" in messages:
        say = replace(say, rate=_rate("messages.rate", messages["rate"]))
    if "rate_all" in messages:
        say = replace(say, rate_all=_rate("messages.rate_all", messages["rate_all"]))
    return say


def _welcome(value: object) -> Welcome:
    try:
        return read_welcome(value)
    except ValueError as error:
        raise SayError(f"messages.from: {error}") from None


def _rate(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RATE:
        raise SayError(f"{key}: expected a number from 0 to {RATE}")
    return value


def _only(table: Mapping[str, object], path: str, known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise SayError(f"{path}{ascii(key)[1:-1][:40]}: unknown key")
