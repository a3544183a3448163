"""The life of a node as a process: two of them over one spool, the end by signal, and disks that refuse."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.waiting import wait_until

PATIENCE = 15.0  # seconds

NODE = """
hostname = "mit.example"
drain = 5
[users]
names = ["jones", "brown"]
[retry]
first = "1s"
"""
OPENING = ("HELO client.example", "MAIL FROM:<smith@usc.example>", "RCPT TO:<jones@mit.example>", "DATA")


def spooled(node: Any) -> list[str]:
    """The states of the recipients in the spool."""
    spool = SqliteSpool(str(node.data), None, time.time)
    try:
        found: list[Any] = []
        spool.listing(Selection()).addCallback(found.extend)
        return [recipient.state for message in found for recipient in message.recipients]
    finally:
        spool.close()


def wait_for_nothing_in(folder: Path) -> None:
    wait_until(lambda: not os.listdir(folder), f"nothing in {folder}")


def give(node: Any, text: str = "hello", *users: str) -> int:
    """One message on a connection of its own; the code of the first reply that refuses it, or 250."""
    talk = node.talk()
    code = 0
    opening = (*OPENING[:2], *(f"RCPT TO:<{user}@mit.example>" for user in users or ("jones",)), OPENING[3])
    for command in (*opening, f"Subject: x\r\n\r\n{text}\r\n."):
        (code,) = talk.codes(command)
        if code >= 400:
            break
    talk.close()
    return code


def wait_for_end(node: Any, seconds: float) -> float:
    """How long the process took to end; fails the test after `seconds`."""
    start = time.monotonic()
    wait_until(lambda: node.process.poll() is not None, "the end of the process", seconds)
    return time.monotonic() - start


# ----------------------------------------------------------------- two processes


def test_a_receiver_and_a_sender_over_one_spool_deliver_together(make_node: Any) -> None:
    receiver = make_node(NODE, plugin="mailnode-receiver").start()
    assert give(receiver, "before") == 250
    assert spooled(receiver) == ["queued"]  # taken, and safe while nobody works the spool off
    sender = make_node(NODE, plugin="mailnode-sender").start()
    sender.wait_for_mail("jones")
    start = time.monotonic()
    assert give(receiver, "after") == 250
    sender.wait_for_mail("jones", 2)
    assert time.monotonic() - start < 5  # woken, not by a poll of half a minute
    assert sender.stop() == -signal.SIGTERM
    assert give(receiver, "meanwhile") == 250
    sender.start()
    assert len(sender.wait_for_mail("jones", 3)) == 3
    wait_until(lambda: spooled(receiver) == [], "an empty spool")


def test_a_process_that_only_sends_listens_to_nobody(make_node: Any) -> None:
    sender = make_node(NODE, plugin="mailnode-sender").start()
    assert sender.status()["listening"] == []


@pytest.mark.parametrize("plugin", ["mailnode", "mailnode-sender"])
def test_a_second_one_that_would_work_the_spool_off_ends_with_one_clear_line(
    make_node: Any, plugin: str
) -> None:
    first = make_node(NODE, plugin="mailnode-sender").start()
    second = make_node(NODE, plugin=plugin)
    if plugin == "mailnode-sender":
        second.log = second.folder / "second.log"
    # the pid file, which twistd looks at before us, is that of another place
    os.rename(first.folder / "mailnode-sender.pid", first.folder / "first.pid")
    with pytest.raises(AssertionError):
        second.start()
    assert second.process.returncode == 1
    lines = [line for line in second.text().splitlines() if line.startswith("data: ")]
    assert lines == [f"data: {first.data}: another node works this spool off"]
    assert "Traceback" not in second.text() and "Unhandled" not in second.text()
    assert first.process.poll() is None and first.status()["pid"] == first.process.pid


# ----------------------------------------------------------------- SIGTERM


def test_a_second_receiver_on_a_folder_ends_with_one_clear_line_and_harms_nobody(make_node: Any) -> None:
    first = make_node(NODE, plugin="mailnode-receiver").start()
    text = first.file.read_text() + f'[terminals]\nsocket = "{first.folder}/other.sock"\n'
    second = make_node(text, "second", plugin="mailnode-receiver")
    with pytest.raises(AssertionError):
        second.start()
    lines = [line for line in second.text().splitlines() if line.startswith("data: ")]
    assert lines == [f"data: cannot listen on {first.data}/receiver.sock: another node listens there"]
    assert first.status()["pid"] == first.process.pid and "OneShotFactory" not in first.text()


def test_sigterm_tells_idle_clients_and_ends_at_once(make_node: Any) -> None:
    node = make_node(NODE.replace("drain = 5", "drain = 2")).start()
    idle = [node.talk() for _ in range(3)]
    assert idle[0].codes("HELO a") == [250]
    assert idle[1].codes(*OPENING[:3]) == [250, 250, 250]  # in a transaction, and idle
    node.process.send_signal(signal.SIGTERM)
    for talk in (idle[0], idle[2]):
        (farewell,) = talk.reply()
        assert farewell.startswith("421 mit.example")
        assert talk.reply() == []
    # who is in a transaction may go on with it, but not for ever
    assert wait_for_end(node, 8) < 4
    assert node.process.returncode == -signal.SIGTERM
    assert "mailnode stopped" in node.text()


def test_sigterm_with_nobody_there_ends_at_once(make_node: Any) -> None:
    node = make_node(NODE).start()
    node.process.send_signal(signal.SIGTERM)
    assert wait_for_end(node, 5) < 2


@pytest.mark.parametrize("size", [100, 300_000], ids=["small", "large"])
def test_a_message_in_mid_data_at_sigterm_is_finished_and_kept(make_node: Any, size: int) -> None:
    node = make_node(NODE).start()
    talk = node.talk()
    assert talk.codes(*OPENING) == [250, 250, 250, 354]
    half = b"x" * 60 + b"\r\n"
    talk.raw(b"Subject: x\r\n\r\n" + half * (size // 62))
    node.process.send_signal(signal.SIGTERM)
    node.wait_for_log("going down")
    talk.raw(half * (size // 62) + b"the end\r\n.\r\n")
    assert [line[:3] for line in talk.reply()] == ["250"]
    assert [line[:3] for line in talk.reply()] == ["421"]
    assert wait_for_end(node, 8) < 5
    if not node.mailbox("jones"):  # it may have been delivered on the way out, or it waits
        assert spooled(node) == ["queued"]
        node.start()
    (message,) = node.wait_for_mail("jones")
    assert message.endswith("\nthe end\n") and message.count("x" * 60) == 2 * (size // 62)


def test_a_message_that_is_not_finished_in_time_leaves_nothing_behind(make_node: Any) -> None:
    node = make_node(NODE.replace("drain = 5", "drain = 1")).start()
    talk = node.talk()
    assert talk.codes(*OPENING) == [250, 250, 250, 354]
    talk.raw(b"x" * 60 + b"\r\n")
    talk.raw((b"x" * 60 + b"\r\n") * 5000)
    node.process.send_signal(signal.SIGTERM)
    assert wait_for_end(node, 8) < 4
    assert spooled(node) == [] and node.mailbox("jones") == []
    node.start()
    for folder in ("drafts", "bodies"):
        wait_for_nothing_in(node.data / folder)


def test_a_next_host_that_does_not_answer_does_not_hold_up_the_end(make_node: Any) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        routes = f'[routes]\n"usc.example" = "tcp:127.0.0.1:{silent.getsockname()[1]}"\n'
        node = make_node(NODE.replace("drain = 5", "drain = 1") + routes).start()
        talk = node.talk()
        assert talk.codes(*OPENING[:2], "RCPT TO:<x@usc.example>", "DATA", "hi\r\n.", "QUIT")[-2:] == [
            250,
            221,
        ]
        silent.settimeout(PATIENCE)
        channel, _ = silent.accept()  # and never a greeting
        node.process.send_signal(signal.SIGTERM)
        assert wait_for_end(node, 8) < 4
        channel.close()
        assert spooled(node) in (["queued"], ["leased"])  # a lease of the dead is taken back at the start
    finally:
        silent.close()


# ----------------------------------------------------------------- SIGHUP


def reread(node: Any, config: str) -> None:
    """Writes a new configuration where the old one was, and says SIGHUP."""
    listen = '\n[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
    node.file.write_text(f'data = "{node.data}"\n' + config + listen)
    node.process.send_signal(signal.SIGHUP)


def test_sighup_rereads_the_configuration_and_drops_no_connection(make_node: Any) -> None:
    node = make_node(NODE).start()
    talk = node.talk()
    assert talk.codes(*OPENING[:2], "RCPT TO:<green@mit.example>", OPENING[2]) == [250, 250, 550, 250]
    reread(
        node,
        NODE.replace('"brown"', '"brown", "green"').replace("[retry]", '[aliases]\nboss = "green"\n[retry]'),
    )
    node.wait_for_log("configuration reread")
    assert talk.codes("DATA", "hi\r\n.") == [354, 250]  # goes on as if nothing had been
    node.wait_for_mail("jones")
    assert give(node, "hello", "green") == 250
    assert give(node, "hello", "boss") == 250
    assert len(node.wait_for_mail("green", 2)) == 2
    assert talk.codes("NOOP", "QUIT") == [250, 221]

    reread(node, NODE)
    wait_until(lambda: node.text().count("configuration reread") == 2, "the configuration reread again")
    assert give(node, "hello", "green") == 550
    assert give(node) == 250


def test_a_broken_configuration_is_refused_whole_and_changes_nothing(make_node: Any) -> None:
    node = make_node(NODE).start()
    reread(node, NODE.replace('"brown"', '"green"').replace("first", "frist") + "[relay]\nnetworks = [1]\n")
    node.wait_for_log("configuration not reread: relay.networks[0]: ")
    assert "configuration not reread: retry.frist: " in node.text()
    reread(node, "hostname = \n")
    node.wait_for_log("configuration not reread: " + str(node.file))
    node.file.unlink()
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: node.text().count("configuration not reread") >= 4, "a log line about the file")
    assert [give(node, "hello", user) for user in ("brown", "green", "jones")] == [250, 550, 250]
    assert "configuration reread" not in node.text() and "Traceback" not in node.text()


def test_what_needs_a_restart_is_said_and_not_half_done(make_node: Any) -> None:
    node = make_node(NODE).start()
    reread(node, NODE.replace('"mit.example"', '"other.example"').replace('"brown"', '"green"'))
    node.wait_for_log("configuration not reread: hostname has changed")
    assert [give(node, "hello", user) for user in ("brown", "green")] == [250, 550]


def test_a_corrected_configuration_reroutes_what_is_queued(make_node: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        route = f'[routes]\n"usc.example" = "tcp:127.0.0.1:{nobody.getsockname()[1]}"\n'
    node = make_node(NODE + route).start()
    talk = node.talk()
    opening = (*OPENING[:2], "RCPT TO:<jones@usc.example>", OPENING[3])
    assert talk.codes(*opening, "hi\r\n.", "QUIT") == [250, 250, 250, 354, 250, 221]
    node.wait_for_log("later: MAIL to <jones@usc.example> at usc.example: 451 4.4.1 Cannot connect")
    reread(node, 'domains = ["mit.example", "usc.example"]\n' + NODE)
    (message,) = node.wait_for_mail("jones")
    assert message.endswith("\n\nhi\n")


# ----------------------------------------------------------------- disks that refuse


def limit_files(node: Any, octets: int | None) -> None:
    """No file of the node may grow past `octets` from now on: writes fail as on a full disk."""
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (hard if octets is None else octets, hard))


def test_a_disk_that_takes_nothing_more_is_452_or_451_and_the_node_lives(make_node: Any) -> None:
    node = make_node(NODE).start()
    assert give(node, "first") == 250
    node.wait_for_mail("jones")
    largest = max(file.stat().st_size for file in node.data.rglob("*") if file.is_file())
    limit_files(node, max(largest, node.log.stat().st_size) + 60_000)
    line = "x" * 70 + "\r\n"
    codes = {give(node, line * 4000) for _ in range(8)}  # 280 KiB: a file of its own
    assert codes <= {451, 452}, codes
    codes = {give(node, line * 700, "jones", "brown") for _ in range(8)}  # 50 KiB for two: a row
    assert codes <= {250, 451, 452} and codes & {451, 452}, codes
    assert node.process.poll() is None and node.talk().codes("HELO a", "NOOP") == [250, 250]

    limit_files(node, None)
    assert give(node, line * 4000) == 250
    assert give(node, "last") == 250
    wait_until(lambda: any(it.endswith("\nlast\n") for it in node.mailbox("jones")), "the last message")
    wait_until(lambda: spooled(node) == [], "an empty spool", 40)
    node.wait_for_empty_spool()  # drafts are removed after the reply, bodies after the delivery


def test_a_mailbox_that_cannot_be_written_delays_its_mail_and_loses_none(make_node: Any) -> None:
    node = make_node(NODE).start()
    (node.data / "mail").mkdir()
    (node.data / "mail" / "jones").write_text("a file where the folder should be")
    assert give(node, "hello") == 250
    assert give(node, "hello", "brown") == 250
    node.wait_for_mail("brown")  # the others have nothing to do with it
    wait_until(lambda: spooled(node) == ["queued"], "the message waits")
    (node.data / "mail" / "jones").unlink()
    (message,) = node.wait_for_mail("jones")
    assert message.endswith("\nhello\n")


def test_a_message_that_the_disk_has_no_room_for_is_452_at_once(make_node: Any) -> None:
    node = make_node(NODE + '[limits]\nmessage_size = "1024G"\n').start()
    disk = os.statvfs(node.data)
    free = min(disk.f_bavail * disk.f_frsize, (1 << 40) - 1)
    talk = node.talk()
    assert talk.codes("EHLO a", f"MAIL FROM:<a@b.example> SIZE={free + 1}", "NOOP") == [250, 452, 250]
    assert talk.codes("MAIL FROM:<a@b.example> SIZE=1000") == [250]


def test_a_data_folder_that_cannot_be_made_is_one_clear_line(make_node: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    node = make_node(f'data = "{tmp_path}/file/data"\n' + NODE)
    with pytest.raises(AssertionError):
        node.start()
    assert node.process.returncode == 1
    lines = [line for line in node.text().splitlines() if line.startswith("data: ")]
    assert len(lines) == 1 and "Not a directory" in lines[0]
    assert "Traceback" not in node.text()


# ----------------------------------------------------------------- the control socket


def control(node: Any) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX)
    channel.settimeout(PATIENCE)
    channel.connect(str(node.data / "control.sock"))
    return channel


def serves(node: Any) -> bool:
    with suppress(ConnectionError, ValueError):  # those before us are not all forgotten yet
        return "pid" in node.status()
    return False


def test_garbage_on_the_control_socket_is_an_error_and_harms_nobody(make_node: Any) -> None:
    node = make_node(NODE).start()
    assert (node.data / "control.sock").stat().st_mode & 0o777 == 0o600
    lines = [
        b"",
        b"\x00\xff\xfe",
        b"nonsense",
        b"[1]",
        b"null",
        b'"status"',
        b"{}",
        b'{"do": []}',
        b'{"do": {"do": 1}}',
        b'{"do": "__class__"}',
        b'{"do": "dial"}',
        b'{"do": "dial", "name": {"a": 1}}',
        b"[" * 5000,
        b"1" * 6000,
        b'{"do": "\\ud800"}',
    ]
    for line in lines:
        with control(node) as channel, channel.makefile("rwb") as stream:
            stream.write(line + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
            assert set(answer) == {"error"}, (line, answer)
    draw = random.Random(821)
    for _ in range(20):
        with control(node) as channel:
            channel.sendall(draw.randbytes(2000))
    with control(node) as channel, channel.makefile("rb") as stream:
        channel.sendall(b"x" * 70_000)  # a line without an end
        assert json.loads(stream.readline()) == {"error": "request too long"}
        assert stream.readline() == b""
    served = 0
    with ExitStack() as many:
        for _ in range(60):  # more than are served at once
            caller = many.enter_context(control(node))
            with suppress(ConnectionError):  # it may be closed before we say a word
                caller.sendall(b'{"do": "status"}\n')
                served += b'"ok": true' in caller.recv(4096)
    assert served == 50
    wait_until(lambda: serves(node), "the control socket serves again")
    assert give(node) == 250
    node.wait_for_mail("jones")
    assert "Traceback" not in node.text()


# ----------------------------------------------------------------- the wall clock


# libfaketime is of no use here: it makes clock_nanosleep fail, on which time.sleep stands. Python imports
# this file before everything else.
CLOCK = """
import time
real = time.time
def stepped():
    with open("OFFSET") as file:
        return real() + float(file.read())
