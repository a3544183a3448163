"""Fuzzes one target in this process, until a time is over or an invariant is broken.

python -m fuzz.one TARGET SECONDS WORK     under atheris if it is installed, else with our own mutator
python -m fuzz.one TARGET FILE...          runs the target on these inputs alone
"""

from __future__ import annotations

import importlib
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, Final

from fuzz.mutate import FOLDER, mutations, seeds, words

TARGETS: Final = (
    *("grammar", "data", "receiver", "sender", "replies"),
    *("configuration", "screen", "control", "attached", "proxy"),
)
SLOW: Final = 5.0  # seconds of the processor for one input; nothing of this size takes longer


def by_mutation(target: str, seconds: float, seed: int, work: Path | None = None) -> int:
    """Drives a target with our own mutator; how many inputs that were.

    What breaks an invariant is written to `work` and raised, with the seed in a note.
    """
    module: Any = importlib.import_module(f"fuzz.{target}")
    start = seeds(target)
    inputs = mutations(Random(seed), start, words(target), module.MAX_LENGTH)
    deadline = time.monotonic() + seconds
    count = 0
    while time.monotonic() < deadline:
        data = start[count] if count < len(start) else next(inputs)
        count += 1
        began = time.process_time()
        try:
            module.TestOneInput(data)
            assert time.process_time() - began < SLOW, "it takes too long"
        except BaseException as error:
            if work is not None:
                work.mkdir(parents=True, exist_ok=True)
                (work / f"crash-{seed}-{count}").write_bytes(data)
            error.add_note(f"{target}, seed {seed}, input {count}: {data!r}")
            raise
    return count


def under_atheris(target: str, seconds: float, work: Path) -> None:
    """Never returns; what breaks an invariant is written to `work` as crash-*, what is new to its corpus."""
    atheris: Any = importlib.import_module("atheris")

    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["mailnode"]):
        module: Any = importlib.import_module(f"fuzz.{target}")
    options = [
        *[f"-max_total_time={int(seconds)}", f"-max_len={module.MAX_LENGTH}", "-print_final_stats=1"],
        *[f"-timeout={int(SLOW)}", "-rss_limit_mb=1024", f"-artifact_prefix={work}/"],
        *[f"-dict={FOLDER}/dictionaries/{target}.dict", str(corpus), f"{FOLDER}/corpus/{target}"],
    ]
    atheris.Setup([sys.argv[0], *options], module.TestOneInput)
    atheris.Fuzz()


def main(target: str, *arguments: str) -> None:
    if target not in TARGETS:
        raise SystemExit(f"no target of that name; there are: {' '.join(TARGETS)}")
    if not arguments or not arguments[0].isdigit():
        module: Any = importlib.import_module(f"fuzz.{target}")
        for file in arguments:
            module.TestOneInput(Path(file).read_bytes())
        return
    seconds, work = float(arguments[0]), Path(arguments[1])
    if find_spec("atheris") is not None:
        under_atheris(target, seconds, work)
    else:
        seed = time.time_ns() % 1_000_000
        print(f"stat::number_of_executed_units: {by_mutation(target, seconds, seed, work)}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
