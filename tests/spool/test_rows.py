"""Values become rows and come back whole."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.mail import NULL_PATH, Body, Envelope, Mode, Origin, Path, Recipient, Reply, Terms
from mailnode.spool import schema
from mailnode.spool.errors import CorruptRowError
from mailnode.spool.rows import (
    State,
    message_row,
    numbered,
    pack,
    read_body,
    read_header,
    read_queued,
    read_recipient,
    recipient_row,
    reply_text,
    unpack,
)

anything = st.text(st.characters(), max_size=12)  # lone surrogates, NUL and commas among it
paths = st.builds(Path, anything, anything, st.lists(anything, max_size=3).map(tuple))
modes = st.sampled_from(Mode)


def through_sqlite(row: tuple[object, ...]) -> tuple[object, ...]:
    connection = sqlite3.connect(":memory:")
    connection.text_factory = schema._text
    values = tuple(connection.execute("SELECT " + ",".join("?" * len(row)), row).fetchone())
    connection.close()
    return values


@given(st.lists(anything, max_size=4).map(tuple))
def test_packed_texts_come_back(parts: tuple[str, ...]) -> None:
    assert unpack(pack(parts)) == parts


@pytest.mark.parametrize("text", ["a", "a,b", "a\\,", "a\\", ",\\"])
def test_a_torn_list_is_noticed(text: str) -> None:
    with pytest.raises(CorruptRowError):
        unpack(text)


notifies = st.sampled_from(
    [(), ("NEVER",), ("SUCCESS",), ("FAILURE", "DELAY"), ("DELAY", "SUCCESS", "FAILURE")]
)
terms = st.builds(
    Terms, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["", "FULL", "HDRS"]), anything
)


@given(
    st.builds(
        Recipient,
        *(paths, modes, st.integers(0, 9), st.integers(0, 99), st.none() | paths, st.none() | paths),
        *(notifies, anything),
    )
)
def test_a_recipient_comes_back_whole(recipient: Recipient) -> None:
    row = through_sqlite(recipient_row(7, recipient, State.LEASED, 1.5, "", "owner"))
    assert read_recipient(row) == recipient


@given(modes, paths, terms, st.sampled_from(Origin), st.binary(max_size=20))
def test_a_message_comes_back_whole(
    mode: Mode, path: Path, terms: Terms, origin: Origin, data: bytes
) -> None:
    row = through_sqlite(message_row(7, Envelope(mode, path, (), terms, origin), Body.of(data), 2.5))
    header = read_header(row[:-1])
    assert header == (7, mode, path, terms, origin, len(data), 2.5, False, "")
    assert read_body(header, row[-1], "") == Body.of(data)


def changed(row: tuple[object, ...], place: int, value: object) -> tuple[object, ...]:
    return (*row[:place], value, *row[place + 1 :])


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, "TELL"), (2, None), (2, 5), (2, b"\xff"), (4, "torn"), (5, 2), (6, 2), (7, None), (8, "ALL"),
     (8, None), (9, 5), (9, b"\xff"), (10, 9), (11, "x"), (12, None), (13, "yes"),
     (14, "../../etc/passwd"), (14, "0000000000008")],
)  # fmt: skip
def test_a_message_row_that_holds_something_else_is_corrupt(place: int, value: object) -> None:
    row = message_row(7, Envelope(Mode.MAIL, Path("a", "b"), ()), Body(9, None, "file"), 2.5)
    with pytest.raises(CorruptRowError):
        read_header(changed(row, place, value)[:-1])


def test_a_body_of_another_length_than_was_written_down_is_torn() -> None:
    row = message_row(7, Envelope(Mode.MAIL, Path("a", "b"), ()), Body(9, b"123"), 2.5)
    with pytest.raises(CorruptRowError):
        read_body(read_header(row[:-1]), row[-1], "")


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, "x"), (2, None), (3, "\udcff"), (4, "torn"), (6, "TELL"), (8, "x"), (11, "one,"), (12, 3),
     (15, "ALWAYS"), (15, "NEVER,DELAY"), (15, None), (15, 1), (16, None), (16, b"\xff")],
)  # fmt: skip
def test_a_recipient_row_that_holds_something_else_is_corrupt_and_shows_as_bad(
    place: int, value: object
) -> None:
    row = changed(recipient_row(7, Recipient(Path("a", "b"), number=1), State.QUEUED, 1.5), place, value)
    with pytest.raises(CorruptRowError):
        read_recipient(row)
    assert read_queued(row).state == "bad"


def test_an_unknown_state_shows_as_bad() -> None:
    row = recipient_row(7, Recipient(Path("a", "b"), number=1), State.QUEUED, 1.5)
    assert read_queued(changed(row, 7, "lost")).state == "bad"
    assert read_queued(row).state == "queued"


def test_the_recipients_of_a_new_message_are_numbered_from_one() -> None:
    recipients = (
        Recipient(Path("a"), number=7, attempts=2),
        Recipient(Path("b"), Mode.SEND, original=NULL_PATH),
    )
    assert numbered(recipients) == (
        Recipient(Path("a"), number=1, attempts=2),
        Recipient(Path("b"), Mode.SEND, 2, original=NULL_PATH),
    )


@given(anything)
def test_a_reply_is_kept_as_printable_text_of_limited_length(text: str) -> None:
    kept = reply_text(Reply(450, (text * 100, "\x1b[31mred\u202e")))
    assert kept.isprintable()
    assert len(kept) <= 500
    assert kept.startswith("450 ")