time.time = stepped
"""


@pytest.fixture
def stepped_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """What is started from now on has a time of day that is off by the seconds given to this function."""
    offset = tmp_path / "offset"

    def step(seconds: float) -> None:
        draft = tmp_path / "offset.draft"
        draft.write_text(str(seconds))
        draft.rename(offset)

    step(0)
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CLOCK.replace("OFFSET", str(offset)))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return step


@pytest.mark.parametrize("step", [-2 * 86400, 10 * 86400], ids=["two days back", "ten days on"])
def test_a_wall_clock_that_is_stepped_neither_starves_nor_fires_any_timer(
    make_node: Any, stepped_clock: Any, step: int
) -> None:
    node = make_node(NODE + '[limits]\ncommand_timeout = "2s"\n').start()
    blocked = node.data / "mail" / "brown"
    blocked.parent.mkdir()
    blocked.write_text("a file where the folder should be")
    assert give(node, "hello", "brown") == 250
    wait_until(lambda: spooled(node) == ["queued"], "the message waits")
    start = time.monotonic()
    talk = node.talk()
    assert talk.codes("HELO a") == [250]
    stepped_clock(step)
    assert talk.codes("NOOP") == [250]  # set forward, no time-out comes at once
    assert give(node) == 250
    (message,) = node.wait_for_mail("jones")
    arrived = parsedate_to_datetime(message.partition(";\n")[2].partition("\n")[0].strip()).timestamp()
    assert abs(arrived - time.time() - step) < 60  # the clock of the node did step
    (farewell,) = talk.reply()  # set back, it comes all the same
    assert farewell.startswith("421 ") and 1.5 < time.monotonic() - start < 8
    # a retry that was due before the step is neither put off by two days, nor is its mail given up
    blocked.unlink()
    assert give(node) == 250  # the spool is looked at
    node.wait_for_mail("brown")
    wait_until(lambda: spooled(node) == [], "an empty spool")
    assert len(node.wait_for_mail("jones", 2)) == 2
    assert node.stop() == -signal.SIGTERM
