"""Intake: takes custody of messages, and gives no promise before it is true.

What each verb needs (RFC 821 3.4):
- MAIL: everything goes into the spool.
- SEND: shown on terminals before the reply. Recipients elsewhere, and those who left between RCPT and
  the last dot while others were reached, go into the spool: dispatch relays or sends the notice.
- SOML: shown, and spooled as MAIL for those who were not reached.
- SAML: spooled as MAIL, then shown besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import (
    ICustody,
    IDispatch,
    IIntake,
    IRouting,
    ISpool,
    ISpoolDraft,
    ITerminals,
    Message,
)
from mailnode.mail import (
    PLAIN_TERMS,
    Body,
    Client,
    Destination,
    Entry,
    Envelope,
    Local,
    Mode,
    Path,
    Recipient,
    Reply,
    Rights,
    Ruling,
    Terms,
)
from mailnode.received import FIRST_LINE, begins_with_header, hops, received
from mailnode.smtp.replies import OK, START_INPUT

NOT_ACTIVE: Final = Reply(450, "User not active now", "4.2.1")
WILL_MAIL: Final = Reply(250, "User not active now, so will do mail.", "2.1.5")
NOBODY_REACHED: Final = Reply(451, "No recipient is active now", "4.2.1")
NO_STORAGE: Final = Reply(452, "Requested action not taken: insufficient system storage", "4.3.1")
LOCAL_ERROR: Final = Reply(451, "Requested action aborted: local error in processing", "4.3.0")
LOOP: Final = Reply(554, "Transaction failed: too many hops, this looks like a mail loop", "5.4.6")


@dataclass(frozen=True, slots=True)
class House:
    """What every custody asks."""

    hostname: str
    routing: IRouting
    terminals: ITerminals
    spool: ISpool
    now: Callable[[], float]  # seconds since the epoch
    max_hops: int
    log: Logger


@implementer(IIntake)
class Intake:
    """The front door. `dispatch` stays None in a process that only receives: mail is then QUEUED."""

    def __init__(
        self,
        hostname: str,
        routing: IRouting,
        terminals: ITerminals,
        spool: ISpool,
        now: Callable[[], float],
        max_hops: int = 50,
    ) -> None:
        self._house = House(hostname, routing, terminals, spool, now, max_hops, Logger("mailnode.intake"))
        self.dispatch: IDispatch | None = None

    def begin(
        self,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
    ) -> ICustody | Reply:
        if not self._house.spool.has_room(size):
            return NO_STORAGE
        return Custody(self._house, self.store, client, rights, mode, reverse_path, terms)

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        spool = self._house.spool
        id = spool.new_id()
        draft = spool.draft()
        for chunk in body.chunks():
            draft.write(chunk)
        return self.store(id, envelope, draft).addCallback(lambda _: id)

    def store(self, id: str, envelope: Envelope, draft: ISpoolDraft) -> Deferred[None]:
        """Into the spool; whoever works it off has it at once if there is room."""
        dispatch = self.dispatch
        lease = dispatch is not None and dispatch.has_room()

        def stored(entry: Entry | None) -> None:
            if dispatch is None:
                return
            if entry is not None:
                dispatch.take(entry)
            else:
                dispatch.wake()

        return self._house.spool.accept(id, envelope, draft, lease).addCallback(stored)


@implementer(ICustody)
class Custody:
    """One transaction."""

    def __init__(
        self,
        house: House,
        store: Callable[[str, Envelope, ISpoolDraft], Deferred[None]],
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        terms: Terms,
    ) -> None:
        self._house = house
        self._store = store
        self._client = client
        self._rights = rights
        self._mode = mode
        self._reverse_path = reverse_path
        self._terms = terms
        self._rulings: dict[Path, Ruling] = {}
        self._draft: ISpoolDraft | None = None
        self._id = ""
        self._first = b""  # the beginning of the first line, until it can be told what it is
        self._started = False
        self._ours = 0  # octets that we put in front

    # ------------------------------------------------------------- the transaction

    def recipient(self, path: Path, notify: tuple[str, ...] = (), orcpt: str = "") -> Reply:
        ruling = self._house.routing.route(path, self._mode, self._rights)
        if not ruling.reply.ok:
            return ruling.reply
        reply = ruling.reply
        if self._mode in (Mode.SEND, Mode.SOML):
            reply = self._terminal_reply(ruling)
            if not reply.ok:
                return reply
        self._rulings[path] = ruling
        return reply

    def _terminal_reply(self, ruling: Ruling) -> Reply:
        """RFC 821 3.4 and Appendix F, scenarios 5 and 6."""
        users = [where.place.user for where in ruling.destinations if isinstance(where.place, Local)]
        if len(users) < len(ruling.destinations) or any(map(self._house.terminals.accepts, users)):
            return ruling.reply
        return NOT_ACTIVE if self._mode is Mode.SEND else WILL_MAIL

    def open(self) -> Reply:
        self._id = self._house.spool.new_id()
        self._draft = self._house.spool.draft()
        return START_INPUT

    def write(self, piece: bytes) -> Deferred[None] | None:
        if not self._terms.eight_bit and not piece.isascii():
            self._terms = replace(self._terms, eight_bit=True)
        if self._started:
            assert self._draft is not None
            return self._draft.write(piece)
        self._first += piece
        if b"\r\n" in self._first or len(self._first) >= FIRST_LINE:
            return self._start()
        return None

    def _start(self) -> Deferred[None] | None:
        """Puts our trace on top; text that came without a header gets the empty line it needs."""
        assert self._draft is not None
        self._started = True
        only = next(iter(self._rulings)) if len(self._rulings) == 1 else None
        house = self._house
        field = received(self._client, house.hostname, self._id, only, house.now())
        if not begins_with_header(self._first):
            field += b"\r\n"
        self._ours = len(field)
        first, self._first = self._first, b""
        return self._draft.write(field + first)

    def abort(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()

    # ------------------------------------------------------------- custody

    def commit(self) -> Deferred[Reply]:
        if not self._started:
            self._start()
        assert self._draft is not None
        if hops(self._draft.head()) > self._house.max_hops + 1:  # our own field is among them
            self.abort()
            return succeed(LOOP)
        return maybeDeferred(self._take).addErrback(self._failed)

    def _take(self) -> Deferred[Reply]:
        if self._mode is Mode.MAIL:
            return self._spooled([Recipient(path) for path in self._rulings])
        if self._mode is Mode.SAML:
            shown = self._message()
            return self._spooled(self._mailed(self._local())).addCallback(self._besides, shown)
        return self._show(self._local(), self._message()).addCallback(self._shown)

    def _shown(self, reached: set[Destination]) -> Deferred[Reply]:
        missed = [(path, where) for path, where in self._local() if where not in reached]
        elsewhere = self._elsewhere()
        if self._mode is Mode.SOML:
            rest = self._mailed(missed)
        elif not reached and not elsewhere:
            self.abort()
            return succeed(NOBODY_REACHED)
        else:
            # One more attempt by dispatch, and then the notice.
            rest = [*elsewhere, *(self._child(path, where, Mode.SEND) for path, where in missed)]
        if rest:
            return self._spooled(rest)
        self.abort()
        self._log("shown")
        return succeed(OK)

    def _besides(self, reply: Reply, message: Message) -> Reply:
        """SAML: the mailbox has it; what happens on the terminal changes nothing any more."""
        if reply.ok:
            self._show(self._local(), message).addErrback(
                lambda failure: self._house.log.failure("message {id} was not shown", failure, id=self._id)
            )
        return reply

    # ------------------------------------------------------------- who gets what

    def _local(self) -> list[tuple[Path, Destination]]:
        return [
            (path, where)
            for path, ruling in self._rulings.items()
            for where in ruling.destinations
            if isinstance(where.place, Local)
        ]

    def _elsewhere(self) -> list[Recipient]:
        """Recipients on other hosts, to be relayed by the same verb."""
        recipients = []
        for path, ruling in self._rulings.items():
            if len(ruling.destinations) == 1 and not isinstance(ruling.destinations[0].place, Local):
                recipients.append(Recipient(path, self._mode))  # routed again from what was said
                continue
            recipients += [
                self._child(path, where, self._mode)
                for where in ruling.destinations
                if not isinstance(where.place, Local)
            ]
        return recipients

    def _mailed(self, local: Iterable[tuple[Path, Destination]]) -> list[Recipient]:
        return [*self._elsewhere(), *(self._child(path, where, Mode.MAIL) for path, where in local)]

    def _child(self, path: Path, where: Destination, mode: Mode) -> Recipient:
        original = path if where.path != path else None
        return Recipient(where.path, mode, original=original, sender=where.sender)

    # ------------------------------------------------------------- terminals and spool

    def _message(self) -> Message:
        assert self._draft is not None
        head = self._draft.head()
        return Message(self._reverse_path, head[self._ours :], cut=self._draft.size > len(head))

    def _show(self, local: list[tuple[Path, Destination]], message: Message) -> Deferred[set[Destination]]:
        """Writes to each user once; fires with the destinations that were reached."""
        users = list(dict.fromkeys(where.place.user for _, where in local if isinstance(where.place, Local)))
        shows = [self._house.terminals.show(user, message) for user in users]

        def counted(counts: list[int]) -> set[Destination]:
            there = {user for user, count in zip(users, counts, strict=True) if count}
            return {
                where for _, where in local if isinstance(where.place, Local) and where.place.user in there
            }

        return gatherResults(shows, consumeErrors=True).addCallback(counted)

    def _spooled(self, recipients: list[Recipient]) -> Deferred[Reply]:
        assert self._draft is not None
        draft, self._draft = self._draft, None
        size = draft.size
        envelope = Envelope(self._mode, self._reverse_path, tuple(recipients), self._terms)

        def stored(_: None) -> Reply:
            self._log("taken", recipients=len(recipients), size=size)
            return Reply(250, f"OK, queued as {self._id}", "2.0.0") if self._client.extended else OK

        return self._store(self._id, envelope, draft).addCallback(stored)

    def _failed(self, failure: Failure) -> Reply:
        self.abort()
        self._house.log.failure("message {id} could not be taken", failure, id=self._id)
        return NO_STORAGE if not self._house.spool.has_room(0) else LOCAL_ERROR

    def _log(self, what: str, recipients: int = 0, size: int = 0) -> None:
        self._house.log.info(
            "{id} {what}: {mode} from {sender} by {client}, {recipients} recipients spooled, {size} octets",
            id=self._id,
            what=what,
            mode=self._mode.value,
            sender=str(self._reverse_path),
            client=self._client.identity or self._client.address or "local socket",
            recipients=recipients,
            size=size,
        )
