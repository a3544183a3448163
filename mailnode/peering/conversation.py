"""One call: connects, gives, turns the line, and says how it went, whichever role had the line last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.channel.channel import Channel, Trace
from mailnode.channel.factories import SenderFactory
from mailnode.channel.receiving import Doors
from mailnode.channel.sending import CONNECTION_LOST
from mailnode.channel.tls import ClientTls
from mailnode.interfaces import Eventually, ILetters
from mailnode.mail import Letter, Reply, Results
from mailnode.peering.calls import Call, CallEnded
from mailnode.peering.counting import CountedIntake
from mailnode.peering.letters import HeldLetters
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.script import Plan

CONNECT: Final = 30.0  # seconds
QUIET: Final = 1.0  # seconds without a new message, after which an open line has brought what there was
NO_GREETING: Final = Reply(451, "The host closed the connection without a greeting", "4.4.2")


@implementer(ILetters)
class NoLetters:
    """A conversation that gives nothing."""

    def next(self) -> Eventually[Letter | None]:
        return None

    def at_hand(self) -> Letter | None:
        return None

    def settle(self, letter: Letter, results: Results, host: str) -> None:
        raise ValueError("nothing was given")

    def returned(self, letter: Letter) -> None:
        raise ValueError("nothing was given")

    def close(self) -> None:
        """There is nothing to give back."""


class Conversation:
    """A call to one host. `opened` is told if the line stays open, once what waited there has come."""

    def __init__(
        self,
        call: Call,
        doors: Doors,
        letters: HeldLetters | None,
        connect: Callable[[str], IStreamClientEndpoint],
        clock: IReactorTime,
        tls: ClientTls | None,
        opened: Callable[[CallEnded], None],
        trace: Trace | None = None,
    ) -> None:
        self.call = call
        self._counted = CountedIntake(doors.intake)
        self._doors = replace(doors, intake=self._counted)
        self._letters = letters
        self._connect = connect
        self._clock = clock
        self._tls = tls
        self._opened = opened
        self._trace = trace
        self._heard = False  # anything from the host
        self._turned_at: float | None = None
        self._how: Ended | None = None
        self._channel: Channel | None = None
        self._connecting: Deferred[Channel] | None = None
        self._watch: IDelayedCall | None = None
        self._over: Deferred[CallEnded] = Deferred()
        self._hung_up = False

    def begin(self) -> Deferred[CallEnded]:
        """Calls; fires when the line is free again, and never errbacks."""
        factory = SenderFactory(
            self._plan(),
            self._letters if self._letters is not None else NoLetters(),
            self._clock,
            self._role_ended,
            host=self.call.name,
            doors=self._doors,
            lost=self._lost,
            trace=self._pass_on,
            tls=self._tls,
            tls_name=self.call.tls_name,
            tls_pin=self.call.fingerprint,
            implicit=self.call.implicit,
        )
        try:
            connecting = cast("Deferred[Channel]", self._connect(self.call.endpoint).connect(factory))
        except ValueError as error:  # an endpoint of an unknown kind
            self._failed(Failure(error))
            return self._over
        self._connecting = connecting
        timer = self._clock.callLater(CONNECT, connecting.cancel)

        def clear(passed: Channel | Failure) -> Channel | Failure:
            if timer.active():
                timer.cancel()
            self._connecting = None
            return passed

        connecting.addBoth(clear).addCallbacks(self._connected, self._failed)
        return self._over

    def use(self, doors: Doors) -> None:
        """The configuration has changed: the next message that the host brings is taken by it."""
        self._counted.use(doors.intake)

    def hang_up(self) -> None:
        """Ends the call at the next moment at which nothing is lost by it."""
        self._hung_up = True
        if self._channel is not None:
            self._channel.drain()
        elif self._connecting is not None:
            self._connecting.cancel()

    def abort(self) -> None:
        if self._channel is not None:
            self._channel.abort()

    @property
    def is_connected(self) -> bool:
        return self._channel is not None

    # ------------------------------------------------------------- how it goes

    def _plan(self) -> Plan:
        call = self.call
        # Without a name there is nobody to be but whom our certificate is for.
        certificate = not call.user and self._tls is not None and self._tls.has_certificate
        return Plan(
            self._doors.hostname,
            name=call.user,
            secret=call.secret,
            turn=call.turn,
            start=call.domains if call.command == "ETRN" else (),
            wait=call.wait,
            tls=call.tls,
            certificate=certificate,
            known=call.is_known,
        )

    def _pass_on(self, speaker: str, octets: bytes) -> None:
        self._heard = self._heard or speaker == "S"
        if self._trace is not None:
            self._trace(speaker, octets)

    def _connected(self, channel: Channel) -> None:
        if self._over.called:
            return
        self._channel = channel
        if self._hung_up:
            channel.drain()

    def _failed(self, failure: Failure) -> None:
        why = failure.getErrorMessage().rstrip(".")[:200]
        if self._letters is not None:
            self._letters.close()
        self._over.callback(CallEnded(False, 0, Reply(451, f"Cannot connect: {why}", "4.4.1")))

    def _role_ended(self, ended: Ended) -> None:
        """We are the sender no longer."""
        self._how = ended
        if ended.ending is Ending.TURNED:
            self._turned_at = self._clock.seconds()
            if ended.wait:
                self._watch = self._clock.callLater(QUIET, self._look, -1)

    def _look(self, begun: int) -> None:
        """Whether what waited at the host has come, and the line is open and idle now."""
        self._watch = None
        if begun == self._counted.begun and self._counted.idle:
            self._opened(replace(self._result(), open=True))
            self._trace = None
        else:
            self._watch = self._clock.callLater(QUIET, self._look, self._counted.begun)

    def _lost(self, _channel: Channel) -> None:
        """The connection is gone, whichever role had it last."""
        self._channel = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self._over.called:
            self._over.callback(self._result())

    def _result(self) -> CallEnded:
        last = self._how
        assert last is not None  # the sender's role ends before its connection is gone
        letters = self._letters
        given, refused, later = (
            (letters.given, letters.failed, letters.later) if letters is not None else (0, 0, 0)
        )
        turned, insecure = last.ending is Ending.TURNED, last.ending is Ending.INSECURE
        reply = last.reply
        if reply == CONNECTION_LOST and not self._heard:
            reply = NO_GREETING
        lasted = 0.0
        if turned and last.wait and self._turned_at is not None:
            lasted = max(self._clock.seconds() - self._turned_at, 0.001)
        started = self.call.command == "ETRN" and last.ending is Ending.DONE and 250 <= reply.code <= 253
        return CallEnded(
            *(turned, given, reply, self._counted.taken, insecure),
            started=started,
            lasted=lasted,
            refused=refused,
            later=later,
        )
