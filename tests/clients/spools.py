"""What lies in the spool of a node that runs, for tests that wait for it."""

from __future__ import annotations

import time
from typing import Any

from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool


def spooled(node: Any) -> list[tuple[str, str]]:
    """State and mailbox of every recipient in the spool of `node`, oldest first."""
    spool = SqliteSpool(str(node.data), None, time.time)
    try:
        found: list[Any] = []
        spool.listing(Selection()).addCallback(found.extend)
        return [(it.state, it.path.mailbox) for message in found for it in message.recipients]
    finally:
        spool.close()
