"""fetchmail fetches from the node, by ODMR (RFC 2645) and by ETRN (RFC 1985).

What it needs, as its source has it (odmr.c, etrn.c, sink.c, driver.c):
- ODMR: a line `ATRN` in the first EHLO; then always AUTH CRAM-MD5; then `ATRN` with what --fetchdomains
  names, or with the name of its own host. After the 250 it is a pipe, line by line, between the node and
  an SMTP host of its own, which it connects to only then; if it cannot, it closes without a word.
- ETRN: a line `ETRN` in EHLO, no AUTH unless it is told to; 251 ends it as "no mail".
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.spools import spooled, wait_for_spool
from tests.clients.waiting import wait_until

SECRET = "open sesame"

PROOF = f'esmtpname "leaf" esmtppassword "{SECRET}"'  # what makes it authenticate before ETRN

# fetchmail(1), "EXIT CODES"
OK, NO_SOCKET, NO_RIGHT, PROTOCOL = 0, 2, 3, 4
ERROR = 128  # smtp.h: what it makes of a 5xx to AUTH

HUB = """
hostname = "hub.example"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "tcp:ODMR:interface=127.0.0.1"
role = "odmr"
[users]
names = ["hubert"]
passwords = "passwords"
[relay]
networks = []
[retry]
first = "1s"
[routes]
"*" = "hold"
[[peer]]
name = "leaf"
domains = ["leaf.example", "branch.example"]
allow = ["auth"]
cram_md5 = true
deliver = "tcp:127.0.0.1:LEAF"
[[peer]]
name = "other"
domains = ["other.example"]
allow = ["auth"]
"""
LEAF = """
hostname = "leaf.example"
domains = ["leaf.example", "branch.example"]
[[listen]]
endpoint = "tcp:PORT:interface=127.0.0.1"
[users]
names = ["leo", "lea"]
[relay]
networks = []
"""


def give(hub: Any, octets: bytes, *recipients: str) -> None:
    """A message by a stranger, octet for octet, which the hub holds when this returns."""
    recipients = recipients or ("leo@leaf.example",)
    before = len(spooled(hub))
    talk = hub.talk()
    codes = talk.codes(
        "EHLO usc.example", "MAIL FROM:<smith@usc.example>", *(f"RCPT TO:<{it}>" for it in recipients)
    )
    assert codes == [250, 250, *[250] * len(recipients)], codes
    talk.raw(f"BDAT {len(octets)} LAST\r\n".encode() + octets)
    assert talk.reply()[0][:3] == "250"
    assert talk.codes("QUIT") == [221]
    talk.close()
    wait_until(
        lambda: [state for state, _ in spooled(hub)] == ["held"] * (before + len(recipients)), "held mail"
    )


# They share one pair of nodes.
pytestmark = pytest.mark.xdist_group("fetchmail")


class Fetchmail:
    """Runs fetchmail once, with a file of its own that says what to fetch and where to."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self.rc = folder / "fetchmailrc"

    def __call__(
        self,
        protocol: str,
        port: int,
        smtp: int,
        domains: Sequence[str] = ("leaf.example",),
        secret: str = SECRET,
        more: str = "",
    ) -> subprocess.CompletedProcess[str]:
        names = " ".join(f'"{domain}"' for domain in domains)
        self.rc.touch(0o600)
        self.rc.write_text(
            f"poll 127.0.0.1 protocol {protocol} port {port} timeout 10 no dns {more}\n"
            f'  user "leaf" password "{secret}" smtphost "127.0.0.1/{smtp}"\n'
            + (f"  fetchdomains {names}\n" if names else "")
        )
        # One fetchmail runs at a time for each lock file, which for root is one for the whole host.
        lock = ["--pidfile", str(self._folder / "fetchmail.pid")]
        return subprocess.run(
            [self._program, "-v", "-v", "--nosyslog", "--nodetach", *lock, "-f", str(self.rc)],
            env={**os.environ, "LC_ALL": "C", "FETCHMAILHOME": str(self._folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="latin-1",
            timeout=20,
            check=False,
        )


@pytest.fixture
def fetchmail(need: Callable[[str], str], tmp_path: Path) -> Fetchmail:
    return Fetchmail(need("fetchmail"), tmp_path)


@pytest.fixture(scope="module")
def leaf_port(free_port: Callable[[], int]) -> int:
    return free_port()


@pytest.fixture(scope="module")
def shared_hub(
    make_shared_node: Callable[..., Any], leaf_port: int, free_port: Callable[[], int], need: Any
) -> Any:
    need("fetchmail")
    text = HUB.replace("LEAF", str(leaf_port)).replace("ODMR", str(free_port()))
    node = make_shared_node(text, "hub")
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    passwords.set("leaf", SECRET, recoverable=True)  # CRAM-MD5 needs it as it is
    return node.start()


@pytest.fixture(scope="module")
def shared_leaf(make_shared_node: Callable[..., Any], leaf_port: int, shared_hub: Any) -> Any:
    return make_shared_node(LEAF.replace("PORT", str(leaf_port)), "leaf").start()


@pytest.fixture
def hub(shared_hub: Any) -> Iterator[Any]:
    """The hub, which has no mail yet."""
    yield shared_hub
    empty(shared_hub)


@pytest.fixture
def leaf(shared_leaf: Any) -> Iterator[Any]:
    """The leaf, which has no mail yet."""
    yield shared_leaf
    empty(shared_leaf)


def empty(node: Any) -> None:
    """Takes away all mail, also what some connection still has in hand."""

    def delete() -> bool:
        spool = SqliteSpool(str(node.data), None, time.time)
        try:
            spool.change(Selection(), "delete").addErrback(pytest.fail)
        finally:
            spool.close()
        return not node.left_in_spool()

    wait_until(delete, "an empty spool")
    shutil.rmtree(node.data / "mail", ignore_errors=True)


def odmr(hub: Any) -> int:
    (port,) = (it["where"].rsplit(":", 1)[1] for it in hub.status()["listening"] if it["role"] == "odmr")
    return int(port)


class Host:
    """An SMTP host of the test's own for fetchmail to connect to; `serve` gets each connection's stream."""

    def __init__(self, serve: Callable[[Any], None]) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._serve = serve
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                channel, _ = self._server.accept()
                channel.settimeout(15)
                with suppress(ConnectionError), channel, channel.makefile("rwb", buffering=0) as stream:
                    self._serve(stream)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(15)


@pytest.fixture
def make_host() -> Iterator[Callable[[Callable[[Any], None]], Host]]:
    hosts: list[Host] = []

    def make(serve: Callable[[Any], None]) -> Host:
        hosts.append(Host(serve))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


HELD = ("held", "leo@leaf.example")
MESSAGE = b"Subject: x\r\n\r\none\r\n"


def texts(node: Any, user: str = "leo", count: int = 1) -> list[bytes]:
    """What stands under the headers of the messages of a user, sorted, once there are `count`."""
    node.wait_for_mail(user, count)
    return sorted(octets.partition(b"\n\n")[2] for octets in node.octets(user))


# ----------------------------------------------------------------- ODMR


def test_it_fetches_by_odmr_whatever_the_messages_hold(fetchmail: Fetchmail, hub: Any, leaf: Any) -> None:
    bodies = [
        b"one\r\n",
        b".\r\n..\r\n.two\r\n",
        "drei gr\u00fcne \u00e4pfel\r\n".encode(),
        b"x" * 998 + b"\r\nfour\r\n",
        b"".join(b"%06d %s\r\n" % (number, b"y" * 60) for number in range(5000)),  # a file, not a row
    ]
    for body in bodies:
        give(hub, b"Subject: x\r\n\r\n" + body)
    give(hub, b"Subject: both\r\n\r\nboth\r\n", "leo@leaf.example", "lea@leaf.example")

    done = fetchmail("ODMR", odmr(hub), leaf.port)
    assert done.returncode == OK, done.stdout + done.stderr
    assert "SMTP< 250-ATRN" in done.stdout and "Turnaround now..." in done.stdout
    assert "ODMR> AUTH CRAM-MD5" in done.stdout and "ODMR> ATRN leaf.example" in done.stdout
    expected = sorted(body.replace(b"\r\n", b"\n") for body in [*bodies, b"both\r\n"])
    assert texts(leaf, "leo", len(expected)) == expected
    assert texts(leaf, "lea") == [b"both\n"]
    wait_for_spool(hub)


def test_it_fetches_what_does_not_end_with_a_line_end(fetchmail: Fetchmail, hub: Any, leaf: Any) -> None:
    # It passes lines on: the rest of one that has no end would wait for ever for that end.
    give(hub, b"Subject: x\r\n\r\nno end of the line")
    give(hub, MESSAGE)
    done = fetchmail("ODMR", odmr(hub), leaf.port)
    assert done.returncode == OK, done.stdout + done.stderr
    assert [text.rstrip() for text in texts(leaf, "leo", 2)] == [b"no end of the line", b"one"]
    wait_for_spool(hub)


def test_it_fetches_the_mail_of_each_domain_that_it_names_and_no_other(
    fetchmail: Fetchmail, hub: Any, leaf: Any
) -> None:
    for domain in ("leaf", "branch", "other"):
        give(hub, f"Subject: x\r\n\r\n{domain}\r\n".encode(), f"leo@{domain}.example")
    other = ("held", "leo@other.example")
    assert fetchmail("ODMR", odmr(hub), leaf.port, ["branch.example"]).returncode == OK
    assert texts(leaf) == [b"branch\n"]
    wait_for_spool(hub, HELD, other)
    assert fetchmail("ODMR", odmr(hub), leaf.port, ["leaf.example", "branch.example"]).returncode == OK
    assert texts(leaf, "leo", 2) == [b"branch\n", b"leaf\n"]
    wait_for_spool(hub, other)


def test_where_nothing_waits_it_hears_453_and_ends_well(fetchmail: Fetchmail, hub: Any, leaf: Any) -> None:
    done = fetchmail("ODMR", odmr(hub), leaf.port)
    assert "ODMR< 453" in done.stdout and "You have no mail." in done.stderr
    assert done.returncode == OK
    assert "ODMR> QUIT" in done.stdout  # the line was not turned


REFUSALS: dict[str, tuple[dict[str, Any], str, str, int]] = {
    # what fetchmail is told: what the node says to it, what it makes of that, its exit status
    "a wrong password": ({"secret": "wrong"}, "SMTP< 535", "ODMR> QUIT", ERROR),
    "a foreign domain": ({"domains": ["other.example"]}, "ODMR< 450", "ATRN request refused.", PROTOCOL),
    "one foreign domain among its own": (
        {"domains": ["leaf.example", "other.example", "branch.example"]},
        *("ODMR< 450", "ATRN request refused.", PROTOCOL),
    ),
    "a domain of nobody's": ({"domains": ["else.example"]}, "ODMR< 450", "ATRN request refused.", PROTOCOL),
    "a domain of one label": ({"domains": ["leaf"]}, "ODMR< 501", 'ODMR error "501', PROTOCOL),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_it_may_not_have_it_is_refused_and_the_mail_stays(
    fetchmail: Fetchmail, hub: Any, leaf: Any, why: str
) -> None:
    give(hub, MESSAGE)
    told, said, words, status = REFUSALS[why]
    done = fetchmail("ODMR", odmr(hub), leaf.port, **told)
    assert said in done.stdout and words in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == status
    assert "ODMR> QUIT" in done.stdout
    assert spooled(hub) == [HELD] and leaf.mailbox("leo") == []


def test_the_name_of_its_own_host_which_it_says_without_fetchdomains_gets_nothing(
    fetchmail: Fetchmail, hub: Any, leaf: Any
) -> None:
    give(hub, MESSAGE)
    done = fetchmail("ODMR", odmr(hub), leaf.port, [])
    (said,) = (line for line in done.stdout.splitlines() if "ODMR> ATRN" in line)
    one_label = "." not in said.partition("ATRN ")[2]
    assert f"ODMR< {501 if one_label else 450} " in done.stdout
    assert done.returncode == PROTOCOL and spooled(hub) == [HELD]
    assert fetchmail("ODMR", odmr(hub), leaf.port).returncode == OK
    assert texts(leaf) == [b"one\n"]


def test_odmr_on_a_listener_for_everybody_finds_no_atrn(fetchmail: Fetchmail, hub: Any, leaf: Any) -> None:
    give(hub, MESSAGE)
    done = fetchmail("ODMR", hub.port, leaf.port)
    assert "does not support ATRN" in done.stderr and done.returncode == PROTOCOL
    assert spooled(hub) == [HELD]


# ----------------------------------------------------------------- its own SMTP host is not as it should be


def nobody(stream: Any) -> None:
    """Hangs up without a word."""


def busy(stream: Any) -> None:
    stream.write(b"421 not now\r\n")


def unwilling(stream: Any) -> None:
    stream.write(b"554 no mail here\r\n")
    stream.readline()


def dying(stream: Any) -> None:
    """Ends in the middle of the first message."""
    stream.write(b"220 leaf.example\r\n")
    for reply in (b"250 leaf.example\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n"):
        assert stream.readline()
        stream.write(reply)
    stream.readline()


HOSTS: dict[str, Callable[[Any], None]] = {
    "hangs up": nobody,
    "is busy": busy,
    "wants no mail": unwilling,
    "dies in mid message": dying,
}


def test_without_its_smtp_host_it_closes_before_any_greeting_and_the_mail_waits_for_the_next_call(
    fetchmail: Fetchmail, hub: Any, leaf: Any, free_port: Callable[[], int]
) -> None:
    give(hub, MESSAGE)
    done = fetchmail("ODMR", odmr(hub), free_port())
    assert "Turnaround now..." in done.stdout and "ODMR> 220" not in done.stdout
    assert done.returncode == NO_SOCKET
    wait_for_spool(hub, HELD)
    assert fetchmail("ODMR", odmr(hub), leaf.port).returncode == OK
    assert texts(leaf) == [b"one\n"]
    wait_for_spool(hub)


@pytest.mark.parametrize("how", HOSTS)
def test_whatever_its_smtp_host_does_nothing_is_lost(
    fetchmail: Fetchmail, hub: Any, leaf: Any, make_host: Callable[..., Host], how: str
) -> None:
    give(hub, MESSAGE)
    done = fetchmail("ODMR", odmr(hub), make_host(HOSTS[how]).port)
    assert "Turnaround now..." in done.stdout
    wait_for_spool(hub, HELD)
    assert fetchmail("ODMR", odmr(hub), leaf.port).returncode == OK
    assert texts(leaf) == [b"one\n"]
    wait_for_spool(hub)


def test_a_user_whom_its_smtp_host_does_not_know_is_a_notice(
    fetchmail: Fetchmail, hub: Any, leaf: Any
) -> None:
    talk = hub.talk()
    commands = ["HELO x", "MAIL FROM:<hubert@hub.example>", "RCPT TO:<nobody@leaf.example>", "DATA"]
    assert talk.codes(*commands, "Subject: x\r\n\r\nhi\r\n.", "QUIT") == [250, 250, 250, 354, 250, 221]
    wait_for_spool(hub, ("held", "nobody@leaf.example"))
    assert fetchmail("ODMR", odmr(hub), leaf.port).returncode == OK
    (notice,) = hub.wait_for_mail("hubert")
    assert "nobody@leaf.example" in notice and "550" in notice
    wait_for_spool(hub)


# ----------------------------------------------------------------- ETRN


def test_by_etrn_the_node_calls_and_brings_the_mail(fetchmail: Fetchmail, hub: Any, leaf: Any) -> None:
    for number in range(3):
        give(hub, b"Subject: x\r\n\r\n%d\r\n" % number)
    give(hub, MESSAGE, "leo@branch.example")
    done = fetchmail("ETRN", hub.port, leaf.port)
    assert done.returncode == OK, done.stdout + done.stderr
    assert "SMTP< 250-ETRN" in done.stdout and "ETRN< 250" in done.stdout
    assert "Queuing for leaf.example started" in done.stdout
    assert texts(leaf, "leo", 3) == [b"0\n", b"1\n", b"2\n"]
    wait_for_spool(hub, ("held", "leo@branch.example"))


def test_etrn_for_several_domains_starts_each(fetchmail: Fetchmail, hub: Any, leaf: Any) -> None:
    for domain in ("leaf", "branch"):
        give(hub, f"Subject: x\r\n\r\n{domain}\r\n".encode(), f"leo@{domain}.example")
    done = fetchmail("ETRN", hub.port, leaf.port, ["leaf.example", "branch.example"], more=PROOF)
    assert done.returncode == OK and done.stdout.count("ETRN< 253") == 2
    assert texts(leaf, "leo", 2) == [b"branch\n", b"leaf\n"]
    wait_for_spool(hub)


def test_a_peer_that_has_proved_itself_hears_what_waits_for_it(
    fetchmail: Fetchmail, hub: Any, leaf: Any
) -> None:
    done = fetchmail("ETRN", hub.port, leaf.port, more=PROOF)
    assert "SMTP< 235" in done.stdout
    assert "ETRN< 251" in done.stdout and "No messages waiting for leaf.example" in done.stdout
    assert done.returncode == OK
    for number in range(3):
        give(hub, b"Subject: x\r\n\r\n%d\r\n" % number)
    done = fetchmail("ETRN", hub.port, leaf.port, more=PROOF)
    assert "ETRN< 253" in done.stdout and " 3 " in done.stdout.partition("ETRN< 253")[2].splitlines()[0]
    assert done.returncode == OK
    assert texts(leaf, "leo", 3) == [b"0\n", b"1\n", b"2\n"]


@pytest.mark.parametrize("domain", ["else.example", ""], ids=["a domain of nobody's", "its own host's name"])
def test_etrn_for_what_is_not_served_here_is_459(fetchmail: Fetchmail, hub: Any, domain: str) -> None:
    give(hub, MESSAGE)
    done = fetchmail("ETRN", hub.port, 1, [domain] if domain else [])
    assert "ETRN< 459" in done.stdout and done.returncode == NO_RIGHT
    assert spooled(hub) == [HELD]


def test_etrn_for_a_peer_that_can_only_fetch_is_458(fetchmail: Fetchmail, hub: Any) -> None:
    give(hub, MESSAGE, "leo@other.example")
    done = fetchmail("ETRN", hub.port, 1, ["other.example"])
    assert "ETRN< 458" in done.stdout and done.returncode == PROTOCOL
    assert spooled(hub) == [("held", "leo@other.example")]


def test_after_an_etrn_in_vain_the_mail_is_held_until_the_next(
    fetchmail: Fetchmail, hub: Any, leaf: Any
) -> None:
    give(hub, MESSAGE)
    leaf.stop()
    assert fetchmail("ETRN", hub.port, 1, more=PROOF).returncode == OK
    hub.wait_for_log("the queue for leaf.example was started: 0 given")
    wait_for_spool(hub, HELD)
    leaf.start()
    assert fetchmail("ETRN", hub.port, 1, more=PROOF).returncode == OK
    assert texts(leaf) == [b"one\n"]
    wait_for_spool(hub)
