"""What `mailnode invite --list` shows."""

from __future__ import annotations

import os
import time

from mailnode.commands.output import Screen, clock_time, note, safe, table
from mailnode.pairing.invitation import Invitation
from mailnode.pairing.invitations import Invitations


def show_invitations(invitations: Invitations) -> int:
    found, bad = invitations.all()
    now = time.time()
    rows = table("NAME", "INVITATION", "WHEN")
    for invitation in found:
        rows.add_row(safe(invitation.name), invitation.state(now), safe(_when(invitation, now)))
    if rows.row_count:
        Screen().show(rows)
    else:
        Screen().say("Nobody is invited.")
    for file in bad:
        note(f"{file} cannot be understood")
    return os.EX_DATAERR if bad else os.EX_OK


def _when(invitation: Invitation, now: float) -> str:
    if not invitation.ended:
        word = "until" if invitation.state(now) == "open" else "at"
        return f"{word} {clock_time(invitation.expires, now)}"
    by = f" from {invitation.ended_by}" if invitation.ended_by else ""
    return f"at {clock_time(invitation.ended_at, now)}{by}"
