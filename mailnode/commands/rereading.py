"""Tells the running node that its configuration has changed."""

from __future__ import annotations

import os

from mailnode.commands.invocation import CommandError, words_of
from mailnode.config import Configuration
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets


def reread(configuration: Configuration) -> bool:
    """Whether a node runs, which has the new configuration now. CommandError (EX_TEMPFAIL) if it has not."""
    found = False
    for path in sockets(configuration.data):
        try:
            with ControlClient.connect(path) as node:
                node.ask("reread")
        except NoNodeError:
            continue
        except RefusedError as error:
            raise CommandError(
                f"the node has not reread its configuration: {error}", os.EX_TEMPFAIL
            ) from None
        except OSError as error:
            text = f"the node cannot be told to reread its configuration: {words_of(error)}"
            raise CommandError(text, os.EX_TEMPFAIL) from None
        found = True
    return found
