"""The terminals of people, of every kind, and what people say about messages to them.

Everything is looked at whatever the first look says, so that a refusal takes as long as the news that
nobody is there.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, gatherResults, succeed
from zope.interface import implementer

from mailnode.interfaces import ITerminals, Message, Standing, Terminal
from mailnode.mail import Path
from mailnode.terminals.attached import AttachedTerminals
from mailnode.terminals.hosts import HostTerminals
from mailnode.terminals.rates import Rates
from mailnode.terminals.say import Say


@implementer(ITerminals)
class Terminals:
    """`say` gives what a user says, None while that cannot be told. Without `attached` there are only
    terminals of the host."""

    def __init__(
        self,
        hosts: HostTerminals,
        attached: AttachedTerminals | None,
        say: Callable[[str], Say | None],
        rates: Rates,
    ) -> None:
        self._hosts = hosts
        self._attached = attached
        self._say = say
        self._rates = rates

    def logged_in(self, user: str | None = None) -> list[Terminal]:
        """A terminal that is attached as well is the attached one: its client knows what the person says."""
        if self._attached is None:
            return self._hosts.logged_in(user)
        held: dict[str, frozenset[str]] = {}
        found = []
        for terminal in self._hosts.logged_in(user):
            name = terminal.user
            if name not in held:
                held[name] = self._attached.held(name)
            if terminal.line not in held[name]:
                found.append(terminal)
        return found + self._attached.logged_in(user)

    def accepts(self, user: str, sender: Path, standing: Standing) -> bool:
        say = self._say(user)
        wanted = (
            say is not None
            and say.welcome.holds(sender, standing)
            and self._rates.has_room(user, _name(sender), say.rate, say.rate_all)
        )
        there = self._hosts.accepts(user, self._held(user))
        if self._attached is not None:
            there = self._attached.accepts(user) or there
        return wanted and there

    def show(self, user: str, message: Message) -> Deferred[int]:
        say, sender = self._say(user), _name(message.sender)
        if say is None or not say.welcome.holds(message.sender, message.standing):
            return succeed(0)
        if not self._rates.take(user, sender, say.rate, say.rate_all):
            return succeed(0)
        shows = [self._hosts.show(user, message, self._held(user))]
        if self._attached is not None:
            shows.append(self._attached.show(user, message))

        def counted(counts: list[int]) -> int:
            reached = sum(counts)
            if not reached:
                self._rates.give_back(user, sender)
            return reached

        return gatherResults(shows, consumeErrors=True).addCallback(counted)

    def _held(self, user: str) -> frozenset[str]:
        return frozenset() if self._attached is None else self._attached.held(user)


def _name(sender: Path) -> str:
    """The sender as the rates know it; a flood of long names fills no memory."""
    return sender.mailbox.lower()[:320]
