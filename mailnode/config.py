"""The configuration: found, read, completed and checked, or every error in it at once.

The keys are in `mailnode.configuration.sections`, the kinds of their values in `.values`.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

from msgspec import structs

from mailnode.configuration.aliases import SIZE as ALIASES_SIZE
from mailnode.configuration.aliases import parse_aliases
from mailnode.configuration.checks import check, not_yet
from mailnode.configuration.decoding import ERRORS, Problems, decode_configuration
from mailnode.configuration.dropins import FOLDERS, DropIn, files_in, format_drop_in, tables_of, with_drop_ins
from mailnode.configuration.dropins import SIZE as DROP_IN_SIZE
from mailnode.configuration.dropins import file_of as drop_in_file
from mailnode.configuration.endpoints import Where, where_of
from mailnode.configuration.sections import (
    Configuration,
    Dial,
    Limits,
    Listen,
    Mailboxes,
    Peer,
    Relay,
    Retry,
    Terminals,
    Tls,
    Users,
)
from mailnode.configuration.values import (
    Domain,
    File,
    HostName,
    MaildirTemplate,
    Route,
    ServerEndpoint,
    shown,
)
from mailnode.smtp.grammar import parse_domain

__all__ = [
    "Configuration",
    "ConfigurationErrors",
    "Dial",
    "DropIn",
    "Limits",
    "Listen",
    "Mailboxes",
    "Peer",
    "Relay",
    "Retry",
    "Route",
    "Terminals",
    "Tls",
    "Users",
    "Where",
    "drop_in_file",
    "find",
    "format_drop_in",
    "load",
    "parse",
    "where_of",
]

DEFAULT_ENDPOINT: Final = ServerEndpoint("tcp:2525:interface=127.0.0.1")
FILE_SIZE: Final = 8 << 20  # octets
LINE: Final = 600  # characters of one error
NO_FILE: Final = ("", "logind", "none")  # values of terminals.utmp that name no file

_toml_place = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)\Z")


class ConfigurationErrors(Exception):  # noqa: N818 - it is many errors
    """What is wrong with a configuration: `lines`, each `key.path: what is wrong`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Certificates(Enum):
    """What is asked of the files in [tls]."""

    READABLE = "they can be read"
    NAMED = "they are named: whoever was root once may have read them then"
    TO_COME = "nothing: a certificate is to be made"


def find(path: str | None, environment: Mapping[str, str], cwd: str) -> str | None:
    """The file to read: `path`, $MAILNODE_CONFIG, or the first that exists; None for the default.

    A file that was named is returned whether it exists or not: it is an error then, not a default.
    """
    named = path or environment.get("MAILNODE_CONFIG")
    if named:
        return os.path.join(cwd, named)
    places = [os.path.join(cwd, "mailnode.toml")]
    if home := environment.get("HOME"):
        places.append(os.path.join(home, ".config/mailnode/mailnode.toml"))
    places.append("/etc/mailnode/mailnode.toml")
    return next((place for place in places if os.path.lexists(place)), None)


def load(
    path: str | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: str | None = None,
    fqdn: Callable[[], str] = socket.getfqdn,
    certificates: Certificates = Certificates.READABLE,
    more: Sequence[DropIn] = (),
) -> Configuration:
    """The configuration of the file that `find` names, or the embedded default if there is none.

    `environment` and `cwd` are those of this process unless given. `more` as in `parse`. Raises
    ConfigurationErrors.
    """
    cwd = os.getcwd() if cwd is None else cwd
    file = find(path, os.environ if environment is None else environment, cwd)
    if file is None:
        return parse("", cwd, fqdn, more=more)
    text = _read(file, FILE_SIZE)
    return parse(text, os.path.dirname(os.path.abspath(file)), fqdn, file, certificates, more)


