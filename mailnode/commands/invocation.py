"""What every command starts from: the configuration, and the way in which a command ends."""

from __future__ import annotations

import os
import select
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Final

import click

from mailnode import config
from mailnode.config import Configuration, ConfigurationErrors

NO_NODE = "no node is running with this configuration; start it with: twistd -n mailnode"


class CommandError(Exception):
    """A command cannot do what it was told; the text is one line, the status one of sysexits(3)."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Invocation:
    """The options in front of the command. The configuration is read when a command asks for it."""

    file: str | None = None
    verbose: bool = False

    @cached_property
    def configuration(self) -> Configuration:
        """CommandError (EX_CONFIG) if it is wrong."""
        try:
            return config.load(self.file)
        except ConfigurationErrors as errors:
            first, *others = errors.lines
            more = f" (and {len(others)} more: mailnode check)" if others else ""
            raise CommandError(f"wrong configuration: {first}{more}", os.EX_CONFIG) from None


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


LOOK: Final = 0.2  # seconds in which an interrupt is noticed


def at_terminal() -> bool:
    """Whether a person can be asked; standard input may also be closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def standard_input() -> BinaryIO:
    """Standard input as octets. CommandError (EX_NOINPUT) if it is closed."""
    if sys.stdin is None:
        raise CommandError("standard input is closed", os.EX_NOINPUT)
    return sys.stdin.buffer


def wait_for_typing() -> None:
    """Waits until a person has typed something: an interrupt in the moment before a read ends nothing."""
    while not select.select([sys.stdin], [], [], LOOK)[0]:
        pass


def status_of(error: OSError) -> int:
    """The exit status (sysexits(3)) that fits what the system refused."""
    if isinstance(error, PermissionError):
        return os.EX_NOPERM
    if isinstance(error, FileNotFoundError):
        return os.EX_NOINPUT
    if isinstance(error, (BlockingIOError, TimeoutError)):
        return os.EX_TEMPFAIL
    return os.EX_IOERR


def words_of(error: OSError) -> str:
    """What the system refused, in one line."""
    words = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {words}" if error.filename else words
