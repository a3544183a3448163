"""The client's end of the socket of attached terminals (`mailnode.terminals.attaching` has its words).

The node is trusted no more than a stranger: its lines are bounded, and its texts go through the filter once
more before they reach the screen.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

from mailnode.control_client import NoNodeError, RefusedError
from mailnode.interfaces import Terminal
from mailnode.terminals.attaching import VERSION, WordsError, encode, to_terminal
from mailnode.terminals.screen import visible

MAX_LINE: Final = 1 << 16  # octets that the node says in one line
TEXT: Final = 16384  # characters of a text
ROWS: Final = 60  # lines of a text
PATIENCE: Final = 5.0  # seconds for an answer
LISTED: Final = 1000  # recipients that one answer names
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class RefusedNowError(RefusedError):
    """The node refuses, but may not do so later."""


class NodeLine:
    """A connection to the node. NoNodeError if nobody listens on `path`; PermissionError if whoever
    listens is not the owner of the folder, nor root, nor us; other OSErrors as they are."""

    def __init__(self, path: str) -> None:
        self.socket = _connected(path)
        self._pending = b""

    def __enter__(self) -> NodeLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def say(self, words: Mapping[str, Any]) -> None:
        """OSError if the node has gone or does not take it."""
        self.socket.sendall(encode(words))

    def hear(self) -> dict[str, Any]:
        """The next line, waited for; RefusedError if it is a refusal, OSError if none comes."""
        while (words := self.next()) is None:
            self.read()
        return words

    def read(self) -> None:
        """Takes what has arrived. ConnectionError at the end."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("the node has closed the connection")
        self._pending += piece

    def next(self) -> dict[str, Any] | None:
        """The next whole line that has arrived, None if there is none. RefusedError, ConnectionError."""
        line, newline, rest = self._pending.partition(b"\n")
        if len(line) > MAX_LINE:
            raise ConnectionError("the node said too much at once")
        if not newline:
            return None
        self._pending = rest
        try:
            words = json.loads(line)
        except (ValueError, RecursionError):
            words = None
        if not isinstance(words, dict):
            raise ConnectionError("what the node said cannot be understood")
        if "error" in words:
            again = words.get("again") is True
            raise (RefusedNowError if again else RefusedError)(visible(str(words["error"])[:200]))
        return words


def _connected(path: str) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.settimeout(PATIENCE)
        _connect(channel, path)
        uid = _peer_uid(channel)
        if uid not in (0, os.geteuid(), os.stat(os.path.dirname(path)).st_uid):
            raise PermissionError(1, f"uid {uid} listens there, to whom the folder does not belong")
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        channel.close()
        raise NoNodeError(path) from None
    except OSError as error:
        channel.close()
        raise type(error)(error.errno, error.strerror or str(error), path) from None
    return channel


def _peer_uid(channel: socket.socket) -> int:
    """Who listens at the other end, as the system knows it."""
    octets = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(octets)[1])


def _connect(channel: socket.socket, path: str) -> None:
    """Connects, waiting for a place where many connect at once, as after a restart of the node."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            channel.connect(path)
            return
        except BlockingIOError:  # EAGAIN: the queue of the socket is full (unix(7))
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def attached_terminals(path: str, user: str | None) -> tuple[list[Terminal], int]:
    """The attached terminals of `user`, or of everybody, as the node at `path` knows them, and how many
    there are in all (the answer names a thousand). Errors as those of `NodeLine`."""
    terminals: list[Terminal] = []
    with NodeLine(path) as node:
        wants = {"mailnode": "who", "version": VERSION}
        node.say(wants if user is None else {**wants, "user": user})
        while True:
            words = node.hear()
            if "end" in words:
                count = words["end"]
                return terminals, max(count if isinstance(count, int) else 0, len(terminals))
            try:
                terminals.append(to_terminal(words))
            except WordsError:
                raise ConnectionError("what the node said cannot be understood") from None


def became(path: str, id: str, seconds: float, spare: float) -> dict[str, Any]:
    """What the node at `path` says of the message `id` of whoever asks: "whole" and "recipients", as
    `mailnode.outcomes` has them. It may wait `seconds`, we `spare` more. Errors as those of `NodeLine`."""
    recipients: list[dict[str, Any]] = []
    with NodeLine(path) as node:
        node.socket.settimeout(seconds + spare)
        node.say({"mailnode": "became", "version": VERSION, "id": id, "seconds": seconds})
        while True:
            words = node.hear()
            if "end" in words:
                return {"whole": words.get("whole"), "recipients": recipients}
            recipients.append(words)
            if len(recipients) > LISTED:
                raise ConnectionError("what the node said has no end")


def on_screen(text: object, ascii_only: bool) -> bytes:
    """A text of the node as it may be written to the terminal: lines of printable text, and one BEL."""
    if not isinstance(text, str):
        return b""
    rows = text[:TEXT].split("\r\n")[:ROWS]
    bell = any(row.startswith("\a") for row in rows)
    shown = "\r\n".join(visible(row.removeprefix("\a"), ascii_only) for row in rows)
    return (shown + ("\a" if bell else "")).encode("utf-8", "replace")
