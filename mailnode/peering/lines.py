"""Turned lines that stay open (docs/xwait.md): which of them wait for mail, and how they are woken."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Waiting(Protocol):
    """One end of an open line that waits for held mail."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains whose mail it takes."""

    def wake(self) -> None:
        """There may be mail for it."""

    def hang_up(self) -> None:
        """It waits no longer: what is there is given, and then the line is ended."""


class OpenLines:
    """The lines that are open now, by the domains that each was granted."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[Waiting, None]] = {}  # first come, first woken

    def join(self, line: Waiting) -> None:
        for domain in line.domains:
            self._lines.setdefault(domain, {})[line] = None

    def leave(self, line: Waiting) -> None:
        """`line` is open no longer; it need not have joined."""
        for domain in line.domains:
            if (lines := self._lines.get(domain)) is not None:
                lines.pop(line, None)
                if not lines:
                    del self._lines[domain]

    def is_open(self, domain: str) -> bool:
        return domain in self._lines

    def wake(self, domains: Collection[str]) -> None:
        """There may be mail for `domains`."""
        found = {line: None for domain in domains for line in self._lines.get(domain, ())}
        for line in found:
            line.wake()

    def wake_all(self) -> None:
        self.wake(list(self._lines))

    def hang_up(self) -> None:
        """Ends them all: the configuration has changed, or the node goes down."""
        found = {line: None for lines in self._lines.values() for line in lines}
        self._lines.clear()
        for line in found:
            line.hang_up()
