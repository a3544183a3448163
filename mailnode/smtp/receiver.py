"""The Receiver: the side of a transmission channel that takes commands and gives replies.

Rules:
- `VERBS` is the whole protocol: each verb, the states it is legal in, and its method. A verb that is
  not there is 500; one in a wrong state is the 503 of that state and changes nothing.
- While a question (`Ask...`) is open nothing more is consumed. So replies keep the order of the
  commands however late an answer is, and nothing is obeyed that came before a STARTTLS or TURN.
- What a client may do is its rights; whoever holds the machine replaces them when the client has
  proved who it is. The EHLO keywords, HELP and the verbs follow from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from mailnode.mail import Mode, Reply, Rights
from mailnode.smtp import events, grammar, replies
from mailnode.smtp.authentication import Authentication
from mailnode.smtp.framing import Inbound
from mailnode.smtp.machine import Limits as Limits
from mailnode.smtp.machine import State as State
from mailnode.smtp.pairing import Pairing
from mailnode.smtp.transactions import Transactions
from mailnode.smtp.turning import WAIT_LEAST, WAIT_MOST, Turning

AUTH_LINE: Final = 12288  # octets (RFC 4954 4)
AHEAD: Final = 256  # messages whose custody is not decided while others are taken
# What may follow in a group (RFC 2920 3.1, RFC 3030 4.2), so it is consumed before their replies are known.
_IN_GROUPS: Final = frozenset((b"MAIL", b"RCPT", b"DATA", b"BDAT", b"RSET"))


class Verb(NamedTuple):
    method: Callable[[Receiver, str], None]
    states: tuple[State, ...]
    argument: bool | None  # True: needed, False: none is taken, None: as you like
    syntax: str


class Receiver(Transactions, Authentication, Turning, Pairing):
    """The sans-I/O machine: `feed` octets, then take `next` until it gives None; `answer` questions.

    `starttls`: TLS may be asked for. `lmtp`: it speaks RFC 2033. `normalize`: see `Transactions`.
    """

    def __init__(
        self,
        hostname: str,
        rights: Rights,
        limits: Limits | None = None,
        *,
        greet: bool = True,
        starttls: bool = False,
        lmtp: bool = False,
        normalize: bool = False,
    ) -> None:
        super().__init__(hostname, rights, limits, greet)
        self.starttls_offered = starttls
        self.lmtp = lmtp
        self.normalize = normalize

    def secured(self, rights: Rights) -> None:
        """TLS is there: all that was learnt before it is forgotten (RFC 3207 4.2)."""
        self.state = State.NEW
        self.rights = rights
        self.hello = ""
        self.extended = self.authenticated = self.starttls_offered = False
        self.transaction = None
        self._wait = 0
        self._inbound = Inbound()  # what came before the handshake, if there was anything, is not obeyed

    # ------------------------------------------------------------- consuming octets

    def _consume(self) -> bool:
        if self.state is State.DATA:
            return self._consume_data()
        if self.state is State.CHUNK:
            return self._consume_chunk()
        if self.state is State.SECURING or (self._late and not self._may_go_ahead()):
            return False
        limit = AUTH_LINE if self.state is State.AUTH else self.limits.line_length
        line = self._inbound.line(limit)
        if line is None:
            return False
        self.consumed += 1
        if self.state is State.AUTH:
            self._auth_line(line, limit)
        elif len(line) > limit:
            self._unreadable(line, replies.LINE_TOO_LONG)
        else:
            self._command(line)
        return True

    def _may_go_ahead(self) -> bool:
        """Whether the next command means the same whatever the late replies will be."""
        return len(self._late) < AHEAD and self._inbound.verb() in _IN_GROUPS

    def _command(self, line: bytes) -> None:
        words = grammar.split_command(line)
        if words is None or not (words[1].isascii() or (self.extended and words[0] in _WITH_PATHS)):
            self._unreadable(line, replies.UNKNOWN_COMMAND if line.isascii() else replies.BAD_OCTETS)
            return
        name, argument = words
        verb = VERBS.get(name)
        if verb is None or (name in _HELLOS and (name == "LHLO") is not self.lmtp):
            self._error(replies.UNKNOWN_COMMAND)
        elif self.state not in verb.states:
            self._error(_out_of_order(self.state))
        elif argument and verb.argument is False:
            self._error(replies.NO_ARGUMENT)
        elif verb.argument and not argument:
            self._error(replies.ARGUMENT_NEEDED)
        elif self._too_idle(name):
            self.refuse(replies.unavailable(self.hostname, "Too many commands without mail"))
        else:
            verb.method(self, argument)

    def _unreadable(self, line: bytes, reply: Reply) -> None:
        if line[:4].upper() == b"BDAT":
            self.refuse(replies.BAD_CHUNK)  # or its chunk would be taken for commands
        else:
            self._error(reply)

    def _too_idle(self, name: str) -> bool:
        if name not in _BRINGS_MAIL:  # these count where they are refused
            self._idle += 1
        # What is not decided yet may bring mail: its MAIL does not count, nor a RSET before it.
        return self._idle - 2 * len(self._late) > self.limits.commands and name != "QUIT"

    def _authenticate_first(self) -> Reply:
        need_tls = self.starttls_offered and not self.rights.mechanisms
        return replies.TLS_FIRST if need_tls else replies.AUTH_FIRST

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
        self._say(Reply(250, lines))

    def helo(self, argument: str) -> None:
        self._hello(argument, extended=False)

    def ehlo(self, argument: str) -> None:
        self._hello(argument, extended=True)

    def _keywords(self) -> list[str]:
        """The EHLO keywords: what this client may use, and no more (RFC 5321 4.1.1.1, F.6)."""
        rights, limits = self.rights, self.limits
        words = ["PIPELINING", f"SIZE {limits.message_size}", "8BITMIME", "ENHANCEDSTATUSCODES"]
        words += ["SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", f"LIMITS RCPTMAX={limits.recipients}"]
        words += [mode.value for mode in rights.modes if mode is not Mode.MAIL]
        if self.starttls_offered:
            words.append("STARTTLS")
        if rights.mechanisms:
            words.append("AUTH " + " ".join(rights.mechanisms))
        if rights.turn:
            words += ["TURN", f"XWAIT {WAIT_LEAST} {WAIT_MOST}"]
        if rights.once:
            words.append("XONCE")
        if rights.pair:
            words.append("XPAIR")
        words += [word for word, may in (("ATRN", rights.atrn), ("ETRN", rights.etrn)) if may]
        return [*words, "EXPN", "HELP"]

    def quit(self, _argument: str) -> None:
        self._drop_transaction()
        self._close(replies.closing(self.hostname))

    def starttls(self, argument: str) -> None:
        if not self.starttls_offered:
            self._error(replies.NOT_FOR_YOU)
        elif self._nothing_behind():
            self.state = State.SECURING  # whoever holds the machine says `secured` before it feeds it again
            self._say(replies.READY_FOR_TLS)
            self._out.append(events.StartTls())

    def rset(self, _argument: str) -> None:
        self._drop_transaction()
        self._say(replies.OK)

    # ------------------------------------------------------------- questions and help

    def noop(self, _argument: str) -> None:
        self._say(replies.OK)

    def vrfy(self, argument: str) -> None:
        self._ask(events.AskVerify(self._without_utf8(argument)), self._say)

    def expn(self, argument: str) -> None:
        self._ask(events.AskExpand(self._without_utf8(argument)), self._say)

    def _without_utf8(self, argument: str) -> str:
        """Without the parameter of RFC 6531 3.7.4.2: what we say is ASCII, whatever the client can read."""
        text, _, word = argument.rpartition(" ")
        return text.rstrip(" ") if self.extended and text and word.upper() == "SMTPUTF8" else argument

    def help(self, argument: str) -> None:
        if not argument:
            words = [name for name in VERBS if self._may_use(name)]
            rows = [" ".join(words[at : at + 8]) for at in range(0, len(words), 8)]
            first = f"{self.hostname} speaks RFC 821 and RFC 5321. Commands:"
            self._say(Reply(211, (first, *rows, "HELP <command> says more"), "2.0.0"))
            return
        verb = VERBS.get(argument.upper())
        if verb is None or not self._may_use(argument.upper()):
            self._error(replies.NO_SUCH_TOPIC)
        else:
            self._say(Reply(214, verb.syntax, "2.0.0"))

    def _may_use(self, name: str) -> bool:
        if name in Mode.__members__:
            return Mode[name] in self.rights.modes
        if name in _HELLOS:
            return (name == "LHLO") is self.lmtp
        return {
            "TURN": self.rights.turn,
            "XWAIT": self.rights.turn,
            "XPAIR": self.rights.pair,
            "ATRN": self.rights.atrn,
            "ETRN": self.rights.etrn,
            "AUTH": bool(self.rights.mechanisms),
            "STARTTLS": self.starttls_offered,
        }.get(name, True)


# --------------------------------------------------------------------- the verb table

_ANY: Final = (State.NEW, State.IDLE, State.OPEN)
_IDLE: Final = (State.IDLE,)
_OPEN: Final = (State.OPEN,)

_HELLOS: Final = frozenset(("HELO", "EHLO", "LHLO"))
# What may hold UTF-8 (RFC 6531 3.3)
_WITH_PATHS: Final = frozenset(("MAIL", "SEND", "SOML", "SAML", "RCPT", "VRFY", "EXPN"))
_BRINGS_MAIL: Final = frozenset(("RCPT", "DATA", "BDAT", "QUIT", "TURN", "ATRN"))

# RFC 821 4.1.1, RFC 5321 4.1.1; the replies of each: RFC 821 4.3
VERBS: Final[dict[str, Verb]] = {
    "HELO": Verb(Receiver.helo, _ANY, True, "HELO <domain>"),
    "EHLO": Verb(Receiver.ehlo, _ANY, True, "EHLO <domain>"),
    "LHLO": Verb(Receiver.ehlo, _ANY, True, "LHLO <domain>"),
    "MAIL": Verb(Receiver.mail, _IDLE, True, "MAIL FROM:<reverse-path>: to mailboxes"),
    "SEND": Verb(Receiver.send, _IDLE, True, "SEND FROM:<reverse-path>: to terminals"),
    "SOML": Verb(Receiver.soml, _IDLE, True, "SOML FROM:<reverse-path>: to a terminal, or else the mailbox"),
    "SAML": Verb(Receiver.saml, _IDLE, True, "SAML FROM:<reverse-path>: to the mailbox and a terminal"),
    "RCPT": Verb(Receiver.rcpt, _OPEN, True, "RCPT TO:<forward-path>"),
    "DATA": Verb(Receiver.data, _OPEN, False, "DATA: the message, ended by a line with a dot alone"),
    "BDAT": Verb(Receiver.bdat, _ANY, None, "BDAT <size> [LAST]: so many octets of the message"),
    "RSET": Verb(Receiver.rset, _ANY, False, "RSET: forget the transaction"),
    "VRFY": Verb(Receiver.vrfy, _ANY, True, "VRFY <user name or mailbox>"),
    "EXPN": Verb(Receiver.expn, _ANY, True, "EXPN <mailing list>"),
    "HELP": Verb(Receiver.help, _ANY, None, "HELP [<command>]"),
    "NOOP": Verb(Receiver.noop, _ANY, None, "NOOP: nothing but a reply"),
    "QUIT": Verb(Receiver.quit, _ANY, None, "QUIT: end of the channel"),
    "AUTH": Verb(Receiver.auth, _IDLE, True, "AUTH <mechanism> [<initial response>]"),
    "STARTTLS": Verb(Receiver.starttls, _IDLE, False, "STARTTLS: go on under TLS"),
    "TURN": Verb(Receiver.turn, _IDLE, None, "TURN: this host becomes the sender"),
    "ATRN": Verb(Receiver.atrn, _IDLE, None, "ATRN [<domain>,...]: TURN, for mail to these domains"),
    "ETRN": Verb(Receiver.etrn, _IDLE, True, "ETRN <domain>: start its queue"),
    "XWAIT": Verb(Receiver.xwait, _IDLE, True, "XWAIT <seconds>: keep the line open when it is turned"),
    "XPAIR": Verb(Receiver.xpair, _IDLE, True, "XPAIR <salt> <iterations> <stored> <server>: be a peer"),
}  # fmt: skip


def _out_of_order(state: State) -> Reply:
    if state is State.NEW:
        return replies.HELLO_FIRST
    return replies.IN_TRANSACTION if state is State.OPEN else replies.NO_TRANSACTION
