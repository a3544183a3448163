"""The mailboxes of local users: Maildirs, or in memory."""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.batch import Batch, BatchNow, BatchThread
from mailnode.delivery.maildir import Disk, Folder, Job, MaildirWriter
from mailnode.delivery.maildir_process import MaildirProcess
from mailnode.delivery.stored import CAME_BACK, file_name, stored
from mailnode.interfaces import Account, IDirectory, IMailbox
from mailnode.mail import Entry, Path, Recipient, Reply, Result

GATHER: Final = 0.03  # seconds that the writer waits for more while many messages come
BATCH: Final = 100  # messages; each may need two descriptors for its folder
QUICK: Final = 0.001  # seconds that a disk takes for a flush up to which whoever sends mail may wait for it
_LOOKS: Final = 7  # batches; the median of what their flushes took is what one takes

# Whatever a directory says, only such a name becomes part of a file name.
_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,254}\Z")

DELIVERED: Final = Result.delivered(Reply(250, "Delivered to the mailbox", "2.0.0"))
NO_MAILBOX: Final = Result.failed(Reply(550, "No such user here", "5.1.1"))
NO_FOLDER: Final = Result.later(Reply(451, "The mailbox has no folder", "4.3.5"))
STORAGE_FULL: Final = Result.later(Reply(452, "Insufficient system storage", "4.3.1"))
IN_A_LOOP: Final = Result.failed(Reply(554, "The message has been in this mailbox before", "5.4.6"))
QUOTA_REACHED: Final = Result.later(Reply(452, "The mailbox is full", "4.2.2"))


class Template:
    """Where the Maildir of a user lies: a path with `{user}`, or with `{home}` at its beginning.

    ValueError, with words for the person who configured it, if every user would get the same.
    """

    def __init__(self, template: str) -> None:
        if "{home}" in template:
            base, rest = template.split("{home}", 1)
            if base or "{home}" in rest:
                raise ValueError("{home} must stand at the beginning, once")
        elif "{user}" in template:
            base, rest = template.split("{user}", 1)
            base, _, stem = base.rpartition("/")
            rest = stem + "{user}" + rest
            base = base or ("/" if template.startswith("/") else ".")
        else:
            raise ValueError("must contain {user} or {home}")
        self._base = base  # empty where it is the home of the user
        self._parts = tuple(part for part in rest.split("/") if part not in ("", "."))
        if ".." in self._parts:
            raise ValueError("must not contain .. behind {user} or {home}")
        self._folder = lru_cache(maxsize=1024)(self._made)

    def folder(self, user: str, home: str) -> Folder | None:
        """The folder of `user`, None if it would need a home and there is none."""
        return self._folder(user, home)

    def _made(self, user: str, home: str) -> Folder | None:
        parts = tuple(part.replace("{user}", user) for part in self._parts)
        if self._base:
            return Folder(self._base, parts, make_base=True)
        return Folder(home, parts, make_base=False) if home.startswith("/") else None


def outcome(error: OSError | None) -> Result:
    """What an attempt to store a message means for its recipient; whatever failed is worth another."""
    if error is None:
        return DELIVERED
    if error.errno == CAME_BACK:  # it goes in a circle, and is no better for going round again
        return IN_A_LOOP
    if error.errno == errno.ENOSPC:
        return STORAGE_FULL
    if error.errno == errno.EDQUOT:
        return QUOTA_REACHED
    reason = os.strerror(error.errno) if error.errno else "storage error"
    return Result.later(Reply(451, f"The message cannot be stored: {reason}", "4.3.0"))


