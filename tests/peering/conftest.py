"""A house for peers: real rooms over a real spool without threads, and a clock that is turned by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path as FilePath
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import MemoryMailbox
from mailnode.delivery.settling import Settling
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.interfaces import INotices, IRelay, Results, Selection
from mailnode.mail import (
    Body,
    Client,
    Entry,
    Envelope,
    Hop,
    Letter,
    Mode,
    Path,
    Recipient,
    Reply,
    Result,
    Turn,
)
from mailnode.peering.held import Peer, Peering
from mailnode.peering.keeping import Keeping
from mailnode.peering.letters import HeldLetters
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.spool.schedule import Retry, decide
from mailnode.spool.sqlite import SqliteSpool
from mailnode.terminals.memory import MemoryTerminals

DAY = 86400.0


@implementer(INotices)
class Notices:
    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []
        self.until: list[float] = []

    def failed(self, entry: Entry, results: Results) -> Deferred[None]:
        self.told.append(("failed", sorted(r.path.mailbox for r in results)))
        return succeed(None)

    def delayed(self, entry: Entry, results: Results, until: float) -> Deferred[None]:
        assert {result.outcome.value for result in results.values()} == {"later"}
        self.told.append(("delayed", sorted(r.path.mailbox for r in results)))
        self.until.append(until)
        return succeed(None)

    def succeeded(self, entry: Entry, results: Results) -> Deferred[None]:
        raise AssertionError("nobody asked for that")


@implementer(IRelay)
class Relay:
    """Gives letters to nobody until the test answers."""

    def __init__(self) -> None:
        self.letters: list[tuple[Hop, Letter, Deferred[Results]]] = []

    def deliver(self, hop: Hop, letter: Letter) -> Deferred[Results]:
        told: Deferred[Results] = Deferred()
        self.letters.append((hop, letter, told))
        return told

    def answer(self, reply: Reply) -> tuple[Hop, list[str]]:
        hop, letter, told = self.letters.pop(0)
        told.callback(dict.fromkeys(letter.recipients, Result.of(reply)))
        return hop, [recipient.path.mailbox for recipient in letter.recipients]


class House:
    """Peers: leaf (leaf.edu, twig.leaf.edu), old (by address), sent (what is held goes out on ETRN)."""

    LEAF = Peer("leaf", ("leaf.edu", "twig.leaf.edu"), keep=30 * DAY, fingerprint="sha256:1eaf")
    OLD = Peer("old", ("old.edu",), by_auth=False, networks=(ip_network("192.0.2.0/24"),))
    SENT = Peer("sent", ("sent.edu",), deliver="tcp:sent.edu:25")
    RETRY = Retry(first=300, warn=4 * 3600, expire=5 * DAY)

    def __init__(self, spool: Any, clock: Clock) -> None:
        self.clock = clock
        self.spool = spool
        self.peers: list[Peer] = [self.LEAF, self.OLD, self.SENT]
        self.notices = Notices()
        self.relay = Relay()
        self.mailbox = MemoryMailbox()
        self.secrets: dict[str, str] = {}
        self.wrong_time = 0.0  # by which the time of day is set forward
        self.directory = Directory(
            [NamedUsers([("jones", "")])],
            aliases={"branch": (("", Path("b", "leaf.edu")),)},
            domains=["hub.edu"],
        )
        self.settling = Settling(spool, self.notices, self._decide, self.RETRY.expire, clock, self.now)
        self.routing = self._routing()
        self.peering = Peering(
            self.peers,
            *(spool, self.routing, self.settling, self.now),
            clock=clock,
            keeping=self._keeping(),
            routed=["route.edu"],
            secret_of=lambda name: self.secrets.get(name),
        )
        self.settling.holding = self.peering
        self.terminals = MemoryTerminals()
        self.intake = self.new_intake()
        self.dispatch = Dispatch(
            *(spool, self.routing, self.mailbox, self.terminals, self.relay, self.settling),
            *(clock, self.now),
        )
        self.intake.dispatch = self.dispatch
        self.peering.settlements.queued = self.dispatch.wake

    def new_intake(self) -> Intake:
        """One that goes by the configuration as it is now."""
        intake = Intake("hub.edu", self.routing, self.terminals, self.spool, self.now)
        intake.holding = self.peering
        return intake

    def now(self) -> float:
        return self.clock.seconds() + self.wrong_time

    def _decide(self, attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
        return decide(self.RETRY, attempts, age, warned, 0.5)

    def _keeping(self) -> Keeping:
        keep = {domain: peer.keep for peer in self.peers for domain in peer.domains}
        return Keeping(keep, self.RETRY.expire, self.RETRY.warn)

    def _routing(self) -> Routing:
        held = [domain for peer in self.peers for domain in peer.domains]
        routes = {"hold.edu": "hold", "*": "mx"}
        return Routing("hub.edu", ["hub.edu"], self.directory, routes=routes, held=held)

    def reread(self, *peers: Peer) -> None:
        """The configuration has changed: these are the peers now."""
        self.peers = list(peers)
        self.routing = self._routing()
        self.peering.use(self.peers, self.routing, self.settling, keeping=self._keeping())
        self.dispatch.use(self.routing, self.mailbox, self.terminals, self.relay, self.settling)

    # ------------------------------------------------------------- what a test does

    def give(self, *names: str, mode: Mode = Mode.MAIL, body: bytes = b"Subject: x\r\n\r\nhi\r\n") -> str:
        recipients = tuple(Recipient(Path(*name.split("@")), mode) for name in names)
        envelope = Envelope(mode, Path("smith", "usc.edu"), recipients)
        id: str = found(self.intake.submit(envelope, Body.of(body)))
        return id

    def queue(self) -> list[tuple[str, str]]:
        """(recipient, state) of all that is in the spool."""
        listing = found(self.spool.listing(Selection()))
        return [(r.path.mailbox, r.state) for message in listing for r in message.recipients]

    def grant(self, turn: Turn, client: Client | None = None) -> Any:
        client = client or Client(address="127.0.0.1", identity="leaf")
        return found(self.peering.grant(client, turn))

    def letters(self, wait: float = 0.0, *domains: str) -> HeldLetters:
        letters = self.grant(Turn(bool(domains), domains, wait))
        assert isinstance(letters, HeldLetters)
        return letters


def found(deferred: Any) -> Any:
    """What has come of it; fails if nothing has yet."""
    if not isinstance(deferred, Deferred):
        return deferred
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "the Deferred has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


class Hands:
    """What tests of this room do with letters, in one place."""

    ok = Reply(250, "ok")
    busy = Reply(450, "busy")
    found = staticmethod(found)

    @staticmethod
    def answer(letters: HeldLetters, letter: Letter, reply: Reply) -> None:
        letters.settle(letter, {r: Result.of(reply) for r in letter.recipients}, "leaf")

    @staticmethod
    def take(letters: HeldLetters, reply: Reply = ok) -> list[list[str]]:
        """Takes all there is with `reply`; the recipients of each letter."""
        taken = []
        while (letter := found(letters.next())) is not None:
            taken.append([r.path.mailbox for r in letter.recipients])
            Hands.answer(letters, letter, reply)
        return taken

    @staticmethod
    def fired(deferred: Deferred[Any]) -> Sequence[Any]:
        """The result in a list, an empty list if there is none yet."""
        results: list[Any] = []
        deferred.addCallback(results.append)
        return results


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture(params=["memory", "sqlite"])
def house(request: pytest.FixtureRequest, tmp_path: FilePath) -> Iterator[House]:
    clock = Clock()
    clock.advance(10_000 * DAY)
    if request.param == "memory":
        yield House(MemorySpool(clock.seconds), clock)
        return
    spool = SqliteSpool(str(tmp_path / "data"), None, clock.seconds)
    spool.open()
    yield House(spool, clock)
    found(spool.close())
