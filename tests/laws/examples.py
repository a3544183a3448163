"""How many examples a law is tried with."""

from __future__ import annotations

import os

ASKED = int(os.environ.get("MAILNODE_LAWS", "0"))  # `make laws`: for the machine of two hosts


def examples(usual: int) -> int:
    """`usual`, or in a campaign a tenth of what the machine of two hosts is tried with."""
    return max(usual, ASKED // 10)
