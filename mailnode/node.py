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
from typing import Any, Final, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.names.client import createResolver
from twisted.python.failure import Failure

from mailnode.access.backoff import Backoff
from mailnode.access.passwords import Passwords
from mailnode.access.rules import Access, PeerRule
from mailnode.channel.channel import Trace
from mailnode.channel.factories import ReceiverFactory
from mailnode.channel.gate import Gate
from mailnode.channel.receiving import Doors, Listener
from mailnode.channel.tls import ClientTls, ServerTls
from mailnode.configuration.sections import Configuration, Dial, Listen
from mailnode.configuration.sections import Peer as PeerSection
from mailnode.configuration.values import Route
from mailnode.control import SOCKET, Answer, ControlError
from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import Maildir
from mailnode.delivery.notices import Notices
from mailnode.delivery.relay import Relay
from mailnode.delivery.settling import Settling
from mailnode.descriptors import Descriptors, count_descriptors, descriptor_limit
from mailnode.directory.directory import Directory
from mailnode.directory.system import SystemUsers
from mailnode.directory.users import NamedUsers, UserSource
from mailnode.in_hand import BoundedIntake
from mailnode.intake import Intake
from mailnode.mail import Path
from mailnode.nudge import Nudge
from mailnode.peering.dialing import BusyError, Call, CallEnded, Dialing
from mailnode.peering.held import Peer, Peering
from mailnode.routing.elsewhere import certified_name
from mailnode.routing.exchange import Exchange
from mailnode.routing.here import is_here
from mailnode.routing.routes import Routing
from mailnode.smtp.receiver import Limits
from mailnode.spool.schedule import Retry, decide
from mailnode.spool.sqlite import SqliteSpool
from mailnode.terminal_room import TerminalRoom

T = TypeVar("T")

SAY_FULL_EVERY: Final = 60.0  # seconds
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
        self.passwords: Passwords | None = None
        self._backoff = Backoff(time.monotonic)
        self.dialing: Dialing
        self.mailbox: Maildir
        self.terminal_room = TerminalRoom(reactor, receive=receive)
        self._descriptors = Descriptors(descriptor_limit(), count_descriptors, time.monotonic)
        self._said_full = float("-inf")
        self._log = Logger("mailnode.node")
        self.server_tls: ServerTls | None = None
        self.client_tls: ClientTls
        self.renew_tls(configuration)
        self.spool = SqliteSpool(
            configuration.data, reactor.callFromThread, time.time, longest=_retry(configuration).longest
        )
        exchange = Exchange(
            createResolver(),
            [configuration.host, *configuration.domains],
            own_addresses(configuration),
            random.SystemRandom().shuffle,
            reactor,
            is_ours=is_here,
        )
        self.relay = Relay(configuration.host, exchange, self._connect, reactor, is_full=self._is_full)
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
        self.terminals = self.terminal_room.furnish(
            configuration, lambda name: directory.account(name) is not None
        )
        self.passwords = self._passwords(configuration)
        self.mailbox = Maildir(
            configuration.mailboxes.maildir.replace("{data}", configuration.data),
            directory,
            hostname,
            reactor.callFromThread,
            time.time,
        )
        limits = configuration.limits
        sizes = (limits.hops, int(limits.header_size))
        self.intake = Intake(hostname, self.routing, self.terminals, spool, time.time, *sizes)
        self.bounded = BoundedIntake(self.intake, int(limits.memory))
        notices = Notices(hostname, Path("postmaster", hostname), self.intake, time.time, spool.new_id)
        self.intake.notices = notices
        retry = _retry(configuration)

        def next_attempt(attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
            return decide(retry, attempts, age, warned, random.random())

        settling = Settling(spool, notices, next_attempt, retry.expire, reactor, time.time)
        peers = [_peer(peer) for peer in configuration.peer]
        self.peering = Peering(peers, spool, self.routing, settling, time.time)
        self.doors = self._doors(configuration)
        calls = [self._call(dial) for dial in configuration.dial]
        self.dialing = Dialing(
            calls,
            self.doors,
            self.peering.outgoing,
            self._connect,
            reactor,
            random.random,
            tls=self.client_tls,
            is_full=self._is_full,
        )
        self.relay.tls = self.client_tls
        self._join(settling)
        for receiver in self._receivers:
            receiver.doors = self.doors
            receiver.limit(limits.connections, limits.connections_per_host)
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
            self._backoff,
            [dial.user for dial in configuration.dial if dial.user],
        )
        limits = configuration.limits
        return Doors(
            configuration.host,
            access,
            self.routing,
            self.bounded,
            self.peering,
            Limits(
                message_size=int(limits.message_size),
                recipients=limits.recipients,
                line_length=limits.line_length,
                errors=limits.errors,
                commands=limits.commands,
                auth_failures=limits.auth_failures,
            ),
            limits.command_timeout,
            limits.data_rate,
            self.server_tls,
        )

    def renew_tls(self, configuration: Configuration) -> None:
        """Reads certificates, keys and roots. ValueError if they cannot be used; then all stays as it was."""
        server, client = build_server_tls(configuration), build_client_tls(configuration)
        self.server_tls, self.client_tls = server, client

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

    def receiver(self, listen: Listen) -> Gate:
        """What serves a listener."""
        limits = self.configuration.limits
        factory = ReceiverFactory(
            self.doors,
            self._reactor,
            listener=Listener(listen.role, listen.tls or "none", listen.bare_newlines == "normalize"),
            connections=limits.connections,
            connections_per_host=limits.connections_per_host,
        )
        self._receivers.append(factory)
        return Gate(factory, self.configuration.host, self._refusal, listen.tls == "implicit")

    def _refusal(self) -> str:
        """Why no connection can be taken now, "" if one can."""
        many = sum(receiver.open for receiver in self._receivers)
        if many < self.configuration.limits.connections and not self._is_full():
            return ""
        now = time.monotonic()
        if now - self._said_full >= SAY_FULL_EVERY:
            self._said_full = now
            self._log.warn(
                "connections are turned away: {many} are open, {files} of {limit} files",
                many=many,
                files=count_descriptors(),
                limit=self._descriptors.limit,
            )
        return "Too many connections"

    def _is_full(self) -> bool:
        """Whether nothing may be opened that can wait."""
        inbound = sum(receiver.open for receiver in self._receivers)
        return self._descriptors.are_scarce(inbound + self.relay.open + self.dialing.open)

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
        path = configuration.users.passwords
        if path is None:
            return None
        if self.passwords is not None and self.passwords.path == path:
            return self.passwords  # it reads its file again by itself
        reactor = self._reactor

        def in_thread(work: Callable[[], T], /) -> Deferred[T]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), work)

        return Passwords(path, in_thread)

    def _call(self, dial: Dial) -> Call:
        secret = ""
        if dial.user and self.passwords is not None:
            secret = self.passwords.recoverable(dial.user) or ""
        return Call(
            dial.name,
            dial.endpoint,
            dial.user or "",
            secret,
            dial.outbound,
            dial.every,
            dial.tls,
            certified_name(dial.endpoint, dial.name),
        )


