"""Whether 100,000 held messages of 1,000 peers slow anybody else: `python bench/held.py [--messages N]`.

Each figure is taken from an empty spool and from the full one, in milliseconds or messages a second, with
the spool's own threads as in a node.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from itertools import cycle
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks

from mailnode.interfaces import Selection, Settlement
from mailnode.mail import Entry, Envelope, Mode, Outcome, Path, Recipient, Reply, Result
from mailnode.spool.sqlite import SqliteSpool

BODY = b"Subject: x\r\n\r\n" + b"x" * 4000
OK = Result.delivered(Reply(250, "ok"))
HELD = Result(Outcome.HELD, Reply(250, "held"))
ROUNDS = 200
MANY = 5000
WIDTH = 100  # under way at once


def envelope(host: str) -> Envelope:
    return Envelope(Mode.MAIL, Path("smith", "usc.example"), (Recipient(Path("jones", host)),))


class Bench:
    def __init__(self, folder: str) -> None:
        self.spool = SqliteSpool(folder, reactor.callFromThread, time.time)  # type: ignore[attr-defined]
        self.spool.open()

    def accept(self, host: str, lease: bool, held: bool = False) -> Deferred[Entry | None]:
        draft = self.spool.draft()
        draft.write(BODY)
        look = {host: time.time() + 1e6} if held else {}
        return self.spool.accept(self.spool.new_id(), envelope(host), draft, lease, look)

    @inlineCallbacks
    def fill(self, messages: int, peers: int) -> Generator[Deferred[Any], Any, None]:
        for start in range(0, messages, 1000):
            hosts = [f"peer{number % peers}.example" for number in range(start, min(start + 1000, messages))]
            yield DeferredList([self.accept(host, False, True) for host in hosts], fireOnOneErrback=True)

    @inlineCallbacks
    def latency(self, act: Callable[[], Deferred[Any]]) -> Generator[Deferred[Any], Any, str]:
        found = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            yield act()
            found.append((time.perf_counter() - began) * 1000)
        found.sort()
        return f"{statistics.median(found):8.2f} ms, worst of a hundred {found[ROUNDS * 99 // 100]:8.2f} ms"

    @inlineCallbacks
    def rate(self) -> Generator[Deferred[Any], Any, str]:
        """Accepted, leased and settled as mail for a local user is."""
        began = time.perf_counter()
        for _ in range(0, MANY, WIDTH):
            taken = yield DeferredList([self.accept("mit.example", True) for _ in range(WIDTH)])
            for _, entry in taken:
                self.spool.settle(Settlement(entry.id, ((entry.envelope.recipients[0], OK),)))
        yield self.spool.next_due()
        return f"{MANY / (time.perf_counter() - began):8.0f} messages a second"

    def fetch(self, host: str) -> Deferred[Any]:
        """A peer's claim; what it gets goes back behind it."""

        def claimed(entries: list[Entry]) -> None:
            for entry in entries:
                rows = tuple((recipient, HELD) for recipient in entry.envelope.recipients)
                self.spool.settle(Settlement(entry.id, rows, look=time.time() + 1e6))

        return self.spool.claim_held([host], 20).addCallback(claimed)

    def claim(self) -> Deferred[Any]:
        """What the dispatch asks for whenever it is woken."""
        return self.spool.claim(50).addCallback(lambda _: self.spool.next_due())

    @inlineCallbacks
    def run(self, title: str) -> Generator[Deferred[Any], Any, None]:
        print(title)
        listing, peers = Selection(domain="peer7.example"), cycle(PEERS)
        for name, act in (
            ("accept, queued", lambda: self.accept("mit.example", False)),
            ("accept, held", lambda: self.accept("another.example", False, True)),
            ("dispatch looks for what is due", self.claim),
            ("a peer fetches 20 of its own", lambda: self.fetch(next(peers))),
            ("a call looks for outgoing mail", lambda: self.spool.claim_held(PEERS, 20, True)),
            ("is anything there for a peer", lambda: self.spool.waiting(["peer7.example"], ["held"])),
            ("who looks after held mail", lambda: self.spool.claim_overdue(20)),
            ("queue list --domain", lambda: self.spool.listing(listing)),
        ):
            print(f"  {name:34}{(yield self.latency(act))}")
            yield self.spool.change(Selection(domain="mit.example"), "delete")
            yield self.spool.change(Selection(domain="another.example"), "delete")
        for _ in range(3):
            print(f"  {'accept, lease and settle':34}{(yield self.rate())}")


PEERS = [f"peer{number}.example" for number in range(1000)]


@inlineCallbacks
def main(messages: int, peers: int) -> Generator[Deferred[Any], Any, None]:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        yield bench.run("nothing held")
        began = time.perf_counter()
        yield bench.fill(messages, peers)
        seconds = time.perf_counter() - began
        print(f"{messages} held in {seconds:.1f} s ({messages / seconds:.0f} a second)")
        yield bench.run(f"{messages} messages held for {peers} peers")
        yield bench.spool.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--messages", type=int, default=100_000)
    options.add_argument("--peers", type=int, default=1000)
    chosen = options.parse_args()
    sys.setswitchinterval(0.0001)

    def begin() -> None:
        done = main(chosen.messages, chosen.peers).addErrback(lambda failure: failure.printTraceback())
        done.addBoth(lambda _: reactor.stop())  # type: ignore[attr-defined]

    reactor.callWhenRunning(begin)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]
