"""From the tables that TOML gives to a Configuration, finding every error and not the first alone.

msgspec stops at the first error and names no keys of mappings, so the tables are walked along the
structure's own annotations and msgspec decodes the leaves one by one; only what has no error at all
is then decoded as a whole.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, ValidationError

from mailnode.configuration.sections import Configuration
from mailnode.configuration.values import Target, Targets, decode, shown

ERRORS: Final = 200  # lines; what is wrong more often than that is not a configuration

_bare_key = re.compile(r"[A-Za-z0-9_-]+\Z").match
_msgspec_place = re.compile(r" - at `[^`]*`\Z")

_NOTHING: Final = object()

Problems = dict[str, str]  # key path -> what is wrong there, in the order found


def key_path(path: str, key: str) -> str:
    """`path` with `key` after it, quoted as TOML wants it where it must be."""
    name = key if _bare_key(key) else json.dumps(key)
    return f"{path}.{name}" if path else name


def decode_configuration(raw: Mapping[str, object], problems: Problems) -> Configuration:
    """What of `raw` is well formed, as a configuration; what is wrong is put into `problems`.

    With problems the result serves only to look for further ones.
    """
    sound = _walk(dict(raw), Configuration, "", problems)
    try:
        return msgspec.convert({} if sound is _NOTHING else sound, Configuration, dec_hook=decode)
    except ValidationError as error:  # a rule that the walk does not know: better said late than never
        problems.setdefault("configuration", str(error))
        return Configuration()


def _walk(value: object, kind: Any, path: str, problems: Problems) -> object:
    """The well-formed part of `value`, or _NOTHING."""
    if len(problems) >= ERRORS:
        return _NOTHING
    kind = _without_none(kind)
    origin = get_origin(kind)
    if inspect.isclass(kind) and issubclass(kind, Struct):
        return _walk_section(value, kind, path, problems)
    if origin is list and isinstance(value, list):
        return _walk_list(value, get_args(kind)[0], path, problems)
    if kind is Targets and isinstance(value, list) and value:
        return _walk_list(value, Target, path, problems)
    if origin is dict and isinstance(value, dict):
        items = {k: _walk(item, get_args(kind)[1], key_path(path, k), problems) for k, item in value.items()}
        return {key: item for key, item in items.items() if item is not _NOTHING}
    return _decode_leaf(value, kind, path, problems)


def _walk_list(value: list[object], kind: Any, path: str, problems: Problems) -> object:
    """All items, or _NOTHING: a list that lost some would give the others wrong numbers."""
    items = [_walk(item, kind, f"{path}[{index}]", problems) for index, item in enumerate(value)]
    return _NOTHING if _NOTHING in items else items


def _walk_section(value: object, kind: type[Struct], path: str, problems: Problems) -> object:
    if not isinstance(value, dict):
        problems[path] = f"expected a table, got {shown(value)}"
        return _NOTHING
    kinds = _kinds(kind)
    sound: dict[str, object] = {}
    for key, item in value.items():
        if key in kinds:
            sound[key] = _walk(item, kinds[key], key_path(path, key), problems)
        else:
            near = difflib.get_close_matches(key, kinds, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            problems[key_path(path, key)] = f"unknown key{hint}"
    sound = {key: item for key, item in sound.items() if item is not _NOTHING}
    required = _required(kind)
    for name in required:
        if name not in value:
            problems[key_path(path, name)] = "missing"
    return sound if all(name in sound for name in required) else _NOTHING


def _decode_leaf(value: object, kind: Any, path: str, problems: Problems) -> object:
    try:
        msgspec.convert(value, kind, dec_hook=decode)
    except ValidationError as error:
        text = _msgspec_place.sub("", str(error)).replace("`", "")
        problems[path] = text[:1].lower() + text[1:] if text.startswith(("Expected", "Invalid")) else text
        if text.startswith("Invalid enum value"):
            problems[path] = f"{shown(value)} is none of {', '.join(map(str, get_args(kind)))}"
        return _NOTHING
    return value


def _without_none(kind: Any) -> Any:
    """`X` of `X | None`: TOML has no null, so None is never written."""
    if get_origin(kind) in (Union, UnionType):
        return next(option for option in get_args(kind) if option is not type(None))
    return kind


@cache
def _kinds(kind: type[Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _required(kind: type[Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind) if field.required]
