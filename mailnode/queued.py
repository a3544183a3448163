"""The nouns of the spool: what is written down of a delivery, which messages are meant, how they look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mailnode.mail import PLAIN_TERMS, Mode, Path, Recipient, Result, Terms

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class Settlement(Struct, frozen=True, gc=False, array_like=True):
    """What became of leased recipients of one entry. Recipients not named keep their lease."""

    entry: str
    results: tuple[tuple[Recipient, Result], ...]
    due: float = 0.0  # for those LATER: next attempt, seconds since the epoch
    warned: bool = False  # the sender has now been told of the delay
    look: float = 0.0  # for those HELD: when somebody has to look after them, seconds since the epoch


@dataclass(frozen=True, slots=True)
class Attempt:
    """A delivery to one recipient. While it has no result it goes on, and `later` fires with that."""

    result: Result | None
    later: Deferred[Result] | None = None


class RepeatedError(Exception):
    """The message is in custody already: its transaction was taken before, under the same name."""


class Selection(Struct, frozen=True, gc=False, array_like=True):
    """A filter over the spool; an empty field matches all. Ages in seconds, domains in lower case."""

    ids: tuple[str, ...] = ()
    to: str = ""  # substring of a recipient's mailbox
    sender: str = ""  # substring of the reverse-path
    domain: str = ""  # recipient domain, exact
    state: str = ""  # queued, leased, held, stopped, bad
    older: float = 0.0


class QueuedRecipient(Struct, frozen=True, gc=False, array_like=True):
    path: Path
    mode: Mode
    state: str  # queued, leased, held, stopped; bad: cannot be read and was set aside
    attempts: int
    due: float
    reply: str  # the last reply, empty before the first attempt
    notify: tuple[str, ...] = ()  # this and what follows as in Recipient
    orcpt: str = ""
    original: Path | None = None


LIVELIEST: Final = ("leased", "queued", "held", "stopped", "bad")


class QueuedMessage(Struct, frozen=True, gc=False, array_like=True):
    """A message in the spool as an operator sees it."""

    id: str
    mode: Mode
    sender: Path
    recipients: tuple[QueuedRecipient, ...]
    size: int
    arrived: float
    terms: Terms = PLAIN_TERMS

    @property
    def state(self) -> str:
        """The liveliest state among its recipients: leased, then queued, held, stopped, bad (set aside)."""
        states = {recipient.state for recipient in self.recipients}
        return next((state for state in LIVELIEST if state in states), "queued")
