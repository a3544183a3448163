"""What the node has found out since it took a message, in plain words (`mailnode.commands.verdict`)."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mailnode.commands.verdict import Verdict, exit_status, learned
from mailnode.mail import Mode, Path

BROWN = Path("brown", "usc.example")
BEFORE = Verdict("accepted", "250 OK, queued as 1", True, os.EX_OK, "accepted", queued=True)
NOT_ACTIVE = "User not active now, so will do mail."


def one(state: str, code: int = 250, reply: str = "OK", **more: Any) -> dict[str, Any]:
    return {"to": str(BROWN), "path": str(BROWN), "state": state, "code": code, "reply": reply, **more}


def said(mode: Mode, *found: dict[str, Any], whole: bool = True) -> tuple[str, str, int]:
    """words: reply; the state; the exit status."""
    what = learned(mode, BROWN, BEFORE, {"whole": whole, "recipients": list(found)})
    return f"{what.words}: {what.reply}", what.state, what.status


@pytest.mark.parametrize(
    ("mode", "found", "words", "state", "status"),
    [
        (Mode.SEND, one("delivered", verb="SEND", rcpt_code=250), "shown on a terminal: ", "shown", 0),
        (Mode.SEND, one("delivered", reply="OK, queued as x", verb="SEND", rcpt_code=250),
         "accepted for a terminal: 250 OK, queued as x", "accepted", 0),
        (Mode.SEND, one("delivered"), "shown on a terminal: ", "shown", 0),  # here, by the second attempt
        (Mode.SEND, one("failed", 450, "User not active now"),
         "not shown: 450 User not active now", "not shown", 75),
        (Mode.SEND, one("failed", 502, "no"), "not shown: 502 no", "not shown", 69),
        (Mode.SEND, one("failed", 550, "No such user here"), "refused: 550 No such user here", "refused", 67),
        (Mode.SEND, one("failed", 551, "try <a@b>"), "moved: 551 try <a@b>", "moved", 67),
        (Mode.SEND, one("leased"), "on its way; if it is not shown, a notice will follow: ", "waiting", 0),
        (Mode.SOML, one("leased"), "on its way; if it cannot be delivered, a notice will follow: ",
         "waiting", 0),
        (Mode.SOML, one("delivered", verb="SOML", rcpt_code=250, rcpt="OK"),
         "shown on a terminal: ", "shown", 0),
        (Mode.SOML, one("delivered", verb="SOML", rcpt_code=250, rcpt=NOT_ACTIVE),
         "not active now, so mailed: 250 OK", "mailed", 0),
        (Mode.SOML, one("delivered", verb="SOML", rcpt_code=251, rcpt="will forward"),
         "accepted, to be forwarded: 251 will forward", "forwarded", 0),
        (Mode.SOML, one("delivered", verb="MAIL", rcpt_code=250),
         "mailed: the host there shows no messages on terminals: ", "mailed", 0),
        (Mode.SOML, one("delivered"), "not active now, so mailed: ", "mailed", 0),
        (Mode.SOML, one("later", 451, "451 4.3.2 busy"),
         "on its way, to be tried again: 451 busy", "waiting", 0),
        (Mode.SOML, one("held"), "waits for the host to fetch it: ", "waiting", 0),
        (Mode.SOML, one("failed", 554, "no"), "refused: 554 no", "refused", 69),
        (Mode.SOML, one("failed", 452, "full"), "not taken now: 452 full", "not taken", 75),
        (Mode.SAML, one("delivered", verb="SAML", rcpt_code=250),
         "accepted, and shown if logged in: 250 OK", "accepted", 0),
        (Mode.SAML, one("delivered"), "accepted: 250 OK, queued as 1", "accepted", 0),
    ],
)  # fmt: skip
def test_each_outcome_has_its_words(
    mode: Mode, found: dict[str, Any], words: str, state: str, status: int
) -> None:
    assert said(mode, found) == (words, state, status)


def test_who_is_not_in_the_spool_was_shown_it_before_if_nothing_is_forgotten() -> None:
    other = {**one("failed", 450, "User not active now"), "to": "<green@usc.example>"}
    for mode in (Mode.SEND, Mode.SOML):
        assert said(mode, other)[0] == "shown on a terminal: "
        assert said(mode, other, whole=False)[0] == "accepted: 250 OK, queued as 1"
    assert said(Mode.SAML, other)[0] == "accepted: 250 OK, queued as 1"


def test_of_several_behind_a_name_the_worst_is_said_and_named() -> None:
    shown = one("delivered", verb="SEND", rcpt_code=250, path="<b1@usc.example>")
    failed = one("failed", 450, "User not active now", path="<b2@isi.example>")
    words = "not shown (b2@isi.example): 450 User not active now"
    assert said(Mode.SEND, shown, failed)[0] == said(Mode.SEND, failed, shown)[0] == words
    assert said(Mode.SEND, one("leased"), shown)[1] == "waiting"


def test_what_was_settled_before_stays_as_it_was() -> None:
    refused = Verdict("refused", "550 no", False, os.EX_NOUSER, "refused")
    mailed = Verdict("not active now, so mailed", "250 queued", True, os.EX_OK, "mailed", queued=True)
    for before in (refused, mailed):
        assert learned(Mode.SOML, BROWN, before, {"whole": True, "recipients": []}) is before


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"whole": 1, "recipients": None},
        {"recipients": [None, 7, {"to": 3}, {"to": "<green@usc.example>", "state": "failed"}]},
    ],
)
def test_an_answer_that_says_nothing_changes_nothing(answer: dict[str, Any]) -> None:
    assert learned(Mode.SEND, BROWN, BEFORE, answer) is BEFORE


def test_an_answer_of_another_version_is_no_exception() -> None:
    odd = {"to": str(BROWN), "state": "delivered", "code": "x", "verb": "TELL", "rcpt_code": None, "path": 3}
    what = learned(Mode.SEND, BROWN, BEFORE, {"recipients": [odd]})
    assert what.taken and exit_status([what]) == os.EX_OK
