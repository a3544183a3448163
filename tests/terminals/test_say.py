"""What a person says about messages: the words of the file, and who may write it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path as File
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogEvent, globalLogPublisher

from mailnode.interfaces import STRANGER, Standing
from mailnode.mail import NULL_PATH, Path
from mailnode.terminals import say_file
from mailnode.terminals.say import Say, SayError, parse_say
from mailnode.terminals.say_file import Login, SayFiles, read_say
from mailnode.welcome import NAMES, Welcome, read_welcome

DEFAULT = Say(Welcome("trusted"), 3, 5)
SMITH = Path("smith", "usc.example")
ME = os.getuid()


# ------------------------------------------------------------------ the words


def test_what_is_not_said_is_as_the_host_has_it() -> None:
    assert parse_say(b"", DEFAULT) == parse_say(b"[messages]\n", DEFAULT) == DEFAULT
    assert parse_say(b"[messages]\nrate = 1\n", DEFAULT) == Say(Welcome("trusted"), 1, 5)
    said = parse_say(b'[messages]\nfrom = "nobody"\nrate = 0\nrate_all = 9\n', DEFAULT)
    assert said == Say(Welcome("nobody"), 0, 9)


@pytest.mark.parametrize(
    ("word", "stranger", "same_host", "trusted"),
    [
        ("all", True, True, True),
        ("same host", False, True, False),
        ("trusted", False, False, True),
        ("nobody", False, False, False),
    ],
)
def test_the_words_mean_where_a_message_comes_from(
    word: str, stranger: bool, same_host: bool, trusted: bool
) -> None:
    welcome = read_welcome(word)
    assert welcome.holds(SMITH, STRANGER) is stranger
    assert welcome.holds(SMITH, Standing(same_host=True)) is same_host
    assert welcome.holds(SMITH, Standing(trusted=True)) is trusted


def test_named_senders_and_domains_are_welcome_whatever_the_case_and_nobody_else() -> None:
    welcome = read_welcome(["Smith@USC.example", "@mit.example"])
    assert welcome.holds(Path("SMITH", "usc.EXAMPLE"), STRANGER)
    assert welcome.holds(Path("anybody", "MIT.example"), STRANGER)
    everything = Standing(same_host=True, trusted=True)
    for sender in (Path("green", "usc.example"), Path("x", "cs.mit.example"), NULL_PATH, Path("mit.example")):
        assert not welcome.holds(sender, everything)
    assert not read_welcome([]).holds(NULL_PATH, everything)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff", "not UTF-8"),
        (b"[messages", "not TOML"),
        (b"x = " + b"[" * 10_000, "not TOML"),
        (b"x = " + b"9" * 10_000, "not TOML"),
        (b"messages = 1", "messages: expected a table"),
        (b"[message]", "message: unknown key"),
        (b'"\\u001b[2J" = 1', "\\x1b[2J: unknown key"),
        (b"[messages]\nform = 'all'", "messages.form: unknown key"),
        (
            b"[messages]\nfrom = 'some'",
            "messages.from: expected one of all, same host, trusted, nobody, or a",
        ),
        (b"[messages]\nfrom = ['smith']", "messages.from: 'smith' is neither an address nor an @domain"),
        (b"[messages]\nfrom = ['@']", "messages.from: '@' is neither an address nor an @domain"),
        (b"[messages]\nfrom = [1]", "messages.from: 1 is neither an address nor an @domain"),
        (
            b"[messages]\nfrom = " + b"['@a.b'" + b",'@a.b'" * NAMES + b"]",
            "messages.from: more than 200 names",
        ),
        (b"[messages]\nrate = -1", "messages.rate: expected a number from 0 to 1000"),
        (b"[messages]\nrate = true", "messages.rate: expected a number from 0 to 1000"),
        (b"[messages]\nrate_all = 1001", "messages.rate_all: expected a number from 0 to 1000"),
    ],
)
def test_what_cannot_be_obeyed_is_said_in_one_line(text: bytes, words: str) -> None:
    with pytest.raises(SayError) as caught:
        parse_say(text, DEFAULT)
    assert str(caught.value).startswith(words) and str(caught.value).isprintable()


@given(st.binary(max_size=200))
def test_any_octets_are_a_say_or_an_error_of_one_line(octets: bytes) -> None:
    try:
        assert isinstance(parse_say(octets, DEFAULT), Say)
    except SayError as error:
        assert str(error).isprintable()


# ------------------------------------------------------------------ the file


def test_the_file_of_the_person_is_obeyed(tmp_path: File) -> None:
    assert read_say(Login(ME, str(tmp_path)), DEFAULT) == DEFAULT
    (tmp_path / ".mailnode").write_text("[messages]\nrate = 7\n")
    assert read_say(Login(ME, str(tmp_path)), DEFAULT).rate == 7
    assert read_say(Login(ME, str(tmp_path / "no home")), DEFAULT) == DEFAULT


def test_a_file_of_somebody_else_is_not_obeyed(tmp_path: File) -> None:
    (tmp_path / ".mailnode").write_text("[messages]\nrate = 7\n")
    with pytest.raises(SayError, match="belongs to somebody else"):
        read_say(Login(ME + 1, str(tmp_path)), DEFAULT)
    (tmp_path / ".mailnode").chmod(0o666)
    with pytest.raises(SayError, match="anybody may write to it"):
        read_say(Login(ME, str(tmp_path)), DEFAULT)


def test_a_symlink_is_not_followed(tmp_path: File) -> None:
    (tmp_path / "other").write_text("[messages]\nrate = 7\n")
    (tmp_path / ".mailnode").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        read_say(Login(ME, str(tmp_path)), DEFAULT)


def test_what_is_no_plain_file_or_too_large_holds_nothing_up(tmp_path: File) -> None:
    os.mkfifo(tmp_path / ".mailnode")
    with pytest.raises(SayError, match="not a regular file"):
        read_say(Login(ME, str(tmp_path)), DEFAULT)
    (tmp_path / ".mailnode").unlink()
    (tmp_path / ".mailnode").mkdir()
    with pytest.raises(SayError, match="not a regular file"):
        read_say(Login(ME, str(tmp_path)), DEFAULT)
    (tmp_path / ".mailnode").rmdir()
    (tmp_path / ".mailnode").write_bytes(b"#" * 16385)
    with pytest.raises(SayError, match="larger than 16384 octets"):
        read_say(Login(ME, str(tmp_path)), DEFAULT)


# ------------------------------------------------------------------ what the node knows


class Files:
    """SayFiles over a home that a test owns, with its clock and its log."""

    def __init__(self, home: File, patience: float = 5.0) -> None:
        self.seconds = 0.0
        self.home = home
        self.logged: list[str] = []
        self.said = SayFiles(DEFAULT, self._login, lambda: self.seconds, patience)

    def _login(self, user: str) -> Login | None:
        return Login(ME, str(self.home)) if not user.startswith("named") else None

    def write(self, text: str) -> None:
        (self.home / ".mailnode").write_text(text)


@pytest.fixture
def files(tmp_path: File) -> Iterator[Files]:
    files = Files(tmp_path)

    def observe(event: LogEvent) -> None:
        if event.get("name") == ".mailnode":
            files.logged.append(str(event["wrong"]))

    globalLogPublisher.addObserver(observe)
    yield files
    globalLogPublisher.removeObserver(observe)


def test_what_was_read_is_believed_for_a_few_seconds(files: Files) -> None:
    files.write("[messages]\nrate = 7\n")
    assert files.said.of("jones") == Say(Welcome("trusted"), 7, 5)
    files.write("[messages]\nrate = 8\n")
    files.seconds += 4.9
    assert files.said.of("jones") == Say(Welcome("trusted"), 7, 5)
    files.seconds += 0.2
    assert files.said.of("jones") == Say(Welcome("trusted"), 8, 5)


def test_a_user_without_a_login_has_no_file(files: Files) -> None:
    files.write("[messages]\nrate = 7\n")
    assert files.said.of("named") == DEFAULT


def test_a_wrong_file_leaves_the_default_and_one_line_in_the_log(files: Files) -> None:
    files.write("[messages]\nrate = 'x'\n")
    for _ in range(3):
        assert files.said.of("jones") == DEFAULT
        files.seconds += 10
    assert files.logged == ["messages.rate: expected a number from 0 to 1000"]
    files.write("[messages]\nrate = 7\n")
    assert files.said.of("jones") == Say(Welcome("trusted"), 7, 5)
    files.seconds += 10
    files.write("oops")
    assert files.said.of("jones") == DEFAULT
    assert files.logged[1:] == ["not TOML"]


def test_a_home_that_does_not_answer_is_not_waited_for(
    tmp_path: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Event()

    def slow(login: Login, default: Say) -> Say:
        answers.wait(10)
        return Say(Welcome("nobody"), 1, 1)

    monkeypatch.setattr(say_file, "read_say", slow)
    files = Files(tmp_path, patience=0.001)
    assert files.said.of("jones") is None  # who may have said "nobody" is not written to meanwhile
    reading: Any = files.said._known["jones"].reading
    files.seconds += 5
    assert files.said.of("jones") is None
    answers.set()
    assert reading.done.wait(10)
    files.seconds += 10
    assert files.said.of("jones") == Say(Welcome("nobody"), 1, 1)


def test_only_so_many_files_are_read_at_once(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Event()
    started: list[str] = []

    def slow(login: Login, default: Say) -> Say:
        started.append(login.home)
        answers.wait(10)
        return default

    monkeypatch.setattr(say_file, "read_say", slow)
    files = Files(tmp_path, patience=0.0)
    assert [files.said.of(f"u{number}") for number in range(40)] == [None] * 40
    assert files.said._readers == say_file.READERS
    answers.set()


def test_what_is_remembered_is_bounded(files: Files) -> None:
    for number in range(say_file.USERS + 50):
        files.said.of(f"named{number}")
    assert len(files.said._known) == say_file.USERS
