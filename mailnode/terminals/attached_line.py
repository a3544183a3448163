"""One connection of an attached terminal, as the node has it.

Whoever has a login on this host may connect, so nothing is taken on trust: who it is the system says
(SO_PEERCRED), what it says is short and not too much of it, and it is dropped when it does not read.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mailnode.interfaces import Terminal
from mailnode.terminals.attaching import (
    MAX_LINE,
    VERSION,
    Accepting,
    Attach,
    Became,
    Columns,
    Outcome,
    Read,
    Who,
    WordsError,
    encode,
    first,
    later,
    of_terminal,
)

GREETING: Final = 10.0  # seconds until the first line must be there
ANSWER: Final = 1.0  # seconds until a text must be on the screen
FAREWELL: Final = 2.0  # seconds that a last line may take to be read
UNANSWERED: Final = 8  # texts under way to one terminal
WORDS: Final = 120  # lines that a client may say in a minute besides its answers
LISTED: Final = 1000  # terminals that one answer names
MINUTE: Final = 60.0  # seconds
NO_USER: Final = "you are no user of this node"

Uid: TypeAlias = Callable[[Any], int]  # of whoever is at the other end of a transport; OSError

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


def peer_uid(transport: Any) -> int:
    """The uid of the process that connected, as the system knows it (SO_PEERCRED, unix(7))."""
    octets = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(octets)[1])


class Book(Protocol):
    """Where the lines are counted and found."""

    hostname: str
    clock: IReactorTime
    now: Callable[[], float]
    uid_of: Uid

    def opened(self, line: AttachedLine, uid: int) -> str: ...
    def attached(self, line: AttachedLine, said: Attach) -> str | None: ...
    def is_ours(self, said: Attach) -> bool: ...
    def closed(self, line: AttachedLine) -> None: ...
    def logged_in(self, user: str | None = None) -> list[Terminal]: ...
    def became(self, line: AttachedLine, wants: Became) -> Deferred[Mapping[str, Any]] | str: ...


class AttachedLine(LineOnlyReceiver):
    """`said` is what the client says of its terminal; `user` is empty until it has attached one."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, book: Book) -> None:
        self.user = ""
        self.said = Attach()
        self.held = ""  # the line of this host that the terminal is, empty if it is none
        self._book = book
        self._accepting = False
        self._since = 0.0
        self._read = 0.0
        self._number = 0
        # Texts under way, with the timer of each.
        self._waiting: dict[int, tuple[Deferred[bool], IDelayedCall]] = {}
        self._over = False
        self._asked = False
        self._timer: IDelayedCall | None = None
        self._words = 0
        self._words_until = 0.0

    # ------------------------------------------------------------- for the book

    @property
    def ready(self) -> bool:
        """Whether a text can be given to it now."""
        return self._accepting and not self._over and len(self._waiting) < UNANSWERED

    def terminal(self, now: float) -> Terminal:
        return Terminal(
            self.user,
            self.said.line or "?",
            "attached",
            self._accepting,
            self._since,
            max(0.0, now - max(self._read, self._since)),
        )

    def show(self, octets: bytes) -> Deferred[bool]:
        """Gives a text to the client; fires with whether it is on the screen, in a second at most."""
        if not self.ready:
            return succeed(False)
        self._number += 1
        shown: Deferred[bool] = Deferred()
        timer = self._book.clock.callLater(ANSWER, self.drop)
        self._waiting[self._number] = (shown, timer)
        self._send({"show": self._number, "text": octets.decode("utf-8"), "at": self._book.now()})
        return shown

    def drop(self) -> None:
        """Ends the connection at once, whatever is still unread."""
        self._end()
        transport: Any = self.transport
        transport.abortConnection()

    # ------------------------------------------------------------- the connection

    def connectionMade(self) -> None:
        try:
            uid = self._book.uid_of(self.transport)
        except OSError:
            self.drop()
            return
        self._expect(GREETING)
        if wrong := self._book.opened(self, uid):
            self._refuse(wrong, again=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end()
        self._expect(None)
        self._book.closed(self)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(f"a line of more than {MAX_LINE} octets")

    def lineReceived(self, line: bytes) -> None:
        if self._over:
            return
        try:
            if self._asked:
                self._refuse("one question at a time")
            elif self.user:
                self._hear(line)
            else:
                self._begin(first(line))
        except WordsError as error:
            self._refuse(str(error))

    def _begin(self, wants: Attach | Who | Became) -> None:
        if isinstance(wants, Who):
            self._tell_who(wants)
            return
        if isinstance(wants, Became):
            self._tell_became(wants)
            return
        user = self._book.attached(self, wants)
        if user is None:
            self._refuse(NO_USER)
            return
        self.user, self.said, self._accepting = user, wants, wants.accepting
        self.held = wants.line if self._book.is_ours(wants) else ""
        self._since = self._read = self._book.now()
        self._expect(None)
        self._send({"attached": user, "hostname": self._book.hostname, "version": VERSION})

    def _tell_who(self, wants: Who) -> None:
        terminals = self._book.logged_in(wants.user)
        for terminal in terminals[:LISTED]:
            self._send(of_terminal(terminal))
        self._last({"end": len(terminals)})

    def _tell_became(self, wants: Became) -> None:
        became = self._book.became(self, wants)
        if isinstance(became, str):
            self._refuse(became)
            return
        self._asked = True
        self._expect(None)  # the answer has its own time
        became.addCallbacks(self._answer, lambda _: self._refuse("the node could not find out", again=True))

    def _answer(self, became: Mapping[str, Any]) -> None:
        if not self._over:
            recipients = became["recipients"]
            for recipient in recipients:
                self._send(recipient)
            self._last({"end": len(recipients), "whole": became["whole"]})

    def _hear(self, line: bytes) -> None:
        said = later(line)
        if isinstance(said, Outcome):
            waiting = self._waiting.pop(said.number, None)
            if waiting is not None:
                shown, timer = waiting
                timer.cancel()
                shown.callback(said.shown)
                return
        self._count_words()
        match said:
            case Columns(columns):
                self.said = replace(self.said, columns=columns)
            case Accepting(accepting):
                self._accepting = accepting
            case Read(at):
                self._read = min(max(at, self._since), self._book.now())

    def _count_words(self) -> None:
        """A client that never stops talking is not one of ours."""
        now = self._book.clock.seconds()
        if now >= self._words_until:
            self._words, self._words_until = 0, now + MINUTE
        self._words += 1
        if self._words > WORDS:
            raise WordsError("too many words in a minute")

    # ------------------------------------------------------------- the end

    def _refuse(self, why: str, again: bool = False) -> None:
        self._last({"error": why, "again": again})

    def _last(self, words: dict[str, Any]) -> None:
        """Says the last word; who does not read it is dropped."""
        if self._over:
            return
        self._send(words)
        self._end()
        self._expect(FAREWELL)
        transport: Any = self.transport
        transport.pauseProducing()  # what it says now fills no buffer
        transport.loseConnection()

    def _end(self) -> None:
        """Nothing is given to it any more, and nothing that was given will be on its screen."""
        self._over = True
        self._accepting = False
        waiting, self._waiting = self._waiting, {}
        for shown, timer in waiting.values():
            if timer.active():
                timer.cancel()
            shown.callback(False)

    def _expect(self, seconds: float | None) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None if seconds is None else self._book.clock.callLater(seconds, self.drop)

    def _send(self, words: dict[str, Any]) -> None:
        self.transport.write(encode(words))  # type: ignore[union-attr]
