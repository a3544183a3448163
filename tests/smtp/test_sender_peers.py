"""The Sender towards peers, and towards hosts that break the protocol: no false delivery, ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mailnode.mail import Body, Letter, Mode, Path, Recipient, Reply
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.sasl import plain_response
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from mailnode.smtp.steps import (
    BLOCK_PATIENCE,
    COMMAND_PATIENCE,
    DATA_PATIENCE,
    END_PATIENCE,
    GREETING_PATIENCE,
    QUIT_PATIENCE,
)

LETTER = Letter(
    Mode.MAIL, Path("smith", "usc.example"), (Recipient(Path("jones", "mit.example")),), Body.of(b"Hi\r\n")
)
PLAN = Plan("usc.example")
AUTH_PLAN = Plan("leaf.example", name="leaf", secret="secret", private=True)
OPEN_PLAN = replace(AUTH_PLAN, private=False)
DIALOGUE = ["220 ready", "250 mit.example", "250 OK", "250 OK", "354 go", "250 OK", "221 bye"]


def drain(sender: Sender) -> list[events.SenderEvent]:
    found = []
    while (event := sender.next()) is not None:
        found.append(event)
    return found


def hear(sender: Sender, text: str, letter: Letter | None = None) -> list[events.SenderEvent]:
    """What follows from octets; a letter that is wanted is given, and a body counts as written."""
    sender.feed(text.encode())
    found = drain(sender)
    while found and isinstance(found[-1], events.LetterWanted | events.WriteBody):
        if isinstance(found[-1], events.LetterWanted):
            sender.give(letter)
            letter = None
        else:
            sender.body_written()
        more = drain(sender)
        if not more:
            break
        found += more
    return found


def ended(found: list[events.SenderEvent]) -> Ended:
    assert isinstance(found[-1], Ended)
    return found[-1]


def words(found: list[events.SenderEvent]) -> bytes:
    return b"".join(event.octets for event in found if isinstance(event, events.Write))


def settled(found: list[events.SenderEvent]) -> int:
    return sum(isinstance(event, events.Settled) for event in found)


# ------------------------------------------------------------------------------ patience


def test_each_wait_has_the_time_of_rfc_1123() -> None:
    sender = Sender(PLAN)
    seen = [sender.patience]
    for line in DIALOGUE[:-1]:
        sender.feed(line.encode() + b"\r\n")
        for event in drain(sender):
            if isinstance(event, events.LetterWanted):
                sender.give(LETTER if len(seen) == 2 else None)
                drain(sender)
            elif isinstance(event, events.WriteBody):
                seen.append(sender.patience)
                sender.body_written()
        seen.append(sender.patience)
    assert seen == [
        GREETING_PATIENCE,
        COMMAND_PATIENCE,  # EHLO
        COMMAND_PATIENCE,  # MAIL
        COMMAND_PATIENCE,  # RCPT
        DATA_PATIENCE,
        BLOCK_PATIENCE,
        END_PATIENCE,
        QUIT_PATIENCE,
    ]


# ------------------------------------------------------------------------------ broken protocol


def test_canned_replies_in_one_segment_deliver_nothing() -> None:
    found = hear(Sender(PLAN), "".join(line + "\r\n" for line in DIALOGUE), LETTER)
    assert settled(found) == 0
    assert ended(found).ending is Ending.BROKEN
    assert words(found) == b""


@pytest.mark.parametrize("at", range(len(DIALOGUE) - 1))
@pytest.mark.parametrize("extra", ["250 canned\r\n", "2", "250-half\r\n", "421 going down\r\n"])
def test_a_reply_before_its_command_breaks_the_channel(at: int, extra: str) -> None:
    sender = Sender(PLAN)
    found = []
    for number, line in enumerate(DIALOGUE[: at + 1]):
        octets = line + "\r\n" + (extra if number == at else "")
        found += hear(sender, octets, LETTER if number == 1 else None)
    assert ended(found).ending is Ending.BROKEN
    # Only a 250 that came after the end of data settles the letter, whatever follows it.
    assert settled(found) == (1 if at == 5 else 0)


def test_a_reply_while_a_letter_is_awaited_breaks_the_channel() -> None:
    sender = Sender(PLAN)
    sender.feed(b"220 ready\r\n")
    drain(sender)
    sender.feed(b"250 mit.example\r\n")
    assert isinstance(drain(sender)[-1], events.LetterWanted)
    sender.feed(b"250 canned\r\n")
    assert ended(drain(sender)).ending is Ending.BROKEN
    assert not sender.wants_letter
    with pytest.raises(ValueError):
        sender.give(LETTER)


def test_a_reply_before_the_whole_body_was_written_breaks_the_channel() -> None:
    sender = Sender(PLAN)
    for number, line in enumerate(DIALOGUE[:4]):
        hear(sender, line + "\r\n", LETTER if number == 1 else None)
    sender.feed(b"354 go\r\n")
    assert isinstance(drain(sender)[-1], events.WriteBody)
    sender.feed(b"250 OK\r\n")
    found = drain(sender)
    assert ended(found).ending is Ending.BROKEN
    assert settled(found) == 0


@pytest.mark.parametrize("at", range(1, len(DIALOGUE) - 1))
def test_421_at_any_point_ends_the_channel_and_settles_nothing_more(at: int) -> None:
    sender = Sender(PLAN)
    found = []
    for number, line in enumerate([*DIALOGUE[:at], "421 mit.example going down"]):
        found += hear(sender, line + "\r\n", LETTER if number == 1 else None)
    assert ended(found) == Ended(Ending.BROKEN, Reply(421, "mit.example going down"))
    assert settled(found) == 0
    assert hear(sender, "250 OK\r\n") == []


def test_421_in_a_pipelined_group_ends_the_channel() -> None:
    sender = Sender(PLAN)
    hear(sender, "220 ready\r\n")
    hear(sender, "250-mit.example\r\n250 PIPELINING\r\n", LETTER)
    found = hear(sender, "250 OK\r\n421 going down\r\n354 go\r\n")
    assert ended(found).reply.code == 421
    assert settled(found) == 0


@pytest.mark.parametrize("garbage", ["SSH-2.0-OpenSSH_9.2\r\n", "\r\n", "x" * 5000])
def test_what_is_no_reply_breaks_the_channel(garbage: str) -> None:
    found = hear(Sender(PLAN), garbage)
    assert ended(found).ending is Ending.BROKEN
    assert ended(found).reply.transient


def test_a_lost_channel_ends_the_sender_once() -> None:
    sender = Sender(PLAN)
    hear(sender, "220 ready\r\n")
    sender.fail(Reply(451, "The connection was lost"))
    sender.fail(Reply(451, "again"))
    assert drain(sender) == [Ended(Ending.BROKEN, Reply(451, "The connection was lost"))]
    assert drain(sender) == []


@pytest.mark.parametrize("answer", ["221 bye\r\n", "421 going down\r\n", "500 what\r\n", "garbage\r\n", ""])
def test_after_quit_nothing_changes_how_it_ended(answer: str) -> None:
    for plan, hello, ending in (
        (PLAN, "250 mit.example\r\n", Ending.DONE),
        (AUTH_PLAN, "250 mit.example\r\n", Ending.REFUSED),
        (PLAN, "554 no\r\n", Ending.REFUSED),
    ):
        sender = Sender(plan)
        hear(sender, "220 ready\r\n")
        assert words(hear(sender, hello)) == b"QUIT\r\n"
        found = hear(sender, answer)
        sender.fail(Reply(451, "The connection was lost"))
        assert ended(found + drain(sender)).ending is ending


def test_a_letter_that_is_not_wanted_is_our_own_mistake() -> None:
    with pytest.raises(ValueError):
        Sender(PLAN).give(LETTER)


# ------------------------------------------------------------------------------ AUTH


AUTH_HOST = "250-hub.example\r\n250 AUTH CRAM-MD5 plain\r\n"


def test_auth_plain_is_said_before_any_letter() -> None:
    sender = Sender(AUTH_PLAN)
    hear(sender, "220 ready\r\n")
    found = hear(sender, AUTH_HOST)
    assert words(found) == b"AUTH PLAIN " + plain_response("leaf", "secret") + b"\r\n"
    assert isinstance(hear(sender, "235 welcome\r\n", LETTER)[0], events.LetterWanted)


@pytest.mark.parametrize("reply", ["535 no", "454 not now", "250 hm"])
def test_a_refused_auth_ends_the_channel_with_quit(reply: str) -> None:
    sender = Sender(AUTH_PLAN)
    hear(sender, "220 ready\r\n")
    hear(sender, AUTH_HOST)
    assert words(hear(sender, reply + "\r\n")) == b"QUIT\r\n"
    assert ended(hear(sender, "221 bye\r\n")).ending is Ending.REFUSED


@pytest.mark.parametrize("challenge", ["334 ", "334 =", "334 !!!", "334 AGEAYg=="])
def test_a_challenge_behind_the_whole_response_is_cancelled_and_the_channel_ends(challenge: str) -> None:
    sender = Sender(AUTH_PLAN)
    hear(sender, "220 ready\r\n")
    hear(sender, AUTH_HOST)
    assert words(hear(sender, challenge + "\r\n")) == b"*\r\n"
    assert words(hear(sender, "501 cancelled\r\n")) == b"QUIT\r\n"
    end = ended(hear(sender, "221 bye\r\n"))
    assert (end.ending, end.reply.code) == (Ending.REFUSED, 504)


@pytest.mark.parametrize(
    ("plan", "hello"),
    [
        (AUTH_PLAN, ""),
        (AUTH_PLAN, "AUTH GSSAPI EXTERNAL"),
        (OPEN_PLAN, "AUTH PLAIN LOGIN"),
    ],
)
def test_without_a_mechanism_that_will_do_no_secret_is_sent(plan: Plan, hello: str) -> None:
    sender = Sender(plan)
    hear(sender, "220 ready\r\n")
    assert words(hear(sender, f"250-hub.example\r\n250 {hello}\r\n")) == b"QUIT\r\n"
    end = ended(hear(sender, "221 bye\r\n"))
    assert (end.ending, end.reply.code) == (Ending.REFUSED, 504)


def test_a_certificate_without_a_name_needs_no_auth() -> None:
    """It was shown in the handshake, or nobody has asked for it."""
    sender = Sender(replace(OPEN_PLAN, certificate=True, name="", secret=""))
    hear(sender, "220 ready\r\n")
    assert words(hear(sender, "250-hub.example\r\n250 AUTH EXTERNAL\r\n")) == b"QUIT\r\n"
    assert ended(hear(sender, "221 bye\r\n")).ending is Ending.DONE


@pytest.mark.parametrize(
    ("plan", "hello", "line"),
    [
        (
            AUTH_PLAN,
            "AUTH LOGIN PLAIN CRAM-MD5 SCRAM-SHA-256",
            b"AUTH SCRAM-SHA-256 biwsbj1sZWFmLHI9bm9uY2U=\r\n",
        ),
        (OPEN_PLAN, "AUTH PLAIN SCRAM-SHA-256", b"AUTH SCRAM-SHA-256 biwsbj1sZWFmLHI9bm9uY2U=\r\n"),
        (AUTH_PLAN, "AUTH LOGIN CRAM-MD5", b"AUTH LOGIN\r\n"),
        (OPEN_PLAN, "AUTH PLAIN CRAM-MD5 LOGIN", b"AUTH CRAM-MD5\r\n"),
        (
            replace(AUTH_PLAN, certificate=True, secure=True, name="", secret=""),
            "AUTH PLAIN EXTERNAL",
            b"AUTH EXTERNAL =\r\n",
        ),
    ],
)
def test_the_best_mechanism_is_taken_and_one_that_shows_the_secret_only_in_private(
    plan: Plan, hello: str, line: bytes
) -> None:
    sender = Sender(replace(plan, nonce=lambda: "nonce"))
    hear(sender, "220 ready\r\n")
    assert words(hear(sender, f"250-hub.example\r\n250 {hello}\r\n")) == line


def test_an_initial_response_that_a_command_line_cannot_hold_answers_the_first_challenge() -> None:
    """RFC 4954 4."""
    for length, at_once in ((250, True), (500, False)):
        sender = Sender(replace(AUTH_PLAN, secret="x" * length))
        response = plain_response("leaf", "x" * length) + b"\r\n"
        hear(sender, "220 ready\r\n")
        said = words(hear(sender, AUTH_HOST))
        assert said == (b"AUTH PLAIN " + response if at_once else b"AUTH PLAIN\r\n")
        if not at_once:
            assert words(hear(sender, "334 \r\n")) == response
        assert isinstance(hear(sender, "235 welcome\r\n", LETTER)[0], events.LetterWanted)


def test_a_host_that_challenges_for_ever_is_left() -> None:
    sender = Sender(replace(AUTH_PLAN, private=False))
    hear(sender, "220 ready\r\n")
    hear(sender, "250-hub.example\r\n250 AUTH CRAM-MD5\r\n")
    said = [words(hear(sender, "334 PDFAaHViPg==\r\n")) for _ in range(3)]
    assert said[0].startswith(b"bGVhZi") and said[1:] == [b"*\r\n", b"QUIT\r\n"]


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(Plan("leaf.example", name="leaf", secret="xyzzy")).replace("secret=", "")
    assert "xyzzy" not in repr(Plan("leaf.example", name="leaf", secret="xyzzy"))


# ------------------------------------------------------------------------------ TURN


TURN_PLAN = Plan("leaf.example", turn="TURN")


def test_turn_is_said_when_the_letters_are_given() -> None:
    sender = Sender(TURN_PLAN)
    for number, line in enumerate(DIALOGUE[:5]):
        hear(sender, line + "\r\n", LETTER if number == 1 else None)
    assert words(hear(sender, "250 OK\r\n")) == b"TURN\r\n"
    assert hear(sender, "250 OK\r\n") == [Ended(Ending.TURNED, Reply(250, "OK"))]
    assert sender.pending == b""


@pytest.mark.parametrize("reply", ["502 no", "503 no", "500 what", "251 no", "354 go", "450 no"])
def test_a_refused_turn_ends_with_quit_and_its_reply(reply: str) -> None:
    sender = Sender(TURN_PLAN)
    hear(sender, "220 ready\r\n")
    assert words(hear(sender, "250 hub.example\r\n")) == b"TURN\r\n"
    assert words(hear(sender, reply + "\r\n")) == b"QUIT\r\n"
    end = ended(hear(sender, "221 bye\r\n"))
    assert end.ending is Ending.DONE
    assert str(end.reply) == reply


def test_octets_behind_the_reply_to_turn_are_not_consumed() -> None:
    sender = Sender(TURN_PLAN)
    hear(sender, "220 ready\r\n")
    hear(sender, "250 hub.example\r\n")
    hear(sender, "250 OK\r\n220 canned\r\n")
    assert sender.pending == b"220 canned\r\n"
    sender.feed(b"250 more\r\n")
    assert drain(sender) == []
