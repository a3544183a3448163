"""`mailnode dial`: the running node calls a peer now."""

from __future__ import annotations

import os
from typing import Any, Final

import click
from rich.text import Text

from mailnode.commands.invocation import NO_NODE, CommandError, Invocation, pass_invocation, words_of
from mailnode.commands.output import Screen, count, safe
from mailnode.control_client import ControlClient, NoNodeError, RefusedError, sockets

PATIENCE: Final = 1200.0  # seconds; RFC 1123 5.3.2 lets a host take ten minutes over the last dot
NOTHING: Final = 453  # RFC 2645 4.2.3: you have no mail
NOT_STARTED: Final = (458, 459)  # RFC 1985 5.1
_COLOURS: Final = {"C": "cyan", "S": ""}


@click.command(
    epilog="""\b
Example:
  $ mailnode dial hub --trace
  S: 220 hub.example Simple Mail Transfer Service Ready
  C: EHLO leaf.example
  ...
  C: TURN
  S: 250 OK
  ------ the line is turned: hub leads ------
  S: 220 leaf.example Simple Mail Transfer Service Ready
  C: EHLO hub.example
"""
)
@click.option("--trace", is_flag=True, help="Show the dialogue of both roles: who leads says C.")
@click.argument("name")
@pass_invocation
def dial(invocation: Invocation, name: str, trace: bool) -> int:
    """Call a peer now and fetch the mail that it holds for us.

    NAME is the name of a [[dial]] of the configuration. The running node calls: it gives the peer the
    outgoing mail first if `outbound` says so, and turns the line.

    Exit status: 0 if the line was turned or nothing waited there, 75 if it may work later, 69 if not.
    """
    screen = Screen()

    def said(speaker: str, text: str) -> None:
        if speaker == "turn":
            screen.say(safe(f"------ the line is turned: {name} leads ------", "bold yellow"))
        elif speaker == "tls":
            screen.say(safe("------ TLS from here on ------", "bold yellow"))
        else:
            screen.say(safe(f"{speaker}: {text}", _COLOURS.get(speaker, "")))

    try:
        with ControlClient.connect(sockets(invocation.configuration.data)[0], PATIENCE) as node:
            answer = node.ask("dial", said, name=name, trace=trace or invocation.verbose)
    except NoNodeError:
        raise CommandError(NO_NODE, os.EX_UNAVAILABLE) from None
    except RefusedError as error:
        raise CommandError(str(error), os.EX_UNAVAILABLE) from None
    except PermissionError as error:
        raise CommandError(f"cannot ask the node: {words_of(error)}", os.EX_NOPERM) from None
    except TimeoutError:
        raise CommandError(
            "the node did not answer in time; it may still be calling", os.EX_TEMPFAIL
        ) from None
    except OSError as error:
        raise CommandError(f"cannot ask the node: {words_of(error)}", os.EX_TEMPFAIL) from None
    text, status = summary(name, answer)
    screen.say(text)
    return status


def summary(name: str, answer: dict[str, Any]) -> tuple[Text, int]:
    """The last line, and the exit status. `answer` is the node's to the request `dial`."""
    reply, code = str(answer.get("reply", "")), int(answer.get("code", 0))
    given = f"mail for {count(int(answer.get('given', 0)), 'recipient')} given"
    if refused := int(answer.get("refused", 0)):
        given += f", {refused} refused"
    received = count(int(answer.get("received", 0)), "message")
    gave = f"{given}, {received} received, "
    if answer.get("open"):
        return safe(f"{name}: {gave}the line stays open: {reply}", "green"), os.EX_OK
    if answer.get("started"):
        return safe(f"{name}: {given}, the queue there was started: {reply}", "green"), os.EX_OK
    if answer.get("turned"):
        return safe(f"{name}: {gave}the line was turned: {reply}", "green"), os.EX_OK
    if code == NOTHING or "no messages" in reply.lower():
        return safe(f"{name}: {gave}nothing to fetch: {reply}", "green"), os.EX_OK
    failed = "the queue there was not started" if code in NOT_STARTED else "the line was not turned"
    status = os.EX_TEMPFAIL if 400 <= code < 500 else os.EX_UNAVAILABLE
    return safe(f"{name}: {gave}{failed}: {reply}", "red"), status
