"""`mailnode terminal` on real pseudo-terminals: attached to a node, over its restarts, and at its limits."""

from __future__ import annotations

import json
import os
import pwd
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ME = pwd.getpwuid(os.geteuid()).pw_name
MIT = f"""
hostname = "mit.example"
[users]
names = ["{ME}", "jones"]
[terminals]
utmp = "none"
rate = 1000
rate_all = 1000
"""


@pytest.fixture
def node(make_node: Any) -> Any:
    return make_node(MIT).start()


@pytest.fixture
def attach(node: Any, open_session: Any) -> Callable[..., Any]:
    """Attaches a terminal of ours and waits until the node has it."""

    def attached(*words: str, **more: Any) -> Any:
        before = len(who(node))
        session = open_session(node.folder, "terminal", *words, **more)
        session.wait_for("^C ends it]")
        assert len(who(node)) == before + 1
        return session

    return attached


def who(node: Any) -> list[dict[str, Any]]:
    """What the node's socket says of who is attached."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(10)
        channel.connect(str(node.data / "terminals.sock"))
        channel.sendall(b'{"mailnode": "who", "version": 1}\n')
        stream = channel.makefile("rb")
        lines = [json.loads(line) for line in stream]
    assert lines.pop() == {"end": len(lines)}
    return lines


def send(node: Any, text: str, verb: str = "SEND", user: str = ME) -> list[int]:
    """The codes of a message from elsewhere: to the verb, the recipient and, if it was taken, the dot."""
    talk = node.talk()
    codes = talk.codes(
        "EHLO usc.example", f"{verb} FROM:<smith@usc.example>", f"RCPT TO:<{user}@mit.example>"
    )[1:]
    if codes[-1] < 300:
        codes += [*talk.codes("DATA"), int(talk.say(text + "\r\n.")[0][:3])]
    talk.close()
    return codes


# ------------------------------------------------------------------ what a person sees


def test_a_message_appears_on_the_attached_terminal_and_the_node_knows_it_did(node: Any, attach: Any) -> None:
    session = attach()
    assert send(node, "Lunch at one?") == [250, 250, 354, 250]
    screen = session.wait_for("EOF").splitlines()
    frame = next(index for index, line in enumerate(screen) if "Message from smith@usc.example" in line)
    assert screen[frame].startswith(" Message from smith@usc.example on mit.example at ")
    assert screen[frame + 1 : frame + 3] == ["Lunch at one?", "EOF"]
    assert session.octets.count(b"\a") == 1


def test_it_ends_with_ctrl_c_and_status_0(node: Any, attach: Any) -> None:
    session = attach()
    session.type("\x03")
    assert session.wait() == 0
    assert "mailnode: this terminal takes no messages any more" in session.shown()
    assert who(node) == [] and send(node, "x") == [250, 450]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_a_signal(node: Any, attach: Any, how: signal.Signals) -> None:
    session = attach()
    session.process.send_signal(how)
    assert session.wait() == 0 and who(node) == []


def test_several_terminals_of_one_person_all_show_it(node: Any, attach: Any) -> None:
    sessions = [attach() for _ in range(3)]
    assert send(node, "to all of them")[-1] == 250
    for session in sessions:
        assert session.wait_for("to all of them").count("EOF") == 1


def test_a_quiet_terminal_is_seen_but_not_written_to(node: Any, attach: Any) -> None:
    session = attach("--quiet")
    assert [terminal["accepting"] for terminal in who(node)] == [False]
    assert send(node, "x") == [250, 450]
    other = attach()
    assert send(node, "for the other")[-1] == 250
    other.wait_for("for the other")
    assert "for the other" not in session.shown()


def test_mesg_n_is_obeyed_at_the_moment_of_writing(node: Any, attach: Any) -> None:
    session = attach()
    os.chmod(session.device, 0o600)  # what mesg(1) does
    assert send(node, "too late") == [250, 250, 354, 451]
    assert send(node, "x", "SOML") == [250, 250, 354, 250] and len(node.wait_for_mail(ME)) == 1
    assert "too late" not in session.shown()
    node.wait_until(lambda: not who(node)[0]["accepting"], "the node knows of mesg n")
    assert send(node, "x") == [250, 450]
    os.chmod(session.device, 0o620)
    node.wait_until(lambda: who(node)[0]["accepting"], "the node knows of mesg y")
    assert send(node, "here again")[-1] == 250


def test_lines_are_folded_at_the_width_of_the_terminal_as_it_is(node: Any, attach: Any) -> None:
    session = attach(columns=70)
    text = "word " * 30
    send(node, text)
    rows = session.wait_for("EOF").splitlines()
    assert 50 < max(len(row) for row in rows if row.startswith("word")) < 70
    session.resize(110)  # SIGWINCH
    node.wait_until(
        lambda: send(node, text)[-1] == 250 and any(len(row) > 90 for row in session.shown().splitlines()),
        "a wider message",
    )


def test_a_stopped_terminal_is_not_reached_and_holds_nothing_up(node: Any, attach: Any) -> None:
    session = attach()
    session.type("\x13")  # ^S; then its buffer is filled
    text = "\r\n".join(["x" * 78] * 20)
    deadline = time.monotonic() + 15
    while (codes := send(node, text)) == [250, 250, 354, 250]:
        assert time.monotonic() < deadline
    assert codes == [250, 250, 354, 451]
    assert send(node, "by mail", "SOML") == [250, 250, 354, 250]
    assert len(who(node)) == 1  # its client said so itself, or it would have been dropped
    assert "by mail" in node.wait_for_mail(ME)[0]


def test_a_client_that_is_stopped_is_dropped_and_shows_nothing_late(node: Any, attach: Any) -> None:
    session = attach()
    session.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    assert send(node, "too late") == [250, 250, 354, 451]
    assert 0.9 < time.monotonic() - started < 6.0
    assert who(node) == []
    session.process.send_signal(signal.SIGCONT)
    session.wait_for("the node is back")
    assert send(node, "in time")[-1] == 250
    assert "too late" not in session.wait_for("in time")


def test_a_hung_up_terminal_ends_its_client(node: Any, attach: Any) -> None:
    session = attach()
    session.close = lambda: None
    os.close(session._master)
    assert session.process.wait(15) is not None
    node.wait_until(lambda: who(node) == [], "nobody is attached")


# ------------------------------------------------------------------ a node that comes and goes


def test_it_survives_restarts_of_the_node_and_says_each_of_it_once(node: Any, attach: Any) -> None:
    session = attach()
    for count in (1, 2):
        node.kill()
        session.wait_for("[mailnode: the node is away; this terminal waits for it]", count)
        time.sleep(0.7)  # several calls in vain
        node.start()
        session.wait_for("[mailnode: the node is back]", count)
        node.wait_until(lambda: len(who(node)) == 1, "it is attached again")
    assert session.shown().count("is away") == session.shown().count("is back") == 2
    assert send(node, "and on we go")[-1] == 250
    session.wait_for("and on we go")


def test_a_configuration_that_is_reread_holds_for_who_is_attached(node: Any, attach: Any) -> None:
    session = attach()
    text = node.file.read_text()
    node.file.write_text(text.replace("rate = 1000", 'welcome = ["@mit.example"]'))
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log("configuration reread")
    assert send(node, "x") == [250, 450]
    node.file.write_text(text.replace("rate = 1000", "attached = false"))
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log("configuration not reread: terminals.attached has changed, that needs a restart")
    node.file.write_text(text)
    node.process.send_signal(signal.SIGHUP)
    node.wait_until(lambda: send(node, "x") == [250, 250, 354, 250], "messages are welcome again")
    assert "is away" not in session.shown()


def test_a_node_that_is_stopped_lets_its_terminals_go(node: Any, attach: Any) -> None:
    session = attach()
    node.stop()
    session.wait_for("the node is away")
    assert not (node.data / "terminals.sock").exists()
    session.type("\x03")
    assert session.wait() == 0


def test_it_says_plainly_what_is_wrong(make_node: Any, open_session: Any, run: Any, tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from mailnode.cli import main; main()"]
    down = make_node(MIT, "down")
    session = open_session(down.folder, "terminal")
    assert session.wait() == os.EX_UNAVAILABLE
    assert "mailnode: no node with terminals runs with this configuration" in session.shown()
    off = make_node(MIT + "attached = false\n", "off").start()
    assert not (off.data / "terminals.sock").exists()
    session = open_session(off.folder, "terminal")
    assert session.wait() == os.EX_UNAVAILABLE
    assert "attached terminals are switched off" in session.shown()
    none = make_node('hostname = "mit.example"\n[users]\nnames = ["jones"]\n', "none").start()
    session = open_session(none.folder, "terminal")
    assert session.wait() == os.EX_NOPERM
    assert "mailnode: you are no user of this node" in session.shown()
    piped = run(*program, "--config", none.file, "terminal")
    assert piped.returncode == os.EX_USAGE
    assert piped.stderr == "mailnode: this is not a terminal: neither input nor output is one\n"


# ------------------------------------------------------------------ who


def test_who_shows_attached_terminals_on_80_columns_and_as_json(
    node: Any, attach: Any, open_session: Any, run: Any
) -> None:
    attach()
    attach("--quiet")
    screen = open_session(node.folder, "who")
    assert screen.wait() == 0
    heading, *rows = [line for line in screen.shown().splitlines() if not line.startswith("mailnode:")]
    assert heading.split() == ["USER", "TERMINAL", "KIND", "MESSAGES", "SINCE", "IDLE", "FROM"]
    # by the numbers of the terminals, and the second may have got the lower one
    assert sorted(row.split()[2:4] for row in rows) == [["attached", "no"], ["attached", "yes"]]
    program = [sys.executable, "-c", "from mailnode.cli import main; main()"]
    done = run(*program, "--config", node.file, "who", "--json", ME)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted((one["user"], one["kind"], one["accepting"]) for one in found) == [
        (ME, "attached", False),
        (ME, "attached", True),
    ]
    assert run(*program, "--config", node.file, "who", "jones").stdout == "jones is not logged in.\n"
    nobody = run(*program, "--config", node.file, "who", "nobody-here")
    assert (nobody.returncode, nobody.stderr) == (os.EX_NOUSER, "mailnode: no user nobody-here here\n")


# ------------------------------------------------------------------ what the host and the person say


def test_a_stranger_hears_the_same_words_whatever_the_reason(make_node: Any, open_session: Any) -> None:
    house = MIT.replace("rate = 1000", "rate = 2").replace("rate_all = 1000", 'welcome = ["@usc.example"]')
    node = make_node(house).start()
    session = open_session(node.folder, "terminal")
    session.wait_for("^C ends it]")

    def refusal(sender: str, user: str) -> str:
        talk = node.talk()
        talk.codes("EHLO usc.example", f"SEND FROM:<{sender}>")
        reply = talk.say(f"RCPT TO:<{user}@mit.example>")
        talk.close()
        return str(reply[0])

    assert [send(node, f"number {number}")[-1] for number in range(3)] == [250, 250, 450]
    words = {
        refusal("smith@usc.example", ME),  # too many
        refusal("green@isi.example", ME),  # not welcome
        refusal("smith@usc.example", "jones"),  # not there
    }
    assert words == {"450 4.2.1 User not active now"}
    assert send(node, "by mail then", "SOML") == [250, 250, 354, 250]
    assert "by mail then" in node.wait_for_mail(ME)[0]
    assert "by mail then" not in session.shown()


def test_a_terminal_in_utmp_is_written_to_once_and_as_its_client_says(
    make_node: Any, open_session: Any, tmp_path: Path, terminal: Any
) -> None:
    node = make_node(MIT.replace('utmp = "none"', f'utmp = "{terminal.utmp}"')).start()
    session = open_session(node.folder, "terminal")
    session.wait_for("^C ends it]")
    terminal.device = session.device
    terminal.log_in()
    program = [sys.executable, "-c", "from mailnode.cli import main; main()", "--config", str(node.file)]
    listed = subprocess.run([*program, "who", "--json"], capture_output=True, check=True, timeout=30).stdout
    assert [json.loads(line)["kind"] for line in listed.splitlines()] == ["attached"]
    assert send(node, "once only")[-1] == 250
    session.wait_for("once only")
    time.sleep(0.1)
    assert session.shown().count("once only") == 1
    session.process.terminate()
    assert session.wait() == 0
    node.wait_until(lambda: not who(node), "it is attached no more")
    assert send(node, "by utmp now")[-1] == 250
    assert session.shown().count("by utmp now") == 1


# ------------------------------------------------------------------ the socket


def test_anybody_may_connect_where_the_folder_lets_them_and_is_who_the_system_says(
    make_node: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o755)
    node = make_node(MIT + f'socket = "{folder}/terminals.sock"\n').start()
    path = folder / "terminals.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE((node.data / "control.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE(node.data.stat().st_mode) == 0o700
    script = (
        "import os, socket, sys\n"
        "channel = socket.socket(socket.AF_UNIX); channel.connect('terminals.sock')\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        'channel.sendall(b\'{"mailnode": "terminal", "version": 1, "user": "jones"}\\n\')\n'
        "sys.stdout.write(channel.makefile().readline())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, check=True, timeout=30
    )
    assert json.loads(answer.stdout)["attached"] == ME  # who connected, not who it says or became


def test_another_nodes_socket_and_another_kind_of_file_are_left_alone(make_node: Any, node: Any) -> None:
    config = MIT + f'socket = "{node.data}/terminals.sock"\n'
    second = make_node(config, "second")
    with pytest.raises(AssertionError, match="another node listens there"):
        second.start()
    assert who(node) == []  # the first one still listens
    file = node.folder / "precious"
    file.write_text("precious")
    third = make_node(MIT + f'socket = "{file}"\n', "third")
    with pytest.raises(AssertionError, match="a file that is no socket is there"):
        third.start()
    assert file.read_text() == "precious"


def test_clients_that_do_not_read_are_dropped_and_nobody_waits(node: Any) -> None:
    deaf = []
    for _ in range(15):
        channel = socket.socket(socket.AF_UNIX)
        channel.connect(str(node.data / "terminals.sock"))
        channel.sendall(b'{"mailnode": "terminal", "version": 1}\n')
        deaf.append(channel)
    node.wait_until(lambda: len(who(node)) == 15, "they are attached")
    talk = node.talk()
    talk.codes("EHLO x", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{ME}@mit.example>", "DATA")
    talk.raw(b"x" * 60000 + b"\r\n.\r\n")
    started = time.monotonic()
    other = node.talk()
    assert other.greeting and time.monotonic() - started < 0.5
    assert talk.reply()[0].startswith("451") and time.monotonic() - started < 3
    assert who(node) == []
    for channel in deaf:
        channel.close()


def test_one_login_name_cannot_take_all_the_connections(node: Any) -> None:
    channels = []
    for _ in range(60):
        channel = socket.socket(socket.AF_UNIX)
        channel.settimeout(10)
        channel.connect(str(node.data / "terminals.sock"))
        channels.append(channel)
    answers = [json.loads(channel.makefile().readline()) for channel in channels[20:]]
    assert {answer["error"] for answer in answers} == {"you have 20 terminals attached already"}
    for channel in channels:
        channel.close()
    node.wait_until(lambda: not _error(node), "there is room again")


def _error(node: Any) -> str:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(10)
        channel.connect(str(node.data / "terminals.sock"))
        channel.sendall(b'{"mailnode": "who", "version": 1}\n')
        return str(json.loads(channel.makefile().readline()).get("error", ""))


SERVER = """
import resource, sys, time
from itertools import count
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
from twisted.internet import reactor
from mailnode.terminals.attached import AttachedTerminals
uids = count(2000)
attached = AttachedTerminals("mit.example", lambda uid: f"u{uid}", lambda *_: False, reactor, time.time,
                             uid_of=lambda transport: next(uids))
