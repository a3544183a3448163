"""Who may do what: the rights that follow from where a client is and what it has proved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.access.backoff import Backoff
from mailnode.access.networks import in_networks, loopback
from mailnode.access.turnstile import FullError
from mailnode.interfaces import INVITED, IAccess
from mailnode.mail import (
    Client,
    CramDigest,
    Credentials,
    External,
    Mode,
    Password,
    Reply,
    Rights,
    ScramKeys,
    ScramProof,
)
from mailnode.smtp.replies import AUTH_FAILED as FAILED
from mailnode.smtp.replies import AUTH_LATER as LATER

TERMINALS_ALLOW: Final = ("anyone", "trusted", "authenticated", "none")

# Listeners where nothing goes before AUTH, and an address proves nothing (RFC 6409 4.3, RFC 2645 5.1).
AUTH_ONLY: Final = ("submission", "odmr")

# RFC 1985 5: anybody may ask that a queue be started, for it goes to where it would go anyway.
ETRN_HEARD: Final = ("smtp", "odmr")

_MAIL: Final = (Mode.MAIL,)
_ALL_MODES: Final = (Mode.MAIL, Mode.SEND, Mode.SOML, Mode.SAML)

_MECHANISM: Final[dict[type[Credentials], str]] = {
    Password: "PLAIN",  # and LOGIN, which is offered wherever PLAIN is
    CramDigest: "CRAM-MD5",
    ScramProof: "SCRAM-SHA-256",
    External: "EXTERNAL",
}
# Before a name that must not be found: no name in the passwords file has it, and the answer takes as long.
_NOBODY: Final = "\0"


class Secrets(Protocol):
    """Where passwords are known. All of it takes the same time for a name that has none.

    A Deferred errbacks with FullError if too many wait already.
    """

    def verify(self, name: str, secret: str) -> Deferred[bool]:
        """Whether `secret` is the password of `name`."""

    def verify_digest(self, name: str, challenge: bytes, digest: str) -> Deferred[bool]:
        """Whether `digest` is the CRAM-MD5 of `challenge` by the secret of `name`."""

    def keys(self, name: str) -> Deferred[ScramKeys]:
        """The SCRAM keys of `name`, or for one that has none keys that nothing fits."""


class Invited(Protocol):
    """Where the keys of invitations are known."""

    def keys(self, identity: str) -> Deferred[ScramKeys | None]:
        """The keys of the invitation that `identity` names, None if there is none."""


def _anybody(_name: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class PeerRule:
    """How a peer proves itself: by AUTH under its name, by a client certificate, by its address.

    `cram_md5`: its AUTH may be CRAM-MD5, which nobody else's may be.
    """

    name: str
    auth: bool = True
    fingerprint: str = ""
    networks: tuple[str, ...] = ()
    cram_md5: bool = False


@implementer(IAccess)
class Access:
    """`relay_networks` are trusted; `terminals_allow` says who may SEND, SOML and SAML.

    Without `secrets` nobody can authenticate but by certificate. `backoff` remembers the hosts that failed;
    give the same one again when the rules are made anew. `callers` are names under which we call others:
    their secrets are known there, so nobody proves anything by them here. A name that is no peer must be that
    of a user, whom `is_user` knows: who was taken out of the configuration is nobody, whatever is kept.
    Without `invited` nobody proves to hold an invitation. ValueError for a network or a word that is none.
    """

    def __init__(
        self,
        relay_networks: Collection[str],
        terminals_allow: str,
        peers: Sequence[PeerRule] = (),
        secrets: Secrets | None = None,
        backoff: Backoff | None = None,
        callers: Collection[str] = (),
        invited: Invited | None = None,
        is_user: Callable[[str], bool] = _anybody,
    ) -> None:
        if terminals_allow not in TERMINALS_ALLOW:
            raise ValueError(f"{terminals_allow!r} is none of {TERMINALS_ALLOW}")
        self._trusted = in_networks(relay_networks)
        self._loopback = loopback()
        self._terminals_allow = terminals_allow
        self._peers = {peer.name: peer for peer in peers}
        self._peer_networks = [(peer.name, in_networks(peer.networks)) for peer in peers if peer.networks]
        self._cram_md5 = any(peer.cram_md5 and peer.auth for peer in peers)
        self._callers = frozenset(callers)
        self._invited = invited
        self._is_user = is_user
        self._secrets = secrets
        self._backoff = Backoff() if backoff is None else backoff
        self._log = Logger("mailnode.access")

    # ------------------------------------------------------------- rights

    def rights(self, client: Client) -> Rights:
        if client.turned:
            # It leads because we called it: nothing was proved, and its address proves nothing either.
            return Rights(self._modes(trusted=False, authenticated=False), once=bool(client.called))
        if client.identity.startswith(INVITED):
            return Rights(modes=(), pair=True)
        authenticated = bool(client.identity)
        by_place = client.listener not in AUTH_ONLY and (not client.address or self._trusted(client.address))
        trusted = authenticated or by_place
        peer = self.peer(client)
        return Rights(
            modes=self._modes(trusted, authenticated),
            relay=trusted,
            verify=trusted,
            expand=trusted,
            turn=bool(peer),
            once=bool(peer),
            # Named to who is no peer yet, so that it may prove itself (RFC 2645 4).
            atrn=bool(peer or (self._peers and client.listener in AUTH_ONLY)),
            etrn=bool(self._peers) and client.listener in ETRN_HEARD,
            mechanisms=self._mechanisms(client),
            must_authenticate=client.listener in AUTH_ONLY and not authenticated,
        )

    def peer(self, client: Client) -> str:
        """The peer that `client` has proved to be, "" if it is none. A HELO name proves nothing."""
        if client.turned or client.identity.startswith(INVITED):
            return ""
        by_name = self._peers.get(client.identity)
        if by_name is not None and by_name.auth:
            return by_name.name
        if certified := self._certified(client):
            return certified[0]
        if client.identity or not client.address or client.listener in AUTH_ONLY:
            return ""
        return next((name for name, holds in self._peer_networks if holds(client.address)), "")

    def _certified(self, client: Client) -> list[str]:
        """The peers that the client certificate belongs to."""
        if not client.fingerprint:
            return []
        return [peer.name for peer in self._peers.values() if peer.fingerprint == client.fingerprint]

    def _modes(self, trusted: bool, authenticated: bool) -> tuple[Mode, ...]:
        allowed = {
            "anyone": True,
            "trusted": trusted,
            "authenticated": authenticated,
            "none": False,
        }[self._terminals_allow]
        return _ALL_MODES if allowed else _MAIL

    def _mechanisms(self, client: Client) -> tuple[str, ...]:
        """The best first: some clients take the first that they know."""
        if client.identity or client.turned:
            return ()
        found = ["EXTERNAL"] if self._certified(client) else []
        if self._secrets is not None:
            found.append("SCRAM-SHA-256")
            # RFC 4954 4: only where nobody on the way can read it.
            if client.tls or not client.address or self._loopback(client.address):
                found += ["PLAIN", "LOGIN"]
            if self._cram_md5:
                found.append("CRAM-MD5")
        return tuple(found)

    # ------------------------------------------------------------- authentication

    def authenticate(self, client: Client, credentials: Credentials) -> Deferred[str | Reply]:
        if _MECHANISM[type(credentials)] not in self._mechanisms(client):
            return succeed(FAILED)
        if not self._backoff.admits(client.address):
            return succeed(LATER)

        def judged(right: bool) -> str | Reply:
            if right:
                self._backoff.succeeded(client.address)
                return self._identity(client, credentials)
            self._failed(client, credentials)
            return FAILED

        def unchecked(failure: Failure) -> Reply:
            self._backoff.unchecked(client.address)
            failure.trap(FullError)
            return LATER

        return self._right(client, credentials).addCallbacks(judged, unchecked)

    def scram_keys(self, client: Client, name: str) -> Deferred[ScramKeys | Reply]:
        if self._secrets is None or "SCRAM-SHA-256" not in self._mechanisms(client):
            return succeed(FAILED)
        # Said now: with the true keys a right proof would be told from a wrong one by our next challenge.
        if self._backoff.waits(client.address):
            return succeed(LATER)
        keys = self._secrets.keys(self._asked(name, self._by_secret))
        if self._invited is not None and name.startswith(INVITED) and client.tls:
            # Under TLS alone: what an invitation is used for must not be changed on the way.
            nobody = keys
            keys = self._invited.keys(name).addCallback(lambda found: nobody if found is None else found)
        return cast("Deferred[ScramKeys | Reply]", keys)

    def _right(self, client: Client, credentials: Credentials) -> Deferred[bool]:
        if isinstance(credentials, External):
            return succeed(bool(self._identity(client, credentials)))
        if isinstance(credentials, ScramProof):
            known = credentials.name.startswith(INVITED) or self._by_secret(credentials.name)
            return succeed(credentials.right and known)
        assert self._secrets is not None
        if isinstance(credentials, CramDigest):
            name = self._asked(credentials.name, self._by_cram_md5)
            return self._secrets.verify_digest(name, credentials.challenge, credentials.digest)
        return self._secrets.verify(self._asked(credentials.name, self._by_secret), credentials.secret)

    def _identity(self, client: Client, credentials: Credentials) -> str:
        """Who the client is if its credentials are right."""
        if not isinstance(credentials, External):
            return credentials.name
        # RFC 4422 A.1: who it wants to be must be who it is.
        certified = self._certified(client)
        return next((name for name in certified if credentials.name in ("", name)), "")

    def _asked(self, name: str, may: Callable[[str], bool]) -> str:
        """The name to ask for: one that may not prove itself this way is as unknown as anybody."""
        return name if may(name) else _NOBODY + name

    def _by_secret(self, name: str) -> bool:
        peer = self._peers.get(name)
        if peer is not None:
            return peer.auth
        return name not in self._callers and self._is_user(name)

    def _by_cram_md5(self, name: str) -> bool:
        peer = self._peers.get(name)
        return peer is not None and peer.auth and peer.cram_md5

    def _failed(self, client: Client, credentials: Credentials) -> None:
        wait = self._backoff.failed(client.address)
        self._log.info(
            "{address}: authentication by {mechanism} failed for {name}; next attempt in {wait:.0f} s",
            address=client.address or "local",
            mechanism="PLAIN or LOGIN"
            if isinstance(credentials, Password)
            else _MECHANISM[type(credentials)],
            name=_shown(credentials.name),
            wait=wait,
        )


def _shown(name: str) -> str:
    """A name from outside for the log: quoted, printable ASCII, not too long."""
    return ascii(name[:64])
