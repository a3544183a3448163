"""Where a recipient leads: from a forward-path to the reply to its RCPT and its destinations.

In this order: our own names come off the source route; a foreign first hop, or a domain that is not
ours, is another host's business and needs the right to relay, unless the domain is a peer's; what is
ours is looked up in the directory. No other form of address (`a%b@here`, `b!a@here`) has a meaning.
What our own configuration points to needs no right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from zope.interface import implementer

from mailnode.interfaces import Account, Addresses, Ambiguous, Finding, Forward, IDirectory, IRouting, Moved
from mailnode.mail import Destination, Held, Hop, Local, Mode, Path, Place, Reply, Rights, Ruling
from mailnode.routing.verify import (
    ACCESS_DENIED,
    AMBIGUOUS,
    CANNOT_VERIFY,
    NO_SUCH_USER,
    expansion,
    please_try,
    verification,
    will_forward,
)
from mailnode.smtp.grammar import literal_address
from mailnode.smtp.replies import RECIPIENT_OK

DESTINATIONS: Final = 1000  # that one recipient may lead to
LOOPBACK: Final = ("127.0.0.1", "::1")

# The words for an unknown mailbox, so that a stranger does not learn what would be relayed for others
NO_RELAY: Final = Reply(550, "No such user here", "5.7.1")
TOO_MANY: Final = Reply(451, "Too many destinations behind this name", "4.3.5")

_REFUSED: Final = Ruling(NO_RELAY)


@dataclass(slots=True)
class _Expansion:
    """The road from one name of ours through aliases and lists."""

    names: set[str] = field(default_factory=set)  # lower case; each is gone through once
    found: dict[tuple[Place, str], Destination] = field(default_factory=dict)
    reached: bool = False  # somebody is at the end of the road
    overflow: bool = False

    def add(self, destination: Destination, reached: bool = True) -> None:
        key = (destination.place, "" if isinstance(destination.place, Local) else str(destination.path))
        if len(self.found) >= DESTINATIONS and key not in self.found:
            self.overflow = True
            return
        self.found.setdefault(key, destination)
        self.reached = self.reached or reached


@implementer(IRouting)
class Routing:
    """`domains` are local, the first is that of our users' addresses; `hostname` is always local.

    `routes` maps a domain, `*.domain` or `*` to "mx", "hold" or a client endpoint string; a domain
    without any goes by MX. `tls` maps the same patterns to a policy as in `Hop`. `held` are the peers'
    domains, `addresses` the IP addresses of this host.
    """

    def __init__(
        self,
        hostname: str,
        domains: Sequence[str],
        directory: IDirectory,
        *,
        routes: Mapping[str, str] | None = None,
        tls: Mapping[str, str] | None = None,
        held: Collection[str] = (),
        addresses: Collection[str] = LOOPBACK,
    ) -> None:
        self._hostname = hostname
        self._domain = domains[0] if domains else hostname
        self._local = frozenset(domain.lower() for domain in (hostname, *domains))
        self._directory = directory
        self._routes = {pattern.lower(): target for pattern, target in (routes or {}).items()}
        self._tls = {pattern.lower(): policy for pattern, policy in (tls or {}).items()}
        self._held = frozenset(domain.lower() for domain in held)
        self._addresses = frozenset(addresses)

    # ------------------------------------------------------------------ IRouting

    def route(self, path: Path, mode: Mode, rights: Rights) -> Ruling:
        via: tuple[str, ...] = ()
        while path.route and self._is_ours(path.route[0]):  # RFC 821 3.6
            via = (path.route[0], *via)  # the host passed last stands first
            path = path.without_first_hop()
        if not path.route and (not path.domain or self._is_ours(path.domain)):
            return self._route_local(path)
        if not (rights.relay or self._is_held(path)):
            return _REFUSED
        return Ruling(RECIPIENT_OK, (Destination(self._place(path.next_host), path, via),))

    def is_held(self, host: str) -> bool:
        return bool(host) and not self._is_ours(host) and isinstance(self._place(host), Held)

    def verify(self, text: str, rights: Rights) -> Reply:
        if not rights.verify:
            return CANNOT_VERIFY
        return verification(self._directory.find(text), self._qualify)

    def expand(self, text: str, rights: Rights) -> Reply:
        if not rights.expand:
            return ACCESS_DENIED
        return expansion(self._directory.find(text), self._qualify, self._full_name)

    # ------------------------------------------------------------------ here

    def _route_local(self, path: Path) -> Ruling:
        if not path.local:
            return Ruling(NO_SUCH_USER)
        found = self._directory.lookup(path.local)
        match found:
            case Account():
                return Ruling(RECIPIENT_OK, (Destination(Local(found.name), self._qualify(path)),))
            case Addresses():
                return self._route_names(path, found)
            case Forward(target):
                ruling = self._route_names(path, Addresses(path.local, (("", target),)))
                return (
                    Ruling(will_forward(self._qualify(target)), ruling.destinations)
                    if ruling.reply.ok
                    else ruling
                )
            case Moved(target):
                return Ruling(please_try(self._qualify(target)))
            case Ambiguous():
                return Ruling(AMBIGUOUS)
            case _:
                return Ruling(NO_SUCH_USER)

    def _route_names(self, path: Path, addresses: Addresses) -> Ruling:
        expansion = _Expansion({path.local.lower()})
        self._expand(addresses, expansion, None)
        if expansion.overflow:
            return Ruling(TOO_MANY)
        if expansion.reached:
            return Ruling(RECIPIENT_OK, tuple(expansion.found.values()))
        if path.local.lower() == "postmaster":  # RFC 5321 4.5.1, even if the alias leads nowhere
            return Ruling(RECIPIENT_OK, (Destination(Local("postmaster"), self._qualify(path)),))
        return Ruling(NO_SUCH_USER)

    def _expand(self, addresses: Addresses, expansion: _Expansion, sender: Path | None) -> None:
        """Follows every member; without recursion, so that a long chain of aliases is no danger."""
        pending = [(addresses, sender)]
        while pending and not expansion.overflow:
            current, sender = pending.pop()
            sender = self._list_sender(current.name) if current.is_list else sender
            for _, member in current.members:
                path = self._without_own_route(member)
                if path.route or not self._is_here(path):
                    place = self._place(path.next_host)
                    expansion.add(Destination(place, path, sender=sender))
                    continue
                more = self._expand_local(path, current, expansion, sender)
                if more is not None:
                    pending.append((more, sender))

    def _expand_local(
        self, path: Path, current: Addresses, expansion: _Expansion, sender: Path | None
    ) -> Addresses | None:
        """Adds the user that a member is, or gives the further names that it stands for."""
        folded = path.local.lower()
        found: Finding | None
        if folded == current.name.lower():  # a name that leads to itself means the user of that name
            found = self._directory.account(path.local)
        elif folded in expansion.names:
            return None
        else:
            found = self._directory.lookup(path.local)
        expansion.names.add(folded)
        match found:
            case Addresses():
                return found
            case Forward(target):
                return Addresses(path.local, (("", target),))
            case Account():
                expansion.add(Destination(Local(found.name), self._qualify(path), sender=sender))
            case None:
                return None
            case _:
                # Nobody there: the mailbox will say so, and the sender or the list's owner hears of it.
                unknown = Destination(Local(path.local), self._qualify(path), sender=sender)
                expansion.add(unknown, reached=False)
        return None

    def _list_sender(self, name: str) -> Path:
        """Who hears of failures of a list (RFC 5321 3.9.2, RFC 1123 5.3.6)."""
        owner = f"owner-{name}"
        if isinstance(self._directory.lookup(owner), (Account, Addresses, Forward)):
            return Path(owner, self._domain)
        return Path("postmaster", self._hostname)

    # ------------------------------------------------------------------ elsewhere

    def _place(self, host: str) -> Place:
        """The next hop towards `host`: a peer's domain waits for the peer, else `routes` decide."""
        domain = host.lower()
        if domain in self._held:
            return Held(domain)
        pattern = self._pattern(domain)
        target = self._routes.get(pattern, "mx")
        if target == "hold":
            return Held(domain)
        return Hop(domain, target, self._tls.get(pattern, "opportunistic"))

    def _pattern(self, domain: str) -> str:
        """The key of `routes` that speaks of `domain`: itself, `*.` before the nearest parent, or `*`."""
        if domain in self._routes:
            return domain
        parent = domain
        while not domain.startswith("[") and "." in parent:
            parent = parent.partition(".")[2]
            if f"*.{parent}" in self._routes:
                return f"*.{parent}"
        return "*"

    def _is_held(self, path: Path) -> bool:
        """Whether anyone may give us mail for `path`: it ends at a peer, and goes no further from there."""
        return not path.route and path.domain.lower() in self._held

    # ------------------------------------------------------------------ names

    def _is_ours(self, host: str) -> bool:
        if host.lower() in self._local:
            return True
        return host.startswith("[") and literal_address(host) in self._addresses

    def _is_here(self, path: Path) -> bool:
        return not path.domain or self._is_ours(path.domain)

    def _without_own_route(self, path: Path) -> Path:
        while path.route and self._is_ours(path.route[0]):
            path = path.without_first_hop()
        return path

    def _qualify(self, path: Path) -> Path:
        return path if path.domain else Path(path.local, self._domain, path.route)

    def _full_name(self, path: Path) -> str:
        if path.route or not self._is_here(path):
            return ""
        found = self._directory.lookup(path.local)
        return found.full_name if isinstance(found, Account) else ""
