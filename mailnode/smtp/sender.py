"""The Sender: drives the script, decides whether a group is pipelined, and reads the replies.

Rules:
- Commands of a group go out at once where PIPELINING was offered (RFC 2920), else one after another.
- A reply counts only if its command was said before it came. Replies that wait when all commands are
  answered and another is to be said break the protocol: canned answers never mark a letter as delivered.
- Groups that go ahead leave without waiting; all replies that have come are read before another group is
  said, so the rule holds for them too.
- `patience` is how long the next octets may take (RFC 1123 5.3.2); whoever holds the machine keeps time.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mailnode.mail import Letter, Reply
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending, StartTls
from mailnode.smtp.replies import ProtocolError, ReplyReader
from mailnode.smtp.script import Plan, conversation
from mailnode.smtp.steps import (
    BLOCK_PATIENCE,
    COMMAND_PATIENCE,
    END_PATIENCE,
    GREETING_PATIENCE,
    QUIT_PATIENCE,
    Ahead,
    BodyOf,
    Command,
    Farewell,
    Greeting,
    Heard,
    Next,
    Peer,
    Script,
    Settle,
)

MAX_GROUP: Final = 128  # commands on their way at once


class Sender:
    """The sans-I/O machine: `feed` octets, take `next` until it gives None, and answer its wishes:
    `LetterWanted` with `give`, `WriteBody` with `body_written`.
    """

    def __init__(self, plan: Plan) -> None:
        self.peer = Peer()
        self.patience: float = GREETING_PATIENCE  # seconds
        self.heard = 0  # whole replies: whether the peer gets on
        self._reader = ReplyReader()
        self._out: deque[events.SenderEvent] = deque()
        self._script: Script = conversation(plan, self.peer)
        self._waiting: Greeting | list[Command] | StartTls | Next | BodyOf | Heard | Farewell | None = None
        self._answers: list[Reply | None] = []
        self._said = 0  # commands of the group that are on their way or answered
        self._body_written = True
        self._asked_for_life = False
        self._given: list[Letter | None] = []  # a letter that came before the reply to a NOOP
        self._handshaking = False  # TLS has begun and nothing has come through it yet
        self._ahead: deque[int] = deque()  # of each group that is ahead: how many replies are its
        self._unheard = 0  # replies to them that have not come
        self._replies: deque[Reply] = deque()  # that have come, and are not told
        self._ended = False
        self._begin(None)

    # ------------------------------------------------------------- the holder's side

    @property
    def pending(self) -> bytes:
        """Octets that came behind the last reply: at a turn there must be none."""
        return self._reader.pending

    @property
    def wants_letter(self) -> bool:
        return isinstance(self._waiting, Next)

    def feed(self, octets: bytes) -> None:
        if not self._ended:
            self._reader.feed(octets)

    def next(self) -> events.SenderEvent | None:
        """The next event; None if octets or the holder's answer must come first."""
        while not self._out and not self._ended:
            try:
                if not self._read():
                    return None
            except ProtocolError as error:
                self._broken(error)
        return self._out.popleft() if self._out else None

    def give(self, letter: Letter | None) -> None:
        """The letter that was wanted, None if there is none left."""
        if not self.wants_letter or self._given:
            raise ValueError("no letter is wanted")
        if self._asked_for_life:
            self._given.append(letter)
            return
        try:
            self._resume(letter)
        except ProtocolError as error:
            self._broken(error)

    def ask_for_life(self) -> None:
        """NOOP, while no letter is there to be given: whether the peer is still there. The reply is awaited
        before anything else is said."""
        if self.wants_letter and not self._asked_for_life:
            self._asked_for_life = True
            self._out.append(events.Write(b"NOOP\r\n"))

    @property
    def awaits_life(self) -> bool:
        """Whether a NOOP is not answered yet."""
        return self._asked_for_life

    def secured(self) -> None:
        """TLS has begun, or will before anything else is written."""
        if not isinstance(self._waiting, StartTls):
            raise ValueError("no TLS is wanted")
        self.peer.keywords.clear()  # RFC 3207 4.2: what was said before is forgotten
        self.peer.secure = self._handshaking = True
        self._resume(None)

    def body_written(self) -> None:
        """The whole body and its end are on their way."""
        self._body_written = True
        self.patience = END_PATIENCE

    def fail(self, reply: Reply) -> None:
        """The channel is lost or of no use: time-out, no TLS, broken connection, broken protocol."""
        if not self._ended:
            said = self._waiting.ended if isinstance(self._waiting, Farewell) else None
            ending = Ending.INSECURE if self._handshaking else Ending.BROKEN
            self._end(said or Ended(ending, reply))

    def _broken(self, error: ProtocolError) -> None:
        self.fail(Reply(451, f"The host broke the protocol: {error}", "4.5.0"))

    # ------------------------------------------------------------- replies

    def _read(self) -> bool:
        """Takes one reply to where it belongs; whether there was one."""
        waiting = self._waiting
        if isinstance(waiting, Heard):
            return self._hear()
        reply = self._reader.next()
        if reply is None:
            return False
        self.heard += 1
        self._handshaking = False
        if reply.code == 421 and not isinstance(waiting, Greeting | Farewell):
            self._end(Ended(Ending.BROKEN, reply))  # RFC 821 4.2.1: any time, to any command
        elif self._asked_for_life:
            self._asked_for_life = False
            if self._given:
                self._resume(self._given.pop())
        elif isinstance(waiting, Greeting | Farewell) or (isinstance(waiting, BodyOf) and self._body_written):
            self._resume(reply)
        elif isinstance(waiting, BodyOf) and reply.code >= 400:
            self._refused_in_the_middle(reply)
        elif isinstance(waiting, list) and len(self._answers) < self._said:
            if waiting[len(self._answers)].chunk is not None and not self._body_written:
                raise ProtocolError("a reply came before its command")
            self._answers.append(reply)
            self._go_on(waiting)
        else:
            raise ProtocolError("a reply came before its command")
        return True

    def _hear(self) -> bool:
        """Takes all replies that have come to groups ahead, and tells those to the oldest one."""
        replies, size = self._replies, self._ahead[0]
        while not self._is_leaving and (reply := self._reader.next()) is not None:
            self.heard += 1
            self._unheard -= 1
            if self._unheard < 0:
                raise ProtocolError("a reply came before its command")
            replies.append(reply)
        if len(replies) - self._is_leaving >= size:
            self._ahead.popleft()
            self._resume([replies.popleft() for _ in range(size)])
        elif self._is_leaving:
            self._end(Ended(Ending.BROKEN, replies[-1]))
        else:
            return False
        return True

    @property
    def _is_leaving(self) -> bool:
        """Whether the last reply that was taken is a 421: nothing counts behind it (RFC 821 4.2.1)."""
        return bool(self._replies) and self._replies[-1].code == 421

    def _refused_in_the_middle(self, reply: Reply) -> None:
        """Some hosts refuse mail data as soon as they know (552, 554), and close: that is their verdict. The
        end of data was not said, so nothing else can be said on this channel."""
        step = self._script.send(reply)
        if isinstance(step, Settle):
            self._out.append(events.Settled(step.letter, step.results))
        self._end(Ended(Ending.BROKEN, reply))

    # ------------------------------------------------------------- commands

    def _go_on(self, group: list[Command]) -> None:
        """Says what can be said now, and resumes the script when the group is answered."""
        pipelined = self.peer.offers("PIPELINING")
        lines: list[str] = []
        while self._said < len(group) and self._said - len(self._answers) < MAX_GROUP:
            command = group[self._said]
            if not pipelined:
                if self._said > len(self._answers):
                    break
                if not command.when(self._answers):
                    self._said += 1
                    self._answers.append(None)
                    continue
            if self._said == len(self._answers):
                self._need_silence()
            lines.append(command.line)
            self._said += 1
        if lines:
            self.patience = max(command.patience for command in group[len(self._answers) : self._said])
            self._out.append(events.Write("".join(line + "\r\n" for line in lines).encode()))
            chunk = group[self._said - 1].chunk
            if chunk is not None:
                self._body_written = False
                self._out.append(events.WriteBody(chunk, chunk=True))
        if len(self._answers) == len(group):
            self._resume(self._answers)

    # ------------------------------------------------------------- the script

    def _resume(self, value: object) -> None:
        self._waiting = None
        self._begin(value)

    def _begin(self, value: object) -> None:
        """Runs the script to its next step that must wait."""
        while True:
            try:
                step = self._script.send(value)
            except StopIteration as stop:
                self._end(stop.value)
                return
            if isinstance(step, Settle):
                self._out.append(events.Settled(step.letter, step.results))
            elif isinstance(step, Ahead):
                self._go_ahead(step.group)
            else:
                break
            value = None
        if isinstance(step, Farewell):
            self._need_silence()
        self._waiting = step
        if isinstance(step, Next):
            self.patience = COMMAND_PATIENCE
            self._out.append(events.LetterWanted(step.at_hand))
        elif isinstance(step, BodyOf):
            self._need_silence()
            self._body_written = False
            self.patience = BLOCK_PATIENCE
            self._out.append(events.WriteBody(step.letter))
        elif isinstance(step, Heard):
            self.patience = END_PATIENCE
        elif isinstance(step, Farewell):
            self.patience = QUIT_PATIENCE
            self._out.append(events.Write(b"QUIT\r\n"))
        elif isinstance(step, StartTls):
            self._need_silence()  # what came with the 220 came before TLS: it is not obeyed
            self._out.append(step)
        elif isinstance(step, list):
            self._answers, self._said = [], 0
            self._go_on(step)

    def _go_ahead(self, group: list[Command]) -> None:
        """Says a group at once, with its body, which is in memory."""
        if not self._ahead:
            self._need_silence()
        self._ahead.append(len(group))
        self._unheard += len(group)
        octets = "".join(f"{command.line}\r\n" for command in group).encode()
        chunk = group[-1].chunk
        self._out.append(events.Write(octets + (chunk.body.data or b"" if chunk is not None else b"")))

    def _need_silence(self) -> None:
        if not self._reader.idle:
            raise ProtocolError("a reply came before its command")

    def _end(self, ended: Ended) -> None:
        self._ended = True
        self._waiting = None
        self._script.close()
        self._out.append(ended)
