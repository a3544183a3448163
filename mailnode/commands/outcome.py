"""Asks the running node what became of a message that it has just queued, while a person waits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mailnode.attached_client import became
from mailnode.commands.output import safe
from mailnode.config import Configuration
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets
from mailnode.mail import Path

WAIT: Final = 6.0  # seconds; a host that can be reached has answered by then
SPARE: Final = 4.0  # seconds more, until the node itself counts as one that does not answer
WIDTH: Final = 60  # columns of the progress word


def outcome(configuration: Configuration, id: str, waiting: Sequence[Path]) -> Mapping[str, Any] | None:
    """What the running node says of the message `id`, None if it cannot be asked.

    Whoever may do what the node may asks at the control socket; others ask of their own messages where
    terminals attach. `waiting` are the recipients that are not known yet, for the word that a person sees
    meanwhile.
    """
    word = _Word(f"waiting for {waiting[0].next_host}{' and others' if len(waiting) > 1 else ''} ...")
    try:
        # The process that works the spool off: no other knows.
        with ControlClient.connect(sockets(configuration.data)[0], WAIT + SPARE) as node:
            return node.ask("became", id=id, seconds=WAIT)
    except PermissionError:
        return _as_user(configuration, id)
    except (NoNodeError, RefusedError, OSError):
        return None  # nobody is there, or knows: what the reply said has to do
    finally:
        word.clear()


def _as_user(configuration: Configuration, id: str) -> Mapping[str, Any] | None:
    try:
        return became(str(configuration.terminals.socket), id, WAIT, SPARE)
    except (NoNodeError, RefusedError, OSError):
        return None


class _Word:
    """A word on the terminal that is there as long as somebody waits; nowhere else."""

    def __init__(self, text: str) -> None:
        self._text = safe(text).plain[:WIDTH]
        self._shown = sys.stderr.isatty()
        self._write(self._text)

    def clear(self) -> None:
        # Overwritten and not erased: not every terminal has a sequence for that.
        self._write("\r" + " " * len(self._text) + "\r")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()
