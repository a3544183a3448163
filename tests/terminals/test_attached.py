"""Attached terminals: who they are, what became of a text, and what a hostile client cannot do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface.verify import verifyObject

from mailnode.interfaces import STRANGER, ITerminals, Message, Standing, Terminal
from mailnode.mail import Path
from mailnode.terminals import attached_line
from mailnode.terminals.attached import AttachedTerminals
from mailnode.terminals.attached_line import AttachedLine
from mailnode.terminals.hosts import HostTerminals
from mailnode.terminals.logins import NoLogins
from mailnode.terminals.rates import Rates
from mailnode.terminals.say import Say
from mailnode.terminals.screen import screen_text
from mailnode.terminals.terminals import Terminals
from mailnode.welcome import Welcome

SMITH = Path("smith", "usc.example")
MESSAGE = Message(SMITH, b"Blah blah blah...\r\n", standing=Standing(same_host=True))
USERS = {1001: "jones", 1002: "brown"}


class Wire(StringTransport):
    """A client's end: `uid` is who the system says it is."""

    def __init__(self, uid: int, line: AttachedLine) -> None:
        super().__init__()
        self.uid = uid
        self.line = line
        self.closed = False

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        if not self.closed:
            self.closed = True
            self.line.connectionLost()

    def say(self, **words: Any) -> None:
        self.line.dataReceived(json.dumps(words).encode() + b"\n")

    def heard(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.value().splitlines()]
        self.clear()
        return lines


