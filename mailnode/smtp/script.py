"""The Sender's part as a script that reads like the RFC's dialogue, from top to bottom.

The script is a generator. It yields steps and is sent their outcome:

    list[Command]  -> list[Reply | None]   a group; None for a command that was not said
    StartTls()     -> None                 TLS, of which the channel takes care
    Next()         -> Letter | None        the next letter to give away
    BodyOf(letter) -> Reply                the mail data and its end
    Settle(...)    -> None
    Farewell(...)  -> Reply                QUIT, and how it ended even if no reply comes

It returns how it ended. Whether a group goes out at once or one by one is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_urlsafe
from typing import Final, NamedTuple, TypeAlias, cast

from mailnode.mail import Handover, Letter, Mode, Outcome, Recipient, Reply, Result, Results
from mailnode.smtp import sasl
from mailnode.smtp.events import Ended, Ending, StartTls
from mailnode.smtp.grammar import encode_xtext

# RFC 1123 5.3.2, seconds
GREETING_PATIENCE: Final = 300
COMMAND_PATIENCE: Final = 300
DATA_PATIENCE: Final = 120
BLOCK_PATIENCE: Final = 180
END_PATIENCE: Final = 600
TURN_PATIENCE: Final = 600  # RFC 2645 5.2.1
QUIT_PATIENCE: Final = 20  # nothing is lost by not waiting

RECIPIENTS: Final = 100  # in one transaction: every receiver takes as many (RFC 821 4.5.3)
CHUNK: Final = 64 * 1024  # octets; a larger message is not sent before somebody is there to take it
COMMAND_LINE: Final = 510  # octets without CRLF (RFC 5321 4.5.3.1.4)
NEXT_SESSION: Final = Result(
    Outcome.UNTRIED, Reply(452, "The host takes no more messages in one session", "4.5.3")
)

Replies: TypeAlias = Sequence[Reply | None]


def _always(_replies: Replies) -> bool:
    return True


class Command(NamedTuple):
    """A command line, and whether it still makes sense after the replies to those before it.

    `when` is asked only where commands go out one by one.
    """

    line: str
    when: Callable[[Replies], bool] = _always
    patience: float = COMMAND_PATIENCE  # seconds to wait for the reply
    chunk: Letter | None = None  # its body follows the line, octet for octet (BDAT); last of its group


class Greeting(NamedTuple):
    """Wait for the 220."""


class Next(NamedTuple):
    pass


class BodyOf(NamedTuple):
    letter: Letter


class Settle(NamedTuple):
    letter: Letter
    results: Results


class Farewell(NamedTuple):
    """QUIT. Nothing is at stake any more: this is how it ended, whether a 221 comes or not."""

    ended: Ended


Step: TypeAlias = Greeting | list[Command] | StartTls | Next | BodyOf | Settle | Farewell
Script: TypeAlias = Generator[Step, object, Ended]


@dataclass(slots=True)
class Peer:
    """What the receiver has said about itself in its EHLO reply."""

    keywords: dict[str, str] = field(default_factory=dict)
    secure: bool = False  # TLS came about
    leaving: bool = False  # our node goes down: the line is not turned any more
    opened: int = 0  # transactions, taken or refused

    def offers(self, keyword: str) -> bool:
        return keyword in self.keywords

    def limit(self, name: str) -> int:
        """What LIMITS says of `name`, 0 if nothing (RFC 9422 3)."""
        for word in self.keywords.get("LIMITS", "").upper().split():
            key, _, value = word.partition("=")
            if key == name and value.isdigit() and len(value) <= 6:
                return int(value)
        return 0

    @property
    def exhausted(self) -> bool:
        """Whether it takes no further transaction in this session (RFC 9422 4.1)."""
        return 0 < self.limit("MAILMAX") <= self.opened

    @property
    def size_limit(self) -> int:
        """The fixed maximum message size in octets, 0 if none is known (RFC 1870 3)."""
        size = self.keywords.get("SIZE", "")
        return int(size) if size.isdigit() and len(size) <= 20 else 0

    def learn(self, reply: Reply) -> None:
        self.keywords.clear()
        for line in reply.lines[1:]:
            keyword, _, parameters = line.partition(" ")
            self.keywords[keyword.upper()] = parameters


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
    private: bool = False  # nobody on the way can read what is said: TLS from the start, or loopback
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
            private = True
            refusal = yield from _hello(plan, peer)
    if refusal is None and (plan.name or plan.certificate):
        refusal = yield from _authenticate(plan, peer, private)
        if refusal is None and plan.wait:  # XWAIT is named to a peer that has proved itself, and to no other
            refusal = yield from _hello(plan, peer)
    if refusal is not None:
        return (yield from _quit(Ended(Ending.REFUSED, refusal)))
    if plan.pair:
        return (yield from _quit(Ended(Ending.DONE, (yield from _say(f"XPAIR {plan.pair}")))))
    while not peer.exhausted and (letter := cast(Letter | None, (yield Next()))) is not None:
        yield from _give(letter, peer)
    if plan.turn and not peer.leaving:
        return (yield from _turn(plan, peer))
    last = greeting
    for node in () if peer.leaving else plan.start:
        last = yield from _say(f"ETRN {node}")  # RFC 1985 5
    return (yield from _quit(Ended(Ending.DONE, last)))


def _turn(plan: Plan, peer: Peer) -> Script:
    """RFC 821 3.8, RFC 2645 5.2."""
    wait = 0
    if plan.wait and peer.offers("XWAIT"):
        answer = yield from _say(f"XWAIT {plan.wait}")
        wait = plan.wait if answer.code == 250 else 0
    answer = yield from _say(plan.turn, TURN_PATIENCE)
    if answer.code == 250:
        return Ended(Ending.TURNED, answer, wait)
    return (yield from _quit(Ended(Ending.DONE, answer)))


def _say(line: str, patience: float = COMMAND_PATIENCE) -> Generator[Step, object, Reply]:
    (reply,) = cast(list[Reply], (yield [Command(line, patience=patience)]))
    return reply


def _quit(ended: Ended) -> Script:
    yield Farewell(ended)
    return ended


def _hello(plan: Plan, peer: Peer) -> Generator[Step, object, Reply | None]:
    """EHLO, or HELO where it is not understood (RFC 5321 3.2). The refusal, or None."""
    if plan.extended:
        reply = yield from _say(f"EHLO {plan.hostname}")
        if reply.code == 250:
            peer.learn(reply)
            return None
        if reply.code not in (500, 501, 502, 503, 504, 550):
            return reply
    reply = yield from _say(f"HELO {plan.hostname}")
    return None if reply.code == 250 else reply


def _secure(plan: Plan, peer: Peer) -> Generator[Step, object, Reply | None]:
    """STARTTLS (RFC 3207). None if there is TLS now, or none is offered and none was required."""
    required = plan.tls != "opportunistic"
    if not peer.offers("STARTTLS"):
        no_tls = Reply(454, "TLS is required, and the host offers none", "4.7.4")
        return no_tls if required else None
    reply = yield from _say("STARTTLS")
    if reply.code != 220:
        if required:
            return Reply(454, f"TLS is required, and the host refused it: {reply}", "4.7.4")
        return None
    yield StartTls()
    return None


def _authenticate(plan: Plan, peer: Peer, private: bool) -> Generator[Step, object, Reply | None]:
    """AUTH (RFC 4954). The refusal, or None."""
    offered = peer.keywords.get("AUTH", "").upper().split()
    certificate = plan.certificate and private
    chosen = sasl.choose(
        offered, plan.name, plan.secret, private=private, certificate=certificate, nonce=plan.nonce
    )
    if chosen is None and not plan.name:
        return None  # a certificate alone was shown in the handshake; the host may want no more
    if chosen is None:
        return Reply(504, "The host offers no way to authenticate that we know", "5.7.4")
    mechanism, exchange = chosen
    initial = exchange.first()
    line = f"AUTH {mechanism}" + ("" if initial is None else f" {sasl.encode(initial) or '='}")
    late = len(line) > COMMAND_LINE  # RFC 4954 4: then it answers the first challenge, which is empty
    reply = yield from _say(f"AUTH {mechanism}" if late else line)
    while reply.code == 334:  # every exchange ends: it has no response to a challenge too many
        challenge = sasl.decode(reply.lines[0].encode("ascii"))
        if late:
            response, late = initial, False
        else:
            response = None if challenge is None else exchange.respond(challenge)
        reply = yield from _say("*" if response is None else sasl.encode(response))
        if response is None:
            return Reply(504, f"The host does not keep to {mechanism}", "5.7.4")
    if reply.code == 235:
        if exchange.done:
            return None
        return Reply(504, f"The host did not prove that it knows the secret ({mechanism})", "5.7.4")
    return reply


# ----------------------------------------------------------------------- transactions


def _give(letter: Letter, peer: Peer) -> Generator[Step, object, None]:
    """One letter, in as many transactions as its recipients need."""
    refusal = _cannot_take(letter, peer)
    most = min(RECIPIENTS, peer.limit("RCPTMAX") or RECIPIENTS)
    for start in range(0, len(letter.recipients), most):
        recipients = letter.recipients[start : start + most]
        if refusal is not None:
            results: Results = dict.fromkeys(recipients, Result.failed(refusal))
        elif peer.exhausted:
            results = dict.fromkeys(recipients, NEXT_SESSION)
        else:
            results = yield from _transaction(letter, recipients, _verb(letter.mode, peer), peer)
        yield Settle(letter, results)


def _cannot_take(letter: Letter, peer: Peer) -> Reply | None:
    """Why this receiver cannot have this letter, known before a word is said."""
    if letter.mode is Mode.SEND and not peer.offers("SEND"):
        return Reply(502, "The next host shows no messages on terminals", "5.5.1")
    if 0 < peer.size_limit < letter.body.size:
        return Reply(552, f"The next host takes at most {peer.size_limit} octets", "5.3.4")
    terms = letter.terms
    if terms.eight_bit and not peer.offers("8BITMIME"):  # RFC 6152 3
        return Reply(554, "The message has 8-bit text, and the next host does not take it", "5.6.3")
    if terms.binary and not (peer.offers("BINARYMIME") and peer.offers("CHUNKING")):  # RFC 3030 3
        return Reply(554, "The message is binary, and the next host does not take it", "5.6.1")
    if _needs_utf8(letter) and not peer.offers("SMTPUTF8"):  # RFC 6531 3.2
        return Reply(553, "The message needs SMTPUTF8, and the next host does not take it", "5.6.7")
    return None


def _needs_utf8(letter: Letter) -> bool:
    """As it was announced, or because an address of ours led on to one that is not ASCII."""
    paths = (letter.reverse_path, *(recipient.path for recipient in letter.recipients))
    return letter.terms.utf8 or not all(str(path).isascii() for path in paths)


def _verb(mode: Mode, peer: Peer) -> Mode:
    """SOML and SAML reach at least the mailbox of a host that does not know them."""
    return mode if peer.offers(mode.value) else Mode.MAIL


def _transaction(
    letter: Letter, recipients: tuple[Recipient, ...], verb: Mode, peer: Peer
) -> Generator[Step, object, Results]:
    """One transaction (RFC 821 3.1), as a group that may be pipelined (RFC 2920 3.1)."""
    peer.opened += 1
    group = [Command(_from(letter, verb, peer))]
    group += [Command(_to(recipient, peer), _opened) for recipient in recipients]
    chunk = _chunked(letter, peer)
    if chunk is None or letter.body.size <= CHUNK:
        group.append(chunk or Command("DATA", _some_accepted, DATA_PATIENCE))
        *answers, data = cast(Replies, (yield group))
    else:
        answers, data = list(cast(Replies, (yield group))), None
        if _opened(answers) and _some_accepted(answers):
            (data,) = cast(Replies, (yield [chunk._replace(when=_always)]))
    opened = answers[0]
    assert opened is not None
    if not opened.ok:
        if data is not None and data.code == 354:  # it takes data for nobody: give it none
            yield BodyOf(_nothing(letter))
        if verb in (Mode.SOML, Mode.SAML) and opened.code in (500, 502, 504):
            return (yield from _transaction(letter, recipients, Mode.MAIL, peer))
        return dict.fromkeys(recipients, Result.of(opened))
    results = {
        recipient: _recipient_result(letter.mode, answer, peer)
        for recipient, answer in zip(recipients, answers[1:], strict=True)
        if answer is not None
    }
    accepted = [recipient for recipient, result in results.items() if result.reply.code < 300]
    if data is not None and data.code == 354 and chunk is None:
        verdict = cast(Reply, (yield BodyOf(letter if accepted else _nothing(letter))))
        outcome = _data_result(letter.mode, verdict, peer)
    elif chunk is not None and data is not None and data.ok:
        outcome = _data_result(letter.mode, data, peer)
    else:
        outcome = _refused_data(letter.mode, data, peer)
        yield from _say("RSET")  # without mail data only this ends the transaction
    if letter.mode is Mode.MAIL:
        results.update(dict.fromkeys(accepted, outcome))
    else:  # whether somebody saw it stands in the reply to RCPT
        taken = {it: replace(outcome, handover=Handover(verb, results[it].reply)) for it in accepted}
        results.update(taken)
    return results


def _nothing(letter: Letter) -> Letter:
    return Letter(letter.mode, letter.reverse_path, (), type(letter.body).of(b""))


def _from(letter: Letter, verb: Mode, peer: Peer) -> str:
    words = [f"{verb.value} FROM:{letter.reverse_path}"]
    if peer.offers("SIZE"):
        words.append(f"SIZE={letter.body.size}")
    terms = letter.terms
    if terms.binary:
        words.append("BODY=BINARYMIME")
    elif terms.eight_bit:
        words.append("BODY=8BITMIME")
    if _needs_utf8(letter):
        words.append("SMTPUTF8")
    if peer.offers("DSN"):  # RFC 3461 4.3, 4.4
        if terms.ret:
            words.append(f"RET={terms.ret}")
        if terms.envid:
            words.append(f"ENVID={encode_xtext(terms.envid)}")
    return " ".join(words)


def _to(recipient: Recipient, peer: Peer) -> str:
    words = [f"RCPT TO:{recipient.path}"]
    if peer.offers("DSN"):  # RFC 3461 4.1, 4.2
        if recipient.notify:
            words.append(f"NOTIFY={','.join(recipient.notify)}")
        if recipient.orcpt:
            kind, _, address = recipient.orcpt.partition(";")
            words.append(f"ORCPT={kind};{encode_xtext(_in_ascii(address))}")
    return " ".join(words)


def _in_ascii(address: str) -> str:
    """An original recipient of type utf-8 as every host reads it (RFC 6533 3, utf-8-addr-xtext)."""
    return "".join(char if char.isascii() else f"\\x{{{ord(char):X}}}" for char in address)


def _chunked(letter: Letter, peer: Peer) -> Command | None:
    """BDAT with the whole message, where it spares a round trip or is the only way (RFC 3030)."""
    small = letter.body.data is not None and letter.body.size <= CHUNK
    if not letter.terms.binary and not (letter.body.data or b"").endswith(b"\r\n"):
        return None  # a host that passes lines on would wait for the end of the last one
    if not peer.offers("CHUNKING") or not (letter.terms.binary or (small and peer.offers("PIPELINING"))):
        return None
    return Command(f"BDAT {letter.body.size} LAST", _some_accepted, END_PATIENCE, letter)


def _opened(answers: Replies) -> bool:
    return answers[0] is not None and answers[0].ok


def _some_accepted(answers: Replies) -> bool:
    return any(answer is not None and answer.ok for answer in answers[1:])


def _recipient_result(mode: Mode, reply: Reply, peer: Peer) -> Result:
    if reply.code == 552:  # RFC 5321 4.5.3.1.10: too many recipients, as RFC 821 said it
        return Result.later(reply)
    return _data_result(mode, reply, peer)


def _refused_data(mode: Mode, reply: Reply | None, peer: Peer) -> Result:
    if reply is None or reply.ok:  # a 250 before the data came is no promise
        return Result.later(Reply(451, "The next host did not answer DATA as it must", "4.5.0"))
    return _data_result(mode, reply, peer)


def _data_result(mode: Mode, reply: Reply, peer: Peer) -> Result:
    if mode is Mode.SEND and reply.transient:
        return Result.failed(reply)  # "User not active now" is not waited out
    if 300 <= reply.code < 400:
        return Result.failed(Reply(554, f"The next host answered out of order: {reply.code}", "5.5.0"))
    return replace(Result.of(reply), dsn=peer.offers("DSN"))
