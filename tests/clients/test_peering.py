"""Two real nodes that are peers: the open line, ETRN, a pinned certificate, two processes, and SIGTERM."""

from __future__ import annotations

import base64
import signal
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.channel.tls import fingerprint_of

SECRET = "open sesame"
MEDIAN = 0.1  # seconds from the hub's 250 to the leaf's mailbox

HUB = """
hostname = "hub.example"
[users]
names = ["hubert"]
passwords = "passwords"
[relay]
networks = []
[[peer]]
name = "leaf"
domains = ["leaf.example"]
[[peer]]
name = "sent"
domains = ["sent.example"]
allow = ["address"]
addresses = ["192.0.2.7"]
deliver = "tcp:127.0.0.1:SENT"
"""
LEAF = """
hostname = "leaf.example"
[users]
names = ["leo"]
passwords = "passwords"
[routes]
"*" = "hold"
[[dial]]
name = "hub"
endpoint = "tcp:127.0.0.1:PORT"
user = "leaf"
MORE
"""


def set_password(node: Any, name: str, recoverable: bool = False) -> None:
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    passwords.set(name, SECRET, recoverable=recoverable)


def give(node: Any, sender: str, *recipients: str, text: str = "hello") -> float:
    """A message by hand; the time at which its 250 was there."""
    talk = node.talk()
    rcpt = [f"RCPT TO:<{path}>" for path in recipients]
    assert set(talk.codes("HELO client.example", f"MAIL FROM:<{sender}>", *rcpt)) == {250}
    assert talk.codes("DATA", f"Subject: {text}\r\n\r\n{text}\r\n.") == [354, 250]
    taken = time.monotonic()
    talk.close()
    return taken


def text_of(message: str) -> str:
    return message.rstrip().rpartition("\n")[2]


@pytest.fixture
def make_hub(make_node: Any) -> Callable[..., Any]:
    def make(config: str = HUB, sent: int = 9, **more: Any) -> Any:
        node = make_node(config.replace("SENT", str(sent)), "hub", **more)
        set_password(node, "leaf")
        return node.start()

    return make


@pytest.fixture
def make_leaf(make_node: Any) -> Callable[..., Any]:
    def make(port: int, more: str = 'wait = "5s"') -> Any:
        node = make_node(LEAF.replace("PORT", str(port)).replace("MORE", more), "leaf")
        set_password(node, "leaf", recoverable=True)
        return node.start()

    return make


# ------------------------------------------------------------------------ the open line


def measure(hub: Any, leaf: Any, count: int) -> list[float]:
    """Seconds from the hub's 250 until a message is in the leaf's mailbox, for one message after another."""
    new = Path(leaf.data) / "mail" / "leo" / "new"
    found = []
    for number in range(count):
        before = len(list(new.iterdir())) if new.is_dir() else 0
        taken = give(hub, "hubert@hub.example", "leo@leaf.example", text=f"message {number}")
        while not new.is_dir() or len(list(new.iterdir())) == before:
            assert time.monotonic() - taken < 15, "the message did not come"
            time.sleep(0.001)
        found.append(time.monotonic() - taken)
    return found


