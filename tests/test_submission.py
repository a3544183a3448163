"""Submitting a message: what goes out, what came of it, and what is shown of the dialogue."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from email import message_from_bytes

import pytest

from mailnode.commands.message import Stamp, compose, field_names, with_crlf
from mailnode.commands.verdict import exit_status, verdict
from mailnode.control_client import ControlClient, NoNodeError, RefusedError
from mailnode.mail import Body, Letter, Mode, Outcome, Path, Recipient
from mailnode.smtp.script import Plan
from mailnode.submission import Submission, Submitted, Where, parse_where
from mailnode.trace import DATA_LINES, TraceLines

JONES, GREEN = Path("jones", "mit.example"), Path("green", "mit.example")
SMITH = Path("smith", "usc.example")
STAMP = Stamp(1_800_000_000.0, "abc123", "usc.example")


# ------------------------------------------------------------------ the message


def test_every_line_end_becomes_crlf_and_the_last_line_has_one() -> None:
    assert with_crlf(b"a\nb\rc\r\nd") == b"a\r\nb\r\nc\r\nd\r\n"
    assert with_crlf(b"") == b""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"Subject: x\r\nX-Y: z\r\n\r\ntext\r\n", {"subject", "x-y"}),
        (b"SUBJECT : x\r\n folded\r\n\r\n", {"subject"}),
        (b"Note: the kettle is on\r\n\r\nSubject: x\r\n", None),
        (b"Subject: x\r\nand text at once\r\n", None),
        (b" folded first\r\nSubject: x\r\n\r\n", None),
        (b"\r\nSubject: x\r\n", None),
        (b"", None),
    ],
)
def test_a_header_is_one_only_if_every_line_is_a_field_and_one_is_known(
    text: bytes, names: set[str] | None
) -> None:
    assert field_names(text) == names


@pytest.mark.parametrize("mode", [Mode.MAIL, Mode.SOML, Mode.SAML])
def test_text_alone_gets_the_fields_that_every_message_has(mode: Mode) -> None:
    message = message_from_bytes(compose(b"Lunch?\r\n", mode, SMITH, [JONES, GREEN], "Noon", STAMP))
    assert message["From"] == "smith@usc.example"
    assert message["To"] == "jones@mit.example, green@mit.example"
    assert message["Subject"] == "Noon"
    assert message["Message-ID"] == "<1800000000.abc123@usc.example>"
    assert message["Date"] is not None
    assert message.get_payload() == "Lunch?\r\n"


def test_text_for_a_terminal_stays_text() -> None:
    assert compose(b"Lunch?\r\n", Mode.SEND, SMITH, [JONES], "", STAMP) == b"Lunch?\r\n"
    assert b"Subject: Noon\r\n" in compose(b"Lunch?\r\n", Mode.SEND, SMITH, [JONES], "Noon", STAMP)


def test_a_header_that_is_there_is_completed_not_repeated() -> None:
    text = b"From: Me <me@x.example>\r\nBcc: a@b.example\r\nMessage-ID: <1@x>\r\n\r\nLunch?\r\n"
    out = compose(text, Mode.MAIL, SMITH, [JONES], "", STAMP)
    assert out.endswith(text)
    assert out.removesuffix(text).split(b":")[0] == b"Date" and out.count(b"\r\n\r\n") == 1


def test_a_header_is_ascii_and_its_lines_are_short_whatever_was_typed() -> None:
    many = [Path(f"recipient-number-{number}", "mit.example") for number in range(40)]
    out = compose("grüß dich\r\n".encode(), Mode.MAIL, SMITH, many, "Grüße " * 20 + "\udcff", STAMP)
    header = out.split(b"\r\n\r\n")[0]
    assert header.isascii() and max(map(len, header.split(b"\r\n"))) <= 78
    assert message_from_bytes(out)["Content-Type"] == "text/plain; charset=utf-8"
    assert message_from_bytes(out)["To"].count("@") == 40


# ------------------------------------------------------------------ the conversation


class Host:
    """A host that answers from a list, one reply to each read, and keeps what it was told."""

    def __init__(self, *replies: str | OSError) -> None:
        self.replies = list(replies)
        self.heard = b""
        self.patience: list[float] = []

    def settimeout(self, value: float, /) -> None:
        self.patience.append(value)

    def sendall(self, data: bytes, /) -> None:
        self.heard += data

    def recv(self, size: int, /) -> bytes:
        reply = self.replies.pop(0) if self.replies else ""
        if isinstance(reply, OSError):
            raise reply
        return f"{reply}\r\n".encode() if reply else b""


def submit(mode: Mode, host: Host, *paths: Path, said: list[str] | None = None) -> Submitted:
    recipients = tuple(Recipient(path, mode) for path in paths)
    letter = Letter(mode, SMITH, recipients, Body.of(b".Lunch?\r\n"))
    trace = TraceLines(lambda who, text: said.append(f"{who}: {text}")) if said is not None else None
    return Submission(host, Plan("usc.example"), letter, trace).run()


EHLO = "250-mit.example\r\n250-SEND\r\n250-SOML\r\n250 SAML"


def test_the_letter_goes_by_its_very_verb_with_its_dots_stuffed() -> None:
    host = Host("220 x", EHLO, "250 OK", "250 OK", "354 go", "250 OK", "221 bye")
    said: list[str] = []
    submitted = submit(Mode.SEND, host, JONES, said=said)
    assert host.heard == (
        b"EHLO usc.example\r\nSEND FROM:<smith@usc.example>\r\nRCPT TO:<jones@mit.example>\r\n"
        b"DATA\r\n..Lunch?\r\n.\r\nQUIT\r\n"
    )
    assert submitted.verb is Mode.SEND
    assert said[-6:] == ["S: 354 go", "C: ..Lunch?", "C: .", "S: 250 OK", "C: QUIT", "S: 221 bye"]
    (what,) = [verdict(Mode.SEND, one, submitted) for one in submitted.results]
    assert (what.words, what.reply, what.status) == ("shown on a terminal", "", os.EX_OK)
    assert min(host.patience) > 0


@pytest.mark.parametrize(
    ("mode", "replies", "words", "status"),
    [
        (Mode.MAIL, ["250 OK", "250 OK", "354 go", "250 OK, queued"], "accepted: 250 OK, queued", 0),
        (Mode.MAIL, ["250 OK", "251 will forward to <a@b>", "354 go", "250 OK"],
         "accepted, to be forwarded: 251 will forward to <a@b>", 0),
        (Mode.MAIL, ["250 OK", "550 No such user here"], "refused: 550 No such user here", 67),
        (Mode.MAIL, ["250 OK", "551 please try <a@b>"], "moved: 551 please try <a@b>", 67),
        (Mode.MAIL, ["250 OK", "450 mailbox busy"], "not taken now: 450 mailbox busy", 75),
        (Mode.MAIL, ["250 OK", "250 OK", "354 go", "554 No"], "refused: 554 No", 69),
        (Mode.SEND, ["250 OK", "450 User not active now"], "not shown: 450 User not active now", 75),
        (Mode.SEND, ["502 not for you"], "not shown: 502 not for you", 69),
        (Mode.SOML, ["250 OK", "250 OK", "354 go", "250 OK"], "shown on a terminal: ", 0),
        (Mode.SOML, ["250 OK", "250 User not active now, so will do mail.", "354 go", "250 OK, queued as 1"],
         "not active now, so mailed: 250 OK, queued as 1", 0),
        (Mode.SAML, ["250 OK", "250 OK", "354 go", "250 OK"], "accepted, and shown if logged in: 250 OK", 0),
    ],
)  # fmt: skip
def test_what_happened_is_said_in_plain_words_and_in_the_status(
    mode: Mode, replies: list[str], words: str, status: int
) -> None:
    submitted = submit(mode, Host("220 x", EHLO, *replies, "250 rset", "221 bye"), JONES)
    what = verdict(mode, Recipient(JONES, mode), submitted)
    assert f"{what.words}: {what.reply}" == words
    assert exit_status([what]) == status


def test_an_unknown_recipient_counts_before_others() -> None:
    host = Host("220 x", EHLO, "250 OK", "250 OK", "550 No such user here", "354 go", "250 OK", "221 bye")
    submitted = submit(Mode.MAIL, host, JONES, GREEN)
    verdicts = [verdict(Mode.MAIL, one, submitted) for one in submitted.results]
    assert [what.taken for what in verdicts] == [True, False]
    assert exit_status(verdicts) == os.EX_NOUSER


def test_a_host_without_the_verb_gets_soml_as_mail_and_no_send_at_all() -> None:
    plain = ("220 x", "250 mit.example", "250 OK", "250 OK", "354 go", "250 OK", "221 bye")
    submitted = submit(Mode.SOML, Host(*plain), JONES)
    assert submitted.verb is Mode.MAIL
    assert verdict(Mode.SOML, Recipient(JONES, Mode.SOML), submitted).words == "accepted"
    host = Host("220 x", "250 mit.example", "221 bye")
    submitted = submit(Mode.SEND, host, JONES)
    assert submitted.verb is None and b"RCPT" not in host.heard
    assert exit_status([verdict(Mode.SEND, Recipient(JONES, Mode.SEND), submitted)]) == os.EX_UNAVAILABLE


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ([""], Outcome.LATER),
        (["554 go away", "221"], Outcome.FAILED),
        (["421 not now"], Outcome.LATER),
        (["220 x", EHLO, "250 OK", "250 OK", "354 go", TimeoutError()], Outcome.LATER),
        (["220 x", EHLO, "250 OK", ConnectionResetError()], Outcome.LATER),
        (["220 x", "this is no reply"], Outcome.LATER),
        (["220 x", EHLO, "250 OK", "250 OK", "354 go\r\n250 canned"], Outcome.LATER),
    ],
)
def test_there_is_a_result_for_everybody_however_the_host_behaves(
    replies: list[str | OSError], outcome: Outcome
) -> None:
    submitted = submit(Mode.MAIL, Host(*replies), JONES, GREEN)
    assert {result.outcome for result in submitted.results.values()} == {outcome}
    assert len(submitted.results) == 2


def test_places_are_read_as_people_write_them() -> None:
    assert parse_where("mit.example") == Where("mit.example", 25)
    assert parse_where("127.0.0.1:2525") == Where("127.0.0.1", 2525)
    assert parse_where("[::1]:2525") == Where("::1", 2525)
    assert str(Where("::1", 2525)) == "[::1]:2525"
    assert parse_where("/run/mailnode") == Where("/run/mailnode")
    for wrong in ("", ":25", "a:0", "a:65536", "a b:25", "::1:25", "a:2x", "a\x1b:25"):
        assert parse_where(wrong) is None


# ------------------------------------------------------------------ the trace


def traced(*spoken: tuple[str, bytes]) -> list[str]:
    said: list[str] = []
    trace = TraceLines(lambda who, text: said.append(f"{who}: {text}"))
    for speaker, octets in spoken:
        trace(speaker, octets)
    return said


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_secrets_never_pass_however_the_octets_are_cut(cut: int) -> None:
    dialogue = [
        ("C", b"AUTH PLAIN c2VjcmV0\r\n"), ("S", b"235 ok\r\n"),
        ("C", b"auth  plain\r\n"), ("S", b"334 \r\n"), ("C", b"c2VjcmV0\r\n"), ("S", b"535 no\r\n"),
        ("C", b"AUTH CRAM-MD5\r\n"), ("S", b"334 PDE+\r\n"), ("C", b"*\r\n"), ("S", b"501 cancelled\r\n"),
        ("C", b"NOOP\r\n"),
    ]  # fmt: skip
    pieces = [
        (who, octets[start : start + cut]) for who, octets in dialogue for start in range(0, len(octets), cut)
    ]
    said = traced(*pieces)
    assert not any("c2VjcmV0" in line for line in said)
    assert [line for line in said if line[0] == "C"] == [
        "C: AUTH PLAIN ***", "C: auth  plain", "C: ***", "C: AUTH CRAM-MD5", "C: *", "C: NOOP",
    ]  # fmt: skip


def test_mail_data_is_shortened_and_commands_after_it_are_not() -> None:
    data = b"".join(b"line %d\r\n" % number for number in range(100)) + b"." + b"\r\nQUIT\r\n"
    said = traced(("C", b"DATA\r\n"), ("S", b"354 go\r\n"), ("C", data))
    assert said[2 : 2 + DATA_LINES] == [f"C: line {number}" for number in range(DATA_LINES)]
    assert said[2 + DATA_LINES :] == ["C: [92 more lines, 890 octets in all]", "C: .", "C: QUIT"]


def test_the_turn_is_marked_and_begins_anew() -> None:
    said = traced(("C", b"DATA\r\n"), ("S", b"354 go\r\n"), ("S", b"25"), ("turn", b""), ("C", b"EHLO x\r\n"))
    assert said == ["C: DATA", "S: 354 go", "S: 25", "turn: ", "C: EHLO x"]


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    said = traced(*[("S", b"x" * 40_000)] * 2)
    assert len(said) == 1 and len(said[0]) < 400


# ------------------------------------------------------------------ the control socket


Answered = Callable[..., ControlClient]


@pytest.fixture
def answered() -> Iterator[Answered]:
    """A client whose node has answered already; so nothing waits."""
    kept: list[socket.socket] = []

    def client(*answers: object, raw: bytes = b"") -> ControlClient:
        ours, theirs = socket.socketpair()
        kept.append(theirs)
        theirs.sendall(b"".join(json.dumps(answer).encode() + b"\n" for answer in answers) + raw)
        theirs.shutdown(socket.SHUT_WR)
        return ControlClient(ours, 5)

    yield client
    for theirs in kept:
        theirs.close()


def test_what_the_node_says_on_the_way_comes_before_its_answer(answered: Answered) -> None:
    said: list[tuple[str, str]] = []
    with answered({"said": ["S", "220 x"]}, {"said": ["turn", ""]}, {"ok": True, "code": 250}) as node:
        answer = node.ask("dial", lambda who, text: said.append((who, text)), name="hub")
    assert said == [("S", "220 x"), ("turn", "")]
    assert answer["code"] == 250


def test_a_refusal_and_a_broken_answer_are_told_apart(answered: Answered) -> None:
    with (
        answered({"error": "no [[dial]] of that name"}) as node,
        pytest.raises(RefusedError, match="of that name"),
    ):
        node.ask("dial", name="x")
    for raw in (b"", b"{", b"nonsense\n", b"[1]\n"):
        with answered(raw=raw) as node, pytest.raises(ConnectionError):
            node.ask("status")


def test_no_socket_is_no_node(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(NoNodeError):
        ControlClient.connect(os.path.join(tmp_path, "control.sock"))
