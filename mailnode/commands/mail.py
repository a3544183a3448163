"""`mailnode mail`, `send`, `soml`, `saml`: submit standard input by that very verb (RFC 821 3.4)."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import click

from mailnode.commands.conversation import BEGIN, converse
from mailnode.commands.invocation import (
    NO_NODE,
    CommandError,
    Invocation,
    at_terminal,
    pass_invocation,
    standard_input,
    wait_for_typing,
    words_of,
)
from mailnode.commands.message import Stamp, compose, field_names, with_crlf
from mailnode.commands.outcome import outcome
from mailnode.commands.output import Screen, json_line, note, safe, table
from mailnode.commands.verdict import Verdict, exit_status, learned, message_id, verdict
from mailnode.config import Configuration
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets
from mailnode.mail import NULL_PATH, Body, Letter, Mode, Path, Recipient, Terms
from mailnode.smtp.grammar import parse_mailbox, parse_named_mailbox
from mailnode.smtp.script import Plan
from mailnode.submission import Submission, Submitted, Where, parse_where
from mailnode.trace import TraceLines

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


# ------------------------------------------------------------------ where to


def running(configuration: Configuration) -> Where | None:
    """The first smtp listener of the node that runs with this configuration; None if none is found."""
    for path in sockets(configuration.data):
        try:
            with ControlClient.connect(path) as node:
                status = node.ask("status")
        except (NoNodeError, RefusedError, OSError):
            continue  # the configuration says where it would listen
        name = str(status.get("hostname", configuration.host))
        if name.lower() != configuration.host.lower():
            note(f"the node is still {name}, the configuration says {configuration.host}: start it again")
        for listener in status.get("listening", ()):
            if listener.get("role") == "smtp" and (where := parse_where(str(listener.get("where")))):
                return Where(_LOOPBACK.get(where.host, where.host), where.port)
    return None


def configured(endpoints: Iterable[str]) -> Where | None:
    """Where the first of `endpoints` (Twisted server endpoint strings) that can be read listens."""
    for endpoint in endpoints:
        # Twisted's own parser would build the endpoint; only the simple forms are of use here.
        kind, *words = endpoint.replace(r"\:", "\0").split(":")
        words = [word.replace("\0", ":") for word in words]
        values = dict(word.split("=", 1) for word in words if "=" in word)
        first = next((word for word in words if "=" not in word), "")
        if kind == "unix" and (path := values.get("address", first)).startswith("/"):
            return Where(path)
        port = values.get("port", first)
        if kind in ("tcp", "tcp6") and port.isdigit() and 0 < int(port) < 65536:
            host = values.get("interface", "::" if kind == "tcp6" else "")
            return Where(_LOOPBACK.get(host, host), int(port))
    return None


def find_node(configuration: Configuration) -> Where:
    where = running(configuration)
    if where is None:
        where = configured(listen.endpoint for listen in configuration.listen if listen.role == "smtp")
    if where is None:
        raise CommandError(NO_NODE, os.EX_UNAVAILABLE)
    return where


# ------------------------------------------------------------------ what was typed


def login_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a process without an entry, as in a container
        return f"uid{os.getuid()}"


def recipient_path(text: str, domain: str) -> Path:
    """The path that a person typed; one without a domain is of `domain`. CommandError (EX_USAGE)."""
    named = parse_named_mailbox(text, bare=True)
    if named is None:
        raise CommandError(f"{text!a} is not an address", os.EX_USAGE)
    path = named[1]
    return path if path.domain else Path(path.local, domain)


def sender_path(text: str | None, domain: str) -> Path:
    """The reverse-path: as it was typed, or the login name at `domain`. CommandError (EX_USAGE)."""
    if text == "<>":
        return NULL_PATH
    path = parse_mailbox(login_name() if text is None else text, bare=True)
    if path is None:
        raise CommandError(f"{text or login_name()!a} is not an address", os.EX_USAGE)
    return path if path.domain else Path(path.local, domain)


def read_message(limit: int) -> bytes:
    """Standard input, with CRLF. CommandError (EX_DATAERR) if it is larger than `limit` octets."""
    if at_terminal():
        click.echo("Type the message; end it with ^D on a line of its own.", err=True)
        wait_for_typing()
    text = with_crlf(standard_input().read(limit + 1))
    if len(text) > limit:
        raise CommandError(f"the message is larger than {limit} octets", os.EX_DATAERR)
    return text


# ------------------------------------------------------------------ the commands


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one command gives away, by which verb, to whom, and to which host."""

    configuration: Configuration
    mode: Mode
    reverse_path: Path
    paths: Sequence[Path]
    where: Where
    own_node: bool
    verbose: bool
    as_json: bool

    def give(self, text: bytes, subject: str = "") -> list[Verdict]:
        """Submits `text` (CRLF) and shows what happened."""
        configuration, mode = self.configuration, self.mode
        stamp = Stamp(time.time(), secrets.token_hex(6), configuration.domains[0])
        octets = compose(text, mode, self.reverse_path, self.paths, subject, stamp)
        recipients = tuple(Recipient(path, mode) for path in self.paths)
        terms = Terms(eight_bit=not octets.isascii())
        letter = Letter(mode, self.reverse_path, recipients, Body.of(octets), terms)
        submitted = _submit(self.where, Plan(configuration.host), letter, self.verbose, self.own_node)
        if submitted.verb not in (None, mode):
            note(f"{self.where} does not offer {mode.value}: it was given by MAIL instead")
        verdicts = self._learn(submitted, [verdict(mode, recipient, submitted) for recipient in recipients])
        if self.as_json:
            _print_json(self.paths, verdicts, message_id(submitted))
        else:
            _show(self.paths, verdicts)
        return verdicts

    def _learn(self, submitted: Submitted, verdicts: list[Verdict]) -> list[Verdict]:
        """The verdicts with what our own node finds out of recipients elsewhere, if it may be asked."""
        id = message_id(submitted)
        open_ones = [path for path, what in zip(self.paths, verdicts, strict=True) if what.queued]
        if not (id and open_ones and self.own_node):
            return verdicts
        answer = outcome(self.configuration, id, open_ones)
        if answer is None:
            return verdicts
        return [
            learned(self.mode, path, what, answer) for path, what in zip(self.paths, verdicts, strict=True)
        ]


