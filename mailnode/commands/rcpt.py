"""What a RCPT would be answered: asked of intake itself, over a spool in memory that stays empty."""

from __future__ import annotations

import time
from typing import Final

from mailnode.intake import Intake
from mailnode.interfaces import IRouting, ITerminals
from mailnode.mail import Client, Mode, Path, Reply, Rights
from mailnode.spool.memory import MemorySpool

NOT_OFFERED: Final = Reply(502, "Command not implemented")
ANYBODY: Final = Path("postmaster", "localhost")


def rcpt_reply(
    hostname: str,
    routing: IRouting,
    terminals: ITerminals,
    path: Path,
    mode: Mode,
    client: Client,
    rights: Rights,
) -> Reply:
    """The reply to RCPT for `client`, which has `rights`; 502 if the verb itself is refused to it."""
    if mode not in rights.modes:
        return NOT_OFFERED
    intake = Intake(hostname, routing, terminals, MemorySpool(time.time), time.time)
    custody = intake.begin(client, rights, mode, ANYBODY, 0)
    if isinstance(custody, Reply):
        return custody
    try:
        return custody.recipient(path)
    finally:
        custody.abort()
