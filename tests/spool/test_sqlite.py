"""What the SQLite spool does besides: batches, faults, bad rows, several processes, its files."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest

from mailnode.interfaces import Selection, Settlement
from mailnode.mail import Body, Outcome, Path, Recipient, Reply, Result
from mailnode.spool import ids, ledger, schema
from mailnode.spool.errors import SpoolError
from mailnode.spool.ledger import Acceptance, Ledger
from mailnode.spool.rows import State, message_row, recipient_row
from mailnode.spool.sqlite import SqliteSpool
from mailnode.spool.transactions import Change, Look, Operation, Settle, Transactions

ALL = Selection()
OK = Reply(250, "ok")
Open = Callable[[], SqliteSpool]


@pytest.fixture
def data(tmp_path: FilePath) -> FilePath:
    return tmp_path / "data"


def tamper(data: FilePath, statement: str, *arguments: object) -> Any:
    """Changes the tables behind the spool's back."""
    connection = sqlite3.connect(data / "spool.sqlite", isolation_level=None)
    try:
        return connection.execute(statement, arguments).fetchall()
    finally:
        connection.close()


def acceptance(number: int, desk: Any, size: int = 4000) -> Acceptance:
    body = Body.of(b"x" * size)
    recipients = [recipient_row(number, Recipient(Path("a", "b"), number=1), State.QUEUED, 0.0)]
    return Acceptance(message_row(number, desk.envelope(), body, 0.0), recipients)


@pytest.fixture
def transactions(sqlite: Open, data: FilePath) -> Transactions:
    sqlite()
    return Transactions(
        lambda: Ledger(schema.connect(str(data / "spool.sqlite")), "us", str(data / "bodies"))
    )


def count(ledger: Ledger) -> int:
    return int(ledger.connection.execute("SELECT count(*) FROM message").fetchone()[0])


# ------------------------------------------------------------------------ group commit


def test_one_bad_operation_of_a_batch_fails_alone(transactions: Transactions, desk: Any) -> None:
    batch: list[Operation] = [
        acceptance(1, desk),
        acceptance(2, desk),
        acceptance(1, desk),
        Change(count),
        Change(lambda _: 1 / 0),
    ]
    results = transactions.work(batch)
    assert [type(result) for result in results] == [
        type(None),
        type(None),
        SpoolError,
        int,
        ZeroDivisionError,
    ]
    assert results[3] == 2
    transactions.close()


def test_a_batch_is_one_transaction(transactions: Transactions, desk: Any, data: FilePath) -> None:
    def seen_by_others(ledger: Ledger) -> list[int]:
        return [count(ledger), *tamper(data, "SELECT count(*) FROM message")[0]]

    assert transactions.work([acceptance(1, desk), acceptance(2, desk), Change(seen_by_others)])[2] == [2, 0]
    assert transactions.work([Look(seen_by_others)]) == [[2, 2]]
    transactions.close()


def test_what_is_asked_for_after_a_change_happens_after_it(transactions: Transactions, desk: Any) -> None:
    rows = acceptance(1, desk)
    leased = [recipient_row(1, Recipient(Path("a", "b"), number=1), State.LEASED, 0.0, "", "us")]
    settle = Settle(
        5.0, 1, Settlement(ids.show(1), ((Recipient(Path("a", "b"), number=1), Result.delivered(OK)),))
    )
    release = Change(lambda ledger: ledger.release("us", 5.0))
    batch: list[Operation] = [Acceptance(rows.message, leased), release, settle, Look(count)]
    assert transactions.work(batch) == [None, 1, [], 1]
    transactions.close()


def test_a_statement_for_many_rows_takes_any_number_of_them(transactions: Transactions, desk: Any) -> None:
    for number in (1, 31, 32, 33, 100):
        batch: list[Operation] = [acceptance(number * 1000 + place, desk) for place in range(number)]
        assert transactions.work(batch) == [None] * number
    assert transactions.work([Look(count)]) == [197]
    transactions.close()


# ------------------------------------------------------------------------ faults


