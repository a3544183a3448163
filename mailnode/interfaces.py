"""The doors between rooms. A room imports these, never another room.

Every door has an in-memory implementation, so that a node can be built in a test without files.
`Eventually[T]` is a T or a Deferred of it: an answer that is at hand makes no Deferred.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from zope.interface import Attribute, Interface

from mailnode.found import Account as Account
from mailnode.found import Addresses as Addresses
from mailnode.found import Ambiguous as Ambiguous
from mailnode.found import Finding as Finding
from mailnode.found import Forward as Forward
from mailnode.found import Moved as Moved
from mailnode.found import Unknown as Unknown
from mailnode.mail import (
    PLAIN_TERMS,
    Body,
    Client,
    Credentials,
    Destination,
    Entry,
    Envelope,
    Hop,
    Letter,
    Mode,
    Path,
    Recipient,
    Reply,
    Result,
    Rights,
    Ruling,
    ScramKeys,
    Terms,
    Turn,
)
from mailnode.mail import Results as Results
from mailnode.queued import Attempt as Attempt
from mailnode.queued import QueuedMessage as QueuedMessage
from mailnode.queued import QueuedRecipient as QueuedRecipient
from mailnode.queued import RepeatedError as RepeatedError
from mailnode.queued import Selection as Selection
from mailnode.queued import Settlement as Settlement
from mailnode.shown import STRANGER as STRANGER
from mailnode.shown import Message as Message
from mailnode.shown import Standing as Standing
from mailnode.shown import Terminal as Terminal

if TYPE_CHECKING:  # a command that asks a node and prints what it says needs nothing of Twisted
    from twisted.internet.defer import Deferred

T = TypeVar("T")
Eventually: TypeAlias = "T | Deferred[T]"


# ------------------------------------------------------------------------ who may


class IAccess(Interface):
    """Who may do what. Never decides by what a client calls itself."""

    def rights(client: Client) -> Rights:
        """What `client` may do as it is now; asked again after AUTH and STARTTLS."""

    def authenticate(client: Client, credentials: Credentials) -> Deferred[str | Reply]:
        """The user or peer that `client` has proved to be, or the refusal: 535, or 454 when its host has
        failed too often lately. Same words and time for names that there are and that there are not."""

    def scram_keys(client: Client, name: str) -> Deferred[ScramKeys | Reply]:
        """The keys of `name` for SCRAM-SHA-256, or the refusal as `authenticate` gives it. For a name that
        has none: keys that no password fits, the same ones each time."""


# ------------------------------------------------------------------------ who is here


class IDirectory(Interface):
    """Who is here: users, aliases, lists, forwards. Names are found by look-up, never built into paths."""

    def lookup(local: str) -> Finding:
        """What a local part stands for. "postmaster" in any case is always found (RFC 5321 4.5.1)."""

    def find(text: str) -> Finding:
        """What a person's words stand for (VRFY, EXPN): a name as `lookup`, or a word of a full name."""

    def account(user: str) -> Account | None:
        """The account of a user that `lookup` named, None if it is gone."""


# ------------------------------------------------------------------------ where to


class IRouting(Interface):
    def route(path: Path, mode: Mode, rights: Rights) -> Ruling:
        """The reply to a RCPT for `path`, and its destinations. Pure: no look-up waits."""

    def is_held(host: str) -> bool:
        """Whether mail whose next host is `host` waits in the spool for somebody who fetches it."""

    def verify(text: str, rights: Rights) -> Reply:
        """The reply to VRFY (RFC 821 3.3, RFC 1123 5.2.3)."""

    def expand(text: str, rights: Rights) -> Reply:
        """The reply to EXPN (RFC 821 3.3)."""


@dataclass(frozen=True, slots=True)
class Exchanger:
    """A host that takes mail for a domain: a Twisted client endpoint string, its name for the log, and the
    name or address that its certificate has to be for where that is verified."""

    endpoint: str
    name: str
    tls_name: str = ""


class IExchange(Interface):
    def exchangers(hop: Hop) -> Deferred[Sequence[Exchanger] | Reply]:
        """The hosts to try, best first, or a 4xx or 5xx reply when there are none (RFC 5321 5.1)."""


# ------------------------------------------------------------------------ terminals


class ITerminals(Interface):
    """Who is logged in, and the way to their screens."""

    def logged_in(user: str | None = None) -> list[Terminal]:
        """The terminals of `user`, or of everybody. A fresh look each time."""

    def accepts(user: str, sender: Path, standing: Standing) -> bool:
        """Whether a message of `sender` to `user` would reach a terminal now, as far as can be told:
        `user` is there, and wants messages from there, and has not had too many."""

    def show(user: str, message: Message) -> Deferred[int]:
        """Writes to every accepting terminal of `user` once, if it is welcome; fires with how many were
        reached."""


# ------------------------------------------------------------------------ custody


