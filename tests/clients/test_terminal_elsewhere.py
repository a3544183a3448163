"""`mailnode send`, `soml`, `saml` to people on another host: the sender is told what became of it there."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

ME = pwd.getpwuid(os.geteuid()).pw_name
PROGRAM = (sys.executable, "-c", "from mailnode.cli import main; main()")
USC = f"""
hostname = "usc.example"
[users]
names = ["{ME}", "brown"]
[terminals]
utmp = "none"
rate = 1000
rate_all = 1000
"""
MIT = f"""
hostname = "mit.example"
[users]
names = ["{ME}", "jones"]
[terminals]
utmp = "none"
rate = 1000
rate_all = 1000
[aliases]
all = ["{ME}", "brown@usc.example"]
[routes]
"usc.example" = "tcp:127.0.0.1:{{port}}"
"leaf.example" = "hold"
"""

Tell = Callable[..., CompletedProcess[str]]


@pytest.fixture
def usc(make_node: Any) -> Any:
    return make_node(USC, "usc").start()


@pytest.fixture
def tell(make_node: Any, run: Any) -> Callable[..., Tell]:
    """Starts mit.example, which knows that usc.example is on a port; gives what runs a command there."""

    def told(port: int) -> Tell:
        node = make_node(MIT.format(port=port), "mit").start()

        def command(*words: object, text: str = "Lunch at one?\n") -> CompletedProcess[str]:
            done: CompletedProcess[str] = run(*PROGRAM, "--config", node.file, *words, stdin=text)
            return done

        command.node = node  # type: ignore[attr-defined]
        return command

    return told


def attached(open_session: Any, node: Any) -> Any:
    session = open_session(node.folder, "terminal")
    session.wait_for("^C ends it]")
    return session


# ------------------------------------------------------------------ a host that can be reached


def test_a_send_that_is_shown_there_is_said_to_be_shown(usc: Any, tell: Any, open_session: Any) -> None:
    there = attached(open_session, usc)
    done = tell(usc.port)("send", f"{ME}@usc.example")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ME}@usc.example  shown on a terminal\n", "")
    assert "Lunch at one?" in there.wait_for("EOF")


def test_who_is_not_active_there_is_said_so_at_once(usc: Any, tell: Any) -> None:
    here = tell(usc.port)
    done = here("send", "brown@usc.example")
    assert done.stdout == "brown@usc.example  not shown: 450 User not active now\n"
    assert (done.returncode, done.stderr) == (os.EX_TEMPFAIL, "")
    done = here("send", "nobody-here@usc.example")
    assert (done.returncode, done.stdout) == (
        os.EX_NOUSER,
        "nobody-here@usc.example  refused: 550 No such user here\n",
    )


def test_soml_and_saml_say_whether_a_terminal_or_the_mailbox_has_it(
    usc: Any, tell: Any, open_session: Any
) -> None:
    there = attached(open_session, usc)
    here = tell(usc.port)
    done = here("soml", f"{ME}@usc.example", "brown@usc.example", "nobody-here@usc.example")
    shown, mailed, refused = done.stdout.splitlines()
    assert re.fullmatch(rf"{ME}@usc\.example +shown on a terminal.*", shown)
    assert re.fullmatch(r"brown@usc\.example +not active now, so mailed: 250 OK, queued as \w{13}", mailed)
    assert re.fullmatch(r"nobody-here@usc\.example +refused: 550 No such user here", refused)
    assert done.returncode == os.EX_NOUSER
    there.wait_for("Lunch at one?")
    assert "Lunch at one?" in usc.wait_for_mail("brown")[0]
    done = here("saml", "brown@usc.example", text="and dinner?\n")
    assert done.stdout.startswith("brown@usc.example  accepted, and shown if logged in: 250 OK")
    assert "and dinner?" in usc.wait_for_mail("brown", 2)[1]


def test_those_here_and_there_are_told_apart(usc: Any, tell: Any, open_session: Any) -> None:
    here = tell(usc.port)
    screen = attached(open_session, here.node)
    done = here("send", ME, "brown@usc.example")
    first, second = done.stdout.splitlines()
    assert first.split(maxsplit=1) == [f"{ME}@mit.example", "shown on a terminal"]
    assert second.split(maxsplit=1) == ["brown@usc.example", "not shown: 450 User not active now"]
    assert screen.wait_for("Lunch at one?").count("EOF") == 1
    done = here("send", "all", text="all of you\n")  # who is behind a name that could not be reached is named
    assert done.stdout == "all@mit.example  not shown (brown@usc.example): 450 User not active now\n"
    screen.wait_for("all of you")
    done = here("soml", "all", text="by mail then\n")
    assert done.stdout.startswith("all@mit.example  not active now, so mailed (brown@usc.example): 250 OK")


def test_a_program_reads_it_as_json(usc: Any, tell: Any) -> None:
    done = tell(usc.port)("send", "--json", "brown@usc.example", "nobody-here")
    first, second = map(json.loads, done.stdout.splitlines())
    assert second == {
        "recipient": "nobody-here@mit.example", "taken": False, "state": "refused", "words": "refused",
        "reply": "550 No such user here", "id": first["id"],
    }  # fmt: skip
    assert re.fullmatch(r"[0-9a-z]{13}", first.pop("id"))
    assert first == {
        "recipient": "brown@usc.example", "taken": False, "state": "not shown", "words": "not shown",
        "reply": "450 User not active now",
    }  # fmt: skip


def test_the_process_that_works_the_spool_off_is_asked(usc: Any, make_node: Any, run: Any) -> None:
    sends = make_node(MIT.format(port=usc.port), "mit", "mailnode-sender").start()
    make_node(MIT.format(port=usc.port), "mit", "mailnode-receiver").start()
    done = run(*PROGRAM, "--config", sends.file, "send", "brown@usc.example", stdin="Lunch at one?\n")
    assert done.stdout == "brown@usc.example  not shown: 450 User not active now\n"


# ------------------------------------------------------------------ a host without terminals, or down


def test_a_host_that_shows_no_messages_gets_mail_or_nothing(make_node: Any, tell: Any) -> None:
    plain = make_node(USC + 'allow = "none"\n', "usc").start()
    here = tell(plain.port)
    done = here("send", "brown@usc.example")
    words = "502 The next host shows no messages on terminals"
    assert (done.returncode, done.stdout) == (
        os.EX_UNAVAILABLE,
        f"brown@usc.example  not shown: {words}\n",
    )
    done = here("soml", "brown@usc.example")
    words = "mailed: the host there shows no messages on terminals"
    assert (done.returncode, done.stdout) == (0, f"brown@usc.example  {words}\n")
    assert "Lunch at one?" in plain.wait_for_mail("brown")[0]


def test_a_host_that_is_down_is_said_so_and_what_follows(tell: Any, free_port: Any) -> None:
    here = tell(free_port())
    done = here("send", "brown@usc.example")
    assert done.returncode == os.EX_TEMPFAIL
    assert done.stdout.startswith("brown@usc.example  not shown: 451 Cannot connect to ")
    assert "Connection refused" in done.stdout and done.stdout.count("\n") == 1
    done = here("soml", "brown@usc.example")
    assert done.returncode == 0
    assert done.stdout.startswith("brown@usc.example  on its way, to be tried again: 451 ")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_host_that_does_not_answer_is_not_waited_for_longer_than_some_seconds(
    tell: Any, silent: int, open_session: Any
) -> None:
    here = tell(silent)
    talk = open_session(here.node.folder, "send", "brown@usc.example")
    talk.wait_for("\n>")
    began = time.monotonic()
    talk.type("Lunch?\n")
    talk.wait_for("waiting for usc.example ...")
    talk.wait_for("brown@usc.example  on its way; if it is not shown, a notice will follow")
    assert time.monotonic() - began > 4
    assert "waiting for" not in talk.shown()  # the word is gone without a trace
    talk.type("\x04")
    assert talk.wait() == 0


def test_mail_for_a_host_that_fetches_it_waits_and_a_send_does_not(tell: Any, free_port: Any) -> None:
    here = tell(free_port())
    done = here("soml", "leo@leaf.example")
    assert (done.returncode, done.stdout) == (0, "leo@leaf.example  waits for the host to fetch it\n")
    done = here("send", "leo@leaf.example")
    assert (done.returncode, done.stdout) == (
        os.EX_TEMPFAIL,
        "leo@leaf.example  not shown: 450 User not active now\n",
    )


HUB = """
hostname = "hub.example"
[users]
names = ["jones"]
passwords = "passwords"
[terminals]
utmp = "none"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
"""
LEAF = f"""
hostname = "leaf.example"
[users]
names = ["{ME}", "leo"]
passwords = "passwords"
[terminals]
utmp = "none"
allow = "anyone"
[[dial]]
name = "hub"
endpoint = "tcp:127.0.0.1:{{port}}"
command = "ATRN"
user = "leaf"
wait = "1m"
"""


def test_over_an_open_line_the_outcome_is_told_as_well(make_node: Any, run: Any, open_session: Any) -> None:
    hub = make_node(HUB, "hub")
    assert run(*PROGRAM, "--config", hub.file, "user", "password", "leaf", stdin="sesame\n").returncode == 0
    hub.start()
    leaf = make_node(LEAF.format(port=hub.port), "leaf")
    assert run(*PROGRAM, "--config", leaf.file, "user", "password", "leaf", stdin="sesame\n").returncode == 0
    leaf.start()
    there = attached(open_session, leaf)

    def send(verb: str, user: str) -> str:
        done = run(*PROGRAM, "--config", hub.file, verb, f"{user}@leaf.example", stdin="Lunch?\n")
        return str(done.stdout)

    hub.wait_until(
        lambda: send("send", ME) == f"{ME}@leaf.example  shown on a terminal\n", "an open line", 60
    )
    there.wait_for("Lunch?")
    assert send("send", "leo") == "leo@leaf.example  not shown: 450 User not active now\n"
    assert send("soml", "leo").startswith("leo@leaf.example  not active now, so mailed: 250 OK, queued as ")


# ------------------------------------------------------------------ what a stranger says


def test_what_the_other_host_says_reaches_the_terminal_filtered_and_short(tell: Any) -> None:
    evil = b"550-" + b"x" * 400 + b"\r\n550 \x1b]0;owned\x07\x9b2J\r\n"

    def serve(server: socket.socket) -> None:
        while True:
            try:
                channel, _ = server.accept()
            except OSError:
                return
            with channel, channel.makefile("rwb") as stream:
                stream.write(b"220 evil\r\n")
                stream.flush()
                while line := stream.readline():
                    verb = line[:4].upper()
                    stream.write(
                        b"250-evil\r\n250 SEND\r\n"
                        if verb == b"EHLO"
                        else evil
                        if verb == b"RCPT"
                        else b"250 OK\r\n"
                    )
                    stream.flush()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        done = tell(server.getsockname()[1])("send", "brown@usc.example")
        server.shutdown(socket.SHUT_RDWR)
    assert done.returncode == os.EX_NOUSER, done
    assert done.stdout.startswith("brown@usc.example  refused: 550 xxxx")
    assert done.stdout.rstrip("\n").isprintable() and len(done.stdout) < 300


# ------------------------------------------------------------------ where the node cannot be asked


def test_where_the_node_may_not_be_asked_its_reply_is_what_is_known(usc: Any, tell: Any) -> None:
    here = tell(usc.port)
    before = "brown@usc.example  accepted for a terminal: 250 OK, queued as "
    via = here("send", "--via", f"127.0.0.1:{here.node.port}", "brown@usc.example")
    assert (via.returncode, via.stderr) == (0, "") and via.stdout.startswith(before)
    text = here.node.file.read_text().replace("tcp:0:", f"tcp:{here.node.port}:")
    here.node.file.write_text(text)  # the listener is found without the socket
    (here.node.data / "control.sock").unlink()
    done = here("send", "brown@usc.example")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith(before)


AS_ANOTHER = """
import encodings.idna  # with all that follows: it may lie where the other user may not look
import importlib, os, pkgutil
import mailnode.commands
from mailnode.cli import main
for module in pkgutil.walk_packages(mailnode.commands.__path__, "mailnode.commands."):
    importlib.import_module(module.name)
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
main()
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody on the host may enter, and in which only we make files."""
    with tempfile.TemporaryDirectory(prefix="mailnode") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_who_may_not_do_what_the_node_may_hears_of_messages_of_ones_own(
    usc: Any, make_node: Any, run: Any, free_port: Any, public: Path
) -> None:
    # As root: a person of the host who is not the node's user.
    user = ME if os.geteuid() else pwd.getpwuid(65534).pw_name
    text = MIT.format(port=usc.port).replace(f'names = ["{ME}", "jones"]', f'names = ["{user}", "jones"]')
    text = text.replace("[terminals]\n", f'[terminals]\nsocket = "{public}/terminals.sock"\n')
    text += f'[[listen]]\nendpoint = "tcp:{free_port()}:interface=127.0.0.1"\n'
    mit = make_node(text, "mit").start()
    file = public / "mailnode.toml"
    file.write_text(mit.file.read_text())
    if os.geteuid():
        (mit.data / "control.sock").chmod(0)

    def send(*words: str) -> str:
        done = run(sys.executable, "-c", AS_ANOTHER, "--config", file, "send", *words, stdin="Lunch?\n")
        assert done.stderr == ""
        return str(done.stdout)

    assert send("brown@usc.example") == "brown@usc.example  not shown: 450 User not active now\n"
    forged = send("--from", "jones@mit.example", "brown@usc.example")
    assert forged.startswith("brown@usc.example  accepted for a terminal: 250 OK, queued as ")


def test_a_question_about_no_message_is_answered_and_many_at_once_do_no_harm(tell: Any, silent: int) -> None:
    here = tell(silent)
    node = here.node
    assert node.ask(do="became", id="nonsense", seconds=1e9)[-1] == {
        "ok": True, "whole": False, "recipients": [],
    }  # fmt: skip
    assert "error" in node.ask(do="became", id="x", seconds="soon")[-1]
    talk = node.talk()
    talk.codes("EHLO x", "SEND FROM:<a@mit.example>", "RCPT TO:<b@usc.example>", "DATA")
    id = talk.say("x\r\n.")[0].rpartition(" ")[2]
    channels = []
    for _ in range(40):
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(10)
        channel.connect(str(node.data / "control.sock"))
        channel.sendall(json.dumps({"do": "became", "id": id, "seconds": 1}).encode() + b"\n")
        channels.append(channel)
    began = time.monotonic()
    answers = [json.loads(channel.makefile().readline()) for channel in channels]
    assert time.monotonic() - began < 10
    (state,) = {answer["recipients"][0]["state"] for answer in answers}
    assert state == "leased"
    for channel in channels:
        channel.close()
