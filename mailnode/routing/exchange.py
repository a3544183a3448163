"""Which hosts take the mail for a next hop: mail exchangers by DNS (RFC 5321 5.1, RFC 974, RFC 7505)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from twisted.internet import defer
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IReactorTime
from twisted.names import dns, error
from zope.interface import implementer

from mailnode.interfaces import Exchanger, IExchange
from mailnode.mail import Hop, Reply
from mailnode.routing.elsewhere import certified_name, is_elsewhere
from mailnode.smtp.grammar import literal_address

HOSTS: Final = 10  # exchangers tried at most (RFC 5321 5.1 asks for two at least)
ADDRESSES: Final = 4  # of one exchanger
TIMEOUT: Final = 60.0  # seconds for all look-ups of one hop
QUERY_TIMEOUT: Final = (2, 5, 10)  # seconds, one query after the other

NO_DOMAIN: Final = Reply(550, "No such domain", "5.1.2")
NO_ADDRESS: Final = Reply(550, "No mail exchanger or address for this domain", "5.4.4")
NULL_MX: Final = Reply(556, "Domain does not accept mail", "5.1.10")  # RFC 7505 4.2
NO_DNS: Final = Reply(451, "Domain cannot be looked up now", "4.4.3")
LOOP: Final = Reply(554, "Mail for this domain leads back to this host", "5.4.6")

_NO_SUCH_NAME: Final = (error.DNSNameError, error.AuthoritativeDomainError)
_NO_ANSWER: Final = (error.DomainError, error.ResolverError, defer.TimeoutError, OSError)

Records: TypeAlias = tuple[list[Any], list[Any], list[Any]]  # answers, authority, additional
Lookup: TypeAlias = Callable[[str, Sequence[int]], defer.Deferred[Records]]


class Resolver(Protocol):
    """What is used of twisted.names' IResolver."""

    def lookupMailExchange(self, name: str, timeout: Sequence[int]) -> defer.Deferred[Records]: ...

    def lookupAddress(self, name: str, timeout: Sequence[int]) -> defer.Deferred[Records]: ...

    def lookupIPV6Address(self, name: str, timeout: Sequence[int]) -> defer.Deferred[Records]: ...


@dataclass(frozen=True, slots=True)
class _Host:
    preference: int
    name: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found of one host's addresses."""

    host: _Host
    addresses: tuple[str, ...]
    failed: bool  # the DNS did not answer, so there may be more