def deliver(
    invocation: Invocation,
    mode: Mode,
    to: Sequence[str],
    sender: str | None,
    via: str | None,
    subject: str,
    as_json: bool = False,
) -> int:
    """Submits standard input and shows what happened; the exit status."""
    configuration = invocation.configuration
    domain = configuration.domains[0]
    if not subject.isprintable():
        raise CommandError("a subject is one line of printable text", os.EX_USAGE)
    # A message on a terminal is answered there: on this very host, whatever others share its domain.
    reverse_path = sender_path(sender, configuration.host if mode.wants_terminal else domain)
    paths = list(dict.fromkeys(recipient_path(text, domain) for text in to))
    where = parse_where(via) if via is not None else None
    if via is not None and where is None:
        raise CommandError(f"--via: {via!a} is not HOST:PORT", os.EX_USAGE)
    where = where or find_node(configuration)
    if at_terminal():
        _open(where, via is None).close()  # before somebody types for nobody
    verbose = invocation.verbose
    delivery = Delivery(configuration, mode, reverse_path, paths, where, via is None, verbose, as_json)
    if mode.wants_terminal and not subject and at_terminal():
        click.echo(BEGIN, err=True)
        if sender is None and not _can_be_answered(configuration):
            note("none of your terminals takes answers (see: mailnode terminal)")
        return converse(standard_input(), delivery.give)
    text = read_message(int(configuration.limits.message_size))
    if subject and "subject" in (field_names(text) or ()):
        raise CommandError("--subject: the message has a subject of its own", os.EX_USAGE)
    return exit_status(delivery.give(text, subject))


def _can_be_answered(configuration: Configuration) -> bool:
    from mailnode.seen_terminals import look  # takes as long as all else, and is seldom needed

    return any(terminal.accepting for terminal in look(configuration, login_name()).logged_in())


def _submit(where: Where, plan: Plan, letter: Letter, verbose: bool, own_node: bool) -> Submitted:
    screen = Screen(error=True)

    def say(speaker: str, text: str) -> None:
        screen.say(safe(f"{speaker}: {text}", "cyan" if speaker == "C" else ""))

    with _open(where, own_node) as channel:
        trace = TraceLines(say) if verbose else None
        return Submission(channel, plan, letter, trace).run()


