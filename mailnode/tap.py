"""twistd: three services from one configuration. Decides nothing."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized

from mailnode import config
from mailnode.log import twistd_log
from mailnode.service import Node, StartError

ELSEWHERE: Final = ("logfile", "syslog", "logger")  # options with which the log is not standard output
PIPE: Final = 98  # octets of the reason that whoever starts a daemon is shown by twistd


class Options(usage.Options):
    """Options of `twistd mailnode`."""

    optParameters = [  # noqa: RUF012 - Twisted reads it from the class
        [
            "config",
            "c",
            None,
            "Configuration file (default: the first of $MAILNODE_CONFIG, ./mailnode.toml, "
            "~/.config/mailnode/mailnode.toml, /etc/mailnode/mailnode.toml; else a node on 127.0.0.1:2525)",
        ],
    ]


class TwistdNode(Node):
    """A node that ends the process with one line when it cannot start, brings its own log, and goes down at
    once when it is told so a second time. `twistd` are the options of the program."""

    log: ILogObserver | None = None
    twistd: Mapping[str, Any] = MappingProxyType({})

    def setServiceParent(self, parent: Any) -> None:  # twistd's application: it looks there for a log
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if self.log is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log)

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except StartError as error:
            self._end(error)

    def startService(self) -> None:
        try:
            super().startService()
        except StartError as error:
            self._end(error)

    def stopService(self) -> Deferred[None]:
        stopped = super().stopService()
        for number in (signal.SIGINT, signal.SIGTERM):  # Twisted's own handler fails from now on
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda *_: self.hurry())
        return stopped

    def _end(self, error: StartError) -> NoReturn:
        """Says why the node does not start wherever somebody may look; twistd tidies up only after errors
        that it shows with a traceback."""
        on_terminal = self.twistd.get("nodaemon") and not any(map(self.twistd.get, ELSEWHERE))
        _say(error, not on_terminal)
        if name := self.twistd.get("pidfile"):
            with suppress(OSError):
                os.unlink(name)
        if (pipe := self.twistd.get("statusPipe")) is not None:  # of the daemon, to whoever started it
            with suppress(OSError):
                os.write(pipe, b"1 " + str(error).encode("ascii", "replace")[:PIPE])
        raise SystemExit(1)


def _say(error: StartError, is_logged_elsewhere: bool) -> None:
    """On standard error, and where twistd has put a log in its place, there as well, if that is elsewhere."""
    if sys.stderr is sys.__stderr__ or is_logged_elsewhere:
        print(error, file=sys.stderr)
    if sys.__stderr__ is not None and sys.stderr is not sys.__stderr__:
        print(error, file=sys.__stderr__)


def makeService(options: usage.Options, receive: bool = True, send: bool = True) -> IService:
    """The node that the configuration describes; prints every error in it and exits with 1."""
    from twisted.internet import reactor

    load = partial(config.load, options["config"])
    twistd: Mapping[str, Any] = options.parent or {}
    try:
        configuration = load()
    except config.ConfigurationErrors as errors:
        print("\n".join(errors.lines), file=sys.stderr)
        raise SystemExit(1) from None
    try:
        node = TwistdNode(
            configuration,
            reactor,
            receive=receive,
            send=send,
            reload=partial(load, certificates=config.Certificates.NAMED),
            become=(twistd.get("uid"), twistd.get("gid")),
        )
    except StartError as error:
        _say(error, False)
        raise SystemExit(1) from None
    node.twistd = twistd
    node.log = twistd_log(twistd, reactor)
    return node
