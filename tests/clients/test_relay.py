"""Mail that goes on to other hosts: source routes through three nodes, forwards, lists, loops, verbs."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

PATIENCE = 15.0  # seconds


class Tap:
    """A TCP proxy that writes down what passes; its port is known before its target runs."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.endpoint = f"tcp:127.0.0.1:{self.port}"
        self.target: Callable[[], int] | None = None
        self.said = b""  # by those who connected
        self.sockets: list[socket.socket] = [self.server]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                inner, _ = self.server.accept()
                assert self.target is not None
                outer = socket.create_connection(("127.0.0.1", self.target()), timeout=PATIENCE)
                self.sockets += [inner, outer]
                threading.Thread(target=self._pump, args=(inner, outer, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(outer, inner, False), daemon=True).start()

    def _pump(self, source: socket.socket, drain: socket.socket, record: bool) -> None:
        with suppress(OSError):  # either side may go away
            while octets := source.recv(65536):
                if record:
                    self.said += octets
                drain.sendall(octets)
            drain.shutdown(socket.SHUT_WR)

    def lines(self) -> list[str]:
        """The commands and mail data that went through, without the SIZE that only some hosts are told."""
        text = self.said.decode("latin-1")
        return [line.partition(" SIZE=")[0] for line in text.split("\r\n")]

    def paths(self) -> list[str]:
        """The lines that open transactions and name recipients."""
        verbs = ("MAIL FROM", "SEND FROM", "SOML FROM", "SAML FROM", "RCPT TO")
        return [line for line in self.lines() if line.startswith(verbs)]

    def close(self) -> None:
        for one in self.sockets:
            with suppress(OSError):  # it may be shut down already
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class Scripted:
    """A receiver of the test's own: HELO only unless `keywords` are given; refuses users in `unknown`."""

    def __init__(self, *, keywords: tuple[str, ...] | None = None, unknown: tuple[str, ...] = ()) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.server.getsockname()[1]
        self.endpoint = f"tcp:127.0.0.1:{self.port}"
        self.keywords = keywords
        self.unknown = unknown
        self.talks: list[list[str]] = []  # the commands of each connection
        self.bodies: list[bytes] = []
        self.sockets: list[socket.socket] = [self.server]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                channel, _ = self.server.accept()
                self.sockets.append(channel)
                threading.Thread(target=self._receive, args=(channel,), daemon=True).start()

    @property
    def lines(self) -> list[str]:
        return [line for talk in self.talks for line in talk]

    def _receive(self, channel: socket.socket) -> None:
        lines: list[str] = []
        self.talks.append(lines)
        with suppress(OSError), channel, channel.makefile("rwb", buffering=0) as stream:
            stream.write(b"220 scripted.example ready\r\n")
            while line := stream.readline():
                command = line.decode("latin-1").rstrip("\r\n")
                lines.append(command)
                stream.write(self._reply(command))
                if command == "DATA":
                    self.bodies.append(_data(stream))
                    stream.write(b"250 OK\r\n")
                elif command == "QUIT":
                    return

    def _reply(self, command: str) -> bytes:
        verb = command.partition(" ")[0]
        if verb == "EHLO":
            if self.keywords is None:
                return b"500 Syntax error, command unrecognized\r\n"
            rows = ["scripted.example", *self.keywords]
            text = "".join(f"250-{row}\r\n" for row in rows[:-1]) + f"250 {rows[-1]}\r\n"
            return text.encode()
        if verb == "RCPT" and any(user in command for user in self.unknown):
            return b"550 No such user\r\n"
        return {"DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}.get(verb, b"250 OK\r\n")

    def close(self) -> None:
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _data(stream: Any) -> bytes:
    body = b""
    while not body.endswith(b"\r\n.\r\n"):
        line = stream.readline()
        if not line:
            return body
        body += line
    return body


@pytest.fixture
def make_tap() -> Iterator[Callable[[], Tap]]:
    taps: list[Tap] = []

    def make() -> Tap:
        taps.append(Tap())
        return taps[-1]

    yield make
    for tap in taps:
        tap.close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    receivers: list[Scripted] = []

    def make(**how: Any) -> Scripted:
        receivers.append(Scripted(**how))
        return receivers[-1]

    yield make
    for receiver in receivers:
        receiver.close()


def give(
    node: Any, sender: str, *recipients: str, verb: str = "MAIL", text: str = "Subject: x\r\n\r\nhi"
) -> None:
    """A message that the node must take."""
    talk = node.talk()
    commands = [f"{verb} FROM:{sender}", *(f"RCPT TO:{path}" for path in recipients), "DATA"]
    codes = talk.codes("HELO HOSTY.ARPA", *commands)
    assert codes[0] == codes[1] == 250 and codes[-1] == 354, codes
    assert set(codes[2:-1]) <= {250, 251}, codes
    assert talk.codes(text + "\r\n.", "QUIT") == [250, 221]
    talk.close()


def received_fields(message: str) -> list[str]:
    header = message.partition("\n\n")[0]
    return re.findall(r"^Received: from (\S+)", header, re.MULTILINE)


def return_path(message: str) -> str:
    assert message.startswith("Return-Path: "), message
    return message.partition("\n")[0].removeprefix("Return-Path: ")


# ----------------------------------------------------------------- source routes

HOST = """
hostname = "{name}"
[users]
names = {users}
[retry]
first = "1s"
[routes]
{routes}
"""


def host(name: str, users: list[str], **routes: str) -> str:
    rows = "".join(f'"{letter}.ARPA" = "{target}"\n' for letter, target in routes.items())
    return HOST.format(name=name, users=users, routes=rows)


@pytest.fixture
def arpa(make_node: Any, make_tap: Any) -> Any:
    """Three nodes with a tap before each; mail for HOSTY goes to a fourth, by its own tap."""
    taps = {letter: make_tap() for letter in "ABDY"}
    ways = {f"HOST{letter}": tap.endpoint for letter, tap in taps.items()}
    nodes = {}
    users = {"A": ["USERA"], "B": ["USERB"], "D": ["USERC"], "Y": ["USERX"]}
    for letter, tap in taps.items():
        others = {name: way for name, way in ways.items() if name != f"HOST{letter}"}
        nodes[letter] = make_node(
            host(f"HOST{letter}.ARPA", users[letter], **others), f"host{letter}"
        ).start()
        tap.target = lambda letter=letter: nodes[letter].port
    return nodes, taps


SOURCE = "<USERX@HOSTY.ARPA>"


def test_a_source_route_is_taken_apart_host_by_host_and_the_reverse_path_grows(arpa: Any) -> None:
    # RFC 821 3.6, the example
    nodes, taps = arpa
    give(nodes["A"], SOURCE, "<@HOSTA.ARPA,@HOSTB.ARPA:USERC@HOSTD.ARPA>")
    (message,) = nodes["D"].wait_for_mail("USERC")
    assert taps["B"].paths() == [
        "MAIL FROM:<@HOSTA.ARPA:USERX@HOSTY.ARPA>",
        "RCPT TO:<@HOSTB.ARPA:USERC@HOSTD.ARPA>",
    ]
    assert taps["D"].paths() == [
        "MAIL FROM:<@HOSTB.ARPA,@HOSTA.ARPA:USERX@HOSTY.ARPA>",
        "RCPT TO:<USERC@HOSTD.ARPA>",
    ]
    assert return_path(message) == "<@HOSTB.ARPA,@HOSTA.ARPA:USERX@HOSTY.ARPA>"
    assert received_fields(message) == ["HOSTB.ARPA", "HOSTA.ARPA", "HOSTY.ARPA"]
    assert message.endswith("\nSubject: x\n\nhi\n")


def test_a_refusal_at_the_end_sends_a_notice_back_along_the_reverse_path(arpa: Any) -> None:
    nodes, taps = arpa
    give(nodes["A"], SOURCE, "<@HOSTA.ARPA,@HOSTB.ARPA:NOBODY@HOSTD.ARPA>")
    (notice,) = nodes["Y"].wait_for_mail("USERX")
    assert return_path(notice) == "<>"
    assert "550" in notice and "NOBODY@HOSTD.ARPA" in notice
    # D refused the recipient, so it is B who tells; A, on the way there, tells HOSTY
    assert taps["A"].paths() == ["MAIL FROM:<>", "RCPT TO:<@HOSTA.ARPA:USERX@HOSTY.ARPA>"]
    assert taps["Y"].paths() == ["MAIL FROM:<>", "RCPT TO:<USERX@HOSTY.ARPA>"]
    assert nodes["D"].mailbox("USERC") == []


def test_a_notice_of_the_last_host_goes_back_through_every_host_of_the_route(
    make_node: Any, make_tap: Any, scripted: Any
) -> None:
    beyond = scripted(unknown=("USERC",))
    taps = {letter: make_tap() for letter in "ABY"}
    ways = {f"HOST{letter}": tap.endpoint for letter, tap in taps.items()}
    last = host("HOSTD.ARPA", ["other"], HOSTZ=beyond.endpoint, **ways)
    last += '[forward]\nUSERC = "USERC@HOSTZ.ARPA"\n'
    nodes = {"D": make_node(last, "hostD").start()}
    ways["HOSTD"] = f"tcp:127.0.0.1:{nodes['D'].port}"
    for letter, tap in taps.items():
        others = {name: way for name, way in ways.items() if name != f"HOST{letter}"}
        config = host(f"HOST{letter}.ARPA", ["USERX"], **others)
        nodes[letter] = make_node(config, f"host{letter}").start()
        tap.target = lambda letter=letter: nodes[letter].port
    give(nodes["A"], SOURCE, "<@HOSTA.ARPA,@HOSTB.ARPA:USERC@HOSTD.ARPA>")
    (notice,) = nodes["Y"].wait_for_mail("USERX")
    back = "<@HOSTB.ARPA,@HOSTA.ARPA:USERX@HOSTY.ARPA>"
    assert taps["B"].paths()[-2:] == ["MAIL FROM:<>", f"RCPT TO:{back}"]
    assert taps["A"].paths() == ["MAIL FROM:<>", "RCPT TO:<@HOSTA.ARPA:USERX@HOSTY.ARPA>"]
    assert taps["Y"].paths() == ["MAIL FROM:<>", "RCPT TO:<USERX@HOSTY.ARPA>"]
    assert received_fields(notice)[:2] == ["HOSTA.ARPA", "HOSTB.ARPA"]
    assert "From: Mail Delivery System <MAILER-DAEMON@HOSTD.ARPA>" in notice


def test_a_host_of_1982_gets_the_very_words_of_rfc_821(make_node: Any, scripted: Any) -> None:
    old = scripted()
    node = make_node(host("HOSTA.ARPA", ["USERA"], HOSTB=old.endpoint)).start()
    give(node, SOURCE, "<@HOSTA.ARPA,@HOSTB.ARPA:USERC@HOSTD.ARPA>", text="Subject: dots\r\n\r\n..one\r\nend")
    node.wait_for_log("delivered: MAIL to <@HOSTA.ARPA,@HOSTB.ARPA:USERC@HOSTD.ARPA>")
    node.wait_until(lambda: "QUIT" in old.lines, "the end of the conversation")
    assert old.lines == [
        "EHLO HOSTA.ARPA",
        "HELO HOSTA.ARPA",
        "MAIL FROM:<@HOSTA.ARPA:USERX@HOSTY.ARPA>",
        "RCPT TO:<@HOSTB.ARPA:USERC@HOSTD.ARPA>",
        "DATA",
        "QUIT",
    ]
    (body,) = old.bodies
    assert body.endswith(b"Subject: dots\r\n\r\n..one\r\nend\r\n.\r\n")


def test_one_message_to_three_users_of_one_host_goes_over_once(make_node: Any, scripted: Any) -> None:
    old = scripted(unknown=("Green",))
    node = make_node(host("HOSTA.ARPA", ["USERX"], HOSTB=old.endpoint)).start()
    give(node, "<USERX@HOSTA.ARPA>", *(f"<{user}@HOSTB.ARPA>" for user in ("Jones", "Green", "Brown")))
    (notice,) = node.wait_for_mail("USERX")
    assert old.lines.count("DATA") == 1 and sum(line.startswith("RCPT") for line in old.lines) == 3
    assert "Green@HOSTB.ARPA" in notice and "Jones@HOSTB.ARPA" not in notice


# ----------------------------------------------------------------- names that lead elsewhere

NAMES = """
hostname = "mit.example"
[users]
names = ["jones", "brown"]
[aliases]
both = ["jones", "green@usc.example"]
owner-staff = ["brown"]
[lists]
staff = ["jones", "green@usc.example", "gone@usc.example"]
open = ["brown", "green@usc.example"]
[forward]
smith = "smith@usc.example"
[moved]
green = "green@usc.example"
[retry]
first = "1s"
[routes]
"usc.example" = "ENDPOINT"
"""


def test_forward_moved_alias_and_list_lead_where_they_say(make_node: Any, scripted: Any) -> None:
    usc = scripted(unknown=("gone@",))
    node = make_node(NAMES.replace("ENDPOINT", usc.endpoint)).start()
    talk = node.talk()
    assert talk.codes("EHLO usc.example", "MAIL FROM:<doe@usc.example>") == [250, 250]
    (forwarded,) = talk.say("RCPT TO:<smith@mit.example>")
    assert forwarded.startswith("251 ") and "<smith@usc.example>" in forwarded
    (moved,) = talk.say("RCPT TO:<green@mit.example>")
    assert moved.startswith("551 ") and "<green@usc.example>" in moved
    assert talk.codes("RCPT TO:<both@mit.example>", "RCPT TO:<staff@mit.example>", "DATA") == [250, 250, 354]
    assert talk.codes("Subject: to many\r\n\r\nx\r\n.") == [250]
    expanded = [line[4:].split(" ")[-1] for line in talk.say("EXPN staff")]
    assert expanded == ["<jones@mit.example>", "<green@usc.example>", "<gone@usc.example>"]
    assert talk.codes("EXPN jones", "VRFY staff") == [550, 550]

    # the owner of the list, not the sender, hears of the member that is gone
    (notice,) = node.wait_for_mail("brown")
    assert return_path(notice) == "<>" and "gone@usc.example" in notice
    senders = {return_path(message) for message in node.wait_for_mail("jones", 2)}
    assert senders == {"<doe@usc.example>", "<owner-staff@mit.example>"}
    node.wait_for_log("delivered: MAIL to <smith@mit.example>")
    wire = [line for line in usc.lines if line.startswith(("MAIL", "RCPT"))]
    # RFC 5321 5: one copy for all members of the list at that host, and the forward has its own
    at = wire.index("MAIL FROM:<owner-staff@mit.example>")
    assert wire[at + 1 : at + 3] == ["RCPT TO:<green@usc.example>", "RCPT TO:<gone@usc.example>"]
    assert wire[wire.index("RCPT TO:<smith@usc.example>") - 1] == "MAIL FROM:<doe@usc.example>"
    assert len(wire) == 7 and wire.count("RCPT TO:<green@usc.example>") == 2


def test_a_list_without_an_owner_is_its_postmasters_business(make_node: Any, scripted: Any) -> None:
    usc = scripted()
    node = make_node(NAMES.replace("ENDPOINT", usc.endpoint)).start()
    give(node, "<doe@usc.example>", "<open@mit.example>")
    (message,) = node.wait_for_mail("brown")
    assert return_path(message) == "<postmaster@mit.example>"


# ----------------------------------------------------------------- loops


def test_a_message_with_51_received_fields_is_refused_and_one_with_50_is_not(make_node: Any) -> None:
    node = make_node('hostname = "mit.example"\n[users]\nnames = ["jones"]\n').start()
    talk = node.talk()
    assert talk.codes("HELO loop") == [250]
    for hops, code in ((51, 554), (50, 250)):
        text = "".join(f"Received: from h{hop} by h{hop + 1}\r\n" for hop in range(hops)) + "\r\nx\r\n."
        opening = talk.codes("MAIL FROM:<a@b.example>", "RCPT TO:<jones@mit.example>", "DATA")
        assert opening == [250, 250, 354]
        assert talk.codes(text) == [code]
    assert len(node.wait_for_mail("jones")) == 1


def test_two_nodes_that_forward_to_each_other_end_in_one_notice(make_node: Any, make_tap: Any) -> None:
    taps = {"one": make_tap(), "two": make_tap()}
    nodes = {}
    for name, other in (("one", "two"), ("two", "one")):
        config = f"""
hostname = "{name}.example"
[users]
names = ["jones"]
[forward]
smith = "smith@{other}.example"
[retry]
first = "1s"
[routes]
"{other}.example" = "{taps[other].endpoint}"
"""
        nodes[name] = make_node(config, name).start()
        taps[name].target = lambda name=name: nodes[name].port
    give(nodes["one"], "<jones@one.example>", "<smith@one.example>")
    (notice,) = nodes["one"].wait_for_mail("jones", seconds=30)
    assert return_path(notice) == "<>" and "554" in notice and "hops" in notice
    lines = [line for tap in taps.values() for line in tap.lines()]
    trips = sum(line == "DATA" or line.startswith("BDAT ") for line in lines)
    assert 50 <= trips <= 52  # fifty hops, and the notice on its way back


# ----------------------------------------------------------------- verbs

VERBS = """
hostname = "mit.example"
[users]
names = ["jones"]
[terminals]
utmp = "none"
[retry]
first = "1s"
[routes]
"usc.example" = "ENDPOINT"
"""
USC = """
hostname = "usc.example"
[users]
names = ["smith"]
[terminals]
utmp = "none"
allow = "ALLOW"
"""


@pytest.fixture
def usc_by_tap(make_node: Any, make_tap: Any) -> Callable[[str], Any]:
    """mit.example, whose mail for usc.example goes through a tap; `allow` is who may use usc's terminals."""

    def make(allow: str) -> Any:
        tap = make_tap()
        usc = make_node(USC.replace("ALLOW", allow), "usc").start()
        tap.target = lambda: usc.port
        mit = make_node(VERBS.replace("ENDPOINT", tap.endpoint), "mit").start()
        return mit, tap, usc

    return make


@pytest.mark.parametrize("verb", ["SOML", "SAML"])
@pytest.mark.parametrize(("allow", "wire"), [("anyone", None), ("none", "MAIL")])
def test_soml_and_saml_go_on_by_their_own_verb_where_it_is_named_else_as_mail(
    usc_by_tap: Any, verb: str, allow: str, wire: str | None
) -> None:
    mit, tap, usc = usc_by_tap(allow)
    give(mit, "<jones@mit.example>", "<smith@usc.example>", verb=verb)
    (message,) = usc.wait_for_mail("smith")
    assert return_path(message) == "<jones@mit.example>"
    assert tap.paths() == [f"{wire or verb} FROM:<jones@mit.example>", "RCPT TO:<smith@usc.example>"]
    assert mit.mailbox("jones") == []


def test_send_goes_on_by_its_own_verb_and_450_is_final(usc_by_tap: Any) -> None:
    mit, tap, usc = usc_by_tap("anyone")
    give(mit, "<jones@mit.example>", "<smith@usc.example>", verb="SEND")
    (notice,) = mit.wait_for_mail("jones")
    assert tap.paths() == ["SEND FROM:<jones@mit.example>", "RCPT TO:<smith@usc.example>"]
    assert return_path(notice) == "<>" and "450" in notice and "User not active now" in notice
    assert usc.mailbox("smith") == []


def test_send_to_a_host_that_does_not_name_it_is_a_notice_and_never_mail(usc_by_tap: Any) -> None:
    mit, tap, usc = usc_by_tap("none")
    give(mit, "<jones@mit.example>", "<smith@usc.example>", verb="SEND")
    (notice,) = mit.wait_for_mail("jones")
    assert return_path(notice) == "<>" and "502" in notice
    assert tap.paths() == []
    assert usc.mailbox("smith") == []


# ----------------------------------------------------------------- strangers


def test_a_stranger_cannot_use_the_node_as_a_relay_by_any_form_of_address(
    make_node: Any, scripted: Any
) -> None:
    usc = scripted()
    config = (
        host("mit.example", ["jones"], USC=usc.endpoint)
        + '[relay]\nnetworks = []\n[aliases]\nout = "a@USC.ARPA"\n'
    )
    node = make_node(config).start()
    talk = node.talk()
    assert talk.codes("EHLO mit.example", "MAIL FROM:<jones@mit.example>") == [250, 250]
    (unknown,) = talk.say("RCPT TO:<nobody@mit.example>")
    assert unknown.startswith("550 ")
    for path in (
        "<a@USC.ARPA>",
        "<@mit.example:a@USC.ARPA>",
        "<@mit.example,@USC.ARPA:jones@mit.example>",
        "<@USC.ARPA:jones@mit.example>",
        "<@mit.example,@mit.example:a@USC.ARPA>",
        "<a%USC.ARPA@mit.example>",
        "<USC.ARPA!a@mit.example>",
        '<"a@USC.ARPA"@mit.example>',
        "<a@[192.0.2.1]>",
    ):
        (refused,) = talk.say(f"RCPT TO:{path}")
        assert refused[4:].split(" ", 1)[1] == unknown[4:].split(" ", 1)[1], path
        assert refused.startswith("550 "), path
    # what is ours, also by a route that ends here, and by a name of ours that leads out
    assert talk.codes(
        "RCPT TO:<@mit.example:jones@mit.example>", "RCPT TO:<out@mit.example>", "DATA", "hi\r\n."
    ) == [250, 250, 354, 250]
    node.wait_for_mail("jones")
    node.wait_for_log("delivered: MAIL to <out@mit.example>")
    assert [line for line in usc.lines if line.startswith("RCPT")] == ["RCPT TO:<a@USC.ARPA>"]
