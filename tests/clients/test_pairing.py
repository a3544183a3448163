"""Pairing in one step: two real nodes, one token, and everybody who should not get in by it."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from mailnode.cli import cli
from mailnode.pairing.token import decode

NUMBERS: Final = count(1)  # of leaves
MAILNODE = [sys.executable, "-c", "from mailnode.cli import main; main()"]

HUB = """
hostname = "hub.example"
[users]
names = ["hubert"]
[retry]
first = "1s"
[relay]
networks = []
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
"""
LEAF = """
hostname = "leaf.example"
[users]
names = ["leo"]
[retry]
first = "1s"
[routes]
"*" = "hold"
"""


class House:
    """A node, and the commands that its operator gives: in this process, where that makes no difference."""

    def __init__(self, node: Any, run: Callable[..., Any], name: str = "leaf") -> None:
        self.node = node
        self.name = name
        self._run = run

    def tell(self, *words: object, stdin: str = "") -> Told:
        arguments = ["--config", str(self.node.file), *map(str, words)]
        out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        before = sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        try:
            with redirect_stdout(out), redirect_stderr(error), pytest.raises(SystemExit) as ended:
                cli.main(arguments)
        finally:
            sys.stdin = before
        texts = []
        for stream in (out, error):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())
        return Told(int(ended.value.code or 0), *texts).sound()

    def run(self, *words: object, before: tuple[object, ...] = (), stdin: str = "") -> Told:
        """As `tell`, by a process of its own, which `before` may start."""
        done = self._run(*before, *MAILNODE, "--config", self.node.file, *words, stdin=stdin)
        return Told(done.returncode, done.stdout, done.stderr).sound()

    def says(self, *words: object, **more: Any) -> str:
        done = self.tell(*words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, status: int, why: str, *words: object, **more: Any) -> None:
        """The command ends with `status` and one line on standard error."""
        done = self.tell(*words, **more)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr + done.stdout
        assert why in done.stderr, done.stderr

    def invite(self, leaf: House, *words: object) -> str:
        return self.says(*self.invitation(leaf), *words).strip()

    def invitation(self, leaf: House) -> tuple[str, ...]:
        where = ("--endpoint", f"127.0.0.1:{self.node.port}")
        return ("invite", leaf.name, "--domain", f"{leaf.name}.example", *where)

    def files(self) -> dict[str, str]:
        """What a pairing leaves: the calls, and the secrets."""
        paths = [*(self.node.data / "dials").glob("*.toml"), self.node.data / "passwords"]
        return {path.name: path.read_text() for path in paths if path.is_file()}

    def gets_mail(self, hub: House, text: str) -> None:
        """Mail that comes to the hub reaches the mailbox here."""
        before = len(self.node.mailbox("leo"))
        give(hub.node, "hubert@hub.example", f"leo@{self.name}.example", text)
        assert text in self.node.wait_for_mail("leo", before + 1)[-1]


class Told(NamedTuple):
    returncode: int
    stdout: str
    stderr: str

    def sound(self) -> Told:
        assert "Traceback" not in self.stderr and "internal error" not in self.stderr, self.stderr
        return self


@pytest.fixture(scope="module")
def hub(make_shared_node: Callable[..., Any], authority: Any, run: Callable[..., Any]) -> House:
    """The hub of all tests that do not change it; each has a leaf of its own there."""
    return House(hub_node(make_shared_node, authority), run)


@pytest.fixture
def own_hub(make_node: Callable[..., Any], authority: Any, run: Callable[..., Any]) -> House:
    return House(hub_node(make_node, authority), run)


def hub_node(make: Callable[..., Any], authority: Any) -> Any:
    node = make(HUB, "hub")
    authority.issue("hub.example", into=node.folder)
    return node.start()


@pytest.fixture
def make_leaf(make_node: Callable[..., Any], run: Callable[..., Any]) -> Callable[..., House]:
    def make(text: str = LEAF, name: str = "") -> House:
        name = name or f"leaf{next(NUMBERS)}"
        return House(make_node(text.replace("leaf.example", f"{name}.example"), name), run, name)

    return make


@pytest.fixture
def leaf(make_leaf: Callable[..., House]) -> House:
    return make_leaf()


def give(node: Any, sender: str, recipient: str, text: str) -> None:
    with closing(node.talk()) as talk:
        commands = ("EHLO client.example", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA")
        assert talk.codes(*commands) == [250, 250, 250, 354]
        assert talk.codes(f"Subject: {text}\r\n\r\n{text}\r\n.", "QUIT") == [250, 221]


# ------------------------------------------------------------------ the road as it should be


def test_one_token_and_mail_goes_both_ways(hub: House, leaf: House) -> None:
    leaf.node.start()
    token = hub.run(*hub.invitation(leaf)).stdout
    give(hub.node, "hubert@hub.example", f"leo@{leaf.name}.example", "before")
    give(leaf.node, f"leo@{leaf.name}.example", "hubert@hub.example", "out")
    said = leaf.run("join", token.strip()).stdout
    assert "mail held      1 message\n" in said and "TURN" in said and "XWAIT" in said
    assert "calls" in said.rsplit("node", 1)[1]
    leaf.node.wait_for_mail("leo")
    hub.node.wait_for_mail("hubert")
    leaf.gets_mail(hub, "over the open line")
    # What stands in the configuration now serves a node that is started anew, too.
    leaf.node.stop()
    give(hub.node, "hubert@hub.example", f"leo@{leaf.name}.example", "while it was away")
    leaf.node.start()
    leaf.node.wait_for_mail("leo", 3)
    assert f"{leaf.name}" in hub.says("--verbose", "check").partition("peers: ")[2]
    assert "call to hub.example" in leaf.says("user", "list") and "peer" in hub.says("user", "list")


def test_it_is_done_by_a_node_that_does_not_run_and_by_a_token_from_a_pipe(hub: House, leaf: House) -> None:
    token = hub.invite(leaf)
    said = leaf.says("join", stdin=f"{token[:50]}\n{token[50:]}\n")
    assert "is not running" in said
    leaf.node.start()
    leaf.gets_mail(hub, "hello")


def test_the_secrets_are_said_to_nobody(own_hub: House, leaf: House) -> None:
    """Ours not to the hub, and none by any command; the token's is worth nothing afterwards."""
    hub = own_hub
    token = hub.invite(leaf)
    done = leaf.tell("--verbose", "join", token)
    assert done.returncode == 0
    passwords, (invitation,) = hub.node.data / "passwords", (hub.node.data / "invitations").iterdir()
    assert passwords.read_text().startswith(f"{leaf.name}:scram-sha-256$")
    assert passwords.read_text().count("\n") == 1
    ours = base64.b64decode(leaf.files()["passwords"].rpartition("secret$")[2]).decode()
    assert len(ours) >= 32
    places = (done.stderr, done.stdout, hub.node.text(), passwords.read_text(), invitation.read_text())
    for text in places:
        for secret in (ours, decode(token).password):
            assert secret not in text and base64.b64encode(secret.encode()).decode() not in text
    assert "XPAIR ***" in done.stderr
    for path in (invitation, passwords, leaf.node.data / "passwords"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert invitation.parent.stat().st_mode & 0o777 == 0o700


def test_a_certificate_that_authorities_speak_for_may_be_renewed(
    own_hub: House, make_leaf: Callable[..., House], authority: Any
) -> None:
    """The hub is called by a name, for which the leaf trusts an authority: nothing is pinned then."""
    node = own_hub.node
    authority.issue("localhost", into=node.folder)
    leaf = make_leaf(f'{LEAF}[tls]\nroots = "{authority.roots}"\n')
    words = own_hub.invitation(leaf)[:-1]
    token = own_hub.says(*words, f"localhost:{node.port}").strip()
    assert "verified for localhost" in leaf.says("join", token)
    authority.issue("localhost", into=node.folder)
    assert node.ask(do="reread")[-1] == {"ok": True}
    leaf.node.start()
    leaf.gets_mail(own_hub, "under the new certificate")


def test_the_hub_may_make_its_own_certificate(
    make_node: Callable[..., Any], leaf: House, run: Callable[..., Any]
) -> None:
    hub = House(make_node(HUB.partition("[tls]")[0], "hub"), run)
    hub.fails(78, "`mailnode certificate`", *hub.invitation(leaf))
    lines = hub.says("certificate").splitlines()
    hub.node.file.write_text(hub.node.file.read_text() + "\n".join(lines[lines.index("[tls]") :]) + "\n")
    hub.fails(73, "is there already", "certificate")
    hub.node.start()
    assert "pinned" in leaf.says("join", hub.invite(leaf))


# ------------------------------------------------------------------ tokens that are good for nothing


def test_a_second_use_is_refused_and_says_who_was_first(
    hub: House, leaf: House, make_leaf: Callable[..., House]
) -> None:
    token = hub.invite(leaf)
    leaf.says("join", token)
    thief = make_leaf(LEAF.replace("leaf.example", f"{leaf.name}.example"))
    thief.fails(77, "was used at", "join", token)
    thief.fails(77, "from 127.0.0.1", "join", token)
    assert thief.files() == {}
    assert "used" in hub.says("invite", "--list")


def test_an_expired_token_is_refused(hub: House, leaf: House, need: Callable[[str], str]) -> None:
    two_days_ago = (need("faketime"), "-f", "-2d")
    token = hub.run(*hub.invitation(leaf), before=two_days_ago).stdout.strip()
    assert "expired" in hub.says("invite", "--list")
    leaf.fails(77, "expired at", "join", token)
    assert leaf.files() == {}
    # Whose clock is off joins all the same: the hub's is the one that counts.
    assert "2 days behind the hub's" in leaf.run("join", hub.invite(leaf), before=two_days_ago).stdout


def test_a_revoked_token_is_refused_and_the_peer_is_gone(own_hub: House, leaf: House) -> None:
    hub = own_hub
    token = hub.invite(leaf)
    assert "no peer any more" in hub.says("invite", "--revoke", leaf.name)
    leaf.fails(77, "was revoked at", "join", token)
    assert not (hub.node.data / "peers" / f"{leaf.name}.toml").exists()
    hub.fails(66, "no open invitation", "invite", "--revoke", leaf.name)


def test_a_peer_keeps_its_secret_when_a_later_invitation_is_taken_back(hub: House, leaf: House) -> None:
    leaf.says("join", hub.invite(leaf))
    token = hub.invite(leaf)
    hub.says("invite", "--revoke", leaf.name)
    leaf.fails(77, "was revoked at", "join", token)
    leaf.node.start()
    leaf.gets_mail(hub, "still a peer")


def test_who_was_paired_can_be_shut_out(hub: House, leaf: House) -> None:
    leaf.says("join", hub.invite(leaf))
    assert "no secret any more" in hub.says("invite", "--revoke", leaf.name)
    give(hub.node, "hubert@hub.example", f"leo@{leaf.name}.example", "held all the same")
    leaf.node.start()
    leaf.node.wait_for_log("535 5.7.8")
    hub.fails(66, "no secret", "invite", "--revoke", leaf.name)
    # and be invited anew, which finds what waited
    assert "mail held      1 message\n" in leaf.says("join", hub.invite(leaf))
    leaf.node.wait_for_mail("leo")


def test_a_later_invitation_ends_the_one_before(hub: House, leaf: House) -> None:
    first, second = hub.invite(leaf), hub.invite(leaf)
    leaf.fails(77, "does not know this invitation", "join", first)
    leaf.says("join", second)


@pytest.mark.parametrize("token", ["x", "mailnode-AAAAAAAAAAAA", "", "mailnode-\x1b[2J"])
def test_a_garbled_token_is_one_line(leaf: House, token: str) -> None:
    leaf.fails(65, "token", "join", "--", token)
    done = leaf.tell("join", stdin=token)
    assert done.returncode == 65 and done.stderr.replace("\n", "").isprintable()
    assert leaf.files() == {}


def test_half_a_token_is_garbled(hub: House, leaf: House) -> None:
    token = hub.invite(leaf)
    leaf.fails(65, "garbled", "join", token[: len(token) // 2])


BOTH_DOORS = """
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
tls = "none"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
role = "submission"
tls = "implicit"
"""


@pytest.mark.parametrize("signed", [True, False])
def test_a_hub_that_begins_with_tls_is_joined_and_called_so(
    make_node: Callable[..., Any], make_leaf: Callable[..., House], authority: Any, run: Any, signed: bool
) -> None:
    text = HUB.replace("[users]", '[users]\npasswords = "passwords"') + BOTH_DOORS
    hub = House(make_node(text, "hub"), run)
    authority.issue("localhost" if signed else "hub.example", into=hub.node.folder)
    hub.node.start()
    port = hub.node.status()["listening"][1]["where"].rsplit(":", 1)[1]
    roots = f'\n[tls]\nroots = "{authority.roots}"\n' if signed else ""
    leaf = make_leaf(LEAF + roots)
    host = "localhost" if signed else "127.0.0.1"
    token = hub.says(*hub.invitation(leaf)[:4], "--endpoint", f"{host}:{port}").strip()
    assert decode(token).implicit
    leaf.node.start()
    give(hub.node, "hubert@hub.example", f"leo@{leaf.name}.example", "before")
    said = leaf.says("join", token)
    assert ("verified" if signed else "pinned") in said
    leaf.node.wait_for_mail("leo")
    leaf.gets_mail(hub, "over the open line")
    (dial,) = (text for name, text in leaf.files().items() if name.endswith(".toml"))
    assert "implicit = true" in dial and ('tls = "verified"' in dial) is signed


# ------------------------------------------------------------------ hubs that cannot be reached or trusted


class Between:
    """Somebody on the way: shows a certificate of his own, and writes down what he hears under it."""

    def __init__(
        self, files: tuple[str, str], offers: bytes = b"250-STARTTLS\r\n", implicit: bool = False
    ) -> None:
        self.implicit = implicit
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*files)
        self.offers = offers
        self.heard: list[bytes] = []
        self.under_tls = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed: the test is over
            connection, _ = self.listener.accept()
            connection.settimeout(15)
            with suppress(OSError), connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        if self.implicit:
            self._listen_under_tls(connection)
            return
        connection.sendall(b"220 hub.example\r\n")
        stream = connection.makefile("rwb")
        while line := stream.readline():
            self.heard.append(line)
            if line.startswith(b"EHLO"):
                connection.sendall(b"250-hub.example\r\n" + self.offers + b"250 AUTH PLAIN LOGIN\r\n")
            elif line.startswith(b"STARTTLS"):
                connection.sendall(b"220 go\r\n")
                self._listen_under_tls(connection)
                return
            else:
                connection.sendall(b"221 bye\r\n")
                return

    def _listen_under_tls(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as secured:
            if self.implicit:
                secured.sendall(b"220 hub.example\r\n")
            while piece := secured.recv(4096):
                self.under_tls += piece

    def over(self) -> None:
        """All that was to be heard was heard."""
        self.thread.join(15)
        assert not self.thread.is_alive()


@pytest.fixture
def between(authority: Any) -> Iterator[Callable[..., Between]]:
    made: list[Between] = []

    def start(**more: Any) -> Between:
        made.append(Between(authority.issue("hub.example"), **more))
        return made[-1]

    yield start
    for one in made:
        one.listener.close()


def through(token: str, port: int, implicit: bool = False) -> str:
    """The token of somebody whose way to the hub leads through another."""
    return replace(decode(token), port=port, implicit=implicit).encode()


def test_somebody_in_between_with_another_certificate_hears_no_secret(
    hub: House, leaf: House, between: Callable[..., Between]
) -> None:
    token, thief = hub.invite(leaf), between()
    leaf.fails(76, "another certificate", "join", through(token, thief.port))
    thief.over()
    assert [line.split()[0] for line in thief.heard] == [b"EHLO", b"STARTTLS"]
    assert thief.under_tls == b"" and leaf.files() == {}
    leaf.says("join", token)  # nothing is lost by it


def test_somebody_in_between_who_takes_tls_away_hears_no_secret(
    hub: House, leaf: House, between: Callable[..., Between]
) -> None:
    token, thief = hub.invite(leaf), between(offers=b"")
    leaf.fails(76, "offers none", "join", through(token, thief.port))
    thief.over()
    assert [line.split()[0] for line in thief.heard] == [b"EHLO", b"QUIT"] and leaf.files() == {}


def test_somebody_in_between_hears_nothing_where_tls_is_there_from_the_start(
    hub: House, leaf: House, between: Callable[..., Between]
) -> None:
    token, thief = hub.invite(leaf), between(implicit=True)
    leaf.fails(76, "another certificate", "join", through(token, thief.port, implicit=True))
    thief.over()
    assert thief.under_tls == b"" and leaf.files() == {}
    leaf.fails(75, "TLS did not come about", "join", through(token, hub.node.port, implicit=True))
    leaf.says("join", token)


def test_a_hub_that_cannot_be_reached_is_one_line_and_nothing_is_lost(
    hub: House, leaf: House, free_port: Callable[[], int]
) -> None:
    token = hub.invite(leaf)
    leaf.fails(75, "Connection refused; join again", "join", through(token, free_port()))
    assert leaf.files() == {}
    leaf.says("join", token)


def test_a_hub_that_does_not_know_the_peer_yet_is_asked_again_later(hub: House, leaf: House) -> None:
    token = hub.invite(leaf)
    file = hub.node.data / "peers" / f"{leaf.name}.toml"
    text = file.read_text()
    file.unlink()
    assert hub.node.ask(do="reread")[-1] == {"ok": True}
    leaf.fails(75, "join again with the same token", "join", token)
    file.write_text(text)
    assert hub.node.ask(do="reread")[-1] == {"ok": True}
    leaf.says("join", token)


# ------------------------------------------------------------------ what the commands refuse beforehand


def test_a_configuration_that_does_not_fit_uses_no_token(
    hub: House, leaf: House, make_leaf: Callable[..., House]
) -> None:
    token = hub.invite(leaf)
    text = LEAF.replace("leaf.example", f"{leaf.name}.example")
    make_leaf(LEAF).fails(78, f"{leaf.name}.example: not a domain of this node", "join", token)
    user = make_leaf(text.replace('"leo"', f'"leo", "{leaf.name}"'))
    user.fails(78, "be invited by another name", "join", token)
    same = make_leaf(text + '[[dial]]\nname = "hub.example"\nendpoint = "tcp:h:25"\n')
    same.fails(78, "another --name", "join", token)
    same.says("join", "--name", "hub", token)
    assert "hub.toml" in same.files()


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("leaf",), 64, "whose mail is to be held"),
        (("leaf", "--domain", "not a domain"), 64, "expected domains"),
        (("leaf", "--domain", "hub.example"), 78, "hub.example is a local domain"),
        (("hubert", "--domain", "leaf.example"), 78, "hubert is a user's name already"),
        (("../leaf", "--domain", "leaf.example"), 64, "no dot first"),
        (("leaf", "--domain", "leaf.example", "--endpoint", "a:b:c"), 64, "HOST:PORT"),
        (("leaf", "--domain", "leaf.example", "--endpoint", "/run/socket"), 64, "HOST:PORT"),
        (("leaf", "--domain", "leaf.example", "--for", "1s"), 64, "a minute at least"),
        (("leaf", "--domain", "leaf.example", "--for", "60d"), 64, "30d at most"),
        (("leaf", "--list"), 64, "expected one of"),
        ((), 64, "expected one of"),
    ],
)
def test_an_invitation_that_cannot_be_is_one_line(
    stopped_hub: House, words: tuple[str, ...], status: int, why: str
) -> None:
    options = () if "--endpoint" in words else ("--endpoint", "hub.example")
    stopped_hub.fails(status, why, "invite", *words, *options)
    data = stopped_hub.node.data
    assert not list(data.glob("peers/*")) and not list(data.glob("invitations/*"))


