"""How a process wakes the other one over the same spool: what receives, and what works the spool off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.interfaces import Attempt, IDispatch
from mailnode.mail import Entry

PAUSE: Final = 0.05  # seconds between two nudges


@implementer(IDispatch)
class Nudge:
    """Says `wake` on the control socket `path`; if nobody is there the mail waits in the spool."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._reactor = reactor
        self._path = path
        self._soon: IDelayedCall | None = None

    def take(self, entry: Entry, attempt: Attempt | None = None) -> None:
        raise ValueError("this process leases nothing")

    def has_room(self, patient: bool = False) -> bool:
        return False

    def wake(self, patient: bool = False) -> None:
        if self._soon is None:
            self._soon = self._reactor.callLater(PAUSE, self._say)

    def start(self, domains: Sequence[str], stranger: bool) -> Deferred[bool]:
        """Passes an ETRN on; fires with whether anybody was there."""
        words = json.dumps({"do": "start", "domains": list(domains), "stranger": stranger})

        def there(protocol: Protocol) -> bool:
            _write(protocol, words.encode("ascii") + b"\n")
            return True

        endpoint = UNIXClientEndpoint(self._reactor, self._path, timeout=2)
        connected: Deferred[Protocol] = endpoint.connect(_Silent())
        return connected.addCallbacks(there, lambda _: False)

    def _say(self) -> None:
        self._soon = None
        endpoint = UNIXClientEndpoint(self._reactor, self._path, timeout=2)
        endpoint.connect(_Silent()).addCallbacks(_wake, _nobody)


class _Silent(Factory):
    """Connections that say something and close; none is worth a line in the log."""

    noisy = False
    protocol = Protocol


def _wake(protocol: Protocol) -> None:
    _write(protocol, b'{"do": "wake"}\n')


def _write(protocol: Protocol, line: bytes) -> None:
    assert protocol.transport is not None
    protocol.transport.write(line)
    protocol.transport.loseConnection()


def _nobody(_failure: Failure) -> None:
    """No sender runs now; the spool keeps the mail, and a sender looks into it when it starts."""
