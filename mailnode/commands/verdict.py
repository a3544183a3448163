"""What became of a submitted message, in plain words, and the exit status that says the same (pure)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from mailnode.mail import Mode, Outcome, Path, Recipient, Reply
from mailnode.submission import Submitted

UNKNOWN: Final = (550, 551, 553)  # to RCPT: no such mailbox here

_TAKEN: Final = {
    Mode.MAIL: ("accepted", "accepted"),
    Mode.SEND: ("shown", "shown on a terminal"),
    Mode.SOML: ("shown", "shown on a terminal"),
    Mode.SAML: ("accepted", "accepted, and shown if logged in"),
}
_status = re.compile(r"(?<=\A\d{3} )\d\.\d{1,3}\.\d{1,3} ").sub
_queued_as = re.compile(r"queued as ([0-9a-z]{13})(?![0-9a-z])").search


class Verdict(NamedTuple):
    """`words` say what happened, `reply` quotes the host where that adds something, else empty.

    `state` is the same for programs: shown, mailed, accepted, forwarded, waiting (for a host, or the next
    attempt), not shown, not taken, refused, moved.
    """

    words: str
    reply: str
    taken: bool
    status: int  # of sysexits(3)
    state: str
    queued: bool = False  # the node took it, and has yet to find out


def verdict(mode: Mode, recipient: Recipient, submitted: Submitted) -> Verdict:
    """What became of `recipient` of a message by verb `mode`."""
    result = submitted.results[recipient]
    if result.outcome is not Outcome.DELIVERED:
        return _refused(mode, result.reply)
    taken = _taken(mode, submitted.replies.get(recipient), result.reply, submitted.verb or mode)
    return taken._replace(queued=mode.wants_terminal and "queued" in said(result.reply).lower())


def _refused(mode: Mode, reply: Reply) -> Verdict:
    if reply.code in UNKNOWN:
        word = "moved" if reply.code == 551 else "refused"  # RFC 821 3.2
        return Verdict(word, said(reply), False, os.EX_NOUSER, word)
    status = os.EX_TEMPFAIL if reply.transient else os.EX_UNAVAILABLE
    if mode is Mode.SEND:
        return Verdict("not shown", said(reply), False, status, "not shown")
    if reply.transient:
        return Verdict("not taken now", said(reply), False, status, "not taken")
    return Verdict("refused", said(reply), False, status, "refused")


def _taken(mode: Mode, to_recipient: Reply | None, to_data: Reply, verb: Mode) -> Verdict:
    """A recipient that the host took; its reply to RCPT tells terminal from mailbox (RFC 821 F.6)."""
    reply = said(to_data)
    queued = "queued" in reply.lower()
    if to_recipient is not None and to_recipient.code == 251:
        return Verdict("accepted, to be forwarded", said(to_recipient), True, os.EX_OK, "forwarded")
    if verb is Mode.MAIL:
        return Verdict("accepted", reply, True, os.EX_OK, "accepted")
    if mode is Mode.SOML and to_recipient is not None and "not active" in said(to_recipient).lower():
        return Verdict("not active now, so mailed", reply, True, os.EX_OK, "mailed")
    state, words = _TAKEN[mode]
    if mode is Mode.SAML:
        return Verdict(words, reply, True, os.EX_OK, state)
    if queued:  # for another host, or somebody left while the others were shown it
        words = "accepted for a terminal" if mode is Mode.SEND else "shown on a terminal, or mailed"
        return Verdict(words, reply, True, os.EX_OK, "accepted")
    return Verdict(words, "", True, os.EX_OK, state)


# ------------------------------------------------------------------ what the node found out since


def message_id(submitted: Submitted) -> str:
    """The node's name for a message that it has queued, empty if it says none."""
    for result in submitted.results.values():
        match = _queued_as(said(result.reply))
        if result.outcome is Outcome.DELIVERED and match is not None:
            return match[1]
    return ""


def learned(mode: Mode, path: Path, before: Verdict, answer: Mapping[str, Any]) -> Verdict:
    """The verdict on `path`, now that the node has answered what became of the message."""
    if not before.queued or before.state == "mailed":  # that is settled
        return before
    known = answer.get("recipients")
    known = known if isinstance(known, list) else []
    found = [one for one in known if isinstance(one, dict) and one.get("to") == str(path)]
    if found:
        # A name may stand for several: what went worst is what a sender has to hear.
        return max((_of(mode, path, before, one) for one in found), key=_weight)
    if answer.get("whole") is True and mode in (Mode.SEND, Mode.SOML):
        state, words = _TAKEN[mode]
        return Verdict(words, "", True, os.EX_OK, state)
    return before


def _of(mode: Mode, path: Path, before: Verdict, one: Mapping[str, Any]) -> Verdict:
    """What became of one recipient, as `mailnode.outcomes` says it."""
    what = _outcome(mode, before, one)
    behind = str(one.get("path", ""))
    if behind in ("", str(path)):
        return what
    return what._replace(words=f"{what.words} ({behind.strip('<>')})")


def _outcome(mode: Mode, before: Verdict, one: Mapping[str, Any]) -> Verdict:
    state, text = str(one.get("state", "")), str(one.get("reply", ""))
    reply = Reply(_code(one.get("code")), text)
    if state == "failed":
        return _refused(mode, reply)
    if state == "later":
        return Verdict("on its way, to be tried again", _status("", text), True, os.EX_OK, "waiting")
    if state == "held":
        return Verdict("waits for the host to fetch it", "", True, os.EX_OK, "waiting")
    if state == "delivered" and (verb := _verb(one.get("verb"))) is not None:
        if verb is Mode.MAIL:
            words = "mailed: the host there shows no messages on terminals"
            return Verdict(words, "", True, os.EX_OK, "mailed")
        return _taken(mode, Reply(_code(one.get("rcpt_code")), str(one.get("rcpt", ""))), reply, verb)
    if state == "delivered":
        # By this very node: it shows a SEND, mails a SOML that was not shown, and does both with a SAML.
        if mode is Mode.SOML:
            return Verdict("not active now, so mailed", "", True, os.EX_OK, "mailed")
        return before if mode is Mode.SAML else Verdict(_TAKEN[mode][1], "", True, os.EX_OK, "shown")
    fear = "is not shown" if mode is Mode.SEND else "cannot be delivered"
    return Verdict(f"on its way; if it {fear}, a notice will follow", "", True, os.EX_OK, "waiting")


def _weight(what: Verdict) -> int:
    order = ("shown", "accepted", "forwarded", "mailed", "waiting")
    return order.index(what.state) if what.state in order else len(order)


def _verb(word: object) -> Mode | None:
    return Mode(word) if word in [mode.value for mode in Mode] else None


def _code(value: object) -> int:
    return value if isinstance(value, int) and 200 <= value < 600 else 451


# ------------------------------------------------------------------ all of them


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """EX_OK if all were taken; else unknown recipients count before those for later, these before others."""
    found = {verdict.status for verdict in verdicts}
    order = (os.EX_NOUSER, os.EX_TEMPFAIL, os.EX_UNAVAILABLE)
    return next((status for status in order if status in found), os.EX_OK)


def said(reply: Reply) -> str:
    """A reply as the host said it, on one line."""
    return f"{reply.code} {' / '.join(reply.lines)}"
