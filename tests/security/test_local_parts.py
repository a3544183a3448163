"""A local part is looked up and is never a path, a word of a shell, or a format string."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from fuzz.house import House
from mailnode.delivery.mailbox import Maildir
from mailnode.interfaces import Account, IDirectory
from mailnode.mail import Body, Entry, Envelope, Mode, Recipient
from mailnode.mail import Path as MailPath

HOSTILE = (
    *("../../etc/passwd", "../jones", "jones/../brown", "..", ".", "...", "/etc/passwd", "//jones", "jones/"),
    *(
        "jones/new/x",
        "./jones",
        "jones\\..\\brown",
        "~root",
        "~/x",
        "$HOME",
        "*",
        "?ones",
        "[j]ones",
        "jones,v",
    ),
    *("|cmd", "|/bin/sh", ">/tmp/x", "`touch marker`", "$(touch marker)", ";touch marker;", "&touch marker&"),
    *("jones;rm", "jones\\", "'jones'", 'jo"nes', "jones'--", "' OR 1=1 --", "%s%n", "%(user)s", "%n%n%n%n"),
    *("{0}", "{user}", "{data}", "{home}", "{sender.__class__}", "{0.__globals__}", "${jndi:ldap://x}"),
    *("-rf", "--help", "-", "-jones", ".jones", "jones.", ".ssh", "jones..x", "new", "cur", "tmp"),
    *("con", "nul", "aux.txt", "com1", "/dev/null", "/dev/tty", "dev", ":include:/etc/passwd", "jones:2,S"),
    *("jones brown", "jones@mit.example", "jones%brown", "brown!jones", "=?utf-8?q?jones?=", "jones+x"),
    *("x" * 64, "x" * 65, "x" * 200, "." * 64, "/" * 64, "../" * 21, " ", "  jones", "jones ", ""),
    *("jon\u0435s", "\uff4aones", "j\u00f6nes", "jone\u017f", "jones\u200b", "\u202esenoj", "\U0001f4a9"),
    *("jones\0", "\0", "jon\nes", "jon\r\nes", "\x1b[2J", "\x7f", "jones\t"),
)
# Those that the directory knows, whatever they look like: the name in other letters.
KNOWN = {"JONES": "jones", "jOnEs": "jones", "Brown": "brown", "POSTMASTER": "postmaster"}


def in_path(local: str, quoted: bool) -> bytes:
    if not quoted:
        return f"<{local}@mit.example>".encode()
    inside = local.replace("\\", "\\\\").replace('"', '\\"')
    return f'<"{inside}"@mit.example>'.encode()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """Its mailboxes are Maildirs; the folder in which it runs is seen by the test."""
    monkeypatch.chdir(tmp_path)

    def maildirs(directory: IDirectory) -> Maildir:
        template = str(tmp_path / "data" / "mail" / "{user}")
        return Maildir(template, directory, "mit.example", None, lambda: 1e9, privileged=False)

    return House(mailbox=maildirs)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def mailboxes(folder: Path) -> set[str]:
    mail = folder / "data" / "mail"
    return {path.name for path in mail.iterdir()} if mail.is_dir() else set()


def give(house: House, path: bytes, reverse: bytes = b"<a@else.example>") -> int:
    """Says a message for `path`; the code of its RCPT."""
    line = house.hear()
    opened = line.codes(b"EHLO else.example\r\nMAIL FROM:%b SMTPUTF8\r\n" % reverse)
    code = line.codes(b"RCPT TO:%b\r\n" % path)[-1]
    if opened == [250, 250] and 200 <= code < 300:
        assert line.codes(b"DATA\r\nhello\r\n.\r\n") == [354, 250]
    assert line.codes(b"RSET\r\n") == [250]
    line.hang_up()
    house.works()
    assert house.empty or house.spool.drafts == set()
    return code


def test_there_are_at_least_50_of_them() -> None:
    assert len(set(HOSTILE)) >= 50


@pytest.mark.parametrize("quoted", [True, False], ids=["quoted", "bare"])
@pytest.mark.parametrize("local", HOSTILE, ids=ascii)
def test_a_hostile_local_part_is_refused_and_leaves_nothing_on_disk(
    house: House, tmp_path: Path, local: str, quoted: bool
) -> None:
    assert give(house, in_path(local, quoted)) in (500, 501, 550, 553)
    assert tree(tmp_path) == set()
    assert house.relay.letters == [] and house.empty


@pytest.mark.parametrize("quoted", [True, False], ids=["quoted", "bare"])
@pytest.mark.parametrize(("local", "user"), KNOWN.items())
def test_what_look_up_knows_lies_in_that_users_mailbox_and_nowhere_else(
    house: House, tmp_path: Path, local: str, user: str, quoted: bool
) -> None:
    assert give(house, in_path(local, quoted)) == 250
    assert mailboxes(tmp_path) == {user}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.parent for path in files] == [tmp_path / "data" / "mail" / user / "new"]
    assert house.empty


@pytest.mark.parametrize("local", HOSTILE, ids=ascii)
def test_a_hostile_reverse_path_is_a_line_of_the_message_and_nothing_else(
    house: House, tmp_path: Path, local: str
) -> None:
    with logged() as lines:
        give(house, b"<jones@mit.example>", in_path(local, True).replace(b"mit.", b"else."))
    assert mailboxes(tmp_path) <= {"jones"}
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        head, _, text = file.read_bytes().partition(b"\n\n")
        assert text == b"hello\n"
        names = [row.partition(b":")[0] for row in head.split(b"\n") if not row.startswith(b"\t")]
        assert names.count(b"Return-Path") == 1 and set(names) <= {
            b"Return-Path",
            b"Delivered-To",
            b"Received",
        }
    assert not any("__globals__" in line and "{" not in line for line in lines())
    assert not any("<class" in line or "Unable to format" in line for line in lines())


@contextmanager
def logged() -> Iterator[Callable[[], list[str]]]:
    """What is logged meanwhile, as text."""
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        yield lambda: [formatEvent(event) for event in events]
    finally:
        globalLogPublisher.removeObserver(events.append)


@pytest.mark.parametrize("name", ["../x", "/etc", ".", "..", "a/b", "a\0b", "-rf", ".hidden", "", "x" * 300])
def test_even_a_directory_that_answers_such_a_name_makes_no_such_folder(tmp_path: Path, name: str) -> None:
    """The last line of defence: whatever a directory says, the name of a folder is a plain word."""

    class Fooled:
        def account(self, user: str) -> Any:
            return Account(name)

    path = MailPath("jones", "mit.example")
    envelope = Envelope(Mode.MAIL, path, (Recipient(path, number=1),))
    entry = Entry("000000000000a", envelope, Body.of(b"hello\r\n"), 1e9)
    maildir: Any = Maildir
    mailbox = maildir(str(tmp_path / "mail" / "{user}"), Fooled(), "mit.example", None, lambda: 1e9)
    results: list[Any] = []
    mailbox.deliver(name, entry, envelope.recipients[0], path).addCallback(results.append)
    if name == "-rf":
        assert tree(tmp_path) >= {"mail/-rf/new"}  # a plain word after all, for no shell ever sees it
    else:
        assert results[0].reply.code == 550
        assert tree(tmp_path) == set()
