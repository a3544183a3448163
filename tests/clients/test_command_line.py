"""The command line as a person uses it: a process of its own, against nodes that run."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path as File
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mailnode.mail import Envelope, Mode, Path, Recipient
from mailnode.spool.sqlite import SqliteSpool

MAILNODE = [sys.executable, "-c", "from mailnode.cli import main; main()"]
HOUSE = (
    'hostname = "mit.example"\n[users]\nnames = ["jones", "brown"]\n[moved]\nsmith = "smith@usc.example"\n'
)


def mailnode(folder: File, *words: str, said: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
    """A command, to its end, with the configuration in `folder`."""
    return subprocess.run(
        [*MAILNODE, "--config", str(folder / "mailnode.toml"), *words],
        input=said.encode() if isinstance(said, str) else said,
        capture_output=True,
        timeout=30,
        check=False,
    )


def lines(process: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert process.stderr == b""
    return process.stdout.decode().splitlines()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ------------------------------------------------------------------ mail, send, soml, saml


def test_mail_reaches_the_mailbox_and_says_what_became_of_each(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    process = mailnode(
        node.folder, "mail", "--subject", "Noon", "jones", "nobody", "smith", said="Lunch?\n.\n"
    )
    jones, nobody, smith = lines(process)
    assert jones.startswith("jones@mit.example   accepted: 250 OK, queued as ")
    assert nobody == "nobody@mit.example  refused: 550 No such user here"
    assert smith.startswith("smith@mit.example   moved: 551 User not local; please try <smith@usc.example>")
    assert process.returncode == os.EX_NOUSER
    (message,) = node.wait_for_mail("jones")
    sender = f"{pwd.getpwuid(os.getuid()).pw_name}@mit.example"
    assert message.startswith(f"Return-Path: <{sender}>\n")
    assert f"From: {sender}\n" in message and "Subject: Noon\n" in message
    assert message.endswith("\n\nLunch?\n.\n")


def test_a_node_that_was_started_under_another_name_is_named(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    said = mailnode(node.folder, "mail", "jones", said="Lunch?\n")
    assert said.returncode == 0 and said.stderr == b""
    node.file.write_text(node.file.read_text().replace("mit.example", "usc.example"))
    said = mailnode(node.folder, "mail", "jones@mit.example", said="Lunch?\n")
    assert said.returncode == 0
    assert b"the node is still mit.example, the configuration says usc.example: start it again" in said.stderr


def test_a_large_message_goes_through_whole(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    text = b"Subject: large\n\n" + b".%079d\n" % 7 * 50_000
    assert mailnode(node.folder, "mail", "jones", said=text).returncode == 0
    (message,) = node.wait_for_mail("jones")
    assert message.encode().endswith(text.partition(b"\n\n")[2])


def test_the_dialogue_is_shown_when_it_is_asked_for(make_node: Any) -> None:
    node = make_node(HOUSE).start()
    process = mailnode(node.folder, "--verbose", "mail", "--from", "a@b.example", "jones", said="Lunch?\n")
    dialogue = process.stderr.decode().splitlines()
    assert dialogue[0] == "S: 220 mit.example Simple Mail Transfer Service Ready"
    assert any(line.startswith("C: MAIL FROM:<a@b.example>") for line in dialogue)
    assert "C: RCPT TO:<jones@mit.example>" in dialogue and "C: Lunch?" in dialogue
    assert any(line.startswith("C: BDAT ") for line in dialogue)


@pytest.fixture
def terminal() -> Iterator[tuple[int, str, str]]:
    """A terminal of ours: (the screen, its line, our login name)."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    os.chmod(name, 0o620)
    yield master, name.removeprefix("/dev/"), pwd.getpwuid(os.getuid()).pw_name
    os.close(master)
    os.close(slave)


def test_send_appears_on_the_terminal_and_who_shows_it(
    make_node: Any, tmp_path: File, terminal: tuple[int, str, str]
) -> None:
    screen, line, user = terminal
    record = struct.pack(
        "hi32s4s32s256shhiii4i20x", 7, 1, line.encode(), b"", user.encode(), b"", 0, 0, 0,
        int(time.time()), 0, 0, 0, 0, 0,
    )  # fmt: skip
    (tmp_path / "utmp").write_bytes(record)
    house = f'hostname = "mit.example"\n[users]\nnames = ["{user}"]\n[terminals]\nutmp = "{tmp_path}/utmp"\n'
    node = make_node(house).start()
    assert lines(mailnode(node.folder, "who"))[1].split()[:4] == [user, line, "utmp", "yes"]
    shown = mailnode(node.folder, "send", user, said="Lunch?\n")
    assert lines(shown) == [f"{user}@mit.example  shown on a terminal"] and shown.returncode == 0
    text = os.read(screen, 4096).decode()
    assert "Message from" in text and "Lunch?" in text and "From:" not in text
    os.chmod(f"/dev/{line}", 0o600)
    refused = mailnode(node.folder, "send", user, said="Lunch?\n")
    assert lines(refused) == [f"{user}@mit.example  not shown: 450 User not active now"]
    assert refused.returncode == os.EX_TEMPFAIL
    mailed = mailnode(node.folder, "soml", user, said="Lunch?\n")
    assert "not active now, so mailed: 250 OK" in lines(mailed)[0]
    assert len(node.wait_for_mail(user)) == 1


