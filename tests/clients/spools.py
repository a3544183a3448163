"""What lies in the spool of a node that runs, for tests that wait for it."""

from __future__ import annotations

import time
from typing import Any

from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.waiting import wait_until


def spooled(node: Any) -> list[tuple[str, str]]:
    """State and mailbox of every recipient in the spool of `node`, oldest first."""
    spool = SqliteSpool(str(node.data), None, time.time)
    try:
        found: list[Any] = []
        spool.listing(Selection()).addCallback(found.extend)
        return [(it.state, it.path.mailbox) for message in found for it in message.recipients]
    finally:
        spool.close()


def wait_for_spool(node: Any, *expected: tuple[str, str]) -> None:
    """Waits until just this is in the spool of `node`."""
    wait_until(lambda: spooled(node) == list(expected), f"{expected} in the spool, not {spooled(node)}")
