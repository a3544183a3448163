"""The Receiver: the side of a transmission channel that takes commands and gives replies.

Rules:
- `VERBS` is the whole protocol: each verb, the states it is legal in, and its method. A verb that is
  not there is 500; one in a wrong state is the 503 of that state and changes nothing.
- A transaction is an object that exists or does not. There are no other flags about it.
- While a question (`Ask...`) is open nothing more is consumed. So replies keep the order of the
  commands however late an answer is, and nothing is obeyed that came before a STARTTLS or TURN.
- Mail data that cannot be kept (too large, bare CR or LF) is read to its true end and then refused:
  no part of it is ever taken for commands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from mailnode.mail import Mode, Password, Reply, Rights
from mailnode.smtp import events, grammar, replies, sasl
from mailnode.smtp.framing import DataReader, Inbound
from mailnode.smtp.transaction import Transaction, declared_size, path_after

COMMAND_LINE: Final = 2048  # octets; RFC 821 4.5.3 asks for 512, parameters make it more
AUTH_LINE: Final = 12288  # RFC 4954 4.


class State(Enum):
    NEW = "before HELO"
    IDLE = "no transaction"
    OPEN = "a transaction"
    DATA = "mail data"
    AUTH = "a SASL exchange"
    GONE = "over"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one channel may ask of us."""

    message_size: int = 50 * 1024 * 1024  # octets
    recipients: int = 1000  # in one transaction
    errors: int = 20  # 5xx replies to bad commands before 421


class Verb(NamedTuple):
    method: Callable[[Receiver, str], None]
    states: tuple[State, ...]
    argument: bool | None  # True: needed, False: none is taken, None: as you like
    syntax: str


