"""ETRN's work (RFC 1985): starts the queue of a domain, which need not be due, and no other's.

What is queued gets due now. What is held for a peer goes out by SMTP, to where its `deliver` says; what
cannot be given there now is held again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailnode.interfaces import IRelay, ISpool, Selection
from mailnode.mail import Hop, Letter, Outcome, Results
from mailnode.peering.held import Peering
from mailnode.peering.letters import HeldLetters

AT_ONCE: Final = 20  # letters of one domain that are under way
IN_VAIN: Final = 20  # letters one after another that could not be given: the host is not there
PAUSE: Final = 5.0  # seconds between two starts of one domain by strangers


class Starting:
    """Starts queues, for the one process that works the spool off. `wake` says that something is due."""

    def __init__(
        self, spool: ISpool, peering: Peering, relay: IRelay, wake: Callable[[], None], clock: IReactorTime
    ) -> None:
        self._spool = spool
        self._peering = peering
        self._relay = relay
        self._wake = wake
        self._clock = clock
        self._started: dict[str, float] = {}  # by a stranger: when, on the clock
        self._postponed: set[str] = set()
        self._runs: dict[str, Run] = {}
        self._stopped = False
        self._log = Logger("mailnode.peering")

    def start(self, domains: Sequence[str], stranger: bool) -> bool:
        """Starts the queues of `domains`, or is about to. What strangers ask for is done, but not at any
        rate they like. False if the node goes down."""
        if self._stopped:
            return False
        for domain in domains:
            wait = self._started.get(domain, float("-inf")) + PAUSE - self._clock.seconds() if stranger else 0
            if wait <= 0:
                self._begin(domain)
            elif domain not in self._postponed:
                self._postponed.add(domain)
                self._clock.callLater(wait, self._begin, domain)
        return True

    def stop(self) -> None:
        """Starts nothing more; what is under way ends with the relay."""
        self._stopped = True
        for run in list(self._runs.values()):
            run.stop()

    def _begin(self, domain: str) -> None:
        self._postponed.discard(domain)
        if self._stopped:
            return
        self._started[domain] = self._clock.seconds()
        retried = self._spool.change(Selection(domain=domain, state="queued"), "retry")
        retried.addCallbacks(lambda _: self._wake(), self._failed, errbackArgs=(domain,))
        target = self._peering.delivers_to(domain)
        if not target:
            return
        if domain in self._runs:
            self._runs[domain].again()
            return
        letters = self._peering.conversation((domain,))
        run = self._runs[domain] = Run(letters, Hop(domain, target), self._relay)
        run.over.addErrback(self._failed, domain).addCallback(self._ended, domain)
        run.more()

    def _ended(self, given: int | None, domain: str) -> None:
        del self._runs[domain]
        if given is not None:
            self._log.info("the queue for {domain} was started: {given} given", domain=domain, given=given)

    def _failed(self, failure: Failure, domain: str) -> None:
        self._log.failure("the queue for {domain} could not be started", failure, domain=domain)


class Run:
    """The held mail of one domain on its way to one host; `over` fires with how many recipients got it."""

    def __init__(self, letters: HeldLetters, hop: Hop, relay: IRelay) -> None:
        self._letters = letters
        self._hop = hop
        self._relay = relay
        self.over: Deferred[int] = Deferred()
        self._under_way = 0
        self._asking = False
        self._empty = False
        self._in_vain = 0
        self._stopped = False

    def again(self) -> None:
        """There may be more."""
        self._letters.wake()
        self._empty = False
        self.more()

    def stop(self) -> None:
        self._stopped = True
        self.more()

    def more(self) -> None:
        """Keeps some letters under way until there are no more, or nobody takes them."""
        if self._asking or self.over.called:
            return
        if self._empty or self._stopped or self._in_vain >= IN_VAIN:
            if not self._under_way:
                self._letters.close()
                self.over.callback(self._letters.given)
        elif self._under_way < AT_ONCE:
            self._asking = True
            maybeDeferred(self._letters.next).addCallbacks(self._came, self._none_came)

    def _came(self, letter: Letter | None) -> None:
        self._asking = False
        if letter is None:
            self._empty = True
        else:
            self._under_way += 1
            self._relay.deliver(self._hop, letter).addCallback(self._given, letter)
        self.more()

    def _none_came(self, failure: Failure) -> None:
        self._asking = False
        self._letters.close()
        self.over.errback(failure)

    def _given(self, results: Results, letter: Letter) -> None:
        self._under_way -= 1
        waits = (Outcome.LATER, Outcome.UNTRIED)
        in_vain = all(result.outcome in waits for result in results.values())
        if not self._stopped:
            self._in_vain = self._in_vain + 1 if in_vain else 0
        self._letters.settle(letter, results, "")
        self.more()
