"""How a Sender gives letters away: one transaction after another, or many under way at once.

Many at once needs a receiver that takes groups (PIPELINING), message and all (CHUNKING), and takes
none twice (XONCE): if the line breaks, nobody knows how many of them it has taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from hashlib import sha256
from typing import Final, NamedTuple, cast

from msgspec.structs import replace

from mailnode.mail import Handover, Letter, Mode, Outcome, Recipient, Reply, Result, Results
from mailnode.smtp.grammar import encode_xtext
from mailnode.smtp.steps import (
    DATA_PATIENCE,
    END_PATIENCE,
    Ahead,
    BodyOf,
    Command,
    Heard,
    Next,
    Peer,
    Replies,
    Settle,
    Step,
    say,
)

RECIPIENTS: Final = 100  # in one transaction: every receiver takes as many (RFC 821 4.5.3)
CHUNK: Final = 64 * 1024  # octets; a larger message is not sent before somebody is there to take it
UNDER_WAY: Final = 256  # letters whose replies have not come
OCTETS_UNDER_WAY: Final = 1024 * 1024  # after which no further one is begun
NEXT_SESSION: Final = Result(
    Outcome.UNTRIED, Reply(452, "The host takes no more messages in one session", "4.5.3")
)


def give_all(peer: Peer) -> Generator[Step, object, None]:
    """Letters, until there are no more or the receiver takes no more."""
    letter: Letter | None = None
    while not peer.exhausted:
        if letter is None and (letter := cast(Letter | None, (yield Next()))) is None:
            return
        if _may_go_ahead(letter, peer):
            letter = yield from _give_many(letter, peer)
        else:
            yield from _give(letter, peer)
            letter = None


# ----------------------------------------------------------------------- many at once


class _Group(NamedTuple):
    """A transaction whose replies have not come."""

    letter: Letter
    octets: int


def _may_go_ahead(letter: Letter, peer: Peer) -> bool:
    """Whether others may be under way while this letter is: it is one transaction, and a small one."""
    if letter.mode is not Mode.MAIL or not (peer.offers("XONCE") and peer.offers("PIPELINING")):
        return False
    most = min(RECIPIENTS, peer.limit("RCPTMAX") or RECIPIENTS)
    if len(letter.recipients) > most or letter.body.data is None or letter.body.size > CHUNK:
        return False
    return bool(letter.id) and _chunked(letter, peer) is not None and _cannot_take(letter, peer) is None


def _give_many(letter: Letter, peer: Peer) -> Generator[Step, object, Letter | None]:
    """Gives letters as fast as the receiver answers, beginning with this one; returns one that has to go
    alone, if that is why it ended."""
    under_way: deque[_Group] = deque()
    again: deque[Letter] = deque()  # whose transaction could not begin, because the one before had not ended
    last: Letter | None = letter
    octets, clean = 0, True
    while True:
        while clean and len(under_way) < UNDER_WAY and octets < OCTETS_UNDER_WAY and not peer.exhausted:
            if again:
                last = again.popleft()
            elif last is None and (last := cast(Letter | None, (yield Next(at_hand=True)))) is None:
                break
            if not _may_go_ahead(last, peer):
                break
            group = _group(last, last.recipients, Mode.MAIL, peer)
            under_way.append(_Group(last, last.body.size))
            octets += last.body.size
            last = None
            yield Ahead(group)
        if not under_way:
            if not clean:
                yield from say("RSET")
                clean = True
            elif again:  # it takes no more of them
                left = again.popleft()
                yield Settle(left, dict.fromkeys(left.recipients, NEXT_SESSION))
            else:
                return last
            continue
        told = under_way.popleft()
        octets -= told.octets
        answers = cast(list[Reply], (yield Heard()))
        if not clean and answers[0].code == 503:  # it came into the transaction before, which had failed
            again.append(told.letter)
            continue
        results, ended = _verdict(told.letter, told.letter.recipients, answers, peer)
        clean = clean and ended
        yield Settle(told.letter, results)


def _verdict(
    letter: Letter, recipients: tuple[Recipient, ...], answers: list[Reply], peer: Peer
) -> tuple[Results, bool]:
    """What the replies to a group with a chunk mean, and whether the transaction is over."""
    opened, *heard, data = answers
    if not opened.ok:
        return dict.fromkeys(recipients, Result.of(opened)), False
    results = {
        recipient: _recipient_result(letter.mode, answer, peer)
        for recipient, answer in zip(recipients, heard, strict=True)
    }
    accepted = [recipient for recipient, answer in zip(recipients, heard, strict=True) if answer.code < 300]
    taken = data.ok and data.code < 300
    if accepted:
        outcome = _data_result(letter.mode, data, peer) if taken else _refused_data(letter.mode, data, peer)
        results.update(dict.fromkeys(accepted, outcome))
    return results, taken


# ----------------------------------------------------------------------- one transaction


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
    group = _group(letter, recipients, verb, peer)
    chunk = group[-1] if group[-1].chunk is not None else None
    if chunk is None or letter.body.size <= CHUNK:
        *answers, data = cast(Replies, (yield group))
    else:
        group.pop()
        answers, data = list(cast(Replies, (yield group))), None
        if _opened(answers) and _some_accepted(answers):
            (data,) = cast(Replies, (yield [Command(chunk.line, patience=chunk.patience, chunk=letter)]))
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
        yield from say("RSET")  # without mail data only this ends the transaction
    if letter.mode is Mode.MAIL:
        results.update(dict.fromkeys(accepted, outcome))
    else:  # whether somebody saw it stands in the reply to RCPT
        taken = {it: replace(outcome, handover=Handover(verb, results[it].reply)) for it in accepted}
        results.update(taken)
    return results


def _group(letter: Letter, recipients: tuple[Recipient, ...], verb: Mode, peer: Peer) -> list[Command]:
    """The commands of a transaction; the last one is BDAT with the message, or DATA."""
    peer.opened += 1
    group = [Command(_from(letter, recipients, verb, peer))]
    group += [Command(_to(recipient, peer), _opened) for recipient in recipients]
    group.append(_chunked(letter, peer) or Command("DATA", _some_accepted, DATA_PATIENCE))
    return group


def _nothing(letter: Letter) -> Letter:
    return Letter(letter.mode, letter.reverse_path, (), type(letter.body).of(b""))


def _from(letter: Letter, recipients: tuple[Recipient, ...], verb: Mode, peer: Peer) -> str:
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
    if letter.id and peer.offers("XONCE"):
        words.append(f"XONCE={_name_of(letter, recipients)}")
    return " ".join(words)


def _name_of(letter: Letter, recipients: tuple[Recipient, ...]) -> str:
    """The name of a transaction, the same each time it is tried for the same recipients (docs/xonce.md)."""
    numbers = ".".join(str(recipient.number) for recipient in recipients)
    return f"{letter.id}-{numbers if len(numbers) < 32 else sha256(numbers.encode()).hexdigest()[:32]}"


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
    return Result(Result.of(reply).outcome, reply, dsn=peer.offers("DSN"))
