"""Dialogues with a host whose doors live in memory: whole, per octet, all at once, and with octets behind.

A transcript holds what the client says (`C:`) and what this host says (`S:`): a reply by its code alone, or
a line to the letter. `# config:` lines are TOML about the host, `# expect:` lines about what is left at the
end. The lines of a client between two of ours are one group.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path as File
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from mailnode.access.rules import Access, PeerRule
from mailnode.channel.factories import ReceiverFactory
from mailnode.channel.receiving import Doors, Listener
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.interfaces import ISettling, Settlement
from mailnode.mail import Entry, Envelope, Mode, Outcome, Path, Recipient, Reply, Result, Results
from mailnode.peering.held import Peer, Peering
from mailnode.routing.routes import Routing
from mailnode.smtp.grammar import parse_named_mailbox, parse_path
from mailnode.smtp.receiver import Limits
from mailnode.spool.memory import MemorySpool
from mailnode.terminals.memory import MemoryTerminals

TRANSCRIPTS = sorted((File(__file__).parent / "transcripts").glob("*.txt"))
HELD_TEXT = b"Held for you\r\n"


# ------------------------------------------------------------------------------ transcripts


@dataclass(frozen=True)
class Turn:
    """What the client says in one go, and what it hears then."""

    said: tuple[str, ...]
    heard: tuple[str, ...]

    @property
    def octets(self) -> bytes:
        return "".join(line + "\r\n" for line in self.said).encode("latin-1")


@dataclass(frozen=True)
class Transcript:
    config: dict[str, Any]
    expect: dict[str, Any]
    turns: tuple[Turn, ...]

    @property
    def texts(self) -> list[bytes]:
        """The mail data that this host took, in order."""
        found = []
        for turn, behind in zip(self.turns, self.turns[1:], strict=False):
            if turn.heard[-1:] and turn.heard[-1].startswith("354") and behind.heard[0].startswith("250"):
                lines = behind.said[: behind.said.index(".")]
                plain = [line[1:] if line.startswith(".") else line for line in lines]
                found.append("".join(line + "\r\n" for line in plain).encode("latin-1"))
            found += chunked(turn)
        return found


def chunked(turn: Turn) -> list[bytes]:
    """The message that this host took in chunks, if it took one in this turn."""
    text, octets = b"", turn.octets
    for match in re.finditer(rb"BDAT ([0-9]+)(?: LAST)?\r\n", octets):
        text += octets[match.end() : match.end() + int(match[1])]
    return [text] if b" LAST\r\n" in octets and turn.heard[-1].startswith("250") else []


def parse(text: str) -> Transcript:
    headers: dict[str, list[str]] = {"config": [], "expect": []}
    lines: list[tuple[str, str]] = []
    for row in text.splitlines():
        if match := re.match(r"# (config|expect): (.*)", row):
            headers[match[1]].append(match[2])
        elif match := re.match(r"([CS]):(?: (.*))?\Z", row):
            lines.append((match[1], match[2] or ""))
        else:
            assert row.startswith("#") or not row, f"neither a line nor a comment: {row}"
    groups = [(who, tuple(line for _, line in rows)) for who, rows in groupby(lines, lambda line: line[0])]
    if groups[0][0] == "S":  # a host greets unasked
        groups.insert(0, ("C", ()))
    if groups[-1][0] == "C":
        groups.append(("S", ()))
    pairs = zip(groups[::2], groups[1::2], strict=True)
    return Transcript(
        tomllib.loads("\n".join(headers["config"])),
        tomllib.loads("\n".join(headers["expect"])),
        tuple(Turn(said, heard) for (_, said), (_, heard) in pairs),
    )


def check(output: bytes, expected: tuple[str, ...]) -> None:
    """Whether output is what a transcript says: a bare code is any reply of that code."""
    rows = output.decode("latin-1").split("\r\n")
    assert rows.pop() == "", "a line has no end"
    for line in expected:
        if not re.fullmatch(r"[2-5][0-9]{2}", line):
            assert rows[:1] == [line]
            rows.pop(0)
            continue
        more = True
        while more:
            assert rows, f"{line} did not come"
            row = rows.pop(0)
            assert row[:3] == line, row
            more = row[3:4] == "-"
    assert rows == []


# ------------------------------------------------------------------------------ a host in memory


class Secrets:
    """Passwords in memory."""

    def __init__(self, passwords: dict[str, str]) -> None:
        self._passwords = passwords

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        return succeed(self._passwords.get(name) == secret)


@implementer(ISettling)
class Ledger:
    """Settles in the spool, and tells nobody."""

    def __init__(self, spool: MemorySpool) -> None:
        self._spool = spool

    def settle(self, entry: Entry, results: Results) -> Deferred[None]:
        return self._spool.settle(Settlement(entry.id, tuple(results.items())))


def result_of(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addCallback(found.append)
    assert found, "the answer is late"
    return found[0]


def named(text: str) -> tuple[str, Path]:
    found = parse_named_mailbox(text)
    assert found is not None, text
    return found


class Host:
    """A node with one connection to it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock.seconds)
        self.terminals = MemoryTerminals(self.clock.seconds)
        for number, user in enumerate(config.get("logged_in", [])):
            self.terminals.log_in(user, f"pts/{number}")
        address = config.get("address", "127.0.0.1")
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", address, 40000))
        listener = Listener(config.get("role", "smtp"))
        self.factory = ReceiverFactory(self._doors(config), self.clock, listener=listener)
        for text in config.get("held", []):
            self._hold(text)
        self.channel = self.factory.buildProtocol(IPv4Address("TCP", address, 40000))
        self.channel.makeConnection(self.transport)  # type: ignore[no-untyped-call]

    def _doors(self, config: dict[str, Any]) -> Doors:
        hostname = config["hostname"]
        lists = {
            name: [named(member) for member in members] for name, members in config.get("lists", {}).items()
        }
        directory = Directory(
            [NamedUsers(config.get("users", {}).items())],
            lists=lists,
            forward={name: named(path)[1] for name, path in config.get("forward", {}).items()},
            moved={name: named(path)[1] for name, path in config.get("moved", {}).items()},
            domains=[hostname],
        )
        peer = config.get("peer")
        domains = [f"{peer}.example"] if peer else []
        access = Access(
            ["127.0.0.0/8"],
            config.get("terminals_allow", "anyone"),
            [PeerRule(peer)] if peer else [],
            Secrets(config["passwords"]) if "passwords" in config else None,
        )
        routing = Routing(hostname, [hostname], directory, held=domains)
        peers = [Peer(peer, tuple(domains))] if peer else []
        return Doors(
            hostname,
            access,
            routing,
            Intake(hostname, routing, self.terminals, self.spool, self.clock.seconds),
            Peering(peers, self.spool, routing, Ledger(self.spool), self.clock.seconds),
            Limits(config.get("message_size", 1000), config.get("recipients", 1000), errors=100),
        )

    def _hold(self, text: str) -> None:
        """A message that waits in the spool for a peer."""
        reverse_path, path = (parse_path(word) for word in text.split())
        assert reverse_path is not None
        assert path is not None
        draft = self.spool.draft()
        draft.write(HELD_TEXT)
        envelope = Envelope(Mode.MAIL, reverse_path, (Recipient(path),))
        entry = result_of(self.spool.accept(self.spool.new_id(), envelope, draft, True))
        held = Result(Outcome.HELD, Reply(250, "Held"))
        result_of(Ledger(self.spool).settle(entry, dict.fromkeys(entry.envelope.recipients, held)))

    def say(self, octets: bytes, size: int = 0) -> bytes:
        """What the host answers to octets that come in pieces of `size`; 0 is all in one."""
        step = size or len(octets) or 1
        for at in range(0, len(octets), step):
            self.channel.dataReceived(octets[at : at + step])
        heard: bytes = self.transport.value()
        self.transport.clear()
        return heard

    def hang_up(self) -> None:
        self.channel.connectionLost()
        assert self.clock.getDelayedCalls() == []

    def check(self, transcript: Transcript) -> None:
        """Whether all is left as the transcript expects it."""
        expect = transcript.expect
        entries = result_of(self.spool.claim(100))
        spooled = [
            " ".join([entry.envelope.mode.value, str(entry.envelope.reverse_path)]
                     + [str(recipient.path) for recipient in entry.envelope.recipients])
            for entry in entries
        ]  # fmt: skip
        assert spooled == expect.get("spooled", [])
        shown = self.terminals.shown
        assert [f"{it.user} {it.message.sender}" for it in shown] == expect.get("shown", [])
        bodies = [it.message.body for it in shown] if not spooled else [entry.body.data for entry in entries]
        for body, text in zip(bodies, transcript.texts, strict=True):
            assert body.endswith(text)
        assert len(result_of(self.spool.claim_held(["leaf.example"], 100))) == expect.get("held", 0)


