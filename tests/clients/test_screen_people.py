"""Messages from other hosts appear to people who sit in front of real terminals: in tmux, by ssh, in pyte."""

from __future__ import annotations

import grp
import os
import re
import select
import statistics
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyte
import pytest

MIT = """
hostname = "mit.example"
[users]
names = ["{user}"]
[terminals]
utmp = "{utmp}"
charset = "{charset}"
rate = 1000
rate_all = 1000
"""
USC = """
hostname = "usc.example"
[routes]
"mit.example" = "tcp:127.0.0.1:{port}"
"""
SHELL = "PS1='$ ' exec sh"


@pytest.fixture
def mit(make_node: Any, utmp: Any) -> Any:
    """The node of the host that the terminals belong to."""
    return make_node(MIT.format(user=utmp.user, utmp=utmp.file, charset="utf-8"), "mit").start()


@pytest.fixture
def from_usc(mit: Any, make_node: Any, need: Any, run: Any, utmp: Any) -> Callable[[str, str], list[str]]:
    """Gives a message to a node elsewhere with Perl's Net::SMTP, by a verb; the replies to it."""
    perl = need("perl")
    if run(perl, "-MNet::SMTP", "-e1").returncode:
        pytest.skip("Perl's Net::SMTP is not installed")
    usc = make_node(USC.format(port=mit.port), "usc").start()

    def give(verb: str, message: str) -> list[str]:
        program = f"""
            use strict; use warnings; use Net::SMTP;
            my $smtp = Net::SMTP->new("127.0.0.1", Port => {usc.port}, Timeout => 20) or die $@;
            $smtp->{verb}('smith@usc.example'); print $smtp->code, "\\n";
            $smtp->to('{utmp.user}@mit.example'); print $smtp->code, "\\n";
            $smtp->data(join("", <STDIN>)); print $smtp->code, "\\n";
            $smtp->quit;
        """
        done = run(perl, "-e", program, stdin=message)
        assert done.returncode == 0, done.stderr
        return str(done.stdout).splitlines()

    return give


@pytest.fixture
def open_pty() -> Iterator[Callable[..., tuple[int, str]]]:
    """Opens pseudo-terminals that take messages: (the descriptor of the screen, the name of the device)."""
    with ExitStack() as open_ones:

        def make(raw: bool = True) -> tuple[int, str]:
            master, slave = os.openpty()
            if raw:
                tty.setraw(slave)
            os.set_blocking(master, False)
            os.fchmod(slave, 0o620)
            open_ones.callback(os.close, master)
            open_ones.callback(os.close, slave)
            return master, os.ttyname(slave)

        yield make


def read(master: int) -> bytes:
    octets = b""
    try:
        while piece := os.read(master, 65536):
            octets += piece
    except BlockingIOError:
        pass  # that was all
    return octets


def display(octets: bytes) -> list[str]:
    """The rows that an emulator shows, without the empty ones."""
    screen = pyte.Screen(80, 40)
    pyte.ByteStream(screen).feed(octets)
    # A wide character is followed by an empty cell.
    return [row.rstrip() for row in screen.display if row.strip()]


def width(device: str) -> int:
    """Columns of a terminal."""
    terminal = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return os.get_terminal_size(terminal).columns
    finally:
        os.close(terminal)


