"""The Sender's part as a script that reads like the RFC's dialogue, from top to bottom.

The script is a generator: `steps.py` says what it yields and what it is sent. It returns how it ended.
Whether a group goes out at once or one by one is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from secrets import token_urlsafe
from typing import Final, cast

from mailnode.mail import Reply
from mailnode.smtp import sasl
from mailnode.smtp.events import Ended, Ending, StartTls
from mailnode.smtp.giving import give_all
from mailnode.smtp.steps import (
    COMMAND_LINE,
    TURN_PATIENCE,
    Farewell,
    Greeting,
    Peer,
    Script,
    Step,
    say,
)

UNKNOWN_HOST: Final = (
    "The host wants the password itself, and nothing has proved that it is the right one: that needs "
    'tls = "verified", or its fingerprint'
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a Sender is to do on the channel besides giving letters away."""

    hostname: str  # what we call ourselves in EHLO
    extended: bool = True  # False for hosts that cannot bear EHLO
    name: str = ""  # AUTH, if not empty
    secret: str = field(default="", repr=False)
    turn: str = ""  # TURN or ATRN with its domains: said when the letters are given
    start: tuple[str, ...] = ()  # or ETRN for each of these
    pair: str = ""  # the words of XPAIR: use an invitation, and nothing else (docs/pairing.md)
    wait: int = 0  # seconds: ask for an open line with a sign of life that often, where XWAIT is offered
    tls: str = "none"  # opportunistic: where it is offered; required, verified: or not at all
    private: bool = False  # nobody on the way can read what is said or answer it: loopback, a local socket
    secure: bool = False  # TLS from the start
    known: bool = False  # under TLS the certificate was looked at: by its fingerprint, or by the endpoint
    certificate: bool = False  # we have one to show under TLS
    nonce: Callable[[], str] = token_urlsafe


def conversation(plan: Plan, peer: Peer) -> Script:
    """The whole dialogue, from the greeting to QUIT or TURN."""
    greeting = cast(Reply, (yield Greeting()))
    if greeting.code != 220:
        return Ended(Ending.REFUSED, greeting)
    refusal = yield from _hello(plan, peer)
    private = plan.private
    if refusal is None and plan.tls != "none":
        insecure = yield from _secure(plan, peer)
        if insecure is not None:
            return (yield from _quit(Ended(Ending.INSECURE, insecure)))
        if peer.secure:
            private = private or plan.known or plan.tls == "verified"
            refusal = yield from _hello(plan, peer)
    if refusal is None and (plan.name or plan.certificate):
        refusal = yield from _authenticate(plan, peer, private)
        if refusal is None and plan.wait:  # XWAIT is named to a peer that has proved itself, and to no other
            refusal = yield from _hello(plan, peer)
    if refusal is not None:
        return (yield from _quit(Ended(Ending.REFUSED, refusal)))
    if plan.pair:
        return (yield from _quit(Ended(Ending.DONE, (yield from say(f"XPAIR {plan.pair}")))))
    yield from give_all(peer)
    if plan.turn and not peer.leaving:
        return (yield from _turn(plan, peer))
    last = greeting
    for node in () if peer.leaving else plan.start:
        last = yield from say(f"ETRN {node}")  # RFC 1985 5
    return (yield from _quit(Ended(Ending.DONE, last)))


def _turn(plan: Plan, peer: Peer) -> Script:
    """RFC 821 3.8, RFC 2645 5.2."""
    wait = 0
    if plan.wait and peer.offers("XWAIT"):
        answer = yield from say(f"XWAIT {plan.wait}")
        wait = plan.wait if answer.code == 250 else 0
    answer = yield from say(plan.turn, TURN_PATIENCE)
    if answer.code == 250:
        return Ended(Ending.TURNED, answer, wait)
    return (yield from _quit(Ended(Ending.DONE, answer)))


def _quit(ended: Ended) -> Script:
    yield Farewell(ended)
    return ended


def _hello(plan: Plan, peer: Peer) -> Generator[Step, object, Reply | None]:
    """EHLO, or HELO where it is not understood (RFC 5321 3.2). The refusal, or None."""
    if plan.extended:
        reply = yield from say(f"EHLO {plan.hostname}")
        if reply.code == 250:
            peer.learn(reply)
            return None
        if reply.code not in (500, 501, 502, 503, 504, 550):
            return reply
    reply = yield from say(f"HELO {plan.hostname}")
    return None if reply.code == 250 else reply


def _secure(plan: Plan, peer: Peer) -> Generator[Step, object, Reply | None]:
    """STARTTLS (RFC 3207). None if there is TLS now, or none is offered and none was required."""
    required = plan.tls != "opportunistic"
    if not peer.offers("STARTTLS"):
        no_tls = Reply(454, "TLS is required, and the host offers none", "4.7.4")
        return no_tls if required else None
    reply = yield from say("STARTTLS")
    if reply.code != 220:
        if required:
            return Reply(454, f"TLS is required, and the host refused it: {reply}", "4.7.4")
        return None
    yield StartTls()
    return None


def _authenticate(plan: Plan, peer: Peer, private: bool) -> Generator[Step, object, Reply | None]:
    """AUTH (RFC 4954). The refusal, or None.

    With `private` the secret itself may be said: TLS with anybody keeps it from who listens, and gives it
    to who stands in between.
    """
    offered = peer.keywords.get("AUTH", "").upper().split()
    certificate = plan.certificate and (plan.secure or peer.secure)
    chosen = sasl.choose(
        offered, plan.name, plan.secret, private=private, certificate=certificate, nonce=plan.nonce
    )
    if chosen is None and not plan.name:
        return None  # a certificate alone was shown in the handshake; the host may want no more
    if chosen is None and not private and not {"PLAIN", "LOGIN"}.isdisjoint(offered):
        return Reply(504, UNKNOWN_HOST, "5.7.4")
    if chosen is None:
        return Reply(504, "The host offers no way to authenticate that we know", "5.7.4")
    mechanism, exchange = chosen
    initial = exchange.first()
    line = f"AUTH {mechanism}" + ("" if initial is None else f" {sasl.encode(initial) or '='}")
    late = len(line) > COMMAND_LINE  # RFC 4954 4: then it answers the first challenge, which is empty
    reply = yield from say(f"AUTH {mechanism}" if late else line)
    while reply.code == 334:  # every exchange ends: it has no response to a challenge too many
        challenge = sasl.decode(reply.lines[0].encode("ascii"))
        if late:
            response, late = initial, False
        else:
            response = None if challenge is None else exchange.respond(challenge)
        reply = yield from say("*" if response is None else sasl.encode(response))
        if response is None:
            return Reply(504, f"The host does not keep to {mechanism}", "5.7.4")
    if reply.code == 235:
        if exchange.done:
            return None
        return Reply(504, f"The host did not prove that it knows the secret ({mechanism})", "5.7.4")
    return reply
