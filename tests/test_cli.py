"""The command line without a node: what it says, what it leaves alone, how it ends."""

from __future__ import annotations

import json
import os
import pwd
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path as File

import click
import pytest
from click.testing import CliRunner, Result

from mailnode import __version__
from mailnode.cli import cli
from mailnode.commands.mail import configured
from mailnode.commands.who import _by_number
from mailnode.submission import Where

HOUSE = """
hostname = "mit.example"
data = "data"
[users]
names = ["jones", "Fred Brown <brown>"]
passwords = "passwords"
[terminals]
utmp = "utmp"
[lists]
staff = ["jones", "green@usc.example"]
[moved]
green = "green@usc.example"
[forward]
smith = "smith@usc.example"
[routes]
"usc.example" = "tcp:127.0.0.1:2600"
"*.arpa" = "hold"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
[[dial]]
name = "hub"
endpoint = "tcp:hub.example:25"
user = "us"
"""

Run = Callable[..., Result]


@pytest.fixture
def house(tmp_path: File) -> File:
    (tmp_path / "mailnode.toml").write_text(HOUSE)
    return tmp_path


@pytest.fixture
def run(house: File) -> Run:
    def runs(*words: str, said: str | bytes = "") -> Result:
        return CliRunner().invoke(cli, ["--config", str(house / "mailnode.toml"), *words], input=said)

    return runs


# ------------------------------------------------------------------ how commands end


def test_an_error_is_one_line_on_standard_error_and_a_status_of_sysexits(run: Run) -> None:
    for words, status, line in (
        (("nonsense",), 64, "mailnode: no such command 'nonsense' (see: mailnode --help)"),
        (("queue", "list", "--older", "soon"), 64, None),
        (("mail",), 64, "mailnode: missing argument 'RECIPIENT...' (see: mailnode mail --help)"),
        (("mail", "a b c"), 64, "mailnode: 'a b c' is not an address"),
        (
            ("mail", "jones", "--via", "nowhere:99999"),
            64,
            "mailnode: --via: 'nowhere:99999' is not HOST:PORT",
        ),
        (("mail", "jones", "--subject", "a\nBcc: x"), 64, None),
    ):
        result = run(*words)
        assert (result.exit_code, result.stdout) == (status, "")
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("mailnode: ")
        assert line is None or result.stderr == line + "\n"


def test_a_mistake_of_ours_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("\x1b[2J")

    monkeypatch.setattr("mailnode.commands.who.look", fails)
    result = run("who")
    assert result.exit_code == os.EX_SOFTWARE
    assert (
        result.stderr.startswith("mailnode: internal error: ZeroDivisionError(")
        and "\x1b" not in result.stderr
    )
    assert result.stderr.count("\n") == 1


def test_an_interrupt_ends_with_130_and_no_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupts(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mailnode.commands.who.look", interrupts)
    result = run("who")
    assert (result.exit_code, result.output) == (130, "")


def test_the_version_is_shown() -> None:
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"mailnode {__version__}\n"


def commands(group: click.Group, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)


@pytest.mark.parametrize("words", [words for words, _ in commands(cli)], ids=" ".join)
def test_help_says_the_purpose_and_gives_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    if words not in {("queue",), ("user",), ("user", "list")}:
        assert "$ mailnode" in result.stdout or "| mailnode" in result.stdout


# ------------------------------------------------------------------ check


def test_check_shows_every_error_with_its_key_and_ends_with_1(run: Run, house: File) -> None:
    assert run("check").exit_code == 0
    (house / "mailnode.toml").write_text('[[listen]]\nendpoint = "tpc:1"\n[retry]\nfrist = 1\n')
    result = run("check")
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "listen[0].endpoint",
        "retry.frist",
    ]


def test_check_warns_of_names_behind_which_there_is_nobody(run: Run, house: File) -> None:
    text = HOUSE + '[aliases]\nnoone = "nosuch"\nboss = "jones"\n'
    (house / "mailnode.toml").write_text(text)
    result = run("check")
    assert result.exit_code == 0 and ": ok\n" in result.output
    doubts = [line for line in result.stderr.splitlines() if "nowhere" in line]
    assert doubts == ["warning: aliases.noone: leads nowhere, mail for it gets 550"]


def test_a_data_folder_that_is_a_file_is_an_error_of_the_configuration(run: Run, house: File) -> None:
    (house / "data").write_text("no folder")
    result = run("check")
    assert result.exit_code == 1
    assert result.stderr.startswith("data: '") and result.stderr.endswith(" is not a folder\n")


def test_a_certificate_is_made_for_listeners_that_ask_for_one(run: Run, house: File) -> None:
    listen = '[[listen]]\nendpoint = "tcp:2525"\ntls = "starttls"\n'
    (house / "mailnode.toml").write_text(HOUSE + listen)
    result = run("check")
    assert result.exit_code == 1 and "(mailnode certificate makes them)" in result.stderr
    made = run("certificate")
    assert made.exit_code == 0, made.output
    (house / "mailnode.toml").write_text(HOUSE + listen + made.output.partition("again:\n")[2])
    assert run("check").exit_code == 0
    (house / "mailnode.toml").write_text(HOUSE + listen + "[retry]\nfrist = 1\n")
    assert run("certificate").exit_code == os.EX_CONFIG


