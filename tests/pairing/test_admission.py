"""The hub's side: who has proved to hold an invitation becomes the peer, and nobody else does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from mailnode.mail import Client, Reply, ScramKeys
from mailnode.pairing.admission import NO_PEER, NOT_KEPT, Admission
from mailnode.pairing.invitation import Invitation, identity, keys_of
from mailnode.pairing.invitations import Invitations
from mailnode.smtp.replies import NOT_FOR_YOU

T = TypeVar("T")

NOW = 1_800_000_000.0
NEW = keys_of(b"n" * 24, os.urandom)


def at_once(work: Callable[[], T], /) -> Deferred[T]:
    try:
        return succeed(work())
    except Exception:
        return fail()


def now(deferred: Deferred[T]) -> T:
    results: list[T] = []
    deferred.addCallback(results.append)
    (result,) = results
    return result


class Hub:
    def __init__(self, folder: Path) -> None:
        self.invitations = Invitations(str(folder / "invitations"), lambda: NOW)
        self.kept: dict[str, ScramKeys] = {}
        self.held: Deferred[int] = succeed(3)
        self.asked: list[Any] = []
        self.fails: Exception | None = None

    def keep(self, name: str, keys: ScramKeys) -> None:
        if self.fails is not None:
            raise self.fails
        self.kept[name] = keys

    def count(self, domains: Any) -> Deferred[int]:
        self.asked.append(domains)
        return self.held

    def admission(self, *peers: str) -> Admission:
        domains = {name: [f"{name}.example"] for name in peers}
        return Admission(self.invitations, self.keep, domains, self.count, at_once, lambda: NOW)


@pytest.fixture
def hub(tmp_path: Path, invitation: Invitation) -> Hub:
    made = Hub(tmp_path)
    made.invitations.put(invitation)
    return made


@pytest.fixture
def holder(invitation: Invitation) -> Client:
    return Client("192.0.2.7", identity=identity("leaf", invitation.id), tls=True)


def test_its_holder_becomes_the_peer_and_hears_what_waits(hub: Hub, holder: Client) -> None:
    reply = now(hub.admission("leaf").pair(holder, NEW))
    assert reply == Reply(250, ("Paired as leaf", "CLOCK 2027-01-15T08:00:00Z", "HELD 3"), "2.7.0")
    assert hub.kept == {"leaf": NEW} and hub.asked == [["leaf.example"]]
    (one,) = hub.invitations.all()[0]
    assert (one.ended, one.ended_by) == ("used", "192.0.2.7")


def test_a_second_use_is_refused_and_keeps_nothing(hub: Hub, holder: Client) -> None:
    admission = hub.admission("leaf")
    now(admission.pair(holder, NEW))
    reply = now(admission.pair(holder, keys_of(b"x" * 24, os.urandom)))
    assert reply.code == 550 and "used" in str(reply) and hub.kept == {"leaf": NEW}


@pytest.mark.parametrize(
    "name", ["", "leaf", "leaf:00", "invitation:", "invitation:leaf", "invitation:../x:0"]
)
def test_who_holds_no_invitation_is_nobody(hub: Hub, name: str) -> None:
    admission = hub.admission("leaf")
    assert now(admission.pair(Client(identity=name), NEW)) == NOT_FOR_YOU
    assert now(admission.keys(name)) is None and hub.kept == {}


def test_a_peer_that_is_not_configured_can_come_again_later(hub: Hub, holder: Client) -> None:
    assert now(hub.admission("other").pair(holder, NEW)) == NO_PEER
    assert now(hub.admission("leaf").pair(holder, NEW)).code == 250


def test_who_was_revoked_is_told_that_even_when_the_peer_is_gone(hub: Hub, holder: Client) -> None:
    hub.invitations.revoke("leaf")
    assert "revoked" in str(now(hub.admission().pair(holder, NEW)))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("that is not a name")])
def test_keys_that_cannot_be_kept_leave_the_invitation_good(
    hub: Hub, holder: Client, error: Exception
) -> None:
    hub.fails = error
    assert now(hub.admission("leaf").pair(holder, NEW)) == NOT_KEPT
    hub.fails = None
    assert now(hub.admission("leaf").pair(holder, NEW)).code == 250


def test_the_keys_are_there_even_when_it_has_ended(hub: Hub, holder: Client, invitation: Invitation) -> None:
    """So that its holder is told why it is good for nothing, and nobody else is told anything."""
    admission = hub.admission("leaf")
    assert now(admission.keys(holder.identity)) == invitation.keys
    hub.invitations.revoke("leaf")
    assert now(admission.keys(holder.identity)) == invitation.keys
    assert "revoked" in str(now(admission.pair(holder, NEW))) and hub.kept == {}
    assert now(admission.keys(identity("leaf", "00"))) is None


def test_an_invitation_that_cannot_be_read_is_as_none(hub: Hub, holder: Client) -> None:
    (file,) = Path(hub.invitations.folder).iterdir()
    file.write_bytes(b"{")
    admission = hub.admission("leaf")
    assert now(admission.keys(holder.identity)) is None
    assert now(admission.pair(holder, NEW)) == NOT_KEPT and hub.kept == {}


def test_mail_that_cannot_be_counted_undoes_no_pairing(hub: Hub, holder: Client) -> None:
    hub.held = fail(OSError("the disk"))
    reply = now(hub.admission("leaf").pair(holder, NEW))
    assert reply.code == 250 and "HELD" not in str(reply) and hub.kept == {"leaf": NEW}
