"""Peers and calls that commands wrote: read behind the operator's file, under the same rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailnode.config import (
    Configuration,
    ConfigurationErrors,
    DropIn,
    drop_in_file,
    format_drop_in,
    parse,
)
from mailnode.configuration.dropins import FILES, SIZE, files_in

OWN = """
hostname = "hub.example"
data = "data"
[users]
names = ["jones"]
"""
PEER = '\n[[peer]]\nname = "own"\ndomains = ["own.example"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("peers", "dials"):
        (tmp_path / "data" / part).mkdir(parents=True)
    return tmp_path


def read(folder: Path, text: str = OWN, *more: DropIn) -> Configuration:
    return parse(text, str(folder), name="mailnode.toml", more=more)


def errors(folder: Path, text: str = OWN, *more: DropIn) -> list[str]:
    with pytest.raises(ConfigurationErrors) as wrong:
        read(folder, text, *more)
    return list(wrong.value.lines)


def drop(folder: Path, kind: str, name: str, text: str) -> str:
    file = folder / "data" / kind / f"{name}.toml"
    file.write_text(text)
    return str(file)


def peer(name: str, *domains: str) -> str:
    shown = ", ".join(f'"{domain}"' for domain in domains)
    return f'[[peer]]\nname = "{name}"\ndomains = [{shown}]\n'


def test_where_nobody_was_ever_paired_nothing_changes(tmp_path: Path) -> None:
    alone = read(tmp_path)
    assert (alone.peer, alone.dial, alone.users.passwords) == ([], [], None)


def test_they_stand_behind_those_of_the_operator_in_the_order_of_their_names(folder: Path) -> None:
    drop(folder, "peers", "b", peer("b", "b.example"))
    drop(folder, "peers", "a", peer("a", "a.example"))
    drop(folder, "dials", "hub", '[[dial]]\nname = "hub"\nendpoint = "tcp:h:25"\n')
    found = read(folder, OWN + 'passwords = "passwords"\n' + PEER)
    assert [one.name for one in found.peer] == ["own", "a", "b"]
    assert [one.name for one in found.dial] == ["hub"]


def test_secrets_of_the_paired_have_a_file_where_the_operator_names_none(folder: Path) -> None:
    drop(folder, "peers", "leaf", peer("leaf", "leaf.example"))
    assert read(folder).users.passwords == str(folder / "data" / "passwords")
    named = read(folder, OWN + 'passwords = "secrets"\n')
    assert named.users.passwords == str(folder / "secrets")
    assert [user.name for user in named.users.names] == ["jones"]


def test_that_file_stays_when_the_last_peer_is_gone(folder: Path) -> None:
    """So that who was shut out is told so, and not that nobody can prove anything here."""
    assert read(folder).users.passwords == str(folder / "data" / "passwords")


def test_a_mistake_names_its_file(folder: Path) -> None:
    file = drop(folder, "peers", "leaf", peer("leaf", "hub.example") + "nmae = 1\n")
    assert errors(folder) == [
        f"{file}: peer.nmae: unknown key, did you mean name?",
        f"{file}: peer.domains[0]: hub.example is a local domain",
    ]


def test_a_quarrel_with_the_operators_own_is_told_with_both_places(folder: Path) -> None:
    file = drop(folder, "peers", "leaf", peer("leaf", "own.example"))
    lines = errors(folder, OWN + 'passwords = "passwords"\n' + PEER)
    assert lines == [f"{file}: peer.domains[0]: own.example is peer[0].domains[0] already"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[peer]\n", "line 1"),
        ("", "expected [[peer]] and nothing else"),
        ('hostname = "evil.example"\n' + peer("leaf", "leaf.example"), "expected [[peer]] and nothing else"),
        ('[peer]\nname = "leaf"\n', "expected [[peer]] and nothing else"),
        ('[[dial]]\nname = "hub"\nendpoint = "tcp:h:25"\n', "expected [[peer]] and nothing else"),
        ("peer = [1]\n", "expected [[peer]] and nothing else"),
        ("# " + "x" * SIZE, "larger than"),
    ],
)
def test_a_file_with_anything_else_in_it_is_an_error(folder: Path, text: str, why: str) -> None:
    file = drop(folder, "peers", "leaf", text)
    (line,) = errors(folder)
    assert line.startswith(f"{file}: ") and why in line


def test_what_has_another_name_is_left_alone(folder: Path) -> None:
    (folder / "data" / "peers" / ".draft-1.toml").write_text("[[")
    (folder / "data" / "peers" / "leaf.toml~").write_text("[[")
    assert read(folder).peer == []


def test_one_that_is_going_to_be_takes_the_place_of_its_file(folder: Path) -> None:
    file = drop(folder, "peers", "leaf", peer("leaf", "old.example"))
    new = DropIn("peer", file, {"name": "leaf", "domains": ["new.example"]})
    other = DropIn(
        "peer", drop_in_file(str(folder / "data"), "peer", "ship"), {"name": "ship", "domains": []}
    )
    assert read(folder, OWN, new).peer[0].domains == ["new.example"]
    (line,) = errors(folder, OWN, other)
    assert line == f"{other.file}: peer.domains: a peer without a domain has no mail"


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    table = {"name": "hub", "endpoint": r"tcp:host=\:\:1:port=25", "every": "15m", "outbound": True}
    drop_in = DropIn("dial", drop_in_file(str(folder / "data"), "dial", "hub"), table)
    Path(drop_in.file).write_text(format_drop_in(drop_in, "a remark"))
    (dial,) = read(folder).dial
    assert (dial.name, dial.endpoint, dial.every, dial.outbound) == (
        "hub",
        r"tcp:host=\:\:1:port=25",
        900,
        True,
    )


def test_who_may_not_look_into_the_data_folder_has_no_use_for_peers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user, as whom root cannot run this: what the system says to one is said by the test."""

    def denied(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    drop(folder, "peers", "leaf", peer("leaf", "leaf.example"))
    monkeypatch.setattr(os, "listdir", denied)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert read(folder).peer == []
    monkeypatch.setattr(os, "access", lambda path, mode: True)  # the node, which has to know them
    assert f"{folder}/data/peers: Permission denied" in errors(folder)


def test_so_many_files_that_nobody_has_written_them_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "listdir", lambda _: [f"{number}.toml" for number in range(FILES + 1)])
    with pytest.raises(OSError, match="more than"):
        files_in(str(folder / "data"), "peer")
