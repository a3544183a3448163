"""The line is turned: two real nodes, and legacy hosts and hubs whose words come from the test."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from twisted.internet.defer import succeed

from mailnode.access.passwords import Passwords
from mailnode.peering.letters import AT_ONCE
from tests.clients.spools import spooled, wait_for_spool
from tests.clients.waiting import wait_until

PATIENCE = 15.0  # seconds

HUB = """
hostname = "hub.example"
[users]
names = ["hubert"]
passwords = "passwords"
[retry]
first = "1s"
[relay]
networks = []
[routes]
"*" = "hold"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["auth"]
"""
LEGACY_HUB = HUB.replace('allow = ["auth"]', 'allow = ["address"]\naddresses = ["127.0.0.0/8"]')
LEAF = """
hostname = "leaf.example"
[users]
names = ["leo", "lea"]
passwords = "passwords"
[retry]
first = "1s"
[routes]
"*" = "hold"
[[dial]]
name = "hub"
endpoint = "tcp:127.0.0.1:PORT"
user = "leaf"
outbound = true
"""
SECRET = "open sesame"


def set_password(node: Any, name: str, secret: str, recoverable: bool = False) -> None:
    passwords = Passwords(str(node.folder / "passwords"), lambda check: succeed(check()))
    passwords.set(name, secret, recoverable=recoverable)


def give(node: Any, sender: str, *recipients: str, text: str = "hello") -> None:
    talk = node.talk()
    commands = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{path}>" for path in recipients), "DATA"]
    codes = talk.codes("HELO client.example", *commands)
    assert codes == [250, 250, *[250] * len(recipients), 354], codes
    assert talk.codes(f"Subject: {text}\r\n\r\n{text}\r\n.", "QUIT") == [250, 221]
    talk.close()


def give_leaf(hub: Any, text: str, *recipients: str) -> None:
    """A message for the leaf, which lies in the hub's spool when this returns."""
    before = len(spooled(hub))
    recipients = recipients or ("leo@leaf.example",)
    give(hub, "hubert@hub.example", *recipients, text=text)
    wait_until(
        lambda: sum(state == "held" for state, _ in spooled(hub)) == before + len(recipients), "held mail"
    )


