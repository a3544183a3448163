"""The home node's side, against hubs that answer well, badly, late or twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailnode.mail import Reply, ScramKeys
from mailnode.pairing.calling import Called, UnverifiedError, WrongCertificateError
from mailnode.pairing.joining import Home, JoinError, Joining, dial_name, dial_table
from mailnode.pairing.token import Token, said
from mailnode.smtp.events import Ended, Ending
from mailnode.smtp.pairing import parse_keys
from mailnode.smtp.sasl.keys import derive
from mailnode.smtp.script import Plan

NOW = 1_800_000_000.0
LOST = Ended(Ending.BROKEN, Reply(451, "The connection was lost", "4.4.2"))
WRONG = Ended(Ending.REFUSED, Reply(535, "Authentication credentials invalid", "5.7.8"))
USED = Ended(
    Ending.DONE, Reply(550, "The invitation was used at 2027-01-15T08:00:00Z from 192.0.2.7", "5.7.1")
)


class Hub:
    """Knows one token; `answers` are given in the place of what it would say, None for what it would."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self.keys: ScramKeys | None = None
        self.answers: list[Ended | Exception | None] = []
        self.loses_reply = False  # it takes the keys, and its reply gets lost
        self.verifies = False  # whether authorities speak for its certificate
        self.offers = {"TURN", "XWAIT", "SIZE"}
        self.calls: list[str] = []

    def __call__(self, plan: Plan, verify: bool) -> Called:
        if self.token.implicit:  # else STARTTLS would be said under TLS
            assert plan.tls == "none" and plan.secure and plan.private
        else:
            assert plan.tls == "required" and plan.known and not plan.private
        self.calls.append("pair" if plan.pair else "verify" if verify else "pinned")
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if verify and not self.verifies:
            raise UnverifiedError("self-signed certificate")
        return Called(answer or self._say(plan), self.offers, bool(plan.pair))

    def _say(self, plan: Plan) -> Ended:
        if plan.pair:
            assert plan.secret == self.token.password
            if self.keys is not None:
                return USED
            self.keys = parse_keys(plan.pair)
            assert self.keys is not None
            if self.loses_reply:
                return LOST
            return Ended(Ending.DONE, Reply(250, ("Paired as leaf", "CLOCK 2027-01-15T08:00:00Z", "HELD 2")))
        assert plan.name == self.token.name
        return Ended(Ending.DONE, Reply(220, "hub")) if self.knows(plan.secret) else WRONG

    def knows(self, secret: str) -> bool:
        keys = self.keys
        return keys is not None and derive(secret, keys.salt, keys.iterations)[1] == keys


