"""Users by name, by name whatever the case, and by the words of their full names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from mailnode.interfaces import Account

WORDS: Final = 8  # of a full name, or of what is asked for

_valid_name = re.compile(r"(?!\.)[A-Za-z0-9._+-]{1,64}\Z").match
_words = re.compile(r"[^\W_]+").findall


def is_user_name(name: str) -> bool:
    """Whether `name` may be a user: no part of such a name can mean anything in a path."""
    return _valid_name(name) is not None


class UserSource(Protocol):
    """A place where users are known."""

    def exact(self, name: str) -> Account | None:
        """The user of just this name."""

    def alike(self, name: str) -> Sequence[Account]:
        """The users of this name, upper and lower case being the same."""

    def called(self, words: str) -> Sequence[Account]:
        """The users in whose full names all of `words` are."""


class Roster:
    """A fixed set of accounts. Accounts whose names are no user names are left out."""

    def __init__(self, accounts: Iterable[Account]) -> None:
        self._exact: dict[str, Account] = {}
        self._alike: dict[str, list[Account]] = {}
        self._by_word: dict[str, list[Account]] = {}
        for account in accounts:
            if is_user_name(account.name) and account.name not in self._exact:
                self._add(account)

    def _add(self, account: Account) -> None:
        self._exact[account.name] = account
        self._alike.setdefault(account.name.lower(), []).append(account)
        for word in set(_words(account.full_name.lower())[:WORDS]):
            self._by_word.setdefault(word, []).append(account)

    def exact(self, name: str) -> Account | None:
        return self._exact.get(name)

    def alike(self, name: str) -> Sequence[Account]:
        return self._alike.get(name.lower(), ())

    def called(self, words: str) -> Sequence[Account]:
        first, *others = _words(words.lower())[: WORDS + 1] or [""]
        if len(others) >= WORDS:
            return ()
        found: Sequence[Account] = self._by_word.get(first, ())
        for word in others:
            found = [account for account in found if account in self._by_word.get(word, ())]
        return found


class NamedUsers(Roster):
    """Users that the configuration names, as (name, full name); they have no login on this host."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        super().__init__(Account(name, full_name) for name, full_name in names)
