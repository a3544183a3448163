"""The Receiver: every verb in every state, the replies of RFC 821 4.3, and what is not obeyed."""

from __future__ import annotations

import pytest

from mailnode.mail import Mode, Path, Reply, Rights
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import VERBS, Limits, Receiver, State

ALL = Rights(
    tuple(Mode),
    relay=True,
    verify=True,
    expand=True,
    turn=True,
    atrn=True,
    etrn=True,
    pair=True,
    mechanisms=("PLAIN",),
)
HOST = "mit.example"

ANSWERS: dict[type, Reply] = {
    events.AskSender: replies.SENDER_OK,
    events.AskRecipient: replies.RECIPIENT_OK,
    events.AskData: replies.START_INPUT,
    events.AskCustody: replies.OK,
    events.AskVerify: Reply(250, "Fred Smith <smith@mit.example>"),
    events.AskExpand: Reply(250, ("<jones@mit.example>", "<brown@mit.example>")),
    events.AskCredentials: replies.AUTH_DONE,
    events.AskTurn: Reply(250, "OK"),
    events.AskStart: Reply(252, "OK, pending messages for node leaf.example started"),
    events.AskPair: Reply(250, "Paired as leaf"),
}


def machine(rights: Rights = ALL, limits: Limits | None = None, lmtp: bool = False) -> Receiver:
    return Receiver(HOST, rights, limits, greet=False, starttls=rights is ALL, lmtp=lmtp)


def talk(
    receiver: Receiver, octets: bytes, answers: dict[type, Reply] | None = None
) -> list[events.ReceiverEvent]:
    """Feeds octets, answers each question at once, gives all events in order."""
    receiver.feed(octets)
    found = []
    while (event := receiver.next()) is not None:
        found.append(event)
        if receiver.asking and type(event) in ANSWERS:
            receiver.answer((answers or {}).get(type(event)) or ANSWERS[type(event)])
    return found


def text(found: list[events.ReceiverEvent]) -> list[str]:
    """Events to compare: as tuples, those without fields would all be equal."""
    return [repr(event) for event in found]


def count(found: list[events.ReceiverEvent], kind: type) -> int:
    return sum(type(event) is kind for event in found)


def codes(found: list[events.ReceiverEvent]) -> list[int]:
    return [event.code for event in found if isinstance(event, Reply)]


OPENINGS = {
    State.NEW: b"",
    State.IDLE: b"EHLO usc.example\r\n",
    State.OPEN: b"EHLO usc.example\r\nMAIL FROM:<smith@usc.example>\r\nRCPT TO:<jones@mit.example>\r\n",
}
COMMANDS = {
    "HELO": "HELO usc.example",
    "EHLO": "EHLO usc.example",
    "LHLO": "LHLO usc.example",
    "MAIL": "MAIL FROM:<smith@usc.example>",
    "SEND": "SEND FROM:<smith@usc.example>",
    "SOML": "SOML FROM:<smith@usc.example>",
    "SAML": "SAML FROM:<smith@usc.example>",
    "RCPT": "RCPT TO:<brown@mit.example>",
    "DATA": "DATA",
    "BDAT": "BDAT 0 LAST",
    "RSET": "RSET",
    "VRFY": "VRFY smith",
    "EXPN": "EXPN staff",
    "HELP": "HELP",
    "NOOP": "NOOP",
    "QUIT": "QUIT",
    "AUTH": "AUTH PLAIN",
    "STARTTLS": "STARTTLS",
    "TURN": "TURN",
    "ATRN": "ATRN leaf.example",
    "ETRN": "ETRN leaf.example",
    "XWAIT": "XWAIT 60",
    "XPAIR": f"XPAIR c2FsdHNhbHQ= 4096 {'A' * 43}= {'B' * 42}A=",
}

