"""What both sides of a SASL exchange are made of: steps, contracts, sizes (RFC 4422 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from mailnode.mail import Credentials, ScramKeys

MESSAGE_SIZE: Final = 9216  # octets of one message: what a line of 12288 holds (RFC 4954 4)

# A fresh random word each time: printable ASCII without comma, angle brackets and spaces, as RFC 2195 2 and
# RFC 5802 5.1 need it, and with 128 bits or more that nobody can guess.
Nonce: TypeAlias = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Challenge:
    """The receiver says these octets (334) and waits for the response."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class NeedKeys:
    """The exchange goes on when it has the SCRAM keys of `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The exchange is over; whether it is believed is for access to say."""

    credentials: Credentials


Step: TypeAlias = Challenge | NeedKeys | Claim | None  # None: malformed, the exchange is over (501 5.5.2)


class Exchange(Protocol):
    """The receiver's side of one exchange. `start` comes first and once; octets are no longer base64.

    Whatever the octets, every method gives a Step and never raises; out of turn the Step is None.
    """

    def start(self, initial: bytes | None) -> Step:
        """The first step; `initial` is the initial response, None if AUTH came without one."""

    def respond(self, octets: bytes) -> Step:
        """The step after the response to a Challenge."""

    def keys(self, keys: ScramKeys) -> Step:
        """The step after NeedKeys, and after nothing else."""


class ClientExchange(Protocol):
    """The sender's side of one exchange. A 235 counts only while `done` is true."""

    @property
    def done(self) -> bool:
        """Whether the server has proved itself as far as the mechanism lets it. False: whoever says 235 now
        does not know the secret (RFC 5802 3)."""

    def first(self) -> bytes | None:
        """The initial response, None if the mechanism has none. Where the AUTH line would become too long
        it may be said as the response to an empty challenge instead (RFC 4954 4)."""

    def respond(self, challenge: bytes) -> bytes | None:
        """The response; None if the server does not play by the rules: cancel with `*`."""
