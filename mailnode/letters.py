"""Letters from entries: what goes to one host goes over as few times as possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from mailnode.mail import Destination, Entry, Envelope, Letter, Mode, Path, Recipient, Results, Terms


@dataclass(frozen=True, slots=True)
class Addressed:
    """A letter, and which recipient of the entry each of its recipients stands for."""

    letter: Letter
    recipients: Mapping[Recipient, Recipient]

    def results(self, results: Results) -> Results:
        """The results of the letter's recipients as those of the entry's."""
        return {self.recipients[recipient]: result for recipient, result in results.items()}


def inherited(
    recipient: Recipient, where: Destination, several: bool, terms: Terms
) -> tuple[tuple[str, ...], str]:
    """What goes on to one of its destinations of the notices asked for `recipient`: notify and orcpt.

    RFC 3461 5.2.7: all of it where it is the only destination; not SUCCESS where there are several, for
    the sender hears that the name was expanded; nothing to the members of a list, whose owner hears.
    """
    if where.sender is not None:
        return (), ""
    notify = recipient.notify
    if several and "SUCCESS" in notify:
        notify = tuple(word for word in notify if word != "SUCCESS") or ("NEVER",)
    orcpt = recipient.orcpt
    # RFC 3461 5.2.1 (d): the address by which the message came to us, if the sender uses the extension.
    if (notify or terms.ret or terms.envid) and not orcpt and where.path.mailbox != recipient.path.mailbox:
        orcpt = typed(recipient.original or recipient.path)
    return notify, orcpt


def typed(path: Path) -> str:
    """An address with its type, not encoded (RFC 3461 4.2, RFC 6533 3)."""
    return f"{'rfc822' if path.mailbox.isascii() else 'utf-8'};{path.mailbox}"


def terms_of(envelope: Envelope, recipient: Recipient, sender: Path | None = None) -> Terms:
    """The terms that hold for one recipient; `sender` as in the Destination it leads to, if any.

    RFC 3461 5.2.7.1 (b): nothing that the sender of a message said of notices is for the owner of a list.
    """
    terms, owner = envelope.terms, sender or recipient.sender
    if owner is None or not (terms.ret or terms.envid) or _same_mailbox(owner, envelope.reverse_path):
        return terms
    return replace(terms, ret="", envid="")


def _same_mailbox(one: Path, other: Path) -> bool:
    """Whether two paths differ in nothing but their routes."""
    return one.local == other.local and one.domain == other.domain


def address(entry: Entry, pairs: Iterable[tuple[Recipient, Destination]]) -> list[Addressed]:
    """The letters that bring `entry` to `pairs`, which all lead to one next host.

    Each (mode, reverse-path, terms) is a transaction of its own: our name goes in front of the
    reverse-path only for those whose source route came through us (RFC 821 3.6).
    """
    envelope = entry.envelope
    groups: dict[tuple[Mode, Path, Terms], dict[Recipient, Recipient]] = {}
    for recipient, destination in pairs:
        reverse_path = destination.reverse_path(recipient.sender or envelope.reverse_path)
        terms = terms_of(envelope, recipient, destination.sender)
        notify, orcpt = inherited(recipient, destination, False, envelope.terms)
        addressed = replace(recipient, path=destination.path, notify=notify, orcpt=orcpt)
        groups.setdefault((recipient.mode, reverse_path, terms), {})[addressed] = recipient
    return [
        Addressed(Letter(mode, reverse_path, tuple(recipients), entry.body, terms, entry.id), recipients)
        for (mode, reverse_path, terms), recipients in groups.items()
    ]
