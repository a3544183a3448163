"""Who is here: what a local part or a person's words stand for on this node."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from zope.interface import implementer

from mailnode.directory.users import UserSource
from mailnode.interfaces import Account, Addresses, Ambiguous, Finding, Forward, IDirectory, Moved, Unknown
from mailnode.mail import Path
from mailnode.smtp.grammar import LOCAL_LIMIT, parse_named_mailbox

TEXT_LIMIT: Final = 256  # octets that VRFY and EXPN are asked about
POSTMASTER: Final = "postmaster"

Members = Sequence[tuple[str, Path]]  # (phrase, path)
_UNKNOWN: Final = Unknown()


@implementer(IDirectory)
class Directory:
    """Names found in this order: aliases, lists, forwards, moved users, then users.

    Overlays are found whatever the case. A user is found by the exact name, or else by the only
    name that differs in case. `domains` are those that count as "here" in what people write; a path
    without a domain, in any of the mappings, is a name of this node.
    """

    def __init__(
        self,
        users: Sequence[UserSource],
        *,
        aliases: Mapping[str, Members] | None = None,
        lists: Mapping[str, Members] | None = None,
        forward: Mapping[str, Path] | None = None,
        moved: Mapping[str, Path] | None = None,
        postmaster: Path | None = None,
        domains: Collection[str] = (),
    ) -> None:
        self._users = users
        self._domains = frozenset(domain.lower() for domain in domains)
        self._postmaster = postmaster
        self._overlays: dict[str, Finding] = {}
        for name, path in (moved or {}).items():
            self._overlays[name.lower()] = Moved(path)
        for name, path in (forward or {}).items():
            self._overlays[name.lower()] = Forward(path)
        for is_list, names in ((True, lists or {}), (False, aliases or {})):
            for name, members in names.items():
                self._overlays[name.lower()] = Addresses(name, tuple(members), is_list)

    def lookup(self, local: str) -> Finding:
        if len(local) > LOCAL_LIMIT:
            return _UNKNOWN
        folded = local.lower()
        overlay = self._overlays.get(folded)
        if overlay is not None:
            return overlay
        if (
            folded == POSTMASTER
            and self._postmaster is not None
            and not self._is_postmaster(self._postmaster)
        ):
            return Addresses(POSTMASTER, (("", self._postmaster),))
        found = self._user(local)
        # RFC 5321 4.5.1: there is always a postmaster, if need be with a mailbox of that name.
        return Account(POSTMASTER) if found is _UNKNOWN and folded == POSTMASTER else found

    def find(self, text: str) -> Finding:
        if len(text) > TEXT_LIMIT:
            return _UNKNOWN
        named = parse_named_mailbox(text, bare=True)
        if named is not None:
            path = named[1]
            if path.route or (path.domain and path.domain.lower() not in self._domains):
                return _UNKNOWN
            found = self.lookup(path.local)
            if found is not _UNKNOWN or path.domain:
                return found
        return _one(_unique(account for users in self._users for account in users.called(text)))

    def account(self, user: str) -> Account | None:
        for users in self._users:
            if (account := users.exact(user)) is not None:
                return account
        return Account(POSTMASTER) if user == POSTMASTER else None

    def is_user(self, name: str) -> bool:
        """Whether somebody here is called so, in upper or lower case."""
        return any(users.exact(name) is not None or users.alike(name) for users in self._users)

    def _user(self, local: str) -> Finding:
        for users in self._users:
            if (account := users.exact(local)) is not None:
                return account
        return _one(_unique(account for users in self._users for account in users.alike(local)))

    def _is_postmaster(self, path: Path) -> bool:
        here = not path.route and (not path.domain or path.domain.lower() in self._domains)
        return here and path.local.lower() == POSTMASTER


def _unique(accounts: Iterator[Account]) -> list[Account]:
    """The accounts, each name once: a named user may be a login name as well."""
    return list({account.name: account for account in reversed(list(accounts))}.values())


def _one(accounts: Sequence[Account]) -> Finding:
    if not accounts:
        return _UNKNOWN
    return accounts[0] if len(accounts) == 1 else Ambiguous(tuple(accounts))