# ------------------------------------------------------------- parts, also for the command line


def own_addresses(configuration: Configuration) -> list[str]:
    """The addresses that the listeners are bound to, as far as the configuration names them."""
    found = []
    for listen in configuration.listen:
        for part in str(listen.endpoint).replace("\\:", "\0").split(":"):
            if part.startswith("interface="):
                found.append(part.removeprefix("interface=").replace("\0", ":"))
    return [address for address in found if address not in ("", "0.0.0.0", "::")]


def build_server_tls(configuration: Configuration) -> ServerTls | None:
    """What listeners show, None without a certificate. ValueError with words for the operator."""
    tls = configuration.tls
    if tls is None or tls.certificate is None or tls.key is None:
        return None
    return ServerTls(str(tls.certificate), str(tls.key))


def build_client_tls(configuration: Configuration) -> ClientTls:
    """How hosts that we call are spoken to by TLS. ValueError with words for the operator."""
    tls = configuration.tls
    if tls is None:
        return ClientTls()
    shown = (tls.certificate, tls.key) if tls.client else (None, None)
    return ClientTls(tls.roots, *shown)


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
        routes={pattern: route.to for pattern, route in configuration.routes.items()},
        tls={pattern: _policy(route) for pattern, route in configuration.routes.items()},
        held=[domain for peer in configuration.peer for domain in peer.domains],
        addresses=("127.0.0.1", "::1", *own_addresses(configuration)),
    )


def _members(targets: Sequence[Any]) -> tuple[tuple[str, Path], ...]:
    return tuple((target.phrase, target.path) for target in targets)


def _retry(configuration: Configuration) -> Retry:
    retry = configuration.retry
    return Retry(first=retry.first, warn=retry.warn, expire=retry.expire)


def _peer_rule(peer: PeerSection) -> PeerRule:
    by_address = tuple(peer.addresses) if "address" in peer.allow else ()
    fingerprint = str(peer.fingerprint or "") if "certificate" in peer.allow else ""
    return PeerRule(peer.name, "auth" in peer.allow, fingerprint, by_address, peer.cram_md5)


def _peer(peer: PeerSection) -> Peer:
    networks = tuple(ip_network(network) for network in peer.addresses) if "address" in peer.allow else ()
    domains = tuple(domain.lower() for domain in peer.domains)
    return Peer(peer.name, domains, "auth" in peer.allow, networks, peer.keep, _peer_rule(peer).fingerprint)


def _policy(route: Route) -> str:
    """A `tls:` endpoint brings its own TLS, and verifies the host that it names."""
    return "none" if route.to.startswith(("tls:", "ssl:")) else route.tls