reactor.listenUNIX(sys.argv[1], attached.factory, mode=0o666, backlog=2000)
print("ready", flush=True)
reactor.run()
"""


def test_a_thousand_terminals_of_a_thousand_users_cost_less_than_50_mb(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[1] < 2500:
        pytest.skip("this system does not let a process have that many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 2500), limit[1]))
    path = str(tmp_path / "terminals.sock")
    server = subprocess.Popen([sys.executable, "-c", SERVER, path], stdout=subprocess.PIPE)
    channels: list[socket.socket] = []
    try:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        before = resident(server.pid)
        for _ in range(1000):
            channel = socket.socket(socket.AF_UNIX)
            channel.settimeout(10)
            channel.connect(path)
            channel.sendall(b'{"mailnode": "terminal", "version": 1, "columns": 80, "line": "pts/1"}\n')
            channels.append(channel)
        users = {json.loads(channel.makefile().readline())["attached"] for channel in channels}
        assert len(users) == 1000
        cost = resident(server.pid) - before
        print(f"1,000 attached terminals: {cost / 1e6:.1f} MB")
        assert cost < 50e6
    finally:
        for channel in channels:
            channel.close()
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_left_of_what_was_attached(node: Any, attach: Any) -> None:
    for _ in range(3):
        session = attach()
        session.type("\x03")
        session.wait()
    assert who(node) == []
    ready, _, _ = select.select([], [], [], 0)
    assert ready == [] and "Traceback" not in node.text() and "Unhandled" not in node.text()
