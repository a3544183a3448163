"""The composition root: builds the house from a configuration. The one module that sees every room.

What is durable (spool, relay) lasts as long as the process; what follows from the configuration
(directory, routing, access, peers) is built anew on SIGHUP, and connections keep what they began with.
`mailnode.service` starts it and takes it down.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from msgspec import structs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.names.client import createResolver
from twisted.python.failure import Failure

from mailnode.access.backoff import Backoff
from mailnode.access.passwords import Passwords
from mailnode.access.rules import Access
from mailnode.channel.channel import Trace
from mailnode.channel.factories import ReceiverFactory
from mailnode.channel.gate import Gate
from mailnode.channel.proxied import PREFIX as PROXIED
from mailnode.channel.proxied import ProxiedFactory
from mailnode.channel.receiving import Doors, Listener
from mailnode.channel.tls import ClientTls, ServerTls
from mailnode.configuration.sections import Configuration, Listen
from mailnode.control import Answer, ControlError
from mailnode.control_client import RECEIVER_SOCKET, SOCKET
from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import Maildir
from mailnode.delivery.notices import Notices
from mailnode.delivery.relay import Relay
from mailnode.delivery.settling import Settling
from mailnode.delivery.short_way import ShortWay
from mailnode.descriptors import Descriptors, count_descriptors, descriptor_limit
from mailnode.directory.directory import Directory
from mailnode.in_hand import InHand
from mailnode.intake import Intake
from mailnode.mail import Path
from mailnode.nudge import Nudge
from mailnode.outcomes import Outcomes
from mailnode.pairing.admission import Admission
from mailnode.pairing.invitations import Invitations
from mailnode.parts import (
    build_call,
    build_client_tls,
    build_directory,
    build_keeping,
    build_peer,
    build_peer_rule,
    build_retry,
    build_routing,
    build_server_tls,
    invitations_folder,
    own_addresses,
    routed_domains,
)
from mailnode.peering.calls import CallEnded
from mailnode.peering.dialing import BusyError, Dialing
from mailnode.peering.held import Peering
from mailnode.peering.starting import Starting
from mailnode.routing.exchange import Exchange
from mailnode.routing.here import is_here
from mailnode.smtp.receiver import Limits
from mailnode.spool.schedule import decide
from mailnode.spool.sqlite import SqliteSpool
from mailnode.terminal_room import TerminalRoom

T = TypeVar("T")

SAY_FULL_EVERY: Final = 60.0  # seconds
SENDER_POLL: Final = 1.0  # seconds; a process that only sends is woken, but does not rely on it


class TlsError(Exception):
    """A certificate, a key or roots cannot be used; the text is for the operator."""


class House:
    """The parts of a node, joined. `receive` and `send` are the roles that this process plays; with
    `privileged` it is root when it works, and may give mailboxes to their users."""

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        *,
        receive: bool,
        send: bool,
        privileged: bool = False,
    ) -> None:
        self._reactor = reactor
        self._receive = receive
        self._send = send
        self._privileged = privileged
        self.dispatch: Dispatch | None = None
        self._receivers: list[ReceiverFactory] = []
        self._hosts: Counter[str] = Counter()  # the connections of each, to all listeners
        self._furnished = False
        self.passwords: Passwords | None = None
        self._directory: Directory
        self._backoff = Backoff(time.monotonic)
        self.peering: Peering
        self.dialing: Dialing
        self.starting: Starting | None = None
        self.mailbox: Maildir
        self.intake: Intake
        became = self._became if send else None
        self.terminal_room = TerminalRoom(reactor, receive=receive, became=became)
        self._descriptors = Descriptors(descriptor_limit(), count_descriptors, time.monotonic)
        self._said_full = float("-inf")
        self._log = Logger("mailnode.node")
        self.server_tls: ServerTls | None = None
        self.client_tls: ClientTls
        self.renew_tls(configuration)
        self.configuration = configuration
        self.spool = SqliteSpool(
            configuration.data, reactor.callFromThread, time.time, longest=build_retry(configuration).longest
        )
        self.outcomes = Outcomes(self.spool, reactor, time.time)
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
            self.mailbox.stop()  # when what it has in hand is written
            self.intake.short_way = None  # what was begun is routed afresh, and that is what dispatch does
        as_it_was = structs.replace(self.configuration, peer=configuration.peer, dial=configuration.dial)
        others_alone = as_it_was == configuration
        reactor, spool, hostname = self._reactor, self.spool, configuration.host
        self.configuration = configuration
        directory = self._directory = build_directory(configuration)
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
            privileged=self._privileged,
        )
        limits = configuration.limits
        sizes = (limits.hops, int(limits.header_size))
        in_hand = InHand(int(limits.memory))
        self.intake = Intake(hostname, self.routing, self.terminals, spool, time.time, *sizes, in_hand)
        notices = Notices(hostname, Path("postmaster", hostname), self.intake, time.time, spool.new_id)
        self.intake.notices = notices
        retry = build_retry(configuration)

        def next_attempt(attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
            return decide(retry, attempts, age, warned, random.random())

        settling = Settling(spool, notices, next_attempt, retry.expire, reactor, time.time)
        settling.outcomes = self.outcomes
        self._furnish_peering(configuration, settling)
        self.doors = self._doors(configuration)
        self.relay.tls = self.client_tls
        self._join(settling)
        for receiver in self._receivers:
            receiver.doors = self.doors
            receiver.limit(limits.connections, limits.connections_per_host)
        calls = [build_call(configuration, dial, self.passwords) for dial in configuration.dial]
        self.dialing.use(calls, self.doors, self.client_tls, others_alone=others_alone)
        if self._furnished and self.dispatch is not None:
            self.dispatch.wake()
        self._furnished = True

    def _furnish_peering(self, configuration: Configuration, settling: Settling) -> None:
        """What is held outlives a configuration, and so do the lines by which it goes."""
        peers = [build_peer(peer) for peer in configuration.peer]
        keeping, routed = build_keeping(configuration), routed_domains(configuration)
        if self._furnished:
            self.peering.use(peers, self.routing, settling, keeping=keeping, routed=routed)
        else:
            more: dict[str, Any] = {"clock": self._reactor, "keeping": keeping, "routed": routed}
            more["secret_of"] = self._secret_of
            self.peering = Peering(peers, self.spool, self.routing, settling, time.time, **more)
            self.dialing = Dialing(
                self.peering.outgoing, self._connect, self._reactor, random.random, is_full=self._is_full
            )
        settling.holding = self.intake.holding = self.peering

    def _doors(self, configuration: Configuration) -> Doors:
        pairing = self._pairing(configuration)
        access = Access(
            configuration.relay.networks,
            configuration.terminals.allow,
            [build_peer_rule(peer) for peer in configuration.peer],
            self.passwords,
            self._backoff,
            [dial.user for dial in configuration.dial if dial.user],
            pairing,
            self._directory.is_user,
        )
        limits = configuration.limits
        return Doors(
            configuration.host,
            access,
            self.routing,
            self.intake,
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
            pairing,
        )

    def _pairing(self, configuration: Configuration) -> Admission | None:
        """Who admits the holders of invitations, None where no secrets are kept."""
        if self.passwords is None:
            return None
        return Admission(
            Invitations(invitations_folder(configuration), time.time),
            self.passwords.set_keys,
            {peer.name: peer.domains for peer in configuration.peer if "auth" in peer.allow},
            lambda domains: self.spool.waiting(domains, ["held"]),
            self._in_thread,
        )

    def renew_tls(self, configuration: Configuration) -> None:
        """Reads certificates, keys and roots. TlsError if they cannot be used; then all stays as it was."""
        try:
            server, client = build_server_tls(configuration), build_client_tls(configuration)
        except ValueError as error:
            raise TlsError(str(error)) from None
        self.server_tls, self.client_tls = server, client

    def _join(self, settling: Settling) -> None:
        """Intake and dispatch: the one circle in the house, for notices go in by the front door."""
        peering, data = self.peering, self.configuration.data
        if not self._send:
            sender = Nudge(self._reactor, os.path.join(data, SOCKET))
            self.intake.dispatch, peering.start_queues = sender, sender.start
            peering.outgoing_held = peering.settlements.queued = sender.wake
            return
        parts = (self.routing, self.mailbox, self.terminals, self.relay, settling)
        if self.dispatch is None:
            poll = 30.0 if self._receive else SENDER_POLL
            self.dispatch = Dispatch(self.spool, *parts, self._reactor, time.time, poll)
            wake = peering.settlements.queued = self.dispatch.wake
            self.starting = Starting(self.spool, peering, self.relay, wake, self._reactor)
            peering.start_queues, peering.outgoing_held = self.starting.start, self.dialing.outgoing_held
            if not self._receive:
                peering.elsewhere = Nudge(self._reactor, os.path.join(data, RECEIVER_SOCKET)).wake
        else:
            self.mailbox.start()
            self.dispatch.use(*parts)
        self.intake.dispatch = self.dispatch
        self.intake.short_way = ShortWay(self.mailbox, self._reactor)

    # ------------------------------------------------------------- life

    def receiver(self, listen: Listen) -> IProtocolFactory:
        """What serves a listener."""
        limits = self.configuration.limits
        factory = ReceiverFactory(
            self.doors,
            self._reactor,
            listener=Listener(listen.role, listen.tls or "none", listen.bare_newlines == "normalize"),
            connections=limits.connections,
            connections_per_host=limits.connections_per_host,
            hosts=self._hosts,
        )
        self._receivers.append(factory)
        gate = Gate(factory, self.configuration.host, self._refusal, listen.tls == "implicit")
        return ProxiedFactory(gate, self._reactor) if listen.endpoint.startswith(PROXIED) else gate

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
        self.mailbox.start()
        self.dialing.start()
        return self.dispatch.start()

    def wake(self) -> None:
        """There may be something new in the spool."""
        self.peering.wake()
        if self.dispatch is not None:
            self.dispatch.wake()
            self.dialing.outgoing_held()

    def dial(self, name: str, trace: Trace | None) -> Deferred[Answer]:
        """Calls a host now; fires with how it went. ControlError if it cannot be called."""

        def ended(how: CallEnded) -> Answer:
            counts = {"given": how.given, "refused": how.refused, "received": how.received}
            said = {"code": how.reply.code, "reply": str(how.reply)}
            return {"turned": how.turned, "open": how.open, "started": how.started, **counts, **said}

        def failed(failure: Failure) -> Answer:
            if failure.check(BusyError):
                raise ControlError(f"{name} is being called already")
            failure.trap(KeyError)
            known = ", ".join(self.dialing.names) or "none"
            raise ControlError(f"no [[dial]] of that name; there are: {known}")

        return self.dialing.dial(name, trace).addCallbacks(ended, failed)

    def _became(self, user: str, id: str, seconds: float) -> Deferred[Answer]:
        """What became of a message that `user` has sent, for that user: its notices go there, too."""
        names = {self.configuration.host.lower(), *map(str.lower, self.configuration.domains)}

        def is_theirs(sender: Path) -> bool:
            return sender.local == user and sender.domain.lower() in names and not sender.route

        answer: Deferred[Answer] = self.outcomes.became(id, seconds, is_theirs)
        return answer

    def drain(self) -> list[Deferred[None]]:
        """Ends everything at the next moment at which nothing is lost by it; they fire when it is done."""
        if self.starting is not None:
            self.starting.stop()
        self.relay.stop()
        lines = DeferredList([self.dialing.stop(), *(receiver.drain() for receiver in self._receivers)])
        # What went over a line is settled behind it: else it would go over once more.
        done = [lines.addCallback(lambda _: self.peering.drain())]
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
        return Passwords(path, self._in_thread)

    def _secret_of(self, name: str) -> object:
        """What is kept of a peer's secret: to be compared, and for nothing else."""
        try:
            return self.passwords.kept(name) if self.passwords is not None else None
        except OSError:
            return None

    def _in_thread(self, work: Callable[[], T], /) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)