class ICustody(Interface):
    """One transaction on its way into our custody. It ends with exactly one of `commit` and `abort`."""

    def recipient(path: Path, notify: tuple[str, ...] = (), orcpt: str = "") -> Reply:
        """The reply to a RCPT; the recipient is part of the transaction if it is positive. `notify` and
        `orcpt` are as in `Recipient`."""

    def open() -> Reply:
        """Makes ready for mail data: 354, or the 451 that refuses DATA."""

    def write(piece: bytes) -> Deferred[None] | None:
        """Takes more mail data. A Deferred asks the channel to read no further until it fires."""

    def commit(hurry: bool = True) -> Deferred[Reply]:
        """Takes custody; fires with the reply to the end of data once it is true. Never errbacks. Without
        `hurry` nobody waits for the reply yet."""

    def abort() -> None:
        """Forgets the transaction and leaves nothing behind. May be called in any state."""


class IIntake(Interface):
    """Takes custody of messages: the front door for strangers and for our own notices alike."""

    def begin(
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
        once: str = "",
    ) -> ICustody | Reply:
        """A transaction, or the 451 or 452 that refuses MAIL. `size` is the declared one (RFC 1870), or 0.
        One that was taken with the name `once` from this client is not taken again (docs/xonce.md)."""

    def submit(envelope: Envelope, body: Body) -> Deferred[str]:
        """Takes a message of our own (a notice) into the spool; fires with its id."""


# ------------------------------------------------------------------------ spool


NOT_HELD: Final[Mapping[str, float]] = MappingProxyType({})


class ISpoolDraft(Interface):
    """The body of a message on its way into the spool."""

    size: int = Attribute("octets written so far")
    arrived: float = Attribute("when it was begun: when its message arrives, seconds since the epoch")

    def write(piece: bytes) -> Deferred[None] | None:
        """Takes more octets. A Deferred asks for a pause until the disk has caught up."""

    def head() -> bytes:
        """The first octets written, up to 64 KiB."""

    def discard() -> None:
        """Forgets it and removes what is on disk."""


class ISpool(Interface):
    """Durable custody of messages (docs/spool.md has the table of states).

    A recipient is QUEUED (due at a time), LEASED (some dispatch has it in hand), HELD (waits for a
    peer), STOPPED (by an operator) or gone; a message is gone with its last recipient. Failures of the
    disk errback with OSError or a subclass; nothing is then acknowledged.
    """

    def new_id() -> str:
        """A new message id: sortable by time, safe in a file name and a header field."""

    def has_room(size: int) -> bool:
        """Whether a message of `size` octets can be taken now (452 if not); cheap, a second old at most."""

    def draft() -> ISpoolDraft:
        """A new empty draft."""

    def accept(
        id: str,
        envelope: Envelope,
        draft: ISpoolDraft,
        lease: bool,
        held: Mapping[str, float] = NOT_HELD,
        once: bytes = b"",
        hurry: bool = True,
    ) -> Deferred[Entry | None]:
        """Makes the message durable; fires after the commit. Recipients whose next host is in `held` (lower
        case) are HELD, and looked after at the time that it says, in seconds since the epoch. With `lease`
        the others are leased to us at once and handed over as an entry; without, they are QUEUED and due
        now. Errbacks with RepeatedError if a message was accepted under the key `once` before. Without
        `hurry` it may wait a moment for others."""

    def claim(limit: int) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with due recipients, the oldest due first."""

    def claim_held(
        domains: Sequence[str], limit: int, others: bool = False, but: Collection[str] = ()
    ) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with HELD recipients in `domains`, oldest first; with `others`,
        with HELD recipients in all domains but those, one domain after the other. None of those with the ids
        `but`."""

    def claim_overdue(limit: int) -> Deferred[list[Entry]]:
        """Leases up to `limit` messages with HELD recipients that somebody has to look after by now."""

    def waiting(domains: Collection[str], states: Collection[str]) -> Deferred[int]:
        """How many messages have recipients in `domains` that are in one of `states`."""

    def settle(settlement: Settlement) -> Deferred[None]:
        """Writes down results: DELIVERED and FAILED recipients go, LATER are QUEUED until due, HELD wait (and
        are looked after), UNTRIED are QUEUED and due now as if they had never been leased; `Result.forward`
        replaces a recipient by others in the same transaction."""

    def release_leases() -> Deferred[int]:
        """Puts everything LEASED back to QUEUED and due now, marked as recovered; only for the one
        dispatch of this spool, as it starts."""

    def next_due() -> Deferred[float | None]:
        """When the next QUEUED recipient is due, None if there is none."""

    def listing(selection: Selection, limit: int = 1000) -> Deferred[list[QueuedMessage]]:
        """Messages that match, oldest first."""

    def body(id: str) -> Deferred[Body | None]:
        """The body of a message, None if there is no such message."""

    def change(selection: Selection, action: str) -> Deferred[int]:
        """`retry` (due now), `hold` (STOPPED), `release` or `delete` for matching recipients that are not
        leased; fires with how many messages were changed."""

    def close() -> Deferred[None]:
        """Commits what is under way and stops."""


# ------------------------------------------------------------------------ delivery


