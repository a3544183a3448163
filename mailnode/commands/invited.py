"""The invitations of this node, for commands."""

from __future__ import annotations

import time

from mailnode.config import Configuration
from mailnode.pairing.invitations import Invitations
from mailnode.parts import invitations_folder


def invitations_of(configuration: Configuration) -> Invitations:
    return Invitations(invitations_folder(configuration), time.time)


def invited(configuration: Configuration) -> set[str]:
    """The peers whose invitation is open. OSError."""
    now = time.time()
    return {one.name for one in invitations_of(configuration).all()[0] if one.state(now) == "open"}
