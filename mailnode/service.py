"""A node as a Twisted service: binds, starts, answers the control socket, rereads, drains."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailnode.channel.proxied import PREFIX as PROXIED
from mailnode.clock import use_monotonic
from mailnode.config import Configuration, ConfigurationErrors
from mailnode.control import Action, Answer, ControlError, ControlFactory, Say
from mailnode.control_client import RECEIVER_SOCKET, SOCKET
from mailnode.descriptors import raise_limit
from mailnode.node import House, TlsError
from mailnode.privileges import doubts, give_folder
from mailnode.trace import TraceLines
from mailnode.unix_sockets import remove_stale

LOOK_EVERY: Final = 30.0  # seconds between looks after held mail; few messages, found by an index
# With the default of 5 ms a busy reactor starves the threads that write to the disk: they need the
# interpreter lock after each system call, and delivery falls to a few messages a second.
SWITCH_INTERVAL: Final = 0.0001  # seconds


class StartError(Exception):
    """The node cannot start; its text is for the operator, a line for each reason."""


class Node(Service):
    """A mail node. `receive` and `send` choose the roles: all, only what accepts mail, or only what
    works the spool off. `reload` gives the configuration afresh for SIGHUP. `become` are the user and
    group that the process is going to be between `privilegedStartService` and `startService`.

    StartError when a listener or the data folder cannot be had.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        *,
        receive: bool = True,
        send: bool = True,
        reload: Callable[[], Configuration] | None = None,
        become: tuple[int | None, int | None] = (None, None),
    ) -> None:
        use_monotonic(reactor)
        raise_limit()
        privileged = os.geteuid() == 0 and not become[0]
        try:
            self.house = House(configuration, reactor, receive=receive, send=send, privileged=privileged)
        except TlsError as error:
            raise StartError(f"tls: {error}") from None
        self._reactor = reactor
        self._receive = receive
        self._send = send
        self._reload = reload
        self._become = become
        self._ports: list[IListeningPort] = []
        self._control: IListeningPort | None = None
        self._housekeeping = LoopingCall(self._keep_house)
        self._housekeeping.clock = reactor
        self._cut: Callable[[], None] | None = None  # while it drains
        self._log = Logger("mailnode.node")

    @property
    def _configuration(self) -> Configuration:
        return self.house.configuration

    # ------------------------------------------------------------- starting

    def privilegedStartService(self) -> None:
        """Makes the data folder and binds the listeners, while we may still be root."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        try:
            give_folder(self._configuration.data, *self._become)
        except OSError as error:
            raise StartError(f"data: {self._configuration.data}: {error.strerror}") from None
        if not self._receive:
            return
        failures: list[str] = []
        for index, listen in enumerate(self._configuration.listen):
            # A proxy's header is read by us (`ProxiedFactory` says why), so Twisted gets what is behind it.
            endpoint = serverFromString(self._reactor, str(listen.endpoint).removeprefix(PROXIED))
            listening = endpoint.listen(self.house.receiver(listen))
            listening.addCallbacks(
                self._ports.append, lambda failure, i=index: failures.append(_cannot_listen(i, failure))
            )
        if failures:
            raise StartError("\n".join(failures))

    def startService(self) -> None:
        try:
            self.house.spool.open()
        except OSError as error:
            raise StartError(f"data: {self._configuration.data}: {error}") from None
        if self._send and not self.house.spool.lock_dispatch():
            raise StartError(f"data: {self._configuration.data}: another node works this spool off")
        super().startService()  # type: ignore[no-untyped-call]
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._open_terminals()
        self._listen_for_control()
        if self._send:
            self.house.start().addErrback(self._cannot_go_on)
            self._housekeeping.start(LOOK_EVERY)
        if self._reload is not None:
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reread))
        for port, listen in zip(self._ports, self._configuration.listen, strict=False):
            self._log.info("listening on {where} ({role})", where=_shown(port), role=listen.role)
        self._warn_of_certificate()
        in_homes = self._configuration.mailboxes.maildir.startswith("{home}")  # which are other users'
        for doubt in doubts(self._configuration.data, in_homes):
            self._log.warn("the node {doubt}", doubt=doubt)
        self._log.info("mailnode ready")

    def _cannot_go_on(self, failure: Failure) -> None:
        self._log.failure("the spool cannot be worked off", failure)

    def _open_terminals(self) -> None:
        try:
            self.house.terminal_room.open()
        except OSError as error:
            where, why = self._configuration.terminals.socket, error.strerror or error
            raise StartError(f"terminals.socket: cannot listen on {where}: {why}") from None

    def _listen_for_control(self) -> None:
        path = os.path.join(self._configuration.data, SOCKET if self._send else RECEIVER_SOCKET)
        actions: dict[str, Action] = {
            "status": self._status,
            "wake": self._wake,
            "dial": self._dial,
            "reread": self._reread,
            "start": self._start_queues,
            "became": self._became,
        }
        try:
            remove_stale(path)
        except OSError as error:
            raise StartError(f"data: cannot listen on {path}: {error.strerror or error}") from None
        before = os.umask(0o177)
        try:
            self._control = self._reactor.listenUNIX(path, ControlFactory(actions), mode=0o600)
        finally:
            os.umask(before)

    # ------------------------------------------------------------- while it runs

    def reread(self) -> list[str]:
        """SIGHUP: the new configuration is for what comes from now on; a wrong one changes nothing, and what
        is wrong with it is said."""
        assert self._reload is not None
        try:
            configuration = self._reload()
        except ConfigurationErrors as errors:
            return self._not_reread(*errors.lines)
        for key in ("hostname", "data", "listen"):
            if getattr(configuration, key) != getattr(self._configuration, key):
                return self._not_reread(f"{key} has changed, that needs a restart")
        for key in ("attached", "socket"):
            if getattr(configuration.terminals, key) != getattr(self._configuration.terminals, key):
                return self._not_reread(f"terminals.{key} has changed, that needs a restart")
        try:
            self.house.renew_tls(configuration)
        except TlsError as error:
            self._log.error("certificates not reread, those in use stay: {why}", why=str(error))
        before = self._peers_domains()
        self.house.furnish(configuration)
        self._warn_of_held(before - self._peers_domains())
        self._warn_of_certificate()
        self._log.info("configuration reread")
        return []

    def _not_reread(self, *lines: str) -> list[str]:
        for line in lines:
            self._log.error("configuration not reread: {line}", line=line)
        return list(lines)

    def _warn_of_certificate(self) -> None:
        if self.house.server_tls is not None:
            for doubt in self.house.server_tls.doubts(self._configuration.host):
                self._log.warn("certificate {doubt}", doubt=doubt)

    def _peers_domains(self) -> set[str]:
        return {domain for peer in self._configuration.peer for domain in peer.domains}

    def _warn_of_held(self, domains: set[str]) -> None:
        """Mail that waited for a peer that is gone goes on waiting: an operator has to say where it goes."""

        def counted(count: int) -> None:
            if count:
                names = ", ".join(sorted(domains))
                self._log.warn(
                    "{count} messages are held for {names}, and no peer is there to fetch them"
                    " (mailnode queue release --domain DOMAIN lets them go where the routes lead)",
                    count=count,
                    names=names,
                )

        if domains:
            self.house.spool.waiting(domains, ["held"]).addCallbacks(
                counted, lambda failure: self._log.failure("the spool cannot be read", failure)
            )

    def _keep_house(self) -> Deferred[int]:
        return self.house.peering.expire()

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
        self.house.wake()
        return {}

    def _reread(self, _request: Mapping[str, Any], _say: Say) -> Answer:
        if self._reload is None:
            raise ControlError("this node was started without a file that it could read again")
        if wrong := self.reread():
            raise ControlError(wrong[0])
        return {}

    def _start_queues(self, request: Mapping[str, Any], _say: Say) -> Answer:
        """An ETRN that the process which receives has heard."""
        domains = request.get("domains")
        if not isinstance(domains, list) or self.house.starting is None:
            raise ControlError("no queues can be started here")
        return {
            "started": self.house.starting.start(
                [str(it) for it in domains], bool(request.get("stranger", True))
            )
        }

    def _became(self, request: Mapping[str, Any], _say: Say) -> Deferred[Answer]:
        """What became of a message that was sent a moment ago."""
        seconds = request.get("seconds", 0)
        if not isinstance(seconds, int | float):
            raise ControlError("seconds: expected a number")
        answer: Deferred[Answer] = self.house.outcomes.became(str(request.get("id", "")), float(seconds))
        return answer

    def _dial(self, request: Mapping[str, Any], say: Say) -> Deferred[Answer]:
        name = str(request.get("name", ""))
        return self.house.dial(name, TraceLines(say) if request.get("trace") else None)

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
        waiting: list[Deferred[Any]] = [cast("Deferred[Any]", d) for d in doors if isinstance(d, Deferred)]
        waiting += self.house.drain()
        drained: Deferred[Any] = DeferredList(waiting, consumeErrors=True)
        done, self._cut = _within(self._reactor, drained, self._configuration.drain, self.house.abort)
        return done.addCallback(lambda _: self.house.close()).addCallback(self._closed)

    def hurry(self) -> None:
        """Drains no longer: cuts what is left. What is in the spool is safe. A signal handler may call it."""
        self._reactor.callFromThread(self._hurry)

    def _hurry(self) -> None:
        cut, self._cut = self._cut, None
        if cut is not None:
            self._log.info("told again: going down at once")
            cut()

    def _closed(self, _: object) -> None:
        self.house.terminal_room.close()
        self._log.info("mailnode stopped")


def _within(
    reactor: Any, done: Deferred[Any], seconds: float, cut: Callable[[], None]
) -> tuple[Deferred[None], Callable[[], None] | None]:
    """Fires with `done`, or after `seconds` when `cut` has been called; and what makes it so at once."""
    if done.called:
        return succeed(None), None
    over: Deferred[None] = Deferred()

    def too_late() -> None:
        cut()
        over.callback(None)

    timer = reactor.callLater(seconds, too_late)

    def in_time(_: object) -> None:
        if timer.active():
            timer.cancel()
            over.callback(None)

    def now() -> None:
        if timer.active():
            timer.reset(0)

    done.addBoth(in_time)
    return over, now


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