_MODE = {250, 552, 451, 452, 500, 501, 502, 503}
# The command-reply table of RFC 821 4.3, with EXPN and RCPT as RFC 821 4.2.1 and RFC 1123 5.2.3 widen
# them; AUTH: RFC 4954 4; BDAT: RFC 3030 2, and 501 where its chunk cannot be found; STARTTLS: RFC 3207 4;
# ATRN: RFC 2645 5.2; ETRN: RFC 1985 5. What `421` may answer is any command.
TABLE = {
    "HELO": {250, 500, 501, 504},
    "EHLO": {250, 500, 501, 504},
    "LHLO": {250, 500, 501, 504},
    "MAIL": {250, 552, 451, 452, 500, 501, 503},
    "SEND": _MODE,
    "SOML": _MODE,
    "SAML": _MODE,
    "RCPT": {250, 251, 550, 551, 552, 553, 450, 451, 452, 500, 501, 503},
    "DATA": {354, 451, 554, 500, 501, 503},
    "BDAT": {250, 451, 452, 500, 501, 503, 552, 554},
    "RSET": {250, 500, 501, 504},
    "VRFY": {250, 251, 252, 550, 551, 553, 500, 501, 502, 504},
    "EXPN": {250, 550, 500, 501, 502, 504},
    "HELP": {211, 214, 500, 501, 502, 504},
    "NOOP": {250, 500},
    "QUIT": {221, 500},
    "TURN": {250, 502, 500, 503},
    "AUTH": {235, 334, 535, 500, 501, 502, 503, 504},
    "STARTTLS": {220, 454, 500, 501, 502, 503},
    "ATRN": {250, 450, 451, 453, 500, 501, 502, 503, 530},
    "ETRN": {250, 251, 252, 253, 458, 459, 500, 501, 502, 503},
    "XWAIT": {250, 500, 501, 502, 503},
    "XPAIR": {250, 451, 550, 500, 501, 502, 503},
}


def in_state(state: State, rights: Rights = ALL, lmtp: bool = False) -> Receiver:
    receiver = machine(rights, lmtp=lmtp)
    talk(receiver, OPENINGS[state].replace(b"EHLO", b"LHLO" if lmtp else b"EHLO"))
    assert receiver.state is state
    return receiver


def test_the_table_knows_every_verb() -> None:
    assert set(TABLE) == set(VERBS) == set(COMMANDS)


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("rights", [ALL, Rights()], ids=["all rights", "no rights"])
@pytest.mark.parametrize("state", OPENINGS)
@pytest.mark.parametrize("verb", COMMANDS)
@pytest.mark.parametrize(
    "shape", ["{}", "{} and more", "{} ", "{}\0", "{}\xff", " {}", "{:.4}", "{:.3}", "{:.4} <"]
)
def test_every_verb_in_every_state_gives_exactly_one_reply_of_the_table(
    verb: str, state: State, shape: str, rights: Rights, lmtp: bool
) -> None:
    receiver = in_state(state, rights, lmtp)
    line = shape.format(COMMANDS[verb]).encode("latin-1")
    (code,) = codes(talk(receiver, line + b"\r\n"))
    assert code in TABLE[verb]


