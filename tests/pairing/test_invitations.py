"""Invitations on disk: one for a peer, used once, and never half written."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mailnode.pairing.files import SIZE, read_file, write_file
from mailnode.pairing.invitation import Invitation, invitation_for
from mailnode.pairing.invitations import REMEMBERED, UNKNOWN, Invitations
from mailnode.pairing.token import Token

NOW = 1_800_000_000.0
DAY = 86400


class Hub:
    """Invitations with a clock that is set."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        self.folder = folder / "data" / "invitations"
        self.invitations = Invitations(str(self.folder), lambda: self.now)

    def states(self) -> dict[str, str]:
        return {one.name: one.state(self.now) for one in self.invitations.all()[0]}


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def nothing() -> None:
    """What there is to do when an invitation is used."""


def test_an_invitation_is_found_by_name_and_id_alone(hub: Hub, invitation: Invitation) -> None:
    assert hub.invitations.all() == ([], [])
    assert hub.invitations.find("leaf", invitation.id) is None
    hub.invitations.put(invitation)
    assert hub.invitations.find("leaf", invitation.id) == invitation
    assert hub.invitations.find("leaf", "00") is None
    assert hub.invitations.find("other", invitation.id) is None


def test_what_is_on_disk_is_for_the_node_alone(hub: Hub, invitation: Invitation) -> None:
    hub.invitations.put(invitation)
    (file,) = hub.folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(hub.folder.stat().st_mode) == 0o700


def test_an_invitation_is_used_once(hub: Hub, invitation: Invitation) -> None:
    hub.invitations.put(invitation)
    done: list[str] = []
    assert hub.invitations.use("leaf", invitation.id, "192.0.2.7", lambda: done.append("one")) is None
    refusal = hub.invitations.use("leaf", invitation.id, "192.0.2.8", lambda: done.append("two"))
    assert refusal is not None and "used at" in str(refusal) and "192.0.2.7" in str(refusal)
    assert done == ["one"] and hub.states() == {"leaf": "used"}


def test_of_many_who_use_it_at_once_one_succeeds(hub: Hub, invitation: Invitation) -> None:
    hub.invitations.put(invitation)
    begin, results = threading.Barrier(8), []

    def use() -> None:
        begin.wait()
        results.append(hub.invitations.use("leaf", invitation.id, "", nothing))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(None) == 1 and len(results) == 8


def test_if_the_keys_cannot_be_kept_it_is_still_good(hub: Hub, invitation: Invitation) -> None:
    hub.invitations.put(invitation)

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        hub.invitations.use("leaf", invitation.id, "", full)
    assert hub.states() == {"leaf": "open"}
    assert hub.invitations.use("leaf", invitation.id, "", nothing) is None


def test_one_that_has_expired_or_was_revoked_is_not_used(hub: Hub, make_token: Callable[..., Token]) -> None:
    for name in ("leaf", "ship"):
        hub.invitations.put(invitation_for(make_token(name), NOW, os.urandom))
    leaf, ship = hub.invitations.all()[0]
    assert hub.invitations.revoke("ship") == ship
    hub.now += DAY
    for one, word in ((leaf, "expired"), (ship, "revoked")):
        refusal = hub.invitations.use(one.name, one.id, "", lambda: pytest.fail("it was used"))
        assert refusal is not None and word in str(refusal)
    assert hub.invitations.revoke("leaf") is None and hub.states() == {"leaf": "expired", "ship": "revoked"}


def test_a_later_invitation_takes_the_place_of_one_for_the_same_peer(
    hub: Hub, make_token: Callable[..., Token]
) -> None:
    first, second = (invitation_for(make_token(), NOW, os.urandom) for _ in range(2))
    hub.invitations.put(first)
    hub.invitations.put(second)
    assert hub.invitations.use("leaf", first.id, "", lambda: pytest.fail("it was used")) == UNKNOWN
    assert hub.invitations.use("leaf", second.id, "", nothing) is None


def test_nobody_was_invited_is_no_error(hub: Hub) -> None:
    assert hub.invitations.revoke("leaf") is None
    assert hub.invitations.use("leaf", "00", "", nothing) == UNKNOWN


def test_one_bad_file_does_not_hide_the_others(hub: Hub, invitation: Invitation) -> None:
    hub.invitations.put(invitation)
    bad = hub.folder / "bad.json"
    bad.write_bytes(b"{")
    (hub.folder / ".draft-1").write_bytes(b"{")
    assert hub.invitations.all() == ([invitation], [str(bad)])
    with pytest.raises(ValueError):
        hub.invitations.find("bad", "00")


def test_what_ended_long_ago_is_forgotten_when_somebody_is_invited(
    hub: Hub, make_token: Callable[..., Token]
) -> None:
    hub.invitations.put(invitation_for(make_token("old"), NOW, os.urandom))
    hub.now = NOW + DAY + REMEMBERED
    hub.invitations.put(invitation_for(make_token("leaf", lasts=90 * DAY), hub.now, os.urandom))
    assert hub.states() == {"leaf": "open", "old": "expired"}
    hub.now += 1
    hub.invitations.put(invitation_for(make_token("ship", lasts=90 * DAY), hub.now, os.urandom))
    assert hub.states() == {"leaf": "open", "ship": "open"}


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path) -> None:
    write_file(str(tmp_path), "one", b"old")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_file(str(tmp_path), "taken", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "taken"]
    assert read_file(str(tmp_path), "one") == b"old"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (SIZE + 1))
    with pytest.raises(OSError, match="larger"):
        read_file(str(tmp_path), "big")
    assert read_file(str(tmp_path), "none") is None