# ------------------------------------------------------------------------------ the ways to say it


def whole(host: Host, transcript: Transcript) -> None:
    for turn in transcript.turns:
        check(host.say(turn.octets), turn.heard)


def per_octet(host: Host, transcript: Transcript) -> None:
    for turn in transcript.turns:
        check(host.say(turn.octets, 1), turn.heard)


def all_at_once(host: Host, transcript: Transcript) -> None:
    octets = b"".join(turn.octets for turn in transcript.turns)
    check(host.say(octets), tuple(line for turn in transcript.turns for line in turn.heard))


def octets_behind(host: Host, transcript: Transcript) -> None:
    """A NOOP in the same segment behind every group; none is answered once the channel is closed."""
    for turn in transcript.turns:
        if not turn.said or turn.heard[-1][:3] in ("354", "334"):  # what is behind would be no command
            check(host.say(turn.octets), turn.heard)
            continue
        closed = turn.heard[-1][:3] in ("221", "421")
        check(host.say(turn.octets + b"NOOP\r\n"), turn.heard if closed else (*turn.heard, "250"))


WAYS: list[Callable[[Host, Transcript], None]] = [whole, per_octet, all_at_once, octets_behind]


def cases() -> list[Any]:
    found = []
    for path in TRANSCRIPTS:
        transcript = parse(path.read_text(encoding="utf-8"))
        ways = WAYS
        if transcript.config.get("lockstep"):  # after a granted TURN nothing may be said ahead
            ways = [whole, per_octet]
        elif transcript.config.get("at_once"):  # what is behind must be there in time
            ways = [whole, all_at_once]
        found += [pytest.param(transcript, way, id=f"{path.stem}-{way.__name__}") for way in ways]
    return found


