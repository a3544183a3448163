"""The short way: mail for one mailbox of this host lies there before the reply, and was in no spool.

A message that its mailbox has, durably, needs nobody to look after it. So where the disk of the mailboxes
is quick it is written once instead of twice. All that may come in between (several recipients, other hosts,
lists, a notice of success, a large body, a delivery that fails) is the spool's; and a sender waits for a
mailbox no longer than a moment, then the spool takes over the message with the delivery that is under way.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.delivery.dispatch import BROKEN
from mailnode.interfaces import Attempt, IMailbox, IShortWay
from mailnode.mail import Destination, Entry, Local, Result

MOST: Final = 200  # senders who wait
PATIENCE: Final = 0.5  # seconds after which a delivery is late: found out within as much again


class _Sender:
    """Who waits for a delivery."""

    __slots__ = ("later", "told")

    def __init__(self) -> None:
        self.told: Deferred[Attempt] = Deferred()
        self.later: Deferred[Result] | None = None  # it waits no longer


@implementer(IShortWay)
class ShortWay:
    def __init__(self, mailbox: IMailbox, clock: IReactorTime) -> None:
        self._mailbox = mailbox
        self._clock = clock
        self._waiting: set[_Sender] = set()
        self._longest: set[_Sender] = set()  # of those the ones that waited before the last look
        self._late = 0  # deliveries that nobody waits for any longer, and which have not ended
        self._timer: IDelayedCall | None = None
        self._log = Logger("mailnode.delivery")

    def deliver(self, entry: Entry, where: Destination) -> Deferred[Attempt] | None:
        if self._late or not self._mailbox.is_quick or not isinstance(where.place, Local):
            return None
        if len(self._waiting) >= MOST:
            return None
        (recipient,) = entry.envelope.recipients
        if where.path != recipient.path:
            recipient = replace(recipient, path=where.path)
        sender = _Sender()
        self._waiting.add(sender)
        if self._timer is None:
            self._timer = self._clock.callLater(PATIENCE, self._look)
        reverse_path = where.reverse_path(entry.envelope.reverse_path)
        try:
            delivered = self._mailbox.deliver(where.place.user, entry, recipient, reverse_path, hurry=True)
        except Exception:
            delivered = fail()
        delivered.addCallbacks(self._ended, self._unexpected, (sender,), {}, (entry, sender))
        return sender.told

    def _unexpected(self, failure: Failure, entry: Entry, sender: _Sender) -> None:
        self._log.failure("{id} could not be delivered", failure, id=entry.id)
        self._ended(Result.later(BROKEN), sender)

    def _ended(self, result: Result, sender: _Sender) -> None:
        if sender.later is not None:
            self._late -= 1
            sender.later.callback(result)
            return
        self._waiting.discard(sender)
        self._longest.discard(sender)
        sender.told.callback(Attempt(result))

    def _look(self) -> None:
        """Whoever waited at the last look as well has waited long enough."""
        late = self._longest
        self._waiting -= late
        self._longest = set(self._waiting)
        self._timer = self._clock.callLater(PATIENCE, self._look) if self._longest else None
        self._late += len(late)
        for sender in late:
            sender.later = Deferred()
            sender.told.callback(Attempt(None, sender.later))