def takes_output(device: str) -> bool:
    terminal = os.open(device, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(terminal, select.POLLOUT)
        return bool(poll.poll(0))
    finally:
        os.close(terminal)


def accept_in(pane: Any) -> None:
    """`mesg y`, typed by the person who sits there."""
    pane.type("clear; mesg y; mesg")
    pane.wait_for("is y")


# ------------------------------------------------------------------ from another host


def test_a_send_of_another_nodes_client_appears_readable_in_tmux_and_pyte(
    from_usc: Any, utmp: Any, make_pane: Any, open_pty: Any, mit: Any, need: Any
) -> None:
    need("mesg")
    pane, (master, device) = make_pane(SHELL), open_pty()
    accept_in(pane)
    utmp.log_in(device, pane.device)
    message = (
        "From: Smith <smith@usc.example>\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe_=E6=BC=A2=E5=AD=97?=\n"
        "MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=b\n\n--b\n"
        "Content-Type: text/plain; charset=iso-8859-15\nContent-Transfer-Encoding: quoted-printable\n\n"
        "Lunch at the caf=E9?\nIt costs 10 =A4.\n--b\nContent-Type: text/html\n\n<b>Lunch</b>\n--b--\n"
    )
    assert from_usc("send", message) == ["250", "250", "250"]
    rows = ["Subject: Grüße 漢字", "Lunch at the café?", "It costs 10 €.", "EOF"]
    shown = pane.wait_for("EOF")
    assert re.search(r"^ Message from smith@usc\.example on mit\.example at \d\d:\d\d \.\.\.$", shown, re.M)
    assert [row for row in shown.splitlines() if row][-len(rows) :] == rows
    mit.wait_until(lambda: display(read(master))[1:] == rows, "the same in pyte")
    assert mit.mailbox(utmp.user) == [] and mit.left_in_spool() == []


def test_soml_of_another_nodes_client_with_nobody_there_is_mail(from_usc: Any, utmp: Any, mit: Any) -> None:
    assert from_usc("send_or_mail", "Subject: lunch\n\nLunch?\n") == ["250", "250", "250"]
    (message,) = mit.wait_for_mail(utmp.user)
    assert message.endswith("\nSubject: lunch\n\nLunch?\n")


def test_saml_of_another_nodes_client_is_on_the_screen_and_mail(
    from_usc: Any, utmp: Any, mit: Any, open_pty: Any
) -> None:
    master, device = open_pty()
    utmp.log_in(device)
    assert from_usc("send_and_mail", "Subject: lunch\n\nLunch?\n") == ["250", "250", "250"]
    (message,) = mit.wait_for_mail(utmp.user)
    assert message.endswith("\nSubject: lunch\n\nLunch?\n")
    shown: list[bytes] = []
    mit.wait_until(lambda: shown.append(read(master)) or b"EOF" in b"".join(shown), "it on the screen")
    assert display(b"".join(shown))[1:] == ["Subject: lunch", "Lunch?", "EOF"]


def test_a_person_who_came_by_ssh_sees_the_message(
    make_pane: Any, start_program: Any, need: Any, run: Any, tmp_path: Path, utmp: Any, mit: Any,
    free_port: Any, wait_for_port: Any, open_pty: Any,
) -> None:  # fmt: skip
    sshd, ssh = need("sshd"), need("ssh")
    need("mesg")
    if os.geteuid() and os.stat(open_pty()[1]).st_gid != grp.getgrnam("tty").gr_gid:
        pytest.skip("sshd gives terminals to the group tty, which only root may do where devpts does not")
    for name in ("host", "person"):
        made = run(need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name)
        assert made.returncode == 0, made.stderr
    (tmp_path / "known").write_text("* " + (tmp_path / "host.pub").read_text())
    port = free_port()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {tmp_path}/person.pub\nStrictModes no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\n"
    )
    if os.geteuid() == 0:  # what the service makes before it starts
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    start_program(sshd, "-D", "-e", "-f", tmp_path / "sshd_config")
    wait_for_port(port)
    pane = make_pane(
        f"exec {ssh} -tt -F none -i {tmp_path}/person -o UserKnownHostsFile={tmp_path}/known "
        f"-o IdentitiesOnly=yes -p {port} {utmp.user}@127.0.0.1 'export PS1=\"over ssh: \"; exec sh'"
    )
    pane.wait_for("over ssh:")
    pane.type("tty; mesg y; mesg")
    device = re.findall(r"^/dev/pts/\d+$", pane.wait_for("is y"), re.M)[-1]
    assert device != pane.device  # the terminal that sshd made, behind the one of tmux
    utmp.log_in(device)
    talk = mit.talk()
    opening = ("HELO usc.example", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{utmp.user}@mit.example>")
    assert talk.codes(*opening, "DATA", "Lunch? \xc3\xa9\r\n.") == [250, 250, 250, 354, 250]
    shown = pane.wait_for("EOF")
    assert " Message from smith@usc.example on mit.example at " in shown and "\nLunch? é\n" in shown
    pane.type("exit")


# ------------------------------------------------------------------ what the person decides


# What is said to the dot when nobody can be reached any more; SOML and SAML are in the mailbox then.
FALLBACKS = (("SEND", 451), ("SOML", 250), ("SAML", 250))


def test_mesg_n_after_the_recipient_and_before_the_data_is_honoured(
    mit: Any, utmp: Any, make_pane: Any, need: Any
) -> None:
    need("mesg")
    pane = make_pane(SHELL)
    utmp.log_in(pane.device)
    talk = mit.talk()
    talk.say("HELO usc.example")
    for verb, code in FALLBACKS:
        accept_in(pane)
        assert talk.codes(f"{verb} FROM:<smith@usc.example>") == [250]
        assert talk.say(f"RCPT TO:<{utmp.user}@mit.example>") == ["250 OK"]
        pane.type("clear; mesg n; mesg")
        pane.wait_for("is n")
        assert talk.codes("DATA", f"Lunch by {verb}?\r\n.") == [354, code]
    assert [message[-15:] for message in mit.wait_for_mail(utmp.user, 2)] == [
        "Lunch by SOML?\n",
        "Lunch by SAML?\n",
    ]
    accept_in(pane)
    assert "Lunch" not in pane.shown()


def test_a_window_that_is_closed_before_the_dot_falls_back(mit: Any, utmp: Any) -> None:
    talk = mit.talk()
    talk.say("HELO usc.example")
    for verb, code in FALLBACKS:
        master, slave = os.openpty()
        os.fchmod(slave, 0o620)
        utmp.log_in(os.ttyname(slave))
        assert talk.codes(f"{verb} FROM:<smith@usc.example>") == [250]
        assert talk.say(f"RCPT TO:<{utmp.user}@mit.example>") == ["250 OK"]
        os.close(master)  # hung up; the program in it has not noticed yet
        assert talk.codes("DATA", f"Lunch by {verb}?\r\n.") == [354, code]
        os.close(slave)
    assert [message[-15:] for message in mit.wait_for_mail(utmp.user, 2)] == [
        "Lunch by SOML?\n",
        "Lunch by SAML?\n",
    ]


def test_a_line_is_folded_where_the_window_ends_now(mit: Any, utmp: Any, make_pane: Any, need: Any) -> None:
    need("mesg")
    pane = make_pane(SHELL)
    accept_in(pane)
    utmp.log_in(pane.device)
    talk = mit.talk()
    widths = []
    for columns in (120, 40):
        pane.tell("resize-window", "-x", str(columns))
        mit.wait_until(lambda columns=columns: width(pane.device) == columns, "the other width")
        pane.type("clear")
        mit.wait_until(lambda: "EOF" not in pane.shown(), "an empty screen")
        opening = ("HELO usc.example", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{utmp.user}@mit.example>")
        assert talk.codes(*opening, "DATA", "x" * 150 + "\r\n.") == [250, 250, 250, 354, 250]
        widths.append([len(row) for row in pane.wait_for("EOF").splitlines() if set(row) == {"x"}])
    assert widths == [[119, 31], [39, 39, 39, 33]]


def test_a_terminal_that_reads_ascii_alone_gets_escapes(make_node: Any, utmp: Any, open_pty: Any) -> None:
    master, device = open_pty()
    utmp.log_in(device)
    node = make_node(MIT.format(user=utmp.user, utmp=utmp.file, charset="ascii")).start()
    talk = node.talk()
    opening = ("HELO usc.example", "SEND FROM:<smith@usc.example>", f"RCPT TO:<{utmp.user}@mit.example>")
    assert talk.codes(*opening, "DATA", "caf\xc3\xa9\r\n.") == [250, 250, 250, 354, 250]
    assert display(read(master))[1:] == ["caf\\u{e9}", "EOF"]


# ------------------------------------------------------------------ nobody waits


def test_twenty_stopped_terminals_hold_nothing_up(mit: Any, utmp: Any, open_pty: Any) -> None:
    stopped = [open_pty(raw=False) for _ in range(20)]
    utmp.log_in(*(device for _, device in stopped))
    for master, device in stopped:
        os.write(master, b"\x13")  # ^S, as it is typed
        mit.wait_until(lambda device=device: not takes_output(device), f"{device} has stopped")
    opening = ("SEND FROM:<smith@usc.example>", f"RCPT TO:<{utmp.user}@mit.example>", "DATA")
    writer = mit.talk()
    writer.say("HELO usc.example")
    waits = []
    for _ in range(15):
        assert writer.codes(*opening) == [250, 250, 354]
        writer.raw(b"Lunch?\r\n.\r\n")
        began = time.monotonic()
        newcomer = mit.talk()
        waits.append(time.monotonic() - began)
        assert newcomer.greeting[0].startswith("220 ")
        newcomer.close()
        assert writer.reply()[0].startswith("451 ")  # the outcome is true: nobody has seen it
    assert statistics.median(waits) < 0.05, waits

    master, device = open_pty()
    utmp.log_in(*(device for _, device in stopped), device)
    assert writer.codes(*opening, "Lunch?\r\n.") == [250, 250, 354, 250]  # one of twenty-one
    assert display(read(master))[1:] == ["Lunch?", "EOF"]
    for screen, device in stopped:
        os.write(screen, b"\x11")  # ^Q
        mit.wait_until(lambda device=device: takes_output(device), f"{device} goes on")
    assert writer.codes(*opening, "Dinner?\r\n.") == [250, 250, 354, 250]
    assert all(display(read(screen))[-2:] == ["Dinner?", "EOF"] for screen, _ in stopped)
