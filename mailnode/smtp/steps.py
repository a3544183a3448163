"""What the script of a Sender yields, and what it is sent for it.

list[Command]  -> list[Reply | None]   a group; None for a command that was not said
StartTls()     -> None                 TLS, of which the channel takes care
Next()         -> Letter | None        the next letter to give away
BodyOf(letter) -> Reply                the mail data and its end
Ahead(group)   -> None                 a group whose replies are heard later
Heard()        -> list[Reply]          the replies to the oldest of those
Settle(...)    -> None
Farewell(...)  -> Reply                QUIT, and how it ended even if no reply comes
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, cast

from mailnode.mail import Letter, Reply, Results
from mailnode.smtp.events import Ended, StartTls

# RFC 1123 5.3.2, seconds
GREETING_PATIENCE: Final = 300
COMMAND_PATIENCE: Final = 300
DATA_PATIENCE: Final = 120
BLOCK_PATIENCE: Final = 180
END_PATIENCE: Final = 600
TURN_PATIENCE: Final = 600  # RFC 2645 5.2.1
QUIT_PATIENCE: Final = 20  # nothing is lost by not waiting

COMMAND_LINE: Final = 510  # octets without CRLF (RFC 5321 4.5.3.1.4)
Replies: TypeAlias = Sequence[Reply | None]


def _always(_replies: Replies) -> bool:
    return True


class Command(NamedTuple):
    """A command line, and whether it still makes sense after the replies to those before it.

    `when` is asked only where commands go out one by one.
    """

    line: str
    when: Callable[[Replies], bool] = _always
    patience: float = COMMAND_PATIENCE  # seconds to wait for the reply
    chunk: Letter | None = None  # its body follows the line, octet for octet (BDAT); last of its group


class Greeting(NamedTuple):
    """Wait for the 220."""


class Next(NamedTuple):
    """`at_hand`: one that is there now; None where the script would have to wait for it."""

    at_hand: bool = False


class BodyOf(NamedTuple):
    letter: Letter


class Ahead(NamedTuple):
    """A group that goes out at once, with its body behind the last command, whatever else is under way."""

    group: list[Command]


class Heard(NamedTuple):
    """Wait for the replies to the oldest group that was said ahead."""


class Settle(NamedTuple):
    letter: Letter
    results: Results


class Farewell(NamedTuple):
    """QUIT. Nothing is at stake any more: this is how it ended, whether a 221 comes or not."""

    ended: Ended


Step: TypeAlias = Greeting | list[Command] | StartTls | Next | BodyOf | Ahead | Heard | Settle | Farewell
Script: TypeAlias = Generator[Step, object, Ended]


@dataclass(slots=True)
class Peer:
    """What the receiver has said about itself in its EHLO reply."""

    keywords: dict[str, str] = field(default_factory=dict)
    secure: bool = False  # TLS came about
    leaving: bool = False  # our node goes down: the line is not turned any more
    opened: int = 0  # transactions, taken or refused

    def offers(self, keyword: str) -> bool:
        return keyword in self.keywords

    def limit(self, name: str) -> int:
        """What LIMITS says of `name`, 0 if nothing (RFC 9422 3)."""
        for word in self.keywords.get("LIMITS", "").upper().split():
            key, _, value = word.partition("=")
            if key == name and value.isdigit() and len(value) <= 6:
                return int(value)
        return 0

    @property
    def exhausted(self) -> bool:
        """Whether it takes no further transaction in this session (RFC 9422 4.1)."""
        return 0 < self.limit("MAILMAX") <= self.opened

    @property
    def size_limit(self) -> int:
        """The fixed maximum message size in octets, 0 if none is known (RFC 1870 3)."""
        size = self.keywords.get("SIZE", "")
        return int(size) if size.isdigit() and len(size) <= 20 else 0

    def learn(self, reply: Reply) -> None:
        self.keywords.clear()
        for line in reply.lines[1:]:
            keyword, _, parameters = line.partition(" ")
            self.keywords[keyword.upper()] = parameters


def say(line: str, patience: float = COMMAND_PATIENCE) -> Generator[Step, object, Reply]:
    """One command, and its reply."""
    (reply,) = cast(list[Reply], (yield [Command(line, patience=patience)]))
    return reply
