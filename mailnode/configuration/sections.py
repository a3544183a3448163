"""The structure of the configuration file: every key, its kind and its default."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from mailnode.configuration.values import (
    ClientEndpoint,
    Domain,
    Duration,
    File,
    Fingerprint,
    HostName,
    MaildirTemplate,
    NamedUser,
    Network,
    NextHop,
    Route,
    ServerEndpoint,
    Size,
    Target,
    Targets,
    UserName,
)
from mailnode.welcome import Welcome

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Rate = Annotated[int, Meta(ge=0, le=1000)]  # a minute; more messages than that cannot be read anyway


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file."""


class Listen(Section, frozen=True):
    endpoint: ServerEndpoint
    role: Literal["smtp", "submission", "lmtp", "odmr"] = "smtp"
    tls: Literal["none", "starttls", "implicit"] | None = None  # None until loaded: as [tls] is there or not
    bare_newlines: Literal["refuse", "normalize"] = "refuse"  # normalize: from trusted clients only


class Tls(Section, frozen=True):
    certificate: File | None = None  # with its chain; what listeners show
    key: File | None = None
    client: bool = False  # hosts that we call and that ask are shown the certificate, too
    roots: File | None = None  # authorities for routes that are "verified"; None: those of the platform


class Users(Section, frozen=True):
    system: bool | None = None  # None until loaded: login names are users unless users are named here
    names: list[NamedUser] = []
    passwords: File | None = None


class Mailboxes(Section, frozen=True):
    maildir: MaildirTemplate = MaildirTemplate("{data}/mail/{user}")
    lmtp: ClientEndpoint | None = None


class Terminals(Section, frozen=True):
    utmp: str = ""  # a file, "logind" or "none"; "" is utmp where there is one, else logind
    devices: File = File("/dev")
    charset: Literal["utf-8", "ascii"] = "utf-8"  # what terminals read; ascii: all else is shown as escapes
    attached: bool = True
    allow: Literal["anyone", "trusted", "authenticated", "none"] = "trusted"
    socket: File | None = None  # None until loaded: terminals.sock in the data folder
    welcome: Welcome = field(default_factory=Welcome)  # what holds for who says nothing in ~/.mailnode
    rate: Rate = 10  # a minute, to one user from one sender
    rate_all: Rate = 30  # a minute, to one user from all senders


class Relay(Section, frozen=True):
    networks: list[Network] = field(default_factory=lambda: [Network("127.0.0.0/8"), Network("::1/128")])


class Retry(Section, frozen=True):
    first: Duration = Duration(300)
    warn: Duration = Duration(4 * 3600)
    expire: Duration = Duration(5 * 86400)


class Limits(Section, frozen=True):
    message_size: Size = Size(50 << 20)
    header_size: Size = Size(1 << 20)
    recipients: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000  # RFC 821 4.5.3 wants 100 and more
    line_length: Annotated[int, Meta(ge=512, le=65536)] = 2048  # octets; RFC 821 4.5.3 wants 512 and more
    connections: Count = 1000  # to all listeners
    connections_per_host: Count = 50
    command_timeout: Duration = Duration(300)  # RFC 1123 5.3.2
    data_rate: Count = 100  # octets a second of mail data, the lowest average after the first minute
    commands: Count = 200  # that brought no mail, on one connection
    errors: Count = 20
    auth_failures: Count = 3
    memory: Size = Size(64 << 20)  # of mail that is being received, in all
    hops: Annotated[int, Meta(ge=1, le=1000)] = 50


class Peer(Section, frozen=True):
    """A host whose mail is held until it turns the line."""

    name: UserName
    domains: list[Domain]
    allow: list[Literal["auth", "certificate", "address"]] = field(default_factory=lambda: ["auth"])
    addresses: list[Network] = []
    fingerprint: Fingerprint | None = None
    cram_md5: bool = False
    keep: Duration = Duration(30 * 86400)
    deliver: NextHop | None = None  # where ETRN sends what is held; None: it has to be fetched


class Dial(Section, frozen=True):
    """A host that we call to fetch our mail."""

    name: UserName
    endpoint: ClientEndpoint
    command: Literal["TURN", "ATRN", "ETRN"] = "TURN"
    domains: list[Domain] = []  # of ATRN, none: all that are ours there; of ETRN, none: the local ones
    user: UserName | None = None
    tls: Literal["none", "opportunistic", "required", "verified"] = "opportunistic"
    implicit: bool = False  # TLS from the first octet, as on port 465
    fingerprint: Fingerprint | None = None  # of its certificate, which must be this one
    outbound: bool = True
    every: Duration | None = None  # None: only when it is told to
    wait: Duration | None = None  # None: no line is kept open; else: with a sign of life that often


class Configuration(Section, frozen=True):
    """A whole configuration. Once loaded: paths absolute, None and "" of `hostname`, `domains`,
    `listen`, `listen[].tls`, `users.system` and `routes` replaced by what they stand for."""

    hostname: HostName | None = None
    domains: list[Domain] = []
    data: File = File("mailnode-data")
    postmaster: Target | None = None
    drain: Duration = Duration(10)
    listen: list[Listen] = []
    tls: Tls | None = None
    users: Users = field(default_factory=Users)
    mailboxes: Mailboxes = field(default_factory=Mailboxes)
    terminals: Terminals = field(default_factory=Terminals)
    aliases: dict[str, Targets] = {}
    lists: dict[str, Targets] = {}
    forward: dict[str, Target] = {}
    moved: dict[str, Target] = {}
    relay: Relay = field(default_factory=Relay)
    routes: dict[str, Route] = {}
    retry: Retry = field(default_factory=Retry)
    limits: Limits = field(default_factory=Limits)
    peer: list[Peer] = []
    dial: list[Dial] = []

    @property
    def host(self) -> str:
        """What this node calls itself."""
        if self.hostname is None:
            raise ValueError("the configuration has not been loaded")
        return self.hostname
