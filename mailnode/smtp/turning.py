"""The Receiver's commands by which hosts that are not always there fetch their mail.

TURN (RFC 821 3.8), ATRN (RFC 2645), ETRN (RFC 1985), and XWAIT (docs/xwait.md), which keeps a turned line
open. Whether a client may is for its rights and for peering to say; never by what it called itself.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from mailnode.mail import Reply, Turn
from mailnode.smtp import events, replies
from mailnode.smtp.grammar import parse_domain
from mailnode.smtp.machine import Machine, State

DOMAINS: Final = 100  # in one ATRN
WAIT_LEAST: Final = 1  # seconds
WAIT_MOST: Final = 3600

_seconds = re.compile(r"[0-9]{1,5}\Z").match


class Turning(Machine):
    """The part of a Receiver that turns the line."""

    authenticated: bool
    _wait = 0

    def turn(self, argument: str) -> None:
        if argument:
            self._error(replies.UNKNOWN_COMMAND)  # RFC 821 4.3: TURN has no 501
        elif not self.rights.turn:
            self._error(replies.TURN_REFUSED)
        else:
            self._ask_turn(Turn())

    def atrn(self, argument: str) -> None:
        domains = argument.lower().split(",") if argument else []
        if not self.rights.atrn:
            self._error(replies.NOT_FOR_YOU)
        elif not (self.rights.turn or self.authenticated):
            self._error(replies.AUTH_FIRST)  # RFC 2645 5.2.1
        elif len(domains) > DOMAINS or not all(_is_fully_qualified(domain) for domain in domains):
            self._error(replies.BAD_DOMAINS)
        else:
            self._ask_turn(Turn(atrn=True, domains=tuple(dict.fromkeys(domains))))

    def _ask_turn(self, turn: Turn) -> None:
        if self._nothing_behind():
            self._ask(events.AskTurn(replace(turn, wait=float(self._wait))), self._turn_answered)

    def _turn_answered(self, reply: Reply) -> None:
        if not reply.ok:
            self._idle += 1
            self._say(reply)
        elif self._nothing_behind():
            self.state = State.GONE
            self._say(reply)
            self._out.append(events.Turned())

    def xwait(self, argument: str) -> None:
        if not self.rights.turn:
            self._error(replies.NOT_FOR_YOU)
        elif not _seconds(argument) or not WAIT_LEAST <= int(argument) <= WAIT_MOST:
            self._error(replies.BAD_WAIT)
        else:
            self._wait = int(argument)
            self._say(replies.OK)

    def etrn(self, argument: str) -> None:
        if not self.rights.etrn:
            self._error(replies.NOT_FOR_YOU)
        elif not (argument[:1] == "#" or parse_domain(argument.removeprefix("@"))):
            self._error(replies.BAD_DOMAINS)  # RFC 1985 5.3: a name, @ and all below it, or # and a queue
        else:
            self._ask(events.AskStart(argument.lower()), self._say)


def _is_fully_qualified(domain: str) -> bool:
    return "." in domain and parse_domain(domain) is not None
