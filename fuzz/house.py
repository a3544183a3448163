"""A whole node in memory: every room is the real one, but for the disk, the network and the screens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer

from fuzz.wire import End, Wire
from mailnode.access.rules import Access, PeerRule
from mailnode.channel.factories import ReceiverFactory, SenderFactory
from mailnode.channel.receiving import Doors, Listener
from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import MemoryMailbox
from mailnode.delivery.notices import Notices
from mailnode.delivery.settling import Settling
from mailnode.delivery.short_way import ShortWay
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.interfaces import ILetters, IRelay
from mailnode.mail import Entry, Hop, Letter, Outcome, Path, Reply, Result, Results
from mailnode.peering.held import Peer, Peering
from mailnode.routing.routes import Routing
from mailnode.smtp.events import Ended
from mailnode.smtp.receiver import Limits
from mailnode.smtp.script import Plan
from mailnode.spool.memory import MemoryDraft, MemorySpool
from mailnode.spool.schedule import Retry, decide
from mailnode.terminals.memory import MemoryTerminals

LINE_DOWN = Result.later(Reply(451, "No connections from here", "4.4.1"))


class Draft(MemoryDraft):
    """A draft that tells the spool of its end."""

    def __init__(self, spool: Spool, arrived: float) -> None:
        super().__init__(arrived)
        self._of = spool

    def discard(self) -> None:
        super().discard()
        self._of.drafts.discard(self)


class Spool(MemorySpool):
    """Knows its open drafts, and may let whoever waits for custody wait longer."""

    def __init__(self, clock: Clock) -> None:
        # Ids are the same in every run, so that a failure can be run again.
        super().__init__(clock.seconds, randbits=random.Random(1).getrandbits)
        self.drafts: set[Draft] = set()
        self.late = False
        self._unsaid: list[tuple[Deferred[Any], Deferred[Any]]] = []

    def draft(self) -> Draft:
        draft = Draft(self, self._clock())
        self.drafts.add(draft)
        return draft

    def accept(self, *arguments: Any, **options: Any) -> Deferred[Entry | None]:
        return self.unsaid(super().accept(*arguments, **options))

    def unsaid(self, done: Deferred[Any]) -> Deferred[Any]:
        """What is `done`, heard of when the disk has caught up."""
        if not self.late:
            return done
        told: Deferred[Any] = Deferred()
        self._unsaid.append((done, told))
        return told

    @property
    def waiting_for_disk(self) -> int:
        return len(self._unsaid)

    def says(self) -> None:
        """The disk has caught up."""
        unsaid, self._unsaid = self._unsaid, []
        for accepted, told in unsaid:
            accepted.addBoth(told.callback)


@implementer(IRelay)
class NoRelay:
    """Takes down what would leave this host, and lets nothing leave."""

    def __init__(self) -> None:
        self.letters: list[tuple[Hop, Letter]] = []

    def deliver(self, hop: Hop, letter: Letter) -> Deferred[Results]:
        self.letters.append((hop, letter))
        return succeed(dict.fromkeys(letter.recipients, LINE_DOWN))


class Mailbox(MemoryMailbox):
    """On the disk of the spool: late when that is."""

    def __init__(self, directory: Directory, hostname: str, spool: Spool) -> None:
        super().__init__(directory, hostname)
        self._spool = spool

    def deliver(self, *arguments: Any, **options: Any) -> Deferred[Result]:
        return self._spool.unsaid(super().deliver(*arguments, **options))


class Secrets:
    """Passwords in memory, as far as PLAIN and LOGIN need them."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = passwords

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        return succeed(self._passwords.get(name) == secret)

    def verify_digest(self, name: str, challenge: bytes, digest: str) -> Deferred[bool]:
        return succeed(False)

    def keys(self, name: str) -> Deferred[Any]:
        raise LookupError(name)


