"""Nobody gets a peer's mail, or has it marked as delivered, by words alone: TURN, ATRN, XWAIT."""

from __future__ import annotations

import base64
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.interfaces import Selection
from mailnode.spool.sqlite import SqliteSpool
from tests.clients.spools import spooled, wait_for_spool
from tests.clients.waiting import wait_until

SECRET = "open sesame"
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
"else.example" = "tcp:127.0.0.1:ELSE"
[[peer]]
name = "leaf"
domains = ["leaf.example", "branch.example"]
[[peer]]
name = "other"
domains = ["other.example"]
"""


def plain(name: str, secret: str = SECRET) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{name}\0{secret}".encode()).decode()


def give(hub: Any, text: str, *recipients: str) -> None:
    """A message of a user, who may relay."""
    talk = hub.talk()
    rcpt = [f"RCPT TO:<{path}>" for path in recipients or ("leo@leaf.example",)]
    codes = talk.codes("EHLO x", plain("hubert"), "MAIL FROM:<hubert@hub.example>", *rcpt, "DATA")
    assert codes == [250, 235, 250, *[250] * len(rcpt), 354]
    assert talk.codes(f"Subject: x\r\n\r\n{text}\r\n.", "QUIT") == [250, 221]
    talk.close()


class Sink:
    """A host for else.example that takes everything: what it was given, by recipient. It may be away."""

    def __init__(self, port: int) -> None:
        self.taken: list[str] = []
        self.away = True
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(15)

    def _run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                channel, _ = self._server.accept()
                channel.settimeout(15)
                with channel, suppress(ConnectionError), channel.makefile("rwb", buffering=0) as stream:
                    self._serve(stream)

    def _serve(self, stream: Any) -> None:
        if self.away:
            stream.write(b"421 come again\r\n")
            return
        stream.write(b"220 else.example\r\n")
        recipients: list[str] = []
        while line := stream.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                recipients.append(line.decode().partition("<")[2].partition(">")[0])
            stream.write({b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n"))
            if verb == b"DATA":
                while stream.readline() != b".\r\n":
                    pass
                self.taken += recipients
                recipients = []
                stream.write(b"250 ok\r\n")


@pytest.fixture(scope="module")
def sink(free_port: Callable[[], int]) -> Iterator[Sink]:
    sink = Sink(free_port())
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def shared_hub(make_shared_node: Callable[..., Any], free_port: Callable[[], int], sink: Sink) -> Any:
    port = sink._server.getsockname()[1]
    node = make_shared_node(HUB.replace("ODMR", str(free_port())).replace("ELSE", str(port)), "hub")
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    for name in ("leaf", "other", "hubert"):
        passwords.set(name, SECRET)
    return node.start()


@pytest.fixture
def hub(shared_hub: Any) -> Iterator[Any]:
    """The hub, which has no mail yet."""
    yield shared_hub
    empty(shared_hub)


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


@pytest.fixture
def call(hub: Any) -> Iterator[Callable[..., Any]]:
    """A connection to the hub's listener for ATRN, by which a name was proved."""
    talks: list[Any] = []
    (port,) = (it["where"].rsplit(":", 1)[1] for it in hub.status()["listening"] if it["role"] == "odmr")

    def connect(name: str = "leaf") -> Any:
        talks.append(type(hub.talk())(int(port)))
        assert talks[-1].codes("EHLO leaf.example") == [250]
        if name:
            assert talks[-1].codes(plain(name)) == [235]
        return talks[-1]

    yield connect
    for talk in talks:
        talk.close()


