"""The tables of the spool, how a connection to them is opened, and how old tables become new ones."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import Final

from mailnode.spool.errors import SpoolError, spool_error

BUSY_SECONDS: Final = 30.0  # how long a process waits for the others that share the file
# Messages are a few KiB, come in groups and go in groups: several of them share a page this large, and
# a commit writes half as much as with pages of 4 KiB.
_PAGE: Final = 16384  # octets
_CHECKPOINT_PAGES: Final = 1000  # 16 MB: most mail has come and gone before it is ever copied
_WAL_LIMIT: Final = 64 << 20  # octets that the log keeps on disk after a peak

# A step takes the tables from the version of its place to the next one, and is never changed again.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY,     -- 63 bits, shown as 13 characters of base 32
            mode TEXT NOT NULL,         -- MAIL SEND SOML SAML
            local TEXT NOT NULL,        -- reverse-path: local part,
            domain TEXT NOT NULL,       -- domain as written,
            route TEXT NOT NULL,        -- source route, each host followed by a comma
            eight_bit INTEGER NOT NULL,
            origin INTEGER NOT NULL,    -- 0 normal, 1 notice, 2 notice about a notice
            size INTEGER NOT NULL,      -- octets of the body
            arrived REAL NOT NULL,      -- seconds since the epoch
            warned INTEGER NOT NULL,    -- the sender was told of the delay
            file TEXT,                  -- name in bodies/, or NULL and
            body BLOB,                  -- the body itself
            CHECK (id >= 0)
        )""",
        """CREATE TABLE recipient (
            message INTEGER NOT NULL,
            number INTEGER NOT NULL,
            local TEXT NOT NULL,        -- forward-path, as in message
            domain TEXT NOT NULL,
            route TEXT NOT NULL,
            next_host TEXT NOT NULL,    -- lower case: first of the route, else the domain
            mode TEXT NOT NULL,
            state TEXT NOT NULL,        -- queued leased held bad
            attempts INTEGER NOT NULL,
            due REAL NOT NULL,          -- seconds since the epoch
            reply TEXT NOT NULL,        -- the last one, printable
            original TEXT,              -- path before aliases: local, domain, route, each with a comma
            sender TEXT,                -- reverse-path of its own, likewise
            owner TEXT,                 -- who leased it
            recovered INTEGER NOT NULL, -- an earlier owner died; it may have been delivered
            PRIMARY KEY (message, number),
            CHECK (typeof(message) = 'integer' AND message >= 0 AND typeof(number) = 'integer')
        ) WITHOUT ROWID""",
        # Partial: mail that is leased at once on its way in and delivered never touches them.
        "CREATE INDEX recipient_due ON recipient (due, message) WHERE state = 'queued'",
        "CREATE INDEX recipient_held ON recipient (next_host, message) WHERE state = 'held'",
    ),
    (
        # A new table, so that the body stays last: what stands behind it costs a walk through all its pages.
        "ALTER TABLE message RENAME TO message_1",
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY,     -- 63 bits, shown as 13 characters of base 32
            mode TEXT NOT NULL,         -- MAIL SEND SOML SAML
            local TEXT NOT NULL,        -- reverse-path: local part,
            domain TEXT NOT NULL,       -- domain as written,
            route TEXT NOT NULL,        -- source route, each host followed by a comma
            eight_bit INTEGER NOT NULL, -- BODY=8BITMIME
            binary INTEGER NOT NULL,    -- BODY=BINARYMIME
            utf8 INTEGER NOT NULL,      -- SMTPUTF8
            ret TEXT NOT NULL,          -- RET: FULL HDRS, or empty
            envid TEXT NOT NULL,        -- ENVID, decoded, or empty
            origin INTEGER NOT NULL,    -- 0 normal, 1 notice, 2 notice about a notice
            size INTEGER NOT NULL,      -- octets of the body
            arrived REAL NOT NULL,      -- seconds since the epoch
            warned INTEGER NOT NULL,    -- the sender was told of the delay
            file TEXT,                  -- name in bodies/, or NULL and
            body BLOB,                  -- the body itself
            CHECK (id >= 0)
        )""",
        """INSERT INTO message SELECT id, mode, local, domain, route, eight_bit, 0, 0, '', '',
            origin, size, arrived, warned, file, body FROM message_1""",
        "DROP TABLE message_1",
        "ALTER TABLE recipient ADD COLUMN notify TEXT NOT NULL DEFAULT ''",  # NEVER, or a list with commas
        "ALTER TABLE recipient ADD COLUMN orcpt TEXT NOT NULL DEFAULT ''",  # ORCPT, decoded
    ),
    (
        # `state` may be "stopped" from now on, and `due` of held rows is when somebody looks after them.
        "UPDATE recipient SET due = 0 WHERE state = 'held'",
        "CREATE INDEX recipient_look ON recipient (due, message) WHERE state = 'held'",
        # All rows: costs a microsecond a message, and finds what is leased for a host, too.
        "CREATE INDEX recipient_host ON recipient (next_host, message)",
    ),
    (
        # Which transactions were taken, of those clients that name them (docs/xonce.md).
        """CREATE TABLE taken (
            key BLOB PRIMARY KEY,       -- a digest of client, name and recipients
            at REAL NOT NULL            -- seconds since the epoch
        ) WITHOUT ROWID""",
        "CREATE INDEX taken_at ON taken (at)",
    ),
    (
        # The last run that the writer process of an owner has committed.
        """CREATE TABLE run (
            owner TEXT PRIMARY KEY,
            number INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
)


def connect(path: str, writes: bool = True) -> sqlite3.Connection:
    """A connection for one thread, in autocommit mode: transactions are begun by hand."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # opened by one thread, then used by another, never by two
        cached_statements=256,
    )
    # Text that is not UTF-8 is found when a row is read, it must not stop a whole SELECT.
    connection.text_factory = _text
    connection.execute("PRAGMA synchronous = FULL")  # with NORMAL a power cut loses acknowledged mail
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    connection.execute("PRAGMA cache_size = -8000")
    if not writes:
        connection.execute("PRAGMA query_only = ON")
    return connection


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def prepare(path: str) -> None:
    """Creates the file (0600) or brings its tables up to date. SpoolError if it is a newer version's.

    The caller holds a lock: changing the journal mode does not wait for other processes.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # -wal and -shm take its mode
    connection = None
    try:
        connection = connect(path)
        connection.execute(f"PRAGMA page_size = {_PAGE}")  # of a new file; it stays as it is in an old one
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise SpoolError(errno.ENOTSUP, "the spool's file system cannot hold a write-ahead log", path)
        connection.execute("BEGIN IMMEDIATE")
        _migrate(connection, path)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise spool_error(error, "cannot open the spool") from error
    finally:
        if connection is not None:
            connection.close()


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    version = int(row[0] or 0)
    if version > len(MIGRATIONS):
        known = len(MIGRATIONS)
        message = f"the spool has version {version}, this program knows up to {known}: use a newer mailnode"
        raise SpoolError(errno.ENOTSUP, message, path)
    if version == len(MIGRATIONS):
        return
    for step in MIGRATIONS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?)", (len(MIGRATIONS),))
