"""Whatever is done to both, the SQLite spool and the one in memory look the same from outside."""

from __future__ import annotations

import random
import tempfile
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailnode.interfaces import Selection, Settlement
from mailnode.mail import Entry, Envelope, Mode, Outcome, Path, Recipient, Reply, Result, Terms
from mailnode.spool.memory import MemorySpool
from mailnode.spool.sqlite import SqliteSpool

hosts = st.sampled_from(["a.example", "B.example", ""])
texts = st.text(st.characters(), max_size=4)
paths = st.builds(
    Path, st.sampled_from(["jones", "green"]) | texts, hosts, st.sampled_from([(), ("C.example", "d,")])
)
modes = st.sampled_from(Mode)
notifies = st.sampled_from([(), ("NEVER",), ("SUCCESS", "FAILURE")])
recipients = st.builds(
    Recipient, paths, modes, original=st.none() | paths, notify=notifies, orcpt=st.just("") | texts
)
terms = st.builds(Terms, *[st.booleans()] * 3, st.sampled_from(["", "FULL", "HDRS"]), texts)
plain = st.builds(Result, st.sampled_from(Outcome), st.builds(Reply, st.just(450), texts))
results = st.builds(
    Result,
    st.sampled_from(Outcome),
    st.just(Reply(450)),
    forward=st.lists(st.tuples(recipients, plain), max_size=3).map(tuple),
)
selections = st.builds(
    Selection,
    to=st.sampled_from(["", "jones", "@a"]),
    domain=st.sampled_from(["", "a.example", "c.example"]),
    state=st.sampled_from(["", "queued", "held", "stopped", "leased"]),
    older=st.sampled_from([0.0, 100.0]),
)


def value(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert len(found) == 1
    if isinstance(found[0], Failure):
        found[0].raiseException()
    return found[0]


class Both(RuleBasedStateMachine):
    """Does the same to both and compares every answer."""

    @initialize()
    def begin(self) -> None:
        self.now = 1_800_000_000.0
        self.entries: list[Entry] = []
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemorySpool(self.clock, randbits=random.Random(1).getrandbits)
        self.sqlite = SqliteSpool(self.folder.name, None, self.clock, randbits=random.Random(1).getrandbits)
        self.sqlite.open()

    def clock(self) -> float:
        return self.now

    def teardown(self) -> None:
        value(self.sqlite.close())
        self.folder.cleanup()

    def both(self, name: str, *arguments: Any) -> Any:
        one, other = (value(getattr(spool, name)(*arguments)) for spool in (self.memory, self.sqlite))
        assert one == other
        return one

    @rule(
        mode=modes,
        path=paths,
        them=st.lists(recipients, min_size=1, max_size=3),
        terms=terms,
        lease=st.booleans(),
        held=st.sampled_from([{}, {"a.example": 500.0}, {"b.example": -5.0, "": 0.0}]),
    )
    def accept(
        self,
        mode: Mode,
        path: Path,
        them: list[Recipient],
        terms: Terms,
        lease: bool,
        held: dict[str, float],
    ) -> None:
        id, envelope, entries = self.memory.new_id(), Envelope(mode, path, tuple(them), terms), []
        for spool in (self.memory, self.sqlite):
            draft = spool.draft()
            draft.write(b"Hi\r\n")
            look = {host: self.now + seconds for host, seconds in held.items()}
            entries.append(value(spool.accept(id, envelope, draft, lease, look)))
        assert entries[0] == entries[1]
        if entries[0] is not None:
            self.entries.append(entries[0])

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        self.entries += self.both("claim", limit)

    @rule(limit=st.integers(1, 3), others=st.booleans(), skip=st.integers(0, 2))
    def claim_held(self, limit: int, others: bool, skip: int) -> None:
        but = tuple(entry.id for entry in self.entries[:skip])
        self.entries += self.both("claim_held", ["a.example", "C.EXAMPLE"], limit, others, but)

    @rule(limit=st.integers(1, 3))
    def claim_overdue(self, limit: int) -> None:
        self.entries += self.both("claim_overdue", limit)

    @rule(data=st.data(), delay=st.floats(-1000, 30_000), warned=st.booleans())
    def settle(self, data: st.DataObject, delay: float, warned: bool) -> None:
        if not self.entries:
            return
        entry = data.draw(st.sampled_from(self.entries))
        found = [(it, data.draw(results)) for it in entry.envelope.recipients if data.draw(st.booleans())]
        when = self.now + delay
        self.both("settle", Settlement(entry.id, tuple(found), when, warned, when + 7))

    @rule()
    def release_leases(self) -> None:
        self.both("release_leases")

    @rule(selection=selections, action=st.sampled_from(["retry", "hold", "release", "delete"]))
    def change(self, selection: Selection, action: str) -> None:
        self.both("change", selection, action)

    @rule(selection=selections, limit=st.integers(0, 3))
    def listing(self, selection: Selection, limit: int) -> None:
        self.both("listing", selection, limit)

    @rule(seconds=st.floats(-20_000, 20_000))
    def step_the_clock(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def they_look_the_same(self) -> None:
        self.both("waiting", ["a.example", ""], ["held", "queued"])
        self.both("listing", Selection())
        self.both("next_due")


Both.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBoth = Both.TestCase