@implementer(IMailbox)
class Maildir:
    """Mailboxes as Maildirs, written in batches by a thread of their own.

    `template` is described at `Template`; `call_from_thread` is `reactor.callFromThread`, None to
    write at once and without a thread; `clock` gives seconds since the epoch. With `privileged`
    (by default: if we are root) files belong to the user they are for.
    """

    _log = Logger()

    def __init__(
        self,
        template: str,
        directory: IDirectory,
        hostname: str,
        call_from_thread: Callable[..., object] | None,
        clock: Callable[[], float],
        disk: Disk | None = None,
        privileged: bool | None = None,
    ) -> None:
        self._template = Template(template)
        self._directory = directory
        self._hostname = hostname
        if privileged is None:
            privileged = os.geteuid() == 0
        self._batch: Batch[Job | None, Result]
        self._process: MaildirProcess | None = None
        if call_from_thread is None:
            self._writer: MaildirWriter | MaildirProcess = MaildirWriter(disk or Disk(), clock, privileged)
            self._batch = BatchNow(self._write)
        else:
            self._writer = self._process = MaildirProcess(privileged, self._log.warn)
            self._batch = BatchThread("maildir", self._write, call_from_thread, BATCH, GATHER)
        self._flushes: deque[float] = deque(maxlen=_LOOKS)  # seconds
        self._flush = 0.0  # the median of them: until it is known that a disk is slow, it is taken for quick

    def start(self) -> None:
        """Makes ready, so that the first message need not wait for that; after the process has forked."""
        self._batch.submit(None).addErrback(lambda _: None)  # whatever it is, the first message meets it

    @property
    def is_quick(self) -> bool:
        return self._flush < QUICK

    def deliver(
        self, user: str, entry: Entry, recipient: Recipient, reverse_path: Path, hurry: bool = False
    ) -> Deferred[Result]:
        account = self._directory.account(user)
        if account is None or not _NAME.match(account.name):
            return succeed(NO_MAILBOX)
        folder = self._template.folder(account.name, account.home)
        if folder is None:
            return succeed(NO_FOLDER)
        job = self._job(folder, account, entry, recipient, reverse_path)
        stored = self._batch.submit(job, hurry=hurry)
        return stored.addErrback(self._failed, entry)

    def stop(self) -> Deferred[None]:
        """Finishes what is under way; fires when the thread and the process are gone."""
        stopped = self._batch.stop()
        if self._process is not None:
            process = self._process
            stopped.addBoth(lambda _: process.close())
        return stopped

    def _job(
        self, folder: Folder, account: Account, entry: Entry, recipient: Recipient, reverse_path: Path
    ) -> Job:
        return Job(
            folder=folder,
            name=file_name(entry, recipient, self._hostname),
            body=entry.body,
            reverse_path=reverse_path,
            address=recipient.path.mailbox,
            binary=entry.envelope.terms.binary,
            uid=account.uid,
            gid=account.gid,
            recovered=entry.recovered,
        )

    def _write(self, items: list[Job | None]) -> list[Result]:
        """Does a batch, in the thread; of `start` there is nothing to be done but what comes first."""
        jobs = [item for item in items if item is not None]
        results = iter([outcome(error) for error in self._writer.write(jobs)])
        if jobs and self._writer.flush is not None:
            self._flushes.append(self._writer.flush)
            self._flush = sorted(self._flushes)[len(self._flushes) // 2]
        return [DELIVERED if item is None else next(results) for item in items]

    def _failed(self, failure: Failure, entry: Entry) -> Result:
        """Not an error of the disk but of ours, or the mailbox has stopped: the mail waits."""
        self._log.failure("delivery of {id} to a mailbox failed", failure, id=entry.id)
        return Result.later(Reply(451, "Local error in processing", "4.3.0"))


@implementer(IMailbox)
class MemoryMailbox:
    """Mailboxes in memory, for tests and for programs that embed a node.

    `messages` has the octets of each message by user, as a Maildir would hold them.
    """

    is_quick = True

    def __init__(self, directory: IDirectory | None = None, hostname: str = "localhost") -> None:
        self._directory = directory
        self._hostname = hostname
        self._stored: dict[str, dict[str, bytes]] = {}
        self._refused: dict[str, Result] = {}

    @property
    def messages(self) -> dict[str, list[bytes]]:
        return {user: list(messages.values()) for user, messages in self._stored.items()}

    def refuse(self, user: str, result: Result | None) -> None:
        """From now on deliveries to `user` end with `result`; None to take them again."""
        if result is None:
            self._refused.pop(user, None)
        else:
            self._refused[user] = result

    def deliver(
        self, user: str, entry: Entry, recipient: Recipient, reverse_path: Path, hurry: bool = False
    ) -> Deferred[Result]:
        if self._directory is not None and self._directory.account(user) is None:
            return succeed(NO_MAILBOX)
        if user in self._refused:
            return succeed(self._refused[user])
        try:
            address, binary = recipient.path.mailbox, entry.envelope.terms.binary
            octets = b"".join(stored(entry.body, reverse_path, address, binary))
        except OSError as error:
            return succeed(outcome(error))
        self._stored.setdefault(user, {})[file_name(entry, recipient, self._hostname)] = octets
        return succeed(DELIVERED)
