"""A small mutator: inputs that are like the seeds and not quite.

It knows nothing of coverage; where atheris is installed, that looks further. This one needs nothing, so
the same targets run everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

FOLDER: Final = Path(__file__).parent
_WORD = re.compile(r'\A(?:[\w-]+=)?"((?:[^"\\]|\\.)*)"\s*\Z')
_ESCAPE = re.compile(r'\\(x[0-9A-Fa-f]{2}|["\\])')
_ENDS: Final = (b"\r\n", b"\r\n.\r\n", b"\n", b"\r", b"\0", b"\xff", b" ", b".")


def seeds(target: str) -> list[bytes]:
    """The inputs to start from."""
    return [file.read_bytes() for file in sorted((FOLDER / "corpus" / target).iterdir()) if file.is_file()]


def words(target: str) -> list[bytes]:
    """The words of a target's dictionary, which is in libFuzzer's form."""
    file = FOLDER / "dictionaries" / f"{target}.dict"
    found = []
    for row in file.read_text(encoding="ascii").splitlines() if file.exists() else []:
        if row and not row.startswith("#"):
            match = _WORD.match(row)
            if match is None:
                raise ValueError(f"{file.name}: not a word: {row}")
            text = _ESCAPE.sub(lambda it: chr(int(it[1][1:], 16)) if it[1][0] == "x" else it[1], match[1])
            found.append(text.encode("latin-1"))
    return found


def mutations(
    random: Random, start: Sequence[bytes], dictionary: Sequence[bytes], longest: int
) -> Iterator[bytes]:
    """Inputs without end, each some steps away from one of `start`."""
    pool = [bytes(seed[:longest]) for seed in start] or [b""]
    pieces = [*dictionary, *_ENDS]
    while True:
        data = bytearray(random.choice(pool))
        for _ in range(1 << random.randrange(5)):
            _step(random, data, pool, pieces)
        del data[longest:]
        yield bytes(data)
        if random.random() < 0.02:  # further from the seeds, now and then
            pool[random.randrange(len(start), 4096) :] = [bytes(data)]


def _step(random: Random, data: bytearray, pool: Sequence[bytes], pieces: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    until = min(len(data), at + (1 << random.randrange(8)))
    match random.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        case 1 if data:
            data[at % len(data)] = random.randrange(256)
        case 2:
            del data[at:until]
        case 3:
            data[at:at] = data[at:until] * random.randrange(1, 4)
        case 4:
            other = random.choice(pool)
            start = random.randrange(len(other) + 1)
            data[at:at] = other[start : start + (1 << random.randrange(9))]
        case 5:
            data[at:at] = random.choice(pieces) * (1 << random.choice((0, 0, 0, 1, 4, 8)))
        case 6:
            data[at:until] = random.choice(pieces)
        case _:
            data[at:at] = random.randbytes(random.randrange(1, 5))
