"""`mailnode join`: makes this node the peer of a hub that has invited it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from mailnode import config
from mailnode.commands.invocation import (
    CommandError,
    Invocation,
    at_terminal,
    pass_invocation,
    standard_input,
    status_of,
    words_of,
)
from mailnode.commands.output import Screen, note, safe
from mailnode.commands.rereading import reread
from mailnode.commands.user import passwords_of, roles
from mailnode.config import Configuration, ConfigurationErrors, DropIn
from mailnode.pairing.calling import HubCaller
from mailnode.pairing.files import prepare_folder, write_file
from mailnode.pairing.joining import Home, JoinError, Joining, Say, dial_name, dial_table
from mailnode.pairing.token import LENGTH, Token, TokenError, decode, is_name
from mailnode.pairing.words import moment
from mailnode.trace import TraceLines

COLUMN: Final = 14  # characters in front of what is said
OUT_BY_MX: Final = (
    'mail of this node for other hosts goes to them directly; [routes] "*" = "hold" gives it to the hub'
)


@click.command(
    epilog="""\b
Example:
  $ mailnode join mailnode-mQGvaHViLmV4YW1wbGXNAks...
  paired         this node is leaf there; the token is used up
  mail held      3 messages
  ...
"""
)
@click.argument("token", required=False)
@click.option("--name", metavar="NAME", help="What to call the hub here, if not by its host name.")
@pass_invocation
def join(invocation: Invocation, token: str | None, name: str | None) -> int:
    """Join a hub that has invited this node: it holds our mail, and we fetch it.

    TOKEN is what `mailnode invite` printed there; without it, it is asked for or read from standard input.
    The hub is called and its certificate compared; a new secret is made here, and the hub gets what it
    needs to know it by; a [[dial]] is put into the configuration, and a running node begins to call. If
    it fails, nothing is changed, and it can be done again with the same token.

    Exit status: 0 if all works; 65 if the token is no whole token, 75 if it may work later, 76 if the hub is
    not the one that has invited us, 77 if the token was used, has expired or was revoked, 78 if the
    configuration does not fit.
    """
    invitation = _token(token)
    name = name or dial_name(invitation)
    configuration = invocation.configuration
    ready = _check(invocation, configuration, invitation, name)
    screen = Screen()

    def say(what: str, how: str) -> None:
        screen.say(safe(f"{what:<{COLUMN}} {how}"))

    try:
        _join(invocation, ready, invitation, name, say)
    except OSError as error:
        raise CommandError(words_of(error), status_of(error)) from None
    except JoinError as error:
        if error.paired:
            reread(configuration)
        raise CommandError(str(error), error.status) from None
    if reread(configuration):
        say("node", "has reread its configuration, and calls")
    else:
        say("node", "is not running; it calls when it is started")
    if (route := ready.routes.get("*")) is not None and route.to == "mx":
        note(OUT_BY_MX)
    return os.EX_OK


def _token(text: str | None) -> Token:
    if text is None and at_terminal():
        text = click.prompt("Token", err=True)
    elif text is None or text == "-":
        text = standard_input().read(2 * LENGTH).decode("ascii", "replace")
    try:
        return decode(text)
    except TokenError as error:
        raise CommandError(str(error), os.EX_DATAERR) from None


def _check(invocation: Invocation, configuration: Configuration, token: Token, name: str) -> Configuration:
    """The configuration as it is going to be. CommandError if it cannot be so; nothing was done then."""
    if not is_name(name):
        raise click.UsageError("a name has 1 to 64 of A-Z a-z 0-9 . _ + -, no dot first")
    foreign = [domain for domain in token.domains if domain not in configuration.domains]
    if foreign:
        text = f"{', '.join(foreign)}: not a domain of this node, which would refuse the mail; add it there"
        raise CommandError(text, os.EX_CONFIG)
    file = config.drop_in_file(configuration.data, "dial", name)
    same = next((dial for dial in configuration.dial if dial.name == name), None)
    if same is not None and not (os.path.exists(file) and same.user == token.name):
        text = f"there is a [[dial]] {name} already, and it is another; give this one another --name"
        raise CommandError(text, os.EX_CONFIG)
    if others := [role for role in roles(configuration, token.name) if role != f"call to {name}"]:
        text = f"{token.name} is the hub's name for this node, and here it is: {', '.join(others)}"
        raise CommandError(f"{text}; be invited by another name", os.EX_CONFIG)
    drop_in = DropIn("dial", file, dial_table(token, name, verified=False))
    try:
        ready = config.load(invocation.file, more=[drop_in])
    except ConfigurationErrors as errors:
        raise CommandError(f"wrong configuration: {errors.lines[0]}", os.EX_CONFIG) from None
    prepare_folder(configuration.data)
    folder = os.path.dirname(passwords_of(ready).path)
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{folder}: the passwords file cannot be written there", os.EX_NOPERM)
    return ready


def _join(invocation: Invocation, ready: Configuration, token: Token, name: str, say: Say) -> None:
    screen, passwords = Screen(error=True), passwords_of(ready)
    roots = ready.tls.roots if ready.tls is not None else None
    folder, file = os.path.split(config.drop_in_file(ready.data, "dial", name))

    def traced(speaker: str, text: str) -> None:
        screen.say(safe(f"{speaker}: {text}" if text else f"------ {speaker} ------"))

    def write_dial(table: Mapping[str, Any]) -> None:
        drop_in = DropIn("dial", os.path.join(folder, file), table)
        remark = f"written by mailnode join at {moment(time.time())}"
        write_file(folder, file, config.format_drop_in(drop_in, remark).encode())

    def keep(user: str, secret: str) -> None:
        passwords.set(user, secret, recoverable=True)

    trace = (lambda: TraceLines(traced)) if invocation.verbose else None
    call = HubCaller(token.host, token.port, token.fingerprint, roots, trace, implicit=token.implicit)
    home = Home(ready.host, folder, write_dial, keep)
    Joining(token, name, home, call, say, os.urandom, time.time).run()
    say("written", os.path.join(folder, file))
    say("secret", f"in {passwords.path}, readable (mode 0600), for this node has to say it")
