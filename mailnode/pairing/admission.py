"""The hub's side of a pairing: who proves to hold a token may say once by what its secret is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import Eventually, IPairing
from mailnode.mail import Client, Reply, ScramKeys
from mailnode.pairing.invitation import parse_identity
from mailnode.pairing.invitations import Invitations
from mailnode.pairing.words import moment
from mailnode.smtp.replies import NOT_FOR_YOU

T = TypeVar("T")

NO_PEER: Final = Reply(451, "The peer is not in the configuration here, which may have to be reread", "4.3.5")
NOT_KEPT: Final = Reply(451, "The keys cannot be kept here now, the log says why", "4.3.0")


class DeferToThread(Protocol):
    """Runs a function in a thread and fires with its result."""

    def __call__(self, work: Callable[[], T], /) -> Deferred[T]: ...


@implementer(IPairing)
class Admission:
    """`keep` makes keys those of a peer, durably (OSError). `peers` are the domains of each peer that may
    prove itself by AUTH; `held` counts the messages that wait for some domains."""

    def __init__(
        self,
        invitations: Invitations,
        keep: Callable[[str, ScramKeys], None],
        peers: Mapping[str, Sequence[str]],
        held: Callable[[Sequence[str]], Deferred[int]],
        defer_to_thread: DeferToThread,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._invitations = invitations
        self._keep = keep
        self._peers = peers
        self._held = held
        self._defer_to_thread = defer_to_thread
        self._now = now
        self._log = Logger("mailnode.pairing")

    def keys(self, identity: str) -> Deferred[ScramKeys | None]:
        parsed = parse_identity(identity)
        if parsed is None:
            return succeed(None)

        def find() -> ScramKeys | None:
            # One that has ended has keys, too: its holder is told so when the proof is right.
            invitation = self._invitations.find(*parsed)
            return invitation.keys if invitation is not None else None

        def unreadable(failure: Failure) -> None:
            failure.trap(OSError, ValueError)
            self._log.error("invitation of {name}: {why}", name=parsed[0], why=failure.getErrorMessage())

        return self._defer_to_thread(find).addErrback(unreadable)

    def pair(self, client: Client, keys: ScramKeys) -> Deferred[Reply]:
        parsed = parse_identity(client.identity)
        if parsed is None:
            return succeed(NOT_FOR_YOU)
        name, id = parsed
        domains = self._peers.get(name)

        def use() -> Reply | None:
            if domains is None:
                return self._invitations.refusal(name, id) or NO_PEER
            return self._invitations.use(name, id, client.address, lambda: self._keep(name, keys))

        def used(refusal: Reply | None) -> Eventually[Reply]:
            if refusal is not None:
                self._log.info(
                    "{address}: no pairing as {name}: {why}",
                    address=client.address or "local",
                    name=name,
                    why=refusal.lines[0],
                )
                return refusal
            self._log.info("{address} has paired as {name}", address=client.address or "local", name=name)
            return self._count(domains or ()).addCallback(lambda count: self._welcome(name, count))

        def failed(failure: Failure) -> Reply:
            failure.trap(OSError, ValueError)
            self._log.error("{name} cannot be paired: {why}", name=name, why=failure.getErrorMessage())
            return NOT_KEPT

        answer: Deferred[Reply] = self._defer_to_thread(use).addCallback(used)
        return answer.addErrback(failed)

    def _count(self, domains: Sequence[str]) -> Deferred[int]:
        def uncounted(failure: Failure) -> int:
            self._log.failure("held mail cannot be counted", failure)
            return -1  # the pairing is done, whatever the count

        return self._held(domains).addErrback(uncounted)

    def _welcome(self, name: str, count: int) -> Reply:
        lines = [f"Paired as {name}", f"CLOCK {moment(self._now())}"]
        if count >= 0:
            lines.append(f"HELD {count}")
        return Reply(250, tuple(lines), "2.7.0")
