"""Notices: who is told, and that what they say can be read by people and programs alike."""

from __future__ import annotations

import email
from email.message import Message as Mail

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from mailnode.delivery.dsn import HEADER_SIZE, Report, build, header_of
from mailnode.delivery.notices import Notices
from mailnode.interfaces import ICustody, IIntake, INotices
from mailnode.mail import (
    NULL_PATH,
    Body,
    Client,
    Entry,
    Envelope,
    Mode,
    Origin,
    Path,
    Recipient,
    Reply,
    Result,
    Rights,
)

SMITH = Path("smith", "usc.example", ("relay.example",))
JONES = Recipient(Path("jones", "mit.example"), number=1)
BROWN = Recipient(Path("brown", "mit.example"), number=2)
OWNER = Path("staff-owner", "mit.example")
POSTMASTER = Path("root", "mit.example")
UNKNOWN = Result.failed(Reply(550, ("No such user", "go away"), "5.1.1"), "mx.mit.example")
BUSY = Result.later(Reply(451, "Try later"))
TEXT = b"From: smith@usc.example\r\nSubject: lunch\r\n\tat noon\r\n\r\nThe secret text.\r\n"
ARRIVED, NOW, UNTIL = 1_700_000_000.0, 1_700_000_600.0, 1_700_400_000.0


@implementer(IIntake)
class Intake:
    """Keeps what is submitted; `broken` lets the spool refuse."""

    def __init__(self, broken: bool = False) -> None:
        self.submitted: list[tuple[Envelope, bytes]] = []
        self.broken = broken

    def begin(
        self, client: Client, rights: Rights, mode: Mode, reverse_path: Path, size: int
    ) -> ICustody | Reply:
        raise AssertionError("a notice is submitted")

    def submit(self, envelope: Envelope, body: Body) -> Deferred[str]:
        if self.broken:
            return fail(OSError(28, "No space left on device"))
        self.submitted.append((envelope, b"".join(body.chunks())))
        return succeed("N2")


def entry(
    reverse_path: Path = SMITH, origin: Origin = Origin.NORMAL, text: bytes = TEXT, mode: Mode = Mode.MAIL
) -> Entry:
    return Entry("M1", Envelope(mode, reverse_path, (JONES, BROWN), origin=origin), Body.of(text), ARRIVED)


def notices(intake: Intake) -> Notices:
    return Notices("mit.example", POSTMASTER, intake, lambda: NOW, lambda: "N1")


def failed(of: Entry, results: dict[Recipient, Result]) -> list[tuple[Envelope, bytes]]:
    intake = Intake()
    assert notices(intake).failed(of, results).result is None
    return intake.submitted


def fields(octets: bytes) -> tuple[Mail, str, list[Mail], str]:
    """The notice taken apart: the whole, its words, its groups of fields, the returned header."""
    mail = email.message_from_bytes(octets)
    assert (
        mail.get_content_type() == "multipart/report" and mail.get_param("report-type") == "delivery-status"
    )
    parts = mail.get_payload()
    assert isinstance(parts, list)
    words, status, original = parts
    assert isinstance(words, Mail) and isinstance(status, Mail) and isinstance(original, Mail)
    assert [part.get_content_type() for part in (words, status, original)] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    groups = [group for group in status.get_payload() if isinstance(group, Mail) and group.keys()]
    header = original.get_payload(decode=True)
    assert isinstance(header, bytes)
    return mail, str(words.get_payload()), groups, header.decode("latin-1")


def test_the_door_is_provided() -> None:
    assert INotices.providedBy(notices(Intake()))


# ------------------------------------------------------------------ who is told


def test_a_notice_follows_the_reverse_path_with_its_route_and_has_none_itself() -> None:
    ((envelope, _),) = failed(entry(), {JONES: UNKNOWN})
    assert envelope == Envelope(Mode.MAIL, NULL_PATH, (Recipient(SMITH),), origin=Origin.NOTICE)


def test_one_notice_names_all_that_failed_and_no_other() -> None:
    ((_, octets),) = failed(entry(), {JONES: UNKNOWN, BROWN: BUSY})
    _, words, groups, _ = fields(octets)
    assert "jones@mit.example" in words and "brown" not in words
    assert len(groups) == 2


def test_nothing_failed_means_no_notice() -> None:
    assert failed(entry(), {JONES: BUSY, BROWN: Result.delivered(Reply(250))}) == []


def test_the_owner_of_a_list_hears_of_its_members() -> None:
    member = Recipient(Path("green", "x.example"), number=3, sender=OWNER)
    told = failed(entry(), {JONES: UNKNOWN, member: UNKNOWN})
    assert [envelope.recipients[0].path for envelope, _ in told] == [SMITH, OWNER]
    assert b"green" not in told[0][1] and b"jones@" not in told[1][1]


