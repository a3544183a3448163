"""The composition root: builds the house from a configuration. The one module that sees every room.

What is durable (spool, relay) lasts as long as the process; what follows from the configuration
(directory, routing, access, peers) is built anew on SIGHUP, and connections keep what they began with.
`mailnode.service` starts it and takes it down.
"""

from __future__ import annotations

import os
import pwd
import random
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.names.client import createResolver
from twisted.python.failure import Failure

from mailnode.access.passwords import Passwords
from mailnode.access.rules import Access, PeerRule
from mailnode.channel.channel import Trace
from mailnode.channel.factories import ReceiverFactory
from mailnode.channel.receiving import Doors
from mailnode.configuration.sections import Configuration, Dial, Listen
from mailnode.configuration.sections import Peer as PeerSection
from mailnode.control import SOCKET, Answer, ControlError
from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import Maildir
from mailnode.delivery.notices import Notices
from mailnode.delivery.relay import Relay
from mailnode.delivery.settling import Settling
from mailnode.directory.directory import Directory
from mailnode.directory.system import SystemUsers
from mailnode.directory.users import NamedUsers, UserSource
from mailnode.intake import Intake
from mailnode.mail import Path
from mailnode.nudge import Nudge
from mailnode.peering.dialing import BusyError, Call, CallEnded, Dialing
from mailnode.peering.held import Peer, Peering
from mailnode.routing.exchange import Exchange
from mailnode.routing.routes import Routing
from mailnode.smtp.receiver import Limits
from mailnode.spool.schedule import Retry, decide
from mailnode.spool.sqlite import SqliteSpool
from mailnode.terminals.hosts import HostTerminals

SENDER_POLL: Final = 1.0  # seconds; a process that only sends is woken, but does not rely on it


class House:
    """The parts of a node, joined. `receive` and `send` are the roles that this process plays."""

    def __init__(self, configuration: Configuration, reactor: Any, *, receive: bool, send: bool) -> None:
        self._reactor = reactor
        self._receive = receive
        self._send = send
        self.dispatch: Dispatch | None = None
        self._receivers: list[ReceiverFactory] = []
        self._furnished = False
        self.dialing: Dialing
        self.mailbox: Maildir
        self.spool = SqliteSpool(
            configuration.data, reactor.callFromThread, time.time, longest=_retry(configuration).longest
        )
        exchange = Exchange(
            createResolver(),
            [configuration.host, *configuration.domains],
            own_addresses(configuration),
            random.SystemRandom().shuffle,
            reactor,
        )
        self.relay = Relay(configuration.host, exchange, self._connect, reactor)
        self.furnish(configuration)

    def furnish(self, configuration: Configuration) -> None:
        """Everything that follows from the configuration; called again on SIGHUP."""
        if self._furnished:
            self.dialing.stop()
            self.mailbox.stop()  # when what it has in hand is written
        reactor, spool, hostname = self._reactor, self.spool, configuration.host
        self.configuration = configuration
        directory = build_directory(configuration)
        self.routing = build_routing(configuration, directory)
        self.terminals = build_terminals(configuration)
        self.passwords = self._passwords(configuration)
        self.mailbox = Maildir(
            configuration.mailboxes.maildir.replace("{data}", configuration.data),
            directory,
            hostname,
            reactor.callFromThread,
            time.time,
        )
        hops = configuration.limits.hops
        self.intake = Intake(hostname, self.routing, self.terminals, spool, time.time, hops)
        notices = Notices(hostname, Path("postmaster", hostname), self.intake, time.time, spool.new_id)
        retry = _retry(configuration)

        def next_attempt(attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
            return decide(retry, attempts, age, warned, random.random())

        settling = Settling(spool, notices, next_attempt, retry.expire, reactor, time.time)
        peers = [_peer(peer) for peer in configuration.peer]
        self.peering = Peering(peers, spool, self.routing, settling, time.time)
        self.doors = self._doors(configuration)
        calls = [self._call(dial) for dial in configuration.dial]
        self.dialing = Dialing(
            calls, self.doors, self.peering.outgoing, self._connect, reactor, random.random
        )
        self._join(settling)
        for receiver in self._receivers:
            receiver.doors = self.doors
        if self._furnished and self.dispatch is not None:
            self.dialing.start()
            self.dispatch.wake()
        self._furnished = True

    def _doors(self, configuration: Configuration) -> Doors:
        access = Access(
            configuration.relay.networks,
            configuration.terminals.allow,
            [_peer_rule(peer) for peer in configuration.peer],
            self.passwords,
        )
        limits = configuration.limits
        return Doors(
            configuration.host,
            access,
            self.routing,
            self.intake,
            self.peering,
            Limits(int(limits.message_size), limits.recipients, limits.errors),
            limits.command_timeout,
        )

    def _join(self, settling: Settling) -> None:
        """Intake and dispatch: the one circle in the house, for notices go in by the front door."""
        if not self._send:
            self.intake.dispatch = Nudge(self._reactor, os.path.join(self.configuration.data, SOCKET))
            return
        parts = (self.routing, self.mailbox, self.terminals, self.relay, settling)
        if self.dispatch is None:
            poll = 30.0 if self._receive else SENDER_POLL
            self.dispatch = Dispatch(self.spool, *parts, self._reactor, time.time, poll)
        else:
            self.dispatch.use(*parts)
        self.intake.dispatch = self.dispatch

    # ------------------------------------------------------------- life

    def receiver(self, listen: Listen) -> ReceiverFactory:
        """What serves a listener."""
        limits = self.configuration.limits
        factory = ReceiverFactory(
            self.doors,
            self._reactor,
            listener=listen.role,
            connections=limits.connections,
            connections_per_host=limits.connections_per_host,
        )
        self._receivers.append(factory)
        return factory

    def start(self) -> Deferred[None]:
        """Begins to work the spool off and to make calls; fires when the spool is being read."""
        assert self.dispatch is not None
        self.dialing.start()
        return self.dispatch.start()

    def wake(self) -> None:
        """There may be something new in the spool."""
        if self.dispatch is not None:
            self.dispatch.wake()

    def dial(self, name: str, trace: Trace | None) -> Deferred[Answer]:
        """Calls a host now; fires with how it went. ControlError if it cannot be called."""

        def ended(how: CallEnded) -> Answer:
            return {"turned": how.turned, "given": how.given, "code": how.reply.code, "reply": str(how.reply)}

        def failed(failure: Failure) -> Answer:
            if failure.check(BusyError):
                raise ControlError(f"{name} is being called already")
            failure.trap(KeyError)
            known = ", ".join(self.dialing.names) or "none"
            raise ControlError(f"no [[dial]] of that name; there are: {known}")

        return self.dialing.dial(name, trace).addCallbacks(ended, failed)

    def drain(self) -> list[Deferred[None]]:
        """Ends everything at the next moment at which nothing is lost by it; they fire when it is done."""
        self.dialing.stop()
        self.relay.stop()
        done = [receiver.drain() for receiver in self._receivers]
        return done if self.dispatch is None else [*done, self.dispatch.stop()]

    def abort(self) -> None:
        """The time to drain is over. What is not finished is still in the spool."""
        for receiver in self._receivers:
            receiver.abort()
        self.relay.abort()
        self.dialing.abort()

    def close(self) -> Deferred[None]:
        """Writes what is in hand and closes the spool."""
        return self.mailbox.stop().addBoth(lambda _: self.spool.close())

    # ------------------------------------------------------------- parts

    def _connect(self, endpoint: str) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, clientFromString(self._reactor, str(endpoint)))

    def _passwords(self, configuration: Configuration) -> Passwords | None:
        if configuration.users.passwords is None:
            return None
        reactor = self._reactor

        def in_thread(check: Callable[[], bool]) -> Deferred[bool]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), check)

        return Passwords(configuration.users.passwords, in_thread)

    def _call(self, dial: Dial) -> Call:
        secret = ""
        if dial.user and self.passwords is not None:
            secret = self.passwords.recoverable(dial.user) or ""
        return Call(dial.name, dial.endpoint, dial.user or "", secret, dial.outbound, dial.every)


