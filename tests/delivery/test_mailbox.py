"""Maildirs: what is stored and how, that it is durable before it is reported, and what a failure costs."""

from __future__ import annotations

import errno
import mailbox
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path as File
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailnode.delivery.mailbox import (
    DELIVERED,
    IN_A_LOOP,
    NO_FOLDER,
    NO_MAILBOX,
    QUOTA_REACHED,
    STORAGE_FULL,
    Maildir,
    MemoryMailbox,
    Template,
    outcome,
)
from mailnode.delivery.maildir import Disk, Folder, Job, MaildirWriter
from mailnode.delivery.stored import file_name, stored
from mailnode.interfaces import Account, Finding, IDirectory, IMailbox, Unknown
from mailnode.mail import NULL_PATH, Body, Entry, Envelope, Mode, Path, Recipient, Result, Terms

SMITH = Path("smith", "usc.example", ("relay.example",))
JONES = Recipient(Path("jones", "mit.example"), number=1)
TEXT = b"Subject: lunch\r\n\r\nAt noon?\r\n"
ARRIVED = 1_700_000_000.25
NAME = "1700000000.M250000IM1R1.mit.example"


@implementer(IDirectory)
class Users:
    def __init__(self, *accounts: Account) -> None:
        self.accounts = {account.name: account for account in accounts}

    def lookup(self, local: str) -> Finding:
        return Unknown()

    def find(self, text: str) -> Finding:
        return Unknown()

    def account(self, user: str) -> Account | None:
        return self.accounts.get(user)


USERS = Users(Account("jones"), Account("brown"))


class Recorder(Disk):
    """Notes what is made durable, in order, by the folder's or file's own name; fails when told to."""

    def __init__(self, root: File) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.failing = ""
        self._root = root

    def _note(self, call: str, descriptor: int) -> None:
        name = os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), self._root)
        self.calls.append(f"{call} {name}")
        if self.failing and self.failing in self.calls[-1]:
            raise OSError(errno.EIO, "Input/output error")

    def fsync(self, descriptor: int) -> None:
        self._note("fsync", descriptor)

    def syncfs(self, descriptor: int) -> None:
        self._note("syncfs", descriptor)


def entry(text: bytes = TEXT, id: str = "M1", recovered: bool = False) -> Entry:
    return Entry(id, Envelope(Mode.MAIL, SMITH, (JONES,)), Body.of(text), ARRIVED, recovered=recovered)


def maildir(root: File, disk: Disk | None = None, users: Users = USERS) -> Maildir:
    return Maildir(
        f"{root}/mail/{{user}}", users, "mit.example", None, lambda: ARRIVED, disk, privileged=False
    )


def given_result(result: Deferred[Result]) -> Result:
    assert isinstance(result.result, Result)
    return result.result


def deliver(box: Maildir, of: Entry, user: str = "jones", recipient: Recipient = JONES) -> Result:
    return given_result(box.deliver(user, of, recipient, SMITH))


def job(
    root: File, number: int, user: str = "jones", body: Body | None = None, recovered: bool = False
) -> Job:
    folder = Folder(f"{root}/mail", (user,), make_base=True)
    return Job(folder, f"name{number}", body or Body.of(TEXT), SMITH, recovered=recovered)


def files(root: File) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# ------------------------------------------------------------------ what is stored


def test_the_doors_are_provided(tmp_path: File) -> None:
    assert IMailbox.providedBy(maildir(tmp_path)) and IMailbox.providedBy(MemoryMailbox())


def test_a_message_lies_in_new_with_its_return_path_and_unix_lines(tmp_path: File) -> None:
    assert deliver(maildir(tmp_path), entry()) == DELIVERED
    assert files(tmp_path) == [f"mail/jones/new/{NAME}"]
    trace = b"Return-Path: <@relay.example:smith@usc.example>\nDelivered-To: jones@mit.example\n"
    expected = trace + b"Subject: lunch\n\nAt noon?\n"
    assert (tmp_path / "mail/jones/new" / NAME).read_bytes() == expected


def test_a_reader_of_maildirs_finds_it(tmp_path: File) -> None:
    deliver(maildir(tmp_path), entry())
    (message,) = mailbox.Maildir(tmp_path / "mail/jones", create=False)
    assert message["Subject"] == "lunch" and message.get_payload() == "At noon?\n"