@pytest.fixture
def stopped_hub(make_node: Callable[..., Any], authority: Any, run: Callable[..., Any]) -> House:
    node = make_node(HUB, "hub")
    authority.issue("hub.example", into=node.folder)
    return House(node, run)


def test_a_listener_for_this_host_alone_needs_an_endpoint(stopped_hub: House) -> None:
    stopped_hub.fails(78, "--endpoint", "invite", "leaf", "--domain", "leaf.example")


def test_by_default_a_hub_is_called_by_its_name_where_customers_are_served(stopped_hub: House) -> None:
    """Home lines often cannot reach port 25."""
    file = stopped_hub.node.file
    text = file.read_text().partition("[[listen]]")[0].replace("[users]\n", '[users]\npasswords = "p"\n')
    listeners = '[[listen]]\nendpoint = "tcp:25"\n[[listen]]\nendpoint = "tcp:587"\nrole = "submission"\n'
    file.write_text(text + listeners)
    done = stopped_hub.tell("invite", "leaf", "--domain", "LEAF.example")
    assert "no node is running" in done.stderr and done.returncode == 0
    token = decode(done.stdout)
    assert (token.host, token.port, token.domains) == ("hub.example", 587, ("leaf.example",))


@pytest.mark.parametrize(
    ("listeners", "endpoint", "found"),
    [
        ([("tcp:25", "smtp", "starttls"), ("tcp:465", "submission", "implicit")], (), (465, True)),
        (
            [("tcp:25", "smtp", "starttls"), ("tcp:465", "submission", "implicit")],
            ("--endpoint", "hub.example:25"),
            (25, False),
        ),
        (
            [("tcp:587", "submission", "starttls"), ("tcp:465", "submission", "implicit")],
            ("--endpoint", "hub.example:465"),
            (465, True),
        ),
        (
            [("tcp:465:interface=127.0.0.1", "submission", "implicit")],
            ("--endpoint", "hub.example:10465"),
            (10465, True),
        ),
    ],
)
def test_the_token_says_how_tls_begins_where_it_leads(
    stopped_hub: House,
    listeners: list[tuple[str, str, str]],
    endpoint: tuple[str, ...],
    found: tuple[int, bool],
) -> None:
    file = stopped_hub.node.file
    text = file.read_text().partition("[[listen]]")[0].replace("[users]\n", '[users]\npasswords = "p"\n')
    for where, role, tls in listeners:
        text += f'[[listen]]\nendpoint = "{where}"\nrole = "{role}"\ntls = "{tls}"\n'
    file.write_text(text)
    token = decode(stopped_hub.says("invite", "leaf", "--domain", "leaf.example", *endpoint))
    assert (token.port, token.implicit) == found