def test_a_node_without_terminals_gets_soml_as_mail_and_the_person_is_told(make_node: Any) -> None:
    node = make_node(HOUSE + '[terminals]\nallow = "none"\n').start()
    where = f"127.0.0.1:{node.port}"
    process = mailnode(node.folder, "soml", "--via", where, "jones", said="Lunch?\n")
    assert process.returncode == 0
    assert process.stderr.decode() == f"mailnode: {where} does not offer SOML: it was given by MAIL instead\n"
    assert len(node.wait_for_mail("jones")) == 1
    send = mailnode(node.folder, "send", "jones", said="Lunch?\n")
    assert lines(send) == ["jones@mit.example  not shown: 502 The next host shows no messages on terminals"]
    assert send.returncode == os.EX_UNAVAILABLE


def test_the_node_is_found_by_its_configuration_where_the_control_socket_is_not_ours(make_node: Any) -> None:
    port = free_port()
    listen = f'[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n'
    node = make_node(HOUSE + listen).start()
    (node.data / "control.sock").unlink()
    assert mailnode(node.folder, "mail", "jones", said="Lunch?\n").returncode == 0
    assert len(node.wait_for_mail("jones")) == 1
    node.stop()
    process = mailnode(node.folder, "mail", "jones", said="Lunch?\n")
    assert process.returncode == os.EX_UNAVAILABLE
    assert process.stderr.startswith(b"mailnode: no node is running with this configuration; start it with")


# ------------------------------------------------------------------ dial


def test_dial_turns_the_line_and_its_trace_shows_both_roles_and_no_secret(make_node: Any) -> None:
    hub = make_node(
        'hostname = "hub.example"\n[users]\nnames = ["smith"]\npasswords = "passwords"\n'
        '[[peer]]\nname = "leaf"\ndomains = ["leaf.example"]\n',
        name="hub",
    )
    assert mailnode(hub.folder, "user", "password", "leaf", said="sesame\n").returncode == 0
    hub.start()
    leaf = make_node(
        'hostname = "leaf.example"\n[users]\nnames = ["jones"]\npasswords = "passwords"\n'
        '[routes]\n"*" = "hold"\n[[dial]]\nname = "hub"\nuser = "leaf"\n'
        f'endpoint = "tcp:127.0.0.1:{hub.port}"\n',
        name="leaf",
    )
    assert b"kept readable" in mailnode(leaf.folder, "user", "password", "leaf", said="sesame\n").stdout
    without = mailnode(leaf.folder, "dial", "hub")
    assert without.returncode == os.EX_UNAVAILABLE and b"no node is running" in without.stderr
    leaf.start()
    assert mailnode(hub.folder, "mail", "jones@leaf.example", said="to the leaf\n").returncode == 0
    assert mailnode(leaf.folder, "mail", "smith@hub.example", said="to the hub\n").returncode == 0
    held(leaf)
    held(hub)
    process = mailnode(leaf.folder, "dial", "hub", "--trace")
    dialogue = lines(process)
    assert process.returncode == 0
    assert any(line.startswith("C: AUTH ") and line.endswith(" ***") for line in dialogue)
    assert b"\x1b" not in process.stdout
    assert not any("sesame" in line or "AGxlYWYAc2VzYW1l" in line for line in dialogue)
    turn = dialogue.index("------ the line is turned: hub leads ------")
    assert dialogue[turn - 2] == "C: TURN" and dialogue[turn - 1].startswith("S: 250 ")
    assert dialogue[turn + 1 : turn + 3] == [
        "S: 220 leaf.example Simple Mail Transfer Service Ready",
        "C: EHLO hub.example",
    ]
    assert dialogue[-1].startswith(
        "hub: mail for 1 recipient given, 1 message received, the line was turned: 250 "
    )
    assert len(leaf.wait_for_mail("jones")) == len(hub.wait_for_mail("smith")) == 1
    assert "\x1b[36mC: TURN" in on_a_terminal(leaf.folder, "dial", "hub", "--trace")
    unknown = mailnode(leaf.folder, "dial", "nobody")
    assert unknown.returncode == os.EX_UNAVAILABLE
    assert unknown.stderr == b"mailnode: no [[dial]] of that name; there are: hub\n"
    hub.stop()
    down = mailnode(leaf.folder, "dial", "hub")
    assert down.returncode == os.EX_TEMPFAIL and b"the line was not turned: 451 " in down.stdout


def on_a_terminal(folder: File, *words: str) -> str:
    """What a command writes to a terminal."""
    master, slave = os.openpty()
    command = [*MAILNODE, "--config", str(folder / "mailnode.toml"), *words]
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # EIO: nobody has the terminal open any more
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert process.wait(30) == 0
    return shown.decode()


def held(node: Any) -> None:
    """Waits until the mail of `node` waits for its peer."""
    until(lambda: b'"held"' in mailnode(node.folder, "queue", "list", "--json").stdout)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# ------------------------------------------------------------------ queue


