"""Where a message for a terminal comes from, as the host sees it; and what intake asks and tells by it."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.interfaces import STRANGER, ICustody, Message, Standing, Terminal
from mailnode.mail import Client, Mode, Path, Reply, Rights
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.standing import standing
from mailnode.terminals.memory import MemoryTerminals

SMITH = Path("smith", "usc.example")
JONES = Path("jones", "mit.example")
NOBODY = Rights()


@pytest.mark.parametrize(
    ("client", "same_host"),
    [
        (Client(), True),
        (Client("127.0.0.1"), True),
        (Client("127.9.9.9"), True),
        (Client("::1"), True),
        (Client("::ffff:127.0.0.1"), True),
        (Client("192.0.2.7"), False),
        (Client("2001:db8::7"), False),
        (Client("not an address"), False),
        (Client("127.0.0.1", turned=True), False),  # it leads because we called it
        (Client("192.0.2.7", hello="localhost"), False),  # what it calls itself counts for nothing
    ],
)
def test_same_host_is_a_local_socket_or_the_loopback_network(client: Client, same_host: bool) -> None:
    assert standing(client, NOBODY) == Standing(same_host, trusted=False)


def test_trusted_is_who_may_relay() -> None:
    assert standing(Client("192.0.2.7"), Rights(relay=True)) == Standing(False, trusted=True)


class Asked(MemoryTerminals):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, Standing]] = []

    def accepts(self, user: str, sender: Path = SMITH, standing: Standing = STRANGER) -> bool:
        self.asked.append((user, sender.mailbox, standing))
        return super().accepts(user, sender, standing)


def custody(terminals: MemoryTerminals, mode: Mode, client: Client, rights: Rights) -> ICustody:
    clock = Clock()
    directory = Directory([NamedUsers([("jones", "")])], domains=["mit.example"])
    routing = Routing("mit.example", ["mit.example"], directory)
    intake = Intake("mit.example", routing, terminals, MemorySpool(clock.seconds), clock.seconds)
    begun = intake.begin(client, rights, mode, SMITH, 0)
    assert not isinstance(begun, Reply)
    return begun


def ended(held: ICustody, text: bytes = b"Blah\r\n") -> Reply:
    held.open()
    held.write(text)
    replies: list[Reply] = []
    committed: Deferred[Reply] = held.commit()
    committed.addCallback(replies.append)
    return replies[0]


def test_the_door_is_asked_who_sends_and_from_where() -> None:
    terminals = Asked()
    terminals.log_in("jones")
    held = custody(terminals, Mode.SEND, Client("127.0.0.1"), Rights(tuple(Mode), relay=True))
    assert held.recipient(JONES).code == 250
    assert terminals.asked == [("jones", "smith@usc.example", Standing(True, True))]
    assert ended(held).code == 250
    (shown,) = terminals.shown
    assert shown.message == Message(SMITH, b"Blah\r\n", False, Standing(True, True))


def test_who_is_not_welcome_hears_what_is_said_of_who_is_not_there() -> None:
    replies: dict[str, list[Reply]] = {}
    for reason in ("not there", "not welcome", "mesg n"):
        terminals = MemoryTerminals()
        if reason != "not there":
            terminals.log_in("jones", accepting=reason != "mesg n")
        if reason == "not welcome":
            terminals.refuse("jones", SMITH.mailbox)
        replies[reason] = [
            custody(terminals, mode, Client("192.0.2.7"), Rights(tuple(Mode))).recipient(JONES)
            for mode in (Mode.SEND, Mode.SOML, Mode.SAML)
        ]
    assert [reply.code for reply in replies["not there"]] == [450, 250, 250]
    assert replies["not there"] == replies["not welcome"] == replies["mesg n"]


def test_what_becomes_unwelcome_before_the_dot_is_mailed_or_refused() -> None:
    for mode, code in ((Mode.SEND, 451), (Mode.SOML, 250)):
        terminals = MemoryTerminals()
        terminals.log_in("jones")
        held = custody(terminals, mode, Client("192.0.2.7"), Rights(tuple(Mode)))
        assert held.recipient(JONES).code == 250
        terminals.refuse("jones", SMITH.mailbox)
        assert ended(held).code == code and terminals.shown == []


def test_a_memory_terminal_is_a_value_of_the_door() -> None:
    terminals = MemoryTerminals()
    terminals.log_in("jones", "pts/1")
    assert terminals.logged_in() == [Terminal("jones", "pts/1", "utmp", True, 0.0, 0.0)]
