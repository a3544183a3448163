"""What a sender asks of notices (RFC 3461), and notices about internationalized mail (RFC 6533)."""

from __future__ import annotations

import base64
import email
import quopri
from email.message import Message as Mail

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from mailnode.delivery.dsn import Report, build, may_return, success
from mailnode.delivery.notices import FULL, Notices
from mailnode.interfaces import IIntake
from mailnode.mail import (
    NULL_PATH,
    PLAIN_TERMS,
    Body,
    Client,
    Entry,
    Envelope,
    Mode,
    Origin,
    Outcome,
    Path,
    Recipient,
    Reply,
    Result,
    Rights,
    Terms,
)

SMITH, OWNER = Path("smith", "usc.example"), Path("owner-staff", "mit.example")
JONES, JÜRGEN = Path("jones", "mit.example"), Path("jürgen", "mit.example")
POSTMASTER = Path("root", "mit.example")
UNKNOWN = Result.failed(Reply(550, "No such user", "5.1.1"), "mx.mit.example")
BUSY = Result.later(Reply(451, "Try later"))
DONE = Result.delivered(Reply(250, "Delivered to the mailbox", "2.0.0"))
TEXT = b"Subject: lunch\r\n\r\nThe secret text.\r\n"
NOW = 1_700_000_000.0
WORDS = ("SUCCESS", "FAILURE", "DELAY")


@implementer(IIntake)
class Intake:
    def __init__(self) -> None:
        self.submitted: list[tuple[Envelope, bytes]] = []
        self.broken = False

    def begin(
        self,
        client: Client,
        rights: Rights,
        mode: Mode,
        reverse_path: Path,
        size: int,
        terms: Terms = PLAIN_TERMS,
    ) -> Reply:
        raise AssertionError("a notice is submitted")

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        if self.broken:
            return fail(OSError(28, "No space left on device"))
        self.submitted.append((envelope, b"".join(body.chunks())))
        return succeed("N2")


class Desk:
    """Asks for all three notices about the same results; `sent` has what came of it."""

    def __init__(
        self,
        sender: Path = SMITH,
        terms: Terms = PLAIN_TERMS,
        text: bytes = TEXT,
        origin: Origin = Origin.NORMAL,
    ) -> None:
        self.intake = Intake()
        self.notices = Notices("mit.example", POSTMASTER, self.intake, lambda: NOW, lambda: "N1")
        self.entry = Entry("M1", Envelope(Mode.MAIL, sender, (), terms, origin), Body.of(text), NOW)

    def tell(self, *results: tuple[Recipient, Result]) -> list[tuple[Envelope, bytes]]:
        of, told = dict(results), []
        told += [self.notices.failed(self.entry, of), self.notices.delayed(self.entry, of, NOW + 9)]
        told += [self.notices.succeeded(self.entry, of)]
        assert [it.result for it in told] == [None, None, None]
        return self.intake.submitted


def asked(*notify: str, path: Path = JONES, orcpt: str = "", sender: Path | None = None) -> Recipient:
    return Recipient(path, number=1, notify=notify, orcpt=orcpt, sender=sender)