class Node:
    def __init__(self, **more: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.attached = AttachedTerminals(
            "mit.example",
            USERS.get,
            lambda line, device: device == (25, int(line.removeprefix("pts/"))),
            self.clock,
            self.clock.seconds,
            uid_of=lambda transport: int(transport.uid),
            **more,
        )

    def connect(self, uid: int = 1001) -> Wire:
        line = self.attached.factory.buildProtocol(None)
        wire = Wire(uid, line)
        line.makeConnection(wire)
        return wire

    def attach(self, uid: int = 1001, **words: Any) -> Wire:
        wire = self.connect(uid)
        wire.say(mailnode="terminal", version=1, **words)
        assert wire.heard()[0].get("attached") == USERS[uid]
        return wire

    def show(self, user: str = "jones", message: Message = MESSAGE) -> list[int]:
        counts: list[int] = []
        self.attached.show(user, message).addCallback(counts.append)
        return counts


@pytest.fixture
def node() -> Node:
    return Node()


# ------------------------------------------------------------------ who is there


def test_who_attaches_is_the_user_whom_the_system_names(node: Node) -> None:
    wire = node.connect(1002)
    wire.say(mailnode="terminal", version=1, line="pts/3", user="jones")
    assert wire.heard() == [{"attached": "brown", "hostname": "mit.example", "version": 1}]
    node.clock.advance(60)
    terminal = Terminal("brown", "pts/3", "attached", True, 1000.0, 60.0)
    assert node.attached.logged_in() == node.attached.logged_in("brown") == [terminal]
    assert node.attached.logged_in("jones") == []


def test_who_is_no_user_of_this_node_is_refused(node: Node) -> None:
    wire = node.connect(1)
    wire.say(mailnode="terminal", version=1)
    assert wire.heard() == [{"error": "you are no user of this node", "again": False}]
    assert wire.disconnecting and node.attached.logged_in() == []


def test_who_tells_everybody_or_one_user(node: Node) -> None:
    node.attach(1001, line="pts/1")
    node.attach(1002, line="pts/2", accepting=False)
    for asked, lines in (({}, ["pts/1", "pts/2"]), ({"user": "brown"}, ["pts/2"]), ({"user": "x"}, [])):
        wire = node.connect(1)  # anybody may ask, as with who(1)
        wire.say(mailnode="who", version=1, **asked)
        *terminals, end = wire.heard()
        assert [terminal["line"] for terminal in terminals] == lines and end == {"end": len(lines)}
        assert wire.disconnecting


def test_a_terminal_ends_with_its_connection(node: Node) -> None:
    wire = node.attach()
    wire.abortConnection()
    assert node.attached.logged_in() == [] and not node.attached.accepts("jones")
    assert node.attached._by_uid == {} and node.attached._by_user == {} and node.attached._open == {}
    assert node.clock.getDelayedCalls() == []


def test_idle_is_since_the_last_key_that_can_be(node: Node) -> None:
    wire = node.attach()
    node.clock.advance(100)
    wire.say(read=1090.0)
    assert node.attached.logged_in()[0].idle == 10
    wire.say(read=1e12)
    assert node.attached.logged_in()[0].idle == 0
    wire.say(read=-5)
    assert node.attached.logged_in()[0].idle == 100


# ------------------------------------------------------------------ what becomes of a text


def test_a_text_counts_as_shown_when_the_client_says_so(node: Node) -> None:
    wire = node.attach(columns=40)
    counts = node.show()
    (show,) = wire.heard()
    text = screen_text(MESSAGE, "mit.example", 1000.0, "utf-8", 40)
    assert (show["text"].encode(), show["at"]) == (text, 1000.0)
    assert counts == []
    wire.say(shown=show["show"])
    assert counts == [1]
    counts = node.show()
    wire.say(missed=wire.heard()[0]["show"])
    assert counts == [0]
    assert node.clock.getDelayedCalls() == []


def test_a_client_that_does_not_answer_in_a_second_is_dropped(node: Node) -> None:
    silent, other = node.attach(), node.attach()
    counts = node.show()
    other.say(shown=1)
    node.clock.advance(0.99)
    assert counts == []
    node.clock.advance(0.02)
    assert counts == [1] and silent.closed and not other.closed
    assert len(node.attached.logged_in()) == 1


def test_a_client_that_goes_away_has_shown_nothing(node: Node) -> None:
    wire = node.attach()
    counts = node.show()
    wire.abortConnection()
    assert counts == [0] and node.clock.getDelayedCalls() == []


def test_a_quiet_terminal_is_there_but_takes_no_messages(node: Node) -> None:
    wire = node.attach(accepting=False)
    assert not node.attached.accepts("jones") and node.show() == [0] and wire.heard() == []
    wire.say(accepting=True)
    assert node.attached.accepts("jones")
    wire.say(accepting=False)
    assert not node.attached.logged_in()[0].accepting


def test_the_width_and_the_charset_are_those_of_each_terminal(node: Node) -> None:
    message = Message(SMITH, "é ".encode() * 60)
    narrow, wide = node.attach(columns=30), node.attach(columns=30, charset="ascii")
    narrow.say(columns=200)
    node.show(message=message)
    assert narrow.heard()[0]["text"].encode() == screen_text(message, "mit.example", 1000.0, "utf-8", 200)
    assert wide.heard()[0]["text"].encode() == screen_text(message, "mit.example", 1000.0, "ascii", 30)


def test_only_so_many_texts_are_under_way_to_one_terminal(node: Node) -> None:
    node.attach()
    shows = [node.show() for _ in range(attached_line.UNANSWERED)]
    assert not node.attached.accepts("jones") and node.show() == [0]
    assert shows == [[]] * attached_line.UNANSWERED


# ------------------------------------------------------------------ hostile clients


@pytest.mark.parametrize(
    "octets",
    [b"GET / HTTP/1.0\r\n", b"\n", b"[" * 900 + b"\n", b"x" * 1100, b"\xff\xfe\n", b'{"mailnode": "x"}\n'],
)
def test_garbage_is_answered_by_one_line_and_the_end(node: Node, octets: bytes) -> None:
    for begin in (node.connect, node.attach):
        wire = begin()
        wire.line.dataReceived(octets)
        (answer,) = wire.heard()
        assert set(answer) == {"error", "again"} and wire.disconnecting
        assert not node.attached.accepts("jones")
        node.clock.advance(attached_line.FAREWELL)  # whoever does not read it is dropped all the same
        assert wire.closed
    assert node.attached._open == {}


def test_a_long_line_fills_no_memory(node: Node) -> None:
    wire = node.connect()
    for _ in range(3):
        wire.line.dataReceived(b"x" * 1000)
    assert wire.producerState == "paused" and len(wire.heard()) == 1


def test_who_says_nothing_is_dropped(node: Node) -> None:
    wire = node.connect()
    node.clock.advance(attached_line.GREETING)
    assert wire.closed and node.attached._open == {}


def test_connections_are_limited_for_one_and_for_all() -> None:
    node = Node(lines=5, lines_of_one=3)
    for _ in range(3):
        node.attach(1001)
    fourth = node.connect(1001)
    assert fourth.heard() == [{"error": "you have 3 terminals attached already", "again": True}]
    fourth.abortConnection()
    node.attach(1002)
    node.attach(1002)
    sixth = node.connect(1003)
    assert sixth.heard() == [{"error": "too many terminals are attached to this node", "again": True}]
    sixth.abortConnection()
    assert len(node.attached.logged_in()) == 5


def test_who_never_stops_talking_is_ended(node: Node) -> None:
    wire = node.attach()
    for _ in range(attached_line.WORDS):
        wire.say(columns=100)
    assert not wire.disconnecting
    wire.say(columns=100)
    assert wire.heard()[-1]["error"] == "too many words in a minute" and wire.disconnecting


def test_an_answer_to_nothing_counts_as_a_word(node: Node) -> None:
    wire = node.attach()
    for _ in range(attached_line.WORDS + 1):
        wire.say(shown=99)
    assert wire.disconnecting


def test_closing_lets_everybody_go_and_leaves_no_timer(node: Node) -> None:
    wires = [node.connect(), node.attach(), node.attach(1002)]
    counts = node.show()
    node.attached.close()
    assert all(wire.closed for wire in wires) and counts == [0]
    assert node.clock.getDelayedCalls() == []


# ------------------------------------------------------------------ with all the others


class Hosts(HostTerminals):
    """Host terminals without devices: `lines` of users, all of which accept."""

    def __init__(self, lines: dict[str, list[str]]) -> None:
        super().__init__(NoLogins(), "/nowhere", "mit.example", lambda _: None, lambda: 0.0)
        self.lines = lines
        self.shown: list[str] = []

    def logged_in(self, user: str | None = None, without: Any = ()) -> list[Terminal]:
        return [
            Terminal(name, line, "utmp", True, 0.0, 0.0)
            for name, lines in self.lines.items()
            for line in lines
            if user in (None, name) and line not in without
        ]

    def accepts(self, user: str, without: Any = ()) -> bool:
        return bool(self.logged_in(user, without))

    def show(self, user: str, message: Message, without: Any = ()) -> Deferred[int]:
        lines = [terminal.line for terminal in self.logged_in(user, without)]
        self.shown += lines
        shown: Deferred[int] = Deferred()
        shown.callback(len(lines))
        return shown


def house(node: Node, lines: dict[str, list[str]], say: Say | None = None) -> tuple[Terminals, Hosts]:
    hosts = Hosts(lines)
    said = Say() if say is None else say
    return Terminals(hosts, node.attached, lambda user: said, Rates(node.clock.seconds)), hosts


def shown(terminals: Terminals, message: Message = MESSAGE) -> list[int]:
    counts: list[int] = []
    terminals.show("jones", message).addCallback(counts.append)
    return counts


def test_the_door_is_provided(node: Node) -> None:
    verifyObject(ITerminals, house(node, {})[0])


def test_a_message_goes_to_terminals_of_every_kind(node: Node) -> None:
    terminals, hosts = house(node, {"jones": ["pts/1", "pts/2"]})
    wire = node.attach(line="pts/9")
    assert terminals.accepts("jones", SMITH, STRANGER)
    counts = shown(terminals)
    assert hosts.shown == ["pts/1", "pts/2"] and counts == []
    wire.say(shown=1)
    assert counts == [3]
    assert [one.kind for one in terminals.logged_in()] == ["utmp", "utmp", "attached"]


def test_a_terminal_that_utmp_names_too_is_written_to_once_and_only_as_its_client_says(node: Node) -> None:
    terminals, hosts = house(node, {"jones": ["pts/1"], "brown": ["pts/1"]})
    wire = node.attach(line="pts/1", device=[25, 1])
    assert [(one.user, one.kind) for one in terminals.logged_in()] == [
        ("brown", "utmp"),
        ("jones", "attached"),
    ]
    counts = shown(terminals)
    wire.say(shown=1)
    assert counts == [1] and hosts.shown == []
    wire.say(accepting=False)
    assert not terminals.accepts("jones", SMITH, STRANGER) and shown(terminals) == [0]
    assert terminals.accepts("brown", SMITH, STRANGER)  # nobody silences somebody else's


def test_a_terminal_of_the_same_name_in_a_container_is_another(node: Node) -> None:
    terminals, hosts = house(node, {"jones": ["pts/1"]})
    wire = node.attach(line="pts/1", device=[99, 1])
    counts = shown(terminals)
    wire.say(shown=1)
    assert counts == [2] and hosts.shown == ["pts/1"]


def test_what_is_not_welcome_is_as_if_nobody_were_there(node: Node) -> None:
    terminals, hosts = house(node, {"jones": ["pts/1"]}, Say(Welcome("same host")))
    assert terminals.accepts("jones", SMITH, Standing(same_host=True))
    assert not terminals.accepts("jones", SMITH, Standing(trusted=True))
    assert shown(terminals, Message(SMITH, b"x", standing=Standing(trusted=True))) == [0]
    assert shown(terminals) == [1] and hosts.shown == ["pts/1"]


def test_past_the_rate_nothing_is_accepted_or_shown(node: Node) -> None:
    terminals, hosts = house(node, {"jones": ["pts/1"]}, Say(rate=2, rate_all=3))
    assert [shown(terminals) for _ in range(3)] == [[1], [1], [0]]
    assert not terminals.accepts("jones", Path("SMITH", "usc.example"), STRANGER)
    green = Path("green", "usc.example")
    assert terminals.accepts("jones", green, STRANGER)
    assert shown(terminals, Message(green, b"x")) == [1]
    assert not terminals.accepts("jones", Path("x", "y.example"), STRANGER)
    node.clock.advance(61)
    assert terminals.accepts("jones", SMITH, STRANGER) and len(hosts.shown) == 3


def test_what_nobody_saw_counts_against_nobody(node: Node) -> None:
    terminals, hosts = house(node, {}, Say(rate=1, rate_all=1))
    assert shown(terminals) == [0]
    hosts.lines = {"jones": ["pts/1"]}
    assert shown(terminals) == [1]


def test_messages_at_once_cannot_pass_the_rate_together(node: Node) -> None:
    terminals, _ = house(node, {}, Say(rate=2, rate_all=9))
    wire = node.attach()
    counts = [shown(terminals) for _ in range(5)]
    assert len(wire.heard()) == 2 and counts == [[], [], [0], [0], [0]]


def test_while_it_cannot_be_told_what_the_person_says_nothing_is_shown(node: Node) -> None:
    hosts = Hosts({"jones": ["pts/1"]})
    terminals = Terminals(hosts, None, lambda user: None, Rates(node.clock.seconds))
    assert not terminals.accepts("jones", SMITH, STRANGER) and shown(terminals) == [0]


def test_a_login_of_the_host_is_looked_for_even_when_the_message_is_not_welcome(node: Node) -> None:
    asked: list[str] = []

    class Asked(Hosts):
        def accepts(self, user: str, without: Any = ()) -> bool:
            asked.append(user)
            return True

    said = Say(Welcome("nobody"))
    terminals = Terminals(Asked({}), node.attached, lambda user: said, Rates(node.clock.seconds))
    assert not terminals.accepts("jones", SMITH, STRANGER)
    assert asked == ["jones"]  # the refusal takes as long as the news that nobody is there


# ------------------------------------------------------------------ what became of a message


class Answers:
    """Answers what became of messages when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float]] = []
        self.open: list[Deferred[Any]] = []

    def __call__(self, user: str, id: str, seconds: float) -> Deferred[Any]:
        self.asked.append((user, id, seconds))
        self.open.append(Deferred())
        return self.open[-1]


QUESTION = {"mailnode": "became", "version": 1, "id": "362necygczm9h", "seconds": 6}


def test_a_user_hears_what_became_of_a_message_and_the_line_ends() -> None:
    answers = Answers()
    node = Node(became=answers)
    wire = node.connect(1002)
    wire.say(**QUESTION, user="jones")
    assert answers.asked == [("brown", "362necygczm9h", 6.0)]  # who asks the system says
    node.clock.advance(11)
    assert wire.heard() == [] and not wire.closed
    answers.open[0].callback({"whole": True, "recipients": [{"to": "<a@b>", "state": "failed"}]})
    assert wire.heard() == [{"to": "<a@b>", "state": "failed"}, {"end": 1, "whole": True}]
    assert wire.disconnecting and node.attached.logged_in() == []


@pytest.mark.parametrize(("seconds", "waits"), [(1e9, 0.0), (-1, 0.0), ("x", 0.0), (None, 0.0), (10, 10.0)])
def test_how_long_an_answer_may_take_is_bounded(seconds: Any, waits: float) -> None:
    answers = Answers()
    Node(became=answers).connect().say(**{**QUESTION, "id": 7, "seconds": seconds})
    assert answers.asked == [("jones", "", waits)]


def test_one_question_is_answered_and_strangers_get_no_answer() -> None:
    answers = Answers()
    node = Node(became=answers)
    wire = node.connect()
    wire.say(**QUESTION)
    wire.say(**QUESTION)
    assert wire.heard() == [{"error": "one question at a time", "again": False}]
    answers.open[0].callback({"whole": True, "recipients": []})  # for nobody any more
    assert wire.heard() == []
    stranger = node.connect(77)
    stranger.say(**QUESTION)
    assert stranger.heard() == [{"error": "you are no user of this node", "again": False}]
    assert len(answers.open) == 1


def test_who_leaves_before_the_answer_harms_nobody_and_a_failure_is_said() -> None:
    answers = Answers()
    node = Node(became=answers)
    gone, stays = node.connect(), node.connect()
    gone.say(**QUESTION)
    stays.say(**QUESTION)
    gone.abortConnection()
    answers.open[0].callback({"whole": True, "recipients": [{"to": "x"}]})
    assert gone.heard() == []
    answers.open[1].errback(OSError("disk"))
    assert stays.heard() == [{"error": "the node could not find out", "again": True}]


def test_a_process_that_does_not_know_says_so() -> None:
    wire = Node().connect()
    wire.say(**QUESTION)
    assert wire.heard() == [{"error": "this process does not know what became of messages", "again": False}]
