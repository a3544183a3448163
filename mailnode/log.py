"""The log of a node: one line an event, printable ASCII only, gathered for a moment.

It looks as Twisted's own file log does. Differences: what a stranger may have said cannot leave its line
or reach the terminal of whoever reads it; lines of a moment are written at once (a busy
node logs thousands a second, and each write costs as much as a reply), those of a warning or worse
immediately.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from threading import get_ident
from typing import Any, Final, TextIO

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, formatEvent
from twisted.python.logfile import LogFile
from zope.interface import implementer

GATHERED: Final = 256  # lines that wait at most
SOON: Final = 0.005  # seconds that they wait
_NOT_URGENT: Final = frozenset((LogLevel.debug, LogLevel.info))


@implementer(ILogObserver)
class LineLog:
    """Writes events to `file`. `reactor` says when the moment is over; while it does not run, and in
    other threads, nothing is gathered."""

    def __init__(self, file: TextIO, reactor: Any) -> None:
        self._file = file
        self._reactor = reactor
        self._lines: list[str] = []
        self._second = -1
        self._date = ""
        self._thread = get_ident()
        reactor.addSystemEventTrigger("after", "shutdown", self.flush)

    def __call__(self, event: LogEvent) -> None:
        line = self._line(event)
        if get_ident() != self._thread:
            self._write(line)
            return
        self._lines.append(line)
        if (
            event.get("log_level") not in _NOT_URGENT
            or not self._reactor.running
            or len(self._lines) >= GATHERED
        ):
            self.flush()
        elif len(self._lines) == 1:
            self._reactor.callLater(SOON, self.flush)

    def flush(self) -> None:
        """Writes what was gathered."""
        lines, self._lines = self._lines, []
        if lines:
            self._write("".join(lines))

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def _line(self, event: LogEvent) -> str:
        seconds = int(event.get("log_time", 0.0) or time.time())
        if seconds != self._second:
            self._second, self._date = seconds, _date(seconds)
        system = event.get("log_system")
        if system:
            said = printable(str(system))
        else:
            said = _system(event.get("log_namespace", "-"), event.get("log_level"))
        return f"{self._date} [{said}] {_text(event)}\n"


@lru_cache(maxsize=256)
def _system(namespace: object, level: Any) -> str:
    return printable(f"{namespace}#{level.name if level is not None else '-'}")


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%dT%H:%M:%S%z}"


def _text(event: LogEvent) -> str:
    if "log_failure" in event:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        return "\n\t".join(printable(line) for line in text.splitlines())
    pattern = event.get("log_format")
    if isinstance(pattern, str) and "(" not in pattern and "log_flattened" not in event:
        try:
            return printable(pattern.format_map(event))
        except Exception:  # Twisted says what is wrong with it
            return printable(formatEvent(event))
    return printable(formatEvent(event))


def printable(text: str) -> str:
    r"""`text` in printable ASCII, anything else as Python writes it: `\x1b`, `\n`, `\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if " " <= char <= "~" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def twistd_log(options: Mapping[str, Any], reactor: Any) -> LineLog | None:
    """The log where the options of `twistd` want it; None if they want another kind of log."""
    name = options.get("logfile") or ""
    if options.get("syslog") or options.get("logger"):
        return None
    if options.get("nodaemon") and name in ("", "-"):
        return LineLog(sys.stdout, reactor)
    if name == "-":
        return None  # twistd says what is wrong with it
    file = LogFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):  # as twistd documents it
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return LineLog(file, reactor)
