"""The sender's role on a channel: gives letters away and streams their bodies.

A letter that was begun is always settled: with the receiver's replies, or LATER when the channel broke
(then the receiver may have it all the same: at worst it is delivered twice, RFC 1047).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.channel.channel import Channel, Role
from mailnode.channel.tls import ClientTls, UntrustedError
from mailnode.channel.tls import reason as tls_reason
from mailnode.interfaces import Eventually, ILetters
from mailnode.mail import CHUNK, Letter, Recipient, Reply, Result, Results
from mailnode.smtp import events
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.framing import Stuffer
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import Sender
from mailnode.smtp.steps import BLOCK_PATIENCE

TIMED_OUT = Reply(451, "The host did not answer in time", "4.4.2")
CONNECTION_LOST = Reply(451, "The connection was lost", "4.4.2")
CANNOT_READ = Reply(451, "The message cannot be read from the spool", "4.3.0")


def no_tls(why: str) -> Reply:
    return Reply(451, f"TLS did not come about: {why}", "4.7.5")


@implementer(IPushProducer)
class BodyStream:
    """Writes a body to a channel as fast as the transport takes it; memory holds one chunk.

    `stuffer` None: octet for octet, without an end.
    """

    def __init__(
        self,
        channel: Channel,
        chunks: Iterator[bytes],
        stuffer: Stuffer | None,
        done: Callable[[Exception | None], None],
    ) -> None:
        self._channel = channel
        self._chunks = chunks
        self._stuffer = stuffer
        self._done = done
        self._paused = False
        self._over = False

    def resumeProducing(self) -> None:
        self._paused = False
        while not self._paused and not self._over:
            try:
                chunk = next(self._chunks, None)
            except OSError as error:
                self._finish(error)
                return
            if chunk is None:
                if self._stuffer is not None:
                    self._channel.write(self._stuffer.end())
                self._finish(None)
                return
            self._channel.expect(BLOCK_PATIENCE)  # RFC 1123 5.3.2: per block
            self._channel.write(chunk if self._stuffer is None else self._stuffer.stuff(chunk))

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._over = True

    def _finish(self, error: Exception | None) -> None:
        self._over = True
        self._done(error)


class Tls(NamedTuple):
    """How the sender's side of TLS is made, and the name that the host should have a certificate for."""

    client: ClientTls
    name: str
    pin: str = ""  # the fingerprint that its certificate must have


