"""The whole channel in both roles, driven by Hypothesis: hosts that call, turn and are cut off.

A leaf calls a hub, gives its mail away, turns the line and takes what the hub holds for it, over a wire
that delays, cuts octets into pieces and breaks, while other clients come and go. Laws:
- nothing that was acknowledged is lost, and nothing comes twice, however often the line breaks;
- after a turn both roles are as new;
- in the end no draft, no message and no lease is left, every call has ended once, and nothing went wrong
  unnoticed.

MAILNODE_LAWS is how many examples are tried (`make laws`).
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from fuzz.house import House, Line
from fuzz.wire import Wire
from mailnode.channel.channel import Channel
from mailnode.channel.receiving import ReceiverRole
from mailnode.channel.sending import SenderRole
from mailnode.channel.tls import ClientTls, ServerTls
from mailnode.smtp.events import Ended
from mailnode.smtp.receiver import State
from mailnode.smtp.script import Plan
from tests.laws.examples import ASKED

EXAMPLES = ASKED or 40
LEAF_ADDRESS = "192.0.2.7"
CLIENT_ADDRESS = "198.51.100.9"
PATIENCE = 300  # seconds; whoever is silent for longer is cut off

COMMANDS = (
    *(
        "HELO a",
        "EHLO a",
        "MAIL FROM:<a@b.example>",
        "SEND FROM:<a@b.example>",
        "SOML FROM:<>",
        "SAML FROM:<>",
    ),
    *("RCPT TO:<leo@leaf.example>", "RCPT TO:<hubert@hub.example>", "RCPT TO:<nobody@hub.example>", "DATA"),
    *("RSET", "NOOP", "HELP", "VRFY leo", "EXPN staff", "TURN", "ATRN", "ETRN leaf.example", "XWAIT 30"),
    *("AUTH PLAIN", "*", "BDAT 3", "abc", ".", "QUIT", "XYZZY", "STARTTLS", "\xff\0", "x" * 3000),
)
SIZES = st.sampled_from([1 << 20, 1000, 100, 33, 7])  # octets of one arrival; one by one is for unit tests


class Hosts(RuleBasedStateMachine):
    """`tls` are the contexts of the hub and of the leaf when it calls."""

    def __init__(self, tls: tuple[ServerTls, ClientTls]) -> None:
        super().__init__()
        self.clock = Clock()
        self.client_tls = tls[1]
        self.hub = House(
            "hub.example",
            ["hubert"],
            clock=self.clock,
            peers={"leaf": [LEAF_ADDRESS]},
            routes={"*": "hold"},
            tls=tls[0],
        )
        self.leaf = House(
            "leaf.example", ["leo"], clock=self.clock, routes={"*": "hold"}, trusted=[CLIENT_ADDRESS]
        )
        self.houses = {"hub": self.hub, "leaf": self.leaf}
        self.messages = 0
        self.acknowledged: dict[str, tuple[str, str]] = {}  # a mark in the text -> house, user
        self.cuts = 0
        self.wire: Wire | None = None
        self.calls = 0
        self.ended: list[Ended] = []
        self.roles: list[Any] = []
        self.clients: list[tuple[House, Line]] = []
        self.errors: list[LogEvent] = []
        self.observer = cast(ILogObserver, self.observe)
        globalLogPublisher.addObserver(self.observer)

    def observe(self, event: LogEvent) -> None:
        if event["log_level"].name in ("error", "critical") or event.get("log_failure"):
            self.errors.append(event)

    # ------------------------------------------------------------- mail

    @rule(at=st.sampled_from(["hub", "leaf"]), to=st.sampled_from(["hub", "leaf"]), count=st.integers(1, 4),
          lines=st.integers(0, 60), verb=st.sampled_from(["MAIL", "SOML", "SAML"]), size=SIZES)  # fmt: skip
    def mail_is_sent(self, at: str, to: str, count: int, lines: int, verb: str, size: int) -> None:
        user = {"hub": "hubert", "leaf": "leo"}[to]
        for _ in range(count):
            self.messages += 1
            mark = f"message-{self.messages}-"
            line = self.houses[at].hear(CLIENT_ADDRESS)
            codes = line.codes(
                f"EHLO client.example\r\n{verb} FROM:<postmaster@{at}.example>\r\n"
                f"RCPT TO:<{user}@{to}.example>\r\nDATA\r\n".encode(),
                size,
            )
            assert codes == [250, 250, 250, 354]
            text = f"Subject: {mark}\r\n\r\n" + "..a line\r\n" * lines
            if line.codes(text.encode() + b".\r\n", size) == [250]:
                self.acknowledged[mark] = (to, user)
            else:
                assert self.houses[at].spool.late  # the disk has not answered yet
            line.hang_up()

    @rule(side=st.sampled_from(["hub", "leaf"]))
    def the_disk_is_slow(self, side: str) -> None:
        self.houses[side].spool.late = True

    @rule()
    def the_disks_catch_up(self) -> None:
        for house in self.houses.values():
            house.spool.late = False
            house.spool.says()

    # ------------------------------------------------------------- clients of all kinds

    @precondition(lambda self: len(self.clients) < 3)
    @rule(side=st.sampled_from(["hub", "leaf"]), address=st.sampled_from([CLIENT_ADDRESS, "203.0.113.5"]))
    def a_client_calls(self, side: str, address: str) -> None:
        house = self.houses[side]
        self.clients.append((house, house.hear(address)))

    @precondition(lambda self: bool(self.clients))
    @rule(which=st.integers(0, 2), commands=st.lists(st.sampled_from(COMMANDS), max_size=6), size=SIZES,
          ended=st.booleans())  # fmt: skip
    def a_client_says(self, which: int, commands: list[str], size: int, ended: bool) -> None:
        _, line = self.clients[which % len(self.clients)]
        octets = "\r\n".join(commands).encode("latin-1") + (b"\r\n" if ended else b"")
        for reply in line.say(octets, size):
            assert reply[:3].isdigit() and reply.isascii()

    @precondition(lambda self: bool(self.clients))
    @rule(which=st.integers(0, 2), size=SIZES)
    def a_client_stops_in_mail_data(self, which: int, size: int) -> None:
        house, line = self.clients[which % len(self.clients)]
        line.say(
            f"\r\nEHLO client.example\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster@{house.hostname}>\r\n"
            "DATA\r\nhalf a mess".encode(),
            size,
        )

    @precondition(lambda self: bool(self.clients))
    @rule(which=st.integers(0, 2), politely=st.booleans())
    def a_client_goes_away(self, which: int, politely: bool) -> None:
        _, line = self.clients.pop(which % len(self.clients))
        if politely:
            line.hang_up()
        else:
            line.wire.breaks()

    # ------------------------------------------------------------- the call

    @precondition(lambda self: self.wire is None)
    @rule(turn=st.booleans(), tls=st.booleans())
    def the_leaf_calls(self, turn: bool, tls: bool) -> None:
        options: dict[str, Any] = {"tls": self.client_tls} if tls else {}
        plan = Plan("leaf.example", turn="TURN" if turn else "", tls="opportunistic" if tls else "none")
        self.calls += 1
        self.wire = self.leaf.call(self.hub, plan, self.leaf.peering.outgoing(), self.ended, **options)
        self.roles = self._roles()

    @precondition(lambda self: self.wire is not None)
    @rule(upward=st.booleans(), size=SIZES)
    def octets_arrive(self, upward: bool, size: int) -> None:
        assert self.wire is not None
        self.clock.advance(0)
        self.wire.moves(upward, size)
        self.wire.looks()
        self._roles_are_as_new()
        self._hang_up_if_over()

    @precondition(lambda self: self.wire is not None)
    @rule(steps=st.integers(1, 40), size=st.sampled_from([20, 100, 1 << 20]), then_lost=st.booleans())
    def the_dialogue_goes_on(self, steps: int, size: int, then_lost: bool) -> None:
        """Far into it, and not to its end."""
        for step in range(steps):
            if self.wire is not None:
                self.octets_arrive(upward=step % 2 == 0, size=size)
        if self.wire is not None and then_lost:
            self.the_connection_is_lost()

    @precondition(lambda self: self.wire is not None)
    @rule(size=SIZES)
    def everything_arrives(self, size: int) -> None:
        assert self.wire is not None
        self._run(size)
        self._hang_up_if_over()

    @precondition(lambda self: self.wire is not None)
    @rule()
    def the_connection_is_lost(self) -> None:
        assert self.wire is not None
        self.cuts += 1
        self.wire.breaks()
        self._hang_up_if_over()

    @rule(seconds=st.sampled_from([0.1, 1, 20, PATIENCE + 1]))
    def time_passes(self, seconds: float) -> None:
        if self.wire is not None and seconds > PATIENCE / 10:
            self.cuts += 1  # somebody's patience may end, now or with what else passes
        self.clock.advance(seconds)
        if self.wire is not None:
            self.wire.looks()
            self._hang_up_if_over()

    # ------------------------------------------------------------- laws

    @invariant()
    def nothing_goes_wrong_unnoticed(self) -> None:
        assert self.errors == []

    @invariant()
    def a_draft_belongs_to_an_open_connection_or_waits_for_the_disk(self) -> None:
        for house in self.houses.values():
            assert len(house.spool.drafts) <= len(house.factory._channels) + 1 + house.spool.waiting_for_disk

    def _roles(self) -> list[Any]:
        assert self.wire is not None
        channels: list[Any] = [it for it in self.wire.protocols if isinstance(it, Channel)]
        return [channel._role for channel in channels]

    def _roles_are_as_new(self) -> None:
        """Right after a turn the new role knows nothing of what was said before."""
        roles = self._roles()
        for before, now in zip(self.roles, roles, strict=True):
            if now is before:
                continue
            assert type(now) is not type(before)
            if isinstance(now, ReceiverRole):
                machine = now._machine
                assert (machine.state, machine.hello, machine.extended) == (State.NEW, "", False)
                assert machine.transaction is None and machine.pending == 0
                assert now._client.identity == "" and now._client.turned
            else:
                assert isinstance(now, SenderRole)
                assert now._machine.peer.keywords == {} and now._machine.pending == b""
                assert not now._unsettled
        self.roles = roles

    def _run(self, size: int) -> None:
        assert self.wire is not None
        while True:
            self.clock.advance(0)
            moved = False
            for upward in (True, False):
                moved |= self.wire.moves(upward, size)
                self._roles_are_as_new()
            if not (self.wire.looks() | moved):
                return

    def _hang_up_if_over(self) -> None:
        if self.wire is not None and self.wire.over:
            self.wire = None
            assert len(self.ended) == self.calls

    # ------------------------------------------------------------- the end

    def teardown(self) -> None:
        try:
            if not self.errors:  # else that is the failure
                self._finish()
        finally:
            globalLogPublisher.removeObserver(self.observer)

    def _finish(self) -> None:
        self.the_disks_catch_up()
        for _, line in self.clients:
            line.wire.breaks()
        while self.wire is not None:
            self._run(1 << 20)
            self._hang_up_if_over()
            if self.wire is not None:  # it waits for what was lost on the way
                self.time_passes(700)
        for _ in range(3):
            self.the_leaf_calls(turn=True, tls=False)
            self._run(1 << 20)
            self._hang_up_if_over()
            assert self.wire is None, "a call to which nothing happened did not end"
        self.clock.advance(1)
        self._nothing_is_lost()
        assert self.errors == []
        for name, house in self.houses.items():
            assert house.spool.drafts == set(), f"{name} keeps a draft"
            assert house.empty, f"{name} keeps a message"
            assert house.relay.letters == []

    def _nothing_is_lost(self) -> None:
        extra = 0
        for number in range(1, self.messages + 1):
            mark = f"message-{number}-"
            copies = {
                (name, user): sum(mark.encode() in text for text in texts)
                for name, house in self.houses.items()
                for user, texts in house.mailbox.messages.items()
            }
            copies = {where: count for where, count in copies.items() if count}
            if mark in self.acknowledged:
                assert list(copies) == [self.acknowledged[mark]], f"{mark} is lost or astray: {copies}"
            assert len(copies) <= 1
            extra += max(sum(copies.values()) - 1, 0)
        assert extra == 0, f"{extra} duplicates by {self.cuts} cuts"


@pytest.fixture(scope="module")
def contexts(authority: Any) -> tuple[ServerTls, ClientTls]:
    return ServerTls(*authority.issue("hub.example")), ClientTls()


def test_whatever_happens_to_two_hosts_and_their_wire_no_law_is_broken(
    contexts: tuple[ServerTls, ClientTls],
) -> None:
    run_state_machine_as_test(
        cast(Any, lambda: Hosts(contexts)),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),  # building two hosts takes a moment
        ),
    )
