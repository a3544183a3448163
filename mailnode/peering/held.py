"""Mail held for peers, who may fetch it by turning the line, and who hears that nobody did.

The right to TURN (RFC 821 3.8, made safe by RFC 2645's idea) hangs on what a client has proved, never on
its HELO. A message is split by the domains granted, every time: others' recipients stay in the spool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import Eventually, IHolding, ILetters, IPeering, IRouting, ISettling, ISpool
from mailnode.mail import Client, Entry, Mode, Outcome, Recipient, Reply, Result, Turn
from mailnode.peering.keeping import Keeping
from mailnode.peering.letters import AT_ONCE, HeldLetters
from mailnode.peering.lines import OpenLines
from mailnode.peering.peers import Peer as Peer
from mailnode.peering.peers import granted, meant, peer_of
from mailnode.peering.settlements import Settlements

NOTHING: Final = Reply(453, "You have no mail", "4.2.0")  # RFC 2645 7
ON_ITS_WAY: Final = Reply(451, "Your mail is being sent on another line; try again later", "4.3.0")
CANNOT_TELL: Final = Reply(451, "Unable to process ATRN request now", "4.3.0")
KEPT_TOO_LONG: Final = Reply(554, "The host did not fetch the message in time", "4.4.7")
NOT_ACTIVE: Final = Reply(450, "User not active now", "4.2.1")
STILL_HELD: Final = Reply(250, "Held until the host that serves the domain fetches it")

COUNTED: Final = 1000  # messages; ETRN counts no further
STEP: Final = 300.0  # seconds by which the time of day may be set without that being a reason for doubt
DOUBT: Final = 3600.0  # seconds after a larger step in which nothing is given up

# What a process does for ETRN: starts the queues of domains; fires with whether it could.
Start: TypeAlias = "Callable[[Sequence[str], bool], Eventually[bool]]"


@implementer(IPeering, IHolding)
class Peering:
    """`now` gives seconds since the epoch. Without `clock` no line stays open; without `start` ETRN starts
    nothing. `routed` are the domains with a next hop of their own. `secret_of` gives something that is
    another when a peer has another secret. `outgoing_held` is told when there is mail that no peer fetches,
    `elsewhere` when there is some for peers whose lines another process may have.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        spool: ISpool,
        routing: IRouting,
        settling: ISettling,
        now: Callable[[], float],
        *,
        clock: IReactorTime | None = None,
        keeping: Keeping | None = None,
        routed: Sequence[str] = (),
        secret_of: Callable[[str], object] = str,
    ) -> None:
        self._spool = spool
        self._secret_of = secret_of
        self._now = now
        self._clock = clock
        self.lines = OpenLines()
        self.settlements = Settlements(settling)
        # That began with a turn and are not over: who had proved what.
        self._conversations: dict[HeldLetters, tuple[Peer, object]] = {}
        self._last_look: tuple[float, float] | None = None  # clock, now
        self._in_doubt_until = 0.0  # on the clock
        self.start_queues: Start | None = None
        self.outgoing_held: Callable[[], None] = _nobody
        self.elsewhere: Callable[[], None] = _nobody
        self._log = Logger("mailnode.peering")
        self.use(peers, routing, settling, keeping=keeping, routed=routed)

    def use(
        self,
        peers: Sequence[Peer],
        routing: IRouting,
        settling: ISettling,
        *,
        keeping: Keeping | None = None,
        routed: Sequence[str] = (),
    ) -> None:
        """The configuration has changed. The line of a peer that has changed, or has another secret, is
        ended, and may be opened again; the others go on."""
        self.peers = tuple(peers)
        self._routing = routing
        self.settlements.use(settling)
        self._keeping = keeping or Keeping({domain: peer.keep for peer in peers for domain in peer.domains})
        self._routed = tuple(routed)
        self._domains = frozenset(domain for peer in peers for domain in peer.domains)
        for letters, (peer, secret) in list(self._conversations.items()):
            letters.use(routing)
            if peer not in self.peers or self._secret_of(peer.name) != secret:
                letters.hang_up()

    # ------------------------------------------------------------- the right to turn

    def peer_of(self, client: Client) -> Peer | None:
        return peer_of(self.peers, client)

    def grant(self, client: Client, turn: Turn) -> Eventually[ILetters | Reply]:
        peer = self.peer_of(client)
        domains = granted(peer, turn)
        if peer is None or isinstance(domains, Reply):
            assert isinstance(domains, Reply)
            return domains
        if not turn.atrn or turn.wait:
            return self._letters(peer, domains, turn.wait)

        def told(count: int) -> ILetters | Reply:
            if count:
                return self._letters(peer, domains, 0.0)
            return ON_ITS_WAY if self._is_on_its_way(domains) else NOTHING

        def unknown(failure: Failure) -> Reply:
            self._log.failure("held mail cannot be counted", failure)
            return CANNOT_TELL

        return self._spool.waiting(domains, ("held",)).addCallbacks(told, unknown)

    def _letters(self, peer: Peer, domains: Sequence[str], wait: float) -> HeldLetters:
        lines = self.lines if wait and self._clock is not None else None
        letters = self.conversation(domains, lines=lines)
        self._conversations = {it: of for it, of in self._conversations.items() if not it.is_over}
        self._conversations[letters] = (peer, self._secret_of(peer.name))
        return letters

    def _is_on_its_way(self, domains: Sequence[str]) -> bool:
        """Whether another line has mail for `domains` in hand; it may be dead without our knowing it."""
        return any(it.in_hand and not set(domains).isdisjoint(it.domains) for it in self._conversations)

    def conversation(
        self, domains: Sequence[str], *, others: bool = False, lines: OpenLines | None = None
    ) -> HeldLetters:
        """Held mail for `domains`, or for all domains but those."""
        return HeldLetters(
            self._spool,
            self._routing,
            self.settlements,
            domains,
            others=others,
            lines=lines,
            clock=self._clock,
        )

    def outgoing(self) -> HeldLetters:
        """The mail that is held for no peer: what a call takes along to the host it calls."""
        return self.conversation(sorted(self._domains), others=True)

    def drain(self) -> Deferred[None]:
        """Ends the open lines; fires when all that was settled until now is written down."""
        self.lines.hang_up()
        return self.settlements.quiet()

    # ------------------------------------------------------------- ETRN

    def start(self, client: Client, node: str) -> Eventually[Reply]:
        """RFC 1985 5.1. A stranger hears the same words whatever waits here; a peer hears how much."""
        domains = meant(node, self.peers, self._routed)
        if not domains:
            return Reply(459, f"Node {node} not allowed: it is not served here", "4.7.1")
        sent = [domain for domain in domains if domain in self._routed or self.delivers_to(domain)]
        if not sent or self.start_queues is None:
            return _unable(node)
        peer = self.peer_of(client)
        if peer is None or not set(domains) <= set(peer.domains):
            return self._started(
                node, sent, True, Reply(250, f"OK, queuing for node {node} started", "2.0.0")
            )

        def counted(count: int) -> Eventually[Reply]:
            if not count:
                return Reply(251, f"OK, no messages waiting for node {node}", "2.0.0")
            told = Reply(253, f"OK, {count} pending messages for node {node} started", "2.0.0")
            if count > COUNTED:
                told = Reply(252, f"OK, pending messages for node {node} started", "2.0.0")
            return self._started(node, sent, False, told)

        return self._spool.waiting(sent, ("held", "queued")).addCallbacks(
            counted, self._not_started, errbackArgs=(node,)
        )

    def _started(self, node: str, domains: Sequence[str], stranger: bool, told: Reply) -> Eventually[Reply]:
        assert self.start_queues is not None
        begun = self.start_queues(domains, stranger)
        if not isinstance(begun, Deferred):
            return told if begun else _unable(node)
        return begun.addCallback(lambda yes: told if yes else _unable(node))

    def _not_started(self, failure: Failure, node: str) -> Reply:
        self._log.failure("held mail cannot be counted", failure)
        return _unable(node)

    def delivers_to(self, domain: str) -> str:
        """Where ETRN sends the mail for `domain` that is held, as `mail.Hop.target`; "" if it may not."""
        return next((peer.deliver for peer in self.peers if domain in peer.domains), "")

    # ------------------------------------------------------------- what is held

    def look(self, recipient: Recipient, arrived: float, warned: bool) -> float | None:
        host = recipient.path.next_host.lower()
        if recipient.mode is Mode.SEND and not self.lines.is_open(host):
            return None
        return self._keeping.look(recipient, arrived, warned, self._now())

    def keep(self, recipient: Recipient) -> float:
        return self._keeping.patience(recipient)

    def is_late(self, recipient: Recipient, arrived: float) -> bool:
        return self._keeping.is_late(recipient, arrived, self._now())

    def arrived(self, hosts: Collection[str]) -> None:
        self.lines.wake(hosts)
        if not self._domains.isdisjoint(hosts):
            self.elsewhere()
        if not self._domains.issuperset(hosts):
            self.outgoing_held()

    def wake(self) -> None:
        """Another process may have put something there."""
        self.lines.wake_all()

    # ------------------------------------------------------------- the end of patience

    def expire(self) -> Deferred[int]:
        """Looks after held mail whose time has come: what nobody fetched within its time fails, senders who
        wait are told once. Fires with how many messages failed."""
        return maybeDeferred(self._look_after, 0).addCallbacks(self._expired, self._not_expired)

    def _look_after(self, count: int) -> Deferred[int]:
        """A few at a time, so that nobody else waits long."""
        is_certain = self._time_is_certain()

        def claimed(entries: list[Entry]) -> Eventually[int]:
            failed = 0
            for entry in entries:
                results = {it: self._verdict(it, entry, is_certain) for it in entry.envelope.recipients}
                failed += any(result.outcome is Outcome.FAILED for result in results.values())
                self.settlements.settle(entry, results)
            if len(entries) < AT_ONCE:
                return count + failed
            return self.settlements.quiet().addCallback(lambda _: self._look_after(count + failed))

        return self._spool.claim_overdue(AT_ONCE).addCallback(claimed)

    def _verdict(self, recipient: Recipient, entry: Entry, is_certain: bool) -> Result:
        if not self._routing.is_held(recipient.path.next_host):
            return Result(Outcome.UNTRIED, Reply(250, "No longer held"))  # the configuration has changed
        if is_certain and self._now() - entry.arrived >= self._keeping.patience(recipient):
            return Result.failed(NOT_ACTIVE if recipient.mode is Mode.SEND else KEPT_TOO_LONG)
        return Result(Outcome.HELD, STILL_HELD)

    def _time_is_certain(self) -> bool:
        """Whether ages are to be believed: not soon after the time of day was set, and all at once all mail
        looks old (a host without a battery begins its life years ago)."""
        if self._clock is None:
            return True
        clock, now = self._clock.seconds(), self._now()
        last, self._last_look = self._last_look, (clock, now)
        if last is not None and abs((now - last[1]) - (clock - last[0])) > STEP:
            self._log.warn("the time of day was set: for {wait:.0f} s no held mail is given up", wait=DOUBT)
            self._in_doubt_until = clock + DOUBT
        return clock >= self._in_doubt_until

    def _expired(self, count: int) -> int:
        if count:
            self._log.info("{count} messages were not fetched in time and returned", count=count)
        return count

    def _not_expired(self, failure: Failure) -> int:
        self._log.failure("held mail could not be looked through", failure)
        return 0


def _unable(node: str) -> Reply:
    return Reply(458, f"Unable to queue messages for node {node}", "4.3.0")


def _nobody() -> None:
    """Nobody waits for outgoing mail."""
