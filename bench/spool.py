"""How many messages a second the spool accepts, leases and settles: `python bench/spool.py [--profile]`."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mailnode.interfaces import Settlement
from mailnode.mail import Entry, Envelope, Mode, Path, Recipient, Reply, Result
from mailnode.spool.sqlite import SqliteSpool

OK = Reply(250, "ok")
ENVELOPE = Envelope(Mode.MAIL, Path("smith", "usc.example"), (Recipient(Path("jones", "mit.example")),))


class Run:
    """One measurement: `count` rounds of `step`, at most `width` of them under way."""

    def __init__(self, width: int, count: int, step: Callable[[], Deferred[Any]]) -> None:
        self._left = count
        self._step = step
        self._width = width

    def start(self) -> Deferred[Any]:
        return DeferredList([self._lane(Deferred()) for _ in range(self._width)], fireOnOneErrback=True)

    def _lane(self, done: Deferred[None]) -> Deferred[None]:
        if self._left <= 0:
            done.callback(None)
            return done
        self._left -= 1

        def again(_: object) -> None:
            self._lane(done)

        self._step().addCallbacks(again, done.errback)
        return done


def rounds(
    spool: SqliteSpool, body: bytes, count: int
) -> Iterator[tuple[str, Callable[[], Deferred[Any]], int]]:
    def accept(lease: bool) -> Deferred[Entry | None]:
        draft = spool.draft()
        for start in range(0, len(body), 65536):
            draft.write(body[start : start + 65536])
        return spool.accept(spool.new_id(), ENVELOPE, draft, lease)

    def settle(entry: Entry) -> Deferred[None]:
        recipient = entry.envelope.recipients[0]
        return spool.settle(Settlement(entry.id, ((recipient, Result.delivered(OK)),)))

    def claim_and_settle() -> Deferred[Any]:
        return spool.claim(20).addCallback(lambda entries: DeferredList([settle(it) for it in entries]))

    yield "accept", lambda: accept(False), count
    yield "claim 20, settle each", claim_and_settle, count // 20
    yield (
        "accept leased, settle",
        lambda: accept(True).addCallback(lambda it: settle(it) if it else None),
        count,
    )


def measure(reactor: Any, options: argparse.Namespace) -> Deferred[None]:
    folder = tempfile.TemporaryDirectory(dir=options.folder)
    spool = SqliteSpool(folder.name, reactor.callFromThread, time.time)
    spool.open()

    async def all_of_them() -> None:
        try:
            for name, step, count in rounds(spool, b"x" * options.size, options.count):
                cpu, start = time.process_time(), time.perf_counter()
                await Run(1 if "claim" in name else options.width, count, step).start()
                seconds = time.perf_counter() - start
                cost = (time.process_time() - cpu) / options.count * 1e6
                print(f"{name:24} {options.count / seconds:9,.0f} messages/s  {cost:6.1f} us CPU each")
        finally:
            await spool.close()  # else its threads keep the process alive
            folder.cleanup()
        print(f"largest resident set: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")

    return Deferred.fromCoroutine(all_of_them())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--size", type=int, default=4096, help="octets of a body")
    parser.add_argument("--width", type=int, default=20, help="messages in flight")
    parser.add_argument("--folder", help="on the disk to measure")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    from twisted.internet import reactor as installed

    reactor: Any = installed
    failed: list[Any] = []

    def start() -> None:
        measure(reactor, options).addErrback(failed.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(reactor.run)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    else:
        reactor.run()
    for failure in failed:
        failure.printTraceback(sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
