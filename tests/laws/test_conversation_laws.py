"""Laws of the two machines together: what is given is what is received, and a turn makes both new."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import cycle

from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mailnode.mail import (
    NULL_PATH,
    Body,
    Letter,
    Mode,
    Outcome,
    Path,
    Recipient,
    Reply,
    Rights,
    Terms,
)
from mailnode.smtp import events, replies
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.framing import Stuffer
from mailnode.smtp.receiver import Receiver, State
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from tests.laws.examples import examples

RIGHTS = Rights(modes=tuple(Mode), turn=True)

# ------------------------------------------------------------------------------ letters

PRINTABLE = st.one_of(st.characters(min_codepoint=32, max_codepoint=126), st.sampled_from("\xe9\u4f60\xdf"))
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
DOMAIN = st.one_of(
    st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    st.sampled_from(["[127.0.0.1]", "[IPv6:::1]", "#123", "MIT.EDU", "b\xfccher.example"]),
)
ROUTE = st.lists(DOMAIN, max_size=2).map(tuple)
PATH = st.builds(Path, st.text(PRINTABLE, min_size=1, max_size=20), DOMAIN, ROUTE)
REVERSE = st.one_of(st.just(NULL_PATH), PATH)
FORWARD = st.one_of(st.just(Path("postmaster")), PATH)
TEXT = [b"\r\n", b"\r\n", b".", b"\r\n.\r\n", b"text", b"\0\xff", b"QUIT\r\n", b"x" * 90]


def whole_lines(parts: list[bytes]) -> bytes:
    text = b"".join(parts)
    return text if not text or text.endswith(b"\r\n") else text + b"\r\n"


BODY = st.lists(st.sampled_from(TEXT), max_size=12).map(whole_lines)
BINARY = st.lists(st.sampled_from([*TEXT, b"\n", b"\r", b"\n.\n"]), max_size=12).map(b"".join)
TERMS = st.builds(
    lambda kind, ret, envid: Terms(kind == "8BITMIME", kind == "BINARYMIME", False, ret, envid),
    st.sampled_from(["7BIT", "8BITMIME", "BINARYMIME"]),
    st.sampled_from(["", "FULL", "HDRS"]),
    st.sampled_from(["", "QQ314159", "a+b = c\\"]),
)
NOTIFY = st.sampled_from([(), ("NEVER",), ("SUCCESS",), ("FAILURE", "DELAY")])
ORCPT = st.sampled_from(["", "rfc822;Bob+Tag@usc.example", "x400;/C=us/A= /"])


@st.composite
def letters(draw: st.DrawFn) -> Letter:
    mode = draw(st.sampled_from(Mode))
    paths = draw(st.lists(FORWARD, min_size=1, max_size=5, unique=True))
    recipients = tuple(
        Recipient(path, mode, number, notify=draw(NOTIFY), orcpt=draw(ORCPT))
        for number, path in enumerate(paths)
    )
    reverse_path, terms = draw(REVERSE), draw(TERMS)
    utf8 = any(not str(path).isascii() for path in (reverse_path, *paths))
    body = draw(BINARY if terms.binary else BODY)
    return Letter(mode, reverse_path, recipients, Body.of(body), replace(terms, utf8=utf8))


# ------------------------------------------------------------------------------ two hosts


@dataclass
class Message:
    mode: Mode
    reverse_path: Path
    terms: Terms
    paths: list[Path] = field(default_factory=list)
    wishes: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    body: bytes = b""


class Wire:
    """A Sender and a Receiver with a wire between them that cuts octets into pieces of given sizes."""

    def __init__(
        self,
        given_away: list[Letter],
        sizes: list[int],
        *,
        pipelining: bool = True,
        turn: str = "",
        refused: frozenset[Path] = frozenset(),
    ) -> None:
        self.sender = Sender(Plan("usc.example", turn=turn))
        self.receiver = Receiver("mit.example", RIGHTS)
        self.letters = list(given_away)
        self.sizes = cycle(sizes)
        self.pipelining = pipelining
        self.refused = refused
        self.up = b""  # octets from the sender
        self.down = b""  # octets from the receiver
        self.message: Message | None = None
        self.received: list[Message] = []
        self.results: dict[int, dict[Path, Outcome]] = {}
        self.commands: list[bytes] = []
        self.told: list[str] = []
        self.ended: Ended | None = None

    def run(self) -> None:
        busy = True
        while busy:
            busy = self.sender_runs() | self.receiver_runs()
            piece, self.up = self.cut(self.up)
            self.receiver.feed(piece)
            back, self.down = self.cut(self.down)
            self.sender.feed(back)
            busy |= bool(piece or back)

    def cut(self, octets: bytes) -> tuple[bytes, bytes]:
        size = next(self.sizes)
        return octets[:size], octets[size:]

    def sender_runs(self) -> bool:
        busy = False
        while (event := self.sender.next()) is not None:
            busy = True
            if isinstance(event, events.Write):
                self.up += event.octets
                self.commands.append(event.octets)
            elif isinstance(event, events.LetterWanted):
                self.sender.give(self.letters.pop(0) if self.letters else None)
            elif isinstance(event, events.WriteBody):
                self.up += self.body(event)
                self.sender.body_written()
            elif isinstance(event, events.Settled):
                found = self.results.setdefault(len(self.results), {})
                found.update({recipient.path: result.outcome for recipient, result in event.results.items()})
            else:
                self.ended = event
        return busy

    def body(self, event: events.WriteBody) -> bytes:
        body = event.letter.body
        if event.chunk:
            return b"".join(body.chunks())
        stuffer = Stuffer()
        size = next(self.sizes)
        return b"".join(stuffer.stuff(piece) for piece in body.chunks(size)) + stuffer.end()

    def receiver_runs(self) -> bool:
        busy = False
        while (event := self.receiver.next()) is not None:
            busy = True
            self.told.append(repr(event))
            if isinstance(event, Reply):
                octets = event.encode(self.receiver.extended)
                self.down += octets if self.pipelining else octets.replace(b"250-PIPELINING\r\n", b"")
            elif isinstance(event, events.AskSender):
                self.message = Message(event.mode, event.reverse_path, event.terms)
                self.receiver.answer(replies.SENDER_OK)
            elif isinstance(event, events.Discarded):
                self.message = None
            elif isinstance(event, events.AskRecipient):
                self.receiver.answer(self.recipient(*event))
            elif isinstance(event, events.AskData):
                self.receiver.answer(replies.START_INPUT)
            elif isinstance(event, events.MailData):
                assert self.message is not None
                self.message.body += event.piece
            elif isinstance(event, events.AskCustody):
                assert self.message is not None
                self.received.append(self.message)
                self.message = None
                self.receiver.answer(replies.OK)
            elif isinstance(event, events.AskTurn):
                self.receiver.answer(Reply(250, "OK"))
        return busy

    def recipient(self, path: Path, notify: tuple[str, ...], orcpt: str) -> Reply:
        assert self.message is not None
        if path in self.refused:
            return Reply(550, "No such user here", "5.1.1")
        self.message.paths.append(path)
        self.message.wishes.append((notify, orcpt))
        return replies.RECIPIENT_OK


SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=6)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(letters(), max_size=3), SIZES, st.booleans())
@example(
    [Letter(Mode.MAIL, NULL_PATH, (Recipient(Path('"\\', "a.example", ("b",))),), Body.of(b""))], [1], True
)
def test_what_the_sender_gives_is_what_the_receiver_gets(
    given_away: list[Letter], sizes: list[int], pipelining: bool
) -> None:
    wire = Wire(given_away, sizes, pipelining=pipelining)
    wire.run()
    assert wire.ended is not None
    assert wire.ended.ending is Ending.DONE
    assert wire.received == [
        Message(
            letter.mode,
            letter.reverse_path,
            letter.terms,
            [recipient.path for recipient in letter.recipients],
            [(recipient.notify, recipient.orcpt) for recipient in letter.recipients],
            b"".join(letter.body.chunks()),
        )
        for letter in given_away
    ]
    assert [set(result.values()) for result in wire.results.values()] == [{Outcome.DELIVERED}] * len(
        given_away
    )
    assert any(b"\r\nRCPT" in octets for octets in wire.commands) == (pipelining and bool(given_away))


@settings(max_examples=examples(100), deadline=None)
@given(letters(), SIZES, st.booleans(), st.sets(st.integers(0, 4)))
def test_delivered_is_who_was_accepted_and_nobody_else(
    letter: Letter, sizes: list[int], pipelining: bool, numbers: set[int]
) -> None:
    refused = frozenset(recipient.path for recipient in letter.recipients if recipient.number in numbers)
    wire = Wire([letter], sizes, pipelining=pipelining, refused=refused)
    wire.run()
    assert wire.results[0] == {
        recipient.path: Outcome.FAILED if recipient.path in refused else Outcome.DELIVERED
        for recipient in letter.recipients
    }
    accepted = [recipient.path for recipient in letter.recipients if recipient.path not in refused]
    assert [message.paths for message in wire.received] == ([accepted] if accepted else [])
    assert wire.message is None


# ------------------------------------------------------------------------------ the turned line


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(letters(), max_size=2), st.lists(letters(), max_size=2), SIZES)
def test_after_a_turn_both_sides_are_as_new(
    there: list[Letter], back: list[Letter], sizes: list[int]
) -> None:
    wire = Wire(there, sizes, turn="TURN")
    wire.run()
    assert wire.ended is not None
    assert wire.ended.ending is Ending.TURNED
    assert wire.told[-1] == repr(events.Turned())
    assert wire.receiver.state is State.GONE
    turned = Wire(back, sizes)
    # The wire is the same one, with whatever is left on it, and so are the octets not consumed.
    turned.up = wire.down + b"x" * wire.receiver.pending
    turned.down = wire.up + wire.sender.pending
    turned.run()
    fresh = Wire(back, sizes)
    fresh.run()
    assert turned.told == fresh.told
    assert turned.told[0] == repr(replies.greeting("mit.example"))
    assert turned.received == fresh.received
    assert len(turned.received) == len(back)


BEHIND = st.one_of(
    st.binary(min_size=1, max_size=30),
    st.sampled_from([b"MAIL FROM:<a@b.example>\r\n", b"220 canned\r\n250 canned\r\n", b"\r\n", b"\r"]),
)


@settings(max_examples=examples(100), deadline=None)
@given(BEHIND, st.booleans())
def test_nothing_that_came_before_the_250_of_a_turn_is_obeyed(behind: bytes, at_once: bool) -> None:
    receiver = Receiver("hub.example", RIGHTS)
    receiver.feed(b"EHLO leaf.example\r\n")
    while receiver.next() is not None:
        pass
    receiver.feed(b"TURN\r\n" + (behind if at_once else b""))
    told = []
    while (event := receiver.next()) is not None:
        told.append(event)
        if isinstance(event, events.AskTurn) and receiver.asking:
            receiver.feed(behind)
            receiver.answer(Reply(250, "OK"))
    assert not any(isinstance(event, events.Turned) for event in told)
    assert [type(event) for event in told[-2:]] == [Reply, events.Closed]
    assert told[-2] == replies.OCTETS_BEHIND
    receiver.feed(b"NOOP\r\n")
    assert receiver.next() is None


@settings(max_examples=examples(100), deadline=None)
@given(BEHIND, st.integers(0, 40))
def test_what_comes_with_the_250_of_a_turn_stays_visible_and_is_read_as_no_reply(
    behind: bytes, cut: int
) -> None:
    """Whoever holds the Sender sees it waiting, and closes."""
    sender = Sender(Plan("leaf.example", turn="TURN"))
    sender.feed(b"220 hub.example\r\n")
    assert isinstance(sender.next(), events.Write)
    sender.feed(b"250 hub.example\r\n")
    assert isinstance(sender.next(), events.LetterWanted)
    sender.give(None)
    assert sender.next() == events.Write(b"TURN\r\n")
    octets = b"250 OK\r\n" + behind
    found = []
    for piece in (octets[:cut], octets[cut:]):
        sender.feed(piece)
        while (event := sender.next()) is not None:
            found.append(event)
    assert found == [Ended(Ending.TURNED, Reply(250, "OK"))]
    came_with_it = octets[:cut] if cut >= len(b"250 OK\r\n") else octets
    assert sender.pending == came_with_it.removeprefix(b"250 OK\r\n")
