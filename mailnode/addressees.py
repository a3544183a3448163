"""The recipients of a transaction: what routing said of each, and who takes its place behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailnode.letters import inherited
from mailnode.mail import Destination, Local, Mode, Outcome, Path, Recipient, Reply, Result, Ruling, Terms

SHOWN = Reply(250, "Shown on a terminal", "2.0.0")
EXPANDED = Reply(250, "Went to the addresses behind the name", "2.1.5")


class Addressees:
    """Grows with every RCPT that is taken; one that is said twice counts as it was said last."""

    __slots__ = ("_mode", "_rulings", "_terms", "_wishes")

    def __init__(self, mode: Mode, terms: Terms) -> None:
        self._mode = mode
        self._terms = terms
        self._rulings: dict[Path, Ruling] = {}
        self._wishes: dict[Path, tuple[tuple[str, ...], str]] = {}  # notify, orcpt of those who said any

    def add(self, path: Path, ruling: Ruling, notify: tuple[str, ...], orcpt: str) -> None:
        self._rulings[path] = ruling
        if notify or orcpt:
            self._wishes[path] = (notify, orcpt)
        elif self._wishes:
            self._wishes.pop(path, None)

    @property
    def only(self) -> Path | None:
        """The one recipient, None if there are others."""
        return next(iter(self._rulings)) if len(self._rulings) == 1 else None

    @property
    def only_place(self) -> Destination | None:
        """The one place to which all of them lead, None if there are others."""
        if len(self._rulings) != 1:
            return None
        (ruling,) = self._rulings.values()
        return ruling.destinations[0] if len(ruling.destinations) == 1 else None

    def destinations(self) -> Iterator[Destination]:
        """Where the message goes, from all recipients."""
        return (where for ruling in self._rulings.values() for where in ruling.destinations)

    def are_ascii(self) -> bool:
        """Whether any host can take the addresses, those behind the names included."""
        behind = (where.path for where in self.destinations())
        return all(str(path).isascii() for path in (*self._rulings, *behind))

    # ------------------------------------------------------------- who gets what

    def said(self) -> list[Recipient]:
        """The recipients as they were said, by the verb that opened the transaction."""
        return [self._said(path, number) for number, path in enumerate(self._rulings, 1)]

    def local(self) -> list[tuple[Path, Destination]]:
        return [
            (path, where)
            for path, ruling in self._rulings.items()
            for where in ruling.destinations
            if isinstance(where.place, Local)
        ]

    def elsewhere(self) -> list[Recipient]:
        """Recipients on other hosts, to be relayed by the same verb."""
        recipients = []
        for path, ruling in self._rulings.items():
            if len(ruling.destinations) == 1 and not isinstance(ruling.destinations[0].place, Local):
                recipients.append(self._said(path))  # routed again from what was said
                continue
            recipients += [
                self.heir(path, where, self._mode)
                for where in ruling.destinations
                if not isinstance(where.place, Local)
            ]
        return recipients

    def mailed(self, local: Iterable[tuple[Path, Destination]]) -> list[Recipient]:
        """Those elsewhere, and by MAIL those of `local`."""
        return [*self.elsewhere(), *(self.heir(path, where, Mode.MAIL) for path, where in local)]

    def heir(self, path: Path, where: Destination, mode: Mode) -> Recipient:
        """What takes the place of a recipient at one of its destinations."""
        several = len(self._rulings[path].destinations) > 1
        notify, orcpt = inherited(self._said(path), where, several, self._terms)
        # Where a name stands for itself and others, this tells the one from the name (dispatch).
        original = path if several or where.path != path else None
        return Recipient(where.path, mode, 0, 0, original, where.sender, notify, orcpt)

    def _said(self, path: Path, number: int = 0) -> Recipient:
        if not self._wishes or path not in self._wishes:
            return Recipient(path, self._mode, number)
        notify, orcpt = self._wishes[path]
        return Recipient(path, self._mode, number, notify=notify, orcpt=orcpt)

    # ------------------------------------------------------------- notices

    def settled(self, reached: set[Destination]) -> dict[Recipient, Result]:
        """Those with SUCCESS that the spool never sees as they were said, for notices (RFC 3461 5.2.7).

        `reached` are the destinations whose terminals have shown the message. Not for MAIL.
        """
        settled: dict[Recipient, Result] = {}
        for path, (notify, _) in self._wishes.items():
            if "SUCCESS" not in notify:
                continue
            destinations = self._rulings[path].destinations
            first, recipient = destinations[0], self._said(path)
            if len(destinations) > 1 or (first.sender is not None and isinstance(first.place, Local)):
                after = Result.delivered(EXPANDED)
                heirs = tuple((self.heir(path, where, self._mode), after) for where in destinations)
                settled[recipient] = Result(Outcome.DELIVERED, EXPANDED, forward=heirs)
            elif first in reached:
                settled[recipient] = Result.delivered(SHOWN)
        return settled
