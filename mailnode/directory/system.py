"""The login names of this host, from its user database, remembered for a while.

A RCPT asks for one name, so one name is what the database is asked for (it may be a server
elsewhere). The whole list is read only where an exact name was not found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pwd import struct_passwd
from typing import Final

from mailnode.directory.users import Roster, is_user_name
from mailnode.interfaces import Account

MAX_AGE: Final = 60.0  # seconds that an answer of the database is believed
MAX_NAMES: Final = 10_000  # names remembered
MAX_LIST: Final = 100_000  # accounts read of the whole list

_NO_LOGIN: Final = ("nologin", "false", "sync", "shutdown", "halt")
_NOBODY: Final = 65534


def is_person(entry: struct_passwd) -> bool:
    """Whether an account is somebody who reads mail, not a service."""
    if entry.pw_uid == 0 or (entry.pw_uid >= 1000 and entry.pw_uid != _NOBODY):
        return True
    return entry.pw_uid != _NOBODY and entry.pw_shell.rpartition("/")[2] not in _NO_LOGIN


def to_account(entry: struct_passwd) -> Account:
    # chfn(1): the first field of GECOS is the full name, in which "&" stands for the login name
    full_name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
    full_name = full_name if full_name.isprintable() else ""
    return Account(entry.pw_name, full_name[:128], entry.pw_dir, entry.pw_uid, entry.pw_gid)


class SystemUsers:
    """`getpwnam` and `getpwall` are those of `pwd`; `clock` gives seconds that never go back."""

    def __init__(
        self,
        getpwnam: Callable[[str], struct_passwd],
        getpwall: Callable[[], Iterable[struct_passwd]],
        clock: Callable[[], float],
    ) -> None:
        self._getpwnam = getpwnam
        self._getpwall = getpwall
        self._clock = clock
        self._names: OrderedDict[str, tuple[float, Account | None]] = OrderedDict()
        self._roster = Roster(())
        self._roster_until = float("-inf")

    def exact(self, name: str) -> Account | None:
        now = self._clock()
        remembered = self._names.get(name)
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        account = self._ask(name)
        self._names[name] = (now + MAX_AGE, account)
        self._names.move_to_end(name)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return account

    def alike(self, name: str) -> Sequence[Account]:
        return self._list().alike(name)

    def called(self, words: str) -> Sequence[Account]:
        return self._list().called(words)

    def _ask(self, name: str) -> Account | None:
        if not is_user_name(name):
            return None
        try:
            entry = self._getpwnam(name)
        except KeyError:
            return None
        # Some databases answer whatever the case: that is no exact name.
        return to_account(entry) if entry.pw_name == name and is_person(entry) else None

    def _list(self) -> Roster:
        now = self._clock()
        if now >= self._roster_until:
            people = (to_account(entry) for entry in islice(self._getpwall(), MAX_LIST) if is_person(entry))
            self._roster = Roster(people)
            self._roster_until = now + MAX_AGE
        return self._roster
