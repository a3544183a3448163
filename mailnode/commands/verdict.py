"""What became of a submitted message, in plain words, and the exit status that says the same (pure)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from mailnode.mail import Mode, Outcome, Recipient, Reply
from mailnode.submission import Submitted

UNKNOWN: Final = (550, 551, 553)  # to RCPT: no such mailbox here

_TAKEN: Final = {
    Mode.MAIL: "accepted",
    Mode.SEND: "shown on a terminal",
    Mode.SOML: "shown on a terminal",
    Mode.SAML: "accepted, and shown if logged in",
}


class Verdict(NamedTuple):
    """`words` say what happened, `reply` quotes the host where that adds something, else empty."""

    words: str
    reply: str
    taken: bool
    status: int  # of sysexits(3)


def verdict(mode: Mode, recipient: Recipient, submitted: Submitted) -> Verdict:
    """What became of `recipient` of a message by verb `mode`."""
    result = submitted.results[recipient]
    reply = result.reply
    if result.outcome is Outcome.DELIVERED:
        return _taken(mode, submitted.replies.get(recipient), reply, submitted.verb or mode)
    if reply.code in UNKNOWN:
        word = "moved" if reply.code == 551 else "refused"  # RFC 821 3.2
        return Verdict(word, said(reply), False, os.EX_NOUSER)
    word = "not shown" if mode is Mode.SEND else "not taken now" if reply.transient else "refused"
    status = os.EX_TEMPFAIL if reply.transient else os.EX_UNAVAILABLE
    return Verdict(word, said(reply), False, status)


def _taken(mode: Mode, to_recipient: Reply | None, to_data: Reply, verb: Mode) -> Verdict:
    """A recipient that the host took; its reply to RCPT tells terminal from mailbox (RFC 821 F.6)."""
    reply = said(to_data)
    queued = "queued" in reply.lower()
    if to_recipient is not None and to_recipient.code == 251:
        return Verdict("accepted, to be forwarded", said(to_recipient), True, os.EX_OK)
    if verb is Mode.MAIL:
        return Verdict(_TAKEN[Mode.MAIL], reply, True, os.EX_OK)
    if mode is Mode.SOML and to_recipient is not None and "not active" in said(to_recipient).lower():
        return Verdict("not active now, so mailed", reply, True, os.EX_OK)
    if mode is Mode.SAML:
        return Verdict(_TAKEN[mode], reply, True, os.EX_OK)
    if queued:  # for another host, or somebody left while the others were shown it
        words = "accepted for a terminal" if mode is Mode.SEND else "shown on a terminal, or mailed"
        return Verdict(words, reply, True, os.EX_OK)
    return Verdict(_TAKEN[mode], "", True, os.EX_OK)


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """EX_OK if all were taken; else unknown recipients count before those for later, these before others."""
    found = {verdict.status for verdict in verdicts}
    order = (os.EX_NOUSER, os.EX_TEMPFAIL, os.EX_UNAVAILABLE)
    return next((status for status in order if status in found), os.EX_OK)


def said(reply: Reply) -> str:
    """A reply as the host said it, on one line."""
    return f"{reply.code} {' / '.join(reply.lines)}"