class SenderRole:
    """Sender on `channel` for the letters of one conversation.

    `ended` is told once how it ended; `turn_to` builds the receiver's role when our TURN was granted.
    Without `tls` the plan must not ask for it. With `wait` the peer is asked for a sign of life each time
    that there was no letter for so many seconds (docs/xwait.md).
    """

    letter = "C"

    def __init__(
        self,
        channel: Channel,
        plan: Plan,
        letters: ILetters,
        host: str,
        ended: Callable[[Ended], None],
        turn_to: Callable[[Channel, Ended], Role] | None = None,
        *,
        tls: Tls | None = None,
        wait: float = 0.0,
        log: Logger | None = None,
    ) -> None:
        self._channel = channel
        self._plan = plan
        self._wait = wait
        self._tls = tls
        self._letters = letters
        self._host = host
        self._ended = ended
        self._turn_to = turn_to
        self._log = log or Logger("mailnode.channel")
        self._machine = Sender(plan)
        self._unsettled: dict[int, tuple[Letter, set[Recipient]]] = {}  # by the letter's identity
        self._written: list[bytes] = []
        self._wanted: Deferred[Letter | None] | None = None
        self._streaming = False
        self._running = False
        self._over = False
        self._draining = False
        self._idle = False

    # ------------------------------------------------------------- the channel's side

    def started(self) -> None:
        if self._wait:  # a broken line is noticed within two signs of life, in mid-message too
            self._channel.notice_loss_within(2 * self._wait)
        self._channel.expect(self._machine.patience)

    def received(self, octets: bytes) -> None:
        heard = self._machine.heard
        self._machine.feed(octets)
        self._run(patiently=False)
        if self._machine.heard != heard:  # a reply that comes octet by octet has the time of one
            self._expect()

    def shaken_hands(self) -> None:
        """Nothing is new by that: the wait is for a reply."""

    def timed_out(self) -> None:
        if self._over:
            self._channel.abort()
        elif self._wanted is not None and not self._machine.awaits_life:  # the wait is ours, not the peer's
            if self._wait:
                self._machine.ask_for_life()
                self._run()
            else:
                self._channel.expect(self._machine.patience)
        else:
            self._machine.fail(TIMED_OUT)
            self._run()

    def drain(self) -> None:
        """Gives no further letter; the one in hand is finished."""
        self._draining = True
        self._machine.peer.leaving = True
        if self._wanted is not None:
            self._wanted.cancel()

    def lost(self, reason: Failure) -> None:
        self._over = True
        if self._wanted is not None:
            self._wanted.cancel()
        broken = reason.check(SSL.Error, UntrustedError)
        self._machine.fail(no_tls(tls_reason(reason)) if broken else CONNECTION_LOST)
        self._run()

    # ------------------------------------------------------------- the stream of events

    def _run(self, patiently: bool = True) -> None:
        if self._running:
            return
        self._running = True
        try:
            while (event := self._machine.next()) is not None:
                self._obey(event)
        finally:
            self._running = False
        self._flush()
        if patiently:
            self._expect()

    def _flush(self) -> None:
        """All that was said in one go leaves in one write."""
        if self._written:
            octets = b"".join(self._written)
            self._written.clear()
            if not self._over:
                self._channel.write(octets)

    def _expect(self) -> None:
        if not self._over and not self._streaming:
            waiting = self._wait and self._wanted is not None
            self._channel.expect(self._wait if waiting else self._machine.patience)

    def _obey(self, event: events.SenderEvent) -> None:
        if isinstance(event, events.Write):
            self._written.append(event.octets)
        elif isinstance(event, events.LetterWanted):
            self._next_letter(event.at_hand)
        elif isinstance(event, events.WriteBody):
            self._stream(event.letter, event.chunk)
        elif isinstance(event, events.StartTls):
            self._secure()
        elif isinstance(event, events.Settled):
            self._settled(event.letter, event.results)
        else:
            self._finish(event)

    # ------------------------------------------------------------- letters

    def _next_letter(self, at_hand: bool) -> None:
        letter: Eventually[Letter | None] = None
        if not (self._draining or self._over):
            letter = self._letters.at_hand() if at_hand else self._letters.next()
        if isinstance(letter, Deferred):
            self._wanted = letter
            letter.addCallbacks(self._came, self._none_came)
        else:
            self._give(letter)

    def _came(self, letter: Letter | None) -> None:
        self._wanted = None
        if letter is not None and (self._over or self._draining):
            self._letters.returned(letter)
            letter = None
        self._give(letter)
        self._run()

    def _none_came(self, failure: Failure) -> None:
        self._wanted = None
        if not failure.check(CancelledError):
            self._log.failure("the next letter for {host} could not be had", failure, host=self._host)
        self._give(None)
        self._run()

    def _give(self, letter: Letter | None) -> None:
        if letter is not None:
            self._unsettled[id(letter)] = (letter, set(letter.recipients))
        if self._machine.wants_letter:
            self._machine.give(letter)

    def _settled(self, letter: Letter, results: Results) -> None:
        _, unsettled = self._unsettled[id(letter)]
        unsettled.difference_update(results)
        if not unsettled:
            del self._unsettled[id(letter)]
        self._letters.settle(letter, results, self._host)

    def _secure(self) -> None:
        if self._over:
            return
        assert self._tls is not None
        self._flush()
        verified = self._plan.tls == "verified"
        self._channel.secure(self._tls.client.creator(self._tls.name, verified, self._tls.pin))
        self._machine.secured()

    def _stream(self, letter: Letter, chunk: bool) -> None:
        """Sends the mail data; a body in memory goes out in one write."""
        if self._over:
            return
        self._flush()
        stuffer = None if chunk else Stuffer()
        data = letter.body.data
        if data is not None and letter.body.size <= CHUNK:
            self._channel.write(data if stuffer is None else stuffer.stuff(data) + stuffer.end())
            self._machine.body_written()
            return
        self._streaming = True
        stream = BodyStream(self._channel, letter.body.chunks(), stuffer, self._streamed)
        self._channel.transport.registerProducer(stream, True)
        stream.resumeProducing()

    def _streamed(self, error: Exception | None) -> None:
        self._streaming = False
        self._channel.transport.unregisterProducer()
        if error is None:
            self._machine.body_written()
        else:  # half a message is on the wire: only a broken connection takes it back
            self._log.error("body for {host} cannot be read: {why}", host=self._host, why=str(error))
            self._machine.fail(CANNOT_READ)
            self._channel.abort()
        self._run()

    # ------------------------------------------------------------- the end of the role

    def _finish(self, ended: Ended) -> None:
        self._flush()
        reply = ended.reply if ended.reply.transient else CONNECTION_LOST
        for letter, unsettled in list(self._unsettled.values()):
            self._settled(letter, dict.fromkeys(unsettled, Result.later(reply, self._host)))
        self._letters.close()
        if ended.ending is Ending.TURNED and self._machine.pending:
            # What came with the 250 was said before the turn took effect: it is not obeyed.
            ended = Ended(Ending.BROKEN, Reply(451, "Octets came behind the reply to TURN", "4.5.0"))
        turn_to = self._turn_to
        if ended.ending is Ending.TURNED and turn_to is not None and not self._over:
            self._over = True
            self._ended(ended)
            self._channel.become(turn_to(self._channel, ended))
            if self._draining:  # the TURN was on its way already
                self._channel.drain()
            return
        if not self._over:
            self._over = True
            self._channel.expect(5)
            if ended.ending is Ending.BROKEN:
                self._channel.abort()
            else:
                self._channel.close()
        self._ended(ended)
