"""The Sender keeps what was promised about a message, or returns it: BDAT, SMTPUTF8, DSN, LIMITS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from mailnode.mail import Body, Letter, Mode, Path, Recipient, Reply, Terms
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.giving import CHUNK
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from mailnode.smtp.steps import BLOCK_PATIENCE, END_PATIENCE

SMITH = Path("smith", "usc.example")
JONES, GREEN, BROWN = (Recipient(Path(name, "mit.example")) for name in ("jones", "green", "brown"))
FROM, TO = "MAIL FROM:<smith@usc.example>", "RCPT TO:<jones@mit.example>"


def letter(*recipients: Recipient, data: bytes = b"Hi\r\n", terms: Terms | None = None) -> Letter:
    return Letter(Mode.MAIL, SMITH, recipients or (JONES,), Body.of(data), terms or Terms())


class Dialogue:
    """A Sender with a host that answers each line, a chunk once it is there; all in one segment or not."""

    def __init__(self, answer: Callable[[str], str], *letters: Letter, turn: str = "") -> None:
        self.sender = Sender(Plan("usc.example", turn=turn))
        self.answer = answer
        self.letters = list(letters)
        self.lines: list[str] = []
        self.groups: list[str] = []  # what left in one go
        self.bodies: list[tuple[bytes, bool]] = []  # octets, whether as a chunk
        self.results: list[dict[str, str]] = []
        self.replies: dict[str, Reply] = {}
        self.dsn: dict[str, bool] = {}
        self.ended: Ended | None = None
        self.sender.feed(b"220 ready\r\n")
        self._run()

    def _run(self) -> None:
        waiting: list[str] = []
        for _ in range(10_000):
            while (event := self.sender.next()) is not None:
                if isinstance(event, events.Write):
                    text = event.octets.decode()
                    self.groups.append(text)
                    waiting += text.removesuffix("\r\n").split("\r\n")
                elif isinstance(event, events.LetterWanted):
                    self.sender.give(self.letters.pop(0) if self.letters else None)
                elif isinstance(event, events.WriteBody):
                    self.bodies.append((b"".join(event.letter.body.chunks()), event.chunk))
                    self.sender.body_written()
                    if not event.chunk:
                        waiting.append(".")
                elif isinstance(event, events.Settled):
                    self.results.append({str(r.path): it.outcome.value for r, it in event.results.items()})
                    self.replies |= {str(r.path): it.reply for r, it in event.results.items()}
                    self.dsn |= {str(r.path): it.dsn for r, it in event.results.items()}
                else:
                    assert isinstance(event, Ended)
                    self.ended = event
            if not waiting:
                return
            line = waiting.pop(0)
            self.lines.append(line)
            self.sender.feed(self.answer(line).encode() + b"\r\n")


def host(*keywords: str, **exceptions: str) -> Callable[[str], str]:
    """Offers `keywords`; the exceptions answer lines that begin so, or hold the words."""
    hello = "\r\n".join(["250-mit.example", *(f"250-{word}" for word in keywords), "250 HELP"])
    usual = {"EHLO": hello, "DATA": "354 go", "QUIT": "221 bye"}

    def answer(line: str) -> str:
        for key, reply in exceptions.items():
            if line.startswith(key) or key.lower() in line:
                return reply
        return usual.get(line.split(" ")[0], "250 OK")

    return answer


# ------------------------------------------------------------------ BDAT

BINARY = Terms(binary=True)
CHUNKING = ("CHUNKING", "BINARYMIME")


def test_a_small_message_goes_by_bdat_where_that_spares_a_round_trip() -> None:
    dialogue = Dialogue(host("PIPELINING", "CHUNKING"), letter(data=b".\r\n"))
    assert dialogue.groups[1] == f"{FROM}\r\n{TO}\r\nBDAT 3 LAST\r\n"
    assert dialogue.bodies == [(b".\r\n", True)]
    assert dialogue.results == [{"<jones@mit.example>": "delivered"}]


@pytest.mark.parametrize(
    ("keywords", "size"), [(("CHUNKING",), 4), (("PIPELINING",), 4), (("PIPELINING", "CHUNKING"), CHUNK + 1)]
)
def test_otherwise_by_data(keywords: tuple[str, ...], size: int) -> None:
    dialogue = Dialogue(host(*keywords), letter(data=b"x" * size))
    assert "DATA" in dialogue.lines
    assert dialogue.bodies == [(b"x" * size, False)]


@pytest.mark.parametrize("pipelining", [(), ("PIPELINING",)])
@pytest.mark.parametrize("size", [0, 5, CHUNK, CHUNK + 1])
def test_binary_mail_goes_by_bdat_octet_for_octet(pipelining: tuple[str, ...], size: int) -> None:
    dialogue = Dialogue(host(*CHUNKING, *pipelining), letter(data=b"\n" * size, terms=BINARY))
    assert dialogue.lines[1:4] == [f"{FROM} BODY=BINARYMIME", TO, f"BDAT {size} LAST"]
    assert dialogue.bodies == [(b"\n" * size, True)]
    assert dialogue.results == [{"<jones@mit.example>": "delivered"}]


@pytest.mark.parametrize("keywords", [(), ("CHUNKING",), ("BINARYMIME",), ("8BITMIME", "PIPELINING")])
def test_binary_mail_is_returned_where_it_is_not_taken(keywords: tuple[str, ...]) -> None:
    dialogue = Dialogue(host(*keywords), letter(terms=BINARY))
    assert dialogue.results == [{"<jones@mit.example>": "failed"}]
    assert dialogue.replies["<jones@mit.example>"].status == "5.6.1"
    assert dialogue.lines == ["EHLO usc.example", "QUIT"]


@pytest.mark.parametrize(
    ("exceptions", "size"),
    [
        ({"RCPT": "550 no"}, CHUNK + 1),
        ({"MAIL": "451 not now", "RCPT": "503 MAIL first"}, CHUNK + 1),
        ({"MAIL": "451 not now"}, CHUNK + 1),  # and yet it takes recipients
    ],
)
def test_a_large_chunk_is_not_sent_before_somebody_is_there_to_take_it(
    exceptions: dict[str, str], size: int
) -> None:
    answer = host(*CHUNKING, "PIPELINING", **exceptions)
    dialogue = Dialogue(answer, letter(data=b"x" * size, terms=BINARY))
    assert dialogue.bodies == []
    assert dialogue.results == [{"<jones@mit.example>": "later" if "MAIL" in exceptions else "failed"}]


@pytest.mark.parametrize("pipelining", [(), ("PIPELINING",)])
@pytest.mark.parametrize(
    ("reply", "outcome"),
    [("250 OK", "delivered"), ("451 later", "later"), ("452 full", "later"), ("552 large", "failed"),
     ("554 no", "failed"), ("354 go", "failed")],
)  # fmt: skip
def test_the_reply_to_the_last_chunk_decides(reply: str, outcome: str, pipelining: tuple[str, ...]) -> None:
    answer = host(*CHUNKING, *pipelining, GREEN="550 no", BDAT=reply)
    dialogue = Dialogue(answer, letter(JONES, GREEN, terms=BINARY), letter(BROWN, terms=BINARY))
    assert dialogue.results[0] == {"<jones@mit.example>": outcome, "<green@mit.example>": "failed"}
    assert len(dialogue.results) == 2
    assert dialogue.ended is not None and dialogue.ended.ending is Ending.DONE


def test_a_chunk_for_nobody_delivers_to_nobody() -> None:
    """It was pipelined, so the host has read it; whatever it says of it counts for nothing."""
    for reply in ("250 OK", "503 nobody", "554 nobody"):
        dialogue = Dialogue(host("PIPELINING", "CHUNKING", RCPT="550 no", BDAT=reply), letter(JONES, GREEN))
        assert set(dialogue.results[0].values()) == {"failed"}
        assert dialogue.replies["<green@mit.example>"] == Reply(550, "no")


def test_a_reply_before_the_chunk_is_written_breaks_the_channel() -> None:
    sender = Sender(Plan("usc.example"))
    body = Body(CHUNK + 1, b"x" * (CHUNK + 1))
    big = Letter(Mode.MAIL, SMITH, (JONES,), body, BINARY)
    for line in ("220 x\r\n", "250-x\r\n250-CHUNKING\r\n250 BINARYMIME\r\n", "250 x\r\n", "250 x\r\n"):
        sender.feed(line.encode())
        while (event := sender.next()) is not None:
            last = event
            if isinstance(event, events.LetterWanted):
                sender.give(big)
    assert last == events.WriteBody(big, chunk=True)
    assert sender.patience == END_PATIENCE > BLOCK_PATIENCE
    sender.feed(b"250 got it\r\n")
    end = sender.next()
    assert isinstance(end, Ended) and end.ending is Ending.BROKEN
    assert sender.next() is None


# ------------------------------------------------------------------ SMTPUTF8

UTF8 = Terms(utf8=True)
BOECK = Recipient(Path("b\xf6ck", "mit.example"))


def test_smtputf8_is_said_where_it_was_said_to_us_and_addresses_go_as_utf8() -> None:
    dialogue = Dialogue(host("SMTPUTF8", "8BITMIME"), letter(BOECK, terms=UTF8))
    assert dialogue.lines[1:3] == [f"{FROM} SMTPUTF8", "RCPT TO:<b\xf6ck@mit.example>"]
    assert dialogue.results == [{"<b\xf6ck@mit.example>": "delivered"}]


@pytest.mark.parametrize(
    "message",
    [
        letter(terms=UTF8),
        letter(BOECK, terms=UTF8),
        letter(BOECK),  # an alias of ours led there
        replace(letter(), reverse_path=Path("b\xf6ck", "usc.example")),
        replace(letter(), reverse_path=Path("smith", "usc.example", ("b\xfccher.example",))),
    ],
)
def test_and_the_message_is_returned_where_it_is_not_taken(message: Letter) -> None:
    dialogue = Dialogue(host("8BITMIME"), message)
    assert [set(result.values()) for result in dialogue.results] == [{"failed"}]
    (reply,) = dialogue.replies.values()
    assert (reply.code, reply.status) == (553, "5.6.7")
    assert dialogue.lines == ["EHLO usc.example", "QUIT"]


def test_an_address_that_is_not_ascii_is_announced_even_if_the_message_was_not() -> None:
    dialogue = Dialogue(host("SMTPUTF8"), letter(BOECK))
    assert dialogue.lines[1] == f"{FROM} SMTPUTF8"


# ------------------------------------------------------------------ DSN

WISHES = replace(JONES, notify=("SUCCESS", "DELAY"), orcpt="rfc822;Bob+Tag=1@usc.example")
NAMED = Terms(ret="HDRS", envid="QQ 31+4")


def test_what_was_asked_of_notices_is_asked_of_the_next_host_that_knows_how() -> None:
    dialogue = Dialogue(host("DSN"), letter(WISHES, GREEN, terms=NAMED))
    assert dialogue.lines[1:4] == [
        f"{FROM} RET=HDRS ENVID=QQ+2031+2B4",
        f"{TO} NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2BTag+3D1@usc.example",
        "RCPT TO:<green@mit.example>",
    ]
    assert dialogue.dsn == {"<jones@mit.example>": True, "<green@mit.example>": True}


def test_and_of_no_other() -> None:
    dialogue = Dialogue(host(), letter(WISHES, terms=NAMED))
    assert dialogue.lines[1:3] == [FROM, TO]
    assert dialogue.dsn == {"<jones@mit.example>": False}


def test_an_original_recipient_that_is_not_ascii_goes_as_every_host_reads_it() -> None:
    """RFC 6533 3: utf-8-addr-xtext."""
    dialogue = Dialogue(host("DSN"), letter(replace(JONES, orcpt="utf-8;b\xf6ck+1@\U0001f4ee.example")))
    assert dialogue.lines[2] == TO + " ORCPT=utf-8;b\\x{F6}ck+2B1@\\x{1F4EE}.example"


# ------------------------------------------------------------------ LIMITS (RFC 9422)

MANY = tuple(Recipient(Path(f"user{number}", "mit.example")) for number in range(7))


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ("RCPTMAX=3", [3, 3, 1]),
        ("rcptmax=3 MAILMAX=100", [3, 3, 1]),
        ("RCPTMAX=7", [7]),
        ("RCPTMAX=1000", [7]),
        ("RCPTMAX=0", [7]),
        ("RCPTMAX=-3", [7]),
        ("RCPTMAX=many RCPTDOMAINMAX=1", [7]),
        ("RCPTMAX=1234567", [7]),
        ("RCPTMAX", [7]),
        ("", [7]),
    ],
)
def test_no_more_recipients_go_into_a_transaction_than_the_host_takes(words: str, sizes: list[int]) -> None:
    dialogue = Dialogue(host(f"LIMITS {words}"), letter(*MANY))
    assert [len(result) for result in dialogue.results] == sizes
    assert len(dialogue.bodies) == len(sizes)
    assert len(dialogue.replies) == 7


def test_a_hundred_recipients_are_enough_whatever_the_host_would_take() -> None:
    many = tuple(Recipient(Path(f"user{number}", "mit.example")) for number in range(101))
    dialogue = Dialogue(host("LIMITS RCPTMAX=5000"), letter(*many))
    assert [len(result) for result in dialogue.results] == [100, 1]


@pytest.mark.parametrize("exceptions", [{}, {"MAIL": "451 not now"}, {"RCPT": "550 no"}])
def test_no_more_transactions_are_begun_in_a_session_than_the_host_takes(exceptions: dict[str, str]) -> None:
    """RFC 9422 4.1: those that fail count too."""
    dialogue = Dialogue(host("LIMITS MAILMAX=2", **exceptions), *[letter()] * 5)
    assert len(dialogue.results) == 2
    assert len(dialogue.letters) == 3
    assert sum(line.startswith("MAIL") for line in dialogue.lines) == 2
    assert dialogue.lines[-1] == "QUIT"
    assert dialogue.ended is not None and dialogue.ended.ending is Ending.DONE


def test_what_is_left_of_a_letter_is_as_if_it_had_not_been_tried() -> None:
    dialogue = Dialogue(host("LIMITS MAILMAX=2 RCPTMAX=3"), letter(*MANY), letter())
    outcomes = [set(result.values()) for result in dialogue.results]
    assert outcomes == [{"delivered"}, {"delivered"}, {"untried"}]
    assert sum(line.startswith("MAIL") for line in dialogue.lines) == 2
    assert len(dialogue.letters) == 1


def test_a_letter_that_is_returned_without_a_word_is_no_transaction() -> None:
    dialogue = Dialogue(host("LIMITS MAILMAX=1"), letter(terms=BINARY), letter(), letter())
    assert [set(result.values()) for result in dialogue.results] == [{"failed"}, {"delivered"}]


def test_the_line_is_turned_all_the_same() -> None:
    dialogue = Dialogue(host("LIMITS MAILMAX=1", TURN="250 OK"), letter(), letter(), turn="TURN")
    assert dialogue.lines[-1] == "TURN"
    assert dialogue.ended == Ended(Ending.TURNED, Reply(250, "OK"))
    assert len(dialogue.letters) == 1
