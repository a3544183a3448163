"""The nouns that cross rooms: paths, replies, envelopes, destinations, results.

Everything here is an immutable value. Nothing here does I/O except `Body.chunks`, which reads
the file that a large body lives in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

CHUNK: Final = 65536  # octets; also the size above which a body becomes a file


class Mode(Enum):
    """How a transaction was opened, and with it what success means (RFC 821 3.4)."""

    MAIL = "MAIL"  # to mailboxes
    SEND = "SEND"  # to terminals
    SOML = "SOML"  # to a terminal, or else the mailbox
    SAML = "SAML"  # to the mailbox, and the terminal besides

    @property
    def wants_terminal(self) -> bool:
        return self is not Mode.MAIL


# --------------------------------------------------------------------------- paths

# RFC 5321 4.1.2 Dot-string; whatever else a local part holds must be quoted.
_ATOM = r'[^\x00-\x20"(),.:;<>@\[\\\]\x7f]+'
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z")


class Path(Struct, frozen=True, gc=False, array_like=True):
    """A forward- or reverse-path (RFC 821 4.1.2): an optional source route and a mailbox.

    `local` is the meaning of the local part (quotes and backslashes removed), `domain` its domain
    or address literal as it was written, empty for `<postmaster>` and the null path `<>`.
    """

    local: str
    domain: str = ""
    route: tuple[str, ...] = ()

    @property
    def is_null(self) -> bool:
        """The null reverse-path `<>` of notices (RFC 1123 5.2.9)."""
        return not self.local and not self.domain

    @property
    def mailbox(self) -> str:
        """`local@domain` without route and brackets, the local part quoted where it must be."""
        return _mailbox(self.local, self.domain)

    @property
    def next_host(self) -> str:
        """The host that the message goes to next: the first of the route, else the domain."""
        return self.route[0] if self.route else self.domain

    def without_first_hop(self) -> Path:
        """The path with the first host of its route taken off (RFC 821 3.6)."""
        return Path(self.local, self.domain, self.route[1:])

    def through(self, *hosts: str) -> Path:
        """The path with `hosts` put in front of its route (RFC 821 3.6)."""
        if self.is_null:  # a notice has no way back, so none is recorded
            return self
        return Path(self.local, self.domain, (*hosts, *self.route))

    def __str__(self) -> str:
        mailbox = _mailbox(self.local, self.domain)
        return f"<{','.join('@' + host for host in self.route)}:{mailbox}>" if self.route else f"<{mailbox}>"


@lru_cache(maxsize=1024)  # of those who write and are written to again and again
def _mailbox(local: str, domain: str) -> str:
    if not local and not domain:
        return ""
    if not _DOT_STRING.match(local):
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{local}@{domain}" if domain else local


NULL_PATH: Final = Path("")


# ------------------------------------------------------------------------- replies


class Reply(Struct, frozen=True, gc=False, array_like=True):
    """One reply of a receiver: a code, one or more lines of text, and a status (RFC 3463, "5.1.1"), which
    goes over the wire only to a client that was told ENHANCEDSTATUSCODES (RFC 2034)."""

    code: int
    text: str | tuple[str, ...] = ""
    status: str = ""

    @property
    def ok(self) -> bool:
        return self.code < 400

    @property
    def transient(self) -> bool:
        return 400 <= self.code < 500

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text

    def encode(self, enhanced: bool = False) -> bytes:
        """The octets of this reply; only printable ASCII leaves us, whatever the text holds."""
        if isinstance(self.text, str) and self.code != 334:  # a challenge is said once
            return _encode_again(self, enhanced)
        return _encode(self, enhanced)

    def __str__(self) -> str:
        text = self.text if isinstance(self.text, str) else " / ".join(self.text)
        return f"{self.code} {self.status} {text}" if self.status else f"{self.code} {text}"


def _encode(reply: Reply, enhanced: bool) -> bytes:
    prefix = f"{reply.status} " if enhanced and reply.status else ""
    if isinstance(reply.text, str):
        return _printable(f"{reply.code} {prefix}{reply.text}") + b"\r\n"
    lines = reply.lines or ("",)
    rows = [f"{reply.code}-{prefix}{line}" for line in lines[:-1]]
    rows.append(f"{reply.code} {prefix}{lines[-1]}")
    return b"".join(_printable(row) + b"\r\n" for row in rows)


_encode_again = lru_cache(maxsize=128)(_encode)  # nearly all that is said is said again and again


def _printable(row: str) -> bytes:
    octets = row.encode("ascii", "replace")
    if row.isprintable():
        return octets
    return bytes(octet if 32 <= octet < 127 else 63 for octet in octets)  # 63 is "?"


# ----------------------------------------------------------------------- a message


class Body(Struct, frozen=True, gc=False, array_like=True):
    """Mail data, dots unstuffed, lines ended by CRLF: in memory up to `CHUNK` octets, else a file."""

    size: int  # octets
    data: bytes | None = None
    file: str = ""

    @classmethod
    def of(cls, data: bytes) -> Body:
        return cls(len(data), data)

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        """The octets in pieces of at most `size`. OSError if the file cannot be read."""
        if self.data is not None:
            for start in range(0, len(self.data), size):
                yield self.data[start : start + size]
            return
        with open(self.file, "rb", buffering=0) as file:
            while piece := file.read(size):
                yield piece

    def head(self, size: int = CHUNK) -> bytes:
        """The first octets, at most `size`."""
        return next(self.chunks(size), b"")


class Recipient(Struct, frozen=True, gc=False, array_like=True):
    """One recipient of an envelope. `mode`, what is still to be done for it, may differ from the envelope's:
    a SOML whose terminal was not reached is spooled as MAIL. `number` names it within a spooled message."""

    path: Path
    mode: Mode = Mode.MAIL
    number: int = 0
    attempts: int = 0
    original: Path | None = None  # the address before aliases and lists, for notices
    sender: Path | None = None  # reverse-path of its own: the owner of the list it came by
    notify: tuple[str, ...] = ()  # NEVER, or any of SUCCESS FAILURE DELAY (RFC 3461 4.1); empty: not said
    orcpt: str = ""  # the original recipient, "rfc822;bob@usc.example", decoded (RFC 3461 4.2)

    def __hash__(self) -> int:  # enough to tell those of a message apart; all fields cost twenty calls
        return hash((self.number, self.path.local, self.path.domain))


class Origin(Enum):
    """Why a message exists; it decides who hears of its failure (RFC 5321 6.1)."""

    NORMAL = 0
    NOTICE = 1  # our notice to a sender; if it fails, the postmaster gets it
    LAST = 2  # that one; if it fails too, it is logged and dropped


class Terms(Struct, frozen=True, gc=False, array_like=True):
    """What MAIL said of the message besides its reverse-path; every host on the way has to keep it."""

    eight_bit: bool = False  # BODY=8BITMIME (RFC 6152)
    binary: bool = False  # BODY=BINARYMIME (RFC 3030)
    utf8: bool = False  # SMTPUTF8 (RFC 6531)
    ret: str = ""  # FULL or HDRS: how much of it a notice returns (RFC 3461 4.3)
    envid: str = ""  # the sender's name for the transaction, decoded (RFC 3461 4.4)


PLAIN_TERMS: Final = Terms()


class Envelope(Struct, frozen=True, gc=False, array_like=True):
    """What a transaction says about a message besides its body."""

    mode: Mode
    reverse_path: Path
    recipients: tuple[Recipient, ...]
    terms: Terms = PLAIN_TERMS
    origin: Origin = Origin.NORMAL


class Entry(Struct, frozen=True, gc=False, array_like=True):
    """A spooled message with those of its recipients that the holder of the entry has leased."""

    id: str
    envelope: Envelope  # its recipients are the leased ones only
    body: Body
    arrived: float  # seconds since the epoch
    warned: bool = False  # the sender was told of a delay
    recovered: bool = False  # an earlier holder may have delivered it without settling


# -------------------------------------------------------------------- destinations


class Local(Struct, frozen=True, gc=False, array_like=True):
    """A user of this host: the mailbox, the terminals, or both, as the recipient's mode says."""

    user: str


