"""The Receiver's XPAIR: a host that was invited says by what its secret is known here (docs/pairing.md).

    XPAIR <salt> <iterations> <StoredKey> <ServerKey>     base64, as SCRAM-SHA-256 has them (RFC 5802 3)

The secret itself is never said. The command is for a client that has proved to hold an invitation, and for
nobody else; it may do nothing besides.
"""

from __future__ import annotations

import re
from typing import Final

from mailnode.mail import ScramKeys
from mailnode.smtp import events, replies
from mailnode.smtp.machine import Machine
from mailnode.smtp.sasl.coding import decode, encode

KEY_SIZE: Final = 32  # octets of SHA-256
SALT_LEAST: Final = 8
SALT_MOST: Final = 64
ITERATIONS_LEAST: Final = 4096  # RFC 7677 4
ITERATIONS_MOST: Final = 500_000  # what our own calls take of a server

_iterations = re.compile(r"[1-9][0-9]{3,5}\Z").match


class Pairing(Machine):
    """The part of a Receiver by which a peer is paired."""

    def xpair(self, argument: str) -> None:
        if not self.rights.pair:
            self._error(replies.NOT_FOR_YOU)
            return
        keys = parse_keys(argument)
        if keys is None:
            self._error(replies.BAD_KEYS)
        elif self._nothing_behind():
            self._ask(events.AskPair(keys), self._say)


def parse_keys(argument: str) -> ScramKeys | None:
    """The keys that the words of XPAIR are, None if they are none."""
    words = argument.split(" ")
    if len(words) != 4 or not argument.isascii() or not _iterations(words[1]):
        return None
    salt, stored, server = (decode(words[at].encode("ascii")) for at in (0, 2, 3))
    if salt is None or stored is None or server is None:
        return None
    iterations = int(words[1])
    right = (
        SALT_LEAST <= len(salt) <= SALT_MOST
        and ITERATIONS_LEAST <= iterations <= ITERATIONS_MOST
        and len(stored) == len(server) == KEY_SIZE
    )
    return ScramKeys(salt, iterations, stored, server) if right else None


def format_keys(keys: ScramKeys) -> str:
    """The words of XPAIR for `keys`."""
    return f"{encode(keys.salt)} {keys.iterations} {encode(keys.stored_key)} {encode(keys.server_key)}"