class IMailbox(Interface):
    """The mailboxes of local users."""

    is_quick: bool = Attribute("whether a message is durable there so soon that its sender may wait for it")

    def deliver(
        user: str, entry: Entry, recipient: Recipient, reverse_path: Path, hurry: bool = False
    ) -> Deferred[Result]:
        """Stores the message durably in the mailbox of `user`; never errbacks. The path of `recipient` is
        the address that it has at last, behind all aliases. With `hurry` somebody waits for the result."""


class IShortWay(Interface):
    """From the front door to the mailbox, past the spool (docs/road.md)."""

    def deliver(entry: Entry, where: Destination) -> Deferred[Attempt] | None:
        """Puts a message that is in no spool into the mailbox `where` of its one recipient; None if it has to
        go by the spool. Never errbacks. Only if the result is DELIVERED is the message safe."""


class INotices(Interface):
    """Tells senders what became of their mail, as far as NOTIFY lets them hear of it (RFC 3461 4.1)."""

    def failed(entry: Entry, results: Results) -> Deferred[None]:
        """Sends the RFC 3464 notice about the FAILED of `results`; fires when it is in the spool."""

    def delayed(entry: Entry, results: Results, until: float) -> Deferred[None]:
        """Tells the sender that the LATER of `results` are still being tried, until a time."""

    def succeeded(entry: Entry, results: Results) -> Deferred[None]:
        """Tells the sender of those DELIVERED of `results` for whom SUCCESS was asked for: that they have
        it, or that a host or several addresses took it over; fires when the notice is in the spool."""


class ILetters(Interface):
    """What a Sender gives away, one letter after another: the same for a relay and for a turned line."""

    def next() -> Eventually[Letter | None]:
        """The next letter, None when there is none left."""

    def at_hand() -> Letter | None:
        """As `next`, but None where it would have to wait."""

    def settle(letter: Letter, results: Results, host: str) -> None:
        """What became of each recipient of a letter that `next` gave."""

    def returned(letter: Letter) -> None:
        """The channel ended before the letter could be given away: to be tried again."""

    def close() -> None:
        """The conversation is over; everything that `next` gave is settled or returned."""


class IRelay(Interface):
    """Mail for other hosts."""

    def deliver(hop: Hop, letter: Letter) -> Deferred[Results]:
        """Gives the letter to the next hop; never errbacks."""


class ISettling(Interface):
    def settle(entry: Entry, results: Results) -> Deferred[None]:
        """Writes down what became of leased recipients, sends the notices that are due, decides when
        those LATER are tried again. Fires when it is durable; keeps trying while the disk refuses."""


class IOutcomes(Interface):
    def told(entry: Entry, results: Results) -> None:
        """What became of recipients of a message for terminals, now that it is written down."""


class IDispatch(Interface):
    """Works the spool off."""

    def take(entry: Entry, attempt: Attempt | None = None) -> None:
        """An entry that was accepted and leased for us. `attempt` at its one recipient was begun before."""

    def has_room(patient: bool = False) -> bool:
        """Whether newly accepted mail should be leased to us at once. With `patient` it came over a line that
        somebody pays for by the minute: where it brings much, taking it all goes before delivering it."""

    def wake(patient: bool = False) -> None:
        """There may be something due; with `patient`, when the line has brought all that it had."""


# ------------------------------------------------------------------------ peering


class IHolding(Interface):
    """Mail that waits for the hosts that fetch it: how long it may, and who is there to take it at once."""

    def look(recipient: Recipient, arrived: float, warned: bool) -> float | None:
        """When somebody has to look after `recipient` if it is HELD: seconds since the epoch. None if it may
        not wait: a SEND that no open line takes now."""

    def keep(recipient: Recipient) -> float:
        """How long `recipient` may be HELD, in seconds from the arrival of its message."""

    def is_late(recipient: Recipient, arrived: float) -> bool:
        """Whether the sender should hear by now that `recipient` waits."""

    def arrived(hosts: Collection[str]) -> None:
        """Mail with these next hosts (lower case) is HELD now: open lines may take it."""


# In front of the identity of a client that has proved to hold an invitation. No name of a user or a peer
# has a colon in it.
INVITED: Final = "invitation:"


class IPairing(Interface):
    """Invitations of hosts that are to be peers."""

    def keys(identity: str) -> Deferred[ScramKeys | None]:
        """The keys of the invitation by which a client wants to prove itself, None if there is none."""

    def pair(client: Client, keys: ScramKeys) -> Deferred[Reply]:
        """Makes `keys` those of the peer that was invited, durably, and ends the invitation (250); or the
        refusal: 550 if it has ended, 451."""


class IPeering(Interface):
    """Mail held for peers, and the right to turn the line."""

    def grant(client: Client, turn: Turn) -> Eventually[ILetters | Reply]:
        """The mail for a client that says TURN or ATRN, or the refusal: 502 to TURN (RFC 821 3.8); 450, 451,
        453 to ATRN (RFC 2645 5.2.1)."""

    def start(client: Client, node: str) -> Eventually[Reply]:
        """The reply to `ETRN node` (RFC 1985 5); its queue is started if that is 250 to 253."""
