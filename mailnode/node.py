"""The composition root: builds the house from a configuration, starts it, and takes it down again.

What is durable (spool, listeners) lasts as long as the process; what follows from the configuration
(directory, routing, access, peers) is built anew on SIGHUP, and connections keep what they began with.
"""

from __future__ import annotations

import os
import pwd
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults, succeed
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.names.client import createResolver
from twisted.python.failure import Failure

from mailnode.access.passwords import Passwords
from mailnode.access.rules import Access, PeerRule
from mailnode.channel.factories import ReceiverFactory
from mailnode.channel.receiving import Doors
from mailnode.clock import use_monotonic
from mailnode.config import Configuration, ConfigurationErrors
from mailnode.control import SOCKET, Action, Answer, ControlError, ControlFactory, Say
from mailnode.delivery.dispatch import Dispatch
from mailnode.delivery.mailbox import Maildir
from mailnode.delivery.notices import Notices
from mailnode.delivery.relay import Relay
from mailnode.delivery.settling import Settling
from mailnode.directory.directory import Directory
from mailnode.directory.system import SystemUsers
from mailnode.directory.users import NamedUsers, UserSource
from mailnode.intake import Intake
from mailnode.interfaces import IDispatch
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

RECEIVER_SOCKET: Final = "receiver.sock"
EXPIRE_EVERY: Final = 3600.0  # seconds between looks for held mail that nobody fetched
SENDER_POLL: Final = 1.0  # seconds; a process that only sends is woken, but does not rely on it


class StartError(Exception):
    """The node cannot start; its text is one line for the operator."""