class Hop(Struct, frozen=True, gc=False, array_like=True):
    """Another host: "mx" for the mail exchangers of `domain`, else a Twisted client endpoint string.

    `tls`: "opportunistic" where it is offered; "required", and "verified" by certificate, or mail waits;
    "none".
    """

    domain: str
    target: str = "mx"
    tls: str = "opportunistic"


class Held(Struct, frozen=True, gc=False, array_like=True):
    """Waits in the spool until the peer that serves `domain` fetches it, or an operator releases it."""

    domain: str


Place: TypeAlias = Local | Hop | Held


class Destination(Struct, frozen=True, gc=False, array_like=True):
    """One place that a recipient leads to.

    `path` is the forward-path to hand on there; `via` are our names that were taken off its source
    route and go in front of the reverse-path; `sender` replaces the reverse-path (a list's owner).
    """

    place: Place
    path: Path
    via: tuple[str, ...] = ()
    sender: Path | None = None

    def reverse_path(self, reverse_path: Path) -> Path:
        if self.sender is not None and not reverse_path.is_null:
            return self.sender
        return reverse_path.through(*self.via) if self.via else reverse_path


class Ruling(Struct, frozen=True, gc=False, array_like=True):
    """What routing says of a recipient: the reply to its RCPT, and where it leads (empty if refused)."""

    reply: Reply
    destinations: tuple[Destination, ...] = ()


# ------------------------------------------------------------------------- results


class Outcome(Enum):
    DELIVERED = "delivered"
    LATER = "later"
    FAILED = "failed"
    HELD = "held"
    UNTRIED = "untried"  # back in the queue as it was: the node goes down, or the route has changed


class Handover(NamedTuple):
    """How the next host took a message for a terminal: by which verb, and its reply to RCPT (RFC 821 F.6)."""

    verb: Mode
    reply: Reply


