"""`mailnode check`: is the configuration right?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import click

from mailnode import config
from mailnode.commands.invocation import Invocation, pass_invocation
from mailnode.commands.output import count, listed
from mailnode.config import Configuration, ConfigurationErrors
from mailnode.mail import OURS, Mode, Path
from mailnode.parts import build_client_tls, build_directory, build_routing, build_server_tls
from mailnode.terminal_room import NO_LIBRARY, has_logind, logins_kind
from mailnode.terminals.screen import visible


@click.command(
    epilog="""\b
Example:
  $ mailnode --config /etc/mailnode/mailnode.toml check
  listen[0].endpoint: unknown endpoint type 'tpc'
  retry.frist: unknown key, did you mean first?
"""
)
@pass_invocation
def check(invocation: Invocation) -> int:
    """Validate the configuration.

    Every error is shown at once, one a line, each with its key. The exit status is 0 if there is
    none, else 1. What is only doubtful, such as a certificate that has expired, is a warning.
    """
    try:
        configuration = config.load(invocation.file)
    except ConfigurationErrors as errors:
        for line in errors.lines:
            click.echo(visible(line), err=True)
        return 1
    try:
        tls = build_server_tls(configuration)
        build_client_tls(configuration)
    except ValueError as error:
        click.echo(visible(f"tls: {error}"), err=True)
        return 1
    for doubt in tls.doubts(configuration.host) if tls is not None else ():
        click.echo(visible(f"warning: tls.certificate: {doubt}"), err=True)
    if logins_kind(configuration) == "logind" and not has_logind():
        click.echo(f"warning: terminals.utmp: {NO_LIBRARY}", err=True)
    for place, code in _nowhere(configuration):
        click.echo(visible(f"warning: {place}: leads nowhere, mail for it gets {code}"), err=True)
    file = config.find(invocation.file, os.environ, os.getcwd())
    click.echo(f"{visible(file) if file else 'no configuration file, so the embedded default'}: ok")
    if invocation.verbose or sys.stdout.isatty():
        for line in _summary(configuration):
            click.echo(f"  {line}")
    return 0


def _nowhere(configuration: Configuration) -> Iterator[tuple[str, int]]:
    """The aliases and lists behind which there is nobody, and what a client is told."""
    routing = build_routing(configuration, build_directory(configuration))
    for section in ("aliases", "lists"):
        for name in getattr(configuration, section):
            reply = routing.route(Path(name), Mode.MAIL, OURS).reply
            if not reply.ok:
                yield f"{section}.{name}", reply.code


def _summary(configuration: Configuration) -> list[str]:
    users = [count(len(configuration.users.names), "named user")] if configuration.users.names else []
    if configuration.users.system:
        users.append("the login names of this host")
    return [
        f"{configuration.host} takes mail for {listed(configuration.domains)}",
        f"listens on {listed([listen.endpoint for listen in configuration.listen])}",
        f"users: {listed(users)}",
        f"data in {visible(configuration.data)}",
        f"peers: {listed([peer.name for peer in configuration.peer])}; "
        f"calls: {listed([dial.name for dial in configuration.dial])}",
    ]