@implementer(IExchange)
class Exchange:
    """`shuffle` puts a list into random order, as `random.Random.shuffle` does; `clock` times out.

    `own_names` and `own_addresses` are this node's, `is_ours` tells further ones: a way that leads back
    to them is no way. An endpoint string of the configuration is taken as it is.
    """

    def __init__(
        self,
        resolver: Resolver,
        own_names: Collection[str],
        own_addresses: Collection[str],
        shuffle: Callable[[list[Any]], None],
        clock: IReactorTime,
        port: int = 25,
        is_ours: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self._resolver = resolver
        self._own_names = frozenset(_fold(name) for name in own_names)
        self._own_addresses = frozenset(str(ipaddress.ip_address(address)) for address in own_addresses)
        self._shuffle = shuffle
        self._clock = clock
        self._port = port
        self._is_ours = is_ours

    def exchangers(self, hop: Hop) -> defer.Deferred[Sequence[Exchanger] | Reply]:
        if hop.target != "mx":
            tls_name = certified_name(hop.target, hop.domain)
            return defer.succeed([Exchanger(hop.target, hop.domain, tls_name)])
        if hop.domain.startswith("["):
            return defer.succeed(self._literal(hop.domain))
        search = defer.Deferred.fromCoroutine(self._search(_fold(hop.domain)))
        return search.addTimeout(TIMEOUT, self._clock, onTimeoutCancel=lambda failure, seconds: NO_DNS)

    # ------------------------------------------------------------------ look-ups

    async def _search(self, domain: str) -> Sequence[Exchanger] | Reply:
        try:
            answers, _, _ = await self._resolver.lookupMailExchange(domain, QUERY_TIMEOUT)
        except _NO_SUCH_NAME:
            return NO_DOMAIN
        except _NO_ANSWER:
            return NO_DNS
        hosts = _mail_exchangers(answers)
        if hosts is None:
            return NULL_MX
        # RFC 5321 5.1: without any MX the domain itself is the exchanger
        hosts = self._usable(hosts or [_Host(0, domain)])
        if not hosts:
            return LOOP
        found = await defer.gatherResults(
            [defer.Deferred.fromCoroutine(self._addresses(host)) for host in hosts[:HOSTS]],
            consumeErrors=True,
        )
        return self._choose(found)

    async def _addresses(self, host: _Host) -> _Found:
        lookups = (self._resolver.lookupAddress, self._resolver.lookupIPV6Address)
        results = await defer.gatherResults(
            [defer.Deferred.fromCoroutine(_ask(lookup, host.name)) for lookup in lookups], consumeErrors=True
        )
        addresses = [address for answer in results if answer is not None for address in answer]
        return _Found(host, tuple(addresses), None in results)

    # ------------------------------------------------------------------ decisions

    def _usable(self, hosts: list[_Host]) -> list[_Host]:
        """The hosts in the order to try, without our own name and all that are not better."""
        self._shuffle(hosts)  # RFC 5321 5.1: equal preferences in random order
        own = [host.preference for host in hosts if host.name in self._own_names]
        limit = min(own, default=1 << 16)
        return sorted((host for host in hosts if host.preference < limit), key=lambda host: host.preference)

    def _choose(self, found: Sequence[_Found]) -> Sequence[Exchanger] | Reply:
        own = [one.host.preference for one in found if any(map(self._is_own, one.addresses))]
        limit = min(own, default=1 << 16)
        exchangers = [
            Exchanger(_endpoint(address, self._port), one.host.name, one.host.name)
            for one in found
            if one.host.preference < limit
            for address in one.addresses
            if is_elsewhere(address)
        ]
        if exchangers:
            return exchangers
        if any(one.addresses for one in found):
            return LOOP
        return NO_DNS if any(one.failed for one in found) else NO_ADDRESS

    def _literal(self, domain: str) -> Sequence[Exchanger] | Reply:
        address = literal_address(domain)
        if address is None:
            return NO_DOMAIN
        if not is_elsewhere(address) or self._is_own(address):
            return LOOP
        return [Exchanger(_endpoint(address, self._port), domain, address)]

    def _is_own(self, address: str) -> bool:
        return address in self._own_addresses or (is_elsewhere(address) and self._is_ours(address))


# ---------------------------------------------------------------------------- records


async def _ask(
    lookup: Callable[[str, Sequence[int]], defer.Deferred[Records]], name: str
) -> list[str] | None:
    """Addresses of one family, at most ADDRESSES; None if the DNS did not answer."""
    try:
        answers, _, _ = await lookup(name, QUERY_TIMEOUT)
    except _NO_SUCH_NAME:
        return []
    except _NO_ANSWER:
        return None
    return _addresses_in(answers)[:ADDRESSES]


def _mail_exchangers(answers: Sequence[Any]) -> list[_Host] | None:
    """The hosts of the MX records, None for a null MX (RFC 7505). CNAMEs among them are passed over."""
    hosts: list[_Host] = []
    null = False
    for record in answers:
        if record.type == dns.MX:
            name = _host_name(record.payload.name.name)
            if name == "":
                null = True
            elif name is not None:
                hosts.append(_Host(record.payload.preference, name))
    return None if null and not hosts else hosts


def _addresses_in(answers: Sequence[Any]) -> list[str]:
    return [record.payload.dottedQuad() for record in answers if record.type == dns.A] + [
        str(ipaddress.IPv6Address(record.payload.address)) for record in answers if record.type == dns.AAAA
    ]


def _host_name(octets: bytes) -> str | None:
    """A name from a stranger's DNS, None if it is not fit for a look-up and a log line."""
    name = _fold(octets.decode("ascii", "replace"))
    return name if name.isascii() and name.isprintable() and " " not in name and len(name) < 256 else None


def _fold(name: str) -> str:
    return name.rstrip(".").lower()


def _endpoint(address: str, port: int) -> str:
    return f"tcp:{quoteStringArgument(address)}:{port}"
