"""The words on the socket of attached terminals: read strictly, whatever comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.interfaces import Terminal
from mailnode.terminals.attaching import (
    Accepting,
    Attach,
    Columns,
    Outcome,
    Read,
    Who,
    WordsError,
    encode,
    first,
    later,
    of_terminal,
    to_terminal,
)


def hello(**words: Any) -> bytes:
    return json.dumps({"mailnode": "terminal", "version": 1, **words}).encode()


def test_the_first_line_says_what_is_wanted() -> None:
    words = {"columns": 100, "accepting": False, "charset": "ascii", "line": "pts/3", "device": [25, 6]}
    assert first(hello(**words)) == Attach(100, False, "ascii", "pts/3", (25, 6))
    assert first(hello()) == Attach()
    assert first(b'{"mailnode": "who", "version": 1}') == Who()
    assert first(b'{"mailnode": "who", "version": 1, "user": "jones"}') == Who("jones")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not a line of JSON"),
        (b"\xff", "not a line of JSON"),
        (b"[" * 1000, "not a line of JSON"),
        (b"[1]", "not an object"),
        (b"EHLO x", "not a line of JSON"),
        (b"{}", "this socket is for mailnode's own terminals"),
        (b'{"mailnode": "root", "version": 1}', "this socket is for mailnode's own terminals"),
        (b'{"mailnode": "who", "version": 2}', "this node speaks version 1 of attached terminals"),
        (b'{"mailnode": "terminal"}', "this node speaks version 1 of attached terminals"),
    ],
)
def test_what_is_no_first_line_is_refused(line: bytes, words: str) -> None:
    with pytest.raises(WordsError, match=words):
        first(line)


def test_what_a_client_says_of_its_terminal_is_believed_within_limits() -> None:
    for name in ("../etc", "/dev/pts/3", "\x1b[2J", "x" * 40, "pts/3\n", 5, None):
        found = first(hello(line=name))
        assert isinstance(found, Attach) and found.line == ""
    for columns, meant in ((0, 80), (-5, 80), (True, 80), ("80", 80), (3, 20), (10**9, 1000), (132, 132)):
        assert first(hello(columns=columns)) == Attach(meant)
    for device in ([1], [1, -1], [1, 2, 3], [1, 1 << 70], "12", [1.0, 2]):
        assert first(hello(device=device)) == Attach()
    assert first(hello(charset="utf-7")) == Attach()


def test_later_lines_say_what_has_changed() -> None:
    assert later(b'{"shown": 7}') == Outcome(7, True)
    assert later(b'{"missed": 7}') == Outcome(7, False)
    assert later(b'{"columns": 100}') == Columns(100)
    assert later(b'{"accepting": false}') == Accepting(False)
    assert later(b'{"read": 17.5}') == Read(17.5)
    assert later(b'{"read": NaN}') == Read(0.0)
    assert later(b'{"read": Infinity}') == Read(0.0)
    with pytest.raises(WordsError):
        later(b'{"show": 1}')


@given(st.one_of(st.binary(max_size=100), st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["mailnode", "version", "columns", "shown", "read", "line", "device", "accepting"]),
        inner, max_size=4)).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_any_line_is_understood_or_refused(line: bytes) -> None:
    for read in (first, later):
        try:
            read(line)
        except WordsError as error:
            assert str(error).isprintable()


def test_a_terminal_is_the_same_on_both_sides() -> None:
    terminal = Terminal("jones", "pts/3", "attached", True, 1000.0, 5.0)
    assert to_terminal(json.loads(encode(of_terminal(terminal)))) == terminal
    assert encode({"text": "é\n\x1b"}) == b'{"text": "\\u00e9\\n\\u001b"}\n'
    with pytest.raises(WordsError):
        to_terminal({"user": "jones"})
    odd = {"user": "\x1b[2J", "line": "a\nb", "accepting": True, "since": 1, "idle": 2}
    assert (to_terminal(odd).user, to_terminal(odd).line) == ("?[2J", "a?b")