@pytest.mark.parametrize(("transcript", "way"), cases())
def test_the_dialogue_goes_as_written(
    transcript: Transcript, way: Callable[[Host, Transcript], None]
) -> None:
    host = Host(transcript.config)
    way(host, transcript)
    assert host.transport.disconnecting
    host.hang_up()
    host.check(transcript)


def test_all_scenarios_of_the_rfc_that_a_receiver_can_meet_are_here() -> None:
    numbers = {path.stem[11:13] for path in TRANSCRIPTS if path.stem.startswith("appendix_f_")}
    assert numbers == {f"{number:02}" for number in range(1, 11)}


@pytest.mark.parametrize("cut", [1, 40, 120, 200, 260])
def test_a_client_that_goes_away_leaves_nothing(cut: int) -> None:
    transcript = parse(next(p for p in TRANSCRIPTS if "f_01" in p.stem).read_text(encoding="utf-8"))
    host = Host(transcript.config)
    octets = b"".join(turn.octets for turn in transcript.turns)
    end = octets.index(b"\r\n.\r\n")
    host.say(octets[: min(cut, end)])
    host.hang_up()
    assert result_of(host.spool.claim(100)) == []


def changed(old: str, new: str) -> tuple[Transcript, Transcript]:
    """Scenario 1 as it is, and with one line that is not true."""
    text = next(p for p in TRANSCRIPTS if "f_01" in p.stem).read_text(encoding="utf-8")
    assert old in text
    return parse(text), parse(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("S: 550 No such user here", "S: 250"),
        ("S: 550 No such user here", "S: 550 No such user"),
        ("S: 250 BBN-UNIX.ARPA", "S: 250 BBN-UNIX.ARPA\nS: 250 more"),
        ("S: 250 BBN-UNIX.ARPA\n", ""),
        ("C: RCPT TO:<Brown@BBN-UNIX.ARPA>\n", ""),
    ],
)
def test_a_dialogue_that_is_not_true_is_noticed(old: str, new: str) -> None:
    true, untrue = changed(old, new)
    whole(Host(true.config), true)
    with pytest.raises(AssertionError):
        whole(Host(untrue.config), untrue)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<Brown@BBN-UNIX.ARPA>"]', '<Green@BBN-UNIX.ARPA>"]'),
        ("# expect: spooled", "# expected: spooled"),
        ("C: Blah blah blah...", "C: Blah"),
    ],
)
def test_an_outcome_that_is_not_true_is_noticed(old: str, new: str) -> None:
    true, untrue = changed(old, new)
    host = Host(true.config)
    whole(host, true)
    with pytest.raises(AssertionError):
        host.check(untrue)


def test_a_bare_code_stands_for_any_reply_of_that_code() -> None:
    check(b"250-a\r\n250 b\r\n550 c\r\n", ("250", "550 c"))
    for output in (b"", b"250-a\r\n", b"250 a\r\n250 b\r\n", b"251 a\r\n", b"250 a"):
        with pytest.raises(AssertionError):
            check(output, ("250",))
