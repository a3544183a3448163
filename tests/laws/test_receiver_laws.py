"""Laws of the Receiver: no cut of the octets and no lateness of answers matters, and no draft remains."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailnode.mail import Mode, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import Limits, Receiver

RIGHTS = Rights(modes=tuple(Mode), mechanisms=("PLAIN",))
LIMITS = Limits(message_size=40, recipients=3, errors=6)

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
    b"*",
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
SCRIPTS = st.lists(st.one_of(LINE, TRANSACTION, st.sampled_from(TEXT)), max_size=10).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=20)
CHOICES = st.lists(st.integers(0, 3), min_size=1, max_size=12)
DELAYS = st.lists(st.integers(0, 3), min_size=1, max_size=8)

ANSWERS: dict[type, list[Reply]] = {
    events.AskSender: [replies.SENDER_OK, replies.SENDER_OK, Reply(451, "later"), Reply(250, "go on")],
    events.AskRecipient: [replies.RECIPIENT_OK, Reply(251, "on"), Reply(550, "no"), Reply(450, "not now")],
    events.AskData: [replies.START_INPUT, replies.START_INPUT, replies.START_INPUT, Reply(451, "no room")],
    events.AskCustody: [replies.OK, Reply(451, "disk"), Reply(552, "full"), Reply(554, "no")],
    events.AskVerify: [Reply(250, "<f@mit.example>"), Reply(252, "?"), Reply(550, "no"), Reply(553, "two")],
    events.AskExpand: [Reply(250, ("<a@b.example>", "<c@d.example>")), Reply(550, "no")] * 2,
    events.AskCredentials: [replies.AUTH_DONE, replies.AUTH_FAILED] * 2,
}


def pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(octets)), len(octets)]
    return [octets[start:stop] for start, stop in pairwise(edges)]


class Holder:
    """Holds a Receiver as a channel does, and answers question n by choice n after delay n."""

    def __init__(self, choices: list[int], delays: list[int], rights: Rights = RIGHTS) -> None:
        self.receiver = Receiver("mit.example", rights, LIMITS)
        self.choices = choices
        self.delays = delays
        self.asked = 0
        self.wait = -1  # arrivals until the open question is answered
        self.question: events.ReceiverEvent | None = None
        self.told: list[events.ReceiverEvent] = []
        self.accepted_data = 0  # DATA answered 354

    def arrive(self, octets: bytes) -> None:
        self.receiver.feed(octets)
        self.run()

    def run(self) -> None:
        while True:
            while (event := self.receiver.next()) is not None:
                self.told.append(event)
                if self.receiver.asking and type(event) in ANSWERS:
                    self.question = event
                    self.wait = self.delays[self.asked % len(self.delays)]
            if self.question is None or not self.receiver.asking:
                return
            if self.wait > 0:
                self.wait -= 1
                return
            self.answer()

    def answer(self) -> None:
        reply = ANSWERS[type(self.question)][self.choices[self.asked % len(self.choices)]]
        self.accepted_data += type(self.question) is events.AskData and reply.code == 354
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


@settings(max_examples=250, deadline=None)
@given(SCRIPTS, CUTS, CHOICES)
@example(
    b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n" + b"x" * 50 + b"\n\r\n.\r\n",
    [120],
    [0],
)
def test_any_cut_of_the_octets_gives_the_same_events(
    octets: bytes, cuts: list[int], choices: list[int]
) -> None:
    whole = Holder(choices, [0])
    whole.arrive(octets)
    cut = Holder(choices, [0])
    for piece in pieces(octets, cuts):
        cut.arrive(piece)
    assert cut.finish() == whole.finish()


@settings(max_examples=60, deadline=None)
@given(SCRIPTS, CHOICES)
def test_octets_one_by_one_give_the_same_events(octets: bytes, choices: list[int]) -> None:
    whole = Holder(choices, [0])
    whole.arrive(octets)
    single = Holder(choices, [0])
    for at in range(len(octets)):
        single.arrive(octets[at : at + 1])
    assert single.finish() == whole.finish()


@settings(max_examples=250, deadline=None)
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


@settings(max_examples=100, deadline=None)
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


@settings(max_examples=300, deadline=None)
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
    taken_data = 0
    for at, event in enumerate(holder.told):
        if isinstance(event, events.AskSender):
            assert not live
            live = _answered_well(holder.told, at)
        elif isinstance(event, events.AskRecipient | events.AskData | events.MailData):
            assert live
            taken_data += isinstance(event, events.AskData) and _answered_well(holder.told, at)
        elif isinstance(event, events.AskCustody | events.Discarded):
            assert live
            live = False
    assert not live
    assert taken_data == holder.accepted_data


def _answered_well(told: list[events.ReceiverEvent], at: int) -> bool:
    """Whether the question at `at` got a positive answer: the next reply, before any 421."""
    following = next(event for event in told[at + 1 :] if not isinstance(event, events.Discarded))
    return isinstance(following, Reply) and following.ok
