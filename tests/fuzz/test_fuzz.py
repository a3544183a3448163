"""Fuzzing, the short form: every target over its corpus and over inputs that are like it.

MAILNODE_FUZZ_SECONDS is how long each target gets besides its corpus; `make fuzz` looks for minutes, and
with coverage. A failure names the seed with which it can be run again.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuzz.mutate import FOLDER, mutations, seeds, words
from fuzz.one import TARGETS, by_mutation
from mailnode.mail import Path as MailPath
from mailnode.mail import Reply

SECONDS = float(os.environ.get("MAILNODE_FUZZ_SECONDS", "3"))


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_of_the_corpus_breaks_an_invariant(target: str) -> None:
    run: Callable[[bytes], None] = importlib.import_module(f"fuzz.{target}").TestOneInput
    files = sorted((FOLDER / "corpus" / target).iterdir())
    assert len(files) >= 5
    for file in files:
        try:
            run(file.read_bytes())
        except BaseException as error:
            error.add_note(str(file))
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_like_the_corpus_breaks_an_invariant(target: str, tmp_path: Path) -> None:
    count = by_mutation(target, SECONDS, random.SystemRandom().randrange(1_000_000), tmp_path)
    assert count > 20 * SECONDS  # or it is no fuzzing


def identity(text: str, *_: object) -> str:
    return text


def nothing(*_: object) -> None:
    return None


# (target, what is broken, and how): each breach is one that a careless change could make.
BREACHES: list[tuple[str, str, Any]] = [
    ("grammar", "mailnode.smtp.grammar.parse_path", lambda _: MailPath("a\r\nb", "c")),
    ("grammar", "mailnode.smtp.grammar._printable", lambda _: True),
    ("data", "mailnode.smtp.framing.END_OF_DATA", b"\n.\n"),
    ("data", "mailnode.smtp.framing.Stuffer.end", lambda _: b"\r\n.\r\n"),
    ("data", "mailnode.smtp.framing.Inbound._swallow", nothing),
    ("receiver", "mailnode.smtp.replies.OK", Reply(250, "x" * 600)),
    ("receiver", "mailnode.mail._printable", lambda row: row.encode("utf-8", "replace")),
    ("receiver", "mailnode.smtp.receiver.Receiver._drop_transaction", nothing),
    ("receiver", "mailnode.smtp.framing.END_OF_DATA", b"\n.\r\n"),
    ("sender", "mailnode.smtp.sender.Sender._need_silence", nothing),
    ("replies", "mailnode.smtp.replies.readable", lambda octets: octets.decode("latin-1")),
    ("replies", "mailnode.smtp.replies.MAX_LINE", 1 << 20),
    ("configuration", "mailnode.configuration.checks.key_path", "{}.{}".format),
    ("configuration", "mailnode.config._short", identity),
    ("screen", "mailnode.terminals.screen.visible", identity),
    ("control", "mailnode.control.Control._done", nothing),
    ("attached", "mailnode.terminals.attached_line.AttachedLine._end", nothing),
    ("attached", "mailnode.terminals.attaching.printable", identity),
    ("proxy", "mailnode.channel.proxy_header._version_1", lambda octets: (("x", 1), octets[9:])),
]


@pytest.mark.parametrize(("target", "place", "broken"), BREACHES)
def test_an_invariant_can_break(
    target: str, place: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With something broken the corpus, or a moment of mutation, finds it."""
    importlib.import_module(f"fuzz.{target}")
    monkeypatch.setattr(place, broken)
    with pytest.raises(BaseException) as found:
        by_mutation(target, 20, 1)
    assert isinstance(found.value, Exception)  # and not an interrupt


# ------------------------------------------------------------------------------ the tools themselves


def test_the_mutator_makes_other_inputs_of_bounded_length_and_the_same_from_a_seed() -> None:
    start = seeds("data")
    first, second = (mutations(random.Random(7), start, [b"word"], 300) for _ in range(2))
    made = [next(first) for _ in range(500)]
    assert made == [next(second) for _ in range(500)]
    assert len(set(made)) > 400 and max(map(len, made)) <= 300
    assert any(b"word" in data for data in made)


@pytest.mark.parametrize("target", TARGETS)
def test_a_dictionary_has_words_that_occur_nowhere_by_chance(target: str) -> None:
    assert len(words(target)) >= 8 and all(words(target))


def test_the_campaign_says_what_it_did(tmp_path: Path) -> None:
    """Under atheris where it is installed, else by our own mutator."""
    root = str(FOLDER.parent)
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.run", "--seconds", "2", "data"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(
        r"data +([0-9]+) inputs +([0-9]+ edges|edges not measured) +nothing found\n", done.stdout
    )
    assert found is not None, done.stdout
    assert int(found[1]) > 100
