"""Letters from entries: what goes to one host goes over as few times as possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mailnode.mail import Destination, Entry, Letter, Mode, Path, Recipient, Results


@dataclass(frozen=True, slots=True)
class Addressed:
    """A letter, and which recipient of the entry each of its recipients stands for."""

    letter: Letter
    recipients: Mapping[Recipient, Recipient]

    def results(self, results: Results) -> Results:
        """The results of the letter's recipients as those of the entry's."""
        return {self.recipients[recipient]: result for recipient, result in results.items()}


def address(entry: Entry, pairs: Iterable[tuple[Recipient, Destination]]) -> list[Addressed]:
    """The letters that bring `entry` to `pairs`, which all lead to one next host.

    Each (mode, reverse-path) is a transaction of its own: our name goes in front of the reverse-path
    only for those whose source route came through us (RFC 821 3.6).
    """
    groups: dict[tuple[Mode, Path], dict[Recipient, Recipient]] = {}
    for recipient, destination in pairs:
        sender = recipient.sender or entry.envelope.reverse_path
        key = (recipient.mode, destination.reverse_path(sender))
        groups.setdefault(key, {})[replace(recipient, path=destination.path)] = recipient
    return [
        Addressed(
            Letter(mode, reverse_path, tuple(recipients), entry.body, entry.envelope.terms, entry.id),
            recipients,
        )
        for (mode, reverse_path), recipients in groups.items()
    ]
