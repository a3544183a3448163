"""Measures durable deliveries a second into Maildirs, with a number of messages in flight.

    python bench/maildir.py [--users 10] [--seconds 2] [--folder .] [--busy] [--interval 0.005]

`--busy` keeps the reactor's thread at work meanwhile, as a node that receives mail is; it shows what
the interpreter's switch interval does (`--interval`, seconds; see `sys.setswitchinterval`). Take a fresh
folder for each run, or wait five minutes: ext4 does not give out again the inodes of files that were
deleted lately, and searches past them for each new file (up to 1 ms).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from zope.interface import implementer

from mailnode.delivery.mailbox import Maildir
from mailnode.interfaces import Account, Finding, IDirectory, Unknown
from mailnode.mail import Body, Entry, Envelope, Mode, Outcome, Path, Recipient, Result

BODY = Body.of(b"Subject: measure\r\n\r\n" + (b"x" * 62 + b"\r\n") * 64)
SENDER = Path("smith", "usc.example")


@implementer(IDirectory)
class Users:
    """Any name is a user of this process's own."""

    def lookup(self, local: str) -> Finding:
        return Unknown()

    def find(self, text: str) -> Finding:
        return Unknown()

    def account(self, user: str) -> Account | None:
        return Account(user)


def measure(folder: str, flight: int, users: int, seconds: float, busy: bool) -> float:
    """Messages a second."""
    calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()
    mailbox = Maildir(
        f"{folder}/{flight}/{{user}}",
        Users(),
        "mit.example",
        lambda call, *args: calls.put((call, args)),
        time.time,
    )
    sent = done = 0

    def count(result: Result) -> None:
        nonlocal done
        if result.outcome is not Outcome.DELIVERED:
            raise RuntimeError(str(result.reply))
        done += 1

    started = time.perf_counter()
    while (now := time.perf_counter() - started) < seconds or done < sent:
        while now < seconds and sent - done < flight:
            recipient = Recipient(Path(f"user{sent % users}", "mit.example"))
            entry = Entry(f"E{sent:08}", Envelope(Mode.MAIL, SENDER, (recipient,)), BODY, time.time())
            mailbox.deliver(recipient.path.local, entry, recipient, SENDER).addCallback(count)
            sent += 1
        try:
            call, args = calls.get_nowait() if busy else calls.get(timeout=1)
        except Empty:
            sum(range(4000))  # some 60 us of work that holds the interpreter,
            os.stat(".")  # and a call that lets go of it, as a reactor's reads and writes do
            continue
        call(*args)
    elapsed = time.perf_counter() - started
    mailbox.stop()
    calls.get(timeout=5)
    return done / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description="durable deliveries into Maildirs a second")
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--folder", default=".", help="where to put the mailboxes")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--interval", type=float, default=sys.getswitchinterval())
    options = parser.parse_args()
    sys.setswitchinterval(options.interval)
    folder = tempfile.mkdtemp(dir=options.folder)
    try:
        for flight in (1, 20, 50, 100):
            rate = measure(folder, flight, options.users, options.seconds, options.busy)
            print(f"{flight:4} in flight, {options.users} mailboxes: {rate:7.0f} messages/s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
