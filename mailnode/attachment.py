"""Keeps a terminal attached to a node until it is told to end, over restarts of the node."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from mailnode.attached_client import NodeLine, RefusedNowError, on_screen
from mailnode.control_client import NoNodeError
from mailnode.own_terminal import Look, OwnTerminal
from mailnode.terminals.attaching import VERSION
from mailnode.terminals.screen import visible

BEAT: Final = 2.0  # seconds between two looks at the terminal
KEYS: Final = 30.0  # seconds by which the last key may be older than the node knows
LATE: Final = 1.0  # seconds after which a text counts as not shown, and is not
AGAIN: Final = (0.25, 30.0)  # seconds until the node is called again: at first, at most
ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def accepts(quiet: bool, was_on: bool, is_on: bool) -> bool:
    """Whether messages are taken. `mesg n` counts once `mesg y` did: where terminals begin with "n", as in
    most containers, nobody has said anything by it (pure)."""
    return not quiet and (is_on or not was_on)


class Attachment:
    """The terminal `own` attached to the node whose socket is `path`.

    `charset` is "utf-8", "ascii", or empty if it is not known; `tell` shows a line about the
    attachment itself; `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        path: str,
        own: OwnTerminal,
        quiet: bool,
        charset: str,
        tell: Callable[[str], None],
        jitter: Callable[[], float],
    ) -> None:
        self._path = path
        self._own = own
        self._quiet = quiet
        self._charset = charset
        self._tell = tell
        self._jitter = jitter
        self._look = own.look()
        self._was_on = self._look.takes_messages
        self._told: dict[str, Any] = {}  # what the node knows of the terminal
        self._ended = False
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def run(self) -> None:
        """Until SIGINT, SIGTERM, SIGHUP, or until the terminal has hung up.

        At first NoNodeError, RefusedError and OSError as those of NodeLine; later only RefusedError.
        """
        with self._signals():
            node = self._attach()
            self._welcome(node.hear())
            while True:
                with node, suppress(OSError):  # it went down, or dropped us while we were stopped
                    self._serve(node)
                if self._ended:
                    return
                self._tell("the node is away; this terminal waits for it")
                returned = self._call_again()
                if returned is None:
                    return
                node = returned
                self._tell("the node is back")

    # ------------------------------------------------------------- the node

    def _attach(self) -> NodeLine:
        node = NodeLine(self._path)
        own, accepting = self._own, self._accepting()
        self._told = {"columns": self._look.columns, "accepting": accepting, "read": 0.0}
        node.say(
            {
                "mailnode": "terminal",
                "version": VERSION,
                "columns": self._look.columns,
                "accepting": accepting,
                "charset": self._charset,
                "line": own.name,
                "device": own.device,
            }
        )
        return node

    def _call_again(self) -> NodeLine | None:
        """The next connection, however long it takes; None when it is time to end."""
        pause = AGAIN[0]
        while True:
            self._wait(pause * (0.5 + self._jitter() / 2))
            if self._ended:
                return None
            pause = min(2 * pause, AGAIN[1])
            try:
                node = self._attach()
            except (NoNodeError, OSError):
                continue
            try:
                node.hear()
            except (RefusedNowError, OSError):
                node.socket.close()
                continue
            return node

    def _welcome(self, words: Mapping[str, Any]) -> None:
        user, hostname = (visible(str(words.get(name, "?"))[:64], True) for name in ("attached", "hostname"))
        what = "do not appear" if self._quiet else "appear"
        self._tell(f"messages to {user} at {hostname} {what} here; ^C ends it")

    def _serve(self, node: NodeLine) -> None:
        """Shows what comes, until the node goes (OSError) or it is time to end."""
        while not self._ended:
            while (words := node.next()) is not None:
                self._obey(node, words)
            self._report(node)
            if self._wait(BEAT, node.socket):
                node.read()

    def _obey(self, node: NodeLine, words: Mapping[str, Any]) -> None:
        number = words.get("show")
        if not isinstance(number, int):
            return  # a word of a newer node
        at = words.get("at")
        late = isinstance(at, (int, float)) and time.time() - at > LATE  # we were stopped meanwhile
        octets = on_screen(words.get("text"), self._charset == "ascii")
        self._see()
        shown = not late and self._accepting() and self._own.write(octets)
        node.say({"shown" if shown else "missed": number})

    # ------------------------------------------------------------- the terminal

    def _see(self) -> None:
        try:
            self._look = self._own.look()
        except OSError:  # hung up: nobody looks at it any more
            self._ended = True
        self._was_on = self._was_on or self._look.takes_messages

    def _accepting(self) -> bool:
        return not self._ended and accepts(self._quiet, self._was_on, self._look.takes_messages)

    def _report(self, node: NodeLine) -> None:
        """Tells the node what has changed on the terminal."""
        self._see()
        now: Look = self._look
        if now.columns != self._told["columns"]:
            node.say({"columns": now.columns})
        if self._accepting() is not self._told["accepting"]:
            node.say({"accepting": self._accepting()})
        read = self._told["read"]
        if now.read > read + KEYS:
            node.say({"read": now.read})
            read = now.read
        self._told = {"columns": now.columns, "accepting": self._accepting(), "read": read}

    # ------------------------------------------------------------- waiting

    def _wait(self, seconds: float, channel: socket.socket | None = None) -> bool:
        """Waits for the node, a signal, or the time; whether the node has said something."""
        sources = [self._woken] if channel is None else [self._woken, channel]
        until = time.monotonic() + seconds
        while not self._ended:
            left = until - time.monotonic()
            if left <= 0:
                return False
            ready = select.select(sources, [], [], left)[0]
            if self._woken in ready:
                self._heed(self._woken.recv(256))
            if channel is None:
                continue
            return channel in ready
        return False

    def _heed(self, signals: bytes) -> None:
        """SIGWINCH only wakes us: the report tells the width."""
        self._ended = self._ended or any(number in signals for number in ENDS)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals become octets that wake us (signal.set_wakeup_fd)."""
        numbers = (*ENDS, signal.SIGWINCH)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, action in before.items():
                signal.signal(number, action)
            self._woken.close()
            self._wake.close()


def charset_of(environment: Mapping[str, str]) -> str:
    """What the terminal reads: "utf-8", "ascii", or "" if the environment does not say (locale(7))."""
    name = next((environment[key] for key in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(key)), "")
    if not name:
        return ""
    return "utf-8" if name.lower().replace("-", "").endswith("utf8") else "ascii"