def test_files_and_folders_are_for_their_owner_alone(tmp_path: File) -> None:
    deliver(maildir(tmp_path), entry())
    for path in (tmp_path / "mail").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert {path.name for path in (tmp_path / "mail/jones").iterdir()} == {"cur", "new", "tmp"}


def test_a_notice_has_an_empty_return_path() -> None:
    assert b"".join(stored(Body.of(TEXT), NULL_PATH)).startswith(b"Return-Path: <>\nSubject")


def test_a_return_path_that_came_with_the_message_is_dropped() -> None:
    header = b"Received: a\r\nReturn-path : <evil@x>\r\n\tfolded\r\nRETURN-PATH: <b@y>\r\nSubject: x\r\n"
    text = b"\r\nReturn-Path: this is text\r\n"
    assert b"".join(stored(Body.of(header + text), NULL_PATH)) == (
        b"Return-Path: <>\nReceived: a\nSubject: x\n\nReturn-Path: this is text\n"
    )
    assert b"".join(stored(Body.of(text), NULL_PATH)) == b"Return-Path: <>\n\nReturn-Path: this is text\n"


def test_a_reverse_path_cannot_begin_a_line() -> None:
    octets = b"".join(stored(Body.of(b""), Path("a\r\nBcc: x", "y")))
    assert octets == b'Return-Path: <"a??Bcc: x"@y>\n'


def test_where_it_was_delivered_stands_below_the_return_path_and_above_what_stood_there_before() -> None:
    earlier = b"Delivered-To: boss@usc.example\r\n"
    octets = b"".join(stored(Body.of(earlier + TEXT), NULL_PATH, "jones@mit.example"))
    assert octets.startswith(
        b"Return-Path: <>\nDelivered-To: jones@mit.example\nDelivered-To: boss@usc.example\nSubject"
    )


def test_an_address_of_another_script_is_written_as_utf_8_and_cannot_begin_a_line() -> None:
    octets = b"".join(stored(Body.of(b""), NULL_PATH, "jürgen\r\nBcc: x@mit.example"))
    assert octets == "Return-Path: <>\nDelivered-To: jürgen??Bcc: x@mit.example\n".encode()


@pytest.mark.parametrize("name", ["Delivered-To: jones@mit.example", "DELIVERED-TO :  Jones@MIT.example "])
def test_a_message_that_was_in_this_mailbox_before_is_in_a_loop(tmp_path: File, name: str) -> None:
    back = f"Received: by x\r\n{name}\r\n".encode() + TEXT
    result = deliver(maildir(tmp_path), entry(back))
    assert result == IN_A_LOOP and result.reply.status == "5.4.6"
    assert files(tmp_path) == []
    assert given_result(MemoryMailbox().deliver("jones", entry(back), JONES, SMITH)) == IN_A_LOOP


@pytest.mark.parametrize(
    "text",
    [
        b"Delivered-To: brown@mit.example\r\n" + TEXT,
        b"Delivered-To: jones@mit.example.org\r\n" + TEXT,
        b"X-Delivered-To: jones@mit.example\r\n" + TEXT,
        TEXT + b"Delivered-To: jones@mit.example\r\n",
        b"\r\nDelivered-To: jones@mit.example\r\n",
    ],
)
def test_a_message_that_was_elsewhere_or_speaks_of_it_is_in_none(tmp_path: File, text: bytes) -> None:
    assert deliver(maildir(tmp_path), entry(text)) == DELIVERED


def test_one_message_in_a_loop_does_not_keep_back_those_written_with_it(tmp_path: File) -> None:
    looping = replace(
        job(tmp_path, 1),
        address="jones@mit.example",
        body=Body.of(b"Delivered-To: jones@mit.example\r\n\r\n"),
    )
    errors = MaildirWriter(Disk(), time.time, False).write(
        [looping, job(tmp_path, 2), job(tmp_path, 3, "brown")]
    )
    assert [outcome(error) for error in errors] == [IN_A_LOOP, DELIVERED, DELIVERED]
    assert files(tmp_path) == ["mail/brown/new/name3", "mail/jones/new/name2"]


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"\0\xff"]), max_size=12))
def test_a_binary_message_stays_as_it_came(pieces: list[bytes]) -> None:
    data = b"X: y\r\n" + b"".join(pieces)
    octets = b"".join(stored(Body.of(data), NULL_PATH, "jones@mit.example", binary=True))
    assert octets == b"Return-Path: <>\r\nDelivered-To: jones@mit.example\r\n" + data


