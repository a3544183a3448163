"""`mailnode who`: who is logged in and may be written to."""

from __future__ import annotations

import os
import time

import click
from rich.text import Text

from mailnode.commands.invocation import CommandError, Invocation, pass_invocation
from mailnode.commands.output import Screen, clock_time, iso, json_line, note, safe, span, table
from mailnode.config import Configuration
from mailnode.interfaces import Terminal, Unknown
from mailnode.node import build_directory, build_terminals


@click.command(
    epilog="""\b
Example:
  $ mailnode who jones
  USER   TERMINAL  MESSAGES  SINCE  IDLE  FROM
  jones  pts/3     yes       09:12  4m    192.0.2.7
"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("user", required=False)
@pass_invocation
def who(invocation: Invocation, user: str | None, as_json: bool) -> None:
    """Show who is logged in, where, and whether messages are taken.

    MESSAGES is "no" where the user said `mesg n`; SEND, SOML and SAML do not reach such a terminal.
    The host is asked, not the node: no node need be running.
    """
    configuration = invocation.configuration
    terminals = build_terminals(configuration).logged_in(user)
    if as_json:
        for terminal in terminals:
            _print_json(terminal)
        return
    if terminals:
        _show(terminals)
    elif not _explain(configuration):
        if user is not None and isinstance(build_directory(configuration).lookup(user), Unknown):
            raise CommandError(f"no user {user} here", os.EX_NOUSER)
        Screen().say(safe(f"{user} is not logged in." if user else "Nobody is logged in."))


def _print_json(terminal: Terminal) -> None:
    json_line(
        {
            "user": terminal.user,
            "terminal": terminal.line,
            "kind": terminal.kind,
            "accepting": terminal.accepting,
            "since": iso(terminal.since),
            "idle": round(terminal.idle),
            "from": terminal.host,
        }
    )


def _show(terminals: list[Terminal]) -> None:
    now = time.time()
    rows = table("USER", "TERMINAL", "MESSAGES", "SINCE", "IDLE", "FROM")
    for terminal in sorted(terminals, key=lambda one: (one.user, one.line)):
        rows.add_row(
            safe(terminal.user),
            safe(terminal.line),
            Text("yes", "green") if terminal.accepting else Text("no", "red"),
            clock_time(terminal.since, now),
            span(terminal.idle) if terminal.idle >= 60 else "",
            safe(terminal.host),
        )
    Screen().show(rows)


def _explain(configuration: Configuration) -> bool:
    """Says why nobody can be seen, if the host cannot be asked at all."""
    utmp = configuration.terminals.utmp
    if utmp == "none":
        note('host terminals are switched off: [terminals] utmp = "none"')
    elif not os.path.exists(utmp):
        note(f"nobody can be seen: this host has no {utmp}; [terminals] utmp names another")
    else:
        return False
    return True
