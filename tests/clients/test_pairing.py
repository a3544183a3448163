"""Pairing in one step: two real nodes, one token, and everybody who should not get in by it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from mailnode.pairing.token import decode

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
    """A node, and the commands that its operator gives."""

    def __init__(self, node: Any, run: Callable[..., Any]) -> None:
        self.node = node
        self._run = run

    def tell(self, *words: object, stdin: str = "", launcher: tuple[object, ...] = ()) -> Any:
        done = self._run(*launcher, *MAILNODE, "--config", self.node.file, *words, stdin=stdin)
        assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
        return done

    def says(self, *words: object, **more: Any) -> str:
        done = self.tell(*words, **more)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def fails(self, status: int, why: str, *words: object, **more: Any) -> None:
        """The command ends with `status` and one line on standard error."""
        done = self.tell(*words, **more)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr + done.stdout
        assert why in done.stderr, done.stderr

    def invite(self, *words: object, name: str = "leaf", launcher: tuple[object, ...] = ()) -> str:
        where = f"127.0.0.1:{self.node.port}"
        options = ("--domain", f"{name}.example", "--endpoint", where)
        return self.says("invite", name, *options, *words, launcher=launcher).strip()

    def files(self) -> dict[str, str]:
        """What a pairing leaves: the calls, and the secrets."""
        found = {}
        for path in [*(self.node.data / "dials").glob("*.toml"), self.node.data / "passwords"]:
            if path.is_file():
                found[path.name] = path.read_text()
        return found


@pytest.fixture
def hub(make_node: Callable[..., Any], authority: Any, run: Callable[..., Any]) -> House:
    node = make_node(HUB, "hub")
    authority.issue("hub.example", into=node.folder)
    return House(node.start(), run)


@pytest.fixture
def leaf(make_node: Callable[..., Any], run: Callable[..., Any]) -> House:
    return House(make_node(LEAF, "leaf"), run)


def give(node: Any, sender: str, recipient: str, text: str) -> None:
    with closing(node.talk()) as talk:
        commands = ("EHLO client.example", f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA")
        assert talk.codes(*commands) == [250, 250, 250, 354]
        assert talk.codes(f"Subject: {text}\r\n\r\n{text}\r\n.", "QUIT") == [250, 221]


# ------------------------------------------------------------------ the road as it should be


def test_one_token_and_mail_goes_both_ways(hub: House, leaf: House) -> None:
    leaf.node.start()
    token = hub.invite()
    give(hub.node, "hubert@hub.example", "leo@leaf.example", "before")
    give(leaf.node, "leo@leaf.example", "hubert@hub.example", "out")
    said = leaf.says("join", token)
    assert "mail held      1 message\n" in said
    assert "TURN, ATRN, XWAIT" in said or "TURN, XWAIT" in said
    assert "calls" in said.rsplit("node", 1)[1]
    leaf.node.wait_for_mail("leo")
    hub.node.wait_for_mail("hubert")
    give(hub.node, "hubert@hub.example", "leo@leaf.example", "over the open line")
    assert "over the open line" in leaf.node.wait_for_mail("leo", 2)[1]
    # What stands in the configuration now serves a node that is started anew, too.
    leaf.node.stop()
    give(hub.node, "hubert@hub.example", "leo@leaf.example", "while it was away")
    leaf.node.start()
    leaf.node.wait_for_mail("leo", 3)
    assert "peers: leaf" in hub.says("--verbose", "check")
    assert "call to hub.example" in leaf.says("user", "list") and "peer" in hub.says("user", "list")


def test_it_is_done_by_a_node_that_does_not_run_and_by_a_token_from_a_pipe(hub: House, leaf: House) -> None:
    token = hub.invite()
    said = leaf.says("join", stdin=f"{token[:50]}\n{token[50:]}\n")
    assert "is not running" in said
    leaf.node.start()
    give(hub.node, "hubert@hub.example", "leo@leaf.example", "hello")
    leaf.node.wait_for_mail("leo")


def test_the_secret_is_said_to_nobody(hub: House, leaf: House) -> None:
    """Not to the hub, and not by any command; the token's own is worth nothing afterwards."""
    leaf.node.start()
    token = hub.invite()
    done = leaf.tell("--verbose", "join", token)
    assert done.returncode == 0
    kept = (hub.node.data / "passwords").read_text()
    assert kept.startswith("leaf:scram-sha-256$") and kept.count("\n") == 1
    (invitation,) = (hub.node.data / "invitations").iterdir()
    for text in (done.stderr, done.stdout, hub.node.text(), kept, invitation.read_text()):
        assert decode(token).password not in text
    assert "XPAIR ***" in done.stderr and "$" not in done.stderr
    for path in (invitation, hub.node.data / "passwords", leaf.node.data / "passwords"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (hub.node.data / "invitations").stat().st_mode & 0o777 == 0o700


def test_a_certificate_that_authorities_speak_for_may_be_renewed(
    hub: House, make_node: Callable[..., Any], authority: Any, run: Callable[..., Any]
) -> None:
    """The hub is called by a name, for which the leaf trusts an authority: nothing is pinned then."""
    node = hub.node
    authority.issue("localhost", into=node.folder)
    leaf = House(make_node(f'{LEAF}[tls]\nroots = "{authority.roots}"\n', "leaf"), run)
    token = hub.says(
        "invite", "leaf", "--domain", "leaf.example", "--endpoint", f"localhost:{node.port}"
    ).strip()
    assert "verified for localhost" in leaf.says("join", token)
    authority.issue("localhost", into=node.folder)
    assert hub.node.ask(do="reread")[-1] == {"ok": True}
    leaf.node.start()
    give(node, "hubert@hub.example", "leo@leaf.example", "under the new certificate")
    leaf.node.wait_for_mail("leo")


def test_the_hub_may_make_its_own_certificate(
    make_node: Callable[..., Any], leaf: House, run: Callable[..., Any]
) -> None:
    hub = House(make_node(HUB.partition("[tls]")[0], "hub"), run)
    hub.fails(78, "`mailnode certificate`", "invite", "leaf", "--domain", "leaf.example")
    lines = hub.says("certificate").splitlines()
    hub.node.file.write_text(hub.node.file.read_text() + "\n".join(lines[lines.index("[tls]") :]) + "\n")
    hub.fails(73, "is there already", "certificate")
    hub.node.start()
    assert "pinned" in leaf.says("join", hub.invite())


# ------------------------------------------------------------------ tokens that are good for nothing


def test_a_second_use_is_refused_and_says_who_was_first(
    hub: House, leaf: House, make_node: Callable[..., Any], run: Callable[..., Any]
) -> None:
    token = hub.invite()
    leaf.says("join", token)
    thief = House(make_node(LEAF, "thief"), run)
    thief.fails(77, "was used at", "join", token)
    thief.fails(77, "from 127.0.0.1", "join", token)
    assert thief.files() == {}
    assert "used" in hub.says("invite", "--list")


def test_an_expired_token_is_refused(hub: House, leaf: House, need: Callable[[str], str]) -> None:
    before = (need("faketime"), "-f", "-2d")
    token = hub.invite(launcher=before)
    assert "expired" in hub.says("invite", "--list")
    leaf.fails(77, "expired at", "join", token)
    assert leaf.files() == {}
    # Whose clock is off joins all the same: the hub's is the one that counts.
    said = leaf.says("join", hub.invite(), launcher=before)
    assert "2 days behind the hub's" in said


def test_a_revoked_token_is_refused_and_the_peer_is_gone(hub: House, leaf: House) -> None:
    token = hub.invite()
    assert "no peer any more" in hub.says("invite", "--revoke", "leaf")
    leaf.fails(75, "not in the configuration", "join", token)
    assert not (hub.node.data / "peers" / "leaf.toml").exists()
    hub.fails(66, "no open invitation", "invite", "--revoke", "leaf")
    # A peer that is paired already keeps its secret when a later invitation is taken back.
    leaf.says("join", hub.invite())
    token = hub.invite()
    hub.says("invite", "--revoke", "leaf")
    leaf.fails(77, "was revoked at", "join", token)
    leaf.node.start()
    give(hub.node, "hubert@hub.example", "leo@leaf.example", "still a peer")
    leaf.node.wait_for_mail("leo")


def test_who_was_paired_can_be_shut_out(hub: House, leaf: House) -> None:
    leaf.says("join", hub.invite())
    assert "no secret any more" in hub.says("invite", "--revoke", "leaf")
    give(hub.node, "hubert@hub.example", "leo@leaf.example", "held all the same")
    leaf.node.start()
    leaf.node.wait_for_log("535 5.7.8")
    hub.fails(66, "no secret", "invite", "--revoke", "leaf")
    # and be invited anew, which finds what waited
    assert "mail held      1 message\n" in leaf.says("join", hub.invite())
    leaf.node.wait_for_mail("leo")


def test_a_later_invitation_ends_the_one_before(hub: House, leaf: House) -> None:
    first, second = hub.invite(), hub.invite()
    leaf.fails(77, "does not know this invitation", "join", first)
    leaf.says("join", second)


@pytest.mark.parametrize("token", ["x", "mailnode-AAAAAAAAAAAA", "", "mailnode-\x1b[2J"])
def test_a_garbled_token_is_one_line(leaf: House, token: str) -> None:
    leaf.fails(65, "token", "join", "--", token or " ")
    done = leaf.tell("join", stdin=token)
    assert done.returncode == 65 and done.stderr.replace("\n", "").isprintable()
    assert leaf.files() == {}


def test_half_a_token_is_garbled(hub: House, leaf: House) -> None:
    token = hub.invite()
    leaf.fails(65, "garbled", "join", token[: len(token) // 2])


# ------------------------------------------------------------------ hubs that cannot be reached or trusted


class Between:
    """Somebody on the way: shows a certificate of his own, and writes down what he hears under it."""

    def __init__(self, files: tuple[str, str], offers: bytes = b"250-STARTTLS\r\n") -> None:
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
            while True:
                connection, _ = self.listener.accept()
                connection.settimeout(15)
                with suppress(OSError), connection:
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(b"220 hub.example\r\n")
        stream = connection.makefile("rwb")
        while line := stream.readline():
            self.heard.append(line)
            if line.startswith(b"EHLO"):
                connection.sendall(b"250-hub.example\r\n" + self.offers + b"250 AUTH PLAIN LOGIN\r\n")
            elif line.startswith(b"STARTTLS"):
                connection.sendall(b"220 go\r\n")
                with self.context.wrap_socket(connection, server_side=True) as secured:
                    while piece := secured.recv(4096):
                        self.under_tls += piece
                return
            else:
                connection.sendall(b"221 bye\r\n")
                return


@pytest.fixture
def between(authority: Any) -> Iterator[Callable[..., Between]]:
    made: list[Between] = []

    def start(**more: Any) -> Between:
        made.append(Between(authority.issue("hub.example"), **more))
        return made[-1]

    yield start
    for one in made:
        one.listener.close()


def through(token: str, port: int) -> str:
    """The token of somebody whose way to the hub leads through another."""
    one = decode(token)
    return type(one)(
        one.host, port, one.hub, one.name, one.domains, one.secret, one.fingerprint, one.expires
    ).encode()


def test_somebody_in_between_with_another_certificate_hears_no_secret(
    hub: House, leaf: House, between: Callable[..., Between]
) -> None:
    token, thief = hub.invite(), between()
    leaf.fails(76, "another certificate", "join", through(token, thief.port))
    assert [line.split()[0] for line in thief.heard] == [b"EHLO", b"STARTTLS"]
    assert thief.under_tls == b"" and leaf.files() == {}
    leaf.says("join", token)  # nothing is lost by it


def test_somebody_in_between_who_takes_tls_away_hears_no_secret(
    hub: House, leaf: House, between: Callable[..., Between]
) -> None:
    token, thief = hub.invite(), between(offers=b"")
    leaf.fails(76, "offers none", "join", through(token, thief.port))
    assert [line.split()[0] for line in thief.heard] == [b"EHLO", b"QUIT"] and leaf.files() == {}


def test_a_hub_that_cannot_be_reached_is_one_line_and_nothing_is_lost(
    hub: House, leaf: House, free_port: Callable[[], int]
) -> None:
    token = hub.invite()
    leaf.fails(75, "Connection refused; join again", "join", through(token, free_port()))
    assert leaf.files() == {}
    leaf.says("join", token)


def test_a_hub_that_was_not_told_of_the_peer_is_asked_again_later(hub: House, leaf: House) -> None:
    token = hub.invite()
    file = hub.node.data / "peers" / "leaf.toml"
    text = file.read_text()
    file.unlink()
    assert hub.node.ask(do="reread")[-1] == {"ok": True}
    leaf.fails(75, "join again with the same token", "join", token)
    file.write_text(text)
    assert hub.node.ask(do="reread")[-1] == {"ok": True}
    leaf.says("join", token)


# ------------------------------------------------------------------ what the commands refuse beforehand


def test_a_configuration_that_does_not_fit_uses_no_token(
    hub: House, make_node: Callable[..., Any], leaf: House, run: Callable[..., Any]
) -> None:
    token = hub.invite()
    other = House(make_node(LEAF.replace("leaf.example", "elsewhere.example"), "other"), run)
    other.fails(78, "leaf.example: not a domain of this node", "join", token)
    user = House(make_node(LEAF.replace('"leo"', '"leo", "leaf"'), "user"), run)
    user.fails(78, "be invited by another name", "join", token)
    named = '[[dial]]\nname = "hub.example"\nendpoint = "tcp:h:25"\n'
    same = House(make_node(LEAF + named, "same"), run)
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
    make_shared_hub: House, words: tuple[str, ...], status: int, why: str
) -> None:
    hub = make_shared_hub
    options = () if "--endpoint" in words else ("--endpoint", "hub.example")
    hub.fails(status, why, "invite", *words, *options)
    assert not list(hub.node.data.glob("peers/*")) and not list(hub.node.data.glob("invitations/*"))


@pytest.fixture(scope="module")
def make_shared_hub(make_shared_node: Callable[..., Any], authority: Any, run: Callable[..., Any]) -> House:
    node = make_shared_node(HUB, "hub")
    authority.issue("hub.example", into=node.folder)
    return House(node, run)


def test_a_listener_for_this_host_alone_needs_an_endpoint(make_shared_hub: House) -> None:
    make_shared_hub.fails(78, "--endpoint", "invite", "leaf", "--domain", "leaf.example")


def test_a_peer_that_there_is_already_is_invited_as_it_is(hub: House, leaf: House) -> None:
    file = hub.node.file
    own = '[[peer]]\nname = "leaf"\ndomains = ["leaf.example"]\nkeep = "60d"\n'
    file.write_text(file.read_text().replace("[users]\n", '[users]\npasswords = "passwords"\n') + own)
    hub.fails(78, "a peer already", "invite", "leaf", "--domain", "more.example", "--endpoint", "h")
    token = hub.says("invite", "leaf", "--endpoint", f"127.0.0.1:{hub.node.port}").strip()
    assert not (hub.node.data / "peers").exists()
    leaf.says("join", token)
    assert (hub.node.folder / "passwords").read_text().startswith("leaf:scram-sha-256$")


def test_a_node_that_cannot_reread_says_so_and_the_token_is_there(hub: House) -> None:
    hub.node.file.write_text(hub.node.file.read_text().replace("tcp:0", "tcp:1"))
    done = hub.tell("invite", "leaf", "--domain", "leaf.example", "--endpoint", "hub.example:25")
    assert done.returncode == 75 and "listen has changed, that needs a restart" in done.stderr
    assert decode(done.stdout).name == "leaf"


def test_files_belong_to_whom_the_data_folder_belongs(hub: House, leaf: House) -> None:
    """Root gives the commands, and the node is another user: it must be able to read what they wrote."""
    leaf.node.data.mkdir()
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    os.chown(leaf.node.data, owner, -1)
    leaf.says("join", hub.invite())
    written = list(leaf.node.data.rglob("*"))
    assert {path.name for path in written} >= {"dials", "hub.example.toml", "passwords"}
    assert {path.stat().st_uid for path in written} == {owner}


def test_reread_is_refused_where_the_configuration_is_wrong(hub: House) -> None:
    folder = Path(hub.node.data) / "peers"
    folder.mkdir()
    (folder / "x.toml").write_text("[[peer]]\nname = 7\n")
    answer = hub.node.ask(do="reread")[-1]
    assert f"{folder}/x.toml: peer.name: expected a text, got 7" in json.dumps(answer)