class Receiver:
    """The sans-I/O machine: `feed` octets, then take `next` until it gives None; `answer` questions.

    `rights` decides which verbs exist for this client and are named in EHLO; whoever holds the
    machine replaces it when the client has proved who it is.
    """

    def __init__(
        self, hostname: str, rights: Rights, limits: Limits | None = None, *, greet: bool = True
    ) -> None:
        self.hostname = hostname
        self.rights = rights
        self.limits = limits or Limits()
        self.state = State.NEW
        self.extended = False  # EHLO was said: enhanced status codes are understood
        self.hello = ""
        self.authenticated = False
        self.transaction: Transaction | None = None
        self._inbound = Inbound()
        self._out: deque[events.ReceiverEvent] = deque()
        self._asking: Callable[[Reply], None] | None = None
        self._errors = 0
        self._exchange: sasl.Exchange | None = None
        if greet:
            self._out.append(replies.greeting(hostname))

    # ------------------------------------------------------------- the holder's side

    @property
    def asking(self) -> bool:
        """Whether a question waits for `answer`."""
        return self._asking is not None

    @property
    def pending(self) -> int:
        """Octets that have arrived and are not consumed."""
        return len(self._inbound)

    def feed(self, octets: bytes) -> None:
        if self.state is not State.GONE:
            self._inbound.feed(octets)

    def next(self) -> events.ReceiverEvent | None:
        """The next event; None if octets, or the answer to the open question, must come first."""
        out = self._out
        while not out:
            if self._asking is not None or self.state is State.GONE or not self._consume():
                return None
        return out.popleft()

    def answer(self, reply: Reply) -> None:
        """The reply to the command that the open question is about."""
        proceed, self._asking = self._asking, None
        if proceed is None:
            raise ValueError("no question is open")
        proceed(reply)

    def refuse(self, reply: Reply) -> None:
        """Ends the channel with `reply` (421): time-out, shutdown, too many connections."""
        if self.state is State.GONE:
            return  # its last reply is said
        self._drop_transaction()
        self._asking = None
        self._close(reply)

    # ------------------------------------------------------------- consuming octets

    def _consume(self) -> bool:
        if self.state is State.DATA:
            return self._consume_data()
        limit = AUTH_LINE if self.state is State.AUTH else COMMAND_LINE
        line = self._inbound.line(limit)
        if line is None:
            return False
        if len(line) > limit:
            self.state = State.IDLE if self.state is State.AUTH else self.state
            self._error(replies.LINE_TOO_LONG)
        elif self.state is State.AUTH:
            self._auth_line(line)
        else:
            self._command(line)
        return True

    def _command(self, line: bytes) -> None:
        words = grammar.split_command(line)
        if words is None:
            self._error(replies.UNKNOWN_COMMAND if line.isascii() else replies.BAD_OCTETS)
            return
        name, argument = words
        verb = VERBS.get(name)
        if verb is None:
            self._error(replies.UNKNOWN_COMMAND)
        elif self.state not in verb.states:
            self._error(_out_of_order(self.state))
        elif argument and verb.argument is False:
            self._error(replies.NO_ARGUMENT)
        elif verb.argument and not argument:
            self._error(replies.ARGUMENT_NEEDED)
        else:
            verb.method(self, argument)

    def _consume_data(self) -> bool:
        transaction = self.transaction
        assert transaction is not None and transaction.reader is not None
        octets = self._inbound.take()
        if not octets:
            return False
        reader = transaction.reader
        piece, rest = reader.feed(octets)
        if rest:
            self._inbound.feed(rest)
        transaction.octets += len(piece)
        refused = transaction.refusal is not None
        transaction.refusal = transaction.fault(self.limits.message_size)
        if transaction.refusal is None and piece:
            self._out.append(events.MailData(piece))
        elif transaction.refusal is not None and not refused:
            self._out.append(events.Discarded())
        if reader.ended:
            self._end_of_data(transaction)
        return True

    def _end_of_data(self, transaction: Transaction) -> None:
        self.transaction = None
        self.state = State.IDLE
        if transaction.refusal is not None:
            self._out.append(transaction.refusal)
        else:
            self._ask(events.AskCustody(), self._out.append)

    # ------------------------------------------------------------- saying and asking

    def _ask(self, question: events.Ask, proceed: Callable[[Reply], None]) -> None:
        self._asking = proceed
        self._out.append(question)

    def _error(self, reply: Reply) -> None:
        self._errors += 1
        self._out.append(reply)
        if self._errors >= self.limits.errors:
            self.refuse(replies.unavailable(self.hostname, "Too many errors"))

    def _close(self, reply: Reply) -> None:
        self.state = State.GONE
        self._inbound.take()
        self._out.append(reply)
        self._out.append(events.Closed())

    def _drop_transaction(self) -> None:
        """Ends a transaction without custody (RSET, HELO, QUIT, 421)."""
        if self.transaction is not None and self.transaction.refusal is None:
            self._out.append(events.Discarded())
        self.transaction = None
        if self.state in (State.OPEN, State.DATA):
            self.state = State.IDLE

    def _nothing_behind(self) -> bool:
        """Whether nothing waits behind a command that must be the last of its group (RFC 2920 3.1)."""
        if not self._inbound:
            return True
        self._close(replies.OCTETS_BEHIND)
        return False

    # ------------------------------------------------------------- the channel's commands

    def _hello(self, argument: str, *, extended: bool) -> None:
        # A HELO may hold what no domain may (underscores); RFC 5321 4.1.4: it must not be refused for that.
        if len(argument) > grammar.DOMAIN_LIMIT or " " in argument:
            self._error(replies.BAD_HELLO)
            return
        self._drop_transaction()  # RFC 5321 4.1.4: as RSET
        self.state = State.IDLE
        self.hello = argument
        self.extended = extended
        lines = (self.hostname, *self._keywords()) if extended else self.hostname
        self._out.append(Reply(250, lines))

    def helo(self, argument: str) -> None:
        self._hello(argument, extended=False)

    def ehlo(self, argument: str) -> None:
        self._hello(argument, extended=True)

    def _keywords(self) -> list[str]:
        """The EHLO keywords: what this client may use, and no more (RFC 5321 4.1.1.1, F.6)."""
        rights = self.rights
        words = ["PIPELINING", f"SIZE {self.limits.message_size}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        words += [mode.value for mode in rights.modes if mode is not Mode.MAIL]
        if rights.mechanisms:
            words.append("AUTH " + " ".join(rights.mechanisms))
        if rights.turn:
            words.append("TURN")
        return [*words, "EXPN", "HELP"]

    def quit(self, _argument: str) -> None:
        self._drop_transaction()
        self._close(replies.closing(self.hostname))

    def turn(self, argument: str) -> None:
        if argument:
            self._error(replies.UNKNOWN_COMMAND)  # RFC 821 4.3: TURN has no 501
        elif not self.rights.turn:
            self._error(replies.TURN_REFUSED)
        elif self._nothing_behind():
            self._ask(events.AskTurn(), self._turn_answered)

    def _turn_answered(self, reply: Reply) -> None:
        if not reply.ok:
            self._out.append(reply)
        elif self._nothing_behind():
            self.state = State.GONE
            self._out.append(reply)
            self._out.append(events.Turned())

    # ------------------------------------------------------------- transactions

    def _begin(self, mode: Mode, argument: str) -> None:
        if mode not in self.rights.modes:
            self._error(replies.NOT_FOR_YOU)
            return
        parsed = path_after(argument, "FROM:")
        if parsed is None or not (parsed[0].domain or parsed[0].is_null):
            self._error(replies.BAD_PATH)
            return
        path, parameters = parsed
        size = declared_size(parameters)
        if size is None:
            self._error(replies.BAD_PARAMETER)
        elif size > self.limits.message_size:
            self._out.append(replies.TOO_LARGE)  # RFC 1870 6.1
        else:
            self._ask(events.AskSender(mode, path, size), self._begun)

    def _begun(self, reply: Reply) -> None:
        if reply.ok:
            self.transaction = Transaction()
            self.state = State.OPEN
        self._out.append(reply)

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
        if parameters:
            self._error(replies.BAD_PARAMETER)
        elif transaction.recipients >= self.limits.recipients:
            self._out.append(
                replies.TOO_MANY_RECIPIENTS if self.extended else replies.TOO_MANY_RECIPIENTS_821
            )
        else:
            transaction.tried += 1
            self._ask(events.AskRecipient(path), self._recipient_answered)

    def _recipient_answered(self, reply: Reply) -> None:
        if reply.ok and self.transaction is not None:
            self.transaction.recipients += 1
        self._out.append(reply)

    def data(self, _argument: str) -> None:
        assert self.transaction is not None
        if self.transaction.recipients:
            self._ask(events.AskData(), self._data_answered)
        else:
            # RFC 5321 3.3; with RFC 2920 3.1 a pipelining client depends on the 554.
            self._out.append(replies.NO_RECIPIENTS if self.transaction.tried else replies.NO_RECIPIENT_YET)

    def _data_answered(self, reply: Reply) -> None:
        assert self.transaction is not None
        if reply.code == 354:
            self.transaction.reader = DataReader()
            self.state = State.DATA
        else:
            self._drop_transaction()
        self._out.append(reply)

    def rset(self, _argument: str) -> None:
        self._drop_transaction()
        self._out.append(replies.OK)

    # ------------------------------------------------------------- questions and help

    def noop(self, _argument: str) -> None:
        self._out.append(replies.OK)

    def vrfy(self, argument: str) -> None:
        self._ask(events.AskVerify(argument), self._out.append)

    def expn(self, argument: str) -> None:
        self._ask(events.AskExpand(argument), self._out.append)

    def help(self, argument: str) -> None:
        if not argument:
            words = [name for name in VERBS if self._may_use(name)]
            rows = [" ".join(words[at : at + 8]) for at in range(0, len(words), 8)]
            first = f"{self.hostname} speaks RFC 821 and RFC 5321. Commands:"
            self._out.append(Reply(211, (first, *rows, "HELP <command> says more"), "2.0.0"))
            return
        verb = VERBS.get(argument.upper())
        if verb is None or not self._may_use(argument.upper()):
            self._error(replies.NO_SUCH_TOPIC)
        else:
            self._out.append(Reply(214, verb.syntax, "2.0.0"))

    def _may_use(self, name: str) -> bool:
        if name in Mode.__members__:
            return Mode[name] in self.rights.modes
        return {"TURN": self.rights.turn, "AUTH": bool(self.rights.mechanisms)}.get(name, True)

    # ------------------------------------------------------------- AUTH (RFC 4954)

    def auth(self, argument: str) -> None:
        name, _, initial = argument.partition(" ")
        if self.authenticated:
            self._error(replies.AUTH_ALREADY)
        elif not self.rights.mechanisms:
            self._error(replies.NOT_FOR_YOU)
        elif name.upper() not in self.rights.mechanisms:
            self._error(replies.AUTH_UNKNOWN)
        else:
            self._exchange = sasl.MECHANISMS[name.upper()]()
            if initial:
                self._auth_line(initial.encode("ascii"))
            else:
                self.state = State.AUTH
                self._out.append(replies.AUTH_CHALLENGE)

    def _auth_line(self, line: bytes) -> None:
        self.state = State.IDLE
        if line == b"*":  # RFC 4954 4
            self._out.append(replies.AUTH_CANCELLED)
            return
        assert self._exchange is not None
        credentials = self._exchange.respond(line)
        if credentials is None:
            self._error(replies.AUTH_SYNTAX)
        else:
            self._ask(events.AskCredentials(Password(*credentials)), self._auth_answered)

    def _auth_answered(self, reply: Reply) -> None:
        self.authenticated = reply.ok
        if reply.ok:
            self._out.append(reply)
        else:
            self._error(reply)


# --------------------------------------------------------------------- the verb table

_ANY: Final = (State.NEW, State.IDLE, State.OPEN)
_IDLE: Final = (State.IDLE,)
_OPEN: Final = (State.OPEN,)

# RFC 821 4.1.1, RFC 5321 4.1.1; the replies of each: RFC 821 4.3
VERBS: Final[dict[str, Verb]] = {
    "HELO": Verb(Receiver.helo, _ANY, True, "HELO <domain>"),
    "EHLO": Verb(Receiver.ehlo, _ANY, True, "EHLO <domain>"),
    "MAIL": Verb(Receiver.mail, _IDLE, True, "MAIL FROM:<reverse-path>: to mailboxes"),
    "SEND": Verb(Receiver.send, _IDLE, True, "SEND FROM:<reverse-path>: to terminals"),
    "SOML": Verb(Receiver.soml, _IDLE, True, "SOML FROM:<reverse-path>: to a terminal, or else the mailbox"),
    "SAML": Verb(Receiver.saml, _IDLE, True, "SAML FROM:<reverse-path>: to the mailbox and a terminal"),
    "RCPT": Verb(Receiver.rcpt, _OPEN, True, "RCPT TO:<forward-path>"),
    "DATA": Verb(Receiver.data, _OPEN, False, "DATA: the message, ended by a line with a dot alone"),
    "RSET": Verb(Receiver.rset, _ANY, False, "RSET: forget the transaction"),
    "VRFY": Verb(Receiver.vrfy, _ANY, True, "VRFY <user name or mailbox>"),
    "EXPN": Verb(Receiver.expn, _ANY, True, "EXPN <mailing list>"),
    "HELP": Verb(Receiver.help, _ANY, None, "HELP [<command>]"),
    "NOOP": Verb(Receiver.noop, _ANY, None, "NOOP: nothing but a reply"),
    "QUIT": Verb(Receiver.quit, _ANY, None, "QUIT: end of the channel"),
    "AUTH": Verb(Receiver.auth, _IDLE, True, "AUTH <mechanism> [<initial response>]"),
    "TURN": Verb(Receiver.turn, _IDLE, None, "TURN: this host becomes the sender"),
}  # fmt: skip


def _out_of_order(state: State) -> Reply:
    if state is State.NEW:
        return replies.HELLO_FIRST
    return replies.IN_TRANSACTION if state is State.OPEN else replies.NO_TRANSACTION
