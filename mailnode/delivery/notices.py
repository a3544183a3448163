"""Tells senders what became of their mail, and sees to it that nobody is told for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mailnode.delivery.dsn import HEADER_SIZE, Report, build, header_of
from mailnode.interfaces import IIntake, INotices, Results
from mailnode.mail import NULL_PATH, Body, Entry, Envelope, Mode, Origin, Outcome, Path, Recipient, Result


@implementer(INotices)
class Notices:
    """Notices go by MAIL with the null reverse-path, back along the reverse-path (RFC 821 3.6).

    | what failed                              | who is told    | origin of the notice |
    |------------------------------------------|----------------|----------------------|
    | a message with a reverse-path            | that path      | NOTICE               |
    | one that came by a list with an owner    | the owner      | NOTICE               |
    | a NOTICE, or one with a null path        | the postmaster | LAST                 |
    | a LAST                                   | nobody: logged |                      |

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

    async def _failed(self, entry: Entry, results: Results) -> None:
        for path, those in _by_sender(entry, results, Outcome.FAILED):
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
        for path, those in _by_sender(entry, results, Outcome.LATER):
            if not path.is_null:
                await self._send("delayed", entry, those, path, Origin.NOTICE, until)

    async def _send(
        self,
        action: str,
        entry: Entry,
        those: list[tuple[Recipient, Result]],
        to: Path,
        origin: Origin,
        until: float = 0.0,
    ) -> None:
        report = Report(
            id=self._new_id(),
            hostname=self._hostname,
            to=to,
            action=action,
            results=those,
            header=self._header(entry),
            arrived=entry.arrived,
            now=self._clock(),
            until=until,
            notice=origin is Origin.LAST,
        )
        envelope = Envelope(Mode.MAIL, NULL_PATH, (Recipient(to),), origin=origin)
        await self._intake.submit(envelope, Body.of(build(report)))

    def _header(self, entry: Entry) -> bytes:
        try:
            return header_of(entry.body.head(HEADER_SIZE))
        except OSError as error:  # the sender is told all the same
            self._log.warn("body of {id} cannot be read: {reason}", id=entry.id, reason=error.strerror)
            return b""


def _by_sender(
    entry: Entry, results: Results, outcome: Outcome
) -> Iterator[tuple[Path, list[tuple[Recipient, Result]]]]:
    """The results of that outcome, together for each path that is to hear of them."""
    groups: dict[Path, list[tuple[Recipient, Result]]] = {}
    reverse_path = entry.envelope.reverse_path
    for recipient, result in results.items():
        if result.outcome is outcome:
            # A null path stays one, lists or not: nobody waits for notices about a notice.
            own = recipient.sender if recipient.sender is not None and not reverse_path.is_null else None
            groups.setdefault(own or reverse_path, []).append((recipient, result))
    yield from groups.items()
