"""How a call went, and when the next one is due."""

from __future__ import annotations

import pytest

from mailnode.mail import Reply
from mailnode.peering.calls import EVERY, FIRST, Call, CallEnded, pause

HUB = Call("hub", "tcp:hub:25", every=900.0)
LINE = Call("hub", "tcp:hub:25", wait=30)


def ended(code: int, text: str = "", turned: bool = False, lasted: float = 0.0) -> CallEnded:
    return CallEnded(turned, 0, Reply(code, text), lasted=lasted)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (Call("hub", ""), "TURN"),
        (Call("hub", "", command="ATRN"), "ATRN"),
        (Call("hub", "", command="ATRN", domains=("a.edu", "b.edu")), "ATRN a.edu,b.edu"),
        (Call("hub", "", command="ETRN", domains=("a.edu",)), ""),
        (Call("hub", "", command=""), ""),
    ],
)
def test_the_command_that_turns_the_line(call: Call, words: str) -> None:
    assert call.turn == words


@pytest.mark.parametrize(
    ("endpoint", "fingerprint", "known"),
    [
        ("tcp:hub:25", "", False),
        ("tcp:hub:25", "sha256:" + "0" * 64, True),
        ("tls:hub:465", "", True),  # Twisted looks at the certificate
        ("ssl:hub:465", "", False),  # and here it does not
    ],
)
def test_whose_certificate_is_looked_at_whatever_the_policy(
    endpoint: str, fingerprint: str, known: bool
) -> None:
    assert Call("hub", endpoint, fingerprint=fingerprint).is_known is known


@pytest.mark.parametrize(
    ("how", "well", "refused"),
    [
        (ended(250, turned=True), True, False),
        (ended(453, "You have no mail"), True, False),
        (ended(502, "VISTA has no messages to export"), True, False),
        (ended(502, "Command not implemented"), False, True),
        (ended(251), True, False),  # of ETRN
        (ended(450), False, False),
        (ended(451), False, False),
        (ended(458), False, False),
        (ended(535), False, True),
        (ended(554), False, True),
    ],
)
def test_how_a_call_went(how: CallEnded, well: bool, refused: bool) -> None:
    assert (how.is_well, how.is_refused) == (well, refused)


@pytest.mark.parametrize(
    ("call", "how", "failures", "seconds"),
    [
        (HUB, ended(250, turned=True), 0, 900),
        (HUB, ended(453), 0, 900),
        (HUB, ended(451), 1, FIRST),
        (HUB, ended(451), 2, 2 * FIRST),
        (HUB, ended(451), 5, 16 * FIRST),
        (HUB, ended(451), 11, 900),
        (HUB, ended(451), 10_000, 900),
        (HUB, ended(535), 1, 900),  # our secret will be as wrong in a second
        (LINE, ended(250, turned=True), 0, EVERY),  # the host keeps no line open
        (LINE, ended(250, turned=True, lasted=5.0), 1, FIRST),  # an open line that broke
        (LINE, ended(250, turned=True, lasted=5.0), 4, 8 * FIRST),
        (LINE, ended(451), 30, EVERY),
    ],
)
def test_when_the_next_call_is_due(call: Call, how: CallEnded, failures: int, seconds: float) -> None:
    assert pause(call, how, failures, 0.5) == pytest.approx(seconds)
    least, most = pause(call, how, failures, 0.0), pause(call, how, failures, 0.999)
    assert 0.74 * seconds < least < seconds < most < 1.26 * seconds


def test_a_secret_is_not_shown() -> None:
    assert "sesame" not in repr(Call("hub", "", "leaf", "sesame"))
