"""`mailnode queue`: looks into the spool."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from mailnode.commands import queue_view
from mailnode.commands.filters import filters, selection
from mailnode.commands.invocation import CommandError, Invocation, pass_invocation
from mailnode.commands.output import Screen, count, decoded, json_line, note
from mailnode.commands.output import octets as shown_size
from mailnode.commands.queue_change import CHANGES
from mailnode.commands.spooled import now, opened
from mailnode.interfaces import QueuedMessage, Selection
from mailnode.mail import Body
from mailnode.spool.sqlite import SqliteSpool

LIMIT: Final = 1000  # messages of a list
LINE_SIZE: Final = 8192  # octets of a line of a body; a longer one is shown in pieces


@click.group(
    invoke_without_command=True,
    epilog="""\b
States:
  queued  waits for its next attempt   held     waits for the peer it is for
  leased  is being delivered now       stopped  by queue hold, until release
  bad     cannot be read, set aside
""",
)
@click.pass_context
def queue(context: click.Context) -> None:
    """Look into the spool, and change what is in it.

    These commands work on the spool itself: no node need be running, and one that runs need not stop.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@queue.command(
    "list",
    epilog="""\b
Examples:
  $ mailnode queue list --domain usc.example --older 2h
  $ mailnode queue list --state held --json | jq -r .id
""",
)
@filters
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=LIMIT, help="Show at most so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@pass_invocation
def list_(invocation: Invocation, /, limit: int, as_json: bool, **chosen: Any) -> None:
    """List the messages in the spool, oldest first."""
    with opened(invocation.configuration) as spool:
        messages = now(spool.listing(selection(**chosen), limit + 1))
    more, messages = len(messages) > limit, messages[:limit]
    if as_json:
        for message in messages:
            json_line(queue_view.as_json(message))
    elif messages:
        screen = Screen()
        screen.show(queue_view.overview(messages, time.time()))
        size = shown_size(sum(message.size for message in messages))
        screen.say(f"{count(len(messages), 'message')}, {size}")
    else:
        click.echo("No messages.")
    if more:
        note(f"only the first {limit} are shown; --limit shows more")


def _found(spool: SqliteSpool, id: str) -> QueuedMessage:
    for message in now(spool.listing(Selection(ids=(id.lower(),)), 1)):
        return message
    raise CommandError(f"no message {id[:40]} in the spool", os.EX_NOINPUT)


def _body(spool: SqliteSpool, id: str) -> Body:
    body = now(spool.body(id))
    if body is None:
        raise CommandError(f"message {id} cannot be read", os.EX_DATAERR)
    return body


@queue.command(
    epilog="""\b
Example:
  $ mailnode queue show 1kztk5we5kzyx --body | less
"""
)
@click.option("--body", "with_body", is_flag=True, help="Show the whole message, not its header alone.")
@click.argument("id")
@pass_invocation
def show(invocation: Invocation, id: str, with_body: bool) -> None:
    """Show one message: envelope, attempts, last replies, header."""
    screen = Screen()
    with opened(invocation.configuration) as spool:
        message = _found(spool, id)
        queue_view.show(screen, message, time.time())
        body = _body(spool, message.id)
        screen.say("")
        # It may be delivered while it is read: the open file stays, so this is whole or an error.
        for line in _lines(body):
            if not line and not with_body:
                break
            click.echo(decoded(line))


def _lines(body: Body) -> Iterator[bytes]:
    """The lines of a message without their ends; one that is too long comes in pieces."""
    rest = b""
    for chunk in body.chunks():
        *lines, rest = (rest + chunk).split(b"\r\n")
        for line in lines:
            yield from _pieces(line)
        while len(rest) > LINE_SIZE:
            yield rest[:LINE_SIZE]
            rest = rest[LINE_SIZE:]
    if rest:
        yield rest


def _pieces(line: bytes) -> Iterator[bytes]:
    yield line[:LINE_SIZE]
    for start in range(LINE_SIZE, len(line), LINE_SIZE):
        yield line[start : start + LINE_SIZE]


@queue.command(
    epilog="""\b
Example:
  $ mailnode queue export 1kztk5we5kzyx > message.eml
"""
)
@click.argument("id")
@pass_invocation
def export(invocation: Invocation, id: str) -> None:
    """Write a message to standard output, octet for octet."""
    out = sys.stdout.buffer
    with opened(invocation.configuration) as spool:
        for chunk in _body(spool, _found(spool, id).id).chunks():
            out.write(chunk)
        out.flush()


for change in CHANGES:
    queue.add_command(change)
