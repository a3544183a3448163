"""`mailnode who`: who is logged in and may be written to."""

from __future__ import annotations

import os
import re
import time

import click
from rich.text import Text

from mailnode.commands.invocation import CommandError, Invocation, pass_invocation
from mailnode.commands.output import Screen, clock_time, iso, json_line, note, safe, span, table
from mailnode.interfaces import Terminal, Unknown
from mailnode.parts import build_directory
from mailnode.seen_terminals import look


@click.command(
    epilog="""\b
Example:
  $ mailnode who jones
  USER   TERMINAL  KIND      MESSAGES  SINCE  IDLE  FROM
  jones  pts/3     utmp      yes       09:12  4m    192.0.2.7
"""
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.argument("user", required=False)
@pass_invocation
def who(invocation: Invocation, user: str | None, as_json: bool) -> None:
    """Show who is logged in, where, and whether messages are taken.

    KIND is "utmp" or "logind" for terminals of this host, "attached" for those of `mailnode terminal`.
    MESSAGES is "no" where the user said `mesg n` or `--quiet`; SEND, SOML and SAML do not reach such a
    terminal. Without a running node the terminals of the host are shown all the same.
    """
    configuration = invocation.configuration
    seen = look(configuration, user)
    terminals = seen.logged_in(user)
    unknown = user is not None and isinstance(build_directory(configuration).lookup(user), Unknown)
    if unknown and not terminals:
        raise CommandError(f"no user {user} here", os.EX_NOUSER)
    for line in seen.notes:
        note(line)
    if as_json:
        for terminal in terminals:
            _print_json(terminal)
    elif terminals:
        _show(terminals)
    else:
        far = "" if seen.is_whole else ", as far as can be seen"
        Screen().say(safe(f"{user} is not logged in{far}." if user else f"Nobody is logged in{far}."))


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


def _by_number(line: str) -> list[tuple[int, str]]:
    """What puts pts/9 before pts/10."""
    parts = re.split(r"([0-9]+)", line)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _show(terminals: list[Terminal]) -> None:
    now = time.time()
    rows = table("USER", "TERMINAL", "KIND", "MESSAGES", "SINCE", "IDLE", "FROM")
    for terminal in sorted(terminals, key=lambda one: (one.user, _by_number(one.line))):
        rows.add_row(
            safe(terminal.user),
            safe(terminal.line),
            terminal.kind,
            Text("yes", "green") if terminal.accepting else Text("no", "red"),
            clock_time(terminal.since, now),
            span(terminal.idle) if terminal.idle >= 60 else "",
            safe(terminal.host),
        )
    Screen().show(rows)
