"""The kinds of value that a configuration holds, and how each is read from what TOML gives.

Each kind is a type of its own, so that a section's annotation says what is written there; `decode`
reads any of them. A value that is wrong raises ValueError with words for the operator.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path as FilePath
from typing import Final

from mailnode.mail import Path
from mailnode.smtp.grammar import parse_domain, parse_named_mailbox
from mailnode.welcome import Welcome, read_welcome

TEN_YEARS: Final = 10 * 365 * 86400  # seconds; past it a duration is a slip of the pen
TLS_POLICIES: Final = ("none", "opportunistic", "required", "verified")
BEHIND_PROXIES: Final = ("tcp", "tcp6", "unix", "systemd")  # in which the PROXY header comes first
MEMBERS: Final = 1000  # addresses of one alias or list


class Duration(float):
    """Seconds, not negative. Written as a number of seconds, or `30s`, `5m`, `4h`, `5d`, `1h30m`."""


class Size(int):
    """Octets, more than 0. Written as a number, or with K, M or G for the powers of 1024."""


class Domain(str):
    """A domain or an address literal in lower case, ready for comparison."""

    __slots__ = ()


class HostName(str):
    """A domain as it is written: what this node calls itself."""

    __slots__ = ()


class Network(str):
    """A network or an address in the form of `ipaddress.ip_network`."""

    __slots__ = ()


class ServerEndpoint(str):
    """A Twisted server endpoint string."""

    __slots__ = ()


class ClientEndpoint(str):
    """A Twisted client endpoint string."""

    __slots__ = ()


class NextHop(str):
    """ "mx", or a Twisted client endpoint string."""

    __slots__ = ()


class Route:
    """Where mail for a domain goes: `to` is "mx", "hold", or a Twisted client endpoint string; `tls` is one
    of TLS_POLICIES. Written as a text, or as a table `{ to = "mx", tls = "verified" }`.
    """

    __slots__ = ("tls", "to")

    def __init__(self, to: str, tls: str = "opportunistic") -> None:
        self.to = to
        self.tls = tls

    def __repr__(self) -> str:
        return f"Route({self.to!r}, {self.tls!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Route) and (self.to, self.tls) == (other.to, other.tls)

    def __hash__(self) -> int:
        return hash((self.to, self.tls))


class UserName(str):
    """A name for a user or a peer: no part of it can mean anything in a path."""

    __slots__ = ()


class File(str):
    """A path in the file system; absolute once the configuration is loaded."""

    __slots__ = ()


class MaildirTemplate(str):
    """A path with {data}, {home} and {user}."""

    __slots__ = ()


class Fingerprint(str):
    """`sha256:` and 64 hexadecimal digits in lower case."""

    __slots__ = ()


class NamedUser:
    """A user of this node: `jones`, or `"Mark Crispin <Admin.MRC>"` with the full name for VRFY."""

    __slots__ = ("full_name", "name")

    def __init__(self, name: str, full_name: str = "") -> None:
        self.name = name
        self.full_name = full_name

    def __repr__(self) -> str:
        return f"NamedUser({self.name!r}, {self.full_name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedUser) and (self.name, self.full_name) == (other.name, other.full_name)

    def __hash__(self) -> int:
        return hash((self.name, self.full_name))


class Target:
    """One address that a name stands for; a path without a domain is a name of this node."""

    __slots__ = ("path", "phrase")

    def __init__(self, phrase: str, path: Path) -> None:
        self.phrase = phrase
        self.path = path

    def __repr__(self) -> str:
        return f"Target({self.phrase!r}, {str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and (self.phrase, self.path) == (other.phrase, other.path)

    def __hash__(self) -> int:
        return hash((self.phrase, self.path))


class Targets(tuple[Target, ...]):
    """The addresses that an alias or a list stands for. Written as a list, or as one text."""

    __slots__ = ()


# ------------------------------------------------------------------------ reading

_duration = re.compile(r"(?:[0-9]{1,12}+[smhdw])+\Z").match
_duration_parts = re.compile(r"([0-9]+)([smhdw])").findall
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_size = re.compile(r"([0-9]{1,15}+)([KMGkmg]?)\Z").match
_POWERS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_user_name = re.compile(r"(?!\.)[A-Za-z0-9._+-]{1,64}\Z").match
_fields = re.compile(r"\{([^{}]*)\}")
# What nobody needs to ask Twisted about.
_plain_server_endpoint = re.compile(r"tcp:(?:port=)?[0-9]{1,5}(?::interface=[0-9.]{1,15})?\Z", re.ASCII).match
_plain_client_endpoint = re.compile(
    r"tcp:(?:host=)?[A-Za-z0-9.-]{1,253}:(?:port=)?[0-9]{1,5}\Z", re.ASCII
).match
_fingerprint = re.compile(r"sha256:[0-9a-f]{64}\Z").match


def shown(value: object) -> str:
    """A value from the file for an error line: printable, at most 60 characters."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {shown(value)}")
    if not value or not value.isprintable():
        raise ValueError(f"expected a text of printable characters, got {shown(value)}")
    return value


