"""What every part of a Receiver stands on: octets in, a stream of events out, one question at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mailnode.mail import Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.framing import Inbound
from mailnode.smtp.transaction import Transaction


class State(Enum):
    NEW = "before HELO"
    IDLE = "no transaction"
    OPEN = "a transaction"
    DATA = "mail data"
    CHUNK = "a chunk of mail data"
    AUTH = "a SASL exchange"
    SECURING = "between the 220 to STARTTLS and TLS"
    GONE = "over"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one channel may ask of us. Each excess is refused; the last three kinds end the channel."""

    message_size: int = 50 * 1024 * 1024  # octets
    recipients: int = 1000  # in one transaction
    line_length: int = 2048  # octets; RFC 821 4.5.3 asks for 512, parameters make it more
    errors: int = 20  # 5xx replies to bad commands
    commands: int = 200  # that brought no mail, refused recipients among them
    auth_failures: int = 3


class Late:
    """The place of a reply that is decided later, and what was said behind it."""

    __slots__ = ("behind", "reply")

    def __init__(self) -> None:
        self.reply: Reply | None = None
        self.behind: list[events.ReceiverEvent] = []


class Machine(ABC):
    """The stream: `feed` octets, take `next` until it gives None; `answer` questions."""

    may_postpone = False  # whether the open question may be answered late

    def __init__(self, hostname: str, rights: Rights, limits: Limits | None, greet: bool) -> None:
        self.hostname = hostname
        self.rights = rights
        self.limits = limits or Limits()
        self.state = State.NEW
        self.extended = False  # EHLO was said: enhanced status codes are understood
        self.hello = ""
        self.consumed = 0  # command lines, and octets of mail data: whether the client gets on
        self.transaction: Transaction | None = None
        self._inbound = Inbound()
        self._out: deque[events.ReceiverEvent] = deque()
        self._late: deque[Late] = deque()
        self._asking: Callable[[Any], None] | None = None
        self._errors = 0
        self._idle = 0  # commands since the last message
        if greet:
            self._out.append(replies.greeting(hostname))

    # ------------------------------------------------------------- the holder's side

    @property
    def asking(self) -> bool:
        """Whether a question waits for `answer`."""
        return self._asking is not None

    @property
    def pending(self) -> int:
        """Octets that have arrived and are not consumed."""
        return len(self._inbound)

    def feed(self, octets: bytes) -> None:
        if self.state is not State.GONE:
            self._inbound.feed(octets)

    def next(self) -> events.ReceiverEvent | None:
        """The next event; None if octets, or the answer to the open question, must come first."""
        out, inbound = self._out, self._inbound
        while not out:
            if self._asking is not None or inbound.at == len(inbound.octets) or not self._consume():
                return None
        return out.popleft()

    def answer(self, answer: events.Answer) -> None:
        """The answer to the open question: a reply, or what else the question asks for."""
        proceed, self._asking = self._asking, None
        if proceed is None:
            raise ValueError("no question is open")
        proceed(answer)

    def postpone(self) -> Callable[[Reply], None]:
        """Leaves the open question, and gives what takes its answer later. Meanwhile commands that may be
        pipelined are consumed (RFC 2920 3.2: replies keep their order), all others wait.

        ValueError if it must be answered first, `may_postpone` says which.
        """
        proceed = self._asking
        if proceed is None or not self.may_postpone:
            raise ValueError("no question is open that could be answered late")
        self._asking = None
        late = Late()
        self._late.append(late)

        def decided(reply: Reply) -> None:
            if late.reply is not None:
                raise ValueError("it was answered before")
            late.reply = reply
            self._decided(reply)
            while self._late and (first := self._late[0].reply) is not None:
                self._out.append(first)
                self._out.extend(self._late.popleft().behind)

        return decided

    @property
    def late(self) -> int:
        """How many questions have been left to be answered later."""
        return len(self._late)

    def refuse(self, reply: Reply) -> None:
        """Ends the channel with `reply` (421): time-out, shutdown, too many connections."""
        if self.state is State.GONE:
            return  # its last reply is said
        self._drop_transaction()
        self._asking = None
        self._close(reply)

    # ------------------------------------------------------------- what the parts use

    @abstractmethod
    def _consume(self) -> bool:
        """Takes what can be taken from the octets that wait, of which there are some; whether that was
        anything."""

    @abstractmethod
    def _decided(self, reply: Reply) -> None:
        """A question was answered late."""

    def _say(self, event: events.ReceiverEvent) -> None:
        """A reply, or an end, at its place: behind those that are not decided yet."""
        (self._late[-1].behind if self._late else self._out).append(event)

    def _ask(self, question: events.Ask, proceed: Callable[[Any], None]) -> None:
        self._asking = proceed
        self.may_postpone = False
        self._out.append(question)

    def _error(self, reply: Reply) -> None:
        self._errors += 1
        self._say(reply)
        if self._errors >= self.limits.errors:
            self.refuse(replies.unavailable(self.hostname, "Too many errors"))

    def _close(self, reply: Reply) -> None:
        self.state = State.GONE
        self._inbound.take()
        self._say(reply)
        self._say(events.Closed())

    def _drop_transaction(self) -> None:
        """Ends a transaction without custody (RSET, HELO, QUIT, 421)."""
        if self.transaction is not None and self.transaction.refusal is None:
            self._out.append(events.Discarded())
        self.transaction = None
        if self.state in (State.OPEN, State.DATA, State.CHUNK):
            self.state = State.IDLE

    def _nothing_behind(self) -> bool:
        """Whether nothing waits behind a command that must be the last of its group (RFC 2920 3.1)."""
        if not self._inbound:
            return True
        self._close(replies.OCTETS_BEHIND)
        return False
