"""The Sender's part as a script that reads like the RFC's dialogue, from top to bottom.

The script is a generator. It yields steps and is sent their outcome:

    list[Command]  -> list[Reply | None]   a group; None for a command that was not said
    Next()         -> Letter | None        the next letter to give away
    BodyOf(letter) -> Reply                the mail data and its end
    Settle(...)    -> None
    Farewell(...)  -> Reply                QUIT, and how it ended even if no reply comes

It returns how it ended. Whether a group goes out at once or one by one is not its business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias, cast

from mailnode.mail import Letter, Mode, Recipient, Reply, Result, Results
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.sasl import plain_response

# RFC 1123 5.3.2, seconds
GREETING_PATIENCE: Final = 300
COMMAND_PATIENCE: Final = 300
DATA_PATIENCE: Final = 120
BLOCK_PATIENCE: Final = 180
END_PATIENCE: Final = 600
QUIT_PATIENCE: Final = 20  # nothing is lost by not waiting

RECIPIENTS: Final = 100  # in one transaction: every receiver takes as many (RFC 821 4.5.3)

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


Step: TypeAlias = Greeting | list[Command] | Next | BodyOf | Settle | Farewell
Script: TypeAlias = Generator[Step, object, Ended]


@dataclass(slots=True)
class Peer:
    """What the receiver has said about itself in its EHLO reply."""

    keywords: dict[str, str] = field(default_factory=dict)

    def offers(self, keyword: str) -> bool:
        return keyword in self.keywords

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
    turn: bool = False  # say TURN when the letters are given


def conversation(plan: Plan, peer: Peer) -> Script:
    """The whole dialogue, from the greeting to QUIT or TURN."""
    greeting = cast(Reply, (yield Greeting()))
    if greeting.code != 220:
        return Ended(Ending.REFUSED, greeting)
    refusal = yield from _hello(plan, peer)
    if refusal is None and plan.name:
        refusal = yield from _authenticate(plan, peer)
    if refusal is not None:
        return (yield from _quit(Ended(Ending.REFUSED, refusal)))
    while (letter := cast(Letter | None, (yield Next()))) is not None:
        yield from _give(letter, peer)
    if plan.turn:
        answer = yield from _say("TURN")  # RFC 821 3.8
        if answer.code == 250:
            return Ended(Ending.TURNED, answer)
        return (yield from _quit(Ended(Ending.DONE, answer)))
    return (yield from _quit(Ended(Ending.DONE, greeting)))


def _say(line: str) -> Generator[Step, object, Reply]:
    (reply,) = cast(list[Reply], (yield [Command(line)]))
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


def _authenticate(plan: Plan, peer: Peer) -> Generator[Step, object, Reply | None]:
    """AUTH PLAIN (RFC 4954, RFC 4616). The refusal, or None."""
    if "PLAIN" not in peer.keywords.get("AUTH", "").upper().split():
        return Reply(504, "The host offers no way to authenticate that we know", "5.7.4")
    response = plain_response(plan.name, plan.secret).decode("ascii")
    reply = yield from _say(f"AUTH PLAIN {response}")
    return None if reply.code == 235 else reply


# ----------------------------------------------------------------------- transactions


def _give(letter: Letter, peer: Peer) -> Generator[Step, object, None]:
    """One letter, in as many transactions as its recipients need."""
    refusal = _cannot_take(letter, peer)
    for start in range(0, len(letter.recipients), RECIPIENTS):
        recipients = letter.recipients[start : start + RECIPIENTS]
        if refusal is not None:
            results: Results = dict.fromkeys(recipients, Result.failed(refusal))
        else:
            results = yield from _transaction(letter, recipients, _verb(letter.mode, peer), peer)
        yield Settle(letter, results)


def _cannot_take(letter: Letter, peer: Peer) -> Reply | None:
    """Why this receiver cannot have this letter, known before a word is said."""
    if letter.mode is Mode.SEND and not peer.offers("SEND"):
        return Reply(502, "The next host shows no messages on terminals", "5.5.1")
    if 0 < peer.size_limit < letter.body.size:
        return Reply(552, f"The next host takes at most {peer.size_limit} octets", "5.3.4")
    if letter.terms.eight_bit and not peer.offers("8BITMIME"):  # RFC 6152 3
        return Reply(554, "The message has 8-bit text, and the next host does not take it", "5.6.3")
    return None


def _verb(mode: Mode, peer: Peer) -> Mode:
    """SOML and SAML reach at least the mailbox of a host that does not know them."""
    return mode if peer.offers(mode.value) else Mode.MAIL


def _transaction(
    letter: Letter, recipients: tuple[Recipient, ...], verb: Mode, peer: Peer
) -> Generator[Step, object, Results]:
    """One transaction (RFC 821 3.1), as a group that may be pipelined (RFC 2920 3.1)."""
    group = [Command(_from(letter, verb, peer))]
    group += [Command(f"RCPT TO:{recipient.path}", _opened) for recipient in recipients]
    group.append(Command("DATA", _some_accepted, DATA_PATIENCE))
    answers = cast(Replies, (yield group))
    opened, data = answers[0], answers[-1]
    assert opened is not None
    if not opened.ok:
        if data is not None and data.code == 354:  # it takes data for nobody: give it none
            yield BodyOf(_nothing(letter))
        if verb in (Mode.SOML, Mode.SAML) and opened.code in (500, 502, 504):
            return (yield from _transaction(letter, recipients, Mode.MAIL, peer))
        return dict.fromkeys(recipients, Result.of(opened))
    results = {
        recipient: _recipient_result(letter.mode, answer)
        for recipient, answer in zip(recipients, answers[1:-1], strict=True)
        if answer is not None
    }
    accepted = [recipient for recipient, result in results.items() if result.reply.code < 300]
    if data is not None and data.code == 354:
        verdict = cast(Reply, (yield BodyOf(letter if accepted else _nothing(letter))))
        outcome = _data_result(letter.mode, verdict)
    else:
        outcome = _refused_data(letter.mode, data)
        yield from _say("RSET")  # without mail data only this ends the transaction
    results.update(dict.fromkeys(accepted, outcome))
    return results


def _nothing(letter: Letter) -> Letter:
    return Letter(letter.mode, letter.reverse_path, (), type(letter.body).of(b""))


def _from(letter: Letter, verb: Mode, peer: Peer) -> str:
    words = [f"{verb.value} FROM:{letter.reverse_path}"]
    if peer.offers("SIZE"):
        words.append(f"SIZE={letter.body.size}")
    if letter.terms.eight_bit and peer.offers("8BITMIME"):
        words.append("BODY=8BITMIME")
    return " ".join(words)


def _opened(answers: Replies) -> bool:
    return answers[0] is not None and answers[0].ok


def _some_accepted(answers: Replies) -> bool:
    return any(answer is not None and answer.ok for answer in answers[1:])


def _recipient_result(mode: Mode, reply: Reply) -> Result:
    if reply.code == 552:  # RFC 5321 4.5.3.1.10: too many recipients, as RFC 821 said it
        return Result.later(reply)
    return _data_result(mode, reply)


def _refused_data(mode: Mode, reply: Reply | None) -> Result:
    if reply is None or reply.ok:  # a 250 before the data came is no promise
        return Result.later(Reply(451, "The next host did not answer DATA as it must", "4.5.0"))
    return _data_result(mode, reply)


def _data_result(mode: Mode, reply: Reply) -> Result:
    if mode is Mode.SEND and reply.transient:
        return Result.failed(reply)  # "User not active now" is not waited out
    if 300 <= reply.code < 400:
        return Result.failed(Reply(554, f"The next host answered out of order: {reply.code}", "5.5.0"))
    return Result.of(reply)
