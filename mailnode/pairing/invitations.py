"""The invitations of a hub on disk: a file for each peer that was invited, in a folder of mode 0700.

An invitation that has ended stays for a while: whoever comes with its token later is told why it is good for
nothing. A peer that is invited again has the new invitation alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from mailnode.mail import Reply
from mailnode.pairing.files import locked, prepare_folder, read_file, remove_file, write_file
from mailnode.pairing.invitation import Invitation, from_octets, to_octets

SUFFIX: Final = ".json"
REMEMBERED: Final = 30 * 86400.0  # seconds after its end; then an invitation is forgotten


class Invitations:
    """`now` gives seconds since the epoch. Everything raises OSError if the disk refuses."""

    def __init__(self, folder: str, now: Callable[[], float]) -> None:
        self.folder = folder
        self._now = now

    def find(self, name: str, id: str) -> Invitation | None:
        """The invitation `id` of the peer `name`. ValueError if its file cannot be understood."""
        found = self.latest(name)
        return found if found is not None and (found.name, found.id) == (name, id) else None

    def latest(self, name: str) -> Invitation | None:
        """The invitation of the peer `name`, open or not. ValueError as `find`."""
        octets = read_file(self.folder, name + SUFFIX)
        return None if octets is None else from_octets(octets)

    def all(self) -> tuple[list[Invitation], list[str]]:
        """Those that are kept, by name; and the files that cannot be understood."""
        found, bad = [], []
        for file in self._files():
            octets = read_file(self.folder, file)
            if octets is None:
                continue  # gone since
            try:
                found.append(from_octets(octets))
            except ValueError:
                bad.append(os.path.join(self.folder, file))
        return sorted(found, key=lambda invitation: invitation.name), bad

    def _files(self) -> list[str]:
        try:
            files = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return [file for file in files if file.endswith(SUFFIX) and not file.startswith(".")]

    def put(self, invitation: Invitation) -> None:
        """Keeps it, in the place of an older one of that peer; forgets those that ended long ago."""
        prepare_folder(self.folder)
        with locked(self.folder):
            write_file(self.folder, invitation.name + SUFFIX, to_octets(invitation))
            self._forget_old()

    def _forget_old(self) -> None:
        for old in self.all()[0]:
            if self._now() - (old.ended_at or old.expires) > REMEMBERED:
                remove_file(self.folder, old.name + SUFFIX)

    def revoke(self, name: str) -> Invitation | None:
        """Ends an open invitation; the one there was, None if there was none that was open. ValueError as
        `find`."""
        if not os.path.isdir(self.folder):
            return None
        with locked(self.folder):
            now = self._now()
            invitation = self.latest(name)
            if invitation is None or invitation.state(now) != "open":
                return None
            write_file(
                self.folder, name + SUFFIX, to_octets(replace(invitation, ended="revoked", ended_at=now))
            )
            return invitation

    def refusal(self, name: str, id: str) -> Reply | None:
        """Why the invitation is good for nothing, None if it is good. ValueError as `find`."""
        invitation = self.find(name, id)
        return UNKNOWN if invitation is None else invitation.refusal(self._now())

    def use(self, name: str, id: str, address: str, work: Callable[[], None]) -> Reply | None:
        """Does `work` and ends the invitation, once and for all; or gives the refusal and does nothing.

        `work` must be durable when it returns and do no harm when it is done twice: after a crash between
        the two the invitation is still good, and its holder comes again. ValueError as `find`.
        """
        if not os.path.isdir(self.folder):
            return UNKNOWN
        with locked(self.folder):
            if (refusal := self.refusal(name, id)) is not None:
                return refusal
            work()
            invitation = self.find(name, id)
            assert invitation is not None  # nobody else changes it now
            ended = replace(invitation, ended="used", ended_at=self._now(), ended_by=address)
            write_file(self.folder, name + SUFFIX, to_octets(ended))
            return None


UNKNOWN: Final = Reply(550, "There is another invitation for that name by now", "5.7.1")
