"""The hosts that we call, how a call went, and when the next one is due (pure).

Rules:
- a call that went well is followed by the next after `every`, a tenth more or less;
- one that failed for now, or an open line that broke, by another after a second, then twice as long
  each time, up to `every`; a quarter more or less, so that a thousand leaves do not come back together;
- a host that refuses us for good is not asked again before `every`: our secret will be as wrong then;
- an open line that was steady for a minute begins to count anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mailnode.mail import Reply

EVERY: Final = 900.0  # seconds, for a line that is to be open with a host that keeps none open
FIRST: Final = 1.0  # seconds to the first call after one that failed
STEADY: Final = 60.0  # seconds after which an open line was a good one
NOTHING: Final = 453  # RFC 2645 7: you have no mail
_SPREAD: Final = 0.25
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Call:
    """A host that we call. Two that are equal are one: a call under way is the call of either."""

    name: str
    endpoint: str  # Twisted client endpoint string
    user: str = ""
    secret: str = field(default="", repr=False)
    outbound: bool = True
    every: float | None = None  # seconds
    tls: str = "opportunistic"  # as in `mail.Hop`
    tls_name: str = ""  # what its certificate must be for, where that is verified
    fingerprint: str = ""  # "sha256:...": what its certificate must be
    command: str = "TURN"  # or ATRN, ETRN
    domains: tuple[str, ...] = ()  # for ATRN, where () means all that are ours, and for ETRN
    wait: int = 0  # seconds between signs of life on an open line; 0: no line is kept open
    implicit: bool = False  # TLS from the first octet

    @property
    def turn(self) -> str:
        """The command that turns the line, "" if this call does not."""
        if self.command == "ETRN":
            return ""
        return " ".join([self.command, *([",".join(self.domains)] if self.command == "ATRN" else [])]).strip()

    @property
    def is_known(self) -> bool:
        """Whether the certificate of the host is looked at; "verified" is asked of the conversation."""
        return bool(self.fingerprint) or self.endpoint.startswith("tls:")

    @property
    def by_itself(self) -> bool:
        """Whether it is made without being told to."""
        return self.every is not None or self.wait > 0


@dataclass(frozen=True, slots=True)
class CallEnded:
    """How a call went: whether the line was turned, for how many recipients mail went out, how many messages
    came in, what the host said to our last command, or why there was no such reply."""

    turned: bool
    given: int
    reply: Reply
    received: int = 0
    insecure: bool = False  # because no TLS came about
    open: bool = False  # the line is open still
    started: bool = False  # the host has started its queue for us (ETRN)
    lasted: float = 0.0  # seconds that the line was open
    refused: int = 0  # recipients that the host will not have
    later: int = 0  # messages that it could not take now

    @property
    def is_well(self) -> bool:
        """Whether everything was said that was to be said, and the host did as it was asked."""
        code = self.reply.code
        return self.turned or code == NOTHING or code < 300 or says_nothing_waits(self.reply)

    @property
    def is_refused(self) -> bool:
        """Whether it will be no better a moment later."""
        return not self.is_well and self.reply.code >= 500


def says_nothing_waits(reply: Reply) -> bool:
    """Whether the refusal of a TURN only means that there is nothing to fetch: `502 <name> has no messages
    to export` is what VistA MailMan says."""
    return reply.code == NOTHING or (reply.code == 502 and "no messages" in str(reply).lower())


def pause(call: Call, how: CallEnded, failures: int, random: float) -> float:
    """Seconds until the next call. `failures` is how many went wrong one after another, this one included
    if it did; `random` lies in [0, 1)."""
    every = EVERY if call.every is None else call.every
    if how.is_refused or (how.is_well and not how.lasted):
        return every * (1 - _JITTER + 2 * _JITTER * random)
    growing = FIRST * 2.0 ** min(max(failures, 1) - 1, 32)
    return min(growing, every) * (1 - _SPREAD + 2 * _SPREAD * random)
