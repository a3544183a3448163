"""The process that writes mailboxes: real children, really killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path as File

import pytest
from msgspec.structs import replace

from mailnode.child import greeting
from mailnode.delivery import maildir_process
from mailnode.delivery.mailbox import DELIVERED, IN_A_LOOP, outcome
from mailnode.delivery.maildir import Folder, Job
from mailnode.delivery.maildir_process import MaildirProcess
from mailnode.mail import Body, Path
from tests.clients.waiting import gone

SENDER = Path("smith", "usc.example")


def job(root: File, name: str, user: str = "jones", body: Body | None = None) -> Job:
    return Job(Folder(str(root), (user,), make_base=False), name, body or Body.of(b"At noon?\r\n"), SENDER)


def names(root: File, user: str = "jones", part: str = "new") -> list[str]:
    return sorted(path.name for path in (root / user / part).iterdir())


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def process(warnings: list[str]) -> Iterator[MaildirProcess]:
    writer = MaildirProcess(privileged=False, warn=warnings.append)
    yield writer
    writer.close(kill=True)


def test_it_stores_a_batch_and_tells_what_went_wrong_with_each(
    tmp_path: File, process: MaildirProcess
) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * 200_000 + b"\r\n")
    missing = Job(Folder(str(tmp_path / "nobody"), ("jones",), make_base=False), "c", Body.of(b""), SENDER)
    jobs = [job(tmp_path, "a"), missing, job(tmp_path, "b", body=Body(200_002, file=str(large)))]
    first, second, third = process.write(jobs)
    assert first is None and third is None
    assert second is not None and second.errno == errno.ENOENT
    assert names(tmp_path) == ["a", "b"]
    assert (tmp_path / "jones/new/a").read_bytes() == b"Return-Path: <smith@usc.example>\nAt noon?\n"
    assert (tmp_path / "jones/new/b").read_bytes().endswith(b"x\n")


class Name(str):
    """A text with a meaning of its own, as the configuration has them."""

    __slots__ = ()


def test_names_of_the_configuration_are_texts_like_others(tmp_path: File, process: MaildirProcess) -> None:
    mine = replace(job(tmp_path, "a"), reverse_path=Path("postmaster", Name("mit.example")))
    assert process.write([mine, job(tmp_path, "b")]) == [None, None]
    octets = (tmp_path / "jones/new/a").read_bytes()
    assert octets.startswith(b"Return-Path: <postmaster@mit.example>\n")


def test_a_binary_message_and_one_in_a_loop_are_told_apart_from_others(
    tmp_path: File, process: MaildirProcess
) -> None:
    address = "jones@mit.example"
    binary = replace(job(tmp_path, "a", body=Body.of(b"X: y\r\n\r\n\0")), address=address, binary=True)
    back = Body.of(b"Delivered-To: Jones@mit.example\r\n\r\n")
    errors = process.write([binary, replace(job(tmp_path, "b", body=back), address=address)])
    assert [outcome(error) for error in errors] == [DELIVERED, IN_A_LOOP]
    assert (tmp_path / "jones/new/a").read_bytes().endswith(b"\r\nX: y\r\n\r\n\0")
    assert names(tmp_path) == ["a"]


def test_a_killed_one_is_replaced_and_nothing_is_delivered_twice(
    tmp_path: File, process: MaildirProcess
) -> None:
    assert process.write([job(tmp_path, "a")]) == [None]
    os.rename(tmp_path / "jones/new/a", tmp_path / "jones/cur/a:2,S")  # the owner has read it
    first = process.pid
    os.kill(first, signal.SIGKILL)
    assert process.write([job(tmp_path, "a"), job(tmp_path, "b")]) == [None, None]
    assert process.pid not in (0, first)
    assert names(tmp_path) == ["b"] and names(tmp_path, part="cur") == ["a:2,S"]


def test_one_of_another_version_is_told_nothing_and_the_mail_is_stored_all_the_same(
    tmp_path: File, process: MaildirProcess, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert process.write([job(tmp_path, "a")]) == [None]
    os.rename(tmp_path / "jones/new/a", tmp_path / "jones/cur/a:2,S")
    os.kill(process.pid, signal.SIGKILL)
    monkeypatch.setattr(maildir_process, "_GREETING", greeting(Job, also="what was installed before"))
    assert process.write([job(tmp_path, "a"), job(tmp_path, "b")]) == [None, None]
    assert process.write([job(tmp_path, "c")]) == [None]
    assert process.pid == 0 and len(warnings) == 1 and "another version" in warnings[0]
    assert names(tmp_path) == ["b", "c"] and names(tmp_path, part="cur") == ["a:2,S"]


def test_the_layout_of_what_is_told_is_part_of_the_greeting() -> None:
    class Longer(Job, frozen=True, gc=False, array_like=True):
        more: str = ""

    assert len({greeting(Job), greeting(Longer), greeting(Job, also="x"), greeting(Folder)}) == 4


def test_one_that_cannot_run_is_an_error_of_each_attempt(
    tmp_path: File, process: MaildirProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for _ in range(2):
        with pytest.raises(OSError, match="has died"):
            process.write([job(tmp_path, "a")])
        assert process.pid == 0
    monkeypatch.undo()
    assert process.write([job(tmp_path, "a")]) == [None]


def test_signals_for_the_node_do_not_end_it_but_closing_does(tmp_path: File, process: MaildirProcess) -> None:
    process.write([job(tmp_path, "a")])
    pid = process.pid
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert process.write([job(tmp_path, "b")]) == [None]
    assert process.pid == pid
    process.close()
    assert gone(pid)


def test_a_job_that_cannot_be_done_spoils_no_other(tmp_path: File, process: MaildirProcess) -> None:
    untold = Job(Folder(str(tmp_path), ("\udc80",), make_base=False), "b", Body.of(b""), SENDER)
    undone = job(tmp_path, "c\0")
    first, second, third, fourth = process.write(
        [job(tmp_path, "a"), untold, undone, job(tmp_path, "d", user="brown")]
    )
    assert first is None and fourth is None
    assert second is not None and second.errno == errno.EINVAL
    assert third is not None and third.errno == errno.EINVAL
    assert names(tmp_path) == ["a"] and names(tmp_path, "brown") == ["d"]


PARENT = """
import sys, time
from mailnode.delivery.maildir_process import MaildirProcess
from mailnode.delivery.maildir import Folder, Job
from mailnode.mail import Body, Path
from tests.clients.waiting import gone
writer = MaildirProcess(False, print)
writer.write([Job(Folder(sys.argv[1], ("jones",), False), "a", Body.of(b""), Path(""))])
print(writer.pid, flush=True)
time.sleep(60)
"""


def test_it_dies_with_a_node_that_is_killed(tmp_path: File) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)  # as if it hung on its disk: it cannot see that the socket is closed
        parent.kill()
    assert gone(pid)
