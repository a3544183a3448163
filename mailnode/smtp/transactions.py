"""The Receiver's commands of a mail transaction, from MAIL to custody of the mail data.

- A transaction is an object that exists or does not. There are no other flags about it.
- Mail data that cannot be kept (too large, bare CR or LF) is read to its true end and then refused:
  no part of it is ever taken for commands. The same holds for the octets of a BDAT out of order.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Final

from mailnode.mail import Mode, Path, Reply
from mailnode.smtp import events, replies
from mailnode.smtp.framing import DataReader, LineEnds
from mailnode.smtp.machine import Machine, State
from mailnode.smtp.transaction import (
    Chunk,
    Transaction,
    mail_parameters,
    path_after,
    recipient_parameters,
)

_ASK_DATA: Final = events.AskData()
_ASK_CUSTODY: Final = events.AskCustody()
_chunk = re.compile(r"([0-9]{1,12})(?: +([Ll][Aa][Ss][Tt]))?\Z").match


class Transactions(Machine):
    """The part of a Receiver that takes mail. `lmtp`: a reply for each recipient after the mail data.

    `normalize`: a bare CR or LF from a trusted client is taken for the end of a line.
    """

    lmtp = False
    normalize = False
    _chunk: Chunk | None = None
    _before = State.NEW  # the state in which the chunk began

    # ------------------------------------------------------------- MAIL and its like

    def _begin(self, mode: Mode, argument: str) -> None:
        if mode not in self.rights.modes:
            self._error(replies.NOT_FOR_YOU)
            return
        if self.rights.must_authenticate:
            self._error(self._authenticate_first())
            return
        parsed = path_after(argument, "FROM:")
        if parsed is None or not (parsed[0].domain or parsed[0].is_null):
            self._error(replies.BAD_PATH)
            return
        path, parameters = parsed
        announced = mail_parameters(parameters, self.rights.once)
        if announced is None or (parameters and not self.extended):
            self._error(replies.BAD_PARAMETER)
        elif not _writable(path, announced.terms.utf8):
            self._error(replies.UTF8_NOT_ASKED)
        elif announced.size > self.limits.message_size:
            self._say(replies.TOO_LARGE)  # RFC 1870 6.1
        else:

            def begun(reply: Reply) -> None:
                if reply.ok:
                    self.transaction = Transaction(mode, announced.terms)
                    self.state = State.OPEN
                self._say(reply)

            self._ask(events.AskSender(mode, path, *announced), begun)

    @abstractmethod
    def _authenticate_first(self) -> Reply:
        """The 530 for a client that has to prove itself before it may send."""

    def mail(self, argument: str) -> None:
        self._begin(Mode.MAIL, argument)

    def send(self, argument: str) -> None:
        self._begin(Mode.SEND, argument)

    def soml(self, argument: str) -> None:
        self._begin(Mode.SOML, argument)

    def saml(self, argument: str) -> None:
        self._begin(Mode.SAML, argument)

    def rcpt(self, argument: str) -> None:
        transaction = self.transaction
        assert transaction is not None
        parsed = path_after(argument, "TO:")
        if parsed is None or parsed[0].is_null:
            self._error(replies.BAD_PATH)
            return
        path, parameters = parsed
        wishes = recipient_parameters(parameters, transaction.terms.utf8)
        if wishes is None or (parameters and not self.extended):
            self._error(replies.BAD_PARAMETER)
        elif not _writable(path, transaction.terms.utf8):
            self._error(replies.UTF8_NOT_ASKED)
        elif transaction.recipients >= self.limits.recipients:
            transaction.excess += 1
            if transaction.excess > self.limits.recipients:  # RFC 5321 4.5.3.1.10: who goes on is hostile
                self._idle += 1
            self._say(replies.TOO_MANY_RECIPIENTS if self.extended else replies.TOO_MANY_RECIPIENTS_821)
        else:
            transaction.tried += 1
            self._ask(events.AskRecipient(path, *wishes), self._recipient_answered)

    def _recipient_answered(self, reply: Reply) -> None:
        assert self.transaction is not None
        if reply.ok:
            self.transaction.recipients += 1
        else:
            self._idle += 1  # whoever tries out names brings no mail
        self._say(reply)

    @property
    def in_mail_data(self) -> bool:
        """Whether mail data has begun and its end has not come; also between two of its chunks."""
        if self.state in (State.DATA, State.CHUNK):
            return True
        return self.transaction is not None and self.transaction.ends is not None

    # ------------------------------------------------------------- DATA

    def data(self, _argument: str) -> None:
        transaction = self.transaction
        assert transaction is not None
        if transaction.ends is not None:
            self._error(replies.CHUNKS_GO_ON)  # RFC 3030 2
        elif transaction.terms.binary:
            self._error(replies.BINARY_NEEDS_CHUNKS)  # RFC 3030 3
        elif transaction.recipients:
            self._ask(_ASK_DATA, self._data_answered)
        else:
            self._idle += 1
            self._say(self._no_recipients(transaction))

    def _no_recipients(self, transaction: Transaction) -> Reply:
        # RFC 5321 3.3; with RFC 2920 3.1 a pipelining client depends on the 554. RFC 2033 4.2 has the 503.
        return replies.NO_RECIPIENTS if transaction.tried and not self.lmtp else replies.NO_RECIPIENT_YET

    def _data_answered(self, reply: Reply) -> None:
        assert self.transaction is not None
        if reply.code == 354:
            self.transaction.reader = DataReader(self._normalizes)
            self.state = State.DATA
        else:
            self._drop_transaction()
        self._say(reply)

    @property
    def _normalizes(self) -> bool:
        return self.normalize and self.rights.relay

    def _bare(self) -> Reply | None:
        if self._normalizes:
            return None
        # The table of RFC 821 4.3 has no 550 here, and whoever says HELO knows no other.
        return replies.BARE_LINE_END if self.extended else replies.BARE_LINE_END_821

    def _consume_data(self) -> bool:
        transaction = self.transaction
        assert transaction is not None and transaction.reader is not None
        octets = self._inbound.take()
        self.consumed += len(octets)
        reader = transaction.reader
        piece, rest = reader.feed(octets)
        if rest:
            self._inbound.feed(rest)
        self._keep(transaction, piece)
        if reader.ended:
            self._end_of_data(transaction)
        return True

    def _keep(self, transaction: Transaction, piece: bytes) -> None:
        transaction.octets += len(piece)
        refused = transaction.refusal is not None
        transaction.refusal = transaction.fault(self.limits.message_size, self._bare())
        if transaction.refusal is None and piece:
            self._out.append(events.MailData(piece))
        elif transaction.refusal is not None and not refused:
            self._out.append(events.Discarded())

    def _end_of_data(self, transaction: Transaction) -> None:
        self.transaction = None
        self.state = State.IDLE
        if transaction.refusal is not None:
            self._say_of(transaction, transaction.refusal)
            return

        def decided(reply: Reply) -> None:
            self._decided(reply)
            self._say_of(transaction, reply)

        self._ask(_ASK_CUSTODY, decided)
        # What a terminal has shown decides what its sender does next; LMTP has a reply for each recipient.
        self.may_postpone = transaction.mode is Mode.MAIL and not self.lmtp

    def _say_of(self, transaction: Transaction, reply: Reply) -> None:
        for _ in range(transaction.recipients if self.lmtp else 1):  # RFC 2033 4.2
            self._say(reply)

    def _decided(self, reply: Reply) -> None:
        if reply.ok:
            self._idle = 0

    # ------------------------------------------------------------- BDAT (RFC 3030)

    def bdat(self, argument: str) -> None:
        match = _chunk(argument)
        if match is None:  # where the chunk ends cannot be known, nor what follows it
            self.refuse(replies.BAD_CHUNK)
            return
        size = int(match[1])
        chunk = self._chunk = Chunk(size, size, match[2] is not None)
        if not size and not chunk.last:
            self._idle += 1  # brings nothing nearer
        transaction = self.transaction
        if transaction is None:
            chunk.refusal = replies.HELLO_FIRST if self.state is State.NEW else replies.NO_TRANSACTION
        elif not transaction.recipients:
            chunk.refusal = self._no_recipients(transaction)
        elif transaction.ends is None:
            self._ask(_ASK_DATA, self._chunk_answered)
            return
        self._take_chunk(chunk)

    def _chunk_answered(self, reply: Reply) -> None:
        assert self.transaction is not None and self._chunk is not None
        if reply.code == 354:
            self.transaction.ends = LineEnds(self._normalizes)
        else:
            self._drop_transaction()
            self._chunk.refusal = reply
        self._take_chunk(self._chunk)

    def _take_chunk(self, chunk: Chunk) -> None:
        self._before = self.state
        self.state = State.CHUNK
        if not chunk.left:
            self._chunk_ended(chunk)

    def _consume_chunk(self) -> bool:
        chunk = self._chunk
        assert chunk is not None
        octets = self._inbound.take(chunk.left)
        self.consumed += len(octets)
        chunk.left -= len(octets)
        if chunk.refusal is None:
            transaction = self.transaction
            assert transaction is not None and transaction.ends is not None
            self._keep(transaction, octets if transaction.terms.binary else transaction.ends.feed(octets))
        if not chunk.left:
            self._chunk_ended(chunk)
        return True

    def _chunk_ended(self, chunk: Chunk) -> None:
        self._chunk = None
        self.state = self._before
        if chunk.refusal is not None:
            self._error(chunk.refusal)
            return
        transaction = self.transaction
        assert transaction is not None and transaction.ends is not None
        if chunk.last:
            if rest := transaction.ends.end():
                self._keep(transaction, rest)
            self._end_of_data(transaction)
        elif transaction.refusal is not None:
            self.transaction = None  # RFC 3030 2: what follows of it is 503
            self.state = State.IDLE
            self._say(transaction.refusal)
        else:
            self._say(Reply(250, f"{chunk.size} octets received", "2.0.0"))


def _writable(path: Path, utf8: bool) -> bool:
    """Whether a path is allowed to hold what it holds (RFC 6531 3.4)."""
    if utf8:
        return True
    return (
        path.local.isascii() and path.domain.isascii() and (not path.route or "".join(path.route).isascii())
    )