def test_a_full_database_refuses_and_serves_again_when_there_is_space(
    transactions: Transactions, desk: Any
) -> None:
    def pages(limit: int) -> Change:
        return Change(lambda ledger: ledger.connection.execute(f"PRAGMA max_page_count = {limit}").fetchone())

    transactions.work([acceptance(1, desk)])
    transactions.work([pages(1)])  # SQLite takes the present size for it
    results = transactions.work([acceptance(number, desk, size=40_000) for number in range(2, 9)])
    assert {type(result) for result in results} == {SpoolError}
    assert {result.errno for result in results} == {28}  # ENOSPC
    transactions.work([pages(1 << 30)])
    assert transactions.work([acceptance(2, desk), Look(count)]) == [None, 2]
    transactions.close()


def test_a_commit_that_fails_acknowledges_nothing_and_the_next_one_serves(
    transactions: Transactions, desk: Any, data: FilePath
) -> None:
    transactions.work([acceptance(1, desk)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = os.stat(data / "spool.sqlite-wal").st_size  # the log cannot grow any more
    batch: list[Operation] = [acceptance(number, desk) for number in range(2, 200)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        results = transactions.work(batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(isinstance(result, SpoolError) for result in results)
    assert transactions.work([Look(count)]) == [1]
    assert transactions.work([*batch, Look(count)])[-1] == 199
    transactions.close()


def test_a_database_that_cannot_be_opened_fails_every_operation_until_it_can(
    desk: Any, tmp_path: FilePath
) -> None:
    path = tmp_path / "later" / "spool.sqlite"
    transactions = Transactions(lambda: Ledger(schema.connect(str(path)), "us", ""))
    results = transactions.work([acceptance(1, desk), Look(count)])
    assert all(isinstance(result, SpoolError) for result in results)
    path.parent.mkdir()
    schema.prepare(str(path))
    assert transactions.work([acceptance(1, desk), Look(count)]) == [None, 1]
    transactions.close()


def test_a_file_that_is_no_database_is_refused_clearly(sqlite: Open, data: FilePath) -> None:
    data.mkdir()
    (data / "spool.sqlite").write_bytes(b"not a database, " * 100)
    with pytest.raises(SpoolError, match="cannot open the spool"):
        sqlite()


def test_a_newer_schema_is_refused_clearly(sqlite: Open, data: FilePath) -> None:
    sqlite()
    assert tamper(data, "SELECT version FROM schema_version") == [(len(schema.MIGRATIONS),)]
    tamper(data, "UPDATE schema_version SET version = 99")
    with pytest.raises(SpoolError, match="version 99"):
        sqlite()


# ------------------------------------------------------------------------ bad rows


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE message SET mode = 'TELL' WHERE id = ?",
        "UPDATE message SET route = 'torn' WHERE id = ?",
        "UPDATE message SET body = NULL WHERE id = ?",
        "UPDATE message SET file = '../spool.sqlite', body = NULL WHERE id = ?",
        "UPDATE message SET local = CAST(x'ff' AS TEXT) WHERE id = ?",
        "DELETE FROM message WHERE id = ?",
        "UPDATE recipient SET mode = 'TELL' WHERE message = ?",
        "UPDATE recipient SET local = x'ff' WHERE message = ?",
        "UPDATE recipient SET local = CAST(x'ff' AS TEXT) WHERE message = ?",
        "UPDATE recipient SET due = 'soon' WHERE message = ?",
    ],
)
def test_a_bad_row_is_set_aside_and_the_rest_goes_on(
    sqlite: Open, desk: Any, data: FilePath, damage: str
) -> None:
    spool = sqlite()
    good, bad, last = desk.put(spool), desk.put(spool), desk.put(spool)
    tamper(data, damage, ids.parse(bad))
    claimed = [entry.id for entry in desk.result(spool.claim(9))]
    assert claimed in ([good, last], [good, last, bad])  # a due time that makes no sense is due
    if bad not in claimed:
        assert tamper(data, "SELECT state FROM recipient WHERE message = ?", ids.parse(bad)) == [("bad",)]
        (seen,) = desk.result(spool.listing(Selection(state="bad")))
        assert (seen.id, seen.state) == (bad, "bad")
        assert desk.result(spool.change(Selection(ids=(bad,)), "delete")) == 1
        assert len(desk.result(spool.listing(ALL))) == 2


def test_one_bad_recipient_leaves_the_others_of_its_message(sqlite: Open, desk: Any, data: FilePath) -> None:
    spool = sqlite()
    id = desk.put(spool, "a@x.example", "b@y.example")
    tamper(data, "UPDATE recipient SET mode = 'TELL' WHERE number = 1")
    (entry,) = desk.result(spool.claim(9))
    assert [it.number for it in entry.envelope.recipients] == [2]
    (seen,) = desk.result(spool.listing(ALL))
    assert [it.state for it in seen.recipients] == ["bad", "leased"]
    tamper(data, "UPDATE recipient SET mode = 'MAIL' WHERE number = 1")
    assert desk.result(spool.change(Selection(ids=(id,)), "release")) == 1
    assert [it.number for it in desk.result(spool.claim(9))[0].envelope.recipients] == [1]


# ------------------------------------------------------------------------ several processes


def test_leases_of_a_living_process_stay_with_it(sqlite: Open, desk: Any) -> None:
    alive, dispatch = sqlite(), sqlite()
    entry = desk.put(alive, lease=True)
    assert desk.result(dispatch.release_leases()) == 0
    desk.result(
        dispatch.settle(Settlement(entry.id, ((entry.envelope.recipients[0], Result.delivered(OK)),)))
    )
    assert len(desk.result(dispatch.listing(ALL))) == 1  # settled by whom it is not leased to
    desk.result(alive.settle(Settlement(entry.id, ((entry.envelope.recipients[0], Result.delivered(OK)),))))
    assert desk.result(dispatch.listing(ALL)) == []


def test_leases_of_a_process_that_has_gone_are_released_at_the_start(
    sqlite: Open, desk: Any, data: FilePath
) -> None:
    gone, dispatch = sqlite(), sqlite()
    desk.put(gone, lease=True)
    desk.result(gone.close())
    assert len(os.listdir(data / "owners")) == 1
    assert desk.result(dispatch.release_leases()) == 1
    assert os.listdir(data / "owners") == []
    (entry,) = desk.result(dispatch.claim(9))
    assert entry.recovered


def test_leases_of_a_process_that_dies_are_found_within_a_minute(sqlite: Open, desk: Any, clock: Any) -> None:
    gone, dispatch = sqlite(), sqlite()
    entry = desk.put(gone, lease=True)
    desk.result(gone.close())
    assert desk.result(dispatch.claim(9)) == []
    clock.now += 60
    assert [it.id for it in desk.result(dispatch.claim(9))] == [entry.id]


def test_one_process_works_a_spool_off(sqlite: Open, desk: Any) -> None:
    one, other = sqlite(), sqlite()
    assert one.lock_dispatch()
    assert one.lock_dispatch()
    assert not other.lock_dispatch()
    desk.result(one.close())
    assert other.lock_dispatch()


def test_what_one_process_accepts_another_one_claims(sqlite: Open, desk: Any) -> None:
    receiver, sender = sqlite(), sqlite()
    made = [desk.put(receiver, body=b"x" * size) for size in (10, 70000)]
    assert [entry.id for entry in desk.result(sender.claim(9))] == made
    assert desk.result(receiver.claim(9)) == []


# ------------------------------------------------------------------------ files


def test_nobody_else_can_read_the_spool(sqlite: Open, desk: Any, data: FilePath) -> None:
    mask = os.umask(0)
    try:
        spool = sqlite()
        desk.put(spool, body=b"x" * 70000, lease=True)
    finally:
        os.umask(mask)
    files = [FilePath(folder) / name for folder, _, names in os.walk(data) for name in names]
    folders = [folder for folder, _, _ in os.walk(data)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {stat.S_IMODE(os.stat(folder).st_mode) for folder in folders} == {0o700}
    assert {"spool.sqlite", "spool.sqlite-wal"} <= {file.name for file in files}


def test_there_is_room_while_enough_of_the_disk_is_free(sqlite: Open, clock: Any, monkeypatch: Any) -> None:
    spool, asked = sqlite(), list[str]()
    status = os.statvfs("/")

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        return os.statvfs_result((4096, 4096, 9, 9, 5000, 9, 9, 9, status.f_flag, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    free = 4096 * 5000 - (16 << 20)
    assert [spool.has_room(size) for size in (0, free, free + 1)] == [True, True, False]
    assert len(asked) == 1
    clock.now += 1
    spool.has_room(0)
    clock.now -= 3600  # a clock that was set back is no reason to trust an old look
    spool.has_room(0)
    assert len(asked) == 3


# ------------------------------------------------------------------------ cost


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (ledger._DUE, "SEARCH recipient USING INDEX recipient_due (due<?)"),
        (ledger._ASTRAY, "SEARCH recipient USING INDEX recipient_due (due>?)"),
        (ledger._HELD, "SEARCH recipient USING INDEX recipient_held (next_host=?)"),
        (ledger._OVERDUE, "SEARCH recipient USING INDEX recipient_look (due<?)"),
        (ledger._WAITING, "SEARCH recipient USING INDEX recipient_host (next_host=?)"),
        (ledger._LEASE_OVERDUE, "SEARCH recipient USING PRIMARY KEY (message=?)"),
        (ledger._NEXT, "SEARCH recipient USING INDEX recipient_due"),
        (ledger._LATEST, "SEARCH recipient USING INDEX recipient_due"),
        (ledger._LEASE_DUE, "SEARCH recipient USING PRIMARY KEY (message=?)"),
        (ledger._LEASE_HELD, "SEARCH recipient USING PRIMARY KEY (message=?)"),
        (ledger._LEASE_OTHERS, "SEARCH recipient USING PRIMARY KEY (message=?)"),
        (ledger._DELETE, "SEARCH recipient USING PRIMARY KEY (message=? AND number=?)"),
        (ledger._LATER, "SEARCH recipient USING PRIMARY KEY (message=? AND number=?)"),
        (ledger._EMPTIED, "SEARCH message USING INTEGER PRIMARY KEY (rowid=?)"),
    ],
)
def test_every_query_of_the_daily_road_is_a_look_up(
    sqlite: Open, data: FilePath, query: str, index: str
) -> None:
    sqlite()
    arguments = [None] * query.count("?")
    plan = [row[3] for row in tamper(data, f"EXPLAIN QUERY PLAN {query}", *arguments)]
    assert any(line.startswith(index) for line in plan), plan
    assert not any("SCAN recipient" in line or "SCAN message" in line for line in plan), plan
    assert not any("ORDER BY" in line for line in plan), plan


def test_held_mail_is_found_without_looking_at_the_rest(sqlite: Open, desk: Any, data: FilePath) -> None:
    spool = sqlite()
    work = 0

    def step() -> int:
        nonlocal work
        work += 1
        return 0

    connection = sqlite3.connect(data / "spool.sqlite", isolation_level=None)
    connection.execute("BEGIN")
    row = recipient_row(0, Recipient(Path("a", "other.example"), number=1), State.HELD, 1e12)
    rows = ((number, *row[1:]) for number in range(1, 20001))
    connection.executemany(f"INSERT INTO recipient VALUES ({','.join('?' * len(row))})", rows)
    connection.execute("COMMIT")
    entry = desk.put(spool, "a@leaf.example", lease=True)
    held = Result(Outcome.HELD, OK)
    desk.result(spool.settle(Settlement(entry.id, ((entry.envelope.recipients[0], held),))))
    connection.set_progress_handler(step, 10)  # every ten instructions of SQLite
    tables = Ledger(connection, "us", "")
    assert tables.next_due(0.0, 1.0) is None
    assert tables.claim(1e12, 1.0, 50).entries == []
    assert tables.waiting(["leaf.example"], ["held"]) == 1
    assert [it.id for it in tables.claim_held(["leaf.example"], 50, False, []).entries] == [entry.id]
    assert tables.claim_held(["other.example"], 50, True, []).entries == []
    assert tables.claim_overdue(1e11, 50).entries == []
    assert len(tables.listing(Selection(domain="leaf.example"), 0.0, 9)) == 1
    connection.close()
    assert work < 100