def parse(
    text: str,
    folder: str,
    fqdn: Callable[[], str] = socket.getfqdn,
    name: str = "configuration",
    certificates: Certificates = Certificates.READABLE,
    more: Sequence[DropIn] = (),
) -> Configuration:
    """The configuration that `text` is, completed and checked; paths in it start at `folder`.

    `name` stands for the text in a syntax error. `more` is taken for what the files that it names hold or
    are to hold. Raises ConfigurationErrors.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationErrors([_syntax_error(name, text, error)]) from None
    except RecursionError:
        raise ConfigurationErrors([f"{_plain(name)}: nested too deeply"]) from None
    problems: Problems = {}
    raw = _with_aliases_file(raw, folder, problems)
    data = _data_folder(raw, folder)
    raw, placed = with_drop_ins(raw, _drop_ins(data, more, problems), _secrets_of_the_paired(data, more))
    configuration = _complete(decode_configuration(raw, problems), folder, fqdn)
    for key, wrong in not_yet(raw):
        problems.setdefault(key, wrong)
    is_file = _is_readable if certificates is Certificates.READABLE else lambda file: True
    check(configuration, problems, is_file, certificates is Certificates.TO_COME)
    if os.path.lexists(configuration.data) and not os.path.isdir(configuration.data):
        problems.setdefault("data", f"{shown(configuration.data)} is not a folder")
    if problems:
        lines = [_short(placed(f"{key}: {wrong}")) for key, wrong in problems.items()]
        raise ConfigurationErrors(lines[:ERRORS])
    return configuration


def _is_readable(file: str) -> bool:
    return os.path.isfile(file) and os.access(file, os.R_OK)


def _read(file: str, limit: int) -> str:
    try:
        with open(file, "rb") as stream:
            octets = stream.read(limit + 1)
    except OSError as error:
        raise ConfigurationErrors([f"{_plain(file)}: {error.strerror or 'unreadable'}"]) from None
    if len(octets) > limit:
        raise ConfigurationErrors([f"{_plain(file)}: larger than {limit} octets"])
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        column = error.start - (octets.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigurationErrors([f"{_plain(file)}:{line}:{column}: not UTF-8"]) from None


def _syntax_error(name: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    place = _toml_place.search(message)
    if place is not None and place[1] is not None:
        line, column = int(place[1]), int(place[2])
    else:
        line, column = text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1
    return f"{_plain(name)}:{line}:{column}: {_plain(_toml_place.sub('', message))}"


def _short(line: str) -> str:
    """An error line without the middle of a key that nobody could read anyway."""
    return line if len(line) <= LINE else f"{line[: LINE * 2 // 3]}...{line[-LINE // 3 :]}"


def _plain(text: str) -> str:
    """`text` on one line and safe on a terminal."""
    return text if text.isprintable() else shown(text)


def _with_aliases_file(raw: dict[str, object], folder: str, problems: Problems) -> dict[str, object]:
    """`raw` with the names of the file that `aliases.file` names; names written in `raw` itself win."""
    aliases = raw.get("aliases")
    if not isinstance(aliases, dict) or "file" not in aliases:
        return raw
    aliases = dict(aliases)
    file = aliases.pop("file")
    entries: dict[str, list[str]] = {}
    if not isinstance(file, str) or not file.isprintable() or not file:
        problems["aliases.file"] = f"expected the path of a file, got {shown(file)}"
    else:
        try:
            text = _read(os.path.join(folder, file), ALIASES_SIZE)
        except ConfigurationErrors as error:
            problems["aliases.file"] = error.lines[0]
        else:
            entries, errors = parse_aliases(text, file)
            for wrong in errors:
                # each keeps its own line in the report
                place, _, what = wrong.partition(": ")
                problems[f"aliases.file: {place}"] = what
    here = {name.lower() for name in aliases}
    return {**raw, "aliases": {**{n: e for n, e in entries.items() if n not in here}, **aliases}}


def _data_folder(raw: Mapping[str, object], folder: str) -> str:
    data = raw.get("data")
    if not isinstance(data, str) or not data or not data.isprintable():
        data = Configuration().data  # the default; what was written is an error of its own
    return _absolute(folder, data)


def _secrets_of_the_paired(data: str, more: Sequence[DropIn]) -> str | None:
    """The file of secrets, where the operator names none and there are peers or calls that were paired."""
    folders = [os.path.join(data, folder) for folder in FOLDERS.values()]
    return os.path.join(data, "passwords") if more or any(map(os.path.isdir, folders)) else None


def _drop_ins(data: str, more: Sequence[DropIn], problems: Problems) -> list[DropIn]:
    """What commands wrote into the data folder, and `more` in the place of files of the same name."""
    found: list[DropIn] = []
    for kind in FOLDERS:
        try:
            files = files_in(data, kind)
        except OSError as error:
            problems[_plain(os.path.join(data, FOLDERS[kind]))] = error.strerror or "unreadable"
            continue
        new = {drop_in.file: drop_in for drop_in in more if drop_in.kind == kind}
        for file in files:
            if file in new:
                continue
            try:
                found += tables_of(tomllib.loads(_read(file, DROP_IN_SIZE)), kind, _plain(file))
            except ConfigurationErrors as error:
                place, _, what = error.lines[0].rpartition(": ")
                problems[place] = what
            except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
                problems[_plain(file)] = _plain(str(error))
        found += new.values()
    return found


def _complete(configuration: Configuration, folder: str, fqdn: Callable[[], str]) -> Configuration:
    """The configuration with its open defaults filled in and its paths absolute."""
    hostname = configuration.hostname or HostName(_own_name(fqdn()))
    with_tls = configuration.tls is not None and configuration.tls.certificate is not None
    listen = configuration.listen or [Listen(endpoint=DEFAULT_ENDPOINT)]
    users, data = configuration.users, _absolute(folder, configuration.data)
    terminals = configuration.terminals
    return structs.replace(
        configuration,
        hostname=hostname,
        domains=configuration.domains or [Domain(hostname.lower())],
        data=data,
        listen=[structs.replace(one, tls=one.tls or ("starttls" if with_tls else "none")) for one in listen],
        tls=_absolute_tls(folder, configuration.tls),
        users=structs.replace(
            users,
            system=not users.names if users.system is None else users.system,
            passwords=users.passwords and _absolute(folder, users.passwords),
        ),
        mailboxes=structs.replace(
            configuration.mailboxes, maildir=_absolute_maildir(folder, configuration.mailboxes.maildir)
        ),
        terminals=structs.replace(
            terminals,
            utmp=terminals.utmp if terminals.utmp in NO_FILE else _absolute(folder, terminals.utmp),
            socket=_absolute(folder, terminals.socket or os.path.join(data, "terminals.sock")),
            devices=_absolute(folder, terminals.devices),
        ),
        routes=configuration.routes or {"*": Route("mx")},
    )


def _absolute(folder: str, path: str) -> File:
    return File(os.path.normpath(os.path.join(folder, path)))


def _absolute_tls(folder: str, tls: Tls | None) -> Tls | None:
    if tls is None:
        return None
    files = {key: getattr(tls, key) for key in ("certificate", "key", "roots")}
    return structs.replace(tls, **{key: name and _absolute(folder, name) for key, name in files.items()})


def _absolute_maildir(folder: str, template: str) -> MaildirTemplate:
    if template.startswith(("{home}", "{data}")):
        return MaildirTemplate(template)
    return MaildirTemplate(os.path.join(folder, template))


def _own_name(name: str) -> str:
    """The host's own name made a domain: what is no letter, digit, dot or hyphen becomes a hyphen."""
    cleaned = ".".join(
        label for part in re.sub(r"[^A-Za-z0-9.-]", "-", name).split(".") if (label := part.strip("-")[:63])
    )
    return parse_domain(cleaned) or "localhost"
