"""Intake: what it keeps of what was said, what it puts on top, what it refuses, and who hears of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from mailnode.custody import CAME_BACK, HEADER_TOO_LONG, LOOP, TAKEN_BEFORE
from mailnode.directory.directory import Directory
from mailnode.directory.users import NamedUsers
from mailnode.intake import Intake
from mailnode.interfaces import INotices, Results
from mailnode.mail import (
    PLAIN_TERMS,
    Client,
    Entry,
    Mode,
    Path,
    Recipient,
    Reply,
    Rights,
    Terms,
)
from mailnode.routing.routes import Routing
from mailnode.spool.memory import MemorySpool
from mailnode.terminals.memory import MemoryTerminals

NOW = 1_700_000_000.0
SMITH = Path("smith", "usc.example")
JONES = Path("jones", "mit.example")
HEADER = b"Date: now\r\nSubject: lunch\r\n"
ALL = Rights(modes=tuple(Mode), relay=True)
CLIENT = Client("192.0.2.1", "usc.example", extended=True)


@implementer(INotices)
class Notices:
    """Remembers whom it was to tell of success; `broken` lets the spool refuse."""

    def __init__(self) -> None:
        self.told: list[tuple[Entry, Results]] = []
        self.broken = False

    def failed(self, entry: Entry, results: Results) -> Deferred[None]:
        raise AssertionError("intake refuses, it does not send notices of failures")

    def delayed(self, entry: Entry, results: Results, until: float) -> Deferred[None]:
        raise AssertionError("nothing is late here")

    def succeeded(self, entry: Entry, results: Results) -> Deferred[None]:
        if self.broken:
            return fail(OSError(28, "No space left on device"))
        self.told.append((entry, results))
        return succeed(None)


def members(*names: str) -> tuple[tuple[str, Path], ...]:
    return tuple(("", Path(*name.split("@"))) for name in names)


def result(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addCallback(found.append)
    assert found, "the answer is late"
    return found[0]


class House:
    def __init__(self) -> None:
        self.spool = MemorySpool(lambda: NOW)
        self.terminals = MemoryTerminals(lambda: NOW)
        directory = Directory(
            [NamedUsers([("jones", ""), ("brown", "")])],
            aliases={
                "boss": members("jones@mit.example"),
                "both": members("jones@mit.example", "brown@mit.example"),
                "far": members("jones@mit.example", "jürgen@leaf.example"),
            },
            lists={"staff": members("jones@mit.example")},
            domains=["mit.example"],
        )
        routing = Routing("mit.example", ["mit.example"], directory)
        self.intake = Intake(
            "mit.example", routing, self.terminals, self.spool, lambda: NOW, max_hops=3, header_size=90_000
        )
        self.notices = self.intake.notices = Notices()

    def give(
        self,
        text: bytes | Iterable[bytes],
        *to: Path | Recipient,
        mode: Mode = Mode.MAIL,
        terms: Terms = PLAIN_TERMS,
        client: Client = CLIENT,
        sender: Path = SMITH,
        once: str = "",
    ) -> Reply:
        custody = self.intake.begin(client, ALL, mode, sender, 0, terms, once)
        assert not isinstance(custody, Reply)
        for it in to or (JONES,):
            it = it if isinstance(it, Recipient) else Recipient(it)
            assert custody.recipient(it.path, it.notify, it.orcpt).ok
        assert custody.open().code == 354
        for piece in (text,) if isinstance(text, bytes) else text:
            custody.write(piece)
        reply = result(custody.commit())
        assert isinstance(reply, Reply)
        return reply

    def taken(self) -> list[Entry]:
        entries: list[Entry] = result(self.spool.claim(9))
        return entries

    def one(self) -> Entry:
        (entry,) = self.taken()
        return entry

    def text(self) -> bytes:
        return b"".join(self.one().body.chunks())


@pytest.fixture
def house() -> House:
    return House()


# ------------------------------------------------------------------ what is kept


def test_what_was_said_of_notices_is_kept_with_the_message_and_with_each_recipient(house: House) -> None:
    brown = Path("brown", "mit.example")
    asked = Recipient(JONES, notify=("SUCCESS", "DELAY"), orcpt="rfc822;Jones@mit.example")
    assert house.give(HEADER, asked, brown, terms=Terms(ret="HDRS", envid="QQ 1")).ok
    entry = house.one()
    assert entry.envelope.terms == Terms(ret="HDRS", envid="QQ 1")
    assert [(it.notify, it.orcpt) for it in entry.envelope.recipients] == [
        (asked.notify, asked.orcpt),
        ((), ""),
    ]


def test_a_recipient_that_is_said_twice_counts_as_it_was_said_last(house: House) -> None:
    assert house.give(HEADER, Recipient(JONES, notify=("NEVER",), orcpt="rfc822;x"), JONES).ok
    (recipient,) = house.one().envelope.recipients
    assert (recipient.notify, recipient.orcpt) == ((), "")


@pytest.mark.parametrize(
    ("declared", "text", "kept"),
    [
        (Terms(eight_bit=True), b"plain", Terms()),
        (Terms(), b"caf\xe9", Terms(eight_bit=True)),
        (Terms(eight_bit=True), b"caf\xe9", Terms(eight_bit=True)),
        (Terms(binary=True), b"caf\xe9\0", Terms(binary=True)),
        (Terms(binary=True), b"plain", Terms(binary=True)),
    ],
)
def test_eight_bit_is_what_the_data_holds_unless_it_was_declared_binary(
    house: House, declared: Terms, text: bytes, kept: Terms
) -> None:
    assert house.give(HEADER + b"\r\n" + text + b"\r\n", terms=declared).ok
    assert house.one().envelope.terms == kept


NON_ASCII = Path("jürgen", "leaf.example")


@pytest.mark.parametrize(
    ("header", "sender", "to", "needed"),
    [
        (HEADER, SMITH, JONES, False),
        (HEADER, SMITH, NON_ASCII, True),
        (HEADER, NON_ASCII, JONES, True),
        (HEADER, SMITH, Path("far", "mit.example"), True),  # an alias that leads to such an address
        ("Subject: Grüße\r\n".encode(), SMITH, JONES, True),
        (b"X: " + b"y" * 70_000 + "\r\nSubject: Grüße\r\n".encode(), SMITH, JONES, True),
    ],
)
def test_smtputf8_is_kept_only_where_the_message_needs_it(
    house: House, header: bytes, sender: Path, to: Path, needed: bool
) -> None:
    text = header + "\r\nGrüße\r\n".encode()
    assert house.give(text, to, sender=sender, terms=Terms(eight_bit=True, utf8=True)).ok
    assert house.one().envelope.terms == Terms(eight_bit=True, utf8=needed)


def test_eight_bit_headers_of_a_client_that_did_not_say_smtputf8_are_no_smtputf8(house: House) -> None:
    assert house.give(b"Subject: caf\xe9\r\n\r\n").ok
    assert house.one().envelope.terms == Terms(eight_bit=True)


# ------------------------------------------------------------------ what goes on top


def test_the_trace_tells_how_the_message_came(house: House) -> None:
    client = Client("192.0.2.1", "usc.example", extended=True, tls=True, identity="smith")
    assert house.give(HEADER, terms=Terms(utf8=True), client=client).ok
    assert b"by mit.example with UTF8SMTPSA id " in house.text()


def test_a_submitted_message_gets_the_date_and_the_id_that_it_lacks(house: House) -> None:
    client = Client("192.0.2.1", "usc.example", extended=True, identity="smith", listener="submission")
    assert house.give([b"Subj", b"ect: lunch\r\n", b"To: x\r\n\r", b"\nAt noon?\r\n"], client=client).ok
    entry = house.one()
    text = b"".join(entry.body.chunks())
    trace, _, rest = text.partition(b"\r\nDate: ")
    assert trace.startswith(b"Received: ") and rest.count(b"Date: ") == 0
    assert rest.endswith(
        b"\r\nMessage-ID: <"
        + entry.id.encode()
        + b"@mit.example>\r\nSubject: lunch\r\nTo: x\r\n\r\nAt noon?\r\n"
    )


@pytest.mark.parametrize("listener", ["smtp", "lmtp"])
def test_mail_from_elsewhere_is_not_completed(house: House, listener: str) -> None:
    assert house.give(b"Subject: x\r\n\r\n", client=Client(extended=True, listener=listener)).ok
    assert b"Message-ID" not in house.text()


def test_a_submitted_message_that_has_them_or_whose_header_is_not_known_gets_none(house: House) -> None:
    client = Client(extended=True, listener="submission")
    long = b"X: " + b"y" * 70_000 + b"\r\n"
    for text in (
        [b"DATE: now\r\nMessage-Id: <x@y>\r\n\r\nx\r\n"],
        [long[:60_000], long[60_000:], b"Date: now\r\n\r\n"],
    ):
        assert house.give(text, client=client).ok
        octets, whole = house.text(), b"".join(text)
        trace = octets.removesuffix(whole)
        assert trace != octets and b"Message-ID" not in trace and b"Date" not in trace


def test_what_is_shown_on_a_terminal_is_the_message_without_our_fields(house: House) -> None:
    house.terminals.log_in("jones")
    client = Client(extended=True, listener="submission")
    assert house.give(b"Subject: x\r\n\r\nNow!\r\n", mode=Mode.SEND, client=client).ok
    ((*_, message),) = house.terminals.shown
    assert message.body == b"Subject: x\r\n\r\nNow!\r\n"


# ------------------------------------------------------------------ what is refused


def test_a_header_that_is_too_long_is_refused_and_leaves_nothing(house: House) -> None:
    line = b"X: " + b"y" * 995 + b"\r\n"
    assert house.give([line] * 90 + [b"\r\ntext\r\n"]).ok
    assert house.give([line] * 91 + [b"\r\ntext\r\n"]) == HEADER_TOO_LONG
    assert (HEADER_TOO_LONG.code, HEADER_TOO_LONG.status) == (552, "5.3.4")
    assert len(house.taken()) == 1


def test_a_text_may_be_as_long_as_it_likes(house: House) -> None:
    assert house.give([HEADER, b"\r\n", *[b"x" * 998 + b"\r\n"] * 200]).ok


def test_too_many_hops_are_a_loop(house: House) -> None:
    assert house.give(b"Received: x\r\n" * 3 + HEADER).ok
    assert house.give(b"Received: x\r\n" * 4 + HEADER) == LOOP


BACK = b"Delivered-To: Jones@mit.example\r\n" + HEADER


def test_a_message_that_comes_back_to_the_only_mailbox_is_refused_before_it_is_taken(house: House) -> None:
    assert house.give(BACK) == CAME_BACK
    assert house.give(BACK, JONES, Path("boss", "mit.example")) == CAME_BACK  # an alias for the same one
    assert CAME_BACK.status == "5.4.6" and house.taken() == []


@pytest.mark.parametrize("to", ["brown@mit.example", "both@mit.example", "jones@usc.example"])
def test_a_message_that_goes_elsewhere_besides_is_taken(house: House, to: str) -> None:
    assert house.give(BACK, Path(*to.split("@"))).ok
    assert len(house.taken()) == 1


# ------------------------------------------------------------------ who hears of it

SUCCESS = Recipient(JONES, notify=("SUCCESS",))


def told(house: House) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Address of each recipient that a success is told of, and the wishes of those in its place."""
    (one,) = house.notices.told
    return [(it.path.local, [heir.notify for heir, _ in how.forward]) for it, how in one[1].items()]


