"""The records of a utmp file."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from mailnode.terminals.utmp import RECORD_SIZE, USER_PROCESS, Login, logins


def record(kind: int, line: bytes, user: bytes, host: bytes = b"", since: int = 1000) -> bytes:
    return struct.pack(
        "hi32s4s32s256shhiii4i20x", kind, 99, line, b"id", user, host, 0, 0, 0, since, 0, 0, 0, 0, 0
    )


JONES = record(USER_PROCESS, b"pts/3", b"jones", b"192.0.2.7")


def test_a_record_has_384_octets() -> None:
    assert len(JONES) == RECORD_SIZE


def test_only_records_of_a_users_process_are_logins() -> None:
    others = b"".join(record(kind, b"pts/1", b"brown") for kind in (0, 1, 2, 5, 6, 8, 9))
    assert list(logins(others + JONES)) == [Login("jones", "pts/3", "192.0.2.7", 1000)]


def test_a_torn_tail_is_ignored() -> None:
    assert len(list(logins(JONES + JONES[:-1]))) == 1
    assert list(logins(JONES[:200])) == []


def test_a_name_may_fill_its_field_without_nul() -> None:
    (login,) = logins(record(USER_PROCESS, b"pts/3", b"u" * 32))
    assert login.user == "u" * 32


def test_a_record_without_user_or_line_is_none() -> None:
    assert list(logins(record(USER_PROCESS, b"", b"jones") + record(USER_PROCESS, b"pts/3", b""))) == []


def test_what_cannot_be_printed_becomes_a_question_mark() -> None:
    (login,) = logins(record(USER_PROCESS, b"pts/\x1b3", b"jo\x9bn\nes", "\u202e".encode()))
    assert login[:3] == ("jo\ufffdn?es", "pts/?3", "?")


@given(st.binary(max_size=5 * RECORD_SIZE))
def test_any_octets_give_printable_names(octets: bytes) -> None:
    for login in logins(octets):
        assert login.user.isprintable() and login.line.isprintable() and login.host.isprintable()
