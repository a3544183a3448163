"""The short way: mail for one mailbox of this host lies there before the reply, and was in no spool.

A message that its mailbox has, durably, needs nobody to look after it. So where the disk of the mailboxes
is quick it is written once instead of twice. All that may come in between (several recipients, other hosts,
aliases, a notice of success, a large body, a delivery that fails) is the spool's; and a sender waits for a
mailbox no longer than a moment, then the spool takes over the message with the delivery that is under way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from mailnode.delivery.dispatch import is_another
from mailnode.delivery.settling import report
from mailnode.interfaces import Attempt, IMailbox, IRouting, IShortWay
from mailnode.journal import Journal
from mailnode.mail import OURS, Destination, Entry, Local, Mode, Outcome, Result

PATIENCE: Final = 0.5  # seconds after which a delivery is late: found out within as much again


@dataclass(slots=True, eq=False)
class _Sender:
    """Who waits for a delivery."""

    entry: Entry
    told: Deferred[Attempt] = field(default_factory=Deferred)
    later: Deferred[Result] | None = None  # it waits no longer


@implementer(IShortWay)
class ShortWay:
    def __init__(self, routing: IRouting, mailbox: IMailbox, clock: IReactorTime) -> None:
        self._routing = routing
        self._mailbox = mailbox
        self._clock = clock
        self._waiting: set[_Sender] = set()
        self._longest: set[_Sender] = set()  # of those the ones that waited before the last look
        self._late = 0  # deliveries that nobody waits for any longer, and which have not ended
        self._timer: IDelayedCall | None = None
        self._log = Journal("mailnode.delivery")

    def deliver(self, entry: Entry) -> Deferred[Attempt] | None:
        if self._late or not self._mailbox.is_quick:
            return None
        where = self._one_place(entry)
        if where is None or not isinstance(where.place, Local):
            return None
        recipient = entry.envelope.recipients[0]
        if where.path != recipient.path:
            recipient = replace(recipient, path=where.path)
        sender = _Sender(entry)
        self._waiting.add(sender)
        if self._timer is None:
            self._timer = self._clock.callLater(PATIENCE, self._look)
        reverse_path = where.reverse_path(entry.envelope.reverse_path)
        delivered = self._mailbox.deliver(where.place.user, entry, recipient, reverse_path, hurry=True)
        delivered.addCallback(self._ended, sender)
        return sender.told

    def _one_place(self, entry: Entry) -> Destination | None:
        """Where a message goes if that is one place, and nobody is to hear of it."""
        if len(entry.envelope.recipients) != 1 or entry.envelope.mode is not Mode.MAIL:
            return None
        (recipient,) = entry.envelope.recipients
        # Its number is part of the name of the file, so it has to be the one that the spool would give it.
        if recipient.mode is not Mode.MAIL or recipient.number != 1 or "SUCCESS" in recipient.notify:
            return None
        ruling = self._routing.route(recipient.path, Mode.MAIL, OURS)
        if not ruling.reply.ok or len(ruling.destinations) != 1:
            return None
        where = ruling.destinations[0]
        return None if is_another(recipient, where) else where

    def _ended(self, result: Result, sender: _Sender) -> None:
        if sender.later is not None:
            self._late -= 1
            sender.later.callback(result)
            return
        self._waiting.discard(sender)
        self._longest.discard(sender)
        if result.outcome is Outcome.DELIVERED:
            report(self._log, sender.entry, sender.entry.envelope.recipients[0], result)
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
