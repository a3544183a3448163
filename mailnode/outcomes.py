"""What became of messages for terminals, kept for a moment: whoever has just sent one may ask.

Noted is what settling tells of SEND, SOML and SAML: a bounded number of recipients, for a short time. What
is not settled yet stands in the spool. Of a message that may have been forgotten in part nothing is said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailnode.interfaces import IOutcomes, ISpool, QueuedMessage, QueuedRecipient, Selection
from mailnode.mail import NULL_PATH, Entry, Outcome, Path, Recipient, Reply, Result, Results

KEPT: Final = 60.0  # seconds that an outcome is remembered
MOST: Final = 2000  # messages and recipients that are remembered, together
NAMED: Final = 300  # recipients of one message that an answer names
WAITING: Final = 100  # questions that wait at once
LONGEST: Final = 30.0  # seconds that a question may wait
MOMENT: Final = 1.0  # seconds in which an open line takes what is held for it
WORDS: Final = 200  # characters of a reply
UNKNOWN: Final[Mapping[str, Any]] = {"whole": False, "recipients": []}

MayHear: TypeAlias = Callable[[Path], bool]  # by the reverse-path


def _anybody(_sender: Path) -> bool:
    return True


@dataclass(slots=True)
class _Noted:
    """What is known of one message; `arrived` and `at` in seconds since the epoch."""

    arrived: float
    sender: Path
    at: float = 0.0
    recipients: dict[Recipient, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return 1 + len(self.recipients)


@implementer(IOutcomes)
class Outcomes:
    """`clock` runs the timers, `now` gives seconds since the epoch."""

    def __init__(self, spool: ISpool, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._spool = spool
        self._clock = clock
        self._now = now
        self._noted: OrderedDict[str, _Noted] = OrderedDict()  # the one that was told last is last
        self._count = 0  # of messages and recipients in it
        self._since = now()  # of what arrived before, something may have been forgotten
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._questions = 0

    # ------------------------------------------------------------- what settling tells

    def told(self, entry: Entry, results: Results) -> None:
        noted = self._noted.pop(entry.id, None)
        if noted is None:
            noted = _Noted(entry.arrived, entry.envelope.reverse_path)
        else:
            self._count -= noted.size
        self._noted[entry.id] = noted
        noted.at = self._now()
        for recipient, result in results.items():
            if result.outcome in (Outcome.DELIVERED, Outcome.FAILED):  # the others are in the spool
                noted.recipients[recipient] = _settled(recipient, result)
        self._count += noted.size
        self._forget()
        for waiting in self._waiting.pop(entry.id, ()):
            waiting.callback(None)

    def _forget(self) -> None:
        old = self._now() - KEPT
        while self._noted and (self._count > MOST or next(iter(self._noted.values())).at < old):
            _, gone = self._noted.popitem(last=False)
            self._count -= gone.size
            self._since = max(self._since, gone.arrived)

    # ------------------------------------------------------------- what is asked

    @inlineCallbacks
    def became(self, id: str, seconds: float, may_hear: MayHear = _anybody):  # type: ignore[no-untyped-def]
        """What became of each recipient of the message `id`; waits at most `seconds` until all have been
        tried. `whole`: nobody is forgotten; who is not named was shown the message before it was spooled.
        Where the sender is not one that `may_hear` allows, the answer is that to an unknown id."""
        began = self._clock.seconds()
        until = began + max(0.0, min(seconds, LONGEST))
        if self._questions >= WAITING:
            until = began
        self._questions += 1
        told: Deferred[None] = Deferred()
        try:
            while True:
                # Before the spool is looked at: nothing that is told meanwhile may be missed.
                told = self._wait(id)
                found: list[QueuedMessage] = yield self._spool.listing(Selection(ids=(id,)), 1)
                if not may_hear(self._sender(id, found)):
                    return UNKNOWN
                left = found[0].recipients if found else ()
                rest = self._rest(left, began, until)
                if rest <= 0:
                    return self._answer(id, left)
                timer = self._clock.callLater(rest, self._wake, id, told)
                yield told
                if timer.active():
                    timer.cancel()
        finally:
            self._questions -= 1
            self._wait_no_more(id, told)

    def _sender(self, id: str, found: list[QueuedMessage]) -> Path:
        """The reverse-path of a message that is in the spool, or was."""
        if found:
            return found[0].sender
        noted = self._noted.get(id)
        return NULL_PATH if noted is None else noted.sender

    def _rest(self, left: tuple[QueuedRecipient, ...], began: float, until: float) -> float:
        """How long something may still be heard soon, in seconds."""
        now = self._clock.seconds()
        if any(_is_under_way(recipient) for recipient in left):
            return until - now
        if any(recipient.state == "held" for recipient in left):
            return min(until, began + MOMENT) - now
        return 0.0

    def _wait(self, id: str) -> Deferred[None]:
        told: Deferred[None] = Deferred()
        self._waiting.setdefault(id, []).append(told)
        return told

    def _wait_no_more(self, id: str, told: Deferred[None]) -> None:
        waiting = self._waiting.get(id, [])
        if told in waiting:
            waiting.remove(told)
            if not waiting:
                del self._waiting[id]

    def _wake(self, id: str, told: Deferred[None]) -> None:
        self._wait_no_more(id, told)
        told.callback(None)

    def _answer(self, id: str, left: tuple[QueuedRecipient, ...]) -> Mapping[str, Any]:
        noted = self._noted.get(id)
        settled = [] if noted is None else list(noted.recipients.values())
        whole = noted is not None and noted.arrived > self._since
        if len(settled) + len(left) > NAMED:
            return UNKNOWN
        return {"whole": whole, "recipients": [*settled, *(_unsettled(recipient) for recipient in left)]}


def _is_under_way(recipient: QueuedRecipient) -> bool:
    """Whether an attempt is being made, or is due and the first one."""
    return recipient.state == "leased" or (recipient.state == "queued" and not recipient.attempts)


def _settled(recipient: Recipient, result: Result) -> dict[str, Any]:
    taken = result.handover
    return {
        **_named(recipient.path, recipient.original),
        "state": result.outcome.value,
        "code": result.reply.code,
        "reply": _words(result.reply),
        "host": result.host,
        # How another host took it: what tells terminal from mailbox.
        "verb": taken.verb.value if taken is not None else "",
        "rcpt_code": taken.reply.code if taken is not None else 0,
        "rcpt": _words(taken.reply) if taken is not None else "",
    }


def _unsettled(recipient: QueuedRecipient) -> dict[str, Any]:
    state = recipient.state
    if state == "queued" and recipient.attempts:
        state = Outcome.LATER.value
    return {**_named(recipient.path, recipient.original), "state": state, "reply": recipient.reply[:WORDS]}


def _named(path: Path, original: Path | None) -> dict[str, Any]:
    """The address that was said, and the one that it stands for."""
    return {"to": str(original or path), "path": str(path)}


def _words(reply: Reply) -> str:
    return " / ".join(reply.lines)[:WORDS]