def test_where_no_listener_has_tls_nobody_is_invited(stopped_hub: House) -> None:
    file = stopped_hub.node.file
    file.write_text(file.read_text().replace("[[listen]]", '[[listen]]\ntls = "none"'))
    stopped_hub.fails(78, 'tls = "starttls" or "implicit"', "invite", "leaf", "--domain", "leaf.example")


def test_a_peer_that_there_is_already_is_invited_as_it_is(own_hub: House, leaf: House) -> None:
    hub, file = own_hub, own_hub.node.file
    own = f'[[peer]]\nname = "{leaf.name}"\ndomains = ["{leaf.name}.example"]\nkeep = "60d"\n'
    file.write_text(file.read_text().replace("[users]\n", '[users]\npasswords = "passwords"\n') + own)
    hub.fails(78, "a peer already", "invite", leaf.name, "--domain", "more.example", "--endpoint", "h")
    token = hub.says("invite", leaf.name, "--endpoint", f"127.0.0.1:{hub.node.port}").strip()
    assert not (hub.node.data / "peers").exists()
    leaf.says("join", token)
    assert (hub.node.folder / "passwords").read_text().startswith(f"{leaf.name}:scram-sha-256$")


def test_a_node_that_cannot_reread_says_so_and_the_token_is_there(own_hub: House) -> None:
    file = own_hub.node.file
    file.write_text(file.read_text().replace("tcp:0", "tcp:1"))
    done = own_hub.tell("invite", "leaf", "--domain", "leaf.example", "--endpoint", "hub.example:25")
    assert done.returncode == 75 and "listen has changed, that needs a restart" in done.stderr
    assert decode(done.stdout).name == "leaf"


def test_files_belong_to_whom_the_data_folder_belongs(hub: House, leaf: House) -> None:
    """Root gives the commands, and the node is another user: it must be able to read what they wrote."""
    leaf.node.data.mkdir()
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    os.chown(leaf.node.data, owner, -1)
    leaf.says("join", hub.invite(leaf))
    written = list(leaf.node.data.rglob("*"))
    assert {path.name for path in written} >= {"dials", "hub.example.toml", "passwords"}
    assert {path.stat().st_uid for path in written} == {owner}


def test_what_is_wrong_in_a_file_is_said_by_whoever_asks_for_it_to_be_read(own_hub: House) -> None:
    folder = Path(own_hub.node.data) / "peers"
    folder.mkdir()
    (folder / "x.toml").write_text("[[peer]]\nname = 7\n")
    answer = own_hub.node.ask(do="reread")[-1]
    assert f"{folder}/x.toml: peer.name: expected a text, got 7" in json.dumps(answer)
