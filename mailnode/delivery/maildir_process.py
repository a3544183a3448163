"""The Maildir writer in a process of its own: its many small system calls cost the node no turn.

Each call of the operating system gives the interpreter lock away and has to win it back from the
reactor; a batch of messages has hundreds of them. In the node two remain, one that sends the batch and
one that waits for what became of it. Both ends of the socket are the same program, and what goes over
it is a MessagePack text behind its length: a list of jobs, each a text of its own, then a list of error
numbers. A job that cannot be told or done for a reason that is no disk's spoils none but itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import msgspec

from mailnode.delivery.maildir import Disk, Job, MaildirWriter

_LENGTH: Final = 4  # octets, most significant first
_CLOSING: Final = 10.0  # seconds that the process has to end
_BUFFER: Final = 1 << 20  # octets that the socket should hold

# The process finds the modules where the node found them, and nowhere else.
_PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from mailnode.delivery.maildir_process import main; main(int(sys.argv[1]), sys.argv[2] == 'privileged')"
)
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_JOB: Final = msgspec.msgpack.Decoder(Job)


class MaildirProcess:
    """What `MaildirWriter` does, done by a child. For one thread, and it blocks that thread.

    The child starts with the first batch. If it is killed the next one takes over its work: a delivery
    that may have been done is looked for in the mailbox before it is repeated.
    """

    def __init__(self, privileged: bool) -> None:
        self._privileged = privileged
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_as_text)
        self._decoder = msgspec.msgpack.Decoder(list[int])

    @property
    def pid(self) -> int:
        """The child's number, 0 if there is none."""
        return self._child.pid if self._child is not None else 0

    def write(self, jobs: Sequence[Job]) -> list[OSError | None]:
        """Stores every message durably; for each None, or the error that prevented it.

        OSError if no child can be started, or if two died over these messages.
        """
        fresh = self._child is None
        try:
            return self._ask(jobs)
        except (OSError, EOFError):
            self.close(kill=True)
            if fresh:
                raise OSError(errno.EIO, "the process that writes mailboxes has died") from None
        # The one that died may have done some of it.
        try:
            return self._ask([replace(job, recovered=True) for job in jobs])
        except EOFError:
            self.close(kill=True)
            raise OSError(errno.EIO, "the process that writes mailboxes has died") from None

    def close(self, kill: bool = False) -> None:
        """Ends the child, if there is one, when it has done what it has in hand."""
        child, self._child = self._child, None
        channel, self._socket = self._socket, None
        if channel is not None:
            channel.close()
        if child is None:
            return
        if kill:
            child.kill()
        try:
            child.wait(_CLOSING)
        except subprocess.TimeoutExpired:  # its disk hangs
            child.kill()

    def _ask(self, jobs: Sequence[Job]) -> list[OSError | None]:
        channel = self._socket or self._start()
        _send(channel, self._encoder.encode([self._told(job) for job in jobs]))
        numbers = self._decoder.decode(_receive(channel))
        if len(numbers) != len(jobs):
            raise EOFError
        return [OSError(number, os.strerror(number)) if number else None for number in numbers]

    def _told(self, job: Job) -> bytes:
        """The job as a text; empty if it cannot be one (a folder's name that is not UTF-8)."""
        try:
            return self._encoder.encode(job)
        except (TypeError, ValueError):
            return b""

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            right = "privileged" if self._privileged else "own"
            path = [os.path.abspath(entry) for entry in sys.path]
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), right, *path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        return ours


def main(descriptor: int, privileged: bool) -> None:
    """The child: does batch after batch until the node closes the socket."""
    # A signal from the keyboard or the service manager is for the node: it ends us when it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(AttributeError):  # Linux: a node that is killed leaves nobody behind who still writes
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    writer = MaildirWriter(Disk(), time.time, privileged)
    texts = msgspec.msgpack.Decoder(list[bytes])
    with socket.socket(fileno=descriptor) as channel, suppress(EOFError, ConnectionError):
        while True:
            numbers = work(writer, texts.decode(_receive(channel)))
            _send(channel, msgspec.msgpack.encode(numbers))


def work(writer: MaildirWriter, texts: Sequence[bytes]) -> list[int]:
    """Does the jobs that `texts` are; the number of each one's error, 0 if there was none."""
    jobs: dict[int, Job] = {}
    for place, text in enumerate(texts):
        with suppress(msgspec.MsgspecError, ValueError):
            jobs[place] = _JOB.decode(text)
    numbers = [errno.EINVAL] * len(texts)
    if not jobs:
        return numbers
    try:
        errors = writer.write(list(jobs.values()))
    except Exception as error:  # no disk's: the job that it comes from is found by itself
        if len(jobs) == 1:
            print(f"mailnode: a message cannot be stored: {error!r}", file=sys.stderr, flush=True)
            return numbers
        return [work(writer, [text])[0] for text in texts]
    for place, failure in zip(jobs, errors, strict=True):
        numbers[place] = _number(failure)
    return numbers


def _as_text(value: object) -> str:
    """The names of a configuration are texts of their own kinds, which MessagePack does not know."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")


def _number(error: OSError | None) -> int:
    return 0 if error is None else error.errno or errno.EIO


def _send(channel: socket.socket, text: bytes) -> None:
    channel.sendall(len(text).to_bytes(_LENGTH, "big") + text)


def _receive(channel: socket.socket) -> bytes:
    """One text. EOFError if the other end has gone."""
    return _exactly(channel, int.from_bytes(_exactly(channel, _LENGTH), "big"))


def _exactly(channel: socket.socket, size: int) -> bytes:
    text = bytearray(size)
    rest = memoryview(text)
    while rest:
        got = channel.recv_into(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return bytes(text)