def test_over_the_open_line_mail_is_there_in_a_moment(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub()
    give(hub, "hubert@hub.example", "leo@leaf.example", text="before the call")
    leaf = make_leaf(hub.port)
    leaf.wait_for_mail("leo")
    leaf.wait_for_log("line open")
    seconds = measure(hub, leaf, 25)
    median = statistics.median(seconds)
    print(f"\nopen line: median {median * 1000:.1f} ms, worst {max(seconds) * 1000:.1f} ms")
    assert median < MEDIAN
    expected = ["before the call", *(f"message {number}" for number in range(25))]
    assert sorted(text_of(it) for it in leaf.mailbox("leo")) == sorted(expected)
    hub.wait_for_empty_spool()
    assert hub.text().count("turned the line") == 1


def test_a_line_to_two_processes_is_as_quick(make_hub: Any, make_leaf: Any) -> None:
    receiver = make_hub(plugin="mailnode-receiver")
    sender = type(receiver)(receiver.folder, receiver.file.read_text(), "mailnode-sender").start()
    try:
        leaf = make_leaf(receiver.port)
        leaf.wait_for_log("line open")
        seconds = measure(receiver, leaf, 9)
        print(f"\nopen line, two processes: median {statistics.median(seconds) * 1000:.1f} ms")
        assert statistics.median(seconds) < MEDIAN
        # What the process that sends finds out to be held goes over the line of the other one.
        receiver.wait_for_empty_spool()
    finally:
        sender.stop()


def test_outgoing_mail_goes_at_once_while_the_line_stays_open(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub()
    leaf = make_leaf(hub.port)
    leaf.wait_for_log("line open")
    for number in range(3):
        taken = give(leaf, "leo@leaf.example", "hubert@hub.example", text=f"out {number}")
        hub.wait_for_mail("hubert", number + 1)
        assert time.monotonic() - taken < 5
    leaf.wait_for_empty_spool()
    give(hub, "hubert@hub.example", "leo@leaf.example", text="in")
    assert text_of(leaf.wait_for_mail("leo")[0]) == "in"
    assert hub.text().count("turned the line") == 1


def test_a_line_goes_on_over_a_reread_that_does_not_concern_it(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub()
    leaf = make_leaf(hub.port)
    leaf.wait_for_log("line open")
    peer = 'domains = ["twig.example"]\nallow = ["address"]\naddresses = ["::1"]'
    for table in (
        f'[[peer]]\nname = "twig"\n{peer}',
        '[[dial]]\nname = "root"\nendpoint = "tcp:127.0.0.1:9"',
        "",
    ):
        for node in (hub, leaf):
            seen = len(node.text())
            node.file.write_text(f"{node.file.read_text()}\n{table}\n")
            node.process.send_signal(signal.SIGHUP)
            node.wait_for_log("configuration reread", after=seen)
    give(hub, "hubert@hub.example", "leo@leaf.example", text="over the same line")
    assert text_of(leaf.wait_for_mail("leo")[0]) == "over the same line"
    assert "the open line" not in leaf.text() and hub.text().count("turned the line") == 1


def test_mail_that_waits_for_a_peer_that_is_taken_out_is_pointed_out(make_hub: Any) -> None:
    hub = make_hub()
    give(hub, "hubert@hub.example", "leo@leaf.example", text="waits")
    hub.wait_until(lambda: hub.rows("SELECT state FROM recipient") == [("held",)], "it is held")
    whole = hub.file.read_text()
    hub.file.write_text(whole.replace('"leaf.example"', '"twig.example"'))
    hub.process.send_signal(signal.SIGHUP)
    hub.wait_for_log("1 messages are held for leaf.example, and no peer is there to fetch them")
    assert hub.rows("SELECT state FROM recipient") == [("held",)]


@pytest.mark.parametrize("how", ["its secret", "its peer"])
def test_a_hub_that_shuts_a_peer_out_ends_its_line(make_hub: Any, make_leaf: Any, how: str) -> None:
    hub = make_hub()
    leaf = make_leaf(hub.port)
    leaf.wait_for_log("line open")
    if how == "its peer":
        hub.file.write_text(hub.file.read_text().replace('name = "leaf"', 'name = "leaves"'))
    else:
        passwords = Passwords(str(hub.folder / "passwords"), lambda work: succeed(work()))
        assert passwords.remove("leaf")
    hub.process.send_signal(signal.SIGHUP)
    leaf.wait_for_log("the open line to hub has ended")
    leaf.wait_for_log("535 5.7.8")


def test_a_hub_that_restarts_or_rereads_gets_its_line_back(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub(HUB + '[[listen]]\nendpoint = "tcp:PORT:interface=127.0.0.1"\n'.replace("PORT", free()))
    leaf = make_leaf(hub.port)
    leaf.wait_for_log("line open")
    for how in ("reread", "restart"):
        seen = len(leaf.text())
        if how == "reread":
            text = hub.file.read_text()
            hub.file.write_text(text.replace('["leaf.example"]', '["leaf.example", "b.example"]'))
            hub.process.send_signal(signal.SIGHUP)
        else:
            hub.stop()
            hub.start()
        leaf.wait_for_log("line open", after=seen)
        give(hub, "hubert@hub.example", "leo@leaf.example", text=how)
        hub.wait_until(lambda how=how: how in [text_of(it) for it in leaf.mailbox("leo")], how)
    hub.wait_for_empty_spool()
    assert len(leaf.mailbox("leo")) == 2


def free() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_leaf_that_goes_down_ends_its_line_and_nothing_comes_twice(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub()
    leaf = make_leaf(hub.port)
    leaf.wait_for_log("line open")
    for number in range(60):
        give(hub, "hubert@hub.example", "leo@leaf.example", text=f"message {number}")
        if number == 20:
            leaf.process.send_signal(signal.SIGTERM)
        elif number == 40:
            leaf.stop()
            leaf.start()
    hub.wait_for_empty_spool()
    texts = [text_of(it) for it in leaf.wait_for_mail("leo", 60)]
    assert sorted(texts) == sorted(f"message {number}" for number in range(60))


def test_a_hub_that_goes_down_in_the_middle_gives_nothing_twice(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub(HUB + '[[listen]]\nendpoint = "tcp:PORT:interface=127.0.0.1"\n'.replace("PORT", free()))
    for number in range(150):
        give(hub, "hubert@hub.example", "leo@leaf.example", text=f"message {number}")
    leaf = make_leaf(hub.port)
    leaf.wait_for_mail("leo", 10)
    hub.stop()
    hub.start()
    hub.wait_for_empty_spool()
    texts = [text_of(it) for it in leaf.wait_for_mail("leo", 150)]
    assert sorted(texts) == sorted(f"message {number}" for number in range(150))


def test_a_message_to_a_terminal_goes_over_the_open_line_or_comes_back(make_hub: Any, make_leaf: Any) -> None:
    hub = make_hub(HUB + '[terminals]\nallow = "anyone"\nutmp = "none"\n')

    def send(text: str) -> None:
        talk = hub.talk()
        assert (
            talk.codes("HELO x", "SEND FROM:<hubert@hub.example>", "RCPT TO:<leo@leaf.example>") == [250] * 3
        )
        assert talk.codes("DATA", f"Subject: x\r\n\r\n{text}\r\n.") == [354, 250]
        talk.close()

    send("no line")
    (notice,) = hub.wait_for_mail("hubert")
    assert "leo@leaf.example" in notice and "User not active now" in notice
    leaf = make_leaf(hub.port)
    leaf.wait_for_log("line open")
    send("a line")  # the leaf shows nothing to those that it called
    notice = hub.wait_for_mail("hubert", 2)[1]
    assert "shows no messages on terminals" in notice
    hub.wait_for_empty_spool()
    assert leaf.mailbox("leo") == []


# ------------------------------------------------------------------------ ETRN


def test_etrn_brings_what_is_held_and_an_absent_host_costs_nothing(make_hub: Any, make_node: Any) -> None:
    customer = make_node('hostname = "sent.example"\n[users]\nnames = ["sam"]\n', "sent")
    customer.start()
    hub = make_hub(sent=customer.port)
    give(hub, "hubert@hub.example", "sam@sent.example", text="held")
    talk = hub.talk()
    lines = talk.say("EHLO sent.example")
    assert any(line[4:] == "ETRN" for line in lines)
    assert customer.mailbox("sam") == []
    assert talk.say("ETRN sent.example") == ["250 2.0.0 OK, queuing for node sent.example started"]
    assert text_of(customer.wait_for_mail("sam")[0]) == "held"
    hub.wait_for_empty_spool()
    assert talk.codes("ETRN leaf.example", "ETRN else.example", "ETRN bad domain") == [458, 459, 501]
    customer.stop()
    give(hub, "hubert@hub.example", "sam@sent.example", text="nobody there")
    seen = len(hub.text())
    assert talk.codes("ETRN @sent.example", "QUIT") == [250, 221]
    hub.wait_for_log("the queue for sent.example was started: 0 given", after=seen)
    hub.wait_until(lambda: hub.rows("SELECT state FROM recipient") == [("held",)], "it is held again")


def test_etrn_to_a_process_that_only_receives_is_done_by_the_one_that_sends(
    make_hub: Any, make_node: Any
) -> None:
    customer = make_node('hostname = "sent.example"\n[users]\nnames = ["sam"]\n', "sent").start()
    receiver = make_hub(sent=customer.port, plugin="mailnode-receiver")
    give(receiver, "hubert@hub.example", "sam@sent.example", text="held")
    talk = receiver.talk()
    assert talk.codes("EHLO x", "ETRN sent.example") == [250, 458]  # nobody works the spool off
    sender = type(receiver)(receiver.folder, receiver.file.read_text(), "mailnode-sender").start()
    try:
        assert talk.codes("ETRN sent.example") == [250]
        assert text_of(customer.wait_for_mail("sam")[0]) == "held"
    finally:
        sender.stop()


def test_a_node_asks_by_etrn_when_it_is_told_to(make_hub: Any, make_node: Any) -> None:
    customer = make_node(
        'hostname = "sent.example"\n[users]\nnames = ["sam"]\n[[dial]]\nname = "hub"\n'
        'endpoint = "tcp:127.0.0.1:9"\ncommand = "ETRN"\noutbound = false\n',
        "sent",
    )
    customer.start()
    hub = make_hub(sent=customer.port)
    customer.file.write_text(customer.file.read_text().replace("1:9", f"1:{hub.port}"))
    customer.process.send_signal(signal.SIGHUP)
    customer.wait_for_log("configuration reread")
    give(hub, "hubert@hub.example", "sam@sent.example", text="held")
    *_, answer = customer.ask(do="dial", name="hub")
    assert (answer["ok"], answer["turned"], answer["started"], answer["code"]) == (True, False, True, 250)
    assert text_of(customer.wait_for_mail("sam")[0]) == "held"


# ------------------------------------------------------------------------ who the hub is


@pytest.mark.parametrize("right", [True, False], ids=["the one that is known", "another one"])
def test_a_hub_must_have_the_certificate_that_is_known(
    make_hub: Any, make_leaf: Any, authority: Any, tmp_path: Path, right: bool
) -> None:
    certificate, key = authority.issue("hub.example", days=-1, into=tmp_path / "hub-tls")  # expired
    mark = fingerprint_of(x509.load_pem_x509_certificate(Path(certificate).read_bytes()))
    known = mark if right else "sha256:" + "0" * 64
    hub = make_hub(HUB + f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n')
    give(hub, "hubert@hub.example", "leo@leaf.example", text="under TLS")
    leaf = make_leaf(hub.port, f'fingerprint = "{known}"')
    *said, answer = leaf.ask(do="dial", name="hub", trace=True)
    lines = [line["said"] for line in said]
    assert ["tls", ""] in lines
    if right:
        assert answer["turned"] and answer["received"] == 1
        assert text_of(leaf.wait_for_mail("leo")[0]) == "under TLS"
    else:
        assert not answer["turned"] and "another than the one that is known" in answer["reply"]
        assert not any(words.startswith("AUTH") for _, words in lines)
        assert base64.b64encode(SECRET.encode()).decode() not in str(lines)
