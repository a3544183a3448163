"""Messages of the spool for the eye and for programs."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mailnode.commands.output import Screen, clock_time, iso, octets, safe, span, table
from mailnode.interfaces import QueuedMessage, QueuedRecipient
from mailnode.mail import Mode, Terms

RECIPIENTS: Final = 20  # of one message that a list shows
_STYLES: Final = {"queued": "", "leased": "green", "held": "yellow", "stopped": "magenta", "bad": "red"}


def as_json(message: QueuedMessage) -> dict[str, Any]:
    """A message for programs. Times are ISO 8601; `next_attempt` is null unless one is due."""
    return {
        "id": message.id,
        "state": message.state,
        "mode": message.mode.value,
        "sender": str(message.sender)[1:-1],
        "recipients": [
            {
                "address": str(recipient.path)[1:-1],
                "mode": recipient.mode.value,
                "state": recipient.state,
                "attempts": recipient.attempts,
                "next_attempt": iso(recipient.due) if recipient.state == "queued" else None,
                "last_reply": recipient.reply,
            }
            for recipient in message.recipients
        ],
        "size": message.size,
        "arrived": iso(message.arrived),
    }


def overview(messages: list[QueuedMessage], now: float) -> Table:
    """A table of messages: each with its sender, below it its recipients with their last replies."""
    right = {"justify": "right", "no_wrap": True}
    rows = table(
        ("ID", {"no_wrap": True}),
        ("STATE", {"no_wrap": True}),
        ("AGE", right),
        ("SIZE", right),
        "FROM, TO, LAST REPLY",
    )
    for message in messages:
        rows.add_row(
            message.id,
            Text(message.state, _STYLES.get(message.state, "")),
            span(now - message.arrived),
            octets(message.size),
            _parties(message, now),
        )
    return rows


def _parties(message: QueuedMessage, now: float) -> Group:
    """The sender and the recipients, one below the other; what is folded stays indented."""
    sender = safe(str(message.sender))
    if message.mode is not Mode.MAIL:
        sender.append(f" by {message.mode.value}")
    lines: list[RenderableType] = [sender]
    for recipient in message.recipients[:RECIPIENTS]:
        line = safe(f"-> {str(recipient.path)[1:-1]}", "bold")
        line.append_text(safe(_standing(recipient, message.state, now)))
        lines.append(line)
        if recipient.reply:
            lines.append(Padding(safe(recipient.reply, "dim"), (0, 0, 0, 3)))
    if len(message.recipients) > RECIPIENTS:
        lines.append(f"   and {len(message.recipients) - RECIPIENTS} more")
    return Group(*lines)


def _standing(recipient: QueuedRecipient, usual: str, now: float) -> str:
    """What is to be said of a recipient in a list, behind its address."""
    words = [] if recipient.state == usual else [recipient.state]
    if recipient.attempts:
        words.append(f"tried {recipient.attempts}x")
    if recipient.state == "queued":
        words.append("due" if recipient.due <= now else f"next {clock_time(recipient.due, now)}")
    return f" ({', '.join(words)})" if words else ""


def show(screen: Screen, message: QueuedMessage, now: float) -> None:
    """One message with all there is to be said of its envelope."""
    arrived = f"{clock_time(message.arrived, now)} ({span(now - message.arrived)} ago)"
    for name, value in (
        ("Id", message.id),
        ("State", message.state),
        ("Arrived", arrived),
        ("Size", f"{message.size} octets"),
        ("Verb", message.mode.value),
        ("From", str(message.sender)),
    ):
        screen.say(safe(f"{name + ':':<9}{value}"))
    if terms := _terms(message.terms):
        screen.say(safe(f"{'Terms:':<9}{terms}"))
    for recipient in message.recipients:
        line = safe(f"{'To:':<9}{recipient.path}")
        if recipient.mode is not message.mode:
            line.append(f" by {recipient.mode.value}")
        line.append_text(safe(_standing(recipient, "", now)))
        screen.say(line)
        if recipient.notify:
            screen.say(safe(f"{'':<9}notify: {', '.join(recipient.notify).lower()}"))
        if recipient.orcpt:
            screen.say(safe(f"{'':<9}original recipient: {recipient.orcpt}"))
        if recipient.reply:
            screen.say(safe(f"{'':<9}last reply: {recipient.reply}"))


def _terms(terms: Terms) -> str:
    """What MAIL said besides, in its words; empty if it was nothing."""
    words = [
        word
        for is_set, word in (
            (terms.eight_bit and not terms.binary, "8BITMIME"),
            (terms.binary, "BINARYMIME"),
            (terms.utf8, "SMTPUTF8"),
            (terms.ret, f"RET={terms.ret}"),
            (terms.envid, f"ENVID={terms.envid}"),
        )
        if is_set
    ]
    return " ".join(words)
