"""`mailnode invite`: makes a host a peer of this node, and gives it a token to join by."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

import click

from mailnode import config
from mailnode.commands.filters import age
from mailnode.commands.invitable import Reachable, reachable
from mailnode.commands.invitation_list import show_invitations
from mailnode.commands.invited import invitations_of
from mailnode.commands.invocation import CommandError, Invocation, pass_invocation, status_of, words_of
from mailnode.commands.output import Screen, note, safe
from mailnode.commands.rereading import reread
from mailnode.commands.user import passwords_of
from mailnode.config import Configuration, ConfigurationErrors, DropIn, Peer
from mailnode.pairing.files import prepare_folder, remove_file, write_file
from mailnode.pairing.invitation import invitation_for
from mailnode.pairing.token import DOMAINS, Token, is_name, new_secret
from mailnode.pairing.words import moment
from mailnode.smtp.grammar import parse_domain

DAY: Final = "1d"
LONGEST: Final = 30 * 86400.0  # seconds


@click.command(
    epilog="""\b
Examples:
  $ mailnode invite leaf --domain leaf.example
  mailnode-mQGvaHViLmV4YW1wbGXNAks...
  $ mailnode invite --list
  $ mailnode invite --revoke leaf
"""
)
@click.argument("name", required=False)
@click.option("--domain", "domains", multiple=True, metavar="DOMAIN", help="Its mail is held for NAME.")
@click.option("--endpoint", metavar="HOST[:PORT]", help="Where NAME reaches this node, if not by its name.")
@click.option("--for", "lasts", default=DAY, type=age, metavar="TIME", help="How long the token is good.")
@click.option("--list", "show", is_flag=True, help="Show the invitations.")
@click.option("--revoke", metavar="NAME", help="Take an invitation back, or shut out who has used it.")
@pass_invocation
def invite(
    invocation: Invocation,
    name: str | None,
    domains: tuple[str, ...],
    endpoint: str | None,
    lasts: float,
    show: bool,
    revoke: str | None,
) -> int | None:
    """Invite a host to be a peer: its mail is held here until it fetches it.

    Prints one token, which is good once. On the other host `mailnode join TOKEN` does all that is to be
    done there. Whoever has the token first is NAME from then on, so hand it over with care. NAME is put
    into the configuration at once, and a running node holds mail for its domains from now on.
    """
    if sum((name is not None, show, revoke is not None)) != 1:
        raise click.UsageError("expected one of NAME, --list, --revoke NAME")
    configuration = invocation.configuration
    try:
        if show:
            return show_invitations(invitations_of(configuration))
        if revoke is not None:
            return _revoke(configuration, revoke)
        assert name is not None
        return _invite(invocation, configuration, name, domains, endpoint, lasts)
    except OSError as error:
        raise CommandError(words_of(error), status_of(error)) from None


def _invite(
    invocation: Invocation,
    configuration: Configuration,
    name: str,
    domains: Sequence[str],
    endpoint: str | None,
    lasts: float,
) -> int:
    if not is_name(name):
        raise click.UsageError("a name has 1 to 64 of A-Z a-z 0-9 . _ + -, no dot first")
    if not 60 <= lasts <= LONGEST:
        raise click.UsageError("a token is good for a minute at least and for 30d at most")
    where = reachable(configuration, endpoint)
    peer = next((peer for peer in configuration.peer if peer.name == name), None)
    new = _new_peer(invocation, configuration, name, domains) if peer is None else None
    if peer is not None:
        _check_same(configuration, peer, domains)
    held = peer.domains if peer is not None else [domain.lower() for domain in domains]
    now = time.time()
    token = Token(
        host=str(where.host),
        port=where.port,
        hub=str(configuration.host),
        name=name,
        domains=tuple(map(str, held)),
        secret=new_secret(os.urandom),
        fingerprint=where.fingerprint,
        expires=int(now + lasts),
        implicit=where.implicit,
    )
    if new is not None:
        folder, file = os.path.split(new.file)
        prepare_folder(folder)
        text = config.format_drop_in(new, f"written by mailnode invite at {moment(now)}")
        write_file(folder, file, text.encode())
    invitations_of(configuration).put(invitation_for(token, now, os.urandom))
    return _hand_over(configuration, token, where)


def _hand_over(configuration: Configuration, token: Token, where: Reachable) -> int:
    click.echo(token.encode())
    ends = time.strftime("%Y-%m-%d %H:%M", time.localtime(token.expires))
    note(f"good once, until {ends}, at {where}; on the other host: mailnode join TOKEN")
    try:
        if not reread(configuration):
            note("no node is running with this configuration: nobody can join before it is started")
    except CommandError as error:
        raise CommandError(f"{error}; {token.name} cannot join before that", error.status) from None
    return os.EX_OK


def _new_peer(
    invocation: Invocation, configuration: Configuration, name: str, domains: Sequence[str]
) -> DropIn:
    """The table of a new peer. CommandError if it would be wrong in this configuration."""
    if not domains:
        raise click.UsageError(f"{name} is not a peer yet: whose mail is to be held for it? (--domain)")
    if len(domains) > DOMAINS or any(parse_domain(domain) is None for domain in domains):
        raise click.UsageError(f"expected domains, {DOMAINS} at most")
    file = config.drop_in_file(configuration.data, "peer", name)
    drop_in = DropIn("peer", file, {"name": name, "domains": [domain.lower() for domain in domains]})
    try:
        config.load(invocation.file, more=[drop_in])
    except ConfigurationErrors as errors:
        why = errors.lines[0].removeprefix(f"{file}: ")
        raise CommandError(f"{name} cannot be a peer: {why}", os.EX_CONFIG) from None
    return drop_in


def _check_same(configuration: Configuration, peer: Peer, domains: Sequence[str]) -> None:
    """A peer that there is already is invited as it is."""
    if "auth" not in peer.allow:
        text = f'{peer.name} is a peer that does not prove itself by AUTH: put "auth" into its allow'
        raise CommandError(text, os.EX_CONFIG)
    if domains and {domain.lower() for domain in domains} != set(peer.domains):
        file = config.drop_in_file(configuration.data, "peer", peer.name)
        where = file if os.path.exists(file) else "the configuration file"
        text = f"{peer.name} is a peer already, with {', '.join(peer.domains)}; change that in {where}"
        raise CommandError(text, os.EX_CONFIG)


def _revoke(configuration: Configuration, name: str) -> int:
    """Nobody gets in by the token any more; nor by the secret that was made with it."""
    if not is_name(name):
        raise click.UsageError("that is no name of a peer")
    file = config.drop_in_file(configuration.data, "peer", name)
    has_file, invitations = os.path.exists(file), invitations_of(configuration)
    passwords = passwords_of(configuration) if configuration.users.passwords is not None else None
    try:
        revoked, latest = invitations.revoke(name), invitations.latest(name)
    except ValueError as error:
        raise CommandError(f"the invitation of {name} cannot be read: {error}", os.EX_DATAERR) from None
    was_used = latest is not None and latest.ended == "used"
    has_secret = passwords is not None and name in passwords.names()
    screen = Screen()
    if revoked is not None:
        screen.say(safe(f"The invitation of {name} is revoked."))
    elif passwords is not None and has_secret and (has_file or was_used):
        passwords.remove(name)
        screen.say(safe(f"{name} has no secret any more and cannot prove itself."))
        screen.say("Its mail is still held, and it can be invited again.")
    elif not has_file or was_used:
        shut_out = f" and no secret; to hold no mail for it, remove {file}" if has_file else ""
        raise CommandError(f"there is no open invitation for {name}{shut_out}", os.EX_NOINPUT)
    if has_file and not has_secret and not was_used:
        remove_file(*os.path.split(file))
        screen.say("It has never joined, and is no peer any more.")
    reread(configuration)
    return os.EX_OK