def test_a_binary_message_of_many_chunks_is_octet_for_octet_in_the_maildir(tmp_path: File) -> None:
    data = b"Subject: x\r\n\r\n" + b"\r\n\r\0\xff" * 40_000
    binary = Envelope(Mode.MAIL, SMITH, (JONES,), Terms(binary=True))
    assert deliver(maildir(tmp_path), replace(entry(data), envelope=binary)) == DELIVERED
    (name,) = files(tmp_path)
    assert (tmp_path / name).read_bytes().endswith(b"jones@mit.example\r\n" + data)


class Pieces(Body, frozen=True, gc=False):
    """A body that comes in the pieces it is told to."""

    pieces: tuple[bytes, ...] = ()

    def chunks(self, size: int = 0):  # type: ignore[no-untyped-def]
        return iter(self.pieces)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"\r\n\r\n", b""]), max_size=12))
def test_line_ends_are_found_wherever_a_chunk_is_cut(pieces: list[bytes]) -> None:
    body = Pieces(0, pieces=tuple(pieces))
    expected = b"Return-Path: <>\n" + b"".join(pieces).replace(b"\r\n", b"\n")
    assert b"".join(stored(body, NULL_PATH)) == expected


def test_a_large_body_is_streamed_from_its_file(tmp_path: File) -> None:
    line = b"y" * 97 + b"\r\n"
    (tmp_path / "body").write_bytes(TEXT + line * 20_000)
    body = Body(len(TEXT) + len(line) * 20_000, None, str(tmp_path / "body"))
    assert max(map(len, stored(body, SMITH))) < 70_000
    assert MaildirWriter(Disk(), time.time, False).write([job(tmp_path, 1, body=body)]) == [None]
    octets = (tmp_path / "mail/jones/new/name1").read_bytes()
    assert octets.count(b"\n") == 20_000 + 4 and b"\r" not in octets


# ---------------------------------------------------------------------- its name


def test_a_repeated_delivery_replaces_itself(tmp_path: File) -> None:
    box = maildir(tmp_path)
    assert [deliver(box, entry()), deliver(box, entry())] == [DELIVERED, DELIVERED]
    assert len(files(tmp_path)) == 1


def test_recipients_and_messages_have_names_of_their_own(tmp_path: File) -> None:
    box = maildir(tmp_path)
    deliver(box, entry())
    deliver(box, entry(), recipient=Recipient(JONES.path, number=2))
    deliver(box, entry(id="M2"))
    assert len(files(tmp_path)) == 3


def test_a_name_cannot_leave_its_folder() -> None:
    assert file_name(entry(id="../x"), JONES, "a:b/c") == r"1700000000.M250000I..\057xR1.a\072b\057c"


def test_a_recovered_message_that_was_read_already_is_not_delivered_again(tmp_path: File) -> None:
    disk = Recorder(tmp_path)
    box = maildir(tmp_path, disk)
    deliver(box, entry())
    folder = tmp_path / "mail/jones"
    (folder / "new" / NAME).rename(folder / "cur" / f"{NAME}:2,S")
    disk.calls.clear()
    assert deliver(box, entry(recovered=True)) == DELIVERED
    assert files(tmp_path) == [f"mail/jones/cur/{NAME}:2,S"]
    assert "fsync mail/jones/cur" in disk.calls  # the earlier one may not have been made durable


def test_a_recovered_message_that_is_not_there_is_delivered(tmp_path: File) -> None:
    assert deliver(maildir(tmp_path), entry(recovered=True)) == DELIVERED
    assert files(tmp_path) == [f"mail/jones/new/{NAME}"]


def test_a_leftover_of_the_same_name_in_tmp_is_replaced(tmp_path: File) -> None:
    box = maildir(tmp_path)
    deliver(box, entry(id="M0"))
    (tmp_path / "mail/jones/tmp" / NAME).write_bytes(b"torn")
    assert deliver(box, entry()) == DELIVERED
    assert len(files(tmp_path)) == 2 and not os.listdir(tmp_path / "mail/jones/tmp")


def test_leftovers_in_tmp_go_after_36_hours_and_once(tmp_path: File) -> None:
    tmp = tmp_path / "mail/jones/tmp"
    box = maildir(tmp_path)
    deliver(box, entry())

    def leave(name: str, age: float) -> None:
        (tmp / name).touch()
        os.utime(tmp / name, (ARRIVED - age, ARRIVED - age))

    leave("old", 37 * 3600)
    leave("young", 35 * 3600)
    deliver(box, entry(id="M2"))
    assert sorted(os.listdir(tmp)) == ["old", "young"]
    deliver(maildir(tmp_path), entry(id="M3"))
    assert os.listdir(tmp) == ["young"]


