"""Large bodies: bounded memory, pauses, nothing left behind, orphans cleaned, faults of the disk."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest

from mailnode.interfaces import Selection
from mailnode.mail import CHUNK, Body
from mailnode.spool.bodies import BodyStore
from mailnode.spool.draft import HIGH_WATER, Draft
from mailnode.spool.errors import SpoolError
from mailnode.spool.sqlite import SqliteSpool

Open = Callable[[], SqliteSpool]
PIECE = b"0123456789abcdef" * (CHUNK // 16)


class Held:
    """Stands in for the reactor: what the file thread hands back waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def call_from_thread(self, function: Any, *arguments: Any) -> None:
        self.calls.append((function, arguments))

    def let_go(self) -> None:
        while self.calls:
            function, arguments = self.calls.pop(0)
            function(*arguments)

    def wait_for(self, deferred: Any) -> None:
        while not deferred.called:
            self.let_go()


@pytest.fixture
def data(tmp_path: FilePath) -> FilePath:
    return tmp_path / "data"


def left(data: FilePath) -> list[str]:
    return sorted(os.listdir(data / "drafts") + os.listdir(data / "bodies"))


# ------------------------------------------------------------------------ while it arrives


def test_64_kib_stay_in_memory_and_one_octet_more_is_a_file(sqlite: Open, data: FilePath) -> None:
    draft = sqlite().draft()
    draft.write(PIECE)
    assert left(data) == []
    draft.write(b"x")
    assert len(left(data)) == 1
    assert draft.head() == PIECE
    draft.discard()


