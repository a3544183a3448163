"""The receiver's role on a channel: carries the machine's questions to the doors of the house.

All replies that one arrival of octets causes leave in one write. A question that is answered at once
makes no Deferred; while one is open the machine consumes nothing, and if much arrives meanwhile the
transport is paused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailnode.channel.channel import Channel, Role
from mailnode.channel.tls import ServerTls, fingerprint
from mailnode.interfaces import (
    IAccess,
    ICustody,
    IIntake,
    ILetters,
    IPairing,
    IPeering,
    IRouting,
)
from mailnode.mail import CHUNK, Client, Reply
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import Limits, Receiver

STREAM: Final = 4  # messages that are not decided, from which on their client waits for none of them
HANDSHAKE: Final = 60.0  # seconds that a client has for the handshake of TLS
GRACE: Final = 60.0  # seconds in which mail data may come as slowly as it likes
LOCAL_ERROR: Final = Reply(451, "Requested action aborted: local error in processing", "4.3.0")


@dataclass(frozen=True, slots=True)
class Doors:
    """What a receiver asks, and how it presents itself. Without `peering` nobody may turn the line, without
    `pairing` nobody can use an invitation."""

    hostname: str
    access: IAccess
    routing: IRouting
    intake: IIntake
    peering: IPeering | None = None
    limits: Limits = field(default_factory=Limits)
    patience: float = 300  # seconds that the client has for a command (RFC 1123 5.3.2)
    data_rate: float = 100  # octets a second, what mail data must reach on average after a minute
    tls: ServerTls | None = None
    pairing: IPairing | None = None


class Granted(NamedTuple):
    """What a client that turns the line gets, and how often it wants a sign of life while there is no mail
    (seconds, 0: then the line is closed)."""

    letters: ILetters
    wait: float


@dataclass(frozen=True, slots=True)
class Listener:
    """What a listener is for. `tls` is "none", "starttls" or "implicit"; `normalize` takes a bare CR or LF
    from trusted clients for the end of a line."""

    role: str = "smtp"  # smtp, submission, lmtp, odmr
    tls: str = "none"
    normalize: bool = False


class ReceiverRole:
    """Receiver on `channel` for `client`. `turn_to` builds the sender's role for a granted TURN."""

    letter = "S"

    def __init__(
        self,
        channel: Channel,
        doors: Doors,
        client: Client,
        turn_to: Callable[[Channel, Granted, Client], Role],
        refusal: Reply | None = None,
        listener: Listener | None = None,
        log: Logger | None = None,
    ) -> None:
        listener = listener or Listener()
        self._channel = channel
        self._doors = doors
        self._client = client
        self._turn_to = turn_to
        self._refusal = refusal
        self._log = log or Logger("mailnode.channel")
        self._machine = Receiver(
            doors.hostname,
            doors.access.rights(client),
            doors.limits,
            greet=refusal is None,
            starttls=listener.tls == "starttls" and doors.tls is not None and not client.tls,
            lmtp=listener.role == "lmtp",
            normalize=listener.normalize,
        )
        self._custody: ICustody | None = None
        self._granted: Granted | None = None
        self._turning = False
        self._open = 0  # answers that are waited for
        self._written: list[bytes] = []
        self._running = False
        self._securing = False
        self._new_to_tls = client.tls  # nothing has come under TLS, so its certificate is not known yet
        self._in_handshake = client.tls and not client.turned
        self._data_since: tuple[float, int] | None = None  # when mail data began, and what was consumed then
        self._disk_waits = 0  # pieces of mail data that the disk has not taken yet
        self._disk_behind = 0.0  # since when
        self._draining = False
        self._over = False
        self._refused = 0
        self._last_refusal: Reply | None = None

    # ------------------------------------------------------------- the channel's side

    def started(self) -> None:
        # Whoever asks and does not read the replies fills no memory. Not during a handshake: TLS then says
        # that nothing can be written, and nothing could be while nothing is read.
        self._channel.throttle(not self._new_to_tls)
        if self._refusal is not None:
            self._machine.refuse(self._refusal)
        self._channel.expect(self._patience)
        self._run()

    @property
    def _patience(self) -> float:
        return min(HANDSHAKE, self._doors.patience) if self._in_handshake else self._doors.patience

    def received(self, octets: bytes) -> None:
        if self._over:
            return
        if self._new_to_tls:
            self._learn_certificate()
        before = self._machine.consumed
        self._machine.feed(octets)
        self._run()
        if self._machine.consumed != before and not self._over:
            self._channel.expect(self._patience)
            in_data = self._machine.in_mail_data
            if in_data or self._data_since is not None:
                self._watch_rate(in_data)
        if self._open and self._machine.pending > CHUNK:
            self._channel.pause("answer")

    def shaken_hands(self) -> None:
        self._in_handshake = False
        self._channel.expect(self._patience)

    def timed_out(self) -> None:
        if self._open or self._disk_waits:  # we are the ones who take long
            self._channel.expect(self._patience)
        elif self._over:  # the client does not read our last reply
            self._channel.abort()
        elif self._in_handshake:  # so nothing can be said
            self._over = True
            self._report("did not shake hands in time")
            self._channel.abort()
        else:
            self._end(replies.unavailable(self._doors.hostname, "Timeout"))
            if self._client.turned:  # it is there or the line is broken; nobody waits for it to read that
                self._channel.abort()

    def _watch_rate(self, in_data: bool) -> None:
        """Whoever sends mail data drop by drop gives the place to others."""
        if not in_data:
            self._data_since = None
            return
        now, consumed = self._channel.now, self._machine.consumed
        if self._data_since is None:
            self._data_since = (now, consumed)
            return
        since, start = self._data_since
        if now - since > GRACE and consumed - start < self._doors.data_rate * (now - since):
            self._end(replies.unavailable(self._doors.hostname, "Mail data comes too slowly"))

    def drain(self) -> None:
        self._draining = True
        if not self._over and self._machine.transaction is None and not self._open:
            self._end(replies.unavailable(self._doors.hostname, "Service is going down"))

    def lost(self, reason: Failure) -> None:
        if not self._over:
            if self._custody is not None:
                self._report("went away in a transaction")
            elif self._machine.pending:
                self._report("went away in a command")
            elif self._refused:
                self._report("went away")
        self._over = True
        self._drop_custody()

    # ------------------------------------------------------------- the stream of events

    def _run(self) -> None:
        if self._running:
            return
        self._running = True
        machine, written = self._machine, self._written
        try:
            while (event := machine.next()) is not None:
                if type(event) is Reply:
                    written.append(event.encode(machine.extended))
                    if event.code >= 500 or event.code == 421:
                        self._refused += 1
                        self._last_refusal = event
                else:
                    ACTIONS[type(event)](self, event)
        finally:
            self._running = False
        if written:
            # While others are being decided, theirs may follow in this turn of the reactor.
            octets = written[0] if len(written) == 1 else b"".join(written)
            self._channel.write(octets, more=self._open > 0)
            written.clear()
        if self._securing:
            self._secure()
        elif self._turning:
            self._turn()
        elif self._over:
            self._channel.expect(self._patience)  # for the client to read its last reply
            self._channel.close()
        elif self._draining and machine.transaction is None and not self._open:
            self._end(replies.unavailable(self._doors.hostname, "Service is going down"))

    def _answer(self, reply: Reply | Deferred[Any]) -> None:
        """Answers the open question now, or when the Deferred fires."""
        if not isinstance(reply, Deferred):
            self._machine.answer(reply)
            return
        self._wait(reply, self._machine.answer)

    def _wait(self, reply: Deferred[Any], tell: Callable[[Any], None]) -> None:
        """Tells the machine when the Deferred has fired."""
        self._open += 1
        reply.addBoth(self._answered, tell)

    def _answered(self, reply: events.Answer | Failure, tell: Callable[[Any], None]) -> None:
        self._open -= 1
        if isinstance(reply, Failure):
            reply = self._unexpected(reply)
        if self._over:
            return
        tell(reply)
        self._channel.expect(self._patience)
        self._run()
        if not self._open or self._machine.pending <= CHUNK:
            self._channel.resume("answer")

    def _unexpected(self, failure: Failure) -> Reply:
        self._log.failure(
            "a question of {address} could not be answered", failure, address=self._client.address
        )
        return LOCAL_ERROR

    def _end(self, reply: Reply) -> None:
        self._machine.refuse(reply)
        self._run()

    def _drop_custody(self) -> None:
        if self._custody is not None:
            self._custody.abort()
            self._custody = None

    def _report(self, what: str) -> None:
        """One line about a conversation that did not go well."""
        last = f", last refusal: {self._last_refusal}" if self._last_refusal is not None else ""
        self._log.info(
            "{address} ({hello}) {what}: {count} refused{last}",
            address=self._client.address or "local socket",
            hello=self._machine.hello or "no HELO",
            what=what,
            count=self._refused,
            last=last,
        )

    # ------------------------------------------------------------- questions

    def _ask_sender(self, event: events.AskSender) -> None:
        machine = self._machine
        client = self._client
        if client.hello != machine.hello or client.extended != machine.extended:
            client = self._client = replace(client, hello=machine.hello, extended=machine.extended)
        if self._draining:
            machine.refuse(replies.unavailable(self._doors.hostname, "Service is going down"))
            return
        answer = self._doors.intake.begin(client, machine.rights, *event)
        if isinstance(answer, Reply):
            machine.answer(answer)
        else:
            self._custody = answer
            machine.answer(replies.SENDER_OK)

    def _ask_recipient(self, event: events.AskRecipient) -> None:
        assert self._custody is not None
        self._machine.answer(self._custody.recipient(*event))

    def _ask_data(self, _event: events.AskData) -> None:
        assert self._custody is not None
        self._machine.answer(self._custody.open())

    def _mail_data(self, event: events.MailData) -> None:
        assert self._custody is not None
        full = self._custody.write(event.piece)
        if full is not None:
            if not self._disk_waits:
                self._disk_behind = self._channel.now
            self._disk_waits += 1
            self._channel.pause("spool")
            full.addCallback(self._disk_follows)

    def _disk_follows(self, _: None) -> None:
        self._disk_waits -= 1
        if self._disk_waits:
            return
        if self._data_since is not None:  # that was not the client's time
            since, start = self._data_since
            self._data_since = (since + self._channel.now - self._disk_behind, start)
        if not self._over:
            self._channel.expect(self._patience)
        self._channel.resume("spool")

    def _discarded(self, _event: events.Discarded) -> None:
        self._drop_custody()

    def _ask_custody(self, _event: events.AskCustody) -> None:
        assert self._custody is not None
        machine, custody, self._custody = self._machine, self._custody, None
        committed = custody.commit(hurry=machine.late < STREAM)
        self._wait(committed, machine.postpone() if machine.may_postpone else machine.answer)

    def _ask_verify(self, event: events.AskVerify) -> None:
        self._machine.answer(self._doors.routing.verify(event.text, self._machine.rights))

    def _ask_expand(self, event: events.AskExpand) -> None:
        self._machine.answer(self._doors.routing.expand(event.text, self._machine.rights))

    def _ask_credentials(self, event: events.AskCredentials) -> None:
        def decided(identity: str | Reply) -> Reply:
            if isinstance(identity, Reply):
                return identity
            self._client = replace(self._client, identity=identity)
            self._machine.rights = self._doors.access.rights(self._client)
            return replies.AUTH_DONE

        self._answer(self._doors.access.authenticate(self._client, event.credentials).addCallback(decided))

    def _ask_scram_keys(self, event: events.AskScramKeys) -> None:
        self._answer(self._doors.access.scram_keys(self._client, event.name))

    def _ask_start(self, event: events.AskStart) -> None:
        if self._doors.peering is None:
            self._machine.answer(replies.NOT_FOR_YOU)
            return
        self._answer(self._doors.peering.start(self._client, event.node))

    def _ask_pair(self, event: events.AskPair) -> None:
        if self._doors.pairing is None:
            self._machine.answer(replies.NOT_FOR_YOU)
            return
        self._answer(self._doors.pairing.pair(self._client, event.keys))

    def _ask_turn(self, event: events.AskTurn) -> None:
        def decided(grant: ILetters | Reply) -> Reply:
            if isinstance(grant, Reply):
                return grant
            self._granted = Granted(grant, event.turn.wait)
            return replies.OK

        if self._doors.peering is None:
            self._machine.answer(replies.TURN_REFUSED)
            return
        grant = self._doors.peering.grant(self._client, event.turn)
        if isinstance(grant, Deferred):
            self._answer(grant.addCallback(decided))
        else:
            self._machine.answer(decided(grant))

    # ------------------------------------------------------------- TLS

    def _start_tls(self, _event: events.StartTls) -> None:
        self._securing = True  # as soon as the 220 is written

    def _secure(self) -> None:
        assert self._doors.tls is not None
        self._securing = False
        self._channel.throttle(False)
        self._channel.secure(self._doors.tls.creator)
        # RFC 3207 4.2: who the client was, or said it was, is forgotten.
        self._client = replace(self._client, tls=True, identity="", hello="", extended=False)
        self._new_to_tls = self._in_handshake = True
        self._channel.expect(self._patience)
        self._machine.secured(self._doors.access.rights(self._client))

    def _learn_certificate(self) -> None:
        """The handshake is over, for something has come through it."""
        self._new_to_tls = self._in_handshake = False
        self._channel.throttle(True)
        mark = fingerprint(self._channel.transport)
        if mark:
            self._client = replace(self._client, fingerprint=mark)
            self._machine.rights = self._doors.access.rights(self._client)

    # ------------------------------------------------------------- the end of the role

    def _closed(self, _event: events.Closed) -> None:
        self._over = True
        self._granted = None
        if self._refused:
            self._report("was served")

    def _turned(self, _event: events.Turned) -> None:
        self._turning = True  # as soon as the 250 is written

    def _turn(self) -> None:
        assert self._granted is not None
        granted, self._granted = self._granted, None
        self._over, self._turning = True, False
        self._channel.throttle(False)
        self._channel.become(self._turn_to(self._channel, granted, self._client))


ACTIONS: Final[dict[type, Callable[[ReceiverRole, Any], None]]] = {
    events.AskSender: ReceiverRole._ask_sender,
    events.AskRecipient: ReceiverRole._ask_recipient,
    events.AskData: ReceiverRole._ask_data,
    events.MailData: ReceiverRole._mail_data,
    events.AskCustody: ReceiverRole._ask_custody,
    events.AskVerify: ReceiverRole._ask_verify,
    events.AskExpand: ReceiverRole._ask_expand,
    events.AskCredentials: ReceiverRole._ask_credentials,
    events.AskScramKeys: ReceiverRole._ask_scram_keys,
    events.AskTurn: ReceiverRole._ask_turn,
    events.AskStart: ReceiverRole._ask_start,
    events.AskPair: ReceiverRole._ask_pair,
    events.StartTls: ReceiverRole._start_tls,
    events.Discarded: ReceiverRole._discarded,
    events.Turned: ReceiverRole._turned,
    events.Closed: ReceiverRole._closed,
}
