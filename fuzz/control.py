"""The lines of the control socket.

Invariants:
- No octets raise anything, and however they are cut the answers are the same.
- Every answer is one line of printable ASCII: a JSON object with "ok", "error" or "said".
- Every request line gets one answer; one that is no request of ours reaches no action.
- After a line that is too long, or a request said while another is open, nothing further is obeyed.
- What an action does not know of is not told to who asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from fuzz.choices import arrivals, split
from mailnode.control import MAX_LINE, Action, Answer, Control, ControlError, ControlFactory, Say

MAX_LENGTH = 4096
NAMES = ("status", "fail", "slow", "talk")


class Line:
    """A connection to a control socket whose actions say what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.open: list[Deferred[Answer]] = []
        actions: dict[str, Action] = {
            "status": self._status,
            "fail": self._fail,
            "slow": self._slow,
            "talk": self._talk,
        }
        control = ControlFactory(actions).buildProtocol(None)
        assert isinstance(control, Control)
        self.control = control
        self.transport = StringTransport()
        self.control.makeConnection(self.transport)  # type: ignore[no-untyped-call]

    def _status(self, request: Mapping[str, Any], _say: Say) -> Answer:
        self.asked.append(request)
        return {"state": "well", "name": str(request.get("name"))}

    def _fail(self, request: Mapping[str, Any], _say: Say) -> Answer:
        self.asked.append(request)
        raise ControlError(f"cannot do {request.get('what')}")

    def _slow(self, request: Mapping[str, Any], _say: Say) -> Deferred[Answer]:
        self.asked.append(request)
        self.open.append(Deferred())
        return self.open[-1]

    def _talk(self, request: Mapping[str, Any], say: Say) -> Answer:
        self.asked.append(request)
        say("C", str(request.get("words")))
        return {}

    def arrive(self, octets: bytes) -> None:
        if not self.transport.disconnecting:
            self.control.dataReceived(octets)  # type: ignore[no-untyped-call]

    def finish(self) -> list[dict[str, Any]]:
        for answer in self.open:
            answer.callback({"late": True})
        octets = self.transport.value()
        assert octets.isascii() and (not octets or octets.endswith(b"\n"))
        rows = octets.decode("ascii").split("\n")[:-1]
        assert all(row.rstrip("\r").isprintable() for row in rows)
        answers = [json.loads(row) for row in rows]
        assert all(isinstance(answer, dict) for answer in answers)
        assert all(len({"ok", "error", "said"} & set(answer)) == 1 for answer in answers)
        return answers


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    whole = Line()
    whole.arrive(octets)
    cut = Line()
    for piece in arrivals(octets, decisions):
        cut.arrive(piece)
    answers = whole.finish()
    assert json.dumps(answers) == json.dumps(cut.finish())
    assert [json.dumps(one) for one in whole.asked] == [json.dumps(one) for one in cut.asked]
    assert all(request.get("do") in NAMES for request in whole.asked)
    final = [answer for answer in answers if "said" not in answer]
    lines = octets.split(b"\n")
    if whole.transport.disconnecting:
        assert len(final) <= len(lines) + 1
        assert "error" in final[-1] or whole.open
    else:
        assert len(final) == len(lines) - 1
        assert len(lines[-1]) <= MAX_LINE
    assert len(whole.asked) + sum("error" in answer for answer in final) >= len(final)
