"""The nouns of the directory: what a local part may stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mailnode.mail import Path


@dataclass(frozen=True, slots=True)
class Account:
    """A local user. `uid` and `gid` are -1 where the user is not a login name of this host."""

    name: str
    full_name: str = ""
    home: str = ""
    uid: int = -1
    gid: int = -1


@dataclass(frozen=True, slots=True)
class Addresses:
    """An alias or a mailing list: the paths that a name stands for."""

    name: str
    members: tuple[tuple[str, Path], ...]  # (phrase, path)
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    path: Path  # 251: taken and forwarded there


@dataclass(frozen=True, slots=True)
class Moved:
    path: Path  # 551: refused, the path is named


@dataclass(frozen=True, slots=True)
class Ambiguous:
    accounts: tuple[Account, ...]  # 553


@dataclass(frozen=True, slots=True)
class Unknown:
    pass  # 550


Finding: TypeAlias = Account | Addresses | Forward | Moved | Ambiguous | Unknown
