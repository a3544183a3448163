"""Mail in hand: how many octets of messages that are being received may be in memory."""

from __future__ import annotations

from typing import Final

from mailnode.mail import CHUNK

MOST: Final = (
    6 * CHUNK
)  # octets of one message that are in memory: head, piece, and what the disk has to take


class InHand:
    """At most `memory` octets of mail, and what the network has just brought.

    From three quarters on nothing new is begun; at the whole, what grows is thrown away and refused.
    """

    def __init__(self, memory: float = float("inf")) -> None:
        self.memory = memory
        self.octets = 0

    @property
    def is_full(self) -> bool:
        return self.octets * 4 >= self.memory * 3

    def take(self, octets: int) -> bool:
        """Counts octets; False if there is no room for them."""
        if self.octets + octets > self.memory:
            return False
        self.octets += octets
        return True

    def give_back(self, octets: int) -> None:
        self.octets -= octets
