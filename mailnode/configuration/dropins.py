"""Peers and calls that a command wrote: a file for each in the data folder, read after the operator's own.

    {data}/peers/leaf.toml           [[peer]], by `mailnode invite`
    {data}/dials/hub.example.toml    [[dial]], by `mailnode join`

Their tables stand behind those of the operator's file, and obey the same rules. An operator may change or
remove them like any other file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["peer", "dial"]

FOLDERS: Final[Mapping[Kind, str]] = {"peer": "peers", "dial": "dials"}
SUFFIX: Final = ".toml"
SIZE: Final = 65536  # octets of a file
FILES: Final = 20_000  # of each kind

_numbered = re.compile(r"\b(peer|dial)\[([0-9]{1,6})\]")


@dataclass(frozen=True, slots=True)
class DropIn:
    """One table of a kind, and the file that it is in or will be in."""

    kind: Kind
    file: str
    table: Mapping[str, object]


def file_of(data: str, kind: Kind, name: str) -> str:
    """Where the peer or call `name` is kept, a name that is fit for a file (`UserName`)."""
    return os.path.join(data, FOLDERS[kind], name + SUFFIX)


def files_in(data: str, kind: Kind) -> list[str]:
    """The files of a kind, in the order of their names. OSError; none for who may not look into `data`.

    A command that ordinary users run reads the configuration, too, and needs no peers.
    """
    folder = os.path.join(data, FOLDERS[kind])
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        if os.access(data, os.X_OK):
            raise
        return []
    names = sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith("."))
    if len(names) > FILES:
        raise OSError(0, f"more than {FILES} files", folder)
    return [os.path.join(folder, name) for name in names]


def tables_of(raw: Mapping[str, object], kind: Kind, file: str) -> list[DropIn]:
    """The tables of a file as TOML gives it. ValueError if anything else is in it."""
    tables = raw.get(kind)
    if set(raw) != {kind} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise ValueError(f"expected [[{kind}]] and nothing else")
    return [DropIn(kind, file, table) for table in tables]


def with_drop_ins(
    raw: dict[str, object], drop_ins: Sequence[DropIn], passwords: str | None
) -> tuple[dict[str, object], Callable[[str], str]]:
    """`raw` with the tables of `drop_ins` behind its own, and what puts the names of their files into errors.

    `passwords` is the file of secrets where the operator names none.
    """
    merged = dict(raw)
    places: dict[str, str] = {}
    for drop_in in drop_ins:
        own = merged.get(drop_in.kind, [])
        if not isinstance(own, list):
            continue  # the operator's is an error, which is said
        places[f"{drop_in.kind}[{len(own)}]"] = f"{drop_in.file}: {drop_in.kind}"
        merged[drop_in.kind] = [*own, dict(drop_in.table)]
    users = merged.get("users", {})
    if passwords is not None and isinstance(users, dict):
        merged["users"] = {"passwords": passwords, **users}

    def placed(line: str) -> str:
        return _numbered.sub(lambda match: places.get(match[0], match[0]), line)

    return merged, placed


def format_drop_in(drop_in: DropIn, remark: str) -> str:
    """The text of its file. Values are texts, numbers, booleans and lists of them."""
    lines = [f"# {remark}", f"[[{drop_in.kind}]]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in drop_in.table.items()]
    return "\n".join(lines) + "\n"