def test_20_megabytes_do_not_pass_through_memory(sqlite: Open, desk: Any) -> None:
    spool = sqlite()
    tracemalloc.start()
    try:
        draft, id = spool.draft(), spool.new_id()
        for number in range(320):
            draft.write(number.to_bytes(2) * (CHUNK // 2))
        desk.result(spool.accept(id, desk.envelope(), draft, False))
        (entry,) = desk.result(spool.claim(1))
        for number, chunk in enumerate(entry.body.chunks()):
            assert chunk == number.to_bytes(2) * (CHUNK // 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert entry.body.size == 320 * CHUNK
    assert peak < 1 << 20


def test_many_small_pieces_are_written_in_large_ones(sqlite: Open, desk: Any, monkeypatch: Any) -> None:
    written: list[int] = []
    write = os.write

    def counting(descriptor: int, piece: memoryview) -> int:
        written.append(len(piece))
        return write(descriptor, piece)

    spool = sqlite()
    draft, id = spool.draft(), spool.new_id()
    monkeypatch.setattr(os, "write", counting)
    for _ in range(4000):
        draft.write(b"x" * 100)
    desk.result(spool.accept(id, desk.envelope(), draft, False))
    assert sum(written) == 400_000
    assert len(written) < 10


def test_a_writer_faster_than_the_disk_is_asked_to_pause_until_it_has_caught_up(tmp_path: FilePath) -> None:
    reactor = Held()
    store = BodyStore(str(tmp_path), reactor.call_from_thread)
    store.prepare()
    draft = Draft(store, lambda: "0000000000001", 0.0)
    answers = [draft.write(PIECE) for _ in range(8)]
    first = next(place for place, answer in enumerate(answers) if answer is not None)
    assert (first + 1) * CHUNK >= HIGH_WATER
    pauses = [answer for answer in answers if answer is not None]
    assert not any(pause.called for pause in pauses)
    reactor.wait_for(pauses[-1])
    assert all(pause.called for pause in pauses)
    assert draft.write(PIECE) is None
    draft.discard()
    reactor.wait_for(store.stop())
    assert os.listdir(tmp_path / "drafts") == []


def test_a_draft_discarded_while_it_is_written_leaves_nothing(tmp_path: FilePath) -> None:
    reactor = Held()
    store = BodyStore(str(tmp_path), reactor.call_from_thread)
    store.prepare()
    draft = Draft(store, lambda: "0000000000001", 0.0)
    pause = None
    while pause is None:
        pause = draft.write(PIECE)
    draft.discard()
    draft.discard()
    end = store.stop()
    reactor.wait_for(end)
    assert pause.called  # whoever waits is let go
    assert os.listdir(tmp_path / "drafts") == os.listdir(tmp_path / "bodies") == []


@pytest.mark.parametrize("size", [0, 10, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_a_discarded_draft_leaves_nothing(sqlite: Open, data: FilePath, size: int) -> None:
    draft = sqlite().draft()
    draft.write(b"x" * size)
    draft.discard()
    assert left(data) == []
    with pytest.raises(SpoolError):
        draft.write(b"x")


# ------------------------------------------------------------------------ when it is accepted


def test_a_body_is_named_by_its_message_and_goes_with_it(sqlite: Open, desk: Any, data: FilePath) -> None:
    spool = sqlite()
    id = desk.put(spool, body=PIECE * 2)
    assert left(data) == [id]
    assert desk.result(spool.body(id)) == Body(2 * CHUNK, None, str(data / "bodies" / id))
    assert desk.result(spool.change(Selection(), "delete")) == 1
    assert left(data) == []


def test_file_and_folders_are_synced_before_the_row_is_written(
    sqlite: Open, desk: Any, data: FilePath, monkeypatch: Any
) -> None:
    synced: list[str] = []
    fsync, commit = os.fsync, SqliteSpool._commit

    def watching(descriptor: int) -> None:
        synced.append(
            os.path.basename(os.path.dirname(path)) if os.path.isfile(path := _name(descriptor)) else path
        )
        fsync(descriptor)

    def committing(*arguments: Any) -> Any:
        synced.append("row")
        return commit(*arguments)

    spool = sqlite()
    monkeypatch.setattr(os, "fsync", watching)
    monkeypatch.setattr(SqliteSpool, "_commit", committing)
    desk.put(spool, body=PIECE * 2)
    assert synced == ["drafts", str(data / "bodies"), str(data / "drafts"), "row"]


def _name(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("fault", ["write", "fsync", "rename"])
def test_a_fault_of_the_disk_refuses_the_message_and_leaves_nothing(
    sqlite: Open, desk: Any, data: FilePath, monkeypatch: Any, fault: str
) -> None:
    spool, tries = sqlite(), list[str]()

    def broken(*arguments: Any) -> Any:
        tries.append(fault)
        raise OSError(errno.ENOSPC, "No space left on device")

    draft = spool.draft()
    with monkeypatch.context() as patch:
        patch.setattr(os, fault, broken)
        for _ in range(5):
            assert draft.write(PIECE) is None  # the client is heard out
        with pytest.raises(SpoolError) as caught:
            desk.result(spool.accept(spool.new_id(), desk.envelope(), draft, False))
    assert caught.value.errno == errno.ENOSPC
    assert tries == [fault]  # never a second time on the same file
    assert left(data) == []
    assert desk.result(spool.listing(Selection())) == []
    desk.put(spool, body=PIECE * 2)  # and it serves again


def test_a_row_that_is_refused_takes_its_body_with_it(sqlite: Open, desk: Any, data: FilePath) -> None:
    spool = sqlite()
    id = desk.put(spool)
    draft = spool.draft()
    draft.write(PIECE * 2)
    with pytest.raises(SpoolError):
        desk.result(spool.accept(id, desk.envelope(), draft, False))
    assert left(data) == []
    assert desk.result(spool.body(id)).data == b"Hi\r\n"


# ------------------------------------------------------------------------ what the dead leave


def test_drafts_and_bodies_of_the_dead_are_cleaned_and_those_of_the_living_kept(
    sqlite: Open, desk: Any, data: FilePath
) -> None:
    spool = sqlite()
    kept = desk.put(spool, body=PIECE * 2)
    draft = spool.draft()
    draft.write(PIECE * 2)  # another process is at work on it
    living = set(left(data))
    for folder, number in (("drafts", 5), ("bodies", 6)):
        (data / folder / f"000000000000{number}").write_bytes(b"orphan")
    (data / "bodies" / "README").write_bytes(b"not ours")
    again = sqlite()
    assert set(left(data)) == living | {"README"}
    assert desk.result(again.body(kept)).size == 2 * CHUNK
    desk.result(spool.accept(spool.new_id(), desk.envelope(), draft, False))
    sqlite()
    assert len(desk.result(again.listing(Selection()))) == 2
    assert len(os.listdir(data / "bodies")) == 3


def test_a_body_whose_row_is_not_committed_yet_is_not_an_orphan(
    sqlite: Open, desk: Any, data: FilePath, monkeypatch: Any
) -> None:
    spool, commit = sqlite(), SqliteSpool._commit

    def start_another(*arguments: Any) -> Any:
        sqlite()  # finds the finished file without a row
        return commit(*arguments)

    monkeypatch.setattr(SqliteSpool, "_commit", start_another)
    id = desk.put(spool, body=PIECE * 2)
    assert left(data) == [id]
