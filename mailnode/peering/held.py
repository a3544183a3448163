"""Mail held for peers, and who may fetch it by turning the line (RFC 821 3.8, made safe by RFC 2645's idea).

The right to TURN hangs on what a client has proved (AUTH, its address where that is allowed), never on
its HELO. A message is split by the domains granted, every time: others' recipients stay in the spool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import Eventually, ILetters, IPeering, IRouting, ISettling, ISpool
from mailnode.letters import Addressed, address
from mailnode.mail import (
    OURS,
    Client,
    Entry,
    Held,
    Letter,
    Outcome,
    Recipient,
    Reply,
    Result,
    Results,
)
from mailnode.smtp.replies import TURN_REFUSED

KEPT_TOO_LONG: Final = Reply(554, "The host did not fetch the message in time", "4.4.7")
AT_ONCE: Final = 20  # entries leased at a time


@dataclass(frozen=True, slots=True)
class Peer:
    """A host whose mail is held until it turns the line."""

    name: str
    domains: tuple[str, ...]  # lower case
    by_auth: bool = True
    networks: tuple[
        IPv4Network | IPv6Network, ...
    ] = ()  # a legacy host that can prove itself by nothing else
    keep: float = 30 * 86400  # seconds
    fingerprint: str = ""  # "sha256:..." of its client certificate, if that proves it

    def is_proved_by(self, client: Client) -> bool:
        if self.by_auth and client.identity == self.name:
            return True
        if self.fingerprint and client.fingerprint == self.fingerprint:
            return True
        if not client.address or not self.networks:
            return False
        where = ip_address(client.address)
        return any(where in network for network in self.networks)


@implementer(ILetters)
class HeldLetters:
    """Letters from held mail: for some domains, or, with `others`, for all domains but those.

    Leases are taken a few at a time, when the Sender asks, so two connections of one peer never get the
    same message; what is not given away is held again when the conversation ends.
    """

    def __init__(
        self,
        spool: ISpool,
        routing: IRouting,
        settling: ISettling,
        domains: Sequence[str],
        others: bool = False,
    ) -> None:
        self._spool = spool
        self._routing = routing
        self._settling = settling
        self._domains = tuple(domains)
        self._others = others
        self._waiting: deque[tuple[Entry, Addressed]] = deque()
        self._open: dict[int, tuple[Entry, Addressed]] = {}  # by the letter's identity
        self._later: list[tuple[Entry, Results]] = []  # refused for now: held again at the end
        self.given = 0  # recipients delivered
        self._log = Logger("mailnode.peering")

    def next(self) -> Eventually[Letter | None]:
        if self._waiting:
            return self._hand_over()
        wanted: Deferred[Letter | None] = Deferred()  # whoever cancels it does not take the claim back
        self._claim(wanted)
        return wanted

    def _claim(self, wanted: Deferred[Letter | None]) -> None:
        claimed = self._spool.claim_held(self._domains, AT_ONCE, self._others)
        claimed.addCallback(self._claimed, wanted).addErrback(wanted.errback)

    def _claimed(self, entries: list[Entry], wanted: Deferred[Letter | None]) -> None:
        for entry in entries:
            self._address(entry)
        if wanted.called:  # cancelled: the connection is gone, and nobody will ask for these again
            self._hold_waiting()
        elif self._waiting:
            wanted.callback(self._hand_over())
        elif entries:
            self._claim(wanted)
        else:
            wanted.callback(None)

    def _address(self, entry: Entry) -> None:
        """The letters of an entry; recipients that the configuration now sends elsewhere are let go."""
        pairs = []
        for recipient in entry.envelope.recipients:
            ruling = self._routing.route(recipient.path, recipient.mode, OURS)
            here = ruling.destinations[0].place if ruling.reply.ok and len(ruling.destinations) == 1 else None
            if isinstance(here, Held) and (here.domain.lower() in self._domains) is not self._others:
                pairs.append((recipient, ruling.destinations[0]))
            elif here is not None:  # held by an operator, or routed otherwise by now: not this host's
                self._later.append((entry, {recipient: Result(Outcome.HELD, Reply(250, "Held"))}))
            else:
                self._settle(entry, {recipient: Result(Outcome.UNTRIED, ruling.reply)})
        self._waiting.extend((entry, addressed) for addressed in address(entry, pairs))

    def _hand_over(self) -> Letter:
        entry, addressed = self._waiting.popleft()
        self._open[id(addressed.letter)] = (entry, addressed)
        return addressed.letter

    def settle(self, letter: Letter, results: Results, host: str) -> None:
        entry, addressed = self._open[id(letter)]
        now: dict[Recipient, Result] = {}
        later: dict[Recipient, Result] = {}
        for recipient, result in addressed.results(results).items():
            self.given += result.outcome is Outcome.DELIVERED
            if result.outcome is Outcome.LATER:  # it waits for the next call, not for a time
                later[recipient] = Result(Outcome.HELD, result.reply, host)
            else:
                now[recipient] = Result(result.outcome, result.reply, host, dsn=result.dsn)
        if now:
            self._settle(entry, now)
        if later:
            self._later.append((entry, later))
        if letter.recipients[-1] in results:  # they are settled in their order: that was all of it
            del self._open[id(letter)]

    def returned(self, letter: Letter) -> None:
        entry, addressed = self._open.pop(id(letter))
        self._hold(entry, tuple(addressed.recipients.values()))

    def close(self) -> None:
        for entry, results in self._later:
            self._settle(entry, results)
        self._later.clear()
        self._hold_waiting()
        self._open.clear()

    def _hold_waiting(self) -> None:
        while self._waiting:
            entry, addressed = self._waiting.popleft()
            self._hold(entry, tuple(addressed.recipients.values()))

    def _hold(self, entry: Entry, recipients: tuple[Recipient, ...]) -> None:
        held = Result(Outcome.HELD, Reply(250, "Held"))
        self._settle(entry, dict.fromkeys(recipients, held))

    def _settle(self, entry: Entry, results: Results) -> None:
        self._settling.settle(entry, results).addErrback(
            lambda failure: self._log.failure("{id} could not be settled", failure, id=entry.id)
        )


@implementer(IPeering)
class Peering:
    """`now` gives seconds since the epoch."""

    def __init__(
        self,
        peers: Sequence[Peer],
        spool: ISpool,
        routing: IRouting,
        settling: ISettling,
        now: Callable[[], float],
    ) -> None:
        self._peers = tuple(peers)
        self._spool = spool
        self._routing = routing
        self._settling = settling
        self._now = now
        self._log = Logger("mailnode.peering")

    def peer_of(self, client: Client) -> Peer | None:
        if client.turned:  # we called that host: it has a stranger's rights here
            return None
        if client.identity:  # what was proved by name outweighs the address, as in access
            return next((it for it in self._peers if it.by_auth and it.name == client.identity), None)
        return next((peer for peer in self._peers if peer.is_proved_by(client)), None)

    def grant(self, client: Client) -> ILetters | Reply:
        peer = self.peer_of(client)
        if peer is None:
            return TURN_REFUSED
        return HeldLetters(self._spool, self._routing, self._settling, peer.domains)

    def outgoing(self) -> HeldLetters:
        """The mail that is held for no peer: what a call takes along to the host it calls."""
        domains = [domain for peer in self._peers for domain in peer.domains]
        return HeldLetters(self._spool, self._routing, self._settling, domains, others=True)

    # ------------------------------------------------------------- the end of patience

    def expire(self) -> Deferred[int]:
        """Returns what peers did not fetch within their `keep`; fires with how many messages that were."""
        return self._expire_from(0, 0).addCallbacks(self._expired, self._not_expired)

    def _expire_from(self, index: int, count: int) -> Deferred[int]:
        if index == len(self._peers):
            return succeed(count)
        done = self._expire_for(self._peers[index], count)
        return done.addCallback(lambda count: self._expire_from(index + 1, count))

    def _expire_for(self, peer: Peer, count: int) -> Deferred[int]:
        """The oldest come first, so the first that is young enough ends the search."""

        def claimed(entries: list[Entry]) -> Eventually[int]:
            old = [entry for entry in entries if self._now() - entry.arrived > peer.keep]
            for entry in entries:
                expired = entry in old
                result = Result.failed(KEPT_TOO_LONG) if expired else Result(Outcome.HELD, Reply(250, "Held"))
                self._settling.settle(entry, dict.fromkeys(entry.envelope.recipients, result))
            if len(old) == AT_ONCE:
                return self._expire_for(peer, count + len(old))
            return count + len(old)

        return self._spool.claim_held(peer.domains, AT_ONCE).addCallback(claimed)

    def _expired(self, count: int) -> int:
        if count:
            self._log.info("{count} messages were not fetched in time and returned", count=count)
        return count

    def _not_expired(self, failure: Failure) -> int:
        self._log.failure("held mail could not be looked through", failure)
        return 0
