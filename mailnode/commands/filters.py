"""The options that choose messages of the spool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from mailnode.configuration.values import read_duration
from mailnode.interfaces import Selection

STATES: Final = ("queued", "leased", "held", "stopped", "bad")


def age(value: str | float) -> float:
    """A length of time as the configuration writes it, in seconds."""
    try:
        return float(read_duration(value))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


Command = Callable[..., Any]


def filters(command: Command) -> Command:
    """The options that choose messages; `selection` reads them."""
    options = (
        click.option("--to", default="", show_default=False, metavar="TEXT", help="A recipient has TEXT."),
        click.option(
            "--from", "sender", default="", show_default=False, metavar="TEXT", help="The sender has TEXT."
        ),
        click.option(
            "--domain", default="", show_default=False, metavar="DOMAIN", help="The next host is DOMAIN."
        ),
        click.option("--state", default=None, type=click.Choice(STATES),
                     metavar="|".join(STATES), help="A recipient is in this state."),
        click.option("--older", default=0.0, show_default=False, type=age, metavar="AGE",
                     help="Arrived longer ago: 30m, 2h, 5d."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def selection(
    to: str, sender: str, domain: str, state: str | None, older: float, ids: tuple[str, ...] = ()
) -> Selection:
    chosen = tuple(id.lower() for id in ids)
    return Selection(chosen, to, sender, domain.lower().rstrip("."), state or "", older)
