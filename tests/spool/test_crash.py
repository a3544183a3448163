"""Whatever was acknowledged before a SIGKILL is there after it, whole."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path as FilePath
from typing import Any

from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool

CHILD = """
import hashlib, os, random, sys, time
from twisted.internet import reactor
from mailnode.mail import Envelope, Mode, Path, Recipient
from mailnode.spool.sqlite import SqliteSpool

spool = SqliteSpool(sys.argv[1], reactor.callFromThread, time.time)
spool.open()
seeded = random.Random(int(sys.argv[2]))
envelope = Envelope(Mode.MAIL, Path("a", "b.example"), (Recipient(Path("c", "d.example")),))

def lane(_=None):
    size = seeded.choice([10, 4096, 65536, 65537, 300000])
    body = seeded.randbytes(8) * (size // 8 + 1)
    id, draft = spool.new_id(), spool.draft()
    for start in range(0, size, 50000):
        draft.write(body[start:min(size, start + 50000)])
    accepted = spool.accept(id, envelope, draft, seeded.random() < 0.5)
    accepted.addCallback(lambda _: os.write(1, f"{id} {hashlib.sha256(body[:size]).hexdigest()}\\n".encode()))
    accepted.addCallback(lambda _: reactor.callLater(0, lane))
    accepted.addErrback(lambda failure: os.write(2, str(failure).encode()))

for _ in range(8):
    reactor.callWhenRunning(lane)
reactor.run()
"""


def accept_until_killed(data: str, seed: int) -> list[tuple[str, str]]:
    """Ids and digests of what a child acknowledged before it was killed."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, data, str(seed)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        first = child.stdout.readline()
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
        child.kill()
        lines = (first + child.stdout.read()).splitlines(keepends=True)
    pairs = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return [(id, digest) for id, digest in pairs]


def test_what_was_acknowledged_survives_being_killed(tmp_path: FilePath, desk: Any) -> None:
    data, promised = str(tmp_path / "data"), dict[str, str]()
    for seed in (1, 2, 3):
        acknowledged = accept_until_killed(data, seed)
        assert acknowledged
        promised.update(acknowledged)
        spool = SqliteSpool(data, None, time.time)
        spool.open()
        found = {message.id: message for message in desk.result(spool.listing(Selection(), 1_000_000))}
        assert promised.keys() <= found.keys()
        for id, message in found.items():  # also those that were committed but not acknowledged are whole
            body = desk.result(spool.body(id))
            octets = b"".join(body.chunks())
            assert len(octets) == message.size
            assert promised.get(id, digest := hashlib.sha256(octets).hexdigest()) == digest
        files = {
            path.name for folder in ("bodies", "drafts") for path in (tmp_path / "data" / folder).iterdir()
        }
        assert files == {id for id, message in found.items() if message.size > 65536}
        desk.result(spool.release_leases())
        assert {it.state for message in found.values() for it in message.recipients} <= {"queued", "leased"}
        assert {it.state for it in desk.result(spool.listing(Selection(), 1_000_000))} == {"queued"}
        desk.result(spool.close())