def read_duration(value: object) -> Duration:
    if isinstance(value, str):
        if not _duration(value):
            raise ValueError(f"{shown(value)} is not a duration, such as 30s, 5m, 4h or 5d")
        seconds = float(sum(int(number) * _UNITS[unit] for number, unit in _duration_parts(value)))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < 1e15 else math.inf
    else:
        raise ValueError(f"expected a duration, such as 30s, 5m, 4h or 5d, got {shown(value)}")
    if not 0 <= seconds <= TEN_YEARS:  # not so for nan either
        raise ValueError(f"{shown(value)} is not a duration between 0 and ten years")
    return Duration(seconds)


def read_size(value: object) -> Size:
    if isinstance(value, str) and (match := _size(value)) is not None:
        octets = int(match[1]) * _POWERS[match[2].upper()]
    elif isinstance(value, int) and not isinstance(value, bool):
        octets = value
    else:
        raise ValueError(f"{shown(value)} is not a size, such as 64K, 50M or a number of octets")
    if not 0 < octets <= 1 << 40:
        raise ValueError(f"{shown(value)} is not a size between 1 octet and 1024G")
    return Size(octets)


def read_host_name(value: object) -> HostName:
    text = _text(value)
    if parse_domain(text) is None:
        raise ValueError(f"{shown(text)} is not a domain")
    return HostName(text)


def read_domain(value: object) -> Domain:
    return Domain(read_host_name(value).lower())


def read_network(value: object) -> Network:
    text = _text(value)
    try:
        return Network(ip_network(text))
    except ValueError as error:
        if "host bits" in str(error):
            wide = ip_network(text, strict=False)
            raise ValueError(f"{shown(text)} has bits set behind its mask, did you mean {wide}?") from None
        raise ValueError(f"{shown(text)} is not an address or a network") from None


def read_user_name(value: object) -> UserName:
    text = _text(value)
    if not _user_name(text):
        raise ValueError(f"{shown(text)} is not a user name: 1 to 64 of A-Z a-z 0-9 . _ + -, no dot first")
    return UserName(text)


def read_named_user(value: object) -> NamedUser:
    text = _text(value)
    if not text.endswith(">"):
        return NamedUser(read_user_name(text))
    phrase, _, name = text[:-1].rpartition("<")
    return NamedUser(read_user_name(name), phrase.strip().strip('"').strip())


def read_target(value: object) -> Target:
    text = _text(value)
    named = parse_named_mailbox(text, bare=True)
    if named is None:
        raise ValueError(f"{shown(text)} is neither an address nor a name")
    return Target(*named)


def read_targets(value: object) -> Targets:
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise ValueError("no address at all")
    if len(texts) > MEMBERS:
        raise ValueError(f"more than {MEMBERS} addresses")
    return Targets(read_target(text) for text in texts)


