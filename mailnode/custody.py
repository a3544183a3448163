"""Custody of one transaction: no promise is given before it is true.

What each verb needs (RFC 821 3.4):
- MAIL: everything goes into the spool, or at once into the one mailbox that it is for.
- SEND: shown on terminals before the reply. Recipients elsewhere, and those who left between RCPT and
  the last dot while others were reached, go into the spool: dispatch relays or sends the notice.
- SOML: shown, and spooled as MAIL for those who were not reached.
- SAML: spooled as MAIL, then shown besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol

from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.addressees import Addressees
from mailnode.heading import Heading
from mailnode.in_hand import MOST, InHand
from mailnode.interfaces import (
    ICustody,
    INotices,
    IRouting,
    ISpool,
    ISpoolDraft,
    ITerminals,
    Message,
    RepeatedError,
)
from mailnode.mail import (
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
    Result,
    Rights,
    Ruling,
    Terms,
)
from mailnode.received import header_of, hops, missing_fields, received, was_delivered_to
from mailnode.smtp.replies import OK, START_INPUT
from mailnode.standing import standing

NOT_ACTIVE: Final = Reply(450, "User not active now", "4.2.1")
WILL_MAIL: Final = Reply(250, "User not active now, so will do mail.", "2.1.5")
NOBODY_REACHED: Final = Reply(451, "No recipient is active now", "4.2.1")
TAKEN_BEFORE: Final = Reply(250, "OK, it was taken before", "2.0.0")
NO_MEMORY: Final = Reply(452, "Requested action not taken: too much mail at the moment", "4.3.1")
NOT_NOW: Final = Reply(451, "Requested action aborted: too much mail at the moment", "4.3.1")  # of DATA
NO_STORAGE: Final = Reply(452, "Requested action not taken: insufficient system storage", "4.3.1")
LOCAL_ERROR: Final = Reply(451, "Requested action aborted: local error in processing", "4.3.0")
LOOP: Final = Reply(554, "Transaction failed: too many hops, this looks like a mail loop", "5.4.6")
CAME_BACK: Final = Reply(554, "Transaction failed: the message has been in this mailbox before", "5.4.6")
HEADER_TOO_LONG: Final = Reply(552, "Transaction failed: the header is too long", "5.3.4")


@dataclass(frozen=True, slots=True)
class House:
    """What every custody asks."""

    hostname: str
    routing: IRouting
    terminals: ITerminals
    spool: ISpool
    now: Callable[[], float]  # seconds since the epoch
    max_hops: int
    header_size: int  # octets
    in_hand: InHand
    log: Logger


class Store(Protocol):
    """What takes a message that is complete; `notices` tells of what is settled before that."""

    notices: INotices | None

    def store(
        self,
        id: str,
        envelope: Envelope,
        draft: ISpoolDraft,
        once: bytes = b"",
        patient: bool = False,
        hurry: bool = True,
        where: Destination | None = None,
    ) -> Deferred[Result | None]: ...


@implementer(ICustody)
class Custody:
    """One transaction."""

    __slots__ = (
        *("_house", "_intake", "_client", "_rights", "_mode", "_reverse_path", "_terms", "_addressees"),
        *("_draft", "_heading", "_head", "_id", "_eight_bit", "_counted", "_dropped", "_once"),
        "_hurry",
    )

    def __init__(
        self,
        house: House,
        intake: Store,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        terms: Terms,
        once: str,
    ) -> None:
        self._house = house
        self._intake = intake
        self._client = client
        self._rights = rights
        self._mode = mode
        self._reverse_path = reverse_path
        self._terms = terms
        self._eight_bit = False  # what the data holds, whatever was declared
        self._addressees = Addressees(mode, terms)
        self._draft: ISpoolDraft | None = None
        self._id = ""
        self._head = b""  # of the whole message, with our fields
        self._counted = 0  # octets of it that are in memory
        self._once = once
        self._hurry = True
        self._dropped = False  # there was no room for it: the client is heard out
        whole = client.listener == "submission"  # what its header lacks is added, so it must be known
        self._heading = Heading(self._trace, house.header_size, whole)

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
        self._addressees.add(path, ruling, notify, orcpt)
        return reply

    def _terminal_reply(self, ruling: Ruling) -> Reply:
        """RFC 821 3.4 and Appendix F, scenarios 5 and 6."""
        users = [where.place.user for where in ruling.destinations if isinstance(where.place, Local)]
        if len(users) < len(ruling.destinations):
            return ruling.reply
        sender, where = self._reverse_path, standing(self._client, self._rights)
        if any(self._house.terminals.accepts(user, sender, where) for user in users):
            return ruling.reply
        return NOT_ACTIVE if self._mode is Mode.SEND else WILL_MAIL

    def open(self) -> Reply:
        if self._house.in_hand.is_full:
            return NOT_NOW
        self._id = self._house.spool.new_id()
        self._draft = self._house.spool.draft()
        return START_INPUT

    def write(self, piece: bytes) -> Deferred[None] | None:
        if self._dropped:
            return None
        assert self._draft is not None
        more = min(len(piece), MOST - self._counted)
        if more > 0:
            if not self._house.in_hand.take(more):
                self.abort()
                self._dropped = True
                return None
            self._counted += more
        if not self._eight_bit and not piece.isascii():
            self._eight_bit = True
        octets = self._heading.take(piece)
        return self._draft.write(octets) if octets else None

    def _trace(self, header: bytes | None) -> bytes:
        """Our fields on top of a message."""
        client, house, now = self._client, self._house, self._house.now()
        only, utf8 = self._addressees.only, self._terms.utf8
        fields = received(client, house.hostname, self._id, only, now, utf8)
        if client.listener == "submission" and header is not None:
            fields += missing_fields(header, house.hostname, self._id, now)
        return fields

    def abort(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.discard()
        self._out_of_hand()

    def _out_of_hand(self) -> None:
        """Its octets are in memory no longer, or are the spool's now."""
        self._house.in_hand.give_back(self._counted)
        self._counted = 0

    # ------------------------------------------------------------- custody

    def commit(self, hurry: bool = True) -> Deferred[Reply]:
        self._hurry = hurry
        if self._dropped:
            return succeed(NO_MEMORY)
        assert self._draft is not None
        if rest := self._heading.end():
            self._draft.write(rest)
        self._head = self._draft.head()
        refusal = self._refusal(self._head)
        if refusal is not None:
            self.abort()
            return succeed(refusal)
        self._terms = self._terms_in_truth()
        try:
            taken = self._take()
        except Exception:
            taken = fail()
        return taken.addErrback(self._failed)

    def _refusal(self, head: bytes) -> Reply | None:
        """What is wrong with the message itself."""
        if self._heading.too_long:
            return HEADER_TOO_LONG
        header = header_of(head)
        if hops(header) > self._house.max_hops + 1:  # our own field is among them
            return LOOP
        # Delivery would find it, too; but a refusal now bothers nobody whose address was forged.
        if self._mode is Mode.MAIL and self._came_back(header):
            return CAME_BACK
        return None

    def _came_back(self, header: bytes) -> bool:
        """Whether all of the mailboxes that the message would go to had it before."""
        if b"delivered-to" not in header.lower():
            return False
        return all(
            isinstance(where.place, Local) and was_delivered_to(header, where.path.mailbox)
            for where in self._addressees.destinations()
        )

    def _terms_in_truth(self) -> Terms:
        """The terms as the message needs them: every one too many is a host that cannot take it."""
        terms, ascii_only = self._terms, self._heading.is_ascii
        if terms.utf8 and ascii_only:
            ascii_only = str(self._reverse_path).isascii() and self._addressees.are_ascii()
        eight_bit = terms.eight_bit if terms.binary else self._eight_bit
        utf8 = terms.utf8 and not ascii_only
        if (eight_bit, utf8) == (terms.eight_bit, terms.utf8):
            return terms
        return replace(terms, eight_bit=eight_bit, utf8=utf8)

    def _take(self) -> Deferred[Reply]:
        if self._mode is Mode.MAIL:
            return self._spooled(self._addressees.said())
        if self._mode is Mode.SAML:
            shown = self._message()
            taken = self._spooled(self._addressees.mailed(self._addressees.local()))
            return taken.addCallback(self._besides, shown).addCallback(self._told, set())
        return self._show(self._addressees.local(), self._message()).addCallback(self._shown)

    def _shown(self, reached: set[Destination]) -> Deferred[Reply]:
        who = self._addressees
        missed = [(path, where) for path, where in who.local() if where not in reached]
        elsewhere = who.elsewhere()
        if self._mode is Mode.SOML:
            rest = who.mailed(missed)
        elif not reached and not elsewhere:
            self.abort()
            return succeed(NOBODY_REACHED)
        else:
            # One more attempt by dispatch, and then the notice.
            rest = [*elsewhere, *(who.heir(path, where, Mode.SEND) for path, where in missed)]
        if rest:
            return self._spooled(rest).addCallback(self._told, reached)
        told = self._told(OK, reached)
        self.abort()
        self._log("shown")
        return told

    def _besides(self, reply: Reply, message: Message) -> Reply:
        """SAML: the mailbox has it; what happens on the terminal changes nothing any more."""
        if reply.ok:
            self._show(self._addressees.local(), message).addErrback(
                lambda failure: self._house.log.failure("message {id} was not shown", failure, id=self._id)
            )
        return reply

    # ------------------------------------------------------------- notices

    def _told(self, reply: Reply, reached: set[Destination]) -> Deferred[Reply]:
        """Tells the sender of what is settled here, where that was asked for, before the reply."""
        notices, results = self._intake.notices, self._addressees.settled(reached)
        if notices is None or not results or not reply.ok:
            return succeed(reply)
        envelope = Envelope(self._mode, self._reverse_path, tuple(results), self._terms)
        entry = Entry(self._id, envelope, Body.of(self._head), self._house.now())

        def not_told(failure: Failure) -> None:
            # The message is shown, or safe: a refusal would bring it once more.
            self._house.log.failure("{id}: the sender cannot be told", failure, id=self._id)

        return notices.succeeded(entry, results).addErrback(not_told).addCallback(lambda _: reply)

    # ------------------------------------------------------------- terminals and spool

    def _message(self) -> Message:
        assert self._draft is not None
        head = self._draft.head()
        cut = self._draft.size > len(head)
        where = standing(self._client, self._rights)
        return Message(self._reverse_path, head[self._heading.ours :], cut, where)

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

        def stored(result: Result | None) -> Reply:
            self._out_of_hand()
            if result is None:
                self._log("taken", recipients=len(recipients), size=size)
            else:
                self._log_delivered(recipients[0], result, size)
            return Reply(250, f"OK, queued as {self._id}", "2.0.0") if self._client.extended else OK

        patient = self._client.turned
        if not self._once:
            where = None if patient else self._only_mailbox(recipients)
            taken = self._intake.store(self._id, envelope, draft, b"", patient, self._hurry, where)
            return taken.addCallback(stored)
        key = _once_key(self._client, self._once, recipients)
        taken = self._intake.store(self._id, envelope, draft, key, patient, self._hurry)
        return taken.addCallbacks(stored, self._repeated)

    def _only_mailbox(self, recipients: list[Recipient]) -> Destination | None:
        """Where the message goes, if that is one mailbox here and nobody is to hear of it."""
        where = self._addressees.only_place
        if where is None or self._mode is not Mode.MAIL or "SUCCESS" in recipients[0].notify:
            return None
        return where if where.sender is None else None  # a list's owner would hear of failures

    def _repeated(self, failure: Failure) -> Reply:
        """The client did not hear our reply the first time."""
        failure.trap(RepeatedError)
        self._out_of_hand()
        self._log("was taken before")
        return TAKEN_BEFORE

    def _failed(self, failure: Failure) -> Reply:
        self.abort()
        self._house.log.failure("message {id} could not be taken", failure, id=self._id)
        return NO_STORAGE if not self._house.spool.has_room(0) else LOCAL_ERROR

    def _log_delivered(self, recipient: Recipient, result: Result, size: int) -> None:
        self._house.log.info(
            "{id} delivered: MAIL to {recipient}: {reply}; from {sender} by {client}, {size} octets, at once",
            id=self._id,
            recipient=str(recipient.path),
            reply=str(result.reply),
            sender=str(self._reverse_path),
            client=self._client.identity or self._client.address or "local socket",
            size=size,
        )

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


def _once_key(client: Client, once: str, recipients: Sequence[Recipient]) -> bytes:
    """What a transaction is remembered by: who brought it, what it calls it, and for whom it was accepted. If
    another recipient is accepted the next time, it is another transaction: none may be lost."""
    paths = sorted(str(recipient.path) for recipient in recipients)
    said = "\0".join((client.identity or client.called or client.fingerprint or client.address, once, *paths))
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
