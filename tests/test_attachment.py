"""The client of an attached terminal: it trusts the node no more than a stranger."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path as File
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.attached_client import (
    MAX_LINE,
    NodeLine,
    RefusedNowError,
    attached_terminals,
    on_screen,
)
from mailnode.attachment import Attachment, accepts, charset_of
from mailnode.control_client import NoNodeError, RefusedError
from mailnode.interfaces import Message, Terminal
from mailnode.mail import Path
from mailnode.own_terminal import Look
from mailnode.terminals.screen import screen_text

# ------------------------------------------------------------------ what reaches the screen


@pytest.mark.parametrize("charset", ["utf-8", "ascii"])
def test_what_the_node_makes_passes_unchanged_but_for_the_place_of_the_bel(charset: str) -> None:
    text = "é and a tab\there, 漢字, a\u0301, \x1b[2J and \u202e\r\n" * 5
    made = screen_text(Message(Path("smith", "usc.example"), text.encode()), "mit.example", 0.0, charset, 60)
    shown = on_screen(made.decode(), charset == "ascii")
    assert shown.replace(b"\a", b"") == made.replace(b"\a", b"") and shown.count(b"\a") == 1


@given(st.text(max_size=300), st.booleans())
def test_only_printable_text_line_ends_and_one_bel_reach_the_screen(text: str, ascii_only: bool) -> None:
    shown = on_screen(text, ascii_only).decode("ascii" if ascii_only else "utf-8")
    assert shown.count("\a") <= 1
    assert all(line.replace("\a", "").isprintable() for line in shown.split("\r\n"))


@pytest.mark.parametrize(
    "hostile", ["\x1b]52;c;AAAA\a", "\x9b2J", "a\rb", "a\nb", "\b\b", "\u202e", "\ud800"]
)
def test_what_could_move_a_cursor_does_not_pass(hostile: str) -> None:
    shown = on_screen(hostile, False)
    assert not set(shown) & (set(range(0x20)) - {7}) and b"\x9b" not in shown and b"\xe2\x80\xae" not in shown


def test_a_text_is_bounded_and_must_be_one() -> None:
    assert len(on_screen("x" * 10**6, False)) == 16384
    assert on_screen("x\r\n" * 1000, False).count(b"\r\n") < 60
    assert on_screen(None, False) == on_screen(5, False) == b""


# ------------------------------------------------------------------ decisions


def test_mesg_n_counts_once_mesg_y_did() -> None:
    assert accepts(quiet=False, was_on=True, is_on=True)
    assert not accepts(quiet=False, was_on=True, is_on=False)
    assert accepts(quiet=False, was_on=False, is_on=False)  # as terminals in containers begin
    assert not accepts(quiet=True, was_on=True, is_on=True)


@pytest.mark.parametrize(
    ("environment", "charset"),
    [
        ({}, ""),
        ({"LANG": "en_US.UTF-8"}, "utf-8"),
        ({"LANG": "C.utf8"}, "utf-8"),
        ({"LANG": "C"}, "ascii"),
        ({"LANG": "de_DE@euro"}, "ascii"),
        ({"LANG": "C.UTF-8", "LC_ALL": "POSIX"}, "ascii"),
        ({"LANG": "C", "LC_ALL": "", "LC_CTYPE": "C.UTF-8"}, "utf-8"),
    ],
)
def test_the_charset_is_that_of_the_locale(environment: dict[str, str], charset: str) -> None:
    assert charset_of(environment) == charset


# ------------------------------------------------------------------ the line to the node


@pytest.fixture
def serve(tmp_path: File) -> Iterator[Callable[[bytes], str]]:
    """A node that answers whatever is said with some octets; its path."""
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(octets: bytes) -> str:
        path = str(tmp_path / "terminals.sock")
        listening = socket.socket(socket.AF_UNIX)
        opened.append(listening)
        listening.bind(path)
        listening.listen()

        def answer() -> None:
            channel, _ = listening.accept()
            with channel:
                channel.recv(4096)
                try:
                    channel.sendall(octets)
                except OSError:
                    return  # the client has had enough

        threads.append(threading.Thread(target=answer, daemon=True))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(5)
    for listening in opened:
        listening.close()


def lines(*words: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(word).encode() + b"\n" for word in words)


def test_who_is_attached_is_read_line_by_line(serve: Callable[[bytes], str]) -> None:
    row = {"user": "jones", "line": "pts/3", "accepting": True, "since": 5.0, "idle": 1.0}
    terminals, count = attached_terminals(serve(lines(row, {"end": 7})), None)
    assert terminals == [Terminal("jones", "pts/3", "attached", True, 5.0, 1.0)] and count == 7


@pytest.mark.parametrize(
    ("octets", "kind", "words"),
    [
        (lines({"error": "no \x1b[2J", "again": False}), RefusedError, r"no \^\[\[2J"),
        (lines({"error": "too many", "again": True}), RefusedNowError, "too many"),
        (b"", ConnectionError, "closed the connection"),
        (b"HTTP/1.1 200 OK\n", ConnectionError, "cannot be understood"),
        (b"[" * 5000 + b"\n", ConnectionError, "cannot be understood"),
        (b"x" * (MAX_LINE + 70000), ConnectionError, "too much at once"),
        (lines({"user": 5}), ConnectionError, "cannot be understood"),
    ],
)
def test_a_node_that_refuses_or_talks_nonsense_is_one_clear_error(
    serve: Callable[[bytes], str], octets: bytes, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        attached_terminals(serve(octets), None)


def test_where_nobody_listens_there_is_no_node(tmp_path: File, serve: Callable[[bytes], str]) -> None:
    with pytest.raises(NoNodeError):
        NodeLine(str(tmp_path / "terminals.sock"))
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "stale.sock"))
    with pytest.raises(NoNodeError):
        NodeLine(str(tmp_path / "stale.sock"))


def test_who_listens_in_a_folder_of_somebody_else_is_not_the_node(
    serve: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = serve(b"")
    monkeypatch.setattr("mailnode.attached_client._peer_uid", lambda channel: os.geteuid() + 4711)
    with pytest.raises(PermissionError, match="to whom the folder does not belong"):
        NodeLine(path)
    monkeypatch.undo()
    with NodeLine(path) as node:
        node.say({})


class Enough(Exception):  # noqa: N818
    """The test has seen what it wanted."""


class FakeTerminal:
    """Stands where the terminal of the command would be."""

    name, device = "pts/3", (25, 6)

    def look(self) -> Look:
        return Look(80, True, 0.0)

    def write(self, octets: bytes) -> bool:
        raise AssertionError("nothing was to be shown")


def test_what_the_node_calls_itself_goes_through_the_filter_too(serve: Callable[[bytes], str]) -> None:
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            raise Enough

    path = serve(lines({"attached": "\x1b]0;x\a", "hostname": "\u202e\n" * 99, "version": 1}))
    own: Any = FakeTerminal()
    with pytest.raises(Enough):
        Attachment(path, own, False, "utf-8", tell, lambda: 0.0).run()
    assert all(text.isascii() and text.isprintable() for text in told)
    assert told[0].startswith("messages to ^[]0;x^G at ") and told[1].startswith("the node is away")


def test_a_node_that_refuses_later_ends_it_with_its_words(serve: Callable[[bytes], str]) -> None:
    path = serve(lines({"attached": "a", "hostname": "b"}, {"error": "too many words in a minute"}))
    own: Any = FakeTerminal()
    with pytest.raises(RefusedError, match="too many words in a minute"):
        Attachment(path, own, False, "utf-8", lambda text: None, lambda: 0.0).run()
