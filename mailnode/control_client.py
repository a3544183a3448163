"""The command line's end of the control socket of a running node (`mailnode.control`)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

SOCKET: Final = "control.sock"
RECEIVER_SOCKET: Final = "receiver.sock"  # of a process that only receives
MAX_ANSWER: Final = 1 << 20  # octets of one line
PATIENCE: Final = 30.0  # seconds

Said = Callable[[str, str], None]  # speaker, text


class NoNodeError(Exception):
    """Nobody listens on that control socket."""


class RefusedError(Exception):
    """The node will not or cannot do it; the text is the node's own."""


class ControlClient:
    """Asks a node, one request after another, on `channel`, a connected stream socket.

    `patience` is how long the next line of an answer may take, in seconds.
    """

    def __init__(self, channel: socket.socket, patience: float = PATIENCE) -> None:
        self._channel = channel
        self._pending = b""
        channel.settimeout(patience)

    @classmethod
    def connect(cls, path: str, patience: float = PATIENCE) -> ControlClient:
        """NoNodeError if nobody listens on `path`, other OSErrors (PermissionError) as they are."""
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.settimeout(patience)
            channel.connect(path)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            channel.close()
            raise NoNodeError(path) from None
        except OSError as error:
            channel.close()
            raise type(error)(error.errno, error.strerror or str(error), path) from None
        return cls(channel, patience)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def ask(self, do: str, said: Said | None = None, **request: Any) -> dict[str, Any]:
        """The answer to a request; `said` hears what the node says on the way to it.

        RefusedError if the node refuses, OSError if the connection fails or nothing comes in time.
        """
        self._channel.sendall(json.dumps({"do": do, **request}).encode("ascii") + b"\n")
        while True:
            message = self._message()
            if "said" in message:
                if said is not None:
                    speaker, text = message["said"]
                    said(str(speaker), str(text))
            elif "error" in message:
                raise RefusedError(str(message["error"]))
            else:
                return message

    def _message(self) -> dict[str, Any]:
        try:
            message = json.loads(self._line())
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ConnectionError("the node's answer cannot be understood")
        return message

    def _line(self) -> bytes:
        while b"\n" not in self._pending:
            if len(self._pending) > MAX_ANSWER:
                raise ConnectionError("the node's answer is too long")
            piece = self._channel.recv(65536)
            if not piece:
                raise ConnectionError("the node went away before it answered")
            self._pending += piece
        line, self._pending = self._pending.split(b"\n", 1)
        return line


def sockets(data: str) -> tuple[str, str]:
    """The control sockets that processes over the data folder `data` may have: the node's, a receiver's."""
    return os.path.join(data, SOCKET), os.path.join(data, RECEIVER_SOCKET)