# -------------------------------------------------------------------- durability


def test_a_few_messages_are_synced_each_and_then_their_folder(tmp_path: File) -> None:
    disk = Recorder(tmp_path)
    writer = MaildirWriter(disk, time.time, False)
    writer.write([job(tmp_path, 0)])
    disk.calls.clear()
    assert writer.write([job(tmp_path, number) for number in (1, 2)]) == [None, None]
    assert disk.calls == ["fsync mail/jones/tmp/name1", "fsync mail/jones/tmp/name2", "fsync mail/jones/new"]


def test_many_messages_share_one_sync_and_their_folders_too(tmp_path: File) -> None:
    disk = Recorder(tmp_path)
    writer = MaildirWriter(disk, time.time, False)
    writer.write([job(tmp_path, 0), job(tmp_path, 0, "brown")])
    disk.calls.clear()
    jobs = [job(tmp_path, number, ("jones", "brown")[number % 2]) for number in range(20)]
    assert writer.write(jobs) == [None] * 20
    assert disk.calls[0].startswith("syncfs") and len(disk.calls) == 3
    assert sorted(disk.calls[1:]) == ["fsync mail/brown/new", "fsync mail/jones/new"]


def test_a_new_folder_is_made_durable_with_those_above_it(tmp_path: File) -> None:
    disk = Recorder(tmp_path)
    MaildirWriter(disk, time.time, False).write([job(tmp_path, 1)])
    assert disk.calls[:3] == ["fsync .", "fsync mail", "fsync mail/jones"]


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("failing", ["tmp", "new"])
def test_a_sync_that_fails_delivers_nothing_of_its_batch(tmp_path: File, count: int, failing: str) -> None:
    disk = Recorder(tmp_path)
    writer = MaildirWriter(disk, time.time, False)
    writer.write([job(tmp_path, 99)])
    disk.calls.clear()
    disk.failing = failing
    errors = writer.write([job(tmp_path, number) for number in range(count)])
    assert [error.errno if error else 0 for error in errors] == [errno.EIO] * count
    assert len(disk.calls) == len(set(disk.calls))  # never tried again on the same file
    assert os.listdir(tmp_path / "mail/jones/tmp") == []
    assert os.listdir(tmp_path / "mail/jones/new") == ["name99"]  # nobody finds what will come again


def test_no_descriptor_is_left_open(tmp_path: File) -> None:
    disk = Recorder(tmp_path)
    writer = MaildirWriter(disk, time.time, False)
    before = len(os.listdir("/proc/self/fd"))
    for failing in ("", "tmp", "new", "mail"):
        disk.failing = failing
        writer.write([job(tmp_path, number, f"user{failing}{number}") for number in range(3)])
        writer.write([job(tmp_path, number, recovered=True) for number in range(20)])
    assert len(os.listdir("/proc/self/fd")) == before


# ---------------------------------------------------------------------- failures


def test_one_mailbox_that_cannot_be_written_does_not_stop_the_others(tmp_path: File) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail/brown").write_text("not a folder")
    lost = Body(10, None, str(tmp_path / "missing"))
    jobs = [job(tmp_path, 1), job(tmp_path, 2, "brown"), job(tmp_path, 3, body=lost), job(tmp_path, 4)]
    errors = MaildirWriter(Disk(), time.time, False).write(jobs)
    assert [error.errno if error else 0 for error in errors] == [0, errno.ENOTDIR, errno.ENOENT, 0]
    assert files(tmp_path / "mail/jones") == ["new/name1", "new/name4"]


@pytest.mark.parametrize("place", ["", "/tmp", "/new", "/cur"])
def test_a_symlink_in_the_mailbox_is_not_followed(tmp_path: File, place: str) -> None:
    box = maildir(tmp_path)
    if place:
        deliver(box, entry())
        for path in (tmp_path / f"mail/jones{place}").iterdir():
            path.unlink()
        (tmp_path / f"mail/jones{place}").rmdir()
    else:
        (tmp_path / "mail").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"mail/jones{place}").symlink_to(tmp_path / "elsewhere")
    result = deliver(box, entry(id="M2", recovered=True))
    assert result.reply.code == 451 and result.reply.status == "4.3.0"
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_full_disk_and_a_reached_quota_have_their_own_replies() -> None:
    assert outcome(OSError(errno.ENOSPC, "x")) == STORAGE_FULL
    assert outcome(OSError(errno.EDQUOT, "x")) == QUOTA_REACHED
    assert (
        outcome(OSError(errno.EACCES, "secret")).reply.text
        == "The message cannot be stored: Permission denied"
    )