def test_retry_wakes_the_node_that_runs(make_node: Any) -> None:
    port = free_port()
    near = make_node(HOUSE + f'[routes]\n"usc.example" = "tcp:127.0.0.1:{port}"\n', name="near").start()
    assert mailnode(near.folder, "mail", "green@usc.example", said="Lunch?\n").returncode == 0

    def tried() -> bool:
        shown = lines(mailnode(near.folder, "queue", "list", "--json"))
        return bool(shown) and json.loads(shown[0])["recipients"][0]["attempts"] == 1

    until(tried)
    (shown,) = lines(mailnode(near.folder, "queue", "list", "--json", "--domain", "usc.example"))
    recipient = json.loads(shown)["recipients"][0]
    assert recipient["state"] == "queued" and recipient["last_reply"].startswith("451 ")
    listen = f'[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n'
    far = make_node('hostname = "usc.example"\n[users]\nnames = ["green"]\n' + listen, name="far").start()
    assert (
        mailnode(near.folder, "queue", "retry", "--domain", "usc.example").stdout == b"1 message due now.\n"
    )
    assert len(far.wait_for_mail("green")) == 1
    until(lambda: mailnode(near.folder, "queue", "list").stdout == b"No messages.\n")


@pytest.fixture
def full(tmp_path: File) -> File:
    """A folder with a configuration and a spool of many messages, as a node left it."""
    (tmp_path / "mailnode.toml").write_text(HOUSE)
    spool = SqliteSpool(str(tmp_path / "mailnode-data"), None, time.time, min_free=0)
    spool.open()
    recipients = tuple(Recipient(Path("green", f"host{number}.example")) for number in range(20))
    for _ in range(100):
        draft = spool.draft()
        draft.write(b"Subject: x\r\n\r\n")
        spool.accept(spool.new_id(), Envelope(Mode.MAIL, Path("a", "b.c"), recipients), draft, False)
    closed: Deferred[None] = spool.close()
    assert closed.called
    return tmp_path


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_closed_pipe_ends_quietly(full: File, options: list[str]) -> None:
    process = subprocess.Popen(
        [*MAILNODE, "--config", str(full / "mailnode.toml"), "queue", "list", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()  # as head does
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 128 + signal.SIGPIPE


# ------------------------------------------------------------------ on a terminal


class Person:
    """A command whose standard input is a terminal; its words are read on standard error."""

    def __init__(self, folder: File, *words: str) -> None:
        self.keyboard, theirs = os.openpty()
        self.process = subprocess.Popen(
            [*MAILNODE, "--config", str(folder / "mailnode.toml"), *words],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that no terminal of the tests is asked for a password
        )
        os.close(theirs)
        self.heard = b""

    def wait_for(self, words: bytes) -> None:
        assert self.process.stderr is not None
        while words not in self.heard:
            piece = os.read(self.process.stderr.fileno(), 4096)
            assert piece, self.heard
            self.heard += piece
        self.heard = self.heard.split(words, 1)[1]

    def types(self, words: bytes) -> None:
        os.write(self.keyboard, words)

    def end(self) -> tuple[int, bytes]:
        out, error = self.process.communicate(timeout=30)
        os.close(self.keyboard)
        return self.process.returncode, out + self.heard + error


def test_an_interrupt_ends_quietly(tmp_path: File) -> None:
    (tmp_path / "mailnode.toml").write_text(HOUSE)
    with socket.create_server(("127.0.0.1", 0)) as host:
        person = Person(tmp_path, "mail", "--via", f"127.0.0.1:{host.getsockname()[1]}", "jones")
        person.wait_for(b"end it with ^D")
        person.process.send_signal(signal.SIGINT)
        status, rest = person.end()
    assert (status, rest.strip()) == (130, b"on a line of its own.")


def test_a_password_is_asked_for_twice(tmp_path: File) -> None:
    (tmp_path / "mailnode.toml").write_text(HOUSE.replace("[moved]", 'passwords = "passwords"\n[moved]'))
    person = Person(tmp_path, "user", "password", "jones")
    for prompt, typed in (
        (b"Password for jones: ", b"sesame\n"),
        (b"Once more: ", b"seasme\n"),
        (b"Password for jones: ", b"sesame\n"),
        (b"Once more: ", b"sesame\n"),
    ):
        person.wait_for(prompt)
        person.types(typed)
    status, rest = person.end()
    assert status == 0 and b"The password of jones is set" in rest and b"sesame" not in rest
    assert (tmp_path / "passwords").read_text().startswith("jones:scrypt$")


def test_delete_asks_first_unless_told_not_to(full: File) -> None:
    person = Person(full, "queue", "delete", "--all")
    person.wait_for(b"Delete 100 messages for good? [y/N]: ")
    person.types(b"n\n")
    status, rest = person.end()
    assert status == 0 and rest.strip() == b"mailnode: nothing was deleted"
    status, rest = Person(full, "queue", "delete", "--all", "--yes").end()
    assert (status, rest) == (0, b"100 messages deleted.\n")
