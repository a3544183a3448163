"""The process that writes a busy spool: real children, really killed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path as File
from queue import SimpleQueue
from typing import Any

import pytest
from msgspec.structs import replace

from mailnode.mail import Body, Entry, Envelope, Mode, Path, Recipient, Reply, Result
from mailnode.queued import Settlement
from mailnode.spool import ids, schema
from mailnode.spool.errors import DiskError, DoubtError, SpoolError
from mailnode.spool.ledger import Acceptance, Ledger, Repeated
from mailnode.spool.rows import State, message_row, recipient_row
from mailnode.spool.sqlite import SqliteSpool
from mailnode.spool.transactions import Change, Look, Settle
from mailnode.spool.writer_process import Writer

OWNER = "0123456789abcdef"
JONES = Recipient(Path("jones", "mit.example"), number=1)
DELIVERED = Result.delivered(Reply(250, "Delivered to the mailbox", "2.0.0"))
BUSY = Result.later(Reply(450, "busy", "4.2.1"))


def acceptance(
    number: int, body: bytes = b"At noon?\r\n", once: bytes = b"", state: str = "leased"
) -> Acceptance:
    envelope = Envelope(Mode.MAIL, Path("smith", "usc.example"), (JONES,))
    entry = Entry(ids.show(number), envelope, Body.of(body), 0.0)
    rows = [recipient_row(number, JONES, State(state), 0.0, "", OWNER if state == "leased" else None)]
    return Acceptance(message_row(number, envelope, entry.body, 0.0), rows, entry, once)


def settlement(number: int, result: Result = DELIVERED, recipient: Recipient = JONES) -> Settle:
    return Settle(1.0, number, Settlement(ids.show(number), ((recipient, result),), due=99.0))


def numbers(path: File) -> list[int]:
    with sqlite3.connect(path) as connection:
        return [number for (number,) in connection.execute("SELECT id FROM message ORDER BY id")]


@pytest.fixture
def path(tmp_path: File) -> File:
    schema.prepare(str(tmp_path / "spool.sqlite"))
    return tmp_path / "spool.sqlite"


@pytest.fixture
def writer(path: File) -> Iterator[Writer]:
    writer = Writer(str(path), OWNER, str(path.parent), crowd=1)
    yield writer
    writer.close()


@pytest.fixture
def busy(writer: Writer) -> Writer:
    """One whose child has come up."""
    assert writer.work([Look(lambda ledger: 1)]) == [1]
    wait_for(lambda: writer.work([]) == [] and writer.pid > 0)
    return writer


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def computed(pid: int) -> list[str]:
    """What the process has computed so far, in ticks."""
    return File(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def test_a_crowd_starts_it_and_nobody_waits_until_it_is_there(path: File) -> None:
    writer = Writer(str(path), OWNER, str(path.parent), crowd=3)
    try:
        assert writer.work([acceptance(1), acceptance(2)]) == [acceptance(1).entry, acceptance(2).entry]
        for _ in range(20):
            assert writer.work([Look(lambda ledger: 5)]) == [5]
            assert writer.pid == 0
            time.sleep(0.01)
        assert writer.work([acceptance(number) for number in (3, 4, 5)]) == [
            acceptance(number).entry for number in (3, 4, 5)
        ]
        assert writer.pid == 0  # it has only just been started
        wait_for(lambda: writer.work([]) == [] and writer.pid > 0)
        assert writer.work([acceptance(6)]) == [acceptance(6).entry]
    finally:
        writer.close()
    assert numbers(path) == [1, 2, 3, 4, 5, 6]


def test_everything_has_the_result_that_it_has_without_a_child(busy: Writer, path: File) -> None:
    large = message_row(7, acceptance(7).entry.envelope, Body(70_000, None, "somewhere"), 0.0)  # type: ignore[union-attr]
    operations: list[Any] = [
        acceptance(1),
        acceptance(2, once=b"a name"),
        acceptance(3, once=b"a name"),
        acceptance(1),  # there already
        Acceptance(large, acceptance(7).recipients),
        Look(lambda ledger: sorted(ledger.known(range(10)))),
        settlement(1),
        settlement(2, BUSY),
        settlement(7),
        settlement(9),  # nobody has it
        Change(lambda ledger: ledger.release(OWNER, 5.0)),
        acceptance(4, state="queued"),
    ]
    alone = path.parent / "alone.sqlite"
    schema.prepare(str(alone))
    other = Writer(str(alone), OWNER, str(path.parent), crowd=0)
    try:
        expected = other.work(operations)
    finally:
        other.close()
    found = busy.work(operations)
    assert busy.pid
    assert [str(it) for it in found] == [str(it) for it in expected]
    assert found[0] == acceptance(1).entry and isinstance(found[2], Repeated)
    assert isinstance(found[3], SpoolError) and found[3].errno == errno.EEXIST
    assert found[5] == [1, 2, 7] and found[8] == [7] and found[9] == []
    with sqlite3.connect(path) as left, sqlite3.connect(alone) as right:
        for table in ("message", "recipient", "taken"):
            rows = [list(it.execute(f"SELECT * FROM {table} ORDER BY 1")) for it in (left, right)]
            assert rows[0] == rows[1] and rows[0]


def test_a_result_that_leads_on_goes_over_whole(busy: Writer, path: File) -> None:
    child = Recipient(
        Path("brown", "else.example", ("a.example",)), Mode.SAML, 0, 3, JONES.path, Path("list", "b")
    )
    forward = replace(BUSY, forward=((child, Result.later(Reply(451, ("two", "lines")), "else.example")),))
    assert busy.work([acceptance(1), settlement(1, forward)]) == [acceptance(1).entry, []]
    (row,) = busy.work(
        [Look(lambda ledger: ledger.connection.execute("SELECT * FROM recipient").fetchall())]
    )[0]
    assert row[1:11] == (
        2,
        "brown",
        "else.example",
        "a.example,",
        "a.example",
        "SAML",
        "queued",
        4,
        99.0,
        "451 two / lines",
    )


def test_text_that_is_not_utf_8_is_written_without_it(busy: Writer) -> None:
    before = computed(busy.pid)
    odd = Result.later(Reply(450, "\udc80"))
    assert busy.work([acceptance(1, b"x" * 60_000), settlement(1, odd)]) == [
        acceptance(1, b"x" * 60_000).entry,
        [],
    ]
    assert busy.pid and computed(busy.pid) == before


class Between:
    """Stands between the writer and its child, and kills it before or after it does what it is told."""

    def __init__(self, child: Any, kill: Callable[[], None], after: bool) -> None:
        self._ask, self._kill, self._after = child.ask, kill, after
        child.ask = self.ask

    def ask(self, text: bytes) -> bytes:
        if self._after:
            self._ask(text)
        self._kill()
        return bytes(self._ask(text))


@pytest.mark.parametrize("after", [False, True])
def test_one_that_is_killed_leaves_nothing_in_doubt(
    busy: Writer, path: File, after: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    busy.work([acceptance(1), acceptance(2, once=b"a name")])
    pid = busy.pid

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: File(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")

    Between(busy._child, kill, after)
    run: list[Any] = [
        acceptance(3),
        settlement(1),
        acceptance(4, once=b"a name"),
        acceptance(5, once=b"another"),
    ]
    found = busy.work([*run, Look(lambda ledger: 8), acceptance(6)])
    assert found[0] == acceptance(3).entry and found[1] == [] and isinstance(found[2], Repeated)
    assert found[3:] == [acceptance(5).entry, 8, acceptance(6).entry]
    assert busy.pid == 0
    assert numbers(path) == [2, 3, 5, 6]
    # There is no other, and nothing is missing without it.
    for number in range(10, 40):
        assert busy.work([acceptance(number)]) == [acceptance(number).entry]
    assert busy.pid == 0


def test_an_answer_that_is_not_heard_to_its_end_is_not_taken_for_the_next(
    busy: Writer, path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_no_memory(_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("mailnode.child._receive", has_no_memory)
    assert busy.work([acceptance(1)]) == [acceptance(1).entry]
    monkeypatch.undo()
    assert busy.pid == 0
    assert busy.work([acceptance(2)]) == [acceptance(2).entry]
    assert numbers(path) == [1, 2]


def test_what_another_process_has_delivered_meanwhile_is_not_accepted_again(busy: Writer, path: File) -> None:
    pid = busy.pid

    def kill() -> None:
        other = Ledger(schema.connect(str(path)), "another", str(path.parent))
        assert [entry.id for entry in other.claim(9.0, 9.0, 9).entries] == [ids.show(7), ids.show(8)]
        assert other.settle([(7, settlement(7).settlement), (8, settlement(8).settlement)], 9.0) == [[], []]
        other.connection.close()
        os.kill(pid, signal.SIGKILL)

    Between(busy._child, kill, after=True)
    queued = [acceptance(7, state="queued"), acceptance(8, b"x", b"a name", "queued")]
    found = busy.work([*queued, settlement(9)])
    assert busy.pid == 0
    assert found[0] == queued[0].entry and isinstance(found[1], Repeated)  # either way it was taken
    assert numbers(path) == []


@pytest.mark.parametrize("after", [False, True])
def test_where_nobody_can_look_it_is_said_so_and_later_all_goes_on(
    busy: Writer, path: File, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailnode.spool.writer_process.LOOKS", (0.01, 0.01))
    pid = busy.pid

    def cannot_open(*_: object) -> None:
        raise sqlite3.OperationalError("too many open files")

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)
        busy._transactions.close()
        monkeypatch.setattr("mailnode.spool.schema.connect", cannot_open)

    Between(busy._child, kill, after)
    found = busy.work([acceptance(1), settlement(5)])
    assert [type(it) for it in found] == [DoubtError] * 2
    monkeypatch.undo()
    assert busy.work([acceptance(2)]) == [acceptance(2).entry]
    assert numbers(path) == ([1, 2] if after else [2])


def test_one_of_another_version_is_not_told_anything(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailnode.spool.writer_process._GREETING", b"0.0.0")
    writer.work([acceptance(1)])
    wait_for(lambda: writer.work([]) == [] and not writer.has_child)
    assert writer.work([acceptance(2)]) == [acceptance(2).entry]


def test_another_one_is_started_after_a_pause(busy: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailnode.spool.writer_process.PAUSE", 0.2)
    first = busy.pid
    os.kill(first, signal.SIGKILL)
    assert busy.work([acceptance(1)]) == [acceptance(1).entry]
    assert busy.work([acceptance(2)]) == [acceptance(2).entry] and not busy.has_child
    time.sleep(0.2)
    assert busy.work([acceptance(3)]) == [acceptance(3).entry] and busy.has_child
    wait_for(lambda: busy.work([]) == [] and busy.pid > 0)
    assert busy.pid != first
    assert busy.work([acceptance(4)]) == [acceptance(4).entry]


def test_the_spool_lets_it_end_in_peace(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailnode.spool.sqlite.CROWD", 1)
    calls: SimpleQueue[Any] = SimpleQueue()
    spool = SqliteSpool(str(tmp_path / "data"), lambda *call: calls.put(call), time.time)
    spool.open()

    def result(deferred: Any) -> Any:
        while not deferred.called:
            function, *arguments = calls.get(timeout=20)
            function(*arguments)
        return deferred.result

    def is_there() -> bool:
        result(spool.next_due())
        return spool._transactions.pid > 0

    wait_for(is_there)
    child = spool._transactions._child
    assert child is not None
    result(spool.close())
    assert child._process.returncode == 0


def test_one_that_dies_as_it_starts_is_given_up(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert writer.work([acceptance(1)]) == [acceptance(1).entry]
    monkeypatch.undo()
    wait_for(lambda: writer._child is None or writer.work([]) != [])
    assert writer.work([acceptance(2)]) == [acceptance(2).entry]
    assert writer.pid == 0


def test_one_that_cannot_be_started_is_given_up(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert writer.work([acceptance(1)]) == [acceptance(1).entry]
    monkeypatch.undo()
    assert writer.work([acceptance(2)]) == [acceptance(2).entry]
    assert writer.pid == 0


def test_a_full_disk_fails_what_it_was_told_and_it_lives_on(busy: Writer, path: File) -> None:
    _, hard = resource.prlimit(
        busy.pid, resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    failed = busy.work([acceptance(1), settlement(1)])
    assert all(isinstance(it, DiskError) for it in failed)
    resource.prlimit(busy.pid, resource.RLIMIT_FSIZE, (hard, hard))
    pid = busy.pid
    assert busy.work([acceptance(1)]) == [acceptance(1).entry]
    assert busy.pid == pid > 0


HOUSE = """
hostname = "mit.edu"
[users]
names = ["Jones"]
[lists]
all = ["Jones"]
"""  # what goes to a list goes by the spool, however quick the mailbox is


def test_a_node_whose_child_is_killed_at_work_loses_nothing_and_delivers_nothing_twice(
    make_node: Any, need: Any
) -> None:
    node = make_node(HOUSE).start()
    command = [
        *[need("smtp-source"), "-s", "20", "-m", "3000", "-l", "4096", "-M", "usc.edu", "-d"],
        *["-f", "smith@usc.edu", "-t", "all@mit.edu", f"127.0.0.1:{node.port}"],
    ]

    def children() -> list[int]:
        found = []
        for line in subprocess.run(
            ["ps", "-eo", "pid,ppid,args", "-ww"], capture_output=True, text=True
        ).stdout.splitlines():
            pid, parent, words = line.split(None, 2)
            if parent == str(node.process.pid) and "spool.writer_process" in words:
                found.append(int(pid))
        return found

    with subprocess.Popen(command) as source:
        wait_for(lambda: bool(children()))
        (pid,) = children()
        arrived = node.data / "mail/Jones/new"
        wait_for(
            lambda: arrived.is_dir() and len(os.listdir(arrived)) >= 1000, 60
        )  # it is at work, and more is to come
        os.kill(pid, signal.SIGKILL)
        assert source.wait(60) == 0
    node.wait_for_mail("Jones", 3000)
    node.wait_for_empty_spool()
    assert len(node.mailbox("Jones")) == 3000
    assert "the process that writes the spool has died" in node.text()
    assert not children()


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from mailnode.spool.sqlite import SqliteSpool
from mailnode.spool.transactions import Look
from mailnode.spool.writer_process import Writer
writer = Writer(sys.argv[1], "0" * 16, "/", crowd=1)
while not writer.pid:
    writer.work([Look(lambda ledger: 1)])
print(writer.pid, flush=True)
time.sleep(60)
"""


def test_it_dies_with_a_node_that_is_killed(path: File) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, path, "."], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
    wait_for(lambda: not File(f"/proc/{pid}").exists() or " Z " in File(f"/proc/{pid}/stat").read_text())


def test_it_ends_with_the_spool_and_a_signal_for_the_node_does_not_end_it(busy: Writer) -> None:
    pid = busy.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
    assert busy.work([acceptance(1)]) == [acceptance(1).entry]
    assert busy.pid == pid
    busy.close()
    assert not File(f"/proc/{pid}").exists()
