"""A clock that is turned by hand, and both spools without threads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any, TypeAlias

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailnode.mail import Envelope, Mode, Path, Recipient, Reply
from mailnode.spool.memory import MemorySpool
from mailnode.spool.sqlite import SqliteSpool

Spool: TypeAlias = MemorySpool | SqliteSpool


class HandClock:
    """Seconds since the epoch; moves when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """What a test does with spools, in one place."""

    busy = Reply(450, "busy", "4.2.1")
    ok = Reply(250, "ok")

    @staticmethod
    def result(deferred: Deferred[Any]) -> Any:
        """The result of a Deferred that has fired; raises what it failed with."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        assert found, "the Deferred has not fired"
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]

    @staticmethod
    def envelope(*mailboxes: str, mode: Mode = Mode.MAIL) -> Envelope:
        pairs = [mailbox.split("@") for mailbox in mailboxes or ("jones@mit.example",)]
        recipients = tuple(Recipient(Path(local, domain), mode) for local, domain in pairs)
        return Envelope(mode, Path("smith", "usc.example"), recipients)

    def put(self, spool: Spool, *mailboxes: str, body: bytes = b"Hi\r\n", lease: bool = False) -> Any:
        """Accepts a message; its entry if leased, else its id."""
        draft, id = spool.draft(), spool.new_id()
        for start in range(0, len(body), 65536):
            draft.write(body[start : start + 65536])
        entry = self.result(spool.accept(id, self.envelope(*mailboxes), draft, lease))
        return entry if lease else id


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def sqlite(tmp_path: FilePath, clock: HandClock) -> Iterator[Callable[[], SqliteSpool]]:
    """Opens the spool in one folder, as often as a test likes: each time as another process would."""
    opened: list[SqliteSpool] = []

    def open() -> SqliteSpool:
        randbits = random.Random(len(opened)).getrandbits
        spool = SqliteSpool(str(tmp_path / "data"), None, clock, randbits=randbits)
        spool.open()
        opened.append(spool)
        return spool

    yield open
    for spool in opened:
        Desk.result(spool.close())


@pytest.fixture(params=["memory", "sqlite"])
def spool(request: pytest.FixtureRequest, clock: HandClock) -> Spool:
    if request.param == "memory":
        return MemorySpool(clock, randbits=random.Random(1).getrandbits)
    spool: SqliteSpool = request.getfixturevalue("sqlite")()
    return spool