def test_a_user_who_is_gone_or_has_an_impossible_name_has_no_mailbox(tmp_path: File) -> None:
    names = ("nobody-here", "..", ".x", "a/b", "", "a\0b", "ä")
    users = Users(*(Account(name) for name in names[1:]))
    box = maildir(tmp_path, users=users)
    assert [deliver(box, entry(), user=name) for name in names] == [NO_MAILBOX] * len(names)
    assert os.listdir(tmp_path) == []


def test_a_mailbox_that_has_stopped_keeps_the_mail_waiting(tmp_path: File) -> None:
    box = maildir(tmp_path)
    box.stop()
    assert deliver(box, entry()).reply.code == 451


# ---------------------------------------------------------------------- template


@pytest.mark.parametrize(
    ("template", "folder"),
    [
        ("/d/mail/{user}", Folder("/d/mail", ("jones",), True)),
        ("/d/{user}/Maildir", Folder("/d", ("jones", "Maildir"), True)),
        ("/d/u-{user}/{user}", Folder("/d", ("u-jones", "jones"), True)),
        ("{home}/Maildir", Folder("/home/jones", ("Maildir",), False)),
        ("{user}", Folder(".", ("jones",), True)),
        ("/{user}", Folder("/", ("jones",), True)),
    ],
)
def test_a_template_says_where_a_maildir_lies(template: str, folder: Folder) -> None:
    assert Template(template).folder("jones", "/home/jones") == folder


@pytest.mark.parametrize("template", ["/d/mail", "/x{home}/y", "{home}/{home}", "/d/{user}/../x"])
def test_a_template_that_cannot_be_right_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        Template(template)


def test_a_user_without_home_has_no_folder_there(tmp_path: File) -> None:
    box = Maildir("{home}/Maildir", USERS, "mit.example", None, time.time)
    assert deliver(box, entry()) == NO_FOLDER


def test_as_root_all_belongs_to_the_user_it_is_for(tmp_path: File) -> None:
    uid, gid = (12345, 54321) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    users = Users(Account("jones", uid=uid, gid=gid))
    box = Maildir(f"{tmp_path}/{{user}}/Maildir", users, "mit.example", None, time.time, privileged=True)
    assert deliver(box, entry()) == DELIVERED
    for path in [tmp_path / "jones", *(tmp_path / "jones").rglob("*")]:
        assert (path.stat().st_uid, path.stat().st_gid) == (uid, gid)


# ------------------------------------------------------------- thread and memory


def test_with_a_thread_the_results_come_in_the_reactor(tmp_path: File) -> None:
    calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()
    box = Maildir(
        f"{tmp_path}/{{user}}", USERS, "mit.example", lambda call, *args: calls.put((call, args)), time.time
    )
    results = [box.deliver("jones", entry(id=f"M{number}"), JONES, SMITH) for number in range(30)]
    while not all(result.called for result in results):
        call, args = calls.get(timeout=10)
        call(*args)
    assert {given_result(result) for result in results} == {DELIVERED}
    stopped = box.stop()
    while not stopped.called:
        call, args = calls.get(timeout=10)
        call(*args)
    assert len(files(tmp_path)) == 30


def test_memory_mailboxes_hold_what_a_maildir_would() -> None:
    box = MemoryMailbox(USERS)
    for _ in range(2):
        assert given_result(box.deliver("jones", entry(), JONES, SMITH)) == DELIVERED
    assert box.messages == {"jones": [b"".join(stored(Body.of(TEXT), SMITH, "jones@mit.example"))]}
    assert given_result(box.deliver("nobody-here", entry(), JONES, SMITH)) == NO_MAILBOX
    box.refuse("jones", STORAGE_FULL)
    assert given_result(box.deliver("jones", entry(), JONES, SMITH)) == STORAGE_FULL
    box.refuse("jones", None)
    assert given_result(box.deliver("jones", entry(), JONES, SMITH)) == DELIVERED
