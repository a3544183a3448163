"""How long held mail waits, and when somebody looks after it (pure).

Rules:
- mail for a peer waits for `keep` of that peer, what a route holds for `expire`, a SEND for moments;
- its sender is told once, when it has waited for `warn` and there is time left;
- it is looked after when one of these is due, and once a day besides, for the rules may have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mailnode.mail import Mode, Recipient

SEND_MAY: Final = 60.0  # seconds that a SEND waits for a line that is open to take it
LEAST: Final = 60.0  # seconds until the next look, however late it is
MOST: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """All in seconds; `warn` 0 means that no sender is told. `keep` is by domain, in lower case."""

    keep: Mapping[str, float]
    expire: float = 5 * 86400.0
    warn: float = 4 * 3600.0

    def patience(self, recipient: Recipient) -> float:
        """How long `recipient` may be held, from the arrival of its message."""
        if recipient.mode is Mode.SEND:
            return SEND_MAY
        return self.keep.get(recipient.path.next_host.lower(), self.expire)

    def is_late(self, recipient: Recipient, arrived: float, now: float) -> bool:
        """Whether the sender should hear by now that `recipient` waits, and may go on waiting."""
        return 0 < self.warn <= now - arrived < self.patience(recipient)

    def look(self, recipient: Recipient, arrived: float, warned: bool, now: float) -> float:
        """When somebody has to look after `recipient` next."""
        when = arrived + self.patience(recipient)
        if not warned and self.warn > 0:
            when = min(when, arrived + self.warn)
        return min(max(when, now + LEAST), now + MOST)