def test_mail_is_not_told_of_by_intake(house: House) -> None:
    assert house.give(HEADER, SUCCESS).ok and house.notices.told == []


@pytest.mark.parametrize("mode", [Mode.SEND, Mode.SOML])
def test_a_message_that_is_shown_at_once_is_told_of_if_that_was_asked_for(house: House, mode: Mode) -> None:
    house.terminals.log_in("jones")
    assert house.give(HEADER, mode=mode).ok and house.notices.told == []
    assert house.give(HEADER, SUCCESS, mode=mode, terms=Terms(envid="E1")).ok
    assert told(house) == [("jones", [])]
    ((entry, _),) = house.notices.told
    assert entry.envelope.terms.envid == "E1" and b"Subject: lunch" in entry.body.head()
    assert house.taken() == []


def test_one_who_gets_it_by_mail_is_told_of_by_dispatch(house: House) -> None:
    assert house.give(HEADER, SUCCESS, mode=Mode.SOML).ok
    assert house.give(HEADER, SUCCESS, mode=Mode.SAML).ok
    assert house.notices.told == []
    assert [it.notify for entry in house.taken() for it in entry.envelope.recipients] == [("SUCCESS",)] * 2


@pytest.mark.parametrize("mode", [Mode.SEND, Mode.SOML, Mode.SAML])
def test_a_name_that_was_expanded_here_is_told_of_and_its_members_are_not(house: House, mode: Mode) -> None:
    house.terminals.log_in("jones")
    both = Recipient(Path("both", "mit.example"), notify=("SUCCESS", "FAILURE"))
    assert house.give(HEADER, both, mode=mode).ok
    assert told(house) == [("both", [("FAILURE",), ("FAILURE",)])]
    spooled = house.one().envelope.recipients
    assert {it.notify for it in spooled} == {("FAILURE",)}
    assert {it.original for it in spooled} == {both.path}


