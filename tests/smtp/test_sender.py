"""The Sender: whole dialogues with scripted hosts, and what each reply makes of a letter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailnode.mail import Body, Handover, Letter, Mode, Outcome, Path, Recipient, Reply, Terms
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from mailnode.smtp.steps import Peer

SMITH = Path("smith", "usc.example")
JONES, GREEN, BROWN = (Recipient(Path(name, "mit.example")) for name in ("jones", "green", "brown"))
PLAIN_HOST = "250 mit.example"
PIPELINING_HOST = "250-mit.example\r\n250 PIPELINING"


def letter(
    *recipients: Recipient, mode: Mode = Mode.MAIL, data: bytes = b"Hi\r\n", eight: bool = False
) -> Letter:
    return Letter(mode, SMITH, recipients or (JONES,), Body.of(data), Terms(eight))


class Dialogue:
    """A Sender, with what it wrote and what became of its letters."""

    def __init__(self, *letters: Letter, plan: Plan | None = None) -> None:
        self.sender = Sender(plan or Plan("usc.example"))
        self.letters = list(letters)
        self.written: list[str] = []  # lines, and the bodies as "<n octets>"
        self.results: list[dict[str, Outcome]] = []
        self.replies: dict[str, Reply] = {}
        self.handovers: list[Handover | None] = []
        self.ended: Ended | None = None

    def hear(self, text: str) -> Dialogue:
        self.sender.feed(text.encode() + b"\r\n")
        self.run()
        return self

    def run(self) -> None:
        while (event := self.sender.next()) is not None:
            assert self.ended is None
            if isinstance(event, events.Write):
                self.written += event.octets.decode("ascii").removesuffix("\r\n").split("\r\n")
            elif isinstance(event, events.LetterWanted):
                self.sender.give(self.letters.pop(0) if self.letters else None)
            elif isinstance(event, events.WriteBody):
                self.written.append(f"<{event.letter.body.size} octets>")
                self.sender.body_written()
            elif isinstance(event, events.Settled):
                self.results.append({str(r.path): result.outcome for r, result in event.results.items()})
                self.replies.update({str(r.path): result.reply for r, result in event.results.items()})
                self.handovers += [result.handover for result in event.results.values()]
            else:
                self.ended = event

    def with_host(self, answer: Callable[[str], str], limit: int = 1000) -> Dialogue:
        """Lets a host answer every line that was written, in order, each in a segment of its own."""
        self.hear("220 mit.example ready")
        done = 0
        while self.ended is None and done < len(self.written):
            line = self.written[done]
            done += 1
            assert done < limit
            self.hear(answer(line))
        return self

    @property
    def outcomes(self) -> list[list[str]]:
        return [[outcome.value for outcome in result.values()] for result in self.results]


def host(hello: str = PLAIN_HOST, **exceptions: str) -> Callable[[str], str]:
    """A host by the first word of a line: the exceptions, else what RFC 821 has as success."""
    usual = {"EHLO": hello, "HELO": PLAIN_HOST, "DATA": "354 go", "QUIT": "221 bye", "AUTH": "235 ok"}

    def answer(line: str) -> str:
        for key, reply in exceptions.items():
            if line.startswith(key) or key.lower() in line:
                return reply
        return usual.get(line.split(" ")[0], "250 OK")

    return answer


HELLOS = pytest.mark.parametrize("hello", [PLAIN_HOST, PIPELINING_HOST], ids=["one by one", "pipelined"])


# ------------------------------------------------------------------------------ the dialogue


def test_one_by_one_each_command_waits_for_its_reply() -> None:
    dialogue = Dialogue(letter(JONES, BROWN))
    dialogue.run()
    assert dialogue.written == []
    steps = [
        ("220 mit.example", ["EHLO usc.example"]),
        ("250 mit.example", ["MAIL FROM:<smith@usc.example>"]),
        ("250 OK", ["RCPT TO:<jones@mit.example>"]),
        ("250 OK", ["RCPT TO:<brown@mit.example>"]),
        ("250 OK", ["DATA"]),
        ("354 go", ["<4 octets>"]),
        ("250 OK", ["QUIT"]),
        ("221 bye", []),
    ]
    for reply, lines in steps:
        dialogue.written.clear()
        dialogue.hear(reply)
        assert dialogue.written == lines
    assert dialogue.outcomes == [["delivered", "delivered"]]
    assert dialogue.ended is not None
    assert dialogue.ended.ending is Ending.DONE


def test_a_transaction_is_one_group_where_pipelining_is_offered() -> None:
    dialogue = Dialogue(letter(JONES, BROWN))
    dialogue.hear("220 mit.example").hear(PIPELINING_HOST)
    assert dialogue.written[1:] == [
        "MAIL FROM:<smith@usc.example>",
        "RCPT TO:<jones@mit.example>",
        "RCPT TO:<brown@mit.example>",
        "DATA",
    ]
    dialogue.hear("250 OK\r\n250 OK\r\n550 no such user\r\n354 go")
    assert dialogue.written[-1] == "<4 octets>"
    dialogue.hear("250 OK").hear("221 bye")
    assert dialogue.outcomes == [["delivered", "failed"]]


@HELLOS
def test_letters_follow_each_other_over_one_channel(hello: str) -> None:
    dialogue = Dialogue(letter(JONES), letter(GREEN), letter(BROWN)).with_host(host(hello))
    assert dialogue.outcomes == [["delivered"]] * 3
    assert dialogue.written.count("<4 octets>") == 3
    assert dialogue.written[-1] == "QUIT"


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 550])
def test_a_host_that_does_not_know_ehlo_is_greeted_with_helo(code: int) -> None:
    dialogue = Dialogue(letter()).with_host(host(f"{code} what?"))
    assert dialogue.written[:2] == ["EHLO usc.example", "HELO usc.example"]
    assert dialogue.outcomes == [["delivered"]]


def test_a_host_known_to_be_old_is_greeted_with_helo_at_once() -> None:
    dialogue = Dialogue(letter(), plan=Plan("usc.example", extended=False)).with_host(host())
    assert dialogue.written[0] == "HELO usc.example"
    assert dialogue.outcomes == [["delivered"]]


@pytest.mark.parametrize(
    ("answer", "code"),
    [(host("451 not now"), 451), (host("554 go away"), 554), (host("502 what?", HELO="550 no"), 550)],
)
def test_a_host_that_refuses_the_hello_gets_no_letter(answer: Callable[[str], str], code: int) -> None:
    dialogue = Dialogue(letter()).with_host(answer)
    assert dialogue.written[-1] == "QUIT"
    assert len(dialogue.letters) == 1
    assert dialogue.ended is not None
    assert (dialogue.ended.ending, dialogue.ended.reply.code) == (Ending.REFUSED, code)


@pytest.mark.parametrize("code", [421, 450, 554, 250])
def test_only_220_is_a_greeting(code: int) -> None:
    dialogue = Dialogue(letter()).hear(f"{code} no")
    assert dialogue.written == []
    assert dialogue.ended == Ended(Ending.REFUSED, Reply(code, "no"))


# ------------------------------------------------------------------------------ recipients


@HELLOS
@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("250 OK", "delivered"),
        ("251 User not local; will forward to <jones@usc.example>", "delivered"),
        ("252 Cannot say", "delivered"),
        ("354 what", "failed"),
        ("450 later", "later"),
        ("451 later", "later"),
        ("452 Too many recipients", "later"),
        ("552 Recipient storage full", "later"),
        ("500 what", "failed"),
        ("550 No such user here", "failed"),
        ("551 User not local; please try <jones@usc.example>", "failed"),
        ("553 ambiguous", "failed"),
        ("554 no", "failed"),
    ],
)
def test_what_a_reply_to_rcpt_means(reply: str, outcome: str, hello: str) -> None:
    dialogue = Dialogue(letter(JONES, GREEN)).with_host(host(hello, GREEN=reply))
    assert dialogue.outcomes == [["delivered", outcome]]
    if outcome != "delivered" and reply[0] != "3":
        assert str(dialogue.replies["<green@mit.example>"]) == reply


@HELLOS
def test_with_all_recipients_refused_no_body_is_sent_and_the_next_letter_is_given(hello: str) -> None:
    answer = host(
        hello, GREEN="550 no", DATA="554 No valid recipients" if "PIPE" in hello else "500 not said"
    )
    dialogue = Dialogue(letter(GREEN, GREEN), letter(GREEN)).with_host(answer)
    assert dialogue.outcomes == [["failed"], ["failed"]]
    assert not any("octets" in line for line in dialogue.written)
    assert dialogue.written.count("RSET") == 2
    assert ("DATA" in dialogue.written) == ("PIPE" in hello)
    assert dialogue.replies["<green@mit.example>"] == Reply(550, "no")


def test_354_with_nobody_accepted_gets_an_empty_body_and_delivers_nothing() -> None:
    dialogue = Dialogue(letter(GREEN)).with_host(host(PIPELINING_HOST, GREEN="550 no"))
    assert "<0 octets>" in dialogue.written
    assert "<4 octets>" not in dialogue.written
    assert dialogue.outcomes == [["failed"]]


def test_354_after_a_refused_sender_gets_an_empty_body_and_delivers_nothing() -> None:
    dialogue = Dialogue(letter(JONES)).with_host(host(PIPELINING_HOST, MAIL="451 not from you"))
    assert "<0 octets>" in dialogue.written
    assert "<4 octets>" not in dialogue.written
    assert dialogue.outcomes == [["later"]]


@HELLOS
@pytest.mark.parametrize(
    ("reply", "outcome"), [("451 later", "later"), ("452 full", "later"), ("550 no", "failed")]
)
def test_a_refused_sender_speaks_for_all_recipients(reply: str, outcome: str, hello: str) -> None:
    answer = host(hello, MAIL=reply, RCPT="503 MAIL first", DATA="503 MAIL first")
    dialogue = Dialogue(letter(JONES, BROWN)).with_host(answer)
    assert dialogue.outcomes == [[outcome, outcome]]
    assert str(dialogue.replies["<jones@mit.example>"]) == reply


@HELLOS
@pytest.mark.parametrize(
    ("reply", "outcome"),
    [("451 later", "later"), ("554 no", "failed"), ("250 done", "later"), ("550 no", "failed")],
)
def test_a_refused_data_sends_no_body_and_resets(reply: str, outcome: str, hello: str) -> None:
    dialogue = Dialogue(letter(JONES, GREEN)).with_host(host(hello, GREEN="550 no", DATA=reply))
    assert dialogue.results[0] == {
        "<jones@mit.example>": Outcome(outcome),
        "<green@mit.example>": Outcome.FAILED,
    }
    assert dialogue.written[-2:] == ["RSET", "QUIT"]
    assert not any("octets" in line for line in dialogue.written)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [("250 OK", "delivered"), ("451 later", "later"), ("552 full", "failed"), ("554 no", "failed"),
     ("354 again", "failed")],
)  # fmt: skip
def test_the_reply_to_the_end_of_data_decides(reply: str, outcome: str) -> None:
    dialogue = Dialogue(letter(JONES, GREEN)).with_host(host(GREEN="550 no", octets=reply))
    assert dialogue.results[0]["<jones@mit.example>"] is Outcome(outcome)
    assert dialogue.results[0]["<green@mit.example>"] is Outcome.FAILED


@HELLOS
def test_over_100_recipients_go_in_several_transactions(hello: str) -> None:
    many = tuple(Recipient(Path(f"user{number}", "mit.example")) for number in range(250))
    dialogue = Dialogue(letter(*many)).with_host(host(hello), limit=5000)
    assert [len(result) for result in dialogue.results] == [100, 100, 50]
    assert dialogue.written.count("<4 octets>") == 3
    assert set(dialogue.replies) == {str(recipient.path) for recipient in many}


# ------------------------------------------------------------------------------ modes


SENDING = "250-mit.example\r\n250-SEND\r\n250-SOML\r\n250 SAML"


@pytest.mark.parametrize("mode", [Mode.SEND, Mode.SOML, Mode.SAML])
def test_the_verb_is_kept_where_it_is_offered(mode: Mode) -> None:
    dialogue = Dialogue(letter(mode=mode)).with_host(host(SENDING))
    assert f"{mode.value} FROM:<smith@usc.example>" in dialogue.written
    assert dialogue.outcomes == [["delivered"]]


def test_send_to_a_host_that_does_not_offer_it_fails_without_a_word() -> None:
    dialogue = Dialogue(letter(mode=Mode.SEND)).with_host(host())
    assert dialogue.outcomes == [["failed"]]
    assert dialogue.replies["<jones@mit.example>"].code == 502
    assert dialogue.written == ["EHLO usc.example", "QUIT"]


@pytest.mark.parametrize("mode", [Mode.SOML, Mode.SAML])
def test_soml_and_saml_go_as_mail_where_they_are_not_offered(mode: Mode) -> None:
    dialogue = Dialogue(letter(mode=mode)).with_host(host())
    assert dialogue.written[1] == "MAIL FROM:<smith@usc.example>"
    assert dialogue.outcomes == [["delivered"]]


@pytest.mark.parametrize("hello", [SENDING, SENDING.replace("250 SAML", "250-SAML\r\n250 PIPELINING")])
@pytest.mark.parametrize("code", [500, 502, 504])
@pytest.mark.parametrize("mode", [Mode.SOML, Mode.SAML])
def test_soml_and_saml_go_as_mail_where_they_are_refused(mode: Mode, code: int, hello: str) -> None:
    verb = mode.value
    opened: list[str] = []

    def answer(line: str) -> str:
        word = line.split(" ")[0]
        if word in (verb, "MAIL"):
            opened.append(word)
        if word == verb:
            return f"{code} no"
        if word in ("RCPT", "DATA") and opened[-1] != "MAIL":
            return "503 first things first"
        return host(hello)(line)

    dialogue = Dialogue(letter(mode=mode)).with_host(answer)
    assert opened == [verb, "MAIL"]
    assert dialogue.outcomes == [["delivered"]]


def test_a_host_that_refuses_soml_and_yet_asks_for_data_gets_an_empty_body_first() -> None:
    opened: list[str] = []

    def answer(line: str) -> str:
        opened.extend(word for word in ("SOML", "MAIL") if line.startswith(word))
        return host(SENDING.replace("250 SAML", "250 PIPELINING"), SOML="502 no")(line)

    dialogue = Dialogue(letter(mode=Mode.SOML)).with_host(answer)
    bodies = [line for line in dialogue.written if "octets" in line]
    assert bodies == ["<0 octets>", "<4 octets>"]
    assert opened == ["SOML", "MAIL"]
    assert dialogue.outcomes == [["delivered"]]


def test_how_a_host_took_a_message_for_a_terminal_is_told_and_of_mail_nothing() -> None:
    not_active = "250 User not active now, so will do mail."
    soml = Dialogue(letter(JONES, BROWN, GREEN, mode=Mode.SOML))
    soml.with_host(host(SENDING, **{"RCPT TO:<brown": not_active, "RCPT TO:<green": "550 no"}))
    assert soml.handovers == [
        Handover(Mode.SOML, Reply(250, "OK")),
        Handover(Mode.SOML, Reply(250, not_active[4:])),
        None,
    ]
    as_mail = Dialogue(letter(mode=Mode.SAML)).with_host(host())
    assert as_mail.handovers == [Handover(Mode.MAIL, Reply(250, "OK"))]
    assert Dialogue(letter()).with_host(host(SENDING)).handovers == [None]


@pytest.mark.parametrize("reply", ["450 User not active now", "451 later"])
def test_a_450_to_send_is_final(reply: str) -> None:
    assert Dialogue(letter(mode=Mode.SEND)).with_host(host(SENDING, RCPT=reply)).outcomes == [["failed"]]
    assert Dialogue(letter(mode=Mode.SEND)).with_host(host(SENDING, octets=reply)).outcomes == [["failed"]]
    assert Dialogue(letter(mode=Mode.SOML)).with_host(host(SENDING, RCPT=reply)).outcomes == [["later"]]


# ------------------------------------------------------------------------------ extensions


def test_the_size_is_declared_and_a_letter_over_the_limit_is_not_sent() -> None:
    dialogue = Dialogue(letter(data=b"x" * 11), letter(data=b"x" * 10)).with_host(
        host("250-mit.example\r\n250 SIZE 10")
    )
    assert dialogue.outcomes == [["failed"], ["delivered"]]
    assert dialogue.written[1] == "MAIL FROM:<smith@usc.example> SIZE=10"


@pytest.mark.parametrize("limit", ["SIZE", "SIZE 0", "SIZE many", "SIZE " + "9" * 21])
def test_a_size_without_a_number_is_no_limit(limit: str) -> None:
    dialogue = Dialogue(letter()).with_host(host(f"250-mit.example\r\n250 {limit}"))
    assert dialogue.outcomes == [["delivered"]]


def test_8_bit_text_is_declared_and_not_sent_to_a_host_that_does_not_take_it() -> None:
    dialogue = Dialogue(letter(eight=True)).with_host(host("250-mit.example\r\n250 8bitmime"))
    assert dialogue.written[1] == "MAIL FROM:<smith@usc.example> BODY=8BITMIME"
    assert dialogue.outcomes == [["delivered"]]
    dialogue = Dialogue(letter(eight=True)).with_host(host())
    assert dialogue.outcomes == [["failed"]]
    assert dialogue.replies["<jones@mit.example>"].code == 554


def test_keywords_are_case_blind_and_the_first_line_is_none() -> None:
    peer = Peer()
    peer.learn(Reply(250, ("PIPELINING", "size 12", "auth PLAIN LOGIN")))
    assert not peer.offers("PIPELINING")
    assert peer.size_limit == 12
    assert peer.keywords["AUTH"] == "PLAIN LOGIN"
    peer.learn(Reply(250, ("mit.example",)))
    assert peer.keywords == {}