class House:
    """`peers` are names of hosts with the one domain `NAME.example`, which prove themselves by address
    (`addresses`) or AUTH (`passwords`). `trusted` are networks that may relay. Times are those of `clock`.
    """

    def __init__(
        self,
        hostname: str = "mit.example",
        users: Sequence[str] = ("jones", "brown"),
        *,
        clock: Clock | None = None,
        peers: Mapping[str, Sequence[str]] | None = None,
        passwords: Mapping[str, str] | None = None,
        trusted: Sequence[str] = (),
        routes: Mapping[str, str] | None = None,
        terminals_allow: str = "anyone",
        limits: Limits | None = None,
        listener: Listener | None = None,
        tls: Any = None,
        names: Mapping[str, Any] | None = None,
        mailbox: Any = None,
    ) -> None:
        self.clock = clock or Clock()
        self.hostname = hostname
        now = self.clock.seconds
        self.spool = Spool(self.clock)
        self.terminals = MemoryTerminals(now)
        self.relay = NoRelay()
        self.directory = Directory(
            [NamedUsers((user, "") for user in users)], domains=[hostname], **(names or {})
        )
        self.mailbox: Any = (
            mailbox(self.directory) if mailbox else Mailbox(self.directory, hostname, self.spool)
        )
        peers = peers or {}
        domains = [f"{name}.example" for name in peers]
        self.routing = Routing(hostname, [hostname], self.directory, routes=routes, held=domains)
        self.intake = Intake(hostname, self.routing, self.terminals, self.spool, now)
        notices = Notices(hostname, Path("postmaster", hostname), self.intake, now, self.spool.new_id)

        def next_attempt(attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
            return decide(Retry(), attempts, age, warned, 0.5)

        settling = Settling(self.spool, notices, next_attempt, Retry().expire, self.clock, now)
        parts = (self.routing, self.mailbox, self.terminals, self.relay, settling)
        self.dispatch = Dispatch(self.spool, *parts, self.clock, now)
        self.intake.dispatch = self.dispatch
        self.intake.short_way = ShortWay(self.mailbox, self.clock)
        rules = [PeerRule(name, networks=tuple(networks)) for name, networks in peers.items()]
        held = [_peer(name, networks) for name, networks in peers.items()]
        self.peering = Peering(held, self.spool, self.routing, settling, now)
        secrets = Secrets(passwords) if passwords is not None else None
        self.access = Access(list(trusted), terminals_allow, rules, secrets)
        self.doors = Doors(
            hostname,
            self.access,
            self.routing,
            self.intake,
            self.peering,
            limits or Limits(errors=1_000_000, commands=1_000_000),
            tls=tls,
        )
        self.factory = ReceiverFactory(
            self.doors, self.clock, listener=listener or Listener(tls="starttls" if tls else "none")
        )
        self.dispatch.start()

    def call(self, house: House, plan: Plan, letters: Any, ended: list[Ended], **options: Any) -> Wire:
        """A call from here to another house, which may turn the line."""
        wire = Wire(self.clock)
        if plan.turn:
            options.setdefault("doors", self.doors)
        sender = SenderFactory(plan, letters, self.clock, ended.append, **options)
        caller = sender.buildProtocol(wire.caller.getPeer())
        wire.connect(caller, house.factory.buildProtocol(wire.called.getPeer()))
        return wire

    def hear(self, address: str = "192.0.2.7") -> Line:
        """A call from a client whose words come from the test."""
        wire = Wire(self.clock, address)
        client = Client()
        wire.connect(client, self.factory.buildProtocol(wire.called.getPeer()))
        return Line(wire, wire.caller, client)

    def hear_secured(self, creator: Any, address: str = "192.0.2.7") -> Line:
        """As `hear`, and TLS has begun; `creator` is that of the client's side."""
        line = self.hear(address)
        assert line.codes(b"EHLO client.example\r\nSTARTTLS\r\n") == [250, 220]
        line.end.startTLS(creator)
        line.wire.runs()
        return line

    def hear_turned(self, address: str = "192.0.2.7") -> Line:
        """A host that we called, to which the line was turned: it leads now, in the words of the test."""
        line = self.answered(Plan(self.hostname, turn="TURN"), Letters(), address, doors=self.doors)
        for words in (b"220 hub\r\n", b"250 hub\r\n"):
            line.say(words)
        line.greeting = line.say(b"250 your turn\r\n")
        return line

    def answered(self, plan: Plan, letters: Letters, address: str = "192.0.2.7", **options: Any) -> Line:
        """A call from here to a host whose words come from the test."""
        wire = Wire(self.clock, called=address)
        server = Client()
        sender = SenderFactory(plan, letters, self.clock, letters.ended.append, **options)
        wire.connect(sender.buildProtocol(wire.caller.getPeer()), server)
        return Line(wire, wire.called, server)

    def works(self) -> None:
        """Dispatch does what there is to do now."""
        self.clock.advance(0)
        self.clock.advance(0)

    def mail(self, user: str) -> list[bytes]:
        """The messages in a mailbox in memory."""
        found: list[bytes] = self.mailbox.messages.get(user, [])
        return found

    @property
    def empty(self) -> bool:
        """Whether nothing is in custody here, neither drafts nor messages."""
        return not self.spool.drafts and not self.spool._messages


class Client(Protocol):
    """What a client hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


@implementer(ILetters)
class Letters:
    """Letters of a test, what became of them, and how the conversation ended."""

    def __init__(self, *letters: Letter) -> None:
        self.waiting = list(letters)
        self.outcomes: list[Outcome] = []
        self.ended: list[Ended] = []

    def next(self) -> Letter | None:
        return self.waiting.pop(0) if self.waiting else None

    at_hand = next

    def settle(self, letter: Letter, results: Results, host: str) -> None:
        self.outcomes += [result.outcome for result in results.values()]

    def returned(self, letter: Letter) -> None:
        self.waiting.insert(0, letter)

    def close(self) -> None:
        """Nothing is held back."""


class Line:
    """A connection to a house whose other end is the test's."""

    def __init__(self, wire: Wire, end: End, client: Client) -> None:
        self.wire = wire
        self.end = end
        self._client = client
        self.wire.runs()
        self.greeting = self._take()

    def say(self, octets: bytes, size: int = 1 << 20) -> list[bytes]:
        """What is answered to octets that come in pieces of `size`: the lines."""
        for at in range(0, len(octets), size):
            self.end.write(octets[at : at + size])
            self.wire.runs()
        self.wire.runs()
        return self._take()

    def codes(self, octets: bytes, size: int = 1 << 20) -> list[int]:
        """The codes of the replies to that."""
        return [int(line[:3]) for line in self.say(octets, size) if line[3:4] != b"-"]

    def hang_up(self) -> None:
        self.end.loseConnection()
        self.wire.runs()

    @property
    def closed(self) -> bool:
        return self._client.lost

    def _take(self) -> list[bytes]:
        heard, self._client.heard = self._client.heard, b""
        lines = heard.split(b"\r\n")
        assert lines.pop() == b"", "a line has no end"
        return lines


def _peer(name: str, networks: Sequence[str]) -> Peer:
    return Peer(name, (f"{name}.example",), networks=tuple(ip_network(network) for network in networks))
