"""What the commands write: tables and lines in which nothing from outside can do harm.

Text of messages, peers and files passes the filter for terminals; rich reads no markup in it.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailnode.terminals.screen import visible

PIPE_WIDTH: Final = 4000  # columns: in a pipe nothing is folded
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


class Screen(Console):
    """Standard output, or standard error. In colour on a terminal, plain in a pipe."""

    def __init__(self, error: bool = False) -> None:
        stream = sys.stderr if error else sys.stdout
        width = None if stream.isatty() else PIPE_WIDTH
        super().__init__(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Whoever started the command decides how that ends; rich would end the process itself."""
        raise BrokenPipeError(errno.EPIPE, "standard output was closed")

    def say(self, text: Text | str) -> None:
        """One line that is folded by nobody but the terminal."""
        self.print(text, soft_wrap=True)

    def show(self, rows: Table) -> None:
        """A table; in a pipe without the spaces that fill its last column up."""
        if self.is_terminal:
            self.print(rows)
            return
        with self.capture() as captured:
            self.print(rows)
        for line in captured.get().splitlines():
            self.say(line.rstrip(" "))


def safe(text: str, style: str = "") -> Text:
    """Text from outside, filtered, for a table or a line."""
    return Text(visible(text), style=style)


def decoded(octets: bytes) -> str:
    """Octets from outside as filtered text."""
    return visible(octets.decode("utf-8", "surrogateescape"))


def table(*columns: str | tuple[str, Mapping[str, Any]], show_header: bool = True) -> Table:
    """An empty table with these headings; a heading may come with options of rich's columns."""
    look: dict[str, Any] = {"box": None, "header_style": "bold", "padding": (0, 2, 0, 0)}
    empty = Table(pad_edge=False, show_header=show_header, **look)
    for column in columns:
        heading, options = (column, {}) if isinstance(column, str) else column
        empty.add_column(heading, **{"overflow": "fold", **options})
    return empty


def note(text: str) -> None:
    """One line on standard error; on a terminal folded between words."""
    line = f"mailnode: {visible(' '.join(text.split()))}"
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns
        line = textwrap.fill(line, max(columns, 20), break_long_words=False, break_on_hyphens=False)
    click.echo(line, err=True)


def json_line(values: Mapping[str, Any]) -> None:
    """One object on one line, in ASCII: whatever it holds cannot harm a terminal."""
    click.echo(json.dumps(values))


def iso(seconds: float | None) -> str | None:
    """ISO 8601 in UTC, None for a time that is none."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a clock that was far away when it was written
        return None


def clock_time(seconds: float, now: float) -> str:
    """Local time as a person reads it: today only the time of day."""
    try:
        then, today = time.localtime(seconds), time.localtime(now)
    except (ValueError, OverflowError, OSError):
        return "?"
    if then[:3] == today[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%Y-%m-%d %H:%M", then)


def span(seconds: float) -> str:
    """A length of time in its largest unit: 45s, 12m, 3h, 5d."""
    seconds = max(0.0, seconds)
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return "0s"


def octets(size: int) -> str:
    """A number of octets as a person reads it: 812, 1.2K, 48M."""
    value = float(size)
    for unit in ("", "K", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if value >= 10 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}G"


def count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
