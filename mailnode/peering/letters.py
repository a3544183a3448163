"""Letters from held mail, for one conversation: claimed a few at a time, split by domain, settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import Eventually, ILetters, IRouting, ISpool
from mailnode.letters import Addressed, address
from mailnode.mail import OURS, Entry, Held, Letter, Mode, Outcome, Recipient, Reply, Result, Results
from mailnode.peering.lines import OpenLines
from mailnode.peering.settlements import Settlements

AT_ONCE: Final = 100  # entries leased at a time; the next ones are fetched when half of them are given
REFUSALS: Final = 1000  # letters that the peer could not take now, before the conversation is ended
AGAIN: Final = 300.0  # seconds until an open line is offered what it could not take
HELD: Final = Result(Outcome.HELD, Reply(250, "Held"))


@implementer(ILetters)
class HeldLetters:
    """Letters from held mail: for some domains, or, with `others`, for all domains but those.

    Leases are taken a few at a time, when the Sender asks, so two connections of one peer never get the
    same message; what is not given away is held again when the conversation ends. What the peer could
    not take now is held at once and not offered again in this conversation.

    With `lines` this is an open line: when nothing is left, `next` waits until there is something, or
    until the line is hung up; what the peer could not take is offered again after a while.
    """

    def __init__(
        self,
        spool: ISpool,
        routing: IRouting,
        settlements: Settlements,
        domains: Sequence[str],
        *,
        others: bool = False,
        lines: OpenLines | None = None,
        clock: IReactorTime | None = None,
    ) -> None:
        self._spool = spool
        self._routing = routing
        self._settlements = settlements
        self.domains = tuple(domains)
        self._others = others
        self._lines = lines
        self._clock = clock
        self._waiting: deque[tuple[Entry, Addressed]] = deque()
        self._open: dict[int, tuple[Entry, Addressed]] = {}  # by the letter's identity
        self._refused: set[str] = set()  # ids of messages that were refused for now
        self._wanted: Deferred[Letter | None] | None = None
        self._claiming = False
        self._more = True  # the last claim found as much as it asked for, or was woken in the middle
        self._closed = False
        self._again: IDelayedCall | None = None
        self.given = 0  # recipients delivered
        self.failed = 0  # refused for good
        self._log = Logger("mailnode.peering")
        if lines is not None:
            lines.join(self)

    def use(self, routing: IRouting) -> None:
        """The configuration has changed."""
        self._routing = routing

    @property
    def is_over(self) -> bool:
        return self._closed

    @property
    def in_hand(self) -> int:
        """How many letters are leased for this conversation."""
        return len(self._waiting) + len(self._open)

    @property
    def later(self) -> int:
        """How many messages could not be taken now, and are held again."""
        return len(self._refused)

    # ------------------------------------------------------------- what the Sender asks

    def next(self) -> Eventually[Letter | None]:
        if self._closed or len(self._refused) >= REFUSALS:
            return None
        if self._waiting:
            if self._more and len(self._waiting) <= AT_ONCE // 2:
                self._claim()
            return self._hand_over()
        wanted = self._wanted = Deferred(self._cancelled)
        self._claim()
        return wanted

    def at_hand(self) -> Letter | None:
        if self._closed or len(self._refused) >= REFUSALS:
            return None
        if self._more and len(self._waiting) <= AT_ONCE // 2:
            self._claim()
        return self._hand_over() if self._waiting else None

    def peek(self) -> Deferred[bool]:
        """Whether there is a letter; it is kept for `next`. Before the first `next` only."""
        looked: Deferred[bool] = Deferred()

        def found(letter: Letter | None) -> None:
            if letter is not None:
                self._waiting.appendleft(self._open.pop(id(letter)))
            looked.callback(letter is not None)

        wanted = self._wanted = Deferred()
        wanted.addCallbacks(found, looked.errback)
        self._claim()
        return looked

    def settle(self, letter: Letter, results: Results, host: str) -> None:
        entry, addressed = self._open[id(letter)]
        settled: dict[Recipient, Result] = {}
        for recipient, result in addressed.results(results).items():
            self.given += result.outcome is Outcome.DELIVERED
            if result.outcome in (Outcome.LATER, Outcome.UNTRIED):
                # It waits for the next call, not for a time; a SEND waits for nothing.
                outcome = Outcome.FAILED if recipient.mode is Mode.SEND else Outcome.HELD
                result = replace(result, outcome=outcome)
                self._refused.add(entry.id)
            self.failed += result.outcome is Outcome.FAILED
            settled[recipient] = replace(result, host=host or result.host)
        self._settlements.settle(entry, settled)
        if letter.recipients[-1] in results:  # they are settled in their order: that was all of it
            del self._open[id(letter)]

    def returned(self, letter: Letter) -> None:
        entry, addressed = self._open.pop(id(letter))
        self._hold(entry, addressed)

    def close(self) -> None:
        self._closed = True
        self._stop_waiting()
        self._hold_waiting()
        self._open.clear()

    # ------------------------------------------------------------- an open line

    def wake(self) -> None:
        """There may be mail for an open line."""
        self._more = True
        if self._wanted is not None:
            self._claim()

    def hang_up(self) -> None:
        self._stop_waiting()
        if self._wanted is not None and not self._claiming:
            self._answer()

    def _stop_waiting(self) -> None:
        if self._lines is not None:
            self._lines.leave(self)
            self._lines = None
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _cancelled(self, _wanted: Deferred[Letter | None]) -> None:
        """The connection is gone, or is to end. What is being claimed is held again by `close`."""
        self._wanted = None

    def _wait(self) -> None:
        """Nothing is left, and the line is open."""
        if self._refused and self._again is None and self._clock is not None:
            self._again = self._clock.callLater(AGAIN, self._offer_again)

    def _offer_again(self) -> None:
        self._again = None
        self._refused.clear()
        self.wake()

    # ------------------------------------------------------------- from the spool

    def _claim(self) -> None:
        if self._claiming:
            return
        self._claiming, self._more = True, False
        claimed = self._spool.claim_held(self.domains, AT_ONCE, self._others, tuple(self._refused))
        claimed.addCallbacks(self._claimed, self._not_claimed)

    def _claimed(self, entries: list[Entry]) -> None:
        self._claiming = False
        self._more = self._more or len(entries) == AT_ONCE
        for entry in entries:
            self._address(entry)
        if self._closed:  # nobody will ask for these
            self._hold_waiting()
        if self._wanted is not None:
            self._answer()

    def _not_claimed(self, failure: Failure) -> None:
        self._claiming = False
        if self._wanted is None:
            self._log.failure("held mail cannot be read", failure)
            return
        wanted, self._wanted = self._wanted, None
        wanted.errback(failure)

    def _answer(self) -> None:
        """Answers the open `next`, as far as there is an answer."""
        if not self._waiting and self._more:
            self._claim()
            return
        if not self._waiting and self._lines is not None:
            self._wait()
            return
        wanted, self._wanted = self._wanted, None
        assert wanted is not None
        wanted.callback(self._hand_over() if self._waiting else None)

    def _address(self, entry: Entry) -> None:
        """The letters of an entry; recipients that the configuration now sends elsewhere are let go."""
        pairs = []
        for recipient in entry.envelope.recipients:
            ruling = self._routing.route(recipient.path, recipient.mode, OURS)
            here = ruling.destinations[0].place if ruling.reply.ok and len(ruling.destinations) == 1 else None
            if isinstance(here, Held) and (here.domain.lower() in self.domains) is not self._others:
                pairs.append((recipient, ruling.destinations[0]))
            else:
                self._settlements.settle(entry, {recipient: Result(Outcome.UNTRIED, ruling.reply)})
        self._waiting.extend((entry, addressed) for addressed in address(entry, pairs))

    def _hand_over(self) -> Letter:
        entry, addressed = self._waiting.popleft()
        self._open[id(addressed.letter)] = (entry, addressed)
        return addressed.letter

    def _hold_waiting(self) -> None:
        while self._waiting:
            self._hold(*self._waiting.popleft())

    def _hold(self, entry: Entry, addressed: Addressed) -> None:
        self._settlements.settle(entry, dict.fromkeys(addressed.recipients.values(), HELD))
