"""What an operator sees of a wrong configuration: every error at once, each with its key, and exit 1."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

MISTAKES = """
hostname = "not a host"
drian = 5

[[listen]]
endpoint = "carrier-pigeon:2525"

[limits]
recipients = "many"

[retry]
first = "5 parsecs"
"""
KEYS = ["drian", "hostname", "limits.recipients", "listen[0].endpoint", "retry.first"]

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
MAILNODE = [sys.executable, "-c", "from mailnode.cli import main; main()"]


def by_twistd(plugin: str, file: Path) -> list[str]:
    return [*TWISTD, plugin, "--config", str(file)]


def by_command_line(file: Path) -> list[str]:
    return [*MAILNODE, "--config", str(file), "check"]


@pytest.mark.parametrize("way", ["mailnode", "mailnode-receiver", "mailnode-sender", "check"])
def test_five_mistakes_are_five_lines_with_their_keys(run: Any, tmp_path: Path, way: str) -> None:
    file = tmp_path / "mailnode.toml"
    file.write_text(MISTAKES)
    command = by_command_line(file) if way == "check" else by_twistd(way, file)
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert sorted(line.partition(": ")[0] for line in lines) == KEYS
    assert "drian: unknown key, did you mean drain?" in lines
    assert os.listdir(tmp_path) == ["mailnode.toml"]  # nothing was begun


def test_a_right_configuration_passes_the_check_quietly(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "mailnode.toml"
    file.write_text('hostname = "mit.edu"\n[users]\nnames = ["Jones"]\n')
    done = run(*by_command_line(file), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", ["hostname = = 5\n", "[limits\n", "hostname = 'a\x1b[2J'\n"])
def test_a_file_that_is_no_toml_is_one_line_with_its_place(run: Any, tmp_path: Path, text: str) -> None:
    file = tmp_path / "mailnode.toml"
    file.write_text(text)
    for command in (by_twistd("mailnode", file), by_command_line(file)):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{file}:1:")
        assert line.isprintable()


def test_a_file_that_is_not_there_is_one_line(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    for command in (by_twistd("mailnode", file), by_command_line(file)):
        done = run(*command, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, f"{file}: No such file or directory\n")


def test_a_port_that_is_taken_is_one_line_with_its_key(run: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "mailnode.toml"
        file.write_text(
            'hostname = "mit.edu"\n[users]\nnames = ["Jones"]\n'
            f'[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n'
        )
        done = run(*by_twistd("mailnode", file), cwd=tmp_path)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "cannot listen" in line]
    assert "listen[0].endpoint: cannot listen: " in line
    assert f"127.0.0.1:{port}" in line
    assert "Address already in use" in line
    assert "Traceback" not in output
    assert "mailnode ready" not in output


def test_a_data_folder_that_cannot_be_is_one_line_with_its_key(run: Any, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file, and no folder")
    file = tmp_path / "mailnode.toml"
    file.write_text(
        'hostname = "mit.edu"\ndata = "occupied/data"\n[users]\nnames = ["Jones"]\n'
        '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
    )
    done = run(*by_twistd("mailnode", file), cwd=tmp_path)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "data: " in line]
    assert f"data: {tmp_path}/occupied/data" in line
    assert "Traceback" not in output


def test_a_second_node_on_the_same_spool_says_so_and_ends(make_node: Any, run: Any) -> None:
    node = make_node('hostname = "mit.edu"\n[users]\nnames = ["Jones"]\n').start()
    done = run(*by_twistd("mailnode", node.file), cwd=node.folder)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert f"data: {node.data}: another node works this spool off" in output
    assert "Traceback" not in output
    assert node.talk().codes("HELO usc.edu") == [250]  # the first one goes on
