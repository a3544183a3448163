"""The Receiver's AUTH command and the lines of a SASL exchange (RFC 4954)."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe

from mailnode.mail import Reply, ScramKeys
from mailnode.smtp import events, replies, sasl
from mailnode.smtp.machine import Machine, State


class Authentication(Machine):
    """The part of a Receiver by which a client proves who it is."""

    authenticated = False
    nonce: Callable[[], str] = staticmethod(token_urlsafe)
    _exchange: sasl.Exchange | None = None
    _auth_failures = 0

    def auth(self, argument: str) -> None:
        name, _, initial = argument.partition(" ")
        name = name.upper()
        if self.authenticated:
            self._error(replies.AUTH_ALREADY)
        elif not self.rights.mechanisms:
            self._error(replies.NOT_FOR_YOU)
        elif name not in self.rights.mechanisms:
            self._error(replies.AUTH_UNKNOWN)
        else:
            octets = sasl.decode(initial.encode("ascii")) if initial else None
            if initial and octets is None:
                self._error(replies.AUTH_SYNTAX)
                return
            self._exchange = sasl.MECHANISMS[name](self.nonce, self.hostname)
            self._step(self._exchange.start(octets))

    def _auth_line(self, line: bytes, limit: int) -> None:
        self.state = State.IDLE
        assert self._exchange is not None
        if len(line) > limit:
            self._exchange = None
            self._error(replies.LINE_TOO_LONG)
            return
        if line == b"*":  # RFC 4954 4
            self._exchange = None
            self._say(replies.AUTH_CANCELLED)
            return
        octets = sasl.decode(line)
        self._step(None if octets is None else self._exchange.respond(octets))

    def _step(self, step: sasl.Step) -> None:
        if isinstance(step, sasl.Challenge):
            self.state = State.AUTH
            self._say(Reply(334, sasl.encode(step.octets)))
        elif isinstance(step, sasl.NeedKeys):
            self._ask(events.AskScramKeys(step.name), self._keys)
        else:
            self._exchange = None
            if step is None:
                self._error(replies.AUTH_SYNTAX)
            else:
                self._ask(events.AskCredentials(step.credentials), self._auth_answered)

    def _keys(self, keys: ScramKeys | Reply) -> None:
        assert self._exchange is not None
        if isinstance(keys, Reply):
            self._exchange = None
            self._auth_answered(keys)
        else:
            self._step(self._exchange.keys(keys))

    def _auth_answered(self, reply: Reply) -> None:
        self.authenticated = reply.ok
        self._say(reply)
        if reply.ok or reply.transient:
            return
        self._auth_failures += 1
        if self._auth_failures >= self.limits.auth_failures:
            self.refuse(replies.unavailable(self.hostname, "Too many failed authentications"))
