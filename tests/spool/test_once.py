"""A message that was accepted under a key is not accepted under it again (docs/xonce.md)."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.interfaces import RepeatedError, Selection
from mailnode.spool.sqlite import TAKEN_KEPT

KEY = b"sixteen octets !"


def put(spool: Any, desk: Any, once: bytes, body: bytes = b"Hi\r\n", lease: bool = False) -> Any:
    draft = spool.draft()
    for start in range(0, len(body), 65536):
        draft.write(body[start : start + 65536])
    return spool.accept(spool.new_id(), desk.envelope(), draft, lease, once=once)


@pytest.mark.parametrize("lease", [False, True])
@pytest.mark.parametrize("body", [b"Hi\r\n", b"x" * 100_000], ids=["small", "large"])
def test_the_second_message_under_a_key_leaves_nothing_behind(
    spool: Any, desk: Any, body: bytes, lease: bool
) -> None:
    first = desk.result(put(spool, desk, KEY, body, lease))
    assert (first is not None) is lease
    with pytest.raises(RepeatedError):
        desk.result(put(spool, desk, KEY, body, lease))
    (kept,) = desk.result(spool.listing(Selection()))
    assert kept.size == len(body)
    desk.result(put(spool, desk, b"another key", body, lease))
    assert len(desk.result(spool.listing(Selection()))) == 2


def test_messages_without_a_key_are_never_the_same(spool: Any, desk: Any) -> None:
    for _ in range(2):
        desk.result(put(spool, desk, b""))
    assert len(desk.result(spool.listing(Selection()))) == 2


def test_a_key_is_remembered_when_its_message_is_long_gone(spool: Any, desk: Any) -> None:
    desk.result(put(spool, desk, KEY))
    desk.result(spool.change(Selection(), "delete"))
    with pytest.raises(RepeatedError):
        desk.result(put(spool, desk, KEY))


def test_the_files_of_what_was_repeated_are_removed(sqlite: Any, desk: Any, tmp_path: Any) -> None:
    spool = sqlite()
    desk.result(put(spool, desk, KEY, b"x" * 100_000))
    with pytest.raises(RepeatedError):
        desk.result(put(spool, desk, KEY, b"x" * 100_000))
    (data,) = {path.parent.parent for path in tmp_path.rglob("bodies/*")}
    assert len(list((data / "bodies").iterdir())) == 1 and not list((data / "drafts").iterdir())


def test_a_key_outlives_the_process_and_is_forgotten_after_its_time(
    sqlite: Any, desk: Any, clock: Any
) -> None:
    spool = sqlite()
    desk.result(put(spool, desk, KEY))
    desk.result(spool.close())
    spool = sqlite()
    clock.now += TAKEN_KEPT - 100
    desk.result(spool.claim(1))
    with pytest.raises(RepeatedError):
        desk.result(put(spool, desk, KEY))
    clock.now += 200
    desk.result(spool.claim(1))
    desk.result(put(spool, desk, KEY))
