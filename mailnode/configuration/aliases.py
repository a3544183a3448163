"""An aliases file, as other mail systems have it in /etc/aliases, read into names and addresses."""

from __future__ import annotations

import re
from typing import Final

from mailnode.configuration.values import shown

SIZE: Final = 8 << 20  # octets

_entry = re.compile(r'\s*+(?:"((?:[^"\\]|\\.)+)"|([^\s:"#][^:"]*+))\s*+:(.*)\Z', re.DOTALL).match
_words = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+').findall


def parse_aliases(text: str, origin: str) -> tuple[dict[str, list[str]], list[str]]:
    """Names in lower case and their addresses as written, and what is wrong, a line each with `origin`.

    The form is aliases(5): `name: address, address`, continued where a line starts with a blank,
    comments behind "#" at the start of a line. Deliveries to programs, files and included files
    are errors: none of them is done here.
    """
    entries: dict[str, list[str]] = {}
    errors: list[str] = []
    for number, line in _logical_lines(text):
        match = _entry(line)
        name = "" if match is None else (match[1] or match[2]).strip().lower()
        if match is None or not name:  # `" ": root` has a name, and there is nothing in it
            errors.append(f"{origin}:{number}: expected `name: address, ...`")
            continue
        words = [word.strip() for word in _words(match[3])]
        words = [word for word in words if word]
        bad = [word for word in words if word.lstrip('"').startswith(("|", "/", ":include:"))]
        if bad:
            errors.append(f"{origin}:{number}: {shown(bad[0])} is a program or a file, not an address")
        elif not words:
            errors.append(f"{origin}:{number}: {shown(name)} has no address")
        elif name in entries:
            errors.append(f"{origin}:{number}: {shown(name)} is there twice")
        else:
            entries[name] = words
    return entries, errors


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their continuations, each with the number of its first line."""
    logical: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip()
        if not line or line.startswith("#"):
            continue
        if line[0] in " \t" and logical:
            logical[-1][1].append(line)
        else:
            logical.append((number, [line]))
    return [(number, " ".join(lines)) for number, lines in logical]
