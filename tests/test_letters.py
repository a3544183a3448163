"""Letters: what goes to one host in one transaction, and what of a sender's wishes goes with it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mailnode.letters import Addressed, address, inherited, terms_of
from mailnode.mail import (
    NULL_PATH,
    PLAIN_TERMS,
    Body,
    Destination,
    Entry,
    Envelope,
    Hop,
    Mode,
    Path,
    Recipient,
    Reply,
    Result,
    Terms,
)

SMITH, OWNER = Path("smith", "usc.example"), Path("owner-staff", "mit.example")
STAFF, JONES = Path("staff", "mit.example"), Path("jones", "leaf.example")
HOP = Hop("leaf.example")
ASKED = Terms(ret="HDRS", envid="QQ314159")


def entry(*recipients: Recipient, terms: Terms = PLAIN_TERMS, sender: Path = SMITH) -> Entry:
    return Entry("M1", Envelope(Mode.MAIL, sender, recipients, terms), Body.of(b"x\r\n"), 0.0)


def addressed(of: Entry, *destinations: Destination) -> list[Addressed]:
    return address(of, zip(of.envelope.recipients, destinations, strict=True))


def to(path: Path, sender: Path | None = None, via: tuple[str, ...] = ()) -> Destination:
    return Destination(HOP, path, via, sender)


# ------------------------------------------------------------------ RFC 3461 5.2.7

MANY = ("SUCCESS", "FAILURE", "DELAY")


@pytest.mark.parametrize(
    ("notify", "several", "sender", "expected"),
    [
        ((), False, None, ()),
        ((), True, None, ()),
        (MANY, False, None, MANY),  # 5.2.7.2: an alias with one address
        (("NEVER",), False, None, ("NEVER",)),
        (MANY, True, None, ("FAILURE", "DELAY")),  # 5.2.7.3 (c): one with several
        (("FAILURE",), True, None, ("FAILURE",)),
        (("NEVER",), True, None, ("NEVER",)),
        (("SUCCESS",), True, None, ("NEVER",)),  # an empty wish would be one for failures
        (MANY, False, OWNER, ()),  # 5.2.7.1: a list
        (("NEVER",), True, OWNER, ()),
    ],
)
def test_a_wish_for_notices_goes_on_to_one_place_but_not_for_success_to_many_or_anything_to_a_list(
    notify: tuple[str, ...], several: bool, sender: Path | None, expected: tuple[str, ...]
) -> None:
    recipient = Recipient(STAFF, notify=notify)
    assert inherited(recipient, to(JONES, sender), several, PLAIN_TERMS)[0] == expected


@pytest.mark.parametrize(
    ("recipient", "terms", "expected"),
    [
        (Recipient(STAFF, notify=("NEVER",)), PLAIN_TERMS, "rfc822;staff@mit.example"),
        (Recipient(STAFF), Terms(envid="x"), "rfc822;staff@mit.example"),
        (Recipient(STAFF), Terms(ret="FULL"), "rfc822;staff@mit.example"),
        (Recipient(STAFF), PLAIN_TERMS, ""),
        (Recipient(JONES, notify=MANY), ASKED, ""),
        (Recipient(JONES.through("mit.example"), notify=MANY), ASKED, ""),
        (Recipient(STAFF, orcpt="rfc822;Boss@x"), ASKED, "rfc822;Boss@x"),
        (
            Recipient(STAFF, notify=MANY, original=Path("boss", "mit.example")),
            ASKED,
            "rfc822;boss@mit.example",
        ),
        (Recipient(Path("jürgen", "mit.example")), ASKED, "utf-8;jürgen@mit.example"),
    ],
)
def test_a_recipient_that_is_rewritten_keeps_the_address_it_came_by(
    recipient: Recipient, terms: Terms, expected: str
) -> None:
    assert inherited(recipient, to(JONES), False, terms)[1] == expected
    assert inherited(recipient, to(JONES, OWNER), False, terms)[1] == ""


# ------------------------------------------------------------------ transactions


def test_recipients_of_one_host_share_a_transaction_with_all_their_wishes() -> None:
    one = Recipient(JONES, notify=("SUCCESS",), orcpt="rfc822;j@x", number=1)
    two = Recipient(Path("brown", "leaf.example"), number=2)
    (found,) = addressed(entry(one, two, terms=ASKED), to(one.path), to(two.path))
    assert found.letter.recipients == (one, two) and found.letter.terms == ASKED


def test_the_results_of_a_letter_are_those_of_the_recipients_as_they_were() -> None:
    staff = Recipient(STAFF, notify=("SUCCESS",), number=1)
    (found,) = addressed(entry(staff), to(JONES))
    (sent,) = found.letter.recipients
    assert sent == replace(staff, path=JONES, orcpt="rfc822;staff@mit.example")
    done = Result.delivered(Reply(250))
    assert found.results({sent: done}) == {staff: done}


def test_members_of_a_list_travel_apart_and_without_what_the_sender_said_of_notices() -> None:
    jones = Recipient(JONES, notify=("SUCCESS",), number=1)
    member = Recipient(Path("staff", "leaf.example"), notify=("SUCCESS",), orcpt="rfc822;s@x", number=2)
    left = Recipient(Path("green", "leaf.example"), sender=OWNER, number=3)
    of = entry(jones, member, left, terms=replace(ASKED, eight_bit=True))
    mine, theirs = addressed(of, to(JONES), to(member.path, OWNER), to(left.path))
    assert (mine.letter.reverse_path, mine.letter.terms) == (SMITH, replace(ASKED, eight_bit=True))
    assert (theirs.letter.reverse_path, theirs.letter.terms) == (OWNER, Terms(eight_bit=True))
    assert [(it.notify, it.orcpt) for it in theirs.letter.recipients] == [((), ""), ((), "")]


def test_a_route_through_us_changes_nothing_in_the_terms() -> None:
    routed = Recipient(JONES.through("mit.example"), number=1)
    left = Recipient(JONES, sender=SMITH.through("mit.example"), number=2)
    (found,) = addressed(entry(routed, left, terms=ASKED), to(JONES, via=("mit.example",)), to(JONES))
    assert found.letter.reverse_path == SMITH.through("mit.example") and found.letter.terms == ASKED


def test_a_notice_to_a_list_stays_one() -> None:
    member = Recipient(STAFF, number=1)
    (found,) = addressed(entry(member, sender=NULL_PATH), to(JONES, OWNER))
    assert found.letter.reverse_path == NULL_PATH


def test_terms_without_wishes_are_the_same_for_all() -> None:
    envelope = Envelope(Mode.MAIL, SMITH, (), Terms(binary=True, utf8=True))
    assert terms_of(envelope, Recipient(STAFF, sender=OWNER)) is envelope.terms