OUT_OF_ORDER = {
    State.NEW: {"MAIL", "SEND", "SOML", "SAML", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS",
                "TURN", "ATRN", "ETRN", "XWAIT", "XPAIR"},
    State.IDLE: {"RCPT", "DATA", "BDAT"},
    State.OPEN: {"MAIL", "SEND", "SOML", "SAML", "AUTH", "STARTTLS",
                 "TURN", "ATRN", "ETRN", "XWAIT", "XPAIR"},
}  # fmt: skip


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("state", OPENINGS)
@pytest.mark.parametrize("verb", COMMANDS)
def test_wrong_order_is_503_and_changes_nothing(verb: str, state: State, lmtp: bool) -> None:
    receiver = in_state(state, lmtp=lmtp)
    transaction = receiver.transaction
    found = talk(receiver, COMMANDS[verb].encode() + b"\r\n")
    if verb in OUT_OF_ORDER[state]:
        assert codes(found) == [503]
        assert len(found) == 1
        assert (receiver.state, receiver.transaction) == (state, transaction)
    elif verb in ({"HELO", "EHLO"} if lmtp else {"LHLO"}):  # RFC 2033 4.1
        assert codes(found) == [500]
        assert (receiver.state, receiver.transaction) == (state, transaction)
    else:
        assert codes(found)[0] < 400


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", 500),
        (b" ", 500),
        (b"XYZZY", 500),
        (b"XYZZY MAIL FROM:<a@b.example>", 500),
        (b"MAIL\0FROM:<smith@usc.example>", 500),
        (b"MAIL\tFROM:<smith@usc.example>", 500),
        (b"MAIL FROM:<sm\0ith@usc.example>", 500),
        (b"MAIL FROM:<sm\xc3\xadth@usc.example>", 553),
        (b"MAIL FROM:<sm\xedth@usc.example>", 500),
        (b"NOOP sm\xc3\xadth", 500),
        (b"\xff\xf4\xff\xfd\x06", 500),
        (b"N\xd6\xd6P", 500),
        (b"NOOP\nMAIL FROM:<smith@usc.example>", 500),
        (b"NOOP\rNOOP", 500),
        (b"STARTTLS", 220),
        (b"STARTTLS now", 501),
        (b"GET / HTTP/1.1", 500),
        (b"A" * 60, 500),
        (b"MAIL", 501),
        (b"MAIL smith@usc.example", 501),
        (b"MAIL FROM:smith@usc.example", 501),
        (b"MAIL FROM:<smith@usc.example", 501),
        (b"MAIL FROM:<smith>", 501),
        (b"MAIL FROM:<postmaster>", 501),
        (b"MAIL TO:<smith@usc.example>", 501),
        (b"MAIL FROM:<@:smith@usc.example>", 501),
        (b"MAIL FROM:<smith@usc.example> XYZZY=1", 501),
        (b"MAIL FROM:<smith@usc.example> SIZE=", 501),
        (b"MAIL FROM:<smith@usc.example> SIZE=-1", 501),
        ("MAIL FROM:<smith@usc.example> SIZE=\u00b2".encode(), 501),
        ("MAIL FROM:<smith@usc.example> SIZE=\u0663".encode(), 501),
        ("MAIL FROM:<smith@usc.example> BODY=8B\u0131TMIME".encode(), 501),
        (b"MAIL FROM:<smith@usc.example> SIZE=1 SIZE=1", 501),
        (b"MAIL FROM:<smith@usc.example> SIZE=" + b"9" * 21, 501),
        (b"MAIL FROM:<smith@usc.example> BODY=9BITMIME", 501),
        (b"MAIL FROM:<smith@usc.example> BODY", 501),
        (b"MAIL FROM:<smith@usc.example> SMTPUTF8=1", 501),
        (b"MAIL FROM:<smith@usc.example> AUTH", 501),
        (b"MAIL FROM:<smith@usc.example> SIZE=" + b"9" * 20, 552),
        (b"MAIL FROM:<smith@usc.example>", 250),
        (b"mail from:<smith@usc.example>", 250),
        (b"MaIl FrOm: <smith@usc.example>", 250),
        (b"MAIL FROM:<>", 250),
        (b"MAIL FROM:<@a.example,@b.example:smith@usc.example>", 250),
        (b"MAIL FROM:<smith@usc.example> size=100 body=8bitmime", 250),
        (b"MAIL FROM:<smith@usc.example> BODY=7BIT AUTH=<>", 250),
        (b"MAIL FROM:<smith@usc.example> BODY=BINARYMIME SMTPUTF8 RET=HDRS ENVID=x", 250),
        (b"RSET now", 501),
        (b"VRFY", 501),
        (b"EXPN", 501),
        (b"HELO", 501),
        (b"EHLO ", 501),
        (b"HELO two words", 501),
        (b"HELO " + b"x" * 256, 501),
        (b"HELO under_score", 250),
        (b"HELO [127.0.0.1]", 250),
        (b"NOOP whatever", 250),
        (b"TURN now", 500),
        (b"HELP", 211),
        (b"HELP mail", 214),
        (b"HELP TURN", 214),
        (b"HELP XYZZY", 504),
        (b"HELP LHLO", 504),
        (b"HELP STARTTLS", 214),
        (b"AUTH CRAM-MD5", 504),
        (b"QUIT", 221),
        (b"QUIT now", 221),
    ],
)
def test_a_line_between_transactions_gets_its_code(line: bytes, code: int) -> None:
    assert codes(talk(in_state(State.IDLE), line + b"\r\n")) == [code]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"RCPT", 501),
        (b"RCPT TO:", 501),
        (b"DATA now", 501),
        (b"RSET now", 501),
        (b"RCPT TO:<>", 501),
        (b"RCPT TO:jones@mit.example", 501),
        (b"RCPT FROM:<jones@mit.example>", 501),
        (b"RCPT TO:<jones@mit.example> NOTIFY=NEVER", 250),
        (b"RCPT TO:<jones@mit.example> NOTIFY=SOON", 501),
        (b"RCPT TO:<jones@mit.example> SIZE=1", 501),
        (b"RCPT TO:<j\xc3\xb3nes@mit.example>", 553),
        (b"RCPT TO:<jones>", 501),
        (b'RCPT TO:<"' + b" " * 64 + b'"@' + b"a23456789." * 20 + b"example>", 501),  # RFC 821 4.5.3
        (b"rcpt to:<jones@mit.example>", 250),
        (b"RCPT TO: <jones@mit.example>", 250),
        (b"RCPT TO:<Postmaster>", 250),
        (b'RCPT TO:<"two words"@mit.example>', 250),
        (b"RCPT TO:<@mit.example,@b.example:jones@usc.example>", 250),
    ],
)
def test_a_recipient_gets_its_code(line: bytes, code: int) -> None:
    receiver = in_state(State.OPEN)
    assert codes(talk(receiver, line + b"\r\n")) == [code]
    assert receiver.state is State.OPEN