def plain(name: str, secret: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{name}\0{secret}".encode()).decode()


class LegacyHost:
    """The receiver's part after a TURN, by hand, on the connection of a Talk."""

    def __init__(self, talk: Any) -> None:
        self.talk = talk
        self.lines: list[str] = []
        self.recipients: list[list[str]] = []
        self.texts: list[str] = []

    def command(self) -> str:
        """The next line, "" at the end of the connection."""
        line = ""
        with suppress(ConnectionError):  # the hub cuts the line of who breaks the protocol
            line = self.talk.stream.readline().decode("latin-1").rstrip("\r\n")
        self.lines.append(line)
        return line

    def data(self) -> str:
        body = b""
        while not body.endswith(b"\r\n.\r\n"):
            line = self.talk.stream.readline()
            assert line, "the connection ended in mail data"
            body += line
        return body.decode("latin-1").removesuffix(".\r\n")

    def receive(self) -> LegacyHost:
        """Greets, and takes everything until QUIT or the end."""
        self.talk.raw(b"220 legacy SMTP\r\n")
        while line := self.command():
            verb = line.partition(" ")[0]
            if verb == "EHLO":
                self.talk.raw(b"500 what\r\n")
                continue
            if verb == "MAIL":
                self.recipients.append([])
            elif verb == "RCPT":
                self.recipients[-1].append(line.removeprefix("RCPT TO:"))
            elif verb == "DATA":
                self.talk.raw(b"354 go on\r\n")
                self.texts.append(self.data().splitlines()[-1])
            self.talk.raw(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                break
        return self


# ----------------------------------------------------------------- two nodes


@pytest.fixture
def hub(make_node: Any) -> Any:
    node = make_node(HUB, "hub")
    set_password(node, "leaf", SECRET)
    return node.start()


@pytest.fixture
def legacy_hub(make_node: Any) -> Any:
    return make_node(LEGACY_HUB, "hub").start()


@pytest.fixture
def make_leaf(make_node: Any) -> Callable[[int], Any]:
    def make(port: int, secret: str = SECRET) -> Any:
        node = make_node(LEAF.replace("PORT", str(port)), "leaf")
        set_password(node, "leaf", secret, recoverable=True)
        return node.start()

    return make


def dial(leaf: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The answer, and the dialogue that the trace showed."""
    *said, answer = leaf.ask(do="dial", name="hub", trace=True)
    return answer, [tuple(line["said"]) for line in said]


def test_a_turn_carries_mail_both_ways_on_one_connection(hub: Any, make_leaf: Any) -> None:
    leaf = make_leaf(hub.port)
    give_leaf(hub, "to leo")  # from a stranger: mail for a peer's domain is taken from anyone
    give_leaf(hub, "to both", "leo@leaf.example", "lea@leaf.example")
    give(leaf, "leo@leaf.example", "hubert@hub.example", text="to hubert")
    wait_for_spool(leaf, ("held", "hubert@hub.example"))

    answer, trace = dial(leaf)
    assert (answer["turned"], answer["given"], answer["received"], answer["code"]) == (True, 1, 2, 250)
    (message,) = hub.wait_for_mail("hubert")
    assert message.startswith("Return-Path: <leo@leaf.example>\n") and message.endswith("\nto hubert\n")
    assert [it.splitlines()[-1] for it in leaf.wait_for_mail("leo", 2)] == ["to leo", "to both"]
    assert len(leaf.wait_for_mail("lea")) == 1
    wait_for_spool(hub)
    wait_for_spool(leaf)

    at = trace.index(("C", "TURN"))
    assert trace[at + 1][0] == "S" and trace[at + 1][1].startswith("250")
    # RFC 821 3.8: the former client greets, after the 250; from here on the hub leads
    assert trace[at + 2] == ("turn", "")
    assert trace[at + 3] == ("S", "220 leaf.example Simple Mail Transfer Service Ready")
    assert trace[at + 4] == ("C", "EHLO hub.example")
    assert ("C", "EHLO leaf.example") in trace[:at]
    assert [line for who, line in trace[:at] if who == "C" and line.startswith("RCPT")] == [
        "RCPT TO:<hubert@hub.example>"
    ]
    assert sum(line.startswith("MAIL FROM:<hubert@hub.example>") for _, line in trace[at:]) == 2
    assert trace[-1][0] == "S" and trace[-1][1].startswith("221")
    assert sum(line.startswith("220 ") for _, line in trace) == 2  # one connection
    assert SECRET not in str(trace)


def test_a_second_call_finds_nothing_and_ends_well(hub: Any, make_leaf: Any) -> None:
    leaf = make_leaf(hub.port)
    for _ in range(2):
        answer, trace = dial(leaf)
        assert answer["turned"] and answer["given"] == 0 and answer["code"] == 250
        assert not any(line.startswith("MAIL") for _, line in trace)


def test_a_name_that_is_not_in_the_configuration_cannot_be_dialled(hub: Any, make_leaf: Any) -> None:
    (answer,) = make_leaf(hub.port).ask(do="dial", name="nobody")
    assert answer == {"error": "no [[dial]] of that name; there are: hub"}


def test_large_mail_goes_both_ways_over_a_turned_line(hub: Any, make_leaf: Any) -> None:
    leaf = make_leaf(hub.port)
    long = "\r\n".join(f"{number:06d} " + "x" * 60 for number in range(8000))  # 550 KiB
    give_leaf(hub, long + "\r\nto leo")
    give(leaf, "leo@leaf.example", "hubert@hub.example", text=long + "\r\nto hubert")
    wait_for_spool(leaf, ("held", "hubert@hub.example"))
    answer, _ = dial(leaf)
    assert answer["turned"] and answer["given"] == 1
    for node, user in ((hub, "hubert"), (leaf, "leo")):
        (message,) = node.wait_for_mail(user)
        assert message.endswith(long.replace("\r\n", "\n") + f"\nto {user}\n")


# ----------------------------------------------------------------- legacy hosts


def test_a_host_known_by_its_address_gets_its_mail_with_helo_alone(legacy_hub: Any) -> None:
    give_leaf(legacy_hub, "one")
    give_leaf(legacy_hub, "two")
    talk = legacy_hub.talk()
    assert talk.say("HELO any.name") == ["250 hub.example"]
    assert talk.say("TURN") == ["250 OK"]
    host = LegacyHost(talk).receive()
    assert host.lines[:3] == ["EHLO hub.example", "HELO hub.example", "MAIL FROM:<hubert@hub.example>"]
    assert host.texts == ["one", "two"]
    assert host.lines[-1] == "QUIT" and host.command() == ""
    wait_for_spool(legacy_hub)


def test_a_host_that_knows_ehlo_gets_its_mail_pipelined_after_auth(hub: Any) -> None:
    give_leaf(hub, "one")
    talk = hub.talk()
    assert "TURN" not in [line[4:] for line in talk.say("EHLO leaf.example")]
    assert talk.codes(plain("leaf", SECRET)) == [235]
    assert "TURN" in [line[4:] for line in talk.say("EHLO leaf.example")]
    assert talk.codes("TURN") == [250]
    talk.raw(b"220 leaf ready\r\n")
    host = LegacyHost(talk)
    assert host.command() == "EHLO hub.example"
    talk.raw(b"250-leaf\r\n250-SIZE 1000000\r\n250 PIPELINING\r\n")
    group = [host.command() for _ in range(3)]  # all three come before any reply
    assert group[0].startswith("MAIL FROM:<hubert@hub.example> SIZE=")
    assert group[1:] == ["RCPT TO:<leo@leaf.example>", "DATA"]
    talk.raw(b"250 ok\r\n250 ok\r\n354 go on\r\n")
    assert host.data().endswith("\r\none\r\n")
    talk.raw(b"250 ok\r\n")
    assert host.command() == "QUIT"
    talk.raw(b"221 bye\r\n")
    wait_for_spool(hub)


@pytest.mark.parametrize("hello", ["HELO leaf.example", "EHLO leaf", "EHLO hub.example"])
def test_the_name_in_helo_proves_nothing(hub: Any, hello: str) -> None:
    give_leaf(hub, "one")
    talk = hub.talk()
    talk.say(hello)
    assert talk.codes("TURN", plain("leaf", "wrong"), "TURN", "NOOP", "QUIT") == [502, 535, 502, 250, 221]
    assert spooled(hub) == [("held", "leo@leaf.example")]


def test_turn_before_helo_inside_a_transaction_or_with_an_argument_changes_nothing(legacy_hub: Any) -> None:
    talk = legacy_hub.talk()
    assert talk.codes("TURN", "HELO leaf", "MAIL FROM:<a@leaf.example>", "TURN") == [503, 250, 250, 503]
    assert talk.codes("RCPT TO:<hubert@hub.example>", "TURN", "DATA", "hi\r\n.") == [250, 503, 354, 250]
    assert talk.codes("TURN please", "TURN") == [500, 250]
    assert LegacyHost(talk).receive().lines == ["EHLO hub.example", "HELO hub.example", "QUIT"]
    legacy_hub.wait_for_mail("hubert")


def test_a_line_is_turned_once(legacy_hub: Any) -> None:
    give_leaf(legacy_hub, "one")
    talk = legacy_hub.talk()
    assert talk.codes("HELO leaf", "TURN") == [250, 250]
    talk.raw(b"220 leaf\r\n")
    host = LegacyHost(talk)
    assert host.command() == "EHLO hub.example"
    talk.raw(b"TURN\r\n")
    assert host.command() == ""
    wait_for_spool(legacy_hub, ("held", "leo@leaf.example"))


def test_every_message_is_split_by_the_domains_granted(legacy_hub: Any) -> None:
    b, c, d = "b@leaf.example", "c@else.example", "d@leaf.example"
    talk = legacy_hub.talk()
    for text in ("first", "second", "third"):
        # networks = [] lets nobody relay, so the message for three comes in by a route of the spool's own
        spool_for(legacy_hub, text, b, c, d)
    wait_until(lambda: [state for state, _ in spooled(legacy_hub)] == ["held"] * 9, "nine recipients held")
    assert talk.codes("HELO leaf", "TURN") == [250, 250]
    host = LegacyHost(talk).receive()
    assert host.texts == ["first", "second", "third"]
    assert host.recipients == [[f"<{b}>", f"<{d}>"]] * 3
    wait_for_spool(legacy_hub, *[("held", c)] * 3)
    for _ in range(2):  # nor does a further call get at it
        talk = legacy_hub.talk()
        assert talk.codes("HELO leaf", "TURN") == [250, 250]
        assert LegacyHost(talk).receive().texts == []
    assert spooled(legacy_hub) == [("held", c)] * 3


def spool_for(hub: Any, text: str, *recipients: str) -> None:
    """A message from a user who may relay."""
    set_password(hub, "hubert", SECRET)
    talk = hub.talk()
    rcpt = [f"RCPT TO:<{path}>" for path in recipients]
    codes = talk.codes("EHLO x", plain("hubert", SECRET), "MAIL FROM:<hubert@hub.example>", *rcpt, "DATA")
    assert codes == [250, 235, 250, *[250] * len(rcpt), 354]
    assert talk.codes(f"Subject: x\r\n\r\n{text}\r\n.", "QUIT") == [250, 221]
    talk.close()


CANNED = b"220 leaf\r\n250 hi\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n221 bye\r\n"


@pytest.mark.parametrize("with_turn", [True, False], ids=["with TURN", "after its 250"])
def test_canned_replies_never_mark_anything_as_delivered(legacy_hub: Any, with_turn: bool) -> None:
    give_leaf(legacy_hub, "one")
    for _ in range(3):
        talk = legacy_hub.talk()
        assert talk.codes("HELO leaf") == [250]
        talk.raw(b"TURN\r\n" + (CANNED if with_turn else b""))
        assert [line[:3] for line in talk.reply()] == ["503" if with_turn else "250"]
        if not with_turn:
            talk.raw(CANNED)
        with suppress(ConnectionError):  # the hub cuts the line
            rest = talk.stream.read()
            assert b"RCPT" not in rest and b"DATA" not in rest
        wait_for_spool(legacy_hub, ("held", "leo@leaf.example"))
    talk = legacy_hub.talk()
    assert talk.codes("HELO leaf", "TURN") == [250, 250]
    assert LegacyHost(talk).receive().texts == ["one"]


@pytest.mark.parametrize("after", ["", "220", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "text"])
def test_a_host_that_dies_at_any_word_leaves_its_mail_held(legacy_hub: Any, after: str) -> None:
    give_leaf(legacy_hub, "one")
    talk = legacy_hub.talk()
    assert talk.codes("HELO leaf", "TURN") == [250, 250]
    replies = {"EHLO": "500 what", "HELO": "250 ok", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go on"}
    if after:
        talk.raw(b"220 leaf\r\n")
        host = LegacyHost(talk)
        for verb in [] if after == "220" else replies:
            assert host.command().startswith(verb)
            talk.raw(replies[verb].encode() + b"\r\n")
            if verb == after:
                break
        if after == "text":
            host.data()
    talk.close()
    texts: list[str] = []

    def fetched() -> list[str]:
        """The hub may not know yet that the first connection is dead; then it has nothing to give."""
        talk = legacy_hub.talk()
        assert talk.codes("HELO leaf", "TURN") == [250, 250]
        texts.extend(LegacyHost(talk).receive().texts)
        return texts

    wait_until(fetched, "the message of the dead connection")
    assert texts == ["one"]
    wait_for_spool(legacy_hub)


def test_what_a_peer_refuses_for_now_stays_held_and_what_it_refuses_for_good_is_a_notice(
    legacy_hub: Any,
) -> None:
    give_leaf(legacy_hub, "one", "later@leaf.example", "never@leaf.example", "leo@leaf.example")
    talk = legacy_hub.talk()
    assert talk.codes("HELO leaf", "TURN") == [250, 250]
    talk.raw(b"220 leaf\r\n")
    host = LegacyHost(talk)
    replies = iter(["500 what", "250 ok", "250 ok", "450 busy", "550 no such user", "250 ok", "354 go"])
    for reply in replies:
        host.command()
        talk.raw(reply.encode() + b"\r\n")
    host.data()
    talk.raw(b"250 ok\r\n")
    assert host.command() == "QUIT"
    talk.raw(b"221 bye\r\n")
    (notice,) = legacy_hub.wait_for_mail("hubert")
    assert "never@leaf.example" in notice and "later@leaf.example" not in notice
    wait_for_spool(legacy_hub, ("held", "later@leaf.example"))


def test_two_connections_of_one_peer_never_get_the_same_message(legacy_hub: Any) -> None:
    texts = [f"message {number}" for number in range(2 * AT_ONCE + 5)]
    for text in texts:
        give(legacy_hub, "hubert@hub.example", "leo@leaf.example", text=text)
    wait_until(lambda: {state for state, _ in spooled(legacy_hub)} == {"held"}, "all are held")
    hosts: list[LegacyHost] = []
    for _ in range(2):
        talk = legacy_hub.talk()
        assert talk.codes("HELO leaf", "TURN") == [250, 250]
        hosts.append(LegacyHost(talk))
    threads = [threading.Thread(target=host.receive) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(hosts[0].texts + hosts[1].texts) == sorted(texts)
    assert hosts[0].texts and hosts[1].texts
    wait_for_spool(legacy_hub)


# ----------------------------------------------------------------- hubs that do not do as they should


class Hub:
    """A hub of the test's own: each call is served by `script`, on a connection as a binary stream."""

    def __init__(self, script: Callable[[Any], None]) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.failures: list[BaseException] = []
        self.script = script
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                channel, _ = self.server.accept()
                channel.settimeout(PATIENCE)
                with channel, channel.makefile("rwb", buffering=0) as stream:
                    try:
                        with suppress(ConnectionError):  # a node cuts the line of who breaks the protocol
                            self.script(stream)
                    except BaseException as error:  # told to the test when it closes the hub
                        self.failures.append(error)

    def close(self) -> None:
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join(PATIENCE)
        assert self.failures == []


@pytest.fixture
def make_hub() -> Iterator[Callable[[Callable[[Any], None]], Hub]]:
    hubs: list[Hub] = []

    def make(script: Callable[[Any], None]) -> Hub:
        hubs.append(Hub(script))
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.close()


def serve(stream: Any, **replies: bytes) -> None:
    """Serves until QUIT or the end; a reply of b"" hangs up."""
    usual = {
        "EHLO": b"250-hub\r\n250 AUTH PLAIN\r\n",
        "AUTH": b"235 ok\r\n",
        "TURN": b"502 no\r\n",
        "DATA": b"354 go on\r\n",
    } | replies
    stream.write(usual.get("greeting", b"220 hub\r\n"))
    while line := stream.readline():
        verb = line.split()[0].decode()
        reply = usual.get(verb, b"250 ok\r\n")
        if not reply:
            return
        stream.write(reply)
        if verb == "DATA" and reply.startswith(b"354"):
            while (line := stream.readline()) not in (b".\r\n", b""):
                pass
            stream.write(usual.get("end", b"250 ok\r\n"))
        if verb == "QUIT":
            return


REFUSALS: dict[str, tuple[dict[str, bytes], int, int]] = {
    # what the hub says: the code that dial answers, how many recipients' mail it took
    "a hub that does not turn": ({"TURN": b"502 no messages to export\r\n"}, 502, 1),
    "a hub that does not turn now": ({"TURN": b"421 down\r\n"}, 421, 1),
    "a hub that says 251": ({"TURN": b"251 maybe\r\n"}, 251, 1),
    "a wrong password": ({"AUTH": b"535 wrong\r\n"}, 535, 0),
    "no AUTH at all": ({"EHLO": b"250 hub\r\n"}, 504, 0),
    "no service": ({"greeting": b"554 no\r\n"}, 554, 0),
    "hangs up at AUTH": ({"AUTH": b""}, 451, 0),
    "hangs up at MAIL": ({"MAIL": b""}, 451, 0),
    "hangs up in data": ({"DATA": b""}, 451, 0),
    "hangs up at TURN": ({"TURN": b""}, 451, 1),
    "refuses for now": ({"RCPT": b"450 busy\r\n"}, 502, 0),
    "talks behind its 250": ({"TURN": b"250 ok\r\nMAIL FROM:<a@b.example>\r\n"}, 451, 1),
    "does not speak SMTP": ({"greeting": b"SSH-2.0-OpenSSH\r\n"}, 451, 0),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_hub_that_will_not_turn_is_a_clear_answer_and_nothing_is_lost(
    make_hub: Any, make_leaf: Any, why: str
) -> None:
    replies, code, given = REFUSALS[why]
    hub = make_hub(lambda stream: serve(stream, **replies))
    leaf = make_leaf(hub.port)
    give(leaf, "leo@leaf.example", "friend@else.example")
    wait_for_spool(leaf, ("held", "friend@else.example"))
    answer, _ = dial(leaf)
    assert answer["ok"] and not answer["turned"]
    assert (answer["code"], answer["given"]) == (code, given), answer
    wait_for_spool(leaf, *[] if given else [("held", "friend@else.example")])
    assert leaf.mailbox("leo") == []


def test_a_hub_that_is_not_there_is_a_clear_answer(make_leaf: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        port = nobody.getsockname()[1]
    answer, _ = dial(make_leaf(port))
    assert answer["code"] == 451 and "Cannot connect" in answer["reply"] and not answer["turned"]


def test_after_the_turn_the_hub_has_the_rights_of_a_stranger(make_hub: Any, make_leaf: Any) -> None:
    said: dict[str, list[bytes]] = {}

    def ask(stream: Any, command: str) -> bytes:
        stream.write(command.encode() + b"\r\n")
        lines = [stream.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(stream.readline())
        said[command] = lines
        return bytes(lines[-1][:3])

    def turned(stream: Any) -> None:
        stream.write(b"220 hub\r\n")
        for reply in (b"250-hub\r\n250 AUTH PLAIN\r\n", b"235 ok\r\n", b"250 ok\r\n"):
            stream.readline()
            stream.write(reply)
        assert stream.readline().startswith(b"220 leaf.example")
        commands = [
            "EHLO hub",
            "VRFY leo",
            "EXPN leo",
            plain("leaf", SECRET),
            "TURN",
            "SEND FROM:<a@b.example>",
        ]
        codes = [ask(stream, command) for command in commands]
        assert codes == [b"250", b"252", b"550", b"502", b"502", b"502"], codes
        commands = [
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<x@else.example>",
            "RCPT TO:<@leaf.example:x@else.example>",
        ]
        assert [ask(stream, command) for command in commands] == [b"250", b"550", b"550"]
        commands = ["RCPT TO:<leo@leaf.example>", "DATA", "Subject: x\r\n\r\nhi\r\n.", "QUIT"]
        assert [ask(stream, command) for command in commands] == [b"250", b"354", b"250", b"221"]

    leaf = make_leaf(make_hub(turned).port)
    answer, _ = dial(leaf)
    assert answer["turned"]
    assert len(leaf.wait_for_mail("leo")) == 1
    offered = [line[4:].split()[0] for line in said["EHLO hub"]]
    assert not set(offered) & {b"TURN", b"AUTH", b"SEND", b"SOML", b"SAML"}
    wait_for_spool(leaf)
