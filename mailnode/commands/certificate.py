"""`mailnode certificate`: a self-signed certificate for this node."""

from __future__ import annotations

import json
import os
from typing import Final

import click

from mailnode import config
from mailnode.commands.invocation import CommandError, Invocation, pass_invocation, status_of, words_of
from mailnode.commands.output import Screen, safe
from mailnode.config import Certificates, Configuration, ConfigurationErrors
from mailnode.pairing.certificate import self_signed, write_new
from mailnode.pairing.token import is_host

NAMES: Final = 100


@click.command(
    epilog="""\b
Example:
  $ mailnode certificate
  Written: /etc/mailnode/certificate.pem, /etc/mailnode/key.pem
  Put this into the configuration, and start the node again:
  [tls]
  certificate = "/etc/mailnode/certificate.pem"
  key = "/etc/mailnode/key.pem"
"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--days", type=click.IntRange(1, 36500), default=3650, help="How long it is valid.")
@pass_invocation
def certificate(invocation: Invocation, names: tuple[str, ...], days: int) -> None:
    """Make a certificate that is signed by itself, and its key.

    It is for this node's host name, or for the NAMEs. Hosts that join by a token know it by its fingerprint;
    others can encrypt with it, but not verify it. The files are those of [tls], or `certificate.pem` and
    `key.pem` beside the configuration; none that is there is overwritten.
    """
    try:
        configuration = config.load(invocation.file, certificates=Certificates.TO_COME)
    except ConfigurationErrors as errors:
        raise CommandError(f"wrong configuration: {errors.lines[0]}", os.EX_CONFIG) from None
    names = names or (configuration.host,)
    for name in names[:NAMES]:
        if not is_host(name):
            raise click.UsageError(f"{name!a} is neither a domain nor an address")
    files, is_new = _files(invocation, configuration)
    try:
        write_new(*files, *self_signed(names[:NAMES], days))
    except FileExistsError as error:
        raise CommandError(
            f"{error.filename} is there already: nothing was written", os.EX_CANTCREAT
        ) from None
    except OSError as error:
        raise CommandError(f"cannot write: {words_of(error)}", status_of(error)) from None
    screen = Screen()
    screen.say(safe(f"Written: {files[0]}, {files[1]}"))
    if is_new:
        screen.say("Put this into the configuration, and start the node again:")
        for line in ("[tls]", f"certificate = {json.dumps(files[0])}", f"key = {json.dumps(files[1])}"):
            screen.say(safe(line))
    else:
        screen.say("The configuration names them already; a node that is running has to be started again.")


def _files(invocation: Invocation, configuration: Configuration) -> tuple[tuple[str, str], bool]:
    """Certificate and key, and whether the configuration does not name them yet."""
    tls = configuration.tls
    if tls is not None and tls.certificate is not None and tls.key is not None:
        return (tls.certificate, tls.key), False
    file = config.find(invocation.file, os.environ, os.getcwd())
    folder = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()
    return (os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem")), True
