"""Laws of the Receiver: no cut of the octets and no lateness of answers matters, and no draft remains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailnode.mail import Mode, Reply, Rights, ScramKeys
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import Limits, Receiver, State
from mailnode.smtp.sasl import encode
from mailnode.smtp.sasl.keys import derive, proof
from tests.laws.examples import examples

MECHANISMS = ("SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL")
RIGHTS = Rights(modes=tuple(Mode), relay=True, mechanisms=MECHANISMS)
LIMITS = Limits(message_size=40, recipients=3, errors=6, commands=12)
ROOMY = replace(LIMITS, errors=1000, commands=1000)

# SCRAM-SHA-256 of leaf, whose secret is "secret", with the nonces "abc" and "nonce"
CLIENT_KEY, KEYS = derive("secret", b"salt", 4096)
SAID = b"n=leaf,r=abc,r=abcnonce,s=c2FsdA==,i=4096,c=biws,r=abcnonce"
FINAL = b"c=biws,r=abcnonce,p=" + encode(proof(CLIENT_KEY, KEYS, SAID)).encode()
FIRST_LINE, FINAL_LINE = encode(b"n,,n=leaf,r=abc").encode(), encode(FINAL).encode()

COMMANDS = [
    b"HELO usc.example",
    b"EHLO usc.example",
    b"EHLO usc.example",
    b"MAIL FROM:<smith@usc.example>",
    b"mail from:<> size=30",
    b"MAIL FROM:<smith@usc.example> SIZE=41",
    b"MAIL FROM:smith",
    b"SEND FROM:<smith@usc.example>",
    b"SOML FROM:<smith@usc.example>",
    b"RCPT TO:<jones@mit.example>",
    b"RCPT TO:<green@mit.example>",
    b"RCPT TO:<>",
    b"DATA",
    b"DATA",
    b"RSET",
    b"NOOP",
    b"NOOP " + b"x" * 3000,
    b"VRFY smith",
    b"EXPN staff",
    b"HELP",
    b"AUTH PLAIN",
    b"AUTH PLAIN AGxlYWYAc2VjcmV0",
    b"AGxlYWYAc2VjcmV0",
    b"AUTH SCRAM-SHA-256 " + FIRST_LINE,
    b"AUTH SCRAM-SHA-256",
    FIRST_LINE,
    FINAL_LINE,
    b"AUTH LOGIN",
    b"bGVhZg==",
    b"AUTH CRAM-MD5",
    b"AUTH EXTERNAL =",
    b"x" * 13000,
    b"*",
    b"STARTTLS",  # not offered, as TURN
    "MAIL FROM:<sm\u00edth@usc.example> SMTPUTF8 BODY=8BITMIME".encode(),
    "RCPT TO:<j\u00f3nes@mit.example>".encode(),
    "VRFY sm\u00edth SMTPUTF8".encode(),
    b"MAIL FROM:<smith@usc.example> BODY=BINARYMIME",
    b"RCPT TO:<jones@mit.example> NOTIFY=NEVER",
    b"RCPT TO:<jones@mit.example> ORCPT=rfc822;a+0A",
    b"BDAT 0",
    b"BDAT 0 LAST",
    b"BDAT 4\r\nQUIT",
    b"BDAT x",
    b"TURN",  # refused: granted, what is behind it would count
    b"XYZZY",
    b"\xff\0",
    b"",
]
TEXT = [
    *(b"Hello\r\n", b"..\r\n", b".\r\n", b"\r\n.\r\n", b"\r\n.\r\n"),
    *(b"\n.\n", b"a\rb", b"\r", b"\n", b"x" * 30, b"\0\xff"),
]

OPENING = b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"

BY_GROUPS = b"EHLO a\r\n" + 3 * (b"MAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nBDAT 4 LAST\r\nHi\r\n")

# A line at a time, half of it a likely conversation, so that transactions really happen.
LINE = st.sampled_from(COMMANDS).map(lambda line: line + b"\r\n")
TRANSACTION = st.builds(
    lambda start, recipients, data: b"".join(
        [b"EHLO usc.example\r\n", start + b"\r\n", *recipients, b"DATA\r\n", *data, b"\r\n.\r\n"]
    ),
    st.sampled_from(COMMANDS[3:5]),
    st.lists(st.sampled_from(COMMANDS[9:11]).map(lambda line: line + b"\r\n"), min_size=1, max_size=4),
    st.lists(st.sampled_from(TEXT), max_size=6),
)
CHUNKS = st.lists(
    st.tuples(st.lists(st.sampled_from(TEXT), max_size=3).map(b"".join), st.booleans()), max_size=5
)
BY_CHUNKS = st.builds(
    lambda start, recipients, chunks: b"".join(
        [b"EHLO usc.example\r\n", start + b"\r\n", *recipients]
        + [b"BDAT %d%b\r\n%b" % (len(octets), b" LAST" if last else b"", octets) for octets, last in chunks]
    ),
    st.sampled_from([COMMANDS[3], b"MAIL FROM:<> BODY=BINARYMIME", b"SEND FROM:<> SMTPUTF8"]),
    st.lists(st.sampled_from(COMMANDS[9:11]).map(lambda line: line + b"\r\n"), min_size=1, max_size=4),
    CHUNKS,
)
EXCHANGE = st.lists(
    st.sampled_from([b"AUTH SCRAM-SHA-256 " + FIRST_LINE, FINAL_LINE, b"", b"AUTH LOGIN", b"bGVhZg==", b"*"]),
    max_size=4,
).map(lambda lines: b"EHLO usc.example\r\n" + b"".join(line + b"\r\n" for line in lines))
SCRIPTS = st.lists(st.one_of(LINE, TRANSACTION, BY_CHUNKS, EXCHANGE, st.sampled_from(TEXT)), max_size=10).map(
    b"".join
)
CUTS = st.lists(st.integers(0, 400), max_size=20)
CHOICES = st.lists(st.integers(0, 3), min_size=1, max_size=12)
DELAYS = st.lists(st.integers(0, 3), min_size=1, max_size=8)
Kind: TypeAlias = tuple[bool, bool]  # LMTP; a bare CR or LF is borne
KINDS = st.tuples(st.booleans(), st.booleans())

ANSWERS: dict[type, list[Reply | ScramKeys]] = {
    events.AskSender: [replies.SENDER_OK, replies.SENDER_OK, Reply(451, "later"), Reply(250, "go on")],
    events.AskRecipient: [replies.RECIPIENT_OK, Reply(251, "on"), Reply(550, "no"), Reply(450, "not now")],
    events.AskData: [replies.START_INPUT, replies.START_INPUT, replies.START_INPUT, Reply(451, "no room")],
    events.AskCustody: [replies.OK, Reply(451, "disk"), Reply(552, "full"), Reply(554, "no")],
    events.AskVerify: [Reply(250, "<f@mit.example>"), Reply(252, "?"), Reply(550, "no"), Reply(553, "two")],
    events.AskExpand: [Reply(250, ("<a@b.example>", "<c@d.example>")), Reply(550, "no")] * 2,
    events.AskCredentials: [replies.AUTH_DONE, replies.AUTH_FAILED, replies.AUTH_LATER, replies.AUTH_DONE],
    events.AskScramKeys: [KEYS, replies.AUTH_FAILED, KEYS, replies.AUTH_LATER],
}


def spoken(octets: bytes, lmtp: bool) -> bytes:
    return octets.replace(b"EHLO", b"LHLO") if lmtp else octets


def pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(octets)), len(octets)]
    return [octets[start:stop] for start, stop in pairwise(edges)]


class Holder:
    """Holds a Receiver as a channel does, and answers question n by choice n after delay n."""

    def __init__(
        self, choices: list[int], delays: list[int], kind: Kind = (False, False), limits: Limits = LIMITS
    ) -> None:
        lmtp, normalize = kind
        self.receiver = Receiver("mit.example", RIGHTS, limits, lmtp=lmtp, normalize=normalize)
        self.receiver.nonce = lambda: "nonce"  # type: ignore[method-assign]
        self.choices = choices
        self.delays = delays
        self.asked = 0
        self.wait = -1  # arrivals until the open question is answered
        self.question: events.ReceiverEvent | None = None
        self.asked_at = 0
        self.told: list[events.ReceiverEvent] = []
        self.answers: dict[int, Reply | ScramKeys] = {}  # by the place of their questions in `told`

    def arrive(self, octets: bytes) -> None:
        self.receiver.feed(octets)
        self.run()

    def run(self) -> None:
        while True:
            while (event := self.receiver.next()) is not None:
                self.told.append(event)
                if self.receiver.asking and type(event) in ANSWERS:
                    self.question, self.asked_at = event, len(self.told) - 1
                    self.wait = self.delays[self.asked % len(self.delays)]
            if self.question is None or not self.receiver.asking:
                return
            if self.wait > 0:
                self.wait -= 1
                return
            self.answer()

    def answer(self) -> None:
        reply = ANSWERS[type(self.question)][self.choices[self.asked % len(self.choices)]]
        self.answers[self.asked_at] = reply
        self.asked += 1
        self.question = None
        self.receiver.answer(reply)

    def finish(self) -> list[str]:
        """Answers what is open, and gives the whole stream with mail data joined."""
        self.run()
        while self.receiver.asking:
            self.wait = 0
            self.run()
        return stream(self.told)


class Postponing(Holder):
    """Postpones the question of custody where it may, and decides some of those that wait at each arrival, in
    an order of its own."""

    def __init__(self, choices: list[int], order: list[int], kind: Kind) -> None:
        super().__init__(choices, [0], kind, ROOMY)
        self.order = order
        self.waiting: list[tuple[Callable[[Reply], None], Reply]] = []
        self.steps = 0

    def answer(self) -> None:
        if not isinstance(self.question, events.AskCustody) or not self.receiver.may_postpone:
            super().answer()
            return
        reply = ANSWERS[events.AskCustody][self.choices[self.asked % len(self.choices)]]
        assert isinstance(reply, Reply)
        self.asked += 1
        self.question = None
        self.waiting.append((self.receiver.postpone(), reply))

    def arrive(self, octets: bytes) -> None:
        super().arrive(octets)
        self.steps += 1
        if self.order[self.steps % len(self.order)] < 5:
            self.decide_one()

    def decide_one(self) -> None:
        if self.waiting:
            decide, reply = self.waiting.pop(self.order[self.steps % len(self.order)] % len(self.waiting))
            decide(reply)
            self.run()

    def decide_all(self) -> None:
        self.run()
        while self.waiting:
            self.steps += 1
            self.decide_one()


def stream(told: list[events.ReceiverEvent]) -> list[str]:
    """Events as text: pieces of mail data joined, those of discarded messages left out."""
    found: list[str] = []
    data = b""
    for event in told:
        if isinstance(event, events.MailData):
            data += event.piece
            continue
        if data and not isinstance(event, events.Discarded):
            found.append(f"data {data!r}")
        data = b""
        found.append(repr(event))
    return found  # how much of a message without an end was told is of no account


@settings(max_examples=examples(250), deadline=None)
@given(SCRIPTS, CUTS, CHOICES, KINDS)
@example(
    b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n" + b"x" * 50 + b"\n\r\n.\r\n",
    [120],
    [0],
    (False, False),
)
def test_any_cut_of_the_octets_gives_the_same_events(
    octets: bytes, cuts: list[int], choices: list[int], kind: Kind
) -> None:
    octets = spoken(octets, kind[0])
    whole = Holder(choices, [0], kind)
    whole.arrive(octets)
    cut = Holder(choices, [0], kind)
    for piece in pieces(octets, cuts):
        cut.arrive(piece)
    assert cut.finish() == whole.finish()


@settings(max_examples=examples(60), deadline=None)
@given(SCRIPTS, CHOICES, KINDS)
def test_octets_one_by_one_give_the_same_events(octets: bytes, choices: list[int], kind: Kind) -> None:
    octets = spoken(octets, kind[0])
    whole = Holder(choices, [0], kind)
    whole.arrive(octets)
    single = Holder(choices, [0], kind)
    for at in range(len(octets)):
        single.arrive(octets[at : at + 1])
    assert single.finish() == whole.finish()


@settings(max_examples=examples(250), deadline=None)
@given(SCRIPTS, CUTS, CHOICES, DELAYS)
def test_late_answers_change_nothing(
    octets: bytes, cuts: list[int], choices: list[int], delays: list[int]
) -> None:
    prompt = Holder(choices, [0])
    prompt.arrive(octets)
    late = Holder(choices, delays)
    for piece in pieces(octets, cuts):
        late.arrive(piece)
    assert late.finish() == prompt.finish()


@settings(max_examples=examples(250), deadline=None)
@given(SCRIPTS, CUTS, CHOICES, st.lists(st.integers(0, 9), min_size=1, max_size=8), KINDS)
@example(BY_GROUPS, [], [0], [9], (False, False))
def test_custody_that_is_decided_late_gives_the_same_replies(
    octets: bytes, cuts: list[int], choices: list[int], order: list[int], kind: Kind
) -> None:
    """In whatever order it is decided for messages that are taken meanwhile."""
    octets = spoken(octets, kind[0])
    prompt = Holder(choices, [0], kind, ROOMY)
    prompt.arrive(octets)
    late = Postponing(choices, order, kind)
    for piece in pieces(octets, cuts):
        late.arrive(piece)
    late.decide_all()
    assert [repr(it) for it in late.told if isinstance(it, Reply | events.Closed)] == [
        repr(it) for it in prompt.told if isinstance(it, Reply | events.Closed)
    ]
    assert stream([it for it in late.told if not isinstance(it, Reply)]) == stream(
        [it for it in prompt.told if not isinstance(it, Reply)]
    )


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["VRFY", "EXPN", "NOOP", "HELP"]), st.integers(0, 5)), max_size=15),
    CUTS,
)
def test_replies_come_in_the_order_of_the_commands(script: list[tuple[str, int]], cuts: list[int]) -> None:
    receiver = Receiver("mit.example", RIGHTS, Limits(errors=1000), greet=False)
    chunks = pieces("".join(f"{verb} {n}\r\n" for n, (verb, _) in enumerate(script)).encode(), cuts)
    wait = 0
    said: list[str] = []
    question: events.AskVerify | events.AskExpand | None = None
    while True:
        event = receiver.next()
        if isinstance(event, Reply):
            said.append(event.lines[0])
        elif isinstance(event, events.AskVerify | events.AskExpand):
            question, wait = event, script[int(event.text)][1]
        elif question is not None and (wait == 0 or not chunks):
            receiver.answer(Reply(250, f"about {question.text}"))
            question = None
        elif chunks:
            wait -= 1
            receiver.feed(chunks.pop(0))
        else:
            break
    plain = {"NOOP": replies.OK.lines[0], "HELP": replies.NO_SUCH_TOPIC.lines[0]}
    assert said == [plain.get(verb, f"about {n}") for n, (verb, _) in enumerate(script)]


@settings(max_examples=examples(300), deadline=None)
@given(SCRIPTS, CUTS, CHOICES, DELAYS, st.integers(0, 25))
def test_every_transaction_ends_in_custody_or_is_discarded_once(
    octets: bytes, cuts: list[int], choices: list[int], delays: list[int], end: int
) -> None:
    """Also when the holder refuses the channel at any moment, with a question open or not."""
    holder = Holder(choices, delays)
    for piece in pieces(octets, cuts)[:end]:
        holder.arrive(piece)
    holder.receiver.refuse(replies.unavailable("mit.example", "Time-out"))
    holder.question = None
    holder.run()
    assert type(holder.told[-1]) is events.Closed
    assert sum(type(event) is events.Closed for event in holder.told) == 1
    live = False  # whether somebody keeps a draft
    for at, event in enumerate(holder.told):
        if isinstance(event, events.AskSender):
            assert not live
            answer = holder.answers.get(at)
            live = isinstance(answer, Reply) and answer.ok
        elif isinstance(event, events.AskRecipient | events.AskData | events.MailData):
            assert live
        elif isinstance(event, events.AskCustody | events.Discarded):
            assert live
            live = False
    assert not live


# ------------------------------------------------------------------ what every line gets


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.sampled_from(COMMANDS), max_size=25), CHOICES, st.booleans())
def test_every_line_gets_exactly_one_reply(lines: list[bytes], choices: list[int], lmtp: bool) -> None:
    """But for mail data, which gets its own, by LMTP one for each recipient, and the 421 that may follow."""
    holder = Holder(choices, [0], (lmtp, False))
    holder.run()
    for line in lines:
        if holder.receiver.state is State.GONE:
            break
        before = len(holder.told)
        transaction = holder.receiver.transaction
        holder.arrive(spoken(line, lmtp) + b"\r\n")
        ends_data = b"LAST" in line.upper() and transaction is not None and transaction.recipients
        if holder.receiver.state is State.DATA:
            assert _said(holder, before) == [354]
            recipients, before = transaction.recipients if transaction else 0, len(holder.told)
            holder.arrive(b".\r\n")
            assert len(_said(holder, before)) == (recipients if lmtp else 1)
        elif line.startswith(b"BDAT 4"):  # a line and the four octets of its chunk, then an empty line
            assert len(_said(holder, before)) in (2, 3)
        else:
            expected = ends_data if ends_data and lmtp and _took(holder, before) else 1
            said = _said(holder, before)
            assert len(said) == expected + (said[-1] == 421 and len(said) > expected)


def _said(holder: Holder, before: int) -> list[int]:
    return [event.code for event in holder.told[before:] if isinstance(event, Reply)]


def _took(holder: Holder, before: int) -> bool:
    return any(isinstance(event, events.AskCustody) for event in holder.told[before:])


# ------------------------------------------------------------------ STARTTLS


@settings(max_examples=examples(200), deadline=None)
@given(SCRIPTS, CUTS, SCRIPTS, CHOICES)
def test_nothing_that_came_before_the_handshake_counts_after_it(
    behind: bytes, cuts: list[int], later: bytes, choices: list[int]
) -> None:
    holder = Holder(choices, [0], limits=ROOMY)  # commands without mail are counted over the handshake
    holder.receiver.starttls_offered = True
    holder.arrive(b"EHLO a\r\n")
    before = len(holder.told)
    for piece in pieces(b"STARTTLS\r\n" + behind, cuts):
        holder.arrive(piece)
    told = holder.told[before:]
    if isinstance(told[-1], events.Closed):
        assert told[0] == replies.OCTETS_BEHIND and len(told) == 2 and behind
        return
    assert told == [replies.READY_FOR_TLS, events.StartTls()]
    holder.receiver.secured(RIGHTS)
    holder.told.clear()
    holder.arrive(later)
    fresh = Holder(choices, [0], limits=ROOMY)
    fresh.run()
    fresh.told.clear()
    fresh.arrive(later)
    assert holder.finish() == fresh.finish()