class Notice:
    """A notice taken apart without the help of a library that knows what is in it."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.mail = email.message_from_bytes(octets)
        boundary = f"\r\n--{self.mail.get_boundary()}".encode()
        pieces = octets.split(boundary)
        assert len(pieces) == 5 and pieces[4] == b"--\r\n"
        self.words, self.status, self.original = map(self._part, pieces[1:4])

    def _part(self, piece: bytes) -> tuple[str, str, bytes]:
        """Type, encoding and decoded octets."""
        header, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        fields = email.message_from_bytes(header + b"\r\n\r\n")
        encoding = fields.get("Content-Transfer-Encoding", "7bit")
        if encoding == "quoted-printable":
            body = quopri.decodestring(body)
        elif encoding == "base64":
            body = base64.b64decode(body, validate=False)
        return fields["Content-Type"], encoding, body

    @property
    def groups(self) -> list[dict[str, str]]:
        """The fields about the message, then those about each recipient."""
        text = self.status[2].decode().replace("\r\n ", " ")
        return [
            dict(line.split(": ", 1) for line in group.split("\r\n") if line)
            for group in text.split("\r\n\r\n")
            if group.strip()
        ]


def one(sent: list[tuple[Envelope, bytes]]) -> Notice:
    ((_, octets),) = sent
    return Notice(octets)


# ------------------------------------------------------------------ NOTIFY


@pytest.mark.parametrize(
    ("notify", "heard"),
    [
        ((), ["failed", "delayed"]),  # RFC 3461 4.1: as before there was any choice
        (("NEVER",), []),
        (("SUCCESS",), ["delivered"]),
        (("FAILURE",), ["failed"]),
        (("DELAY",), ["delayed"]),
        (("FAILURE", "DELAY"), ["failed", "delayed"]),
        (("DELAY", "SUCCESS", "FAILURE"), ["failed", "delayed", "delivered"]),
    ],
)
def test_nobody_hears_of_more_than_was_asked_for(notify: tuple[str, ...], heard: list[str]) -> None:
    found = []
    for result in (UNKNOWN, BUSY, DONE):
        found += [Notice(octets).groups[1]["Action"] for _, octets in Desk().tell((asked(*notify), result))]
    assert found == heard


def test_those_who_asked_are_told_of_apart_from_those_who_did_not() -> None:
    green = Recipient(Path("green", "mit.example"), number=2, notify=("NEVER",))
    brown = Recipient(Path("brown", "mit.example"), number=3)
    notice = one(Desk().tell((asked("FAILURE"), UNKNOWN), (green, UNKNOWN), (brown, DONE)))
    assert [group["Final-Recipient"] for group in notice.groups[1:]] == ["rfc822; jones@mit.example"]
    assert b"green" not in notice.octets and b"brown" not in notice.octets


@pytest.mark.parametrize("origin", [Origin.NOTICE, Origin.LAST])
def test_no_notice_tells_of_the_success_of_a_notice(origin: Origin) -> None:
    assert Desk(origin=origin).tell((asked("SUCCESS"), DONE)) == []
    assert Desk(NULL_PATH).tell((asked("SUCCESS"), DONE)) == []


def test_a_success_that_cannot_be_told_is_reported() -> None:
    desk = Desk()
    desk.intake.broken = True
    failures: list[object] = []
    desk.notices.succeeded(desk.entry, {asked("SUCCESS"): DONE}).addErrback(failures.append)
    assert len(failures) == 1


# ------------------------------------------------------------------ actions

HEIRS = {"all": ("FAILURE",), "list": (), "one": ("SUCCESS",)}
EXPANDED = {
    name: Result(
        Outcome.DELIVERED, Reply(250, "Went on"), forward=((asked(*notify), BUSY), (asked(*notify), DONE))
    )
    for name, notify in HEIRS.items()
}
RELAYED = Result.delivered(Reply(250, "ok", "2.6.0"), "mx.old.example")


@pytest.mark.parametrize(
    ("result", "action"),
    [
        (DONE, "delivered"),
        (RELAYED, "relayed"),
        (Result(Outcome.DELIVERED, Reply(250), "mx.new.example", dsn=True), ""),
        (EXPANDED["all"], "expanded"),
        (EXPANDED["list"], "delivered"),  # RFC 3464 2.3.3: "expanded" is not for lists
        (EXPANDED["one"], ""),
        (BUSY, ""),
        (UNKNOWN, ""),
        (Result(Outcome.HELD, Reply(250)), ""),
        (Result(Outcome.UNTRIED, Reply(250)), ""),
    ],
)
def test_the_action_says_how_far_a_message_has_come(result: Result, action: str) -> None:
    assert success(asked("SUCCESS"), result) == action
    for others in ((), ("NEVER",), ("FAILURE", "DELAY")):
        assert success(asked(*others), result) == ""


def test_a_delivery_is_told_of_with_its_status_and_the_header_alone() -> None:
    notice = one(Desk(terms=Terms(ret="FULL")).tell((asked(*WORDS), DONE)))
    assert notice.mail["Subject"] == "Mail was delivered" and notice.mail["Auto-Submitted"] == "auto-replied"
    assert notice.groups[1] == {
        "Final-Recipient": "rfc822; jones@mit.example",
        "Action": "delivered",
        "Status": "2.0.0",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:13:20 -0000",
    }
    assert b"<jones@mit.example>\r\n    Delivered to the mailbox.\r\n" in notice.words[2]
    assert notice.original == ("text/rfc822-headers", "7bit", b"Subject: lunch\r\n")


def test_a_relay_names_the_host_and_that_it_was_the_last_to_be_heard() -> None:
    notice = one(Desk().tell((asked(*WORDS), RELAYED)))
    assert notice.mail["Subject"] == "Mail was passed on"
    fields = notice.groups[1]
    assert (fields["Action"], fields["Status"]) == ("relayed", "2.6.0")
    assert fields["Remote-MTA"] == "dns; mx.old.example"
    assert fields["Diagnostic-Code"] == "smtp; 250 2.6.0 ok"
    assert b"passed on to host mx.old.example" in notice.words[2]


def test_an_alias_was_passed_on_and_a_list_has_it() -> None:
    alias, staff = (
        asked(*WORDS, path=Path("all", "mit.example")),
        asked(*WORDS, path=Path("staff", "mit.example")),
    )
    notice = one(Desk().tell((alias, EXPANDED["all"]), (staff, EXPANDED["list"])))
    assert [group["Action"] for group in notice.groups[1:]] == ["expanded", "delivered"]
    assert b"several addresses" in notice.words[2] and b"members of the mailing list" in notice.words[2]
    assert b"jones" not in notice.octets


# ------------------------------------------------------------------ ENVID and ORCPT


def test_the_name_of_the_transaction_comes_back_to_who_gave_it_as_it_was() -> None:
    for results in ((asked(*WORDS), UNKNOWN), (asked(*WORDS), BUSY), (asked(*WORDS), DONE)):
        notice = one(Desk(terms=Terms(envid="QQ  314+159=")).tell(results))
        assert notice.groups[0]["Original-Envelope-Id"] == "QQ  314+159="


def test_the_owner_of_a_list_and_the_postmaster_hear_nothing_of_it() -> None:
    desk = Desk(terms=Terms(envid="QQ314159", ret="FULL"))
    sent = desk.tell((asked(), UNKNOWN), (asked(sender=OWNER), UNKNOWN))
    mine, theirs = (Notice(octets) for _, octets in sent)
    assert mine.groups[0]["Original-Envelope-Id"] == "QQ314159" and mine.original[0] == "message/rfc822"
    assert "Original-Envelope-Id" not in theirs.groups[0] and theirs.original[0] == "text/rfc822-headers"
    assert b"QQ314159" not in sent[1][1]
    last = one(Desk(NULL_PATH, Terms(envid="QQ314159")).tell((asked(), UNKNOWN)))
    assert "Original-Envelope-Id" not in last.groups[0]


@pytest.mark.parametrize(
    ("orcpt", "plain", "international"),
    [
        ("rfc822;Bob@usc.example", "rfc822;Bob@usc.example", "rfc822;Bob@usc.example"),
        ("x400;/G=Bob /S=Green/", "x400;/G=Bob /S=Green/", "x400;/G=Bob /S=Green/"),
        ("utf-8;jürgen@mit.example", "utf-8;j\\x{FC}rgen@mit.example", "utf-8;jürgen@mit.example"),
        ("UTF-8;j\\x{FC}rgen@mit.example", "UTF-8;j\\x{FC}rgen@mit.example", "UTF-8;jürgen@mit.example"),
        ("utf-8;a b+c\\x{5C}d", "utf-8;a\\x{20}b\\x{2B}c\\x{5C}d", "utf-8;a b+c\\d"),
        ("utf-8;\\x{110000}\\x{D800}\\x{0A}", "utf-8;\\x{5C}x{110000}\\x{5C}x{D800}\\x{5C}x{0A}",
         "utf-8;\\x{110000}\\x{D800}\\x{0A}"),
        ("rfc822;a\r\nBcc: x\u202e", "rfc822;a??Bcc: x?", "rfc822;a??Bcc: x?"),
    ],
)  # fmt: skip
def test_the_original_recipient_is_named_as_the_notice_can_hold_it(
    orcpt: str, plain: str, international: str
) -> None:
    for terms, expected in ((Terms(), plain), (Terms(utf8=True), international)):
        notice = one(Desk(terms=terms).tell((asked(orcpt=orcpt), UNKNOWN)))
        assert notice.groups[1]["Original-Recipient"] == expected


# ------------------------------------------------------------------ RET


@pytest.mark.parametrize(
    ("ret", "returned"),
    [("", "text/rfc822-headers"), ("HDRS", "text/rfc822-headers"), ("FULL", "message/rfc822")],
)
def test_a_failed_message_goes_back_whole_only_to_who_wants_it(ret: str, returned: str) -> None:
    notice = one(Desk(terms=Terms(ret=ret)).tell((asked(), UNKNOWN)))
    assert notice.original[0] == returned
    assert (b"secret" in notice.octets) == (ret == "FULL")
    assert (b"The message is attached." in notice.words[2]) == (ret == "FULL")


def test_a_delay_never_brings_the_text_back() -> None:
    assert one(Desk(terms=Terms(ret="FULL")).tell((asked(), BUSY))).original[0] == "text/rfc822-headers"


def test_a_message_comes_back_octet_for_octet_up_to_a_size() -> None:
    line = b"y" * 62 + b"\r\n"
    for rows in (5, (FULL - len(TEXT)) // len(line)):
        text = TEXT + line * rows
        assert one(Desk(terms=Terms(ret="FULL"), text=text).tell((asked(), UNKNOWN))).original[2] == text
    text = TEXT + line * (FULL // len(line))
    assert len(text) > FULL
    notice = one(Desk(terms=Terms(ret="FULL"), text=text).tell((asked(), UNKNOWN)))
    assert notice.original == ("text/rfc822-headers", "7bit", b"Subject: lunch\r\n")


def test_an_eight_bit_message_comes_back_in_an_eight_bit_notice() -> None:
    text = TEXT + b"caf\xe9\r\n"
    ((envelope, octets),) = Desk(terms=Terms(eight_bit=True, ret="FULL"), text=text).tell((asked(), UNKNOWN))
    notice = Notice(octets)
    assert notice.original == ("message/rfc822", "8bit", text)
    assert notice.mail["Content-Transfer-Encoding"] == "8bit" and envelope.terms == Terms(eight_bit=True)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (TEXT + b"a\0b\r\n", Terms(ret="FULL")),
        (TEXT + b"a\nb\r\n", Terms(ret="FULL")),
        (TEXT + b"a\rb\r\n", Terms(ret="FULL")),
        (TEXT + b"no end", Terms(ret="FULL")),
        (TEXT + b"x" * 999 + b"\r\n", Terms(ret="FULL")),
        (TEXT, Terms(ret="FULL", binary=True)),
    ],
)
def test_what_no_part_of_a_message_can_hold_comes_back_as_its_header(text: bytes, terms: Terms) -> None:
    assert not may_return(text, terms)
    notice = one(Desk(terms=terms, text=text).tell((asked(), UNKNOWN)))
    assert notice.original == ("text/rfc822-headers", "7bit", b"Subject: lunch\r\n")


def test_a_message_that_holds_a_boundary_does_not_end_its_part() -> None:
    text = TEXT + b"--=_N1.0--\r\n--=_N1.1\r\n"
    notice = one(Desk(terms=Terms(ret="FULL"), text=text).tell((asked(), UNKNOWN)))
    assert notice.original[2] == text


# ------------------------------------------------------------------ RFC 6533

UTF8 = Terms(utf8=True, eight_bit=True)
GRÜSSE = "Subject: Grüße\r\n\r\nGrüße\r\n".encode()


def test_a_notice_about_internationalized_mail_has_the_parts_of_its_own() -> None:
    ((envelope, octets),) = Desk(terms=UTF8, text=GRÜSSE).tell((asked(path=JÜRGEN), UNKNOWN))
    notice = Notice(octets)
    assert notice.status[:2] == ("message/global-delivery-status", "quoted-printable")
    assert notice.groups[1]["Final-Recipient"] == "utf-8; jürgen@mit.example"
    assert (
        notice.words[0] == "text/plain; charset=utf-8" and "<jürgen@mit.example>" in notice.words[2].decode()
    )
    assert notice.original == ("message/global-headers", "quoted-printable", "Subject: Grüße\r\n".encode())
    # RFC 6533 4.5: whatever hosts are on the way back, seven bits pass them.
    assert octets.isascii() and envelope.terms == PLAIN_TERMS


def test_internationalized_mail_comes_back_whole_in_seven_bits() -> None:
    text = GRÜSSE * 1000
    terms = Terms(utf8=True, eight_bit=True, ret="FULL")
    ((envelope, octets),) = Desk(terms=terms, text=text).tell((asked(), UNKNOWN))
    notice = Notice(octets)
    assert notice.original == ("message/global", "base64", text)
    assert octets.isascii() and envelope.terms == PLAIN_TERMS


def test_a_notice_to_an_internationalized_address_needs_the_extension_itself() -> None:
    ((envelope, octets),) = Desk(JÜRGEN, UTF8).tell((asked(), UNKNOWN))
    assert envelope.recipients == (Recipient(JÜRGEN),)
    assert envelope.terms == Terms(eight_bit=True, utf8=True)
    assert "To: <jürgen@mit.example>\r\n".encode() in octets


def test_a_notice_about_other_mail_stays_within_seven_bits() -> None:
    notice = one(Desk(text=GRÜSSE).tell((asked(path=JÜRGEN), UNKNOWN)))
    assert notice.octets.isascii() and notice.status[:2] == ("message/delivery-status", "7bit")
    assert notice.groups[1]["Final-Recipient"] == "utf-8; j\\x{FC}rgen@mit.example"


# ------------------------------------------------------------------ laws

HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["\r\nBcc: x@y\r\n\r\n", "--=_N1.0", "\x85\u2028\u202e", "ü" * 1200, "\U0001f600" * 900, "x " * 900]
    ),
)
RECIPIENTS = st.builds(
    Recipient,
    st.builds(Path, HOSTILE, HOSTILE),
    original=st.none() | st.builds(Path, HOSTILE, HOSTILE),
    notify=st.just(WORDS),
    orcpt=HOSTILE | HOSTILE.map(lambda text: "utf-8;" + text),
)
RESULTS = st.builds(
    Result,
    st.just(Outcome.DELIVERED),
    st.builds(Reply, st.just(250), HOSTILE, HOSTILE),
    st.just("") | HOSTILE,
)
REPORTS = st.builds(
    Report,
    *(st.just("N1"), st.just("mit.example"), st.builds(Path, HOSTILE, HOSTILE)),
    st.sampled_from(["failed", "delayed", "succeeded"]),
    st.lists(st.tuples(RECIPIENTS, RESULTS), min_size=1, max_size=2),
    *(st.just(b"Subject: x\r\n"), st.just(NOW), st.just(NOW)),
    text=st.sampled_from([b"", TEXT, GRÜSSE]),
    terms=st.builds(Terms, utf8=st.booleans(), envid=HOSTILE),
)


@settings(max_examples=80, deadline=None)
@given(REPORTS)
def test_whatever_is_asked_for_no_line_begins_where_a_stranger_says(report: Report) -> None:
    octets = build(report)
    lines = octets.split(b"\r\n")
    assert all(len(line) <= 998 and not set(b"\r\n\0") & set(line) for line in lines)
    octets.decode()
    mail: Mail = email.message_from_bytes(octets)
    assert {*mail.keys()} - {"Content-Transfer-Encoding"} == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type")
    }
    assert len(Notice(octets).groups) == 1 + len(report.results)
    if not report.terms.utf8 and report.text != GRÜSSE:
        assert octets.isascii()
