"""Gives one letter to a node over a blocking socket: the sans-I/O Sender with a person waiting for it."""

from __future__ import annotations

import re
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from mailnode.mail import Letter, Mode, Recipient, Reply, Result
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.framing import Stuffer
from mailnode.smtp.replies import ProtocolError, ReplyReader
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender

CONNECT: Final = 30.0  # seconds
READ: Final = 65536  # octets

TIMED_OUT: Final = Reply(451, "The host did not answer in time", "4.4.2")
CONNECTION_LOST: Final = Reply(451, "The connection was lost", "4.4.2")
NOT_ANSWERED: Final = Reply(451, "The host did not say what became of it", "4.4.2")

_where = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,255}))(?::([0-9]{1,5}))?\Z").match

Trace = Callable[[str, bytes], None]  # speaker "C" or "S", octets


class Wire(Protocol):
    """What a submission needs of a socket."""

    def settimeout(self, value: float, /) -> None: ...
    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...


class Where(NamedTuple):
    """A place to connect to: a host and a port, or the path of a UNIX socket."""

    host: str
    port: int = 0

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        """A connected socket. OSError."""
        if self.port:
            return socket.create_connection((self.host, self.port), timeout=CONNECT)
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.settimeout(CONNECT)
            channel.connect(self.host)
        except OSError:
            channel.close()
            raise
        return channel


def parse_where(text: str, port: int = 25) -> Where | None:
    """`HOST:PORT`, `[IPv6]:PORT`, or a host alone; an absolute path is a UNIX socket. None if it is none."""
    if text.startswith("/"):
        return Where(text)
    match = _where(text)
    if match is None or not 0 < (number := int(match[3] or port)) < 65536:
        return None
    return Where(match[1] or match[2], number)


@dataclass(slots=True)
class Submitted:
    """What became of a letter: a result for each recipient, and what was said on the way to it."""

    results: dict[Recipient, Result] = field(default_factory=dict)
    replies: dict[Recipient, Reply] = field(default_factory=dict)  # to RCPT
    verb: Mode | None = None  # by which it was given at last; None if it did not come to that
    ended: Ended = field(default_factory=lambda: Ended(Ending.BROKEN, CONNECTION_LOST))


class Submission:
    """One conversation on `wire` that gives one letter away. `trace` hears every octet of it."""

    def __init__(self, wire: Wire, plan: Plan, letter: Letter, trace: Trace | None = None) -> None:
        self._wire = wire
        self._letter = letter
        self._trace = trace
        self._sender = Sender(plan)
        self._given = False
        self._submitted = Submitted()
        # The Sender tells results; what RCPT was answered is read along, for the person who waits.
        self._reader: ReplyReader | None = ReplyReader()
        self._awaited: deque[Recipient | None] = deque([None])  # the greeting
        self._commands = {f"RCPT TO:{recipient.path}": recipient for recipient in letter.recipients}

    def run(self) -> Submitted:
        """Speaks until the end; a result is there for every recipient, whatever happened."""
        while True:
            event = self._sender.next()
            if event is None:
                self._receive()
            elif isinstance(event, events.Write):
                self._note_commands(event.octets)
                self._send(event.octets)
            elif isinstance(event, events.LetterWanted):
                self._sender.give(None if self._given else self._letter)
                self._given = True
            elif isinstance(event, events.WriteBody):
                self._send_body(event.letter, event.chunk)
            elif isinstance(event, events.Settled):
                self._submitted.results.update(event.results)
            elif isinstance(event, Ended):
                return self._end(event)

    def _end(self, ended: Ended) -> Submitted:
        self._submitted.ended = ended
        reply = NOT_ANSWERED if ended.reply.ok else ended.reply
        missing = Result.later(reply) if ended.ending is Ending.BROKEN else Result.of(reply)
        for recipient in self._letter.recipients:
            self._submitted.results.setdefault(recipient, missing)
        return self._submitted

    # ------------------------------------------------------------- the wire

    def _receive(self) -> None:
        self._wire.settimeout(self._sender.patience)
        try:
            octets = self._wire.recv(READ)
        except TimeoutError:
            self._sender.fail(TIMED_OUT)
            return
        except OSError:
            octets = b""
        if not octets:
            self._sender.fail(CONNECTION_LOST)
            return
        if self._trace is not None:
            self._trace("S", octets)
        self._note_replies(octets)
        self._sender.feed(octets)

    def _send(self, octets: bytes) -> bool:
        self._wire.settimeout(self._sender.patience)
        try:
            self._wire.sendall(octets)
        except OSError:
            self._sender.fail(CONNECTION_LOST)
            return False
        if self._trace is not None:
            self._trace("C", octets)
        return True

    def _send_body(self, letter: Letter, chunk: bool) -> None:
        stuffer = Stuffer()
        if not chunk:  # the reply to its end; that to BDAT is awaited already
            self._awaited.append(None)
        for piece in letter.body.chunks():
            if not self._send(piece if chunk else stuffer.stuff(piece)):
                return
        if chunk or self._send(stuffer.end()):
            self._sender.body_written()

    # ------------------------------------------------------------- read along

    def _note_commands(self, octets: bytes) -> None:
        for line in octets.decode().split("\r\n")[:-1]:
            self._awaited.append(self._commands.get(line))
            verb, _, argument = line.partition(" ")
            if argument.startswith("FROM:"):
                self._submitted.verb = Mode(verb)

    def _note_replies(self, octets: bytes) -> None:
        if self._reader is None:
            return
        self._reader.feed(octets)
        try:
            while self._awaited and (reply := self._reader.next()) is not None:
                recipient = self._awaited.popleft()
                if recipient is not None:
                    self._submitted.replies[recipient] = reply
        except ProtocolError:
            self._reader = None  # the Sender sees it too, and ends the conversation