# ------------------------------------------------------------- parts, also for the command line


def own_addresses(configuration: Configuration) -> list[str]:
    """The addresses that the listeners are bound to, as far as the configuration names them."""
    found = []
    for listen in configuration.listen:
        for part in str(listen.endpoint).replace("\\:", "\0").split(":"):
            if part.startswith("interface="):
                found.append(part.removeprefix("interface=").replace("\0", ":"))
    return [address for address in found if address not in ("", "0.0.0.0", "::")]


def build_directory(configuration: Configuration) -> Directory:
    sources: list[UserSource] = []
    if configuration.users.names:
        sources.append(NamedUsers([(user.name, user.full_name) for user in configuration.users.names]))
    if configuration.users.system:
        sources.append(SystemUsers(pwd.getpwnam, pwd.getpwall, time.monotonic))
    return Directory(
        sources,
        aliases={name: _members(targets) for name, targets in configuration.aliases.items()},
        lists={name: _members(targets) for name, targets in configuration.lists.items()},
        forward={name: target.path for name, target in configuration.forward.items()},
        moved={name: target.path for name, target in configuration.moved.items()},
        postmaster=configuration.postmaster.path if configuration.postmaster else None,
        domains=(configuration.host, *configuration.domains),
    )


def build_routing(configuration: Configuration, directory: Directory) -> Routing:
    return Routing(
        configuration.host,
        configuration.domains,
        directory,
        routes=configuration.routes,
        held=[domain for peer in configuration.peer for domain in peer.domains],
        addresses=("127.0.0.1", "::1", *own_addresses(configuration)),
    )


def build_terminals(configuration: Configuration) -> HostTerminals:
    return HostTerminals(
        configuration.terminals.utmp, configuration.terminals.devices, configuration.host, _uid_of, time.time
    )


def _members(targets: Sequence[Any]) -> tuple[tuple[str, Path], ...]:
    return tuple((target.phrase, target.path) for target in targets)


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _retry(configuration: Configuration) -> Retry:
    retry = configuration.retry
    return Retry(first=retry.first, warn=retry.warn, expire=retry.expire)


def _peer_rule(peer: PeerSection) -> PeerRule:
    by_address = tuple(peer.addresses) if "address" in peer.allow else ()
    return PeerRule(peer.name, "auth" in peer.allow, "", by_address)


def _peer(peer: PeerSection) -> Peer:
    networks = tuple(ip_network(network) for network in peer.addresses) if "address" in peer.allow else ()
    domains = tuple(domain.lower() for domain in peer.domains)
    return Peer(peer.name, domains, "auth" in peer.allow, networks, peer.keep)