def test_the_greeting_is_220_and_comes_first() -> None:
    receiver = Receiver(HOST, ALL)
    assert text(talk(receiver, b"")) == text([Reply(220, "mit.example Simple Mail Transfer Service Ready")])


def test_a_question_carries_what_was_said() -> None:
    found = talk(
        in_state(State.IDLE),
        b"SOML FROM:<@a.example:smith@usc.example> SIZE=77\r\nRCPT TO:<jones@mit.example>\r\n"
        b"VRFY Fred Smith\r\nEXPN staff\r\nDATA\r\nHi\r\n.\r\n",
    )
    assert text([event for event in found if not isinstance(event, Reply)]) == text(
        [
            events.AskSender(Mode.SOML, Path("smith", "usc.example", ("a.example",)), 77),
            events.AskRecipient(Path("jones", "mit.example")),
            events.AskVerify("Fred Smith"),
            events.AskExpand("staff"),
            events.AskData(),
            events.MailData(b"Hi\r\n"),
            events.AskCustody(),
        ]
    )


# ------------------------------------------------------------------------------ EHLO, HELP


def test_ehlo_names_what_this_client_may_use_and_no_more() -> None:
    everybody = (HOST, "PIPELINING", "SIZE 1000", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING",
                 "BINARYMIME", "DSN", "LIMITS RCPTMAX=7")  # fmt: skip
    limits = Limits(message_size=1000, recipients=7)
    for lmtp, hello in ((False, b"EHLO"), (True, b"LHLO")):
        (reply,) = talk(machine(ALL, limits, lmtp), hello + b" usc.example\r\n")
        assert reply == Reply(
            250,
            (*everybody, "SEND", "SOML", "SAML", "STARTTLS", "AUTH PLAIN", "TURN", "XWAIT 1 3600", "XPAIR",
             "ATRN", "ETRN", "EXPN", "HELP"),
        )  # fmt: skip
        (reply,) = talk(machine(Rights(), limits, lmtp), hello + b" usc.example\r\n")
        assert reply == Reply(250, (*everybody, "EXPN", "HELP"))


def test_helo_is_answered_by_one_line() -> None:
    assert text(talk(machine(), b"HELO usc.example\r\n")) == text([Reply(250, HOST)])


def test_helo_is_remembered_as_it_was_said_and_ehlo_as_extended() -> None:
    receiver = machine()
    talk(receiver, b"HELO usc.example\r\n")
    assert (receiver.hello, receiver.extended) == ("usc.example", False)
    talk(receiver, b"EHLO usc2.example\r\n")
    assert (receiver.hello, receiver.extended) == ("usc2.example", True)


def test_help_lists_the_verbs_that_this_client_may_use() -> None:
    for lmtp, others in ((False, {"LHLO"}), (True, {"HELO", "EHLO"})):
        (everything,) = talk(machine(ALL, lmtp=lmtp), b"HELP\r\n")
        assert isinstance(everything, Reply)
        assert set(" ".join(everything.lines[1:-1]).split()) == set(VERBS) - others
    (little,) = talk(machine(Rights()), b"HELP\r\n")
    assert isinstance(little, Reply)
    assert set(VERBS) - set(" ".join(little.lines[1:-1]).split()) == {*MAY_NOT, "LHLO"}
    assert codes(talk(machine(Rights()), b"HELP SEND\r\nHELP TURN\r\nHELP AUTH\r\n")) == [504, 504, 504]


MAY_NOT = ["SEND", "SOML", "SAML", "TURN", "AUTH", "STARTTLS", "ATRN", "ETRN", "XWAIT", "XPAIR"]


@pytest.mark.parametrize("verb", MAY_NOT)
def test_what_a_client_may_not_use_is_502(verb: str) -> None:
    receiver = in_state(State.IDLE, Rights())
    assert codes(talk(receiver, COMMANDS[verb].encode() + b"\r\n")) == [502]
    assert receiver.state is State.IDLE
