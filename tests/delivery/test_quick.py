"""How quick the disk of the mailboxes is: senders wait for it only where that costs next to nothing."""

from __future__ import annotations

from pathlib import Path as File

from mailnode.delivery.mailbox import QUICK, Maildir
from mailnode.delivery.maildir import Disk
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.mail import Body, Entry, Envelope, Mode, Path, Recipient

JONES = Recipient(Path("jones", "mit.example"), number=1)


class TimedDisk(Disk):
    """A disk that takes `for_files` and `for_folders` seconds to make one durable."""

    def __init__(self) -> None:
        super().__init__()
        self.for_files = self.for_folders = 0.0
        self._folders: set[int] = set()
        self._now = 1000.0

    def now(self) -> float:
        return self._now

    def fsync(self, descriptor: int) -> None:
        path = File(f"/proc/self/fd/{descriptor}").resolve()
        self._now += self.for_folders if path.is_dir() else self.for_files


class Box:
    def __init__(self, root: File) -> None:
        self.disk = TimedDisk()
        directory = Directory([NamedUsers([("jones", "")])], domains=["mit.example"])
        template = f"{root}/{{user}}"
        self.maildir = Maildir(
            template, directory, "mit.example", None, lambda: 0.0, self.disk, privileged=False
        )
        self._count = 0

    def deliver(self) -> bool:
        """Delivers a message; gives whether the disk is taken for quick then."""
        self._count += 1
        envelope = Envelope(Mode.MAIL, Path("smith"), (JONES,))
        entry = Entry(f"M{self._count}", envelope, Body.of(b"hi\r\n"), 0.0)
        assert self.maildir.deliver("jones", entry, JONES, Path("smith")).called
        return self.maildir.is_quick


def test_it_is_quick_until_it_is_known_to_be_slow_and_again_when_it_has_been_so(tmp_path: File) -> None:
    box = Box(tmp_path)
    assert box.maildir.is_quick
    box.disk.for_folders = 2 * QUICK
    assert not box.deliver()
    box.disk.for_folders = QUICK / 2
    assert [box.deliver() for _ in range(6)] == [False, True, True, True, True, True]


def test_what_happens_once_counts_nothing(tmp_path: File) -> None:
    box = Box(tmp_path)
    assert all(box.deliver() for _ in range(7))
    box.disk.for_folders = 1.0
    assert [box.deliver() for _ in range(4)] == [True, True, True, False]


def test_a_disk_that_flushes_folders_for_nothing_and_files_slowly_is_slow(tmp_path: File) -> None:
    box = Box(tmp_path)
    box.disk.for_files = 2 * QUICK
    assert not box.deliver()


def test_a_batch_that_failed_says_nothing_of_the_disk(tmp_path: File) -> None:
    box = Box(tmp_path)
    (tmp_path / "jones").write_text("a file where the folder should be")
    assert box.deliver()
    (tmp_path / "jones").unlink()
    box.disk.for_folders = 2 * QUICK
    assert not box.deliver()


def test_to_make_ready_stores_nothing_and_says_nothing_of_the_disk(tmp_path: File) -> None:
    box = Box(tmp_path)
    box.maildir.start()
    assert list(tmp_path.iterdir()) == [] and box.maildir.is_quick
    assert box.deliver() and len(list((tmp_path / "jones/new").iterdir())) == 1
