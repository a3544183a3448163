"""Certificates of a running node: shown, read again on SIGHUP, checked; and what a peer proves by one."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NODE = """
hostname = "mit.example"
[users]
names = ["jones"]
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
"""
HUB = """
hostname = "hub.example"
[users]
names = ["hubert"]
[relay]
networks = []
[routes]
"*" = "hold"
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["certificate"]
fingerprint = "FINGERPRINT"
"""
LEAF = """
hostname = "leaf.example"
[users]
names = ["leo"]
[tls]
certificate = "fullchain.pem"
key = "privkey.pem"
client = true
roots = "ROOTS"
[[dial]]
name = "hub.example"
endpoint = "tcp:127.0.0.1:PORT"
tls = "verified"
"""
MAILNODE = [sys.executable, "-c", "from mailnode.cli import main; main()"]


def node_with_certificate(
    make_node: Any, authority: Any, *names: str, name: str = "node", **more: Any
) -> Any:
    node = make_node(NODE, name)
    authority.issue(*(names or ("mit.example",)), into=node.folder, **more)
    return node


def anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def certificate_of(node: Any) -> str:
    """The SHA-256 of the certificate that a new client is shown."""
    talk = node.talk()
    talk.say("EHLO me")
    talk.starttls(anybody())
    octets = talk.socket.getpeercert(binary_form=True)
    assert talk.say("EHLO me")[0] == "250-mit.example"
    talk.close()
    return hashlib.sha256(octets).hexdigest()


def sha256_of(file: Path) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read_text())).hexdigest()


def reread(node: Any, words: str) -> None:
    after = len(node.text())
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log(words, after=after)


def test_a_renewed_certificate_is_shown_after_sighup_and_nobody_is_cut_off(
    make_node: Any, authority: Any
) -> None:
    node = node_with_certificate(make_node, authority).start()
    first = certificate_of(node)
    assert first == sha256_of(node.folder / "fullchain.pem")
    plain, secure = node.talk(), node.talk()
    plain.say("EHLO me")
    secure.say("EHLO me")
    secure.starttls(anybody())
    authority.issue("mit.example", into=node.folder)
    assert certificate_of(node) == first  # not before it is told
    reread(node, "configuration reread")
    assert certificate_of(node) == sha256_of(node.folder / "fullchain.pem") != first
    assert secure.say("NOOP")[0].startswith("250")
    plain.starttls(anybody())
    assert plain.say("EHLO me")[0].startswith("250")


def test_after_a_sighup_with_a_wrong_certificate_the_old_one_stays_and_the_rest_is_reread(
    make_node: Any, authority: Any
) -> None:
    node = node_with_certificate(make_node, authority).start()
    first = certificate_of(node)
    certificate, key = node.folder / "fullchain.pem", node.folder / "privkey.pem"
    other = Path(authority.issue("mit.example")[0]).read_bytes()
    for number, (file, octets, words) in enumerate(
        [
            (key, b"no key", "privkey.pem: no private key in PEM"),
            (certificate, b"", "fullchain.pem: no certificate in PEM"),
            (certificate, other, "does not fit"),  # the moment at which one file of a new pair is there
            (key, None, "privkey.pem: No such file"),
        ]
    ):
        before, after = file.read_bytes(), len(node.text())
        if octets is None:
            file.unlink()
        else:
            file.write_bytes(octets)
        names = f'["jones", "brown{number}"]'
        node.file.write_text(re.sub(r"(?<=names = ).*", names, node.file.read_text()))
        reread(node, "configuration reread")
        said = [line for line in node.text()[after:].splitlines() if words in line]
        assert len(said) == 1 and "certificates not reread" in said[0]
        assert certificate_of(node) == first
        talk = node.talk()
        codes = talk.codes("HELO me", "MAIL FROM:<>", f"RCPT TO:<brown{number}@mit.example>")
        assert codes == [250, 250, 250]
        file.write_bytes(before)
    assert "Traceback" not in node.text()


def test_the_node_does_not_start_with_a_key_that_does_not_fit(
    make_node: Any, authority: Any, run: Callable[..., Any]
) -> None:
    node = node_with_certificate(make_node, authority)
    other, _ = authority.issue("mit.example")
    (node.folder / "fullchain.pem").write_bytes(Path(other).read_bytes())
    twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
    for command in (
        [*twistd, "mailnode", "--config", node.file],
        [*MAILNODE, "--config", node.file, "check"],
    ):
        done = run(*command, cwd=node.folder)
        assert done.returncode == 1
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("tls: ") and "does not fit" in lines[0]


def test_check_warns_of_a_certificate_that_has_expired(
    make_node: Any, authority: Any, run: Callable[..., Any]
) -> None:
    node = node_with_certificate(make_node, authority, "usc.example", days=-1)
    done = run(*MAILNODE, "--config", node.file, "check")
    assert done.returncode == 0 and "ok" in done.stdout
    assert [line.startswith("warning: tls.certificate: ") for line in done.stderr.splitlines()] == [
        True,
        True,
    ]
    assert "has expired on" in done.stderr and "is not for mit.example" in done.stderr


def test_implicit_tls_is_spoken_from_the_first_octet(make_node: Any, authority: Any) -> None:
    node = make_node(NODE + '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\ntls = "implicit"\n')
    authority.issue("mit.example", "usc.example", into=node.folder)
    node.start()
    assert "fullchain.pem: expires on" in node.text()  # soon, as all certificates of the tests
    context = ssl.create_default_context(cafile=str(authority.roots))
    wire = socket.create_connection(("127.0.0.1", node.port), timeout=15)
    with context.wrap_socket(wire, server_hostname="mit.example") as channel:
        assert channel.recv(1000).startswith(b"220 mit.example")
        channel.sendall(b"EHLO me\r\n")
        assert b"STARTTLS" not in channel.recv(1000)


def test_who_never_shakes_hands_keeps_no_more_places_than_anybody(make_node: Any, authority: Any) -> None:
    """A refusal that waits for a handshake would keep the place that it refuses."""
    limits = "[limits]\nconnections = 8\nconnections_per_host = 2\n"
    listen = '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\ntls = "implicit"\n'
    node = make_node(NODE + limits + listen)
    authority.issue("mit.example", into=node.folder)
    node.start()
    with contextlib.ExitStack() as open_ones:
        where = ("127.0.0.1", node.port)
        silent = [open_ones.enter_context(socket.create_connection(where, timeout=15)) for _ in range(12)]
        for refused in silent[2:]:
            assert refused.recv(1) == b""
        other = open_ones.enter_context(socket.create_connection(where, 15, source_address=("127.0.0.2", 0)))
        with anybody().wrap_socket(other) as under_tls:
            assert under_tls.recv(100).startswith(b"220 ")
        for kept in silent[:2]:
            kept.setblocking(False)
            with pytest.raises(BlockingIOError):
                kept.recv(1)


def test_a_leaf_fetches_its_mail_by_nothing_but_its_certificate(
    make_node: Any, authority: Any, tmp_path: Path
) -> None:
    leaf_certificate, leaf_key = authority.issue("leaf.example", into=tmp_path / "leafs")
    fingerprint = "sha256:" + sha256_of(Path(leaf_certificate))
    hub = make_node(HUB.replace("FINGERPRINT", fingerprint), "hub")
    authority.issue("hub.example", into=hub.folder)
    hub.start()
    talk = hub.talk()
    codes = talk.codes("EHLO me", "MAIL FROM:<>", "RCPT TO:<leo@leaf.example>", "DATA")
    assert codes == [250, 250, 250, 354]
    talk.raw(b"Subject: held\r\n\r\nfor the leaf\r\n.\r\n")
    assert talk.reply()[0].startswith("250")
    text = LEAF.replace("PORT", str(hub.port)).replace("ROOTS", str(authority.roots))
    stranger, leaf = make_node(text, "stranger"), make_node(text, "leaf")
    authority.issue("stranger.example", into=stranger.folder)
    for file in (leaf_certificate, leaf_key):
        (leaf.folder / Path(file).name).write_bytes(Path(file).read_bytes())
    stranger.start()
    refused = stranger.ask(do="dial", name="hub.example")[-1]
    assert not refused["turned"], refused
    leaf.start()
    answer = leaf.ask(do="dial", name="hub.example")[-1]
    assert answer["turned"], (answer, hub.text())
    (message,) = leaf.wait_for_mail("leo")
    assert "for the leaf" in message
    hub.wait_for_empty_spool()
    assert not stranger.mailbox("leo")


def test_a_dial_that_has_to_be_verified_tells_a_false_hub_nothing(make_node: Any, authority: Any) -> None:
    hub = make_node(HUB.replace("FINGERPRINT", "sha256:" + "a" * 64), "hub")
    authority.issue("other.example", into=hub.folder)
    hub.start()
    leaf = make_node(LEAF.replace("PORT", str(hub.port)).replace("ROOTS", str(authority.roots)), "leaf")
    authority.issue("leaf.example", into=leaf.folder)
    leaf.start()
    answers = leaf.ask(do="dial", name="hub.example", trace=True)
    assert not answers[-1]["turned"] and "is not for hub.example" in answers[-1]["reply"]
    said = [text for answer in answers if "said" in answer for speaker, text in [answer["said"]]]
    assert not any(words in text for text in said for words in ("TURN", "MAIL", "AUTH"))
