"""The Sender and STARTTLS (RFC 3207): whether there has to be TLS, and that nothing said before it counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mailnode.mail import Body, Letter, Mode, Path, Recipient, Reply
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending, StartTls
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from mailnode.smtp.steps import COMMAND_PATIENCE

LETTER = Letter(
    Mode.MAIL, Path("smith", "usc.example"), (Recipient(Path("jones", "mit.example")),), Body.of(b"Hi\r\n")
)
PLAN = Plan("usc.example", tls="opportunistic")
POLICIES = ["opportunistic", "required", "verified"]
OFFERED = "250-mit.example\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 SIZE 9\r\n"
NOT_OFFERED = "250-mit.example\r\n250 PIPELINING\r\n"


class Call:
    """A Sender, and what it did."""

    def __init__(self, plan: Plan) -> None:
        self.sender = Sender(plan)
        self.told: list[events.SenderEvent] = []

    def hear(self, text: str) -> list[events.SenderEvent]:
        """What follows from octets; every letter that is wanted is there."""
        before = len(self.told)
        self.sender.feed(text.encode())
        while (event := self.sender.next()) is not None:
            self.told.append(event)
            if isinstance(event, events.LetterWanted):
                self.sender.give(LETTER)
        return self.told[before:]

    def secured(self) -> list[events.SenderEvent]:
        self.sender.secured()
        return self.hear("")

    @property
    def ended(self) -> Ended:
        assert isinstance(self.told[-1], Ended)
        return self.told[-1]


def up_to_starttls(tls: str = "opportunistic", **options: object) -> Call:
    call = Call(replace(PLAN, tls=tls, **options))  # type: ignore[arg-type]
    call.hear("220 ready\r\n")
    assert call.hear(OFFERED) == [events.Write(b"STARTTLS\r\n")]
    return call


@pytest.mark.parametrize("tls", POLICIES)
def test_where_it_is_offered_tls_begins_and_everything_said_before_is_forgotten(tls: str) -> None:
    call = up_to_starttls(tls)
    assert call.hear("220 go\r\n") == [StartTls()]
    assert call.secured() == [events.Write(b"EHLO usc.example\r\n")]
    assert call.sender.peer.keywords == {} and call.sender.peer.secure
    # It offers nothing now: commands go one by one, and no SIZE with them.
    assert call.hear("250 mit.example\r\n")[-1] == events.Write(b"MAIL FROM:<smith@usc.example>\r\n")
    assert call.sender.patience == COMMAND_PATIENCE


def test_where_it_is_not_asked_for_tls_does_not_begin() -> None:
    call = Call(replace(PLAN, tls="none"))
    call.hear("220 ready\r\n")
    assert isinstance(call.hear(OFFERED)[0], events.LetterWanted)


@pytest.mark.parametrize("hello", [NOT_OFFERED, "500 what\r\n"])
def test_a_host_that_offers_no_tls_gets_the_mail_only_where_none_is_required(hello: str) -> None:
    for tls in POLICIES:
        call = Call(replace(PLAN, tls=tls))
        call.hear("220 ready\r\n")
        found = call.hear(hello)
        if hello[0] == "5":
            assert found == [events.Write(b"HELO usc.example\r\n")]
            found = call.hear("250 mit.example\r\n")
        if tls == "opportunistic":
            assert isinstance(found[0], events.LetterWanted)
            continue
        assert found == [events.Write(b"QUIT\r\n")]
        call.hear("221 bye\r\n")
        assert call.ended.ending is Ending.INSECURE
        assert call.ended.reply.transient and call.ended.reply.status == "4.7.4"
        assert not any(isinstance(event, events.LetterWanted) for event in call.told)


@pytest.mark.parametrize("reply", ["454 not now", "502 what", "501 no", "250 hm", "334 "])
def test_a_host_that_refuses_tls_gets_the_mail_only_where_none_is_required(reply: str) -> None:
    for tls in POLICIES:
        call = up_to_starttls(tls)
        found = call.hear(reply + "\r\n")
        if tls == "opportunistic":
            assert isinstance(found[0], events.LetterWanted)
            assert not call.sender.peer.secure
            continue
        assert found == [events.Write(b"QUIT\r\n")]
        call.hear("221 bye\r\n")
        assert call.ended.ending is Ending.INSECURE
        assert "refused it" in call.ended.reply.lines[0] and call.ended.reply.transient


@pytest.mark.parametrize("tls", POLICIES)
@pytest.mark.parametrize(
    "behind",
    ["250-mit.example\r\n250 AUTH PLAIN\r\n", "220 go\r\n", "250-half", "\r\n", "x", "421 going down\r\n"],
)
def test_octets_behind_the_220_are_never_obeyed(tls: str, behind: str) -> None:
    call = up_to_starttls(tls, name="jones", secret="secret")
    found = call.hear("220 go\r\n" + behind)
    assert [type(event) for event in found] == [Ended]
    assert call.ended.ending is Ending.BROKEN
    assert call.hear("250 mit.example\r\n") == []


@pytest.mark.parametrize("octets", ["250-mit.example\r\n250 AUTH PLAIN\r\n", "220 again\r\n"])
def test_octets_that_come_before_the_handshake_break_the_channel(octets: str) -> None:
    call = up_to_starttls()
    assert call.hear("220 go\r\n") == [StartTls()]
    assert [type(event) for event in call.hear(octets)] == [Ended]
    assert call.ended.ending is Ending.BROKEN


def test_a_channel_that_is_lost_in_the_handshake_was_insecure_and_later_broken() -> None:
    lost = Reply(451, "The connection was lost")
    call = up_to_starttls()
    call.hear("220 go\r\n")
    call.secured()
    call.sender.fail(lost)
    call.hear("")
    assert call.ended == Ended(Ending.INSECURE, lost)
    call = up_to_starttls()
    call.hear("220 go\r\n")
    call.secured()
    call.hear("250 mit.example\r\n")
    call.sender.fail(lost)
    call.hear("")
    assert call.ended == Ended(Ending.BROKEN, lost)


def test_a_host_that_will_not_talk_under_tls_is_asked_no_second_time() -> None:
    call = up_to_starttls("required")
    call.hear("220 go\r\n")
    call.secured()
    assert call.hear("250-mit.example\r\n250 STARTTLS\r\n")[0] == events.LetterWanted()
    call = up_to_starttls("required")
    call.hear("220 go\r\n")
    call.secured()
    assert call.hear("554 no\r\n") == [events.Write(b"QUIT\r\n")]
    call.hear("221 bye\r\n")
    assert call.ended == Ended(Ending.REFUSED, Reply(554, "no"))


def test_a_refused_starttls_makes_no_channel_private() -> None:
    """A password is said under TLS to a host that is known, and to nobody without it."""
    for answer, secret in (("220 go\r\n", True), ("454 not now\r\n", False)):
        call = up_to_starttls(name="jones", secret="secret", known=True)
        found = call.hear(answer)
        if secret:
            call.secured()
        found = call.hear("250-mit.example\r\n250 AUTH PLAIN\r\n") if secret else found
        words = b"".join(event.octets for event in found if isinstance(event, events.Write))
        assert words.startswith(b"AUTH PLAIN " if secret else b"QUIT")


def test_a_handshake_that_nobody_asked_for_is_our_own_mistake() -> None:
    with pytest.raises(ValueError):
        Sender(PLAN).secured()


# ------------------------------------------------------------------ secrets


LEAF = {"name": "leaf", "secret": "open sesame"}


def under_tls(offered: str, **options: object) -> tuple[Call, list[events.SenderEvent]]:
    """A call on which TLS came about, and what it says to a host that offers these mechanisms."""
    call = up_to_starttls(**options)  # type: ignore[arg-type]
    call.hear("220 go\r\n")
    call.secured()
    return call, call.hear(f"250-mit.example\r\n250 AUTH {offered}\r\n")


@pytest.mark.parametrize(
    "options",
    [{"tls": "verified"}, {"tls": "required", "known": True}, {"tls": "opportunistic", "private": True}],
)
def test_a_host_whose_certificate_was_looked_at_is_told_the_password_itself(options: dict[str, Any]) -> None:
    for mechanism in ("PLAIN", "LOGIN"):
        _, said = under_tls(mechanism, **LEAF, **options)
        assert isinstance(said[0], events.Write) and said[0].octets.startswith(b"AUTH " + mechanism.encode())


@pytest.mark.parametrize("tls", ["opportunistic", "required"])
@pytest.mark.parametrize("offered", ["PLAIN", "LOGIN", "LOGIN PLAIN", "PLAIN GSSAPI"])
def test_tls_with_just_anybody_is_told_no_password_and_the_operator_hears_what_to_set(
    tls: str, offered: str
) -> None:
    call, said = under_tls(offered, tls=tls, **LEAF)
    assert said == [events.Write(b"QUIT\r\n")]
    call.hear("221 bye\r\n")
    assert call.ended.ending is Ending.REFUSED and (call.ended.reply.code, call.ended.reply.status) == (
        504,
        "5.7.4",
    )
    assert 'tls = "verified"' in str(call.ended.reply) and "fingerprint" in str(call.ended.reply)


@pytest.mark.parametrize("tls", ["opportunistic", "required"])
def test_tls_with_just_anybody_is_good_for_what_does_not_give_the_secret_away(tls: str) -> None:
    for offered, taken in (
        ("PLAIN CRAM-MD5", "CRAM-MD5"),
        ("PLAIN LOGIN SCRAM-SHA-256 CRAM-MD5", "SCRAM-SHA-256"),
    ):
        _, said = under_tls(offered, tls=tls, **LEAF)
        assert isinstance(said[0], events.Write) and said[0].octets.startswith(f"AUTH {taken}".encode())
    _, said = under_tls("EXTERNAL PLAIN", tls=tls, certificate=True)
    assert said == [events.Write(b"AUTH EXTERNAL =\r\n")]


def test_a_certificate_proves_nothing_without_the_tls_that_showed_it() -> None:
    call = Call(Plan("usc.example", certificate=True, private=True))
    call.hear("220 ready\r\n")
    assert isinstance(call.hear("250-mit.example\r\n250 AUTH EXTERNAL\r\n")[0], events.LetterWanted)


def test_a_host_that_offers_nothing_we_know_is_told_of_as_such() -> None:
    call, _ = under_tls("GSSAPI", tls="required", **LEAF)
    call.hear("221 bye\r\n")
    assert "no way to authenticate" in str(call.ended.reply)
