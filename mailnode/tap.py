"""twistd: three services from one configuration. Decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

from twisted.application.service import IService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized

from mailnode import config
from mailnode.log import twistd_log
from mailnode.service import Node, StartError


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
    """A node that ends the process with one line when it cannot start, and brings its own log."""

    log: ILogObserver | None = None

    def setServiceParent(self, parent: Any) -> None:  # twistd's application: it looks there for a log
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if self.log is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log)

    def privilegedStartService(self) -> None:
        try:
            super().privilegedStartService()
        except StartError as error:
            _fail(error)

    def startService(self) -> None:
        try:
            super().startService()
        except StartError as error:
            _fail(error)


def _fail(error: StartError) -> NoReturn:
    print(error, file=sys.stderr)
    if sys.__stderr__ is not None and sys.stderr is not sys.__stderr__:
        print(error, file=sys.__stderr__)  # twistd has put its log in the place of the one above
    raise SystemExit(1)


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
            reload=partial(load, certificates=False),
            become=(twistd.get("uid"), twistd.get("gid")),
        )
    except StartError as error:
        _fail(error)
    node.log = twistd_log(twistd, reactor)
    return node