def test_another_command_says_the_first_error_and_ends_with_ex_config(run: Run, house: File) -> None:
    (house / "mailnode.toml").write_text('[[listen]]\nendpoint = "tpc:1"\n[retry]\nfrist = 1\n')
    result = run("queue", "list")
    assert result.exit_code == os.EX_CONFIG
    assert result.stderr.startswith("mailnode: wrong configuration: listen[0].endpoint: ")
    assert result.stderr.endswith("(and 1 more: mailnode check)\n")


# ------------------------------------------------------------------ no node


@pytest.mark.parametrize("words", [("dial", "hub"), ("mail", "jones")])
def test_without_a_node_one_clear_line_says_how_to_start_it(
    run: Run, house: File, words: tuple[str, ...]
) -> None:
    listen = f'[[listen]]\nendpoint = "unix:{house}/nobody"\n'
    (house / "mailnode.toml").write_text(HOUSE + listen)
    result = run(*words, said="Lunch?\n")
    assert result.exit_code == os.EX_UNAVAILABLE
    assert result.stderr == (
        "mailnode: no node is running with this configuration; start it with: twistd -n mailnode\n"
    )
    assert not (house / "data").exists()


@pytest.mark.parametrize(
    ("endpoint", "where"),
    [
        ("tcp:2525:interface=127.0.0.1", Where("127.0.0.1", 2525)),
        ("tcp:port=25", Where("127.0.0.1", 25)),
        (r"tcp6:25:interface=\:\:1", Where("::1", 25)),
        ("tcp6:25", Where("::1", 25)),
        ("unix:/run/mailnode/smtp", Where("/run/mailnode/smtp")),
        ("tcp:0", None),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_the_configuration_says_where_a_node_would_listen(endpoint: str, where: Where | None) -> None:
    assert configured([endpoint]) == where


# ------------------------------------------------------------------ route and who


@pytest.mark.parametrize(
    ("address", "stranger", "trusted", "why", "where"),
    [
        ("jones", "250 OK", "250 OK", "jones is a user of this node", "mailbox {data}/mail/jones"),
        ("staff", "250 OK", "250 OK", "mailing list of 2 addresses", "next hop tcp:127.0.0.1:2600"),
        ("smith", "251 User not local", "251 User not local", "has gone elsewhere", "next hop tcp:127"),
        ("green", "551 User not local", "551 User not local", "has moved", "it goes nowhere"),
        ("who", "550 No such user", "550 No such user", "is no user, alias", "it goes nowhere"),
        ("a@usc.example", "550 No such user", "250 OK", '"usc.example" = "tcp', "next hop tcp:127.0.0.1"),
        ("a@x.arpa", "550 No such user", "250 OK", '[routes] "*.arpa" = "hold"', "held until a call"),
        ("a@isi.example", "550 No such user", "250 OK", "only who may relay", "exchangers of isi.example"),
        ("a@leaf.example", "250 OK", "250 OK", "the peer leaf", "held until leaf turns the line"),
        ("@mit.example,@usc.example:a@b.example", "550", "250 OK", "comes off the route",
         "becomes <@mit.example:sender@its.host>"),
    ],
)  # fmt: skip
def test_route_says_what_is_answered_why_and_where_it_goes(
    run: Run, house: File, address: str, stranger: str, trusted: str, why: str, where: str
) -> None:
    shown = run("route", address).stdout
    assert f"a stranger        gets {stranger}" in shown
    assert f"a trusted client  gets {trusted}" in shown
    assert why in shown
    assert where.format(data=house / "data") in shown
    assert not (house / "data").exists()


def test_route_knows_the_verbs(run: Run) -> None:
    shown = run("route", "--mode", "send", "jones").stdout
    assert "a stranger        gets 502" in shown  # terminals are for trusted clients
    assert "a trusted client  gets 450 User not active now" in shown
    assert "no terminal that takes messages now" in shown and "mailbox" not in shown
    assert "250 User not active now, so will do mail." in run("route", "--mode", "soml", "jones").stdout


@pytest.fixture
def terminal(house: File) -> Iterator[tuple[str, str]]:
    """A terminal on which we are logged in, as the house's utmp says: (user, line)."""
    master, slave = os.openpty()
    line, user = os.ttyname(slave).removeprefix("/dev/"), pwd.getpwuid(os.getuid()).pw_name
    os.chmod(os.ttyname(slave), 0o620)
    record = struct.pack(
        "hi32s4s32s256shhiii4i20x", 7, 1, line.encode(), b"", user.encode(), b"192.0.2.7", 0, 0, 0,
        int(time.time()) - 3600, 0, 0, 0, 0, 0,
    )  # fmt: skip
    (house / "utmp").write_bytes(record)
    yield user, line
    os.close(master)
    os.close(slave)


def test_who_shows_the_terminal_and_whether_it_takes_messages(run: Run, terminal: tuple[str, str]) -> None:
    user, line = terminal
    (found,) = map(json.loads, run("who", "--json").stdout.splitlines())
    del found["since"], found["idle"]
    assert found == {"user": user, "terminal": line, "kind": "utmp", "accepting": True, "from": "192.0.2.7"}
    heading, row = run("who", user).stdout.splitlines()
    assert heading.split() == ["USER", "TERMINAL", "KIND", "MESSAGES", "SINCE", "IDLE", "FROM"]
    assert row.split()[:4] == [user, line, "utmp", "yes"] and row.split()[-1] == "192.0.2.7"
    os.chmod(f"/dev/{line}", 0o600)
    assert "no" in run("who").stdout.split()


def test_terminals_are_listed_by_their_numbers() -> None:
    lines = ["tty1", "pts/10", "pts/9", "?", "pts/2", "pts/100000000000000000000"]
    assert sorted(lines, key=_by_number) == [
        *("?", "pts/2", "pts/9", "pts/10", "pts/100000000000000000000", "tty1")
    ]


def test_who_tells_not_logged_in_from_unknown_from_not_to_be_seen(run: Run, house: File) -> None:
    unseen = run("who")
    assert unseen.stdout == "Nobody is logged in, as far as can be seen.\n"
    assert unseen.exit_code == 0 and unseen.stderr.splitlines() == [
        "mailnode: no node is running with this configuration: attached terminals are not seen",
        f"mailnode: host terminals are not seen: there is no {house}/utmp; [terminals] utmp names another",
    ]
    (house / "utmp").write_bytes(b"")
    assert run("who").stdout == "Nobody is logged in.\n"
    assert run("who", "jones").stdout == "jones is not logged in.\n"
    unknown = run("who", "\x1b[2Jx")
    assert unknown.exit_code == os.EX_NOUSER and unknown.stderr == "mailnode: no user ^[[2Jx here\n"


# ------------------------------------------------------------------ user


def test_a_password_is_hashed_unless_this_node_must_say_it(run: Run, house: File) -> None:
    assert "only its hash is kept" in run("user", "password", "jones", said="sesame\n").stdout
    kept = run("user", "password", "us", said="open sesame")
    assert "kept readable (mode 0600): this node says it when it calls hub." in kept.stdout
    file = house / "passwords"
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [line.partition("$")[0] for line in file.read_text().splitlines()]
    hashes = ["jones:scrypt", "jones:scram-sha-256", "us:scrypt", "us:scram-sha-256"]
    assert lines == [*hashes, "us:secret"]
    shown = run("user", "list").stdout
    assert "sesame" not in shown
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert rows == [
        ["jones", "user", "hashed"],
        ["leaf", "peer", "missing"],
        ["us", "call", "to", "hub", "readable"],
    ]


def test_a_password_for_cram_md5_is_said_to_be_readable(run: Run, house: File) -> None:
    with (house / "mailnode.toml").open("a") as file:
        file.write('[[peer]]\nname = "us"\ndomains = ["us.example"]\ncram_md5 = true\n')
    kept = run("user", "password", "us", said="open sesame")
    assert "readable (mode 0600): this node says it when it calls hub, and CRAM-MD5 needs it." in kept.stdout


def test_a_hash_from_before_scram_is_shown_as_such(run: Run, house: File) -> None:
    (house / "passwords").write_text("jones:scrypt$16384$8$1$YWJj$YWJj\nleaf:scrypt$1\n")
    rows = run("user", "list").stdout.splitlines()[1:]
    assert " ".join(rows[0].split()) == "jones user hashed, without keys for SCRAM: set it again"
    assert rows[1].split() == ["leaf", "peer", "missing"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"", 66),
        (b"\n", 65),
        (b"\xff\xfe\n", 65),
        (b"a\0b\n", 65),
        (b"a\tb\n", 65),
        (b"x" * 1025 + b"\n", 65),
    ],
)
def test_what_cannot_be_a_password_is_refused(run: Run, house: File, said: bytes, status: int) -> None:
    result = run("user", "password", "jones", said=said)
    assert result.exit_code == status and result.stderr.count("\n") == 1
    assert not (house / "passwords").exists()


def test_a_name_that_means_nothing_here_is_pointed_out(run: Run) -> None:
    result = run("user", "password", "jnoes", said="x\n")
    assert result.exit_code == 0 and "jnoes is neither a user nor a peer" in result.stderr
    assert run("user", "password", "../x", said="x\n").exit_code == os.EX_DATAERR


def test_without_a_passwords_file_the_key_is_named(run: Run, house: File) -> None:
    (house / "mailnode.toml").write_text('[users]\nnames = ["jones"]\n')
    for words in (("password", "jones"), ("list",)):
        result = run("user", *words, said="x\n")
        assert result.exit_code == os.EX_CONFIG and "[users] passwords" in result.stderr
