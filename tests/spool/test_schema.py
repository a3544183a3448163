"""A spool of an earlier version is brought up to date, and nothing that was promised is lost by it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest

from mailnode.interfaces import Selection, Settlement
from mailnode.mail import Entry, Mode, Origin, Path, Recipient, Reply, Result, Terms
from mailnode.spool import ids, schema
from mailnode.spool.sqlite import SqliteSpool

Open = Callable[[], SqliteSpool]

# The tables as version 1 had them, to the letter: not taken from the program, which goes on.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (1);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, mode TEXT NOT NULL, local TEXT NOT NULL, domain TEXT NOT NULL,
    route TEXT NOT NULL, eight_bit INTEGER NOT NULL, origin INTEGER NOT NULL, size INTEGER NOT NULL,
    arrived REAL NOT NULL, warned INTEGER NOT NULL, file TEXT, body BLOB, CHECK (id >= 0));
CREATE TABLE recipient (
    message INTEGER NOT NULL, number INTEGER NOT NULL, local TEXT NOT NULL, domain TEXT NOT NULL,
    route TEXT NOT NULL, next_host TEXT NOT NULL, mode TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, due REAL NOT NULL, reply TEXT NOT NULL, original TEXT, sender TEXT,
    owner TEXT, recovered INTEGER NOT NULL, PRIMARY KEY (message, number),
    CHECK (typeof(message) = 'integer' AND message >= 0 AND typeof(number) = 'integer')) WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due, message) WHERE state = 'queued';
CREATE INDEX recipient_held ON recipient (next_host, message) WHERE state = 'held';
"""
SMALL, LARGE = (number << 11 for number in (1_700_000_000_000_000, 1_700_000_000_000_001))
BODY = b"Subject: old\r\n\r\n" + b"x" * 40_000


@pytest.fixture
def old(tmp_path: FilePath) -> FilePath:
    """The data folder that a node of version 1 left behind: one small message, one in a file."""
    data = tmp_path / "data"
    (data / "bodies").mkdir(parents=True)
    connection = sqlite3.connect(data / "spool.sqlite", isolation_level=None)
    connection.execute("PRAGMA page_size = 16384")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(VERSION_1)
    messages = [
        (SMALL, "SOML", "smith", "usc.example", "relay.example,", 1, 0, len(BODY), 1.5, 1, None, BODY),
        (LARGE, "MAIL", "", "", "", 0, 1, 70_000, 2.5, 0, ids.show(LARGE), None),
    ]
    recipients = [
        (SMALL, 1, "jones", "mit.example", "", "mit.example", "MAIL", "queued", 3, 9.0, "451 Not now",
         "staff,mit.example,", "owner,mit.example,", None, 0),
        (SMALL, 2, "hubert", "leaf.example", "", "leaf.example", "SOML", "held", 0, 0.0, "", None, None,
         None, 0),
        (LARGE, 1, "smith", "usc.example", "", "usc.example", "MAIL", "leased", 0, 0.0, "", None, None,
         "0" * 16, 0),
    ]  # fmt: skip
    connection.executemany(f"INSERT INTO message VALUES ({','.join('?' * 12)})", messages)
    connection.executemany(f"INSERT INTO recipient VALUES ({','.join('?' * 15)})", recipients)
    connection.close()
    (data / "bodies" / ids.show(LARGE)).write_bytes(b"y" * 70_000)
    return data


def by_path(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.envelope.recipients[0].path.mailbox: entry for entry in entries}


def test_a_spool_of_version_1_keeps_every_message(old: FilePath, sqlite: Open, desk: Any) -> None:
    spool = sqlite()
    desk.result(spool.release_leases())
    claimed = by_path(desk.result(spool.claim(9)))
    jones = claimed["jones@mit.example"]
    assert (jones.id, jones.arrived, jones.warned) == (ids.show(SMALL), 1.5, True)
    assert jones.envelope.mode is Mode.SOML and jones.envelope.terms == Terms(eight_bit=True)
    assert jones.envelope.reverse_path == Path("smith", "usc.example", ("relay.example",))
    assert jones.envelope.recipients == (
        Recipient(
            *(Path("jones", "mit.example"), Mode.MAIL, 1, 3),
            *(Path("staff", "mit.example"), Path("owner", "mit.example")),
        ),
    )
    assert b"".join(jones.body.chunks()) == BODY
    notice = claimed["smith@usc.example"]
    assert notice.envelope.origin is Origin.NOTICE and notice.recovered
    assert b"".join(notice.body.chunks()) == b"y" * 70_000
    assert desk.result(spool.waiting(["leaf.example"], ["held"])) == 1
    (held,) = desk.result(spool.claim_overdue(9))  # when it was to be looked after was not known
    assert held.envelope.recipients == (Recipient(Path("hubert", "leaf.example"), Mode.SOML, 2),)


def test_a_spool_of_version_1_is_worked_off_as_any_other(old: FilePath, sqlite: Open, desk: Any) -> None:
    spool = sqlite()
    desk.result(spool.release_leases())
    entries = desk.result(spool.claim(9)) + desk.result(spool.claim_held(["leaf.example"], 9))
    for entry in entries:
        done = tuple((recipient, Result.delivered(Reply(250))) for recipient in entry.envelope.recipients)
        desk.result(spool.settle(Settlement(entry.id, done)))
    assert desk.result(spool.listing(Selection())) == []
    assert list((old / "bodies").iterdir()) == []


def test_tables_that_were_brought_up_to_date_are_those_of_a_new_spool(
    old: FilePath, sqlite: Open, tmp_path: FilePath
) -> None:
    sqlite()
    schema.prepare(str(tmp_path / "new.sqlite"))
    assert tables(old / "spool.sqlite") == tables(tmp_path / "new.sqlite")
    assert dict(tables(old / "spool.sqlite")["recipient"])["orcpt"] == "TEXT"


def tables(path: FilePath) -> dict[str, list[tuple[str, str]]]:
    connection = sqlite3.connect(path)
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    ]
    found = {
        name: [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_xinfo({name})")]
        for name in names
    }
    connection.close()
    return found


def test_a_step_that_fails_leaves_the_old_spool_as_it_was(
    old: FilePath, sqlite: Open, desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE message (again)",)))
    with pytest.raises(OSError, match="cannot open the spool"):
        sqlite()
    monkeypatch.undo()
    assert len(desk.result(sqlite().listing(Selection()))) == 2