class Result(Struct, frozen=True, gc=False, array_like=True):
    """How the delivery to one recipient ended, with the reply that says why.

    `host` is the remote host that gave the reply, empty if it is our own. `forward` carries what is
    left of a recipient that led to several destinations: new recipients which take its place.
    """

    outcome: Outcome
    reply: Reply
    host: str = ""
    forward: tuple[tuple[Recipient, Result], ...] = ()
    dsn: bool = False  # the next host has taken over what NOTIFY asks for (RFC 3461 5.2.1)
    handover: Handover | None = None  # of a message for a terminal that another host has taken

    @classmethod
    def delivered(cls, reply: Reply, host: str = "") -> Result:
        return cls(Outcome.DELIVERED, reply, host)

    @classmethod
    def later(cls, reply: Reply, host: str = "") -> Result:
        return cls(Outcome.LATER, reply, host)

    @classmethod
    def failed(cls, reply: Reply, host: str = "") -> Result:
        return cls(Outcome.FAILED, reply, host)

    @classmethod
    def of(cls, reply: Reply, host: str = "") -> Result:
        """The result that a reply means: 2xx delivered, 4xx later, all else failed (RFC 821 App. E)."""
        if 200 <= reply.code < 300:
            return cls(Outcome.DELIVERED, reply, host)
        return cls(Outcome.LATER if reply.transient else Outcome.FAILED, reply, host)


Results: TypeAlias = Mapping[Recipient, Result]


class Letter(Struct, frozen=True, gc=False, array_like=True):
    """A message for a Sender to give away, with the recipients that belong to this conversation."""

    mode: Mode
    reverse_path: Path
    recipients: tuple[Recipient, ...]
    body: Body
    terms: Terms = PLAIN_TERMS
    id: str = ""


# --------------------------------------------------------------------- connections


class Client(Struct, frozen=True, gc=False, array_like=True):
    """What is known of the host at the other end of a channel while it leads."""

    address: str = ""  # IP address, empty for a local socket
    hello: str = ""  # what it called itself; a claim, never an identity
    extended: bool = False  # it said EHLO
    identity: str = ""  # the user or peer that it proved to be
    tls: bool = False
    fingerprint: str = ""  # "sha256:..." of a verified client certificate
    listener: str = "smtp"  # role of the listener it came in by
    turned: bool = False  # it leads because we called it and turned the line
    called: str = ""  # then the name by which we called it


class Rights(Struct, frozen=True, gc=False, array_like=True):
    """What a client may do. The EHLO keywords follow from it."""

    modes: tuple[Mode, ...] = (Mode.MAIL,)
    relay: bool = False
    verify: bool = False
    expand: bool = False
    turn: bool = False  # it is a peer that has proved itself: TURN, ATRN, XWAIT
    atrn: bool = False  # ATRN is named to it, so that it may prove itself (RFC 2645 4)
    etrn: bool = False
    pair: bool = False  # it holds an invitation: XPAIR, and nothing else
    once: bool = False  # it may name its transactions, so that none is taken twice (docs/xonce.md)
    mechanisms: tuple[str, ...] = ()  # SASL mechanisms it may use now
    must_authenticate: bool = False  # nothing is taken from it before AUTH (RFC 6409 4.3)


class Turn(Struct, frozen=True, gc=False, array_like=True):
    """How a client asks for the line to be turned."""

    atrn: bool = False  # by ATRN (RFC 2645), else TURN (RFC 821 3.8)
    domains: tuple[str, ...] = ()  # lower case; empty: all that are its
    wait: float = 0.0  # seconds: the line stays open, with a sign of life that often (docs/xwait.md)


# --------------------------------------------------------------------- credentials


class Password(Struct, frozen=True, gc=False, array_like=True):
    """A name and its secret as they were said (PLAIN, LOGIN)."""

    name: str
    secret: str

    def __repr__(self) -> str:
        return f"Password(name={self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name)]


class CramDigest(Struct, frozen=True, gc=False, array_like=True):
    """CRAM-MD5 (RFC 2195): the keyed digest, in hexadecimal, of our challenge."""

    name: str
    challenge: bytes
    digest: str


class ScramProof(Struct, frozen=True, gc=False, array_like=True):
    """SCRAM-SHA-256 (RFC 7677): the proof was `right` against the keys of `name`, or not."""

    name: str
    right: bool


class External(Struct, frozen=True, gc=False, array_like=True):
    """EXTERNAL (RFC 4422 Appendix A): whoever the client certificate belongs to; `name` is who the client
    wants to be, empty if it does not say."""

    name: str = ""


Credentials: TypeAlias = Password | CramDigest | ScramProof | External


class ScramKeys(Struct, frozen=True, gc=False, array_like=True):
    """What a server keeps of a secret for SCRAM (RFC 5802 3): the secret cannot be had from it."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


OURS: Final = Rights(modes=tuple(Mode), relay=True)  # of what is in the spool: intake has let it in
