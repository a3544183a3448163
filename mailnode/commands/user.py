"""`mailnode user`: the secrets of users, peers and of our own calls."""

from __future__ import annotations

import os
import pwd
from typing import Final

import click
from twisted.internet.defer import execute

from mailnode.access.kept import SECRET_SIZE
from mailnode.access.passwords import Passwords
from mailnode.commands.invited import invited
from mailnode.commands.invocation import (
    CommandError,
    Invocation,
    at_terminal,
    pass_invocation,
    standard_input,
)
from mailnode.commands.output import Screen, note, safe, table
from mailnode.config import Configuration

NO_FILE: Final = (
    "the configuration names no passwords file; give it one: [users] passwords = "
    '"passwords" (a path, relative to the configuration file)'
)


@click.group(invoke_without_command=True)
@click.pass_context
def user(context: click.Context) -> None:
    """Secrets of users and peers."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def passwords_of(configuration: Configuration) -> Passwords:
    """CommandError (EX_CONFIG) if the configuration names no file."""
    if configuration.users.passwords is None:
        raise CommandError(NO_FILE, os.EX_CONFIG)
    return Passwords(configuration.users.passwords, execute)


def roles(configuration: Configuration, name: str) -> list[str]:
    """What `name` is in this configuration: "user", "peer", "call to NAME". Empty if it is nothing."""
    found = []
    if any(named.name == name for named in configuration.users.names) or (
        configuration.users.system and _is_login_name(name)
    ):
        found.append("user")
    if any(peer.name == name for peer in configuration.peer):
        found.append("peer")
    return found + [f"call to {dial.name}" for dial in configuration.dial if dial.user == name]


def _is_login_name(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def must_be_readable(configuration: Configuration, name: str) -> str:
    """Why the secret of `name` must be kept so that it can be said again; empty if it need not."""
    reasons = [f"this node says it when it calls {host}" for host in _said_to(configuration, name)]
    if any(peer.name == name and peer.cram_md5 for peer in configuration.peer):
        reasons.append("CRAM-MD5 needs it")
    return ", and ".join(reasons)


def _said_to(configuration: Configuration, name: str) -> list[str]:
    """The calls in which this node says the secret of `name`."""
    return [dial.name for dial in configuration.dial if dial.user == name]


@user.command(
    epilog="""\b
Examples:
  $ mailnode user password jones
  Password for jones:
  Once more:
  $ pass show leaf | mailnode user password leaf
"""
)
@click.argument("name")
@pass_invocation
def password(invocation: Invocation, name: str) -> None:
    """Set the secret of a user, of a peer, or of our own calls.

    Asks twice on a terminal; reads one line from a pipe. The file ([users] passwords) keeps hashes of
    it, which nobody can turn back: one for PLAIN and LOGIN, the keys for SCRAM-SHA-256. Only where NAME is
    the `user` of a [[dial]], so that this node must say the secret, or a [[peer]] with `cram_md5`, it is
    kept readable besides: whoever can read the file (mode 0600) can then read the secret.
    """
    configuration = invocation.configuration
    passwords = passwords_of(configuration)
    why = must_be_readable(configuration, name)
    if why and at_terminal():
        note(f"the password of {name} will be readable in {passwords.path}: {why}")
    secret = _ask(name) if at_terminal() else _read()
    try:
        passwords.set(name, secret, recoverable=bool(why))
    except ValueError as error:
        raise CommandError(str(error), os.EX_DATAERR) from None
    screen = Screen()
    if why:
        screen.say(safe(f"The password of {name} is set, and kept readable (mode 0600): {why}."))
        if _said_to(configuration, name):
            screen.say("A node that is running uses it after a SIGHUP.")
    else:
        screen.say(safe(f"The password of {name} is set; only its hash is kept."))
    if not roles(configuration, name):
        note(f"{name} is neither a user nor a peer nor the user of a call in this configuration")


def _ask(name: str) -> str:
    secret: str = click.prompt(
        f"Password for {ascii(name)[1:-1]}",
        hide_input=True,
        confirmation_prompt="Once more",
        err=True,
    )
    return _checked(secret)


def _read() -> str:
    """The first line of standard input. CommandError (EX_DATAERR, EX_NOINPUT)."""
    line = standard_input().readline(SECRET_SIZE + 3)
    if not line:
        raise CommandError("no password on standard input", os.EX_NOINPUT)
    try:
        return _checked(line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8"))
    except UnicodeDecodeError:
        raise CommandError("a password is UTF-8 text", os.EX_DATAERR) from None


def _checked(secret: str) -> str:
    """No client could say a secret with a NUL in it (RFC 4616 2)."""
    if "\0" in secret:
        raise CommandError("a password has no NUL in it", os.EX_DATAERR)
    return secret


@user.command("list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """Show who has a secret, what each is, and how it is kept.

    A peer or call that needs a secret and has none is shown too. Secrets themselves are never shown.
    """
    configuration = invocation.configuration
    passwords = passwords_of(configuration)
    known = passwords.names()
    needed = [peer.name for peer in configuration.peer if "auth" in peer.allow]
    needed += [dial.user for dial in configuration.dial if dial.user]
    awaited = invited(configuration)
    rows = table("NAME", "IS", "SECRET")
    for name in sorted({*known, *needed}):
        rows.add_row(
            safe(name),
            ", ".join(roles(configuration, name)) or "not in this configuration",
            _kept(passwords, name) + (", invited" if name in awaited else ""),
        )
    if rows.row_count:
        Screen().show(rows)
    else:
        Screen().say("Nobody has a password yet.")


def _kept(passwords: Passwords, name: str) -> str:
    kept = passwords.kept(name)
    if kept.secret is not None:
        return "readable"
    if not kept.scrypt:
        return "missing" if kept.scram is None else "keys for SCRAM alone"
    return "hashed" if kept.scram is not None else "hashed, without keys for SCRAM: set it again"
