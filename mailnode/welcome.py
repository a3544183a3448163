"""From whom messages to a person's terminals are welcome: the words that a configuration and a person use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mailnode.interfaces import Standing
from mailnode.mail import Path
from mailnode.smtp.grammar import parse_domain, parse_mailbox

WORDS: Final = ("all", "same host", "trusted", "nobody")
NAMES: Final = 200  # addresses and domains that may be named


class Welcome:
    """One of WORDS, or addresses and @domains in lower case."""

    __slots__ = ("names", "word")

    def __init__(self, word: str = "all", names: Iterable[str] = ()) -> None:
        self.word = word
        self.names = frozenset(names)

    def __repr__(self) -> str:
        return f"Welcome({self.word!r}, {sorted(self.names)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Welcome) and (self.word, self.names) == (other.word, other.names)

    def __hash__(self) -> int:
        return hash((self.word, self.names))

    def holds(self, sender: Path, standing: Standing) -> bool:
        """Whether a message of `sender` is welcome. An address is what the sender claims to be."""
        if self.word == "same host":
            return standing.same_host
        if self.word == "trusted":
            return standing.trusted
        if self.word == "named":
            return sender.mailbox.lower() in self.names or f"@{sender.domain.lower()}" in self.names
        return self.word == "all"


def read_welcome(value: object) -> Welcome:
    """The meaning of one of WORDS, or of a list of addresses and @domains. ValueError if it has none."""
    if isinstance(value, str) and value in WORDS:
        return Welcome(value)
    if not isinstance(value, list):
        raise ValueError(f"expected one of {', '.join(WORDS)}, or a list of addresses and @domains")
    if len(value) > NAMES:
        raise ValueError(f"more than {NAMES} names")
    return Welcome("named", map(_name, value))


def _name(item: object) -> str:
    if isinstance(item, str):
        if item.startswith("@") and parse_domain(item[1:]) is not None:
            return item.lower()
        path = parse_mailbox(item, bare=True)
        if path is not None and path.domain and not path.route:
            return path.mailbox.lower()
    raise ValueError(f"{ascii(item)[:60]} is neither an address nor an @domain")
