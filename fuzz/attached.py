"""The socket of attached terminals, to which everybody on the host may speak; and what the node says there.

Invariants:
- No octets raise anything, and however they are cut the answers are the same.
- Every answer is one line of printable ASCII, a JSON object; nothing follows an error.
- Who somebody is the system says, never the client; a text is shown to that user's terminals alone, and
  it is of that user's messages that a question is answered.
- A text counts as shown only if the client said so of its number.
- The line is left when it ends, with no timer and no text under way; what is kept is bounded.
- What a node says is read by the client as a terminal, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport

from fuzz.choices import arrivals, pick, split
from mailnode.interfaces import STRANGER, Message
from mailnode.mail import Path
from mailnode.terminals.attached import AttachedTerminals
from mailnode.terminals.attaching import WordsError, encode, of_terminal, to_terminal

MAX_LENGTH = 2048
USERS = {1001: "jones", 1002: "brown"}
MESSAGE = Message(Path("smith", "usc.example"), b"Subject: hi\r\n\r\nlunch?\r\n", standing=STRANGER)


class Wire(StringTransport):
    """A client's end, that of the user with this uid."""

    def __init__(self, uid: int, line: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uid = uid
        self.line = line
        self.closed = False

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        if not self.closed:
            self.closed = True
            self.line.connectionLost()


class Node:
    """A node with one client, and a text for each of two users between its arrivals."""

    def __init__(self, decisions: bytes) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.attached = AttachedTerminals(
            "mit.example",
            USERS.get,
            lambda line, device: device == (25, 3),
            self.clock,
            self.clock.seconds,
            uid_of=lambda transport: int(transport.uid),
            became=self._became,
        )
        self.uid = pick(decisions[0], (1001, 1002, 77))
        line: Any = self.attached.factory.buildProtocol(None)
        self.wire = Wire(self.uid, line)
        line.makeConnection(self.wire)
        self.reached: list[int] = []
        self.strangers: list[int] = []

    def _became(self, user: str, id: str, seconds: float) -> Deferred[Mapping[str, Any]]:
        assert user == USERS[self.uid] and 0 <= seconds <= 10
        return deferLater(
            self.clock, seconds, lambda: {"whole": True, "recipients": [{"to": id, "by": user}]}
        )

    def arrive(self, octets: bytes) -> None:
        if not self.wire.closed and not self.wire.disconnecting:
            self.wire.line.dataReceived(octets)

    def shows(self) -> None:
        mine = USERS.get(self.uid, "")
        for user in USERS.values():
            into = self.reached if user == mine else self.strangers
            self.attached.show(user, MESSAGE).addCallback(into.append)

    def finish(self) -> list[dict[str, Any]]:
        for terminal in self.attached.logged_in():
            assert terminal.user == USERS[self.uid]
            assert to_terminal(json.loads(encode(of_terminal(terminal)))).user == terminal.user
        self.clock.advance(2)
        octets: bytes = self.wire.value()  # type: ignore[no-untyped-call]
        assert octets.isascii() and (not octets or octets.endswith(b"\n"))
        answers = [json.loads(row) for row in octets.splitlines()]
        assert all(isinstance(answer, dict) for answer in answers)
        errors = [number for number, answer in enumerate(answers) if "error" in answer]
        assert errors in ([], [len(answers) - 1])
        assert not any(self.strangers)
        self.wire.abortConnection()
        assert self.attached.logged_in() == []
        self.clock.advance(3600)
        assert self.clock.getDelayedCalls() == []
        return answers


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    whole, cut = Node(decisions), Node(decisions)
    whole.arrive(octets)
    for piece in arrivals(octets, decisions[8:]):
        cut.arrive(piece)
    assert whole.finish() == cut.finish()
    shown = Node(decisions)
    head, newline, rest = octets.partition(b"\n")
    shown.arrive(head + newline)
    shown.shows()
    shown.arrive(rest)
    shown.finish()
    assert all(count in (0, 1) for count in shown.reached)
    if any(shown.reached):
        assert b"shown" in rest
    for row in octets.split(b"\n"):
        with suppress(WordsError, ValueError, RecursionError):  # what is no line of ours
            terminal = to_terminal(json.loads(row))
            assert terminal.user.isprintable() and terminal.line.isprintable()
