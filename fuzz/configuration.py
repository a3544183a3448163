"""The configuration file, and the aliases file that it may name.

Invariants:
- Any text is a configuration or a list of errors; nothing else is raised.
- There is at least one error then and a bounded number, each on one line, printable, of bounded length.
- A configuration that is taken has a host name that is a domain, absolute paths, and at least one listener.
- A file of aliases gives names and members, or errors with their lines; nothing is raised.
"""

from __future__ import annotations

import os

from mailnode.config import Configuration, ConfigurationErrors, parse
from mailnode.configuration.aliases import parse_aliases
from mailnode.configuration.decoding import ERRORS
from mailnode.smtp.grammar import parse_domain

MAX_LENGTH = 4096
FOLDER = "/nonexistent"
LONGEST = 1000  # characters of one error


def TestOneInput(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    _aliases(text)
    if "/dev" in text or "/proc" in text:
        return  # an operator may name such a file and wait for it; a fuzzer would wait as well
    try:
        configuration = parse(text, FOLDER, lambda: "host.example")
    except ConfigurationErrors as errors:
        assert 1 <= len(errors.lines) <= ERRORS
        for line in errors.lines:
            assert line.isprintable() and ": " in line and len(line) <= LONGEST, line
        return
    _is_sound(configuration)


def _is_sound(configuration: Configuration) -> None:
    assert parse_domain(configuration.host) == configuration.host
    assert configuration.listen and configuration.domains and configuration.routes
    for domain in configuration.domains:
        assert parse_domain(domain) == domain
    assert os.path.isabs(configuration.data) and ".." not in configuration.data.split("/")
    assert configuration.mailboxes.maildir.startswith(("/", "{home}", "{data}"))
    assert configuration.limits.recipients > 0 and configuration.limits.message_size > 0
    assert configuration.drain >= 0 and configuration.retry.first > 0
    assert all(listen.tls is not None for listen in configuration.listen)
    assert len({peer.name for peer in configuration.peer}) == len(configuration.peer)


def _aliases(text: str) -> None:
    entries, errors = parse_aliases(text, "aliases")
    for name, members in entries.items():
        assert name and "\n" not in name and all("\n" not in member for member in members)
    for line in errors:
        assert line.isprintable() and line.startswith("aliases:") and len(line) <= LONGEST, line
