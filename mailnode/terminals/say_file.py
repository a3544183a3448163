"""Reads what people say in their home folders, so that nobody's file can harm the node or hold it up.

A file is read in a thread of its own and waited for a moment only: a home may lie on a disk that does not
answer. What was read is believed for a few seconds.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Final, NamedTuple

from twisted.logger import Logger

from mailnode.terminals.say import Say, SayError, parse_say

NAME: Final = ".mailnode"
SIZE: Final = 16384  # octets of a file
AGE: Final = 5.0  # seconds that what was read is believed
SLOW: Final = 10.0  # seconds until a disk that does not answer is looked at again
PATIENCE: Final = 0.05  # seconds that the reactor waits
READERS: Final = 32  # files under way at once
USERS: Final = 1000  # whose say is remembered

# O_NONBLOCK: a FIFO of that name must not hold us up; O_NOFOLLOW: it must be the person's own file.
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Login(NamedTuple):
    """A login name's place on this host."""

    uid: int
    home: str


def read_say(login: Login, default: Say) -> Say:
    """What the file in the home of `login` says; `default` if there is none.

    SayError if it cannot be obeyed, OSError if it cannot be read.
    """
    try:
        file = os.open(os.path.join(login.home, NAME), _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return default
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise SayError("not a regular file")
        if status.st_uid != login.uid:
            raise SayError("belongs to somebody else")
        if status.st_mode & stat.S_IWOTH:
            raise SayError("anybody may write to it")
        octets = os.read(file, SIZE + 1)
    finally:
        os.close(file)
    if len(octets) > SIZE:
        raise SayError(f"larger than {SIZE} octets")
    return parse_say(octets, default)


@dataclass(slots=True)
class _Reading:
    """One file on its way; `done` is set when `say` or `wrong` is."""

    done: Event = field(default_factory=Event)
    say: Say | None = None
    wrong: str = ""

    def run(self, login: Login, default: Say) -> None:
        try:
            self.say = read_say(login, default)
        except SayError as error:
            self.wrong = str(error)
        except OSError as error:
            self.wrong = error.strerror or "cannot be read"
        finally:
            self.done.set()


@dataclass(slots=True)
class _Known:
    until: float = 0.0
    say: Say | None = None  # None: not known yet
    wrong: str = ""  # what was said of it in the log
    reading: _Reading | None = None


class SayFiles:
    """What users say in `~/.mailnode`, `default` where they say nothing or nothing that can be obeyed.

    `login` finds the place of a login name, None if it is none; `clock` gives seconds that never go back;
    the reactor waits for a file `patience` seconds at most.
    """

    _log = Logger("mailnode.terminals")

    def __init__(
        self,
        default: Say,
        login: Callable[[str], Login | None],
        clock: Callable[[], float],
        patience: float = PATIENCE,
    ) -> None:
        self._default = default
        self._login = login
        self._clock = clock
        self._patience = patience
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._readers = 0

    def of(self, user: str) -> Say | None:
        """What `user` says now; None while that cannot be told: then nothing is welcome."""
        known = self._known.get(user)
        if known is None:
            known = self._known[user] = _Known()
            if len(self._known) > USERS:
                self._drop_oldest()
        if self._clock() < known.until:
            return known.say
        self._known.move_to_end(user)
        if known.reading is None:
            login = self._login(user)
            if login is None or not login.home.startswith("/"):
                return self._settle(user, known, self._default, "")
            if self._readers >= READERS:  # the disk is not answering others either
                return known.say
            known.reading = self._start(login)
        reading = known.reading
        if not reading.done.wait(self._patience):
            known.until = self._clock() + SLOW
            return known.say
        known.reading = None
        self._readers -= 1
        return self._settle(user, known, reading.say or self._default, reading.wrong)

    def _start(self, login: Login) -> _Reading:
        reading = _Reading()
        self._readers += 1
        # A daemon: a read that never ends does not keep the node from ending.
        Thread(target=reading.run, args=(login, self._default), name="say", daemon=True).start()
        return reading

    def _settle(self, user: str, known: _Known, say: Say, wrong: str) -> Say:
        if wrong and wrong != known.wrong:
            self._log.warn("~{user}/{name}: {wrong}; the default holds", user=user, name=NAME, wrong=wrong)
        known.until, known.say, known.wrong = self._clock() + AGE, say, wrong
        return say

    def _drop_oldest(self) -> None:
        for user, known in self._known.items():
            if known.reading is None:
                del self._known[user]
                return