def read_maildir(value: object) -> MaildirTemplate:
    text = _text(value)
    wrong = [field for field in _fields.findall(text) if field not in ("data", "home", "user")]
    if wrong:
        raise ValueError(f"{shown('{' + wrong[0] + '}')} is none of {{data}}, {{home}}, {{user}}")
    if set("{}") & set(_fields.sub("", text)):
        raise ValueError("a brace without its other half")
    if "{user}" not in text and "{home}" not in text:
        raise ValueError("without {user} or {home} all users would share one mailbox")
    if "{home}" in text and not text.startswith("{home}"):
        raise ValueError("{home} is an absolute path, so it comes first")
    if "{data}" in text and not text.startswith("{data}"):
        raise ValueError("{data} is an absolute path, so it comes first")
    return MaildirTemplate(text)


def read_file(value: object) -> File:
    text = _text(value)
    return File(FilePath(text))


def read_fingerprint(value: object) -> Fingerprint:
    text = _text(value).lower()
    if not _fingerprint(text):
        raise ValueError(f"{shown(value)} is not sha256: and 64 hexadecimal digits")
    return Fingerprint(text)


def read_server_endpoint(value: object) -> ServerEndpoint:
    text = _text(value)
    kind, _, behind = text.partition(":")
    if kind == "haproxy" and behind.partition(":")[0] not in BEHIND_PROXIES:
        words = ", ".join(f"{one}:" for one in BEHIND_PROXIES)
        raise ValueError(f"haproxy: stands before one of {words} (for TLS there is the key tls)")
    _server_endpoint(text)
    return ServerEndpoint(text)


def read_client_endpoint(value: object) -> ClientEndpoint:
    text = _text(value)
    _client_endpoint(text)
    return ClientEndpoint(text)


def read_next_hop(value: object) -> NextHop:
    if value == "hold":
        raise ValueError("hold is no way to anywhere")
    return NextHop(_next_hop(value))


def read_route(value: object) -> Route:
    if not isinstance(value, dict):
        return Route(_next_hop(value))
    for key in value:
        if key not in ("to", "tls"):
            near = difflib.get_close_matches(str(key), ("to", "tls"), 1)
            raise ValueError(f"unknown key {shown(key)}" + (f", did you mean {near[0]}?" if near else ""))
    if "to" not in value:
        raise ValueError("the table has no key to")
    to, tls = _next_hop(value["to"]), value.get("tls", "opportunistic")
    if tls not in TLS_POLICIES:
        raise ValueError(f"tls: {shown(tls)} is none of {', '.join(TLS_POLICIES)}")
    if to == "hold" and "tls" in value:
        raise ValueError("tls is without effect where mail is held")
    if tls in ("required", "verified") and to.startswith("ssl:"):
        raise ValueError("ssl: verifies nobody; write tls:, or tcp: for STARTTLS")
    return Route(to, tls)


def _next_hop(value: object) -> str:
    text = _text(value)
    if text not in ("mx", "hold"):
        _client_endpoint(text)
    return text


def _server_endpoint(text: str) -> None:
    if not _plain_server_endpoint(text):
        from mailnode.configuration.endpoint_strings import check_server_endpoint

        check_server_endpoint(text)


def _client_endpoint(text: str) -> None:
    if not _plain_client_endpoint(text):
        from mailnode.configuration.endpoint_strings import check_client_endpoint

        check_client_endpoint(text)


_READERS: Final[dict[type, Callable[[object], object]]] = {
    Duration: read_duration,
    Size: read_size,
    Domain: read_domain,
    HostName: read_host_name,
    Network: read_network,
    ServerEndpoint: read_server_endpoint,
    ClientEndpoint: read_client_endpoint,
    NextHop: read_next_hop,
    Route: read_route,
    UserName: read_user_name,
    NamedUser: read_named_user,
    Target: read_target,
    Targets: read_targets,
    File: read_file,
    MaildirTemplate: read_maildir,
    Fingerprint: read_fingerprint,
    Welcome: read_welcome,
}


def decode(kind: type, value: object) -> object:
    """The `dec_hook` of msgspec for the kinds above. ValueError if the value is wrong."""
    if kind not in _READERS:
        raise NotImplementedError(f"no reader for {kind.__name__}")
    return _READERS[kind](value)