def test_members_of_a_list_inherit_nothing(house: House) -> None:
    staff = Recipient(Path("staff", "mit.example"), notify=("SUCCESS",), orcpt="rfc822;x")
    assert house.give(HEADER, staff, mode=Mode.SAML).ok
    assert told(house) == [("staff", [()])]
    (member,) = house.one().envelope.recipients
    assert (member.notify, member.orcpt, member.sender) == ((), "", Path("postmaster", "mit.example"))


def test_a_notice_that_cannot_be_kept_does_not_bring_the_message_again(house: House) -> None:
    house.terminals.log_in("jones")
    house.notices.broken = True
    assert house.give(HEADER, SUCCESS, mode=Mode.SEND).ok
    assert len(house.terminals.shown) == 1


# ------------------------------------------------------------------ XONCE (docs/xonce.md)

HUB = Client("192.0.2.1", extended=True, turned=True, called="hub")


def test_a_transaction_that_was_taken_under_its_name_is_not_taken_again(house: House) -> None:
    first, second = (house.give(HEADER, client=HUB, once="abc-1") for _ in range(2))
    assert first.ok and first != TAKEN_BEFORE
    assert second == TAKEN_BEFORE
    assert len(house.taken()) == 1


@pytest.mark.parametrize(
    ("client", "once", "to"),
    [
        (HUB, "abc-2", JONES),
        (replace(HUB, called="other"), "abc-1", JONES),
        (Client("192.0.2.1", identity="hub2"), "abc-1", JONES),
        (Client("192.0.2.1", fingerprint="sha256:aa"), "abc-1", JONES),
        (Client("192.0.2.1"), "abc-1", JONES),
        (HUB, "abc-1", Path("brown", "mit.example")),  # who was refused the first time must not be lost
    ],
)
def test_another_name_client_or_recipient_is_another_transaction(
    house: House, client: Client, once: str, to: Path
) -> None:
    assert house.give(HEADER, client=HUB, once="abc-1").ok
    assert house.give(HEADER, to, client=client, once=once) != TAKEN_BEFORE
    assert len(house.taken()) == 2


def test_who_gives_no_name_may_say_the_same_thing_twice(house: House) -> None:
    assert TAKEN_BEFORE not in [house.give(HEADER, client=HUB) for _ in range(2)]
    assert len(house.taken()) == 2


def test_the_order_of_recipients_makes_no_other_transaction(house: House) -> None:
    brown = Path("brown", "mit.example")
    assert house.give(HEADER, JONES, brown, client=HUB, once="a").ok
    assert house.give(HEADER, brown, JONES, client=HUB, once="a") == TAKEN_BEFORE
