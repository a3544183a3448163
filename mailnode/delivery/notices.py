"""Tells senders what became of their mail, and sees to it that nobody is told for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailnode.delivery.dsn import HEADER_SIZE, Report, build, header_of, may_return, success
from mailnode.interfaces import IIntake, INotices, Results
from mailnode.letters import terms_of
from mailnode.mail import (
    CHUNK,
    NULL_PATH,
    Body,
    Entry,
    Envelope,
    Mode,
    Origin,
    Outcome,
    Path,
    Recipient,
    Result,
    Terms,
)

FULL: Final = CHUNK  # octets up to which a message goes back whole, if its sender wants it


@implementer(INotices)
class Notices:
    """Notices go by MAIL with the null reverse-path, back along the reverse-path (RFC 821 3.6).

    | what failed                              | who is told    | origin of the notice |
    |------------------------------------------|----------------|----------------------|
    | a message with a reverse-path            | that path      | NOTICE               |
    | one that came by a list with an owner    | the owner      | NOTICE               |
    | a NOTICE, or one with a null path        | the postmaster | LAST                 |
    | a LAST                                   | nobody: logged |                      |

    Nobody hears of what NOTIFY does not name (RFC 3461 4.1); where it was not said, of failures and
    delays. What goes back is the header: the whole message only to who said RET=FULL, for the
    reverse-path of other mail may be forged.

    `clock` gives seconds since the epoch, `new_id` an id that is safe in a header field.
    """

    _log = Logger()

    def __init__(
        self,
        hostname: str,
        postmaster: Path,
        intake: IIntake,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._hostname = hostname
        self._postmaster = postmaster
        self._intake = intake
        self._clock = clock
        self._new_id = new_id

    def failed(self, entry: Entry, results: Results) -> Deferred[None]:
        """Errbacks if a notice could not be spooled: then it has to be asked for again."""
        return Deferred.fromCoroutine(self._failed(entry, results))

    def delayed(self, entry: Entry, results: Results, until: float) -> Deferred[None]:
        return Deferred.fromCoroutine(self._delayed(entry, results, until))

    def succeeded(self, entry: Entry, results: Results) -> Deferred[None]:
        """Errbacks if a notice could not be spooled."""
        return Deferred.fromCoroutine(self._succeeded(entry, results))

    async def _failed(self, entry: Entry, results: Results) -> None:
        for path, those in _by_sender(entry, _wanted(results, Outcome.FAILED, "FAILURE")):
            origin = entry.envelope.origin
            if origin is Origin.LAST:
                self._log.warn("notice {id} could not be delivered and is dropped", id=entry.id)
            elif origin is Origin.NOTICE or path.is_null:
                await self._send("failed", entry, those, self._postmaster, Origin.LAST)
            else:
                await self._send("failed", entry, those, path, Origin.NOTICE)

    async def _delayed(self, entry: Entry, results: Results, until: float) -> None:
        if entry.envelope.origin is not Origin.NORMAL:
            return
        for path, those in _by_sender(entry, _wanted(results, Outcome.LATER, "DELAY")):
            if not path.is_null:
                await self._send("delayed", entry, those, path, Origin.NOTICE, until)

    async def _succeeded(self, entry: Entry, results: Results) -> None:
        if entry.envelope.origin is not Origin.NORMAL:
            return
        told = [(recipient, result) for recipient, result in results.items() if success(recipient, result)]
        for path, those in _by_sender(entry, told):
            if not path.is_null:
                await self._send("succeeded", entry, those, path, Origin.NOTICE)

    async def _send(
        self,
        action: str,
        entry: Entry,
        those: list[tuple[Recipient, Result]],
        to: Path,
        origin: Origin,
        until: float = 0.0,
    ) -> None:
        terms = terms_of(entry.envelope, those[0][0])  # all of them are told by the same path
        # A message to a terminal is a line or two, often without a header: without its text nobody would
        # know which it was.
        wanted = terms.ret == "FULL" or (entry.envelope.mode is Mode.SEND and not terms.ret)
        header, text = self._returned(entry, terms, whole=action == "failed" and wanted)
        report = Report(
            id=self._new_id(),
            hostname=self._hostname,
            to=to,
            action=action,
            results=those,
            header=header,
            arrived=entry.arrived,
            now=self._clock(),
            until=until,
            notice=origin is Origin.LAST,
            text=text,
            # To the postmaster the envelope identifier of somebody else means nothing.
            terms=replace(terms, envid="") if origin is Origin.LAST else terms,
        )
        octets = build(report)
        needed = Terms(eight_bit=not octets.isascii(), utf8=not to.mailbox.isascii())
        envelope = Envelope(Mode.MAIL, NULL_PATH, (Recipient(to),), needed, origin)
        await self._intake.submit(envelope, Body.of(octets))

    def _returned(self, entry: Entry, terms: Terms, whole: bool) -> tuple[bytes, bytes]:
        """The header, and the whole message if it is to go back and can."""
        whole = whole and entry.body.size <= FULL
        try:
            head = entry.body.head(FULL if whole else HEADER_SIZE)
        except OSError as error:  # the sender is told all the same
            self._log.warn("body of {id} cannot be read: {reason}", id=entry.id, reason=error.strerror)
            return b"", b""
        return header_of(head), head if whole and may_return(head, terms) else b""


def _wanted(results: Results, outcome: Outcome, word: str) -> list[tuple[Recipient, Result]]:
    """The results of that outcome that somebody wants to hear of (RFC 3461 4.1)."""
    return [
        (recipient, result)
        for recipient, result in results.items()
        if result.outcome is outcome and (not recipient.notify or word in recipient.notify)
    ]


def _by_sender(
    entry: Entry, results: list[tuple[Recipient, Result]]
) -> Iterator[tuple[Path, list[tuple[Recipient, Result]]]]:
    """The results, together for each path that is to hear of them."""
    groups: dict[Path, list[tuple[Recipient, Result]]] = {}
    reverse_path = entry.envelope.reverse_path
    for recipient, result in results:
        # A null path stays one, lists or not: nobody waits for notices about a notice.
        own = recipient.sender if recipient.sender is not None and not reverse_path.is_null else None
        groups.setdefault(own or reverse_path, []).append((recipient, result))
    yield from groups.items()