@pytest.mark.parametrize(
    ("reverse_path", "origin"),
    [(SMITH, Origin.NOTICE), (NULL_PATH, Origin.NORMAL), (NULL_PATH, Origin.NOTICE)],
)
def test_a_failed_notice_goes_to_the_postmaster_once(reverse_path: Path, origin: Origin) -> None:
    member = Recipient(Path("green", "x.example"), number=3, sender=OWNER)
    ((envelope, octets),) = failed(
        entry(reverse_path, origin), {member if reverse_path.is_null else JONES: UNKNOWN}
    )
    assert envelope == Envelope(Mode.MAIL, NULL_PATH, (Recipient(POSTMASTER),), origin=Origin.LAST)
    assert b"comes to the postmaster" in octets


def test_a_failure_of_the_last_notice_is_dropped() -> None:
    assert failed(entry(NULL_PATH, Origin.LAST), {JONES: UNKNOWN}) == []


def test_a_spool_that_refuses_the_notice_is_reported() -> None:
    result = notices(Intake(broken=True)).failed(entry(), {JONES: UNKNOWN})
    failures: list[Failure] = []
    result.addErrback(failures.append)
    assert failures[0].check(OSError)


def test_a_body_that_cannot_be_read_does_not_keep_the_notice_back(tmp_path: object) -> None:
    lost = Entry("M1", entry().envelope, Body(10, None, f"{tmp_path}/missing"), ARRIVED)
    ((_, octets),) = failed(lost, {JONES: UNKNOWN})
    assert b"jones@mit.example" in octets


# ------------------------------------------------------------------ what it says


def test_the_header_of_a_notice() -> None:
    ((_, octets),) = failed(entry(), {JONES: UNKNOWN})
    mail, *_ = fields(octets)
    assert mail["From"] == "Mail Delivery System <MAILER-DAEMON@mit.example>"
    assert mail["To"] == "<smith@usc.example>"
    assert mail["Subject"] == "Mail could not be delivered"
    assert mail["Message-ID"] == "<N1@mit.example>"
    assert mail["Auto-Submitted"] == "auto-replied"
    assert mail["Date"] == "Tue, 14 Nov 2023 22:23:20 -0000"


def test_the_words_name_recipient_host_and_reply() -> None:
    ((_, octets),) = failed(entry(), {JONES: UNKNOWN})
    _, words, _, _ = fields(octets)
    assert (
        "<jones@mit.example>\r\n    Host mx.mit.example said:\r\n    550 5.1.1 No such user / go away"
        in words
    )


def test_the_fields_of_a_failure() -> None:
    alias = Recipient(
        JONES.path, number=1, original=Path("staff", "mit.example"), orcpt="rfc822;Staff@mit.example"
    )
    ((_, octets),) = failed(entry(), {alias: UNKNOWN})
    _, words, (message, recipient), _ = fields(octets)
    assert "<jones@mit.example> (sent to <staff@mit.example>)\r\n" in words
    assert dict(message.items()) == {
        "Reporting-MTA": "dns; mit.example",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 -0000",
    }
    assert dict(recipient.items()) == {
        "Original-Recipient": "rfc822;Staff@mit.example",
        "Final-Recipient": "rfc822; jones@mit.example",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.mit.example",
        "Diagnostic-Code": "smtp; 550 5.1.1 No such user / go away",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:23:20 -0000",
    }


def test_a_delay_says_until_when() -> None:
    intake = Intake()
    assert notices(intake).delayed(entry(), {JONES: BUSY, BROWN: UNKNOWN}, UNTIL).result is None
    ((envelope, octets),) = intake.submitted
    mail, words, (_, recipient), _ = fields(octets)
    assert envelope.origin is Origin.NOTICE and mail["Subject"] == "Mail is delayed and still being tried"
    assert recipient["Action"] == "delayed" and recipient["Status"] == "4.0.0"
    assert recipient["Will-Retry-Until"] == "Sun, 19 Nov 2023 13:20:00 -0000"
    assert "Sun, 19 Nov 2023 13:20:00" in words and "Remote-MTA" not in recipient


@pytest.mark.parametrize(
    ("reverse_path", "origin"), [(NULL_PATH, Origin.NORMAL), (SMITH, Origin.NOTICE), (SMITH, Origin.LAST)]
)
def test_nobody_is_told_that_a_notice_is_late(reverse_path: Path, origin: Origin) -> None:
    intake = Intake()
    assert notices(intake).delayed(entry(reverse_path, origin), {JONES: BUSY}, UNTIL).result is None
    assert intake.submitted == []


