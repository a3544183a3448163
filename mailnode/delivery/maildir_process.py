"""The Maildir writer in a process of its own: its many small system calls cost the node no turn.

Each call of the operating system gives the interpreter lock away and has to win it back from the
reactor; a batch of messages has hundreds of them. In the node two remain, one that sends the batch and
one that waits for what became of it. What is said is MessagePack: a list of jobs, each a text of its own,
then what became of them. A job that cannot be told or done for a reason that is no disk's spoils none
but itself.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from mailnode.child import Child, Node, encoder, greeting
from mailnode.delivery.maildir import Disk, Job, MaildirWriter

_PRIVILEGED: Final = "privileged"


class Done(NamedTuple):
    """What became of a batch: the number of each job's error, 0 if there was none."""

    numbers: list[int]
    flush: float | None  # as of `MaildirWriter`


_JOB: Final = msgspec.msgpack.Decoder(Job)
_DONE: Final = msgspec.msgpack.Decoder(Done)
_GREETING: Final = greeting(Job, Done)


class MaildirProcess:
    """What `MaildirWriter` does, done by a child. For one thread, and it blocks that thread.

    The child starts with the first batch. If it is killed the next one takes over its work: a delivery
    that may have been done is looked for in the mailbox before it is repeated. Where another version was
    installed meanwhile a child would be of that: then this thread writes itself, until the node is restarted.
    """

    def __init__(self, privileged: bool, warn: Callable[[str], None]) -> None:
        self._privileged = privileged
        self._warn = warn
        self._child: Child | None = None
        self._own: MaildirWriter | None = None  # without a child
        self._encoder = encoder()
        self.flush: float | None = None  # as of `MaildirWriter`

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
        if child is not None:
            child.kill() if kill else child.close()

    def _ask(self, jobs: Sequence[Job]) -> list[OSError | None]:
        if self._own is not None:
            return self._written(self._own, jobs)
        if self._child is None:
            self._child = Child(__name__, _PRIVILEGED if self._privileged else "own")
            if self._child.hear() != _GREETING:
                self._warn(
                    "another version was installed: the node itself writes mailboxes until it is restarted"
                )
                self.close(kill=True)
                self._own = MaildirWriter(Disk(), time.time, self._privileged)
                return self._written(self._own, jobs)
        answer = self._child.ask(self._encoder.encode([self._told(job) for job in jobs]))
        numbers, self.flush = _DONE.decode(answer)
        if len(numbers) != len(jobs):
            raise EOFError
        return [OSError(number, os.strerror(number)) if number else None for number in numbers]

    def _written(self, writer: MaildirWriter, jobs: Sequence[Job]) -> list[OSError | None]:
        errors = writer.write(jobs)
        self.flush = writer.flush
        return errors

    def _told(self, job: Job) -> bytes:
        """The job as a text; empty if it cannot be one (a folder's name that is not UTF-8)."""
        try:
            return self._encoder.encode(job)
        except (TypeError, ValueError):
            return b""


def main(node: Node, right: str) -> None:
    """The child: does batch after batch until the node has gone."""
    writer = MaildirWriter(Disk(), time.time, right == _PRIVILEGED)
    texts = msgspec.msgpack.Decoder(list[bytes])
    with suppress(EOFError):
        node.say(_GREETING)  # everything is imported
        while True:
            numbers = work(writer, texts.decode(node.hear()))
            node.say(msgspec.msgpack.encode(Done(numbers, writer.flush)))


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


def _number(error: OSError | None) -> int:
    return 0 if error is None else error.errno or errno.EIO