def _open(where: Where, own_node: bool) -> socket.socket:
    """A connection to the node. CommandError."""
    try:
        return where.connect()
    except (ConnectionRefusedError, FileNotFoundError) as error:
        if own_node:
            raise CommandError(NO_NODE, os.EX_UNAVAILABLE) from None
        raise CommandError(f"cannot connect to {where}: {words_of(error)}", os.EX_TEMPFAIL) from None
    except OSError as error:
        status = os.EX_UNAVAILABLE if isinstance(error, socket.gaierror) else os.EX_TEMPFAIL
        raise CommandError(f"cannot connect to {where}: {words_of(error)}", status) from None


def _show(paths: Sequence[Path], verdicts: Sequence[Verdict]) -> None:
    rows = table("", "", show_header=False)
    for path, what in zip(paths, verdicts, strict=True):
        words = safe(what.words, "green" if what.taken else "red")
        if what.reply:
            words.append_text(safe(f": {what.reply}"))
        rows.add_row(safe(str(path)[1:-1]), words)
    Screen().show(rows)


def _print_json(paths: Sequence[Path], verdicts: Sequence[Verdict], id: str) -> None:
    for path, what in zip(paths, verdicts, strict=True):
        json_line(
            {
                "recipient": str(path)[1:-1],
                "taken": what.taken,
                "state": what.state,
                "words": what.words,
                "reply": what.reply,
                "id": id or None,
            }
        )


_PURPOSE: Final = {
    Mode.MAIL: "Send a message to mailboxes (MAIL).",
    Mode.SEND: "Show a message on the terminals of people who are logged in (SEND).",
    Mode.SOML: "Show a message on a terminal, or else put it in the mailbox (SOML).",
    Mode.SAML: "Put a message in the mailbox, and on a terminal besides (SAML).",
}
_MORE: Final = {
    Mode.MAIL: "A text without a header gets From, To, Date and Message-ID.",
    Mode.SEND: "A recipient who is not logged in, or takes no messages (mesg n), is not waited for. A host "
    "that does not offer SEND cannot be given the message at all.",
    Mode.SOML: "A host that does not offer SOML is given the message by MAIL; you are told.",
    Mode.SAML: "A host that does not offer SAML is given the message by MAIL; you are told.",
}
_CONVERSATION: Final = {
    mode: "; on a terminal, each line is one as you end it" if mode.wants_terminal else "" for mode in Mode
}
_EXAMPLE: Final = {
    Mode.MAIL: "echo 'Lunch at one?' | mailnode mail --subject Lunch jones",
    Mode.SEND: "echo 'Lunch at one?' | mailnode send jones@mit.example",
    Mode.SOML: "echo 'The build is done' | mailnode soml jones brown@usc.example",
    Mode.SAML: "echo 'The disk is full' | mailnode saml --from root postmaster",
}


def _command(mode: Mode) -> click.Command:
    @click.command(
        mode.value.lower(),
        help=f"{_PURPOSE[mode]}\n\nStandard input is the message{_CONVERSATION[mode]}. {_MORE[mode]} "
        "A RECIPIENT without a domain is of the first domain of the configuration. What became of it is "
        "shown for each.\n\n"
        "Exit status: 0 if all were taken, 67 if a recipient is unknown, 75 if it may work later, else 69.",
        epilog=f"\b\nExample:\n  $ {_EXAMPLE[mode]}",
    )
    @click.option("--from", "sender", metavar="PATH", help="Reverse-path.  [default: your login name]")
    @click.option("--via", metavar="HOST:PORT", help="Give it to this host.  [default: the running node]")
    @click.option("--subject", "-s", default="", show_default=False, help="Subject, for a text without one.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each recipient.")
    @click.option("--verbose", "-v", is_flag=True, help="Show the dialogue on standard error.")
    @click.argument("recipient", nargs=-1, required=True)
    @pass_invocation
    def submit(
        invocation: Invocation,
        recipient: tuple[str, ...],
        sender: str | None,
        via: str | None,
        subject: str,
        as_json: bool,
        verbose: bool,
    ) -> int:
        invocation.verbose = invocation.verbose or verbose
        return deliver(invocation, mode, recipient, sender, via, subject, as_json)

    return submit


mail, send, soml, saml = (_command(mode) for mode in Mode)
