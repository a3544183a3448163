"""The Receiver, held as a channel holds it, against any client.

Invariants:
- No octets raise anything.
- However the octets are cut, the events are the same; mail data is compared joined.
- Every command line gets exactly one reply, or one and the 421 that ends the channel; by LMTP the end of
  mail data gets as many as there are recipients.
- Replies are lines of printable ASCII, each at most 512 octets with its CRLF.
- Mail data joined is what stands between DATA and its end, dots unstuffed, and nothing behind the end;
  or the octets of the chunks, and nothing behind the last.
- Nothing is told under TLS that came before it.
- Custody that is decided late, in any order, changes no reply and no other event.
- Every transaction ends once: in custody or discarded; nothing is told of one that is over.
- When nothing is asked, what waits is less than a line; after the end of the channel nothing is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from fuzz.choices import arrivals, pick, split
from mailnode.mail import Mode, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.framing import END_OF_DATA
from mailnode.smtp.receiver import AUTH_LINE, Limits, Receiver
from mailnode.smtp.sasl.keys import derive

MAX_LENGTH = 4096
LINE = 512  # octets, RFC 821 4.5.3

MECHANISMS = ("EXTERNAL", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5")
ALL = Rights(
    tuple(Mode),
    relay=True,
    verify=True,
    expand=True,
    turn=True,
    atrn=True,
    etrn=True,
    once=True,
    mechanisms=MECHANISMS,
)
RIGHTS = (
    ALL,
    Rights(),
    Rights(modes=(Mode.MAIL, Mode.SEND), mechanisms=("PLAIN",)),
    Rights(mechanisms=MECHANISMS, must_authenticate=True, atrn=True, etrn=True),
)
LIMITS = (
    Limits(errors=1000, commands=10_000),
    Limits(message_size=100, recipients=2, errors=5, commands=7),
    Limits(message_size=10, recipients=1, errors=1, line_length=64, auth_failures=1),
)
KINDS: tuple[dict[str, bool], ...] = (
    {},
    {"starttls": True},
    {"lmtp": True},
    {"normalize": True},
    {"starttls": True, "normalize": True},
)

GO_ON = Reply(250, "Go on", "2.0.0")
LATER = Reply(451, "Not now", "4.3.0")
NO = Reply(550, ("No", "really \r\n250 not \x00\xff"), "5.1.1")
ANSWERS: dict[str, tuple[events.Answer, ...]] = {
    "AskSender": (replies.SENDER_OK, LATER, replies.SENDER_OK),
    "AskRecipient": (replies.RECIPIENT_OK, NO, Reply(251, "will forward"), LATER),
    "AskData": (replies.START_INPUT, LATER, replies.START_INPUT),
    "AskCustody": (GO_ON, LATER, Reply(554, "no")),
    "AskCredentials": (replies.AUTH_DONE, replies.AUTH_FAILED),
    "AskScramKeys": (derive("secret", b"salt", 1)[1], LATER),
    "AskTurn": (GO_ON, replies.TURN_REFUSED),
}
COMMANDS = ("NEW", "IDLE", "OPEN")  # states in which a line is a command


class Holder:
    """A Receiver with somebody who answers question n by choice n."""

    def __init__(self, decisions: bytes) -> None:
        self.limits = pick(decisions[1], LIMITS)
        self.kind = pick(decisions[9], KINDS)
        self.receiver = Receiver("mit.example", pick(decisions[0], RIGHTS), self.limits, **self.kind)
        self.receiver.nonce = lambda: "nonce"
        self._choices = decisions[2:9]
        self._asked = 0
        self.told: list[events.ReceiverEvent] = []
        self.replies = 0

    def arrive(self, octets: bytes) -> None:
        self.receiver.feed(octets)
        self.run()

    def run(self) -> None:
        receiver = self.receiver
        while True:
            event = receiver.next()
            if event is None:
                break
            self.told.append(event)
            if isinstance(event, Reply):
                self.replies += 1
            elif isinstance(event, events.StartTls):
                assert receiver.pending == 0
                receiver.secured(ALL)
            elif receiver.asking and type(event).__name__.startswith("Ask"):
                table = ANSWERS.get(type(event).__name__, (GO_ON, NO, LATER))
                choice = self._choices[self._asked % len(self._choices)]
                self._asked += 1
                self._answer(pick(choice, table))
        assert not receiver.asking
        self._waits_for_little()

    def _waits_for_little(self) -> None:
        assert self.receiver.pending <= AUTH_LINE + 2

    def _answer(self, answer: events.Answer) -> None:
        self.receiver.answer(answer)

    def stream(self, replies: bool = True) -> list[str]:
        """The events as text, with or without the replies; mail data joined, and how much is told of what is
        then refused is of no account."""
        found: list[str] = []
        data = b""
        for event in self.told:
            if isinstance(event, events.MailData):
                data += event.piece
                continue
            if data and not isinstance(event, events.Discarded):
                found.append(f"data {data!r}")
            data = b""
            if replies or not isinstance(event, Reply):
                found.append(repr(event))
        return found


class Late(Holder):
    """Decides custody late where it may, some of it at each arrival."""

    def __init__(self, decisions: bytes) -> None:
        super().__init__(decisions)
        self._waiting: list[tuple[Callable[[Reply], None], Reply]] = []
        self._order = decisions[10:] or b"\0"
        self._steps = 0

    def _answer(self, answer: events.Answer) -> None:
        if self.receiver.may_postpone:
            assert isinstance(self.told[-1], events.AskCustody) and isinstance(answer, Reply)
            self._waiting.append((self.receiver.postpone(), answer))
        else:
            self.receiver.answer(answer)

    def _waits_for_little(self) -> None:
        if not self._waiting:  # else what cannot go ahead waits
            super()._waits_for_little()

    def arrive(self, octets: bytes) -> None:
        super().arrive(octets)
        self.decide(self._order[self._steps % len(self._order)] % 3)

    def decide(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            self._steps += 1
            decide, reply = self._waiting.pop(
                self._order[self._steps % len(self._order)] % len(self._waiting)
            )
            decide(reply)
            self.run()

    def end(self) -> None:
        while self._waiting:
            self.decide(len(self._waiting))


def _as_if_at_once(decisions: bytes, octets: bytes, prompt: Holder) -> None:
    late = Late(decisions)
    late.run()
    for piece in arrivals(octets, decisions[10:]):
        late.arrive(piece)
    late.end()
    _speaks_plainly(late)
    # What counts commands that brought no mail may count a few less while it is not known that they did.
    if late.limits is LIMITS[0] and not _turned(prompt) and not _turned(late):
        assert _replies_of(late) == _replies_of(prompt)
        late.told, prompt.told = (
            [it for it in told if not isinstance(it, Reply)] for told in (late.told, prompt.told)
        )
        assert late.stream() == prompt.stream()


def _replies_of(holder: Holder) -> list[Reply]:
    return [event for event in holder.told if isinstance(event, Reply)]


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    whole = Holder(decisions)
    whole.arrive(octets)
    cut = Holder(decisions)
    cut.run()
    for piece in arrivals(octets, decisions[10:]):
        cut.arrive(piece)
    # Octets behind a TURN or STARTTLS end the channel only if they are there in time.
    if not _turned(whole) and not _turned(cut):
        assert cut.stream() == whole.stream()
    for holder in (whole, cut):
        _speaks_plainly(holder)
        _ends_what_it_begins(holder)
        _is_over_when_it_is_over(holder)
    _as_if_at_once(decisions, octets, cut)
    _line_by_line(Holder(decisions), octets)
    _keeps_the_end(decisions, octets)
    _keeps_chunks_apart(decisions, octets)


def _turned(holder: Holder) -> bool:
    return any(
        isinstance(event, events.Turned | events.StartTls) or event == replies.OCTETS_BEHIND
        for event in holder.told
    )


def _speaks_plainly(holder: Holder) -> None:
    for event in holder.told:
        if isinstance(event, Reply):
            for extended in (False, True):
                octets = event.encode(extended)
                assert octets.endswith(b"\r\n")
                for line in octets[:-2].split(b"\r\n"):
                    assert re.fullmatch(rb"[2-5][0-9]{2}[ -][ -~]*", line), line
                    assert len(line) + 2 <= LINE, line


def _ends_what_it_begins(holder: Holder) -> None:
    """One transaction at a time; what is told belongs to it, and it ends once."""
    live = False
    for at, event in enumerate(holder.told):
        if isinstance(event, events.AskSender):
            assert not live
            live = _answered_well(holder.told, at)
        elif isinstance(event, events.AskRecipient | events.AskData | events.MailData):
            assert live
        elif isinstance(event, events.AskCustody | events.Discarded):
            assert live
            live = False
        elif isinstance(event, events.StartTls):
            assert not live
    assert live == (holder.receiver.transaction is not None and holder.receiver.transaction.refusal is None)


def _answered_well(told: list[events.ReceiverEvent], at: int) -> bool:
    following = next((event for event in told[at + 1 :] if isinstance(event, Reply)), None)
    return following is not None and following.ok


def _is_over_when_it_is_over(holder: Holder) -> None:
    ends = [event for event in holder.told if isinstance(event, events.Closed | events.Turned)]
    assert len(ends) <= 1
    if ends:
        assert holder.told[-1] is ends[0]
        before = len(holder.told)
        holder.arrive(b"NOOP\r\n")
        assert len(holder.told) == before and holder.receiver.pending == 0


def _line_by_line(holder: Holder, octets: bytes) -> None:
    """A client that waits for each reply: one line, one reply."""
    holder.run()
    *lines, _ = octets.split(b"\r\n")
    for line in lines:
        receiver = holder.receiver
        if receiver.state.name not in COMMANDS or receiver.pending:
            holder.arrive(line + b"\r\n")
            continue
        before, told = holder.replies, len(holder.told)
        holder.arrive(line + b"\r\n")
        said = holder.replies - before
        if any(isinstance(event, events.Closed) for event in holder.told[told:]):
            assert said in (1, 2)
        elif "lmtp" in holder.kind and _asked_for_custody(holder.told[told:]):
            assert said >= 1
        elif receiver.state.name != "CHUNK":
            assert said == 1, (line, holder.told[told:])


def _asked_for_custody(told: list[events.ReceiverEvent]) -> bool:
    return any(isinstance(event, events.AskCustody) for event in told)


def _keeps_the_end(decisions: bytes, octets: bytes) -> None:
    """The octets as mail data, with a command behind their end: none of it gets into the message."""
    holder = Holder(b"0" + decisions[1:2] + b"0" * 14)
    holder.arrive(b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
    assert holder.receiver.state.name == "DATA"
    before = len(holder.told)
    for piece in arrivals(octets + END_OF_DATA + b"NOOP behind\r\n", decisions[10:]):
        holder.arrive(piece)
    whole = b"\r\n" + octets + END_OF_DATA
    expected = re.sub(rb"(\A|\r\n)\.", rb"\1", whole[2 : whole.find(END_OF_DATA) + 2])
    found, taken = b"", False
    for event in holder.told[before:]:
        if isinstance(event, events.MailData):
            found += event.piece
        elif isinstance(event, events.AskCustody):
            taken = True
            break
        elif isinstance(event, Reply | events.Discarded):
            break
    if taken:
        assert found == expected
        assert len(expected) <= holder.limits.message_size
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n", expected)
    else:
        refusal = next(event for event in holder.told[before:] if isinstance(event, Reply))
        assert refusal.code in (552, 554, 550)
        assert len(found) <= holder.limits.message_size


def _keeps_chunks_apart(decisions: bytes, octets: bytes) -> None:
    """The octets as chunks of a binary message, whatever they look like, with a command behind them."""
    holder = Holder(b"0" * 16)
    holder.arrive(b"EHLO a\r\nMAIL FROM:<a@b.example> BODY=BINARYMIME\r\nRCPT TO:<c@d.example>\r\n")
    chunks = arrivals(octets, decisions[2:9])
    wire = b"".join(b"BDAT %d\r\n%b" % (len(chunk), chunk) for chunk in chunks)
    before = len(holder.told)
    for piece in arrivals(wire + b"BDAT 0 LAST\r\nVRFY behind\r\n", decisions[10:]):
        holder.arrive(piece)
    told = holder.told[before:]
    found = b"".join(event.piece for event in told if isinstance(event, events.MailData))
    assert found == octets
    assert _asked_for_custody(told) and events.AskVerify("behind") in told
    assert sum(isinstance(event, Reply) for event in told) == len(chunks) + 2