class Leaf:
    """A home node in a folder."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder / "dials"
        self.hub = hub
        self.said: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self.dials: list[Mapping[str, Any]] = []
        self.clock = NOW
        self.keeps: Callable[[str, str], None] = self.secrets.__setitem__

    def join(self) -> None:
        home = Home("leaf.example", str(self.folder), self.dials.append, lambda *it: self.keeps(*it))
        joining = Joining(
            self.hub.token, "hub", home, self.hub, self.said.__setitem__, os.urandom, lambda: self.clock
        )
        joining.run()

    def fails(self) -> JoinError:
        with pytest.raises(JoinError) as failed:
            self.join()
        assert str(failed.value).isprintable()
        return failed.value

    @property
    def left(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def is_paired(self) -> bool:
        return self.hub.knows(self.secrets.get("leaf", "")) and bool(self.dials)


@pytest.fixture
def hub(token: Token) -> Hub:
    return Hub(token)


@pytest.fixture
def leaf(tmp_path: Path, hub: Hub) -> Leaf:
    return Leaf(tmp_path, hub)


def test_a_token_makes_a_peer_and_says_what_works(leaf: Leaf, hub: Hub) -> None:
    leaf.join()
    assert leaf.is_paired() and leaf.left == []
    assert leaf.secrets["leaf"] != hub.token.password
    assert leaf.said["mail held"] == "2 messages" and "within a minute" in leaf.said["clock"]
    assert leaf.said["offered"] == "TURN, XWAIT" and "leaf" in leaf.said["authenticated"]
    assert hub.calls == ["pair", "verify", "pinned"]


def test_a_certificate_that_authorities_speak_for_is_not_pinned(leaf: Leaf, hub: Hub) -> None:
    hub.verifies = True
    leaf.join()
    assert leaf.dials[-1]["tls"] == "verified" and "fingerprint" not in leaf.dials[-1]
    assert "verified" in leaf.said["certificate"]


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_any_other_certificate_is_pinned(tmp_path: Path, make_token: Callable[..., Token], host: str) -> None:
    leaf = Leaf(tmp_path, Hub(make_token(host=host)))
    leaf.hub.verifies = True  # nobody could know for which name
    leaf.join()
    assert leaf.dials[-1]["fingerprint"] == leaf.hub.token.fingerprint
    assert leaf.dials[-1]["tls"] == "required" and "pinned" in leaf.said["certificate"]
    assert leaf.hub.calls == ["pair", "pinned"]


@pytest.mark.parametrize("verifies", [True, False])
def test_a_hub_by_implicit_tls_is_called_so_from_then_on(
    tmp_path: Path, token: Token, verifies: bool
) -> None:
    leaf = Leaf(tmp_path, Hub(replace(token, implicit=True)))
    leaf.hub.verifies = verifies
    leaf.join()
    assert leaf.is_paired() and all(dial["implicit"] is True for dial in leaf.dials)
    assert leaf.dials[-1]["tls"] == ("verified" if verifies else "required")
    assert ("fingerprint" in leaf.dials[-1]) is not verifies


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), os.EX_TEMPFAIL, "refused; join again"),
        (TimeoutError("timed out"), os.EX_TEMPFAIL, "timed out; join again"),
        (WrongCertificateError("sha256:cd"), os.EX_PROTOCOL, "another certificate"),
        (WRONG, os.EX_NOPERM, "does not know this invitation"),
        (USED, os.EX_NOPERM, "was used at 2027-01-15T08:00:00Z from 192.0.2.7"),
        (Ended(Ending.REFUSED, Reply(454, "Temporary authentication failure")), os.EX_TEMPFAIL, "join again"),
        (Ended(Ending.REFUSED, Reply(421, "Too many connections")), os.EX_TEMPFAIL, "join again"),
        (Ended(Ending.REFUSED, Reply(554, "No SMTP here")), os.EX_PROTOCOL, "No SMTP here"),
        (Ended(Ending.DONE, Reply(451, "Cannot be kept")), os.EX_TEMPFAIL, "join again"),
        (Ended(Ending.DONE, Reply(502, "Command not implemented")), os.EX_PROTOCOL, "not implemented"),
        (Ended(Ending.INSECURE, Reply(454, "TLS is required, and the host offers none")), os.EX_PROTOCOL,
         "in between"),
        (LOST, os.EX_TEMPFAIL, "join again"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line_and_the_next_attempt_succeeds(
    leaf: Leaf, hub: Hub, answer: Ended | Exception, status: int, words: str
) -> None:
    hub.answers = [answer]
    failed = leaf.fails()
    assert (failed.status, failed.paired) == (status, False) and words in str(failed)
    assert leaf.secrets == {} and leaf.dials == []
    leaf.join()
    assert leaf.is_paired()


def test_before_anything_is_said_the_new_secret_is_on_disk_for_us_alone(leaf: Leaf, hub: Hub) -> None:
    hub.answers = [ConnectionRefusedError(111, "Connection refused")]
    leaf.fails()
    (name,) = leaf.left
    assert name.startswith(".") and (leaf.folder / name).stat().st_mode & 0o777 == 0o600
    assert hub.token.password not in (leaf.folder / name).read_text()


def test_a_reply_that_is_lost_is_found_out_at_once(leaf: Leaf, hub: Hub) -> None:
    hub.loses_reply = True
    leaf.join()
    assert leaf.is_paired() and hub.calls[:2] == ["pair", "pinned"] and "mail held" not in leaf.said


def test_a_reply_that_is_lost_with_the_line_is_found_out_by_the_next_attempt(leaf: Leaf, hub: Hub) -> None:
    hub.loses_reply, hub.answers = True, [None, ConnectionResetError(104, "Connection reset by peer")]
    assert leaf.fails().status == os.EX_TEMPFAIL and leaf.secrets == {}
    leaf.join()
    assert leaf.is_paired()


def test_an_attempt_that_died_before_it_wrote_down_is_taken_up(leaf: Leaf, hub: Hub) -> None:
    def dies(name: str, secret: str) -> None:
        raise OSError(28, "No space left on device")

    leaf.keeps = dies
    with pytest.raises(OSError, match="No space"):
        leaf.join()
    leaf.keeps = leaf.secrets.__setitem__
    leaf.join()
    assert leaf.is_paired() and leaf.left == []


def test_a_secret_of_another_invitation_is_not_taken_up(
    leaf: Leaf, hub: Hub, make_token: Callable[..., Token]
) -> None:
    hub.answers = [ConnectionRefusedError(111, "Connection refused")]
    leaf.fails()
    (file,) = leaf.folder.iterdir()
    before = json.loads(file.read_text())["secret"]
    hub.token = make_token()
    hub.answers = [ConnectionRefusedError(111, "Connection refused")]
    leaf.fails()
    assert json.loads(file.read_text())["secret"] != before
    file.write_text("{")  # what nobody can read is not taken up either
    leaf.join()
    assert leaf.is_paired()


def test_a_token_that_another_has_used_gives_us_nothing(leaf: Leaf, hub: Hub) -> None:
    Leaf(leaf.folder.parent / "thief", hub).join()
    failed = leaf.fails()
    assert failed.status == os.EX_NOPERM and "from 192.0.2.7" in str(failed)
    assert leaf.fails().status == os.EX_NOPERM and leaf.secrets == {} and leaf.dials == []


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (-3 * 86400.0, "3 days behind"),
        (2 * 3600.0, "2 hours ahead of"),
        (-300.0, "5 minutes behind"),
        (30.0, ""),
    ],
)
def test_a_clock_that_is_off_is_said_and_stops_nobody(leaf: Leaf, off: float, words: str) -> None:
    leaf.clock += off
    leaf.join()
    assert leaf.is_paired() and words in leaf.said["clock"]
    assert words or "within a minute" in leaf.said["clock"]


def test_where_an_invitation_has_expired_a_clock_that_is_off_is_said_too(leaf: Leaf, hub: Hub) -> None:
    text = "The invitation expired at 2027-01-15T08:00:00Z, and here it is 2027-01-16T08:00:00Z"
    hub.answers = [Ended(Ending.DONE, Reply(550, text, "5.7.1"))]
    failed = leaf.fails()
    assert "24 hours behind the hub's" in str(failed) and failed.status == os.EX_NOPERM


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([None, None, ConnectionRefusedError(111, "Connection refused")], "Connection refused"),
        ([None, None, WRONG], "credentials invalid"),
    ],
)
def test_a_pairing_that_cannot_be_tried_out_is_one_all_the_same(
    leaf: Leaf, hub: Hub, answers: list[Any], words: str
) -> None:
    hub.answers = answers
    failed = leaf.fails()
    assert failed.paired and words in str(failed) and str(failed).startswith("paired, but")
    assert leaf.is_paired() and leaf.left == []


def test_a_hub_that_lets_nobody_turn_the_line_is_said(leaf: Leaf, hub: Hub) -> None:
    hub.offers = {"SIZE"}
    failed = leaf.fails()
    assert failed.paired and "turn the line" in str(failed) and "nothing by which" in leaf.said["offered"]


def test_the_call_is_named_after_the_hub(token: Token, make_token: Callable[..., Token]) -> None:
    assert dial_name(token) == "hub.example"
    table = dial_table(make_token(host="2001:db8::1"), "hub", verified=False)
    assert table["endpoint"] == r"tcp:host=2001\:db8\:\:1:port=587"
    assert table["user"] == "leaf" and table["name"] == "hub" and table["wait"] == "30s"
    assert said(token.secret) not in str(table)