def test_a_send_that_reached_nobody_says_that_the_user_was_not_active() -> None:
    send = Recipient(JONES.path, Mode.SEND, 1)
    ((_, octets),) = failed(entry(mode=Mode.SEND), {send: Result.failed(Reply(450, "User not active now"))})
    words, _, original = email.message_from_bytes(octets).get_payload()
    assert isinstance(words, Mail) and isinstance(original, Mail)
    said = str(words.get_payload())
    assert "The user was not active" in said and "450 User not active now" in said
    # A line without a header is all that there is of it.
    assert original.get_content_type() == "message/rfc822" and b"The secret text." in octets


def test_a_recipient_that_was_said_without_original_has_none_in_the_fields() -> None:
    alias = Recipient(JONES.path, number=1, original=Path("staff", "mit.example"))
    ((_, octets),) = failed(entry(), {alias: UNKNOWN})
    _, words, (message, recipient), _ = fields(octets)
    assert "Original-Recipient" not in recipient and "Original-Envelope-Id" not in message
    assert "staff@mit.example" in words


def test_an_address_without_domain_is_ours() -> None:
    ((_, octets),) = failed(entry(Path("postmaster")), {Recipient(Path("postmaster")): UNKNOWN})
    mail, _, (_, recipient), _ = fields(octets)
    assert mail["To"] == "<postmaster@mit.example>"
    assert recipient["Final-Recipient"] == "rfc822; postmaster@mit.example"


def test_an_address_beyond_ascii_is_named_in_seven_bits() -> None:
    ((_, octets),) = failed(entry(), {Recipient(Path("jürgen", "mit.example")): UNKNOWN})
    _, _, (_, recipient), _ = fields(octets)
    assert recipient["Final-Recipient"] == "utf-8; j\\x{FC}rgen@mit.example"


# ------------------------------------------------------------- what is returned


def test_the_header_is_returned_and_not_the_text() -> None:
    ((_, octets),) = failed(entry(), {JONES: UNKNOWN})
    assert fields(octets)[3].rstrip() == "From: smith@usc.example\r\nSubject: lunch\r\n\tat noon"
    assert b"secret" not in octets


@pytest.mark.parametrize("text", [b"", b"Blah blah blah...\r\n", b"\r\nNote: x\r\n", b" Note: x\r\n"])
def test_a_message_without_header_has_none_to_return(text: bytes) -> None:
    assert header_of(text) == b""


def test_a_long_header_ends_at_a_whole_line() -> None:
    header = header_of(b"".join(b"X-%d: y\r\n" % number for number in range(9999)))
    assert HEADER_SIZE - 20 < len(header) <= HEADER_SIZE and header.endswith(b": y\r\n")


@pytest.mark.parametrize(
    "text", ["Subject: caf\xe9 \x00 =3D\r\nTo: x\r\n".encode("latin-1"), b"X: " + b"y" * 2000 + b"\r\n"]
)
def test_a_header_that_is_no_seven_bit_text_is_quoted(text: bytes) -> None:
    ((_, octets),) = failed(entry(text=text + b"\r\n"), {JONES: UNKNOWN})
    assert octets.isascii() and max(map(len, octets.split(b"\r\n"))) <= 998
    assert fields(octets)[3].rstrip("\r\n") == text.decode("latin-1").rstrip("\r\n")


def test_no_part_can_hold_the_boundary() -> None:
    report = Report(
        "N1", "h", SMITH, "failed", [(JONES, UNKNOWN)], b"X: --=_N1.0\r\nY: --=_N1.1\r\n", ARRIVED, NOW
    )
    assert email.message_from_bytes(build(report)).get_boundary() == "=_N1.2"


# ----------------------------------------------------------------------- laws

HOSTILE = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        ["\r\nBcc: x@y\r\n\r\n", "--=_N1.0", "\x1b]0;x\x07", "\x85\u2028", "x" * 3000, "x " * 900]
    ),
)
PATHS = st.builds(Path, HOSTILE, HOSTILE)
RESULTS = st.builds(
    lambda code, lines, status, host: Result.failed(Reply(code, tuple(lines), status), host),
    st.integers(400, 599),
    st.lists(HOSTILE, max_size=4),
    HOSTILE,
    HOSTILE,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.builds(Recipient, PATHS, st.sampled_from(Mode), original=PATHS), RESULTS), max_size=3
    ),
    PATHS,
    st.binary(max_size=300).map(lambda octets: header_of(b"X: " + octets + b"\r\n")),
    st.sampled_from(["failed", "delayed"]),
)
def test_whatever_comes_in_no_line_begins_where_a_stranger_says(
    results: list[tuple[Recipient, Result]], to: Path, header: bytes, action: str
) -> None:
    octets = build(Report("N1", "mit.example", to, action, results, header, ARRIVED, NOW, UNTIL))
    lines = octets.split(b"\r\n")
    assert all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in lines)
    assert all(32 <= octet < 127 or octet in b"\t\r\n" for octet in octets)
    mail, _, groups, _ = fields(octets)
    assert set(mail.keys()) == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type")
    }
    assert len(groups) == 1 + len(results)
    assert not mail.defects
