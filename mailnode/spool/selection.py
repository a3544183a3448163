"""Which messages and recipients a Selection means (pure, the same for every spool)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailnode.interfaces import QueuedMessage, QueuedRecipient, Selection
from mailnode.spool.rows import State, next_host

# What `change` does: the states it applies to, and the state that follows (None: the recipient goes).
ACTIONS: Final[Mapping[str, tuple[tuple[str, ...], State | None]]] = {
    "retry": ((State.QUEUED.value,), State.QUEUED),
    "hold": ((State.QUEUED.value, State.HELD.value), State.STOPPED),
    "release": ((State.STOPPED.value, State.HELD.value, State.BAD.value), State.QUEUED),
    "delete": ((State.QUEUED.value, State.HELD.value, State.STOPPED.value, State.BAD.value), None),
}


def rule(name: str) -> tuple[tuple[str, ...], State | None]:
    """The rule of one action. ValueError if there is no such action."""
    if name not in ACTIONS:
        raise ValueError(f"unknown action; known are {', '.join(ACTIONS)}")
    return ACTIONS[name]


def picks(selection: Selection, recipient: QueuedRecipient) -> bool:
    """Whether what the selection says of recipients is true of this one."""
    if selection.state and recipient.state != selection.state:
        return False
    if selection.domain and next_host(recipient.path) != selection.domain:
        return False
    return not selection.to or selection.to.lower() in recipient.path.mailbox.lower()


def selects(selection: Selection, message: QueuedMessage, now: float) -> bool:
    """Whether the selection means this message: what it says of it, and of at least one recipient."""
    if selection.ids and message.id not in selection.ids:
        return False
    if selection.older and message.arrived > now - selection.older:
        return False
    if selection.sender and selection.sender.lower() not in message.sender.mailbox.lower():
        return False
    return any(picks(selection, recipient) for recipient in message.recipients)
