"""Mail in hand: an intake that bounds how many octets of messages that are being received are in memory."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailnode.interfaces import ICustody, IIntake
from mailnode.mail import (
    CHUNK,
    PLAIN_TERMS,
    Body,
    Client,
    Envelope,
    Mode,
    Path,
    Reply,
    Rights,
    Terms,
)

MOST: Final = (
    6 * CHUNK
)  # octets of one message that are in memory: head, piece, and what the disk has to take

NO_MEMORY: Final = Reply(452, "Requested action not taken: too much mail at the moment", "4.3.1")
NOT_NOW: Final = Reply(451, "Requested action aborted: too much mail at the moment", "4.3.1")  # of DATA


@implementer(IIntake)
class BoundedIntake:
    """An intake that keeps at most `memory` octets of mail in hand, and what the network has just brought.

    From three quarters on nothing new is begun; at the whole, what grows is thrown away and refused.
    """

    def __init__(self, intake: IIntake, memory: int) -> None:
        self._intake = intake
        self._memory = memory
        self.in_hand = 0

    @property
    def is_full(self) -> bool:
        return self.in_hand * 4 >= self._memory * 3

    def begin(
        self,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
    ) -> ICustody | Reply:
        if self.is_full:
            return NO_MEMORY
        custody = self._intake.begin(client, rights, mode, reverse_path, size, terms)
        return custody if isinstance(custody, Reply) else _BoundedCustody(self, custody)

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        """Our own notices are few and small, and have to go in."""
        return self._intake.submit(envelope, body)

    def take(self, octets: int) -> bool:
        """Counts octets; False if there is no room for them."""
        if self.in_hand + octets > self._memory:
            return False
        self.in_hand += octets
        return True

    def give_back(self, octets: int) -> None:
        self.in_hand -= octets


@implementer(ICustody)
class _BoundedCustody:
    """A custody whose octets are counted."""

    def __init__(self, bounds: BoundedIntake, custody: ICustody) -> None:
        self._bounds = bounds
        self._custody = custody
        self._counted = 0
        self._dropped = False

    def recipient(self, path: Path, notify: tuple[str, ...] = (), orcpt: str = "") -> Reply:
        return self._custody.recipient(path, notify, orcpt)

    def open(self) -> Reply:
        return NOT_NOW if self._bounds.is_full else self._custody.open()

    def write(self, piece: bytes) -> Deferred[None] | None:
        if self._dropped:
            return None  # the client is heard out
        more = min(len(piece), MOST - self._counted)
        if more > 0:
            if not self._bounds.take(more):
                self._dropped = True
                self.abort()
                return None
            self._counted += more
        return self._custody.write(piece)

    def commit(self) -> Deferred[Reply]:
        if self._dropped:
            return succeed(NO_MEMORY)
        return self._custody.commit().addBoth(self._ended)

    def abort(self) -> None:
        self._custody.abort()
        self._give_back()

    def _ended(self, reply: Reply) -> Reply:
        self._give_back()
        return reply

    def _give_back(self) -> None:
        self._bounds.give_back(self._counted)
        self._counted = 0
