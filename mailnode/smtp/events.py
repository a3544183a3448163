"""What the two machines say to the channel that holds them.

A Receiver's stream is flat: replies to send, questions to answer, pieces of mail data, and the three
ways in which its part on the channel ends. A Sender's says what to write and what became of letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

from mailnode.mail import PLAIN_TERMS, Credentials, Letter, Mode, Path, Reply, Results, ScramKeys, Terms, Turn

# ------------------------------------------------------------------------ Receiver


class AskSender(NamedTuple):
    """MAIL, SEND, SOML or SAML: may this transaction begin?"""

    mode: Mode
    reverse_path: Path
    size: int  # declared octets, 0 if not
    terms: Terms = PLAIN_TERMS
    once: str = ""  # the client's name for this transaction (docs/xonce.md)


class AskRecipient(NamedTuple):
    path: Path
    notify: tuple[str, ...] = ()  # as in `mail.Recipient`
    orcpt: str = ""


class AskData(NamedTuple):
    """May the mail data come? 354 or a refusal."""


class AskCustody(NamedTuple):
    """The mail data has ended: is it safe?"""


class AskVerify(NamedTuple):
    text: str


class AskExpand(NamedTuple):
    text: str


class AskCredentials(NamedTuple):
    credentials: Credentials


class AskScramKeys(NamedTuple):
    """The keys of a name for SCRAM: `ScramKeys`, or the reply that ends the exchange."""

    name: str


class AskTurn(NamedTuple):
    turn: Turn = Turn()


class AskStart(NamedTuple):
    """ETRN: the queue for `node` is to be started."""

    node: str


class AskPair(NamedTuple):
    """XPAIR: `keys` are to be the client's from now on."""

    keys: ScramKeys


Ask: TypeAlias = (
    AskSender
    | AskRecipient
    | AskData
    | AskCustody
    | AskVerify
    | AskExpand
    | AskCredentials
    | AskScramKeys
    | AskTurn
    | AskStart
    | AskPair
)
Answer: TypeAlias = Reply | ScramKeys


class MailData(NamedTuple):
    piece: bytes


class Discarded(NamedTuple):
    """The transaction is over without custody: whatever was kept of it must go."""


class Turned(NamedTuple):
    """Our 250 to TURN or ATRN is said: this host is the sender now."""


class StartTls(NamedTuple):
    """TLS begins now; the machine is told `secured` when the channel has it."""


class Closed(NamedTuple):
    """The last reply is said: close the channel."""


ReceiverEvent: TypeAlias = Reply | Ask | MailData | Discarded | Turned | StartTls | Closed


# -------------------------------------------------------------------------- Sender


class Write(NamedTuple):
    octets: bytes


class LetterWanted(NamedTuple):
    """The Sender is ready for the next letter, or for None. `at_hand`: others are under way, so it takes one
    that is there now, and waits for none."""

    at_hand: bool = False


class WriteBody(NamedTuple):
    """Stream the body, then say `body_written`. As a chunk: octet for octet; else with the dots stuffed,
    and its end."""

    letter: Letter
    chunk: bool = False


class Settled(NamedTuple):
    letter: Letter
    results: Results


class Ending(Enum):
    DONE = "done"  # all letters were offered, QUIT was said
    TURNED = "turned"  # the peer said 250 to TURN: it is the sender now
    REFUSED = "refused"  # the peer would not talk to us: greeting, HELO, AUTH
    INSECURE = "insecure"  # no TLS came about, or not the one that was wanted
    BROKEN = "broken"  # the channel broke, timed out or the protocol was broken


@dataclass(frozen=True, slots=True)
class Ended:
    """The Sender's part is over; `reply` says why, or what TURN was answered."""

    ending: Ending
    reply: Reply
    wait: float = 0.0  # seconds between signs of life that the peer has promised


SenderEvent: TypeAlias = Write | LetterWanted | WriteBody | StartTls | Settled | Ended
