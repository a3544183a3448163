"""`mailnode queue hold|release|retry|delete`: changes what is in the spool."""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

import click
from msgspec.structs import replace

from mailnode.commands.filters import filters, selection
from mailnode.commands.invocation import CommandError, Invocation, at_terminal, pass_invocation
from mailnode.commands.output import count, note
from mailnode.commands.spooled import now, opened
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets
from mailnode.interfaces import QueuedMessage, Selection
from mailnode.spool.selection import rule
from mailnode.spool.sqlite import SqliteSpool

MOST: Final = 1_000_000  # messages that are counted


class Action(NamedTuple):
    purpose: str
    more: str
    done: str  # past participle, for the report
    example: str


ACTIONS: Final = {
    "hold": Action(
        "Keep messages in the spool until they are released.",
        "For messages that wait for their next attempt or for a peer; nobody fetches them meanwhile.",
        "held",
        "mailnode queue hold --domain usc.example",
    ),
    "release": Action(
        "Let messages go that were stopped by `queue hold`: they are due now.",
        "All are routed again: mail for a peer then waits for that peer as before.",
        "released",
        "mailnode queue release --state stopped --to jones@",
    ),
    "retry": Action(
        "Try messages again now, not at their next attempt.",
        "For messages that wait for their next attempt; they are routed afresh by the configuration.",
        "due now",
        "mailnode queue retry --domain usc.example",
    ),
    "delete": Action(
        "Take messages out of the spool. Nobody is told.",
        "On a terminal it asks first.",
        "deleted",
        "mailnode queue delete --from spammer@ --older 1d",
    ),
}


def change(name: str, spool: SqliteSpool, chosen: Selection) -> int:
    """Does it, says what was done and what was left alone; the exit status."""
    action = ACTIONS[name]
    before = now(spool.listing(Selection(ids=chosen.ids), len(chosen.ids))) if chosen.ids else []
    busy = _busy(spool, chosen)
    changed = now(spool.change(chosen, name))
    if changed or not chosen.ids:
        click.echo(f"{count(changed, 'message')} {action.done}." if changed else "Nothing to change.")
    status = os.EX_OK
    if busy:
        left = "was left alone" if busy == 1 else "were left alone"
        note(f"{count(busy, 'message')} being delivered now {left}")
        status = os.EX_TEMPFAIL if not changed else status
    states = rule(name)[0]
    for message in before:
        if not {one.state for one in message.recipients} & {*states, "leased"}:
            note(_unfit(message, name))
            status = os.EX_DATAERR
    for id in dict.fromkeys(chosen.ids):
        if id not in {message.id for message in before}:
            note(f"no message {id[:40]} in the spool")
            status = os.EX_NOINPUT
    return status


def _busy(spool: SqliteSpool, chosen: Selection) -> int:
    """How many of the messages chosen have recipients that are being delivered now."""
    if chosen.state not in ("", "leased"):
        return 0
    return len(now(spool.listing(replace(chosen, state="leased"), MOST)))


def _unfit(message: QueuedMessage, name: str) -> str:
    hint = {"retry": "; mailnode queue release lets it go", "release": ""}.get(name, "")
    return f"message {message.id} is {message.state}: nothing to {name}{hint}"


def wake(data: str) -> None:
    """Tells the node that works this spool off, if there is one, that something may be due."""
    try:
        with ControlClient.connect(sockets(data)[0]) as node:
            node.ask("wake")
    except NoNodeError:
        return  # the next node that starts looks into the spool anyway
    except (RefusedError, OSError) as error:
        note(f"the running node could not be told, and will see it when it next looks: {error}")


def _choose(ids: tuple[str, ...], everything: bool, chosen: dict[str, Any]) -> Selection:
    """What is meant. CommandError (EX_USAGE) unless it is said, by ids, by filters, or by --all."""
    picked = selection(ids=ids, **chosen)
    if everything and picked != Selection():
        raise CommandError("--all means all messages: it goes with no id and no filter", os.EX_USAGE)
    if not everything and picked == Selection():
        raise CommandError("say which: message ids, a filter such as --domain, or --all", os.EX_USAGE)
    return picked


def _sure(spool: SqliteSpool, chosen: Selection) -> bool:
    number = len(now(spool.listing(chosen, MOST)))
    return not number or click.confirm(f"Delete {count(number, 'message')} for good?", err=True)


def _command(name: str) -> click.Command:
    action = ACTIONS[name]

    @click.command(
        name,
        help=f"{action.purpose}\n\nBy message IDs, by filters, or both. {action.more} What is being "
        "delivered right now is left alone; you are told.",
        epilog=f"\b\nExample:\n  $ {action.example}",
    )
    @filters
    @click.option("--all", "everything", is_flag=True, help="All messages.")
    @click.argument("ids", nargs=-1, metavar="[ID]...")
    @pass_invocation
    def command(
        invocation: Invocation, /, ids: tuple[str, ...], everything: bool, yes: bool = False, **chosen: Any
    ) -> int:
        picked = _choose(ids, everything, chosen)
        configuration = invocation.configuration
        with opened(configuration) as spool:
            ask = name == "delete" and not yes and at_terminal()
            if ask and not _sure(spool, picked):
                note("nothing was deleted")
                return os.EX_OK
            status = change(name, spool, picked)
        wake(configuration.data)
        return status

    if name == "delete":
        click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)
    return command


CHANGES: Final = tuple(map(_command, ACTIONS))