class Node(Service):
    """A mail node as a Twisted service.

    `receive` and `send` choose the roles: all, only what accepts mail, or only what works the spool
    off. `reload` gives the configuration afresh for SIGHUP. StartError when a listener or the data
    folder cannot be had.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        *,
        receive: bool = True,
        send: bool = True,
        reload: Callable[[], Configuration] | None = None,
    ) -> None:
        use_monotonic(reactor)
        self._reactor = reactor
        self._receive = receive
        self._send = send
        self._reload = reload
        self._log = Logger("mailnode.node")
        self._configuration = configuration
        self._ports: list[IListeningPort] = []
        self._factories: list[ReceiverFactory] = []
        self._control: IListeningPort | None = None
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = reactor
        self._dispatch: Dispatch | None = None
        self._retry = _retry(configuration)
        self.spool = SqliteSpool(
            configuration.data, reactor.callFromThread, time.time, longest=self._retry.longest
        )
        self._relay = Relay(
            configuration.host,
            Exchange(createResolver(), [configuration.host], [], random.shuffle, reactor),
            self._connect,
            reactor,
        )
        self._build(configuration)

    # ------------------------------------------------------------- building

    def _build(self, configuration: Configuration) -> None:
        """Everything that follows from the configuration; called again on SIGHUP."""
        self._configuration = configuration
        reactor, spool, hostname = self._reactor, self.spool, configuration.host
        directory = build_directory(configuration)
        self.routing = build_routing(configuration, directory)
        self.terminals = build_terminals(configuration)
        self.passwords = self._passwords(configuration)
        access = Access(
            configuration.relay.networks,
            configuration.terminals.allow,
            [_peer_rule(peer) for peer in configuration.peer],
            self.passwords,
        )
        self._mailbox = Maildir(
            configuration.mailboxes.maildir.replace("{data}", configuration.data),
            directory,
            hostname,
            reactor.callFromThread,
            time.time,
        )
        self.intake = Intake(
            hostname, self.routing, self.terminals, spool, time.time, configuration.limits.hops
        )
        notices = Notices(hostname, Path("postmaster", hostname), self.intake, time.time, spool.new_id)
        retry = self._retry = _retry(configuration)

        def next_attempt(attempts: int, age: float, warned: bool) -> tuple[float | None, bool]:
            return decide(retry, attempts, age, warned, random.random())

        settling = Settling(spool, notices, next_attempt, retry.expire, reactor, time.time)
        self._peering = Peering(
            [_peer(peer) for peer in configuration.peer], spool, self.routing, settling, time.time
        )
        self.doors = Doors(
            hostname,
            access,
            self.routing,
            self.intake,
            self._peering,
            Limits(
                int(configuration.limits.message_size),
                configuration.limits.recipients,
                configuration.limits.errors,
            ),
            configuration.limits.command_timeout,
        )
        self._dialing = Dialing(
            [self._call(dial) for dial in configuration.dial],
            self.doors,
            self._peering.outgoing,
            self._connect,
            reactor,
            random.random,
        )
        self._wire(settling)

    def _wire(self, settling: Settling) -> None:
        """Joins intake and dispatch: the one circle in the house (notices go in by the front door)."""
        if not self._send:
            nudge: IDispatch = Nudge(self._reactor, os.path.join(self._configuration.data, SOCKET))
            self.intake.dispatch = nudge
            return
        parts = (self.routing, self._mailbox, self.terminals, self._relay, settling)
        if self._dispatch is None:
            poll = 30.0 if self._receive else SENDER_POLL
            self._dispatch = Dispatch(self.spool, *parts, self._reactor, time.time, poll)
        else:
            self._dispatch.use(*parts)
        self.intake.dispatch = self._dispatch

    def _connect(self, endpoint: str) -> IStreamClientEndpoint:
        return cast(IStreamClientEndpoint, clientFromString(self._reactor, str(endpoint)))

    def _passwords(self, configuration: Configuration) -> Passwords | None:
        if configuration.users.passwords is None:
            return None
        reactor = self._reactor

        def in_thread(check: Callable[[], bool]) -> Deferred[bool]:
            return deferToThreadPool(reactor, reactor.getThreadPool(), check)

        return Passwords(configuration.users.passwords, in_thread)

    def _call(self, dial: Any) -> Call:
        secret = ""
        if dial.user and self.passwords is not None:
            secret = self.passwords.recoverable(dial.user) or ""
        return Call(dial.name, dial.endpoint, dial.user or "", secret, dial.outbound, dial.every)

    # ------------------------------------------------------------- starting

    def privilegedStartService(self) -> None:
        """Binds the listeners, while we may still be root."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        if not self._receive:
            return
        failures: list[str] = []
        limits = self._configuration.limits
        for index, listen in enumerate(self._configuration.listen):
            factory = ReceiverFactory(
                self.doors,
                self._reactor,
                listener=listen.role,
                connections=limits.connections,
                connections_per_host=limits.connections_per_host,
            )
            self._factories.append(factory)
            serverFromString(self._reactor, str(listen.endpoint)).listen(factory).addCallbacks(
                self._ports.append, lambda failure, i=index: failures.append(_cannot_listen(i, failure))
            )
        if failures:
            raise StartError("\n".join(failures))

    def startService(self) -> None:
        try:
            self.spool.open()
        except OSError as error:
            raise StartError(f"data: {self._configuration.data}: {error}") from None
        if self._send and not self.spool.lock_dispatch():
            raise StartError(f"data: {self._configuration.data}: another node works this spool off")
        super().startService()  # type: ignore[no-untyped-call]
        self._listen_for_control()
        if self._dispatch is not None:
            self._dispatch.start().addErrback(self._cannot_go_on)
            self._dialing.start()
            self._housekeeping.start(EXPIRE_EVERY, now=False)
        if self._reload is not None:
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reread))
        for port, listen in zip(self._ports, self._configuration.listen, strict=False):
            self._log.info("listening on {where} ({role})", where=_shown(port), role=listen.role)
        self._log.info("mailnode ready")

    def _cannot_go_on(self, failure: Failure) -> None:
        self._log.failure("the spool cannot be worked off", failure)

    def _listen_for_control(self) -> None:
        path = os.path.join(self._configuration.data, SOCKET if self._send else RECEIVER_SOCKET)
        actions: dict[str, Action] = {"status": self._status, "wake": self._wake, "dial": self._dial}
        if os.path.lexists(path):
            os.unlink(path)  # of a process that was killed: we hold the lock of this spool
        before = os.umask(0o177)
        try:
            self._control = self._reactor.listenUNIX(path, ControlFactory(actions), mode=0o600)
        finally:
            os.umask(before)

    # ------------------------------------------------------------- while it runs

    def reread(self) -> None:
        """SIGHUP: the new configuration is for what comes from now on; a wrong one changes nothing."""
        assert self._reload is not None
        try:
            configuration = self._reload()
        except ConfigurationErrors as errors:
            for line in errors.lines:
                self._log.error("configuration not reread: {line}", line=line)
            return
        old = self._configuration
        for key in ("hostname", "data", "listen"):
            if getattr(configuration, key) != getattr(old, key):
                self._log.warn("{key} has changed: that needs a restart", key=key)
                return
        mailbox, dialing = self._mailbox, self._dialing
        self._build(configuration)
        for factory in self._factories:
            factory.doors = self.doors
        if self._dispatch is not None:
            dialing.stop()
            self._dialing.start()
            self._dispatch.wake()
        mailbox.stop()
        self._log.info("configuration reread")

    def _keep_house(self) -> None:
        def told(count: int) -> None:
            if count:
                self._log.info("{count} messages were not fetched in time and returned", count=count)

        self._peering.expire().addCallback(told)

    # ------------------------------------------------------------- the control socket

    def _status(self, _request: Mapping[str, Any], _say: Say) -> Answer:
        return {
            "hostname": self._configuration.host,
            "pid": os.getpid(),
            "listening": [
                {"role": listen.role, "endpoint": listen.endpoint, "where": _shown(port)}
                for port, listen in zip(self._ports, self._configuration.listen, strict=False)
            ],
        }

    def _wake(self, _request: Mapping[str, Any], _say: Say) -> Answer:
        if self._dispatch is not None:
            self._dispatch.wake()
        return {}

    def _dial(self, request: Mapping[str, Any], say: Say) -> Deferred[Answer]:
        name = str(request.get("name", ""))

        def trace(speaker: str, octets: bytes) -> None:
            for line in octets.decode("latin-1").splitlines() or [""]:
                say(speaker, line)

        def ended(how: CallEnded) -> Answer:
            return {"turned": how.turned, "given": how.given, "code": how.reply.code, "reply": str(how.reply)}

        def failed(failure: Failure) -> Answer:
            if failure.check(BusyError):
                raise ControlError(f"{name} is being called already")
            failure.trap(KeyError)
            known = ", ".join(self._dialing.names) or "none"
            raise ControlError(f"no [[dial]] of that name; there are: {known}")

        return self._dialing.dial(name, trace if request.get("trace") else None).addCallbacks(ended, failed)

    # ------------------------------------------------------------- stopping

    def stopService(self) -> Deferred[None]:
        """Drains: no new mail; what is in hand is finished or left in the spool."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._log.info("going down")
        if self._housekeeping.running:
            self._housekeeping.stop()
        doors = [port.stopListening() for port in self._ports]
        if self._control is not None:
            doors.append(self._control.stopListening())
        self._dialing.stop()
        self._relay.stop()
        waiting: list[Deferred[Any]] = [cast("Deferred[Any]", d) for d in doors if isinstance(d, Deferred)]
        waiting += [factory.drain() for factory in self._factories]
        if self._dispatch is not None:
            waiting.append(self._dispatch.stop())
        drained: Deferred[Any] = DeferredList(waiting, consumeErrors=True)
        return _within(self._reactor, drained, self._configuration.drain, self._cut).addCallback(self._closed)

    def _cut(self) -> None:
        """The time to drain is over. What is not finished is still in the spool."""
        for factory in self._factories:
            factory.abort()
        self._relay.abort()
        self._dialing.abort()

    def _closed(self, _: object) -> Deferred[None]:
        stopped = gatherResults([self._mailbox.stop()], consumeErrors=True)
        return stopped.addBoth(lambda _: self.spool.close()).addCallback(
            lambda _: self._log.info("mailnode stopped")
        )


def _within(reactor: Any, done: Deferred[Any], seconds: float, cut: Callable[[], None]) -> Deferred[None]:
    """Fires with `done`, or after `seconds` when `cut` has been called."""
    if done.called:
        return succeed(None)
    over: Deferred[None] = Deferred()

    def too_late() -> None:
        cut()
        over.callback(None)

    timer = reactor.callLater(seconds, too_late)

    def in_time(_: object) -> None:
        if timer.active():
            timer.cancel()
            over.callback(None)

    done.addBoth(in_time)
    return over


def _cannot_listen(index: int, failure: Failure) -> str:
    why = failure.getErrorMessage().rstrip(".")
    return f"listen[{index}].endpoint: cannot listen: {why}"


def _shown(port: IListeningPort) -> str:
    where = port.getHost()
    host, number = getattr(where, "host", None), getattr(where, "port", None)
    if host is None:
        name = getattr(where, "name", b"")
        return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


# ------------------------------------------------------------- parts, also for the command line


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


def _peer_rule(peer: Any) -> PeerRule:
    by_address = tuple(peer.addresses) if "address" in peer.allow else ()
    return PeerRule(peer.name, "auth" in peer.allow, "", by_address)


def _peer(peer: Any) -> Peer:
    networks = tuple(ip_network(network) for network in peer.addresses) if "address" in peer.allow else ()
    domains = tuple(domain.lower() for domain in peer.domains)
    return Peer(peer.name, domains, "auth" in peer.allow, networks, peer.keep)


def fail_to_start(error: StartError) -> None:
    """Tells the operator why, on standard error, and ends the process."""
    print(error, file=sys.stderr)
    raise SystemExit(1)
