"""`mailnode terminal`: makes this shell a terminal of whoever runs it."""

from __future__ import annotations

import errno
import os
import random
from typing import Final

import click

from mailnode.attached_client import RefusedNowError
from mailnode.attachment import Attachment, charset_of
from mailnode.commands.invocation import CommandError, Invocation, pass_invocation, words_of
from mailnode.commands.output import note
from mailnode.config import Configuration
from mailnode.control_client import NoNodeError, RefusedError
from mailnode.own_terminal import NoTerminalError, OwnTerminal

NO_SOCKET: Final = "no node with terminals runs with this configuration; start it with: twistd -n mailnode"

SHUT: Final = "; [terminals] socket can name a folder that people may enter"


@click.command(
    epilog="""\b
Examples:
  $ mailnode terminal             until ^C
  $ mailnode terminal &           beside what you do in this shell
  $ mailnode terminal --quiet     seen by `mailnode who`, takes no messages
"""
)
@click.option("--quiet", "-q", is_flag=True, help="Take no messages, on this terminal, for now.")
@pass_invocation
def terminal(invocation: Invocation, quiet: bool) -> None:
    """Make this shell a terminal on which messages to you appear.

    Needs no rights on terminal devices and no login record, so it works in containers and in any window.
    You are who the system says you are. Where a login record names this terminal as well, a message
    appears once. `mesg n` and `mesg y` are obeyed. The node may be restarted meanwhile.
    """
    configuration = invocation.configuration
    path = socket_of(configuration)
    if not configuration.terminals.attached:
        raise CommandError(
            "attached terminals are switched off: [terminals] attached = false", os.EX_UNAVAILABLE
        )
    try:
        own = OwnTerminal()
    except NoTerminalError:
        raise CommandError("this is not a terminal: neither input nor output is one", os.EX_USAGE) from None

    def tell(text: str) -> None:
        # The cursor may stand anywhere: a shell may have written its prompt.
        own.write(f"\r\n[mailnode: {text}]\r\n".encode("ascii", "replace"))

    try:
        Attachment(path, own, quiet, charset_of(os.environ), tell, random.random).run()
    except NoNodeError:
        raise CommandError(NO_SOCKET, os.EX_UNAVAILABLE) from None
    except RefusedError as error:
        status = os.EX_TEMPFAIL if isinstance(error, RefusedNowError) else os.EX_NOPERM
        raise CommandError(str(error), status) from None
    except OSError as error:
        more = SHUT if error.errno == errno.EACCES else ""
        raise CommandError(f"cannot reach the node: {words_of(error)}{more}", os.EX_NOPERM) from None
    finally:
        own.close()
    note("this terminal takes no messages any more")


def socket_of(configuration: Configuration) -> str:
    """Where the node listens for terminals."""
    return str(configuration.terminals.socket)
