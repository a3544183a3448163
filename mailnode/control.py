"""The control socket: how the command line talks to a running node.

A UNIX socket in the data folder, mode 0600: who may open it may do what the node may. One JSON object a
line: a request `{"do": name, ...}`, then any number of `{"said": [speaker, text]}` and one last object
with `"ok": true` or `"error": "..."`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

MAX_LINE: Final = 65536  # octets
CONNECTIONS: Final = 50

Answer: TypeAlias = Mapping[str, Any]
Say: TypeAlias = Callable[[str, str], None]  # speaker, text: progress on the way to the answer
Action: TypeAlias = Callable[[Mapping[str, Any], Say], "Answer | Deferred[Answer]"]


class ControlError(Exception):
    """The request cannot be done; its text is for the person who asked."""


class Control(LineOnlyReceiver):
    """One connection of a command line; requests one after another."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, actions: Mapping[str, Action], forget: Callable[[Control], None]) -> None:
        self._actions = actions
        self._forget = forget
        self._there = True
        self._busy = False

    def lineReceived(self, line: bytes) -> None:
        if self._busy:
            self._send({"error": "one request at a time"})
            self.transport.loseConnection()  # type: ignore[union-attr]
            return
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        action = self._actions.get(str(request.get("do"))) if isinstance(request, dict) else None
        if action is None:
            self._send({"error": "not a request this node knows"})
            return
        self._busy = True
        maybeDeferred(action, request, self._say).addCallbacks(self._done, self._failed)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._send({"error": "request too long"})
        self.transport.loseConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._there = False
        self._forget(self)

    def _say(self, speaker: str, text: str) -> None:
        self._send({"said": [speaker, text]})

    def _done(self, answer: Answer) -> None:
        self._busy = False
        self._send({"ok": True, **answer})

    def _failed(self, failure: Failure) -> None:
        self._busy = False
        if failure.check(ControlError):
            self._send({"error": failure.getErrorMessage()})
        else:
            Logger("mailnode.control").failure("a request failed", failure)
            self._send({"error": "the node could not do that; its log says why"})

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._there:
            self.sendLine(json.dumps(message).encode("ascii"))  # type: ignore[no-untyped-call]


class ControlFactory(Factory):
    """`actions` are what can be asked for, by name."""

    noisy = False

    def __init__(self, actions: Mapping[str, Action]) -> None:
        self._actions = dict(actions)
        self._open: set[Control] = set()

    def buildProtocol(self, addr: object) -> Control | None:
        if len(self._open) >= CONNECTIONS:
            return None
        control = Control(self._actions, self._open.discard)
        self._open.add(control)
        return control