def receive(talk: Any) -> list[list[str]]:
    """The part of the host that has said ATRN or TURN and heard 250, up to QUIT: the recipients of each
    message and, last, its text."""
    got: list[list[str]] = []
    talk.raw(b"220 leaf.example\r\n")
    while line := talk.stream.readline():
        verb = line[:4]
        if verb == b"EHLO":
            talk.raw(b"500 what\r\n")
            continue
        if verb == b"MAIL":
            got.append([])
        elif verb == b"RCPT":
            got[-1].append(line.decode().partition("<")[2].partition(">")[0])
        talk.raw({b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 ok\r\n"))
        if verb == b"QUIT":
            return got
        if verb == b"DATA":
            before = b""
            while (line := talk.stream.readline()) != b".\r\n":
                before = line
            got[-1].append(before.decode().rstrip())
            talk.raw(b"250 ok\r\n")
    pytest.fail(f"the hub hung up: {got}")


HELD = ("held", "leo@leaf.example")


# ----------------------------------------------------------------- who gets what


@pytest.mark.parametrize("turn", ["TURN", "ATRN", "ATRN leaf.example", "ATRN leaf.example,branch.example"])
@pytest.mark.parametrize("at", [0, 1, 2], ids=["first", "second", "third"])
def test_a_message_for_here_and_elsewhere_is_split_wherever_in_the_turn_it_is(
    hub: Any, call: Any, sink: Sink, turn: str, at: int
) -> None:
    sink.away, sink.taken = True, []
    b, c, d = "b@leaf.example", "c@else.example", "d@leaf.example"
    for number in range(3):
        give(hub, f"message {number}", *([b, c, d] if number == at else [HELD[1]]))
    wait_until(lambda: [it for it in spooled(hub) if it[0] == "held"].__len__() == 4, "four held recipients")
    talk = call()
    assert talk.codes(turn) == [250]
    assert receive(talk) == [
        [b, d, f"message {number}"] if number == at else [HELD[1], f"message {number}"] for number in range(3)
    ]
    wait_until(lambda: [path for _, path in spooled(hub)] == [c], f"only {c} in the spool")
    assert sink.taken == []
    sink.away = False
    wait_until(lambda: sink.taken == [c], f"{c} at else.example")
    wait_for_spool(hub)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("ATRN other.example", 450),
        ("ATRN leaf.example,other.example", 450),
        ("ATRN other.example,leaf.example", 450),
        ("ATRN leaf.example,branch.example,hub.example", 450),
        ("ATRN else.example", 450),
        ("ATRN sub.leaf.example", 450),
        ("ATRN leaf", 501),
        ("ATRN leaf.example, branch.example", 501),
        ("ATRN leaf.example,,branch.example", 501),
        ("ATRN " + ",".join(["leaf.example"] * 40), 250),  # RFC 2645: said often, it is the same domain
        ("ATRN LEAF.Example", 250),
    ],
)
def test_one_foreign_domain_and_the_peer_gets_nothing(hub: Any, call: Any, said: str, code: int) -> None:
    give(hub, "mine")
    give(hub, "not mine", "olga@other.example")
    wait_for_spool(hub, HELD, ("held", "olga@other.example"))
    talk = call()
    assert talk.codes(said) == [code]
    if code == 250:
        assert receive(talk) == [[HELD[1], "mine"]]
        wait_for_spool(hub, ("held", "olga@other.example"))
    else:
        assert talk.codes("NOOP", "QUIT") == [250, 221]  # the line was not turned
        assert spooled(hub) == [HELD, ("held", "olga@other.example")]


@pytest.mark.parametrize("name", ["leaf.example", "leaf", "hub.example", "other.example"])
def test_helo_with_the_name_of_another_gets_nothing(hub: Any, call: Any, name: str) -> None:
    give(hub, "mine")
    wait_for_spool(hub, HELD)
    for verb in ("HELO", "EHLO"):
        talk = hub.talk()
        assert talk.codes(f"{verb} {name}", "TURN", "ATRN", "ATRN leaf.example", "XWAIT 1") == [
            *[250, 502, 502, 502, 502]
        ]
        talk = call("")
        said = [f"{verb} {name}", "ATRN", "ATRN leaf.example"]
        assert talk.codes(*said) == [250, 530, 530]
        talk = call("other")
        assert talk.codes("ATRN leaf.example", "ATRN", "TURN") == [450, 453, 250]
        assert receive(talk) == []
    assert spooled(hub) == [HELD]


def test_atrn_has_the_codes_of_its_document(hub: Any, call: Any) -> None:
    assert call("").codes("ATRN") == [530]
    talk = call()
    assert talk.codes("ATRN", "ATRN leaf.example", "MAIL FROM:<a@leaf.example>", "ATRN") == [
        *[453, 453, 250, 503]
    ]
    assert talk.codes("RSET", "ATRN", "NOOP") == [250, 453, 250]


# ----------------------------------------------------------------- canned replies

CANNED = b"220 leaf\r\n250 hi\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n221 bye\r\n"
CANNED_EHLO = b"220 leaf\r\n250-leaf\r\n250-PIPELINING\r\n250 CHUNKING\r\n" + b"250 ok\r\n" * 5


@pytest.mark.parametrize("canned", [CANNED, CANNED_EHLO], ids=["in sequence", "for a pipeline"])
@pytest.mark.parametrize("when", ["with it", "behind it", "behind its 250", "behind the greeting"])
@pytest.mark.parametrize("turn", ["TURN", "ATRN", "ATRN leaf.example", "XWAIT 1\r\nATRN"])
def test_canned_replies_never_mark_a_message_as_delivered(
    hub: Any, call: Any, turn: str, when: str, canned: bytes
) -> None:
    at = len(hub.text())
    give(hub, "one")
    wait_for_spool(hub, HELD)
    talk = call()
    *first, last = turn.encode().split(b"\r\n")
    for line in first:
        talk.raw(line + b"\r\n")
        assert talk.reply()[0][:3] == "250"
    talk.raw(last + b"\r\n" + (canned if when == "with it" else b""))
    if when == "behind it":
        talk.raw(canned)  # in a segment of its own, but before the reply can be known
    codes = {line[:3] for line in talk.reply()}
    assert codes == {"503"} if when == "with it" else codes <= {"250", "503"}
    with suppress(ConnectionError):  # the hub cuts the line
        if when == "behind its 250":
            talk.raw(canned)
        elif when == "behind the greeting":
            talk.raw(b"220 leaf\r\n")
            assert talk.stream.readline() == b"EHLO hub.example\r\n"
            talk.raw(canned.partition(b"\r\n")[2])
        talk.socket.settimeout(5)
        rest = talk.stream.read()
        assert b"DATA" not in rest and b"BDAT" not in rest
    wait_for_spool(hub, HELD)
    assert " delivered: " not in hub.text()[at:]
