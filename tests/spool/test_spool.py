"""What every spool promises: the same tests over memory and SQLite."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from zope.interface.verify import verifyObject

from mailnode.interfaces import ISpool, ISpoolDraft, Selection, Settlement
from mailnode.mail import Entry, Envelope, Mode, Origin, Outcome, Path, Recipient, Reply, Result, Terms
from mailnode.spool.errors import SpoolError

ALL = Selection()
BUSY = Reply(450, "busy", "4.2.1")
LATER, HELD = Result.later(BUSY), Result(Outcome.HELD, Reply(250, "held"))
UNTRIED = Result(Outcome.UNTRIED, BUSY)
DONE, FAILED = Result.delivered(Reply(250, "ok")), Result.failed(Reply(550, "no"))


def settlement(entry: Entry, *results: Result, due: float = 0.0, warned: bool = False) -> Settlement:
    return Settlement(entry.id, tuple(zip(entry.envelope.recipients, results, strict=False)), due, warned)


def states(spool: Any, desk: Any, selection: Selection = ALL) -> list[list[str]]:
    return [[it.state for it in message.recipients] for message in desk.result(spool.listing(selection))]


def domains(entry: Entry) -> list[str]:
    return [it.path.domain for it in entry.envelope.recipients]


def test_it_is_the_door_that_the_interface_describes(spool: Any) -> None:
    assert verifyObject(ISpool, spool)
    assert verifyObject(ISpoolDraft, spool.draft())


# ------------------------------------------------------------------------ accept


@pytest.mark.parametrize("body", [b"", b"Hi\r\n", b"x" * 65536, b"0123456789abcdef" * 20000])
@pytest.mark.parametrize("lease", [True, False])
def test_an_accepted_message_comes_out_as_it_went_in(spool: Any, desk: Any, body: bytes, lease: bool) -> None:
    path = Path("a b", "Usc.Example", ("X.example",))
    recipient = Recipient(
        *(Path("jones"), Mode.SOML, 0, 0, Path("staff"), Path("owner", "mit.example")),
        *(("SUCCESS", "DELAY"), "rfc822;Staff@mit.example"),
    )
    terms = Terms(True, True, True, "HDRS", "QQ 314+159=ü")
    envelope = Envelope(Mode.SOML, path, (recipient,), terms, Origin.NOTICE)
    draft, id = spool.draft(), spool.new_id()
    for start in range(0, len(body), 30000):
        draft.write(body[start : start + 30000])
    assert draft.size == len(body)
    assert draft.head() == body[:65536]
    entry = desk.result(spool.accept(id, envelope, draft, lease))
    if not lease:
        assert entry is None
        (entry,) = desk.result(spool.claim(9))
    assert entry.envelope == replace(envelope, recipients=(replace(recipient, number=1),))
    (listed,) = desk.result(spool.listing(Selection()))
    assert listed.terms == terms and listed.recipients[0].notify == ("SUCCESS", "DELAY")
    assert listed.recipients[0].orcpt == "rfc822;Staff@mit.example"
    assert b"".join(entry.body.chunks()) == body
    assert (entry.id, entry.body.size, entry.warned, entry.recovered) == (id, len(body), False, False)
    assert b"".join(desk.result(spool.body(id)).chunks()) == body


def test_what_is_leased_on_its_way_in_is_not_claimed_again(spool: Any, desk: Any) -> None:
    desk.put(spool, lease=True)
    assert desk.result(spool.claim(9)) == []
    assert states(spool, desk) == [["leased"]]


def test_what_is_queued_is_due_at_once_and_leased_once(spool: Any, desk: Any, clock: Any) -> None:
    desk.put(spool, "a@x.example", "b@y.example")
    assert desk.result(spool.next_due()) == clock.now
    (entry,) = desk.result(spool.claim(9))
    assert domains(entry) == ["x.example", "y.example"]
    assert desk.result(spool.claim(9)) == []
    assert desk.result(spool.next_due()) is None


def test_an_id_is_taken_once(spool: Any, desk: Any) -> None:
    id = desk.put(spool)
    draft = spool.draft()
    with pytest.raises(SpoolError):
        desk.result(spool.accept(id, desk.envelope(), draft, False))
    assert len(states(spool, desk)) == 1


@pytest.mark.parametrize("id", ["", "../0000000000", "zzzzzzzzzzzzz"])
def test_garbage_is_no_id_for_a_message(spool: Any, desk: Any, id: str) -> None:
    with pytest.raises(ValueError, match="not a message id"):
        desk.result(spool.accept(id, desk.envelope(), spool.draft(), False))
    with pytest.raises(ValueError, match="not a message id"):
        desk.result(spool.settle(Settlement(id, ())))
    assert desk.result(spool.body(id)) is None
    assert desk.result(spool.listing(Selection(ids=(id,)))) == []
    assert desk.result(spool.change(Selection(ids=(id,)), "delete")) == 0


def test_a_message_without_recipients_is_refused(spool: Any, desk: Any) -> None:
    envelope = Envelope(Mode.MAIL, Path("smith"), ())
    with pytest.raises(ValueError, match="recipients"):
        desk.result(spool.accept(spool.new_id(), envelope, spool.draft(), False))


def test_a_draft_is_used_once(spool: Any, desk: Any) -> None:
    draft = spool.draft()
    draft.write(b"x")
    desk.result(spool.accept(spool.new_id(), desk.envelope(), draft, False))
    draft.discard()  # does nothing to what was accepted
    with pytest.raises(SpoolError):
        desk.result(spool.accept(spool.new_id(), desk.envelope(), draft, False))
    with pytest.raises(SpoolError):
        draft.write(b"more")
    assert len(states(spool, desk)) == 1


def test_a_closed_spool_takes_nothing(spool: Any, desk: Any) -> None:
    desk.result(spool.close())
    with pytest.raises(SpoolError):
        desk.result(spool.accept(spool.new_id(), desk.envelope(), spool.draft(), False))
    desk.result(spool.close())


# ------------------------------------------------------------------------ settle


@pytest.mark.parametrize("body", [b"small", b"x" * 70000])
def test_a_message_goes_with_its_last_recipient(spool: Any, desk: Any, body: bytes) -> None:
    entry = desk.put(spool, "a@x.example", "b@y.example", body=body, lease=True)
    one, other = entry.envelope.recipients
    desk.result(spool.settle(Settlement(entry.id, ((one, DONE),))))
    assert states(spool, desk) == [["leased"]]
    assert desk.result(spool.body(entry.id)) is not None
    desk.result(spool.settle(Settlement(entry.id, ((other, FAILED),))))
    assert states(spool, desk) == []
    assert desk.result(spool.body(entry.id)) is None


def test_later_is_due_at_its_time_with_one_attempt_more(spool: Any, desk: Any, clock: Any) -> None:
    entry = desk.put(spool, lease=True)
    due = clock.now + 300
    desk.result(spool.settle(settlement(entry, LATER, due=due, warned=True)))
    assert desk.result(spool.next_due()) == due
    (seen,) = desk.result(spool.listing(ALL))[0].recipients
    assert (seen.state, seen.attempts, seen.due, seen.reply) == ("queued", 1, due, "450 4.2.1 busy")
    clock.now = due - 0.5
    assert desk.result(spool.claim(9)) == []
    clock.now = due
    (again,) = desk.result(spool.claim(9))
    assert again.envelope.recipients[0].attempts == 1
    assert again.warned


def test_held_mail_is_not_due_and_waits_for_its_domain(spool: Any, desk: Any, clock: Any) -> None:
    entry = desk.put(spool, "a@Leaf.Example", "b@other.example", lease=True)
    desk.result(spool.settle(settlement(entry, HELD, HELD)))
    clock.now += 1e6
    assert desk.result(spool.claim(9)) == []
    assert desk.result(spool.next_due()) is None
    assert desk.result(spool.claim_held(["eaf.example"], 9)) == []
    (held,) = desk.result(spool.claim_held(["LEAF.example", "none.example"], 9))
    assert domains(held) == ["Leaf.Example"]
    assert held.envelope.recipients[0].attempts == 0
    assert states(spool, desk) == [["leased", "held"]]


def test_held_mail_of_all_domains_but_some_can_be_claimed(spool: Any, desk: Any) -> None:
    names = ("a.example", "b.example", "c.example")
    entry = desk.put(spool, *[f"x@{name}" for name in names], lease=True)
    desk.result(spool.settle(settlement(entry, HELD, HELD, HELD)))
    (others,) = desk.result(spool.claim_held(["B.example", "none.example"], 9, others=True))
    assert domains(others) == ["a.example", "c.example"]
    assert states(spool, desk) == [["leased", "held", "leased"]]
    assert desk.result(spool.claim_held(["b.example"], 9, others=True)) == []
    (rest,) = desk.result(spool.claim_held([], 9, others=True))
    assert domains(rest) == ["b.example"]


def test_what_was_not_tried_is_due_now_as_if_it_had_not_been_leased(
    spool: Any, desk: Any, clock: Any
) -> None:
    entry = desk.put(spool, lease=True)
    clock.now += 60
    desk.result(spool.release_leases())
    (entry,) = desk.result(spool.claim(9))
    clock.now += 60
    desk.result(spool.settle(settlement(entry, UNTRIED, due=5.0)))
    (seen,) = desk.result(spool.listing(ALL))[0].recipients
    assert (seen.state, seen.attempts, seen.due, seen.reply) == ("queued", 0, clock.now, "")
    assert desk.result(spool.claim(9)) == [entry]


def test_held_mail_with_a_source_route_is_found_by_its_next_host(spool: Any, desk: Any) -> None:
    path = Path("a", "end.example", ("Leaf.example", "b.example"))
    envelope = Envelope(Mode.MAIL, Path("smith"), (Recipient(path),))
    entry = desk.result(spool.accept(spool.new_id(), envelope, spool.draft(), True))
    desk.result(spool.settle(settlement(entry, HELD)))
    assert desk.result(spool.claim_held(["end.example"], 9)) == []
    assert [it.id for it in desk.result(spool.claim_held(["leaf.example"], 9))] == [entry.id]


def test_a_recipient_is_replaced_by_what_is_left_of_its_destinations(
    spool: Any, desk: Any, clock: Any
) -> None:
    entry = desk.put(spool, "staff@mit.example", "b@y.example", lease=True)
    children = [
        Recipient(Path(name, "z.example"), attempts=0) for name in ("done", "later", "held", "failed", "back")
    ]
    forward = tuple(zip(children, (DONE, LATER, HELD, FAILED, UNTRIED), strict=True))
    result = Result(Outcome.LATER, BUSY, forward=forward)
    desk.result(spool.settle(settlement(entry, result, due=clock.now)))
    (message,) = desk.result(spool.listing(ALL))
    assert [(it.path.local, it.state, it.attempts) for it in message.recipients] == [
        ("b", "leased", 0),
        ("later", "queued", 1),
        ("held", "held", 0),
        ("back", "queued", 0),
    ]
    (claimed,) = desk.result(spool.claim(9))
    assert [it.number for it in claimed.envelope.recipients] == [3, 5]


def test_a_recipient_whose_destinations_are_all_done_with_goes(spool: Any, desk: Any) -> None:
    entry = desk.put(spool, lease=True)
    forward = ((Recipient(Path("a")), DONE), (Recipient(Path("b")), FAILED))
    desk.result(spool.settle(settlement(entry, Result(Outcome.DELIVERED, BUSY, forward=forward))))
    assert states(spool, desk) == []


def test_recipients_that_are_not_named_keep_their_lease(spool: Any, desk: Any) -> None:
    entry = desk.put(spool, "a@x.example", "b@y.example", lease=True)
    desk.result(spool.settle(settlement(entry, LATER)))
    assert states(spool, desk) == [["queued", "leased"]]


@pytest.mark.parametrize(
    "result",
    [
        DONE,
        FAILED,
        LATER,
        HELD,
        UNTRIED,
        UNTRIED,
        Result(Outcome.LATER, BUSY, forward=((Recipient(Path("x")), LATER),)),
    ],
)
def test_what_is_not_leased_cannot_be_settled(spool: Any, desk: Any, result: Result) -> None:
    entry = desk.put(spool, lease=True)
    desk.result(spool.settle(settlement(entry, LATER)))
    before = desk.result(spool.listing(ALL))
    desk.result(spool.settle(settlement(entry, result, due=5.0)))
    assert desk.result(spool.listing(ALL)) == before


def test_to_settle_a_message_that_is_gone_does_nothing(spool: Any, desk: Any) -> None:
    entry = desk.put(spool, lease=True)
    desk.result(spool.settle(settlement(entry, DONE)))
    desk.result(spool.settle(settlement(entry, LATER)))
    assert states(spool, desk) == []


# ------------------------------------------------------------------------ claim


def test_the_oldest_due_are_claimed_first_and_no_more_than_the_limit(
    spool: Any, desk: Any, clock: Any
) -> None:
    made = []
    for _ in range(5):
        made.append(desk.put(spool, "a@x.example", "b@x.example"))
        clock.now += 1
    claims = [[entry.id for entry in desk.result(spool.claim(2))] for _ in range(4)]
    assert claims == [made[0:2], made[2:4], made[4:], []]


def test_held_messages_are_claimed_in_the_order_of_arrival(spool: Any, desk: Any) -> None:
    made = []
    for name in ("b.example", "a.example", "b.example", "a.example"):
        entry = desk.put(spool, f"x@{name}", lease=True)
        desk.result(spool.settle(settlement(entry, HELD)))
        made.append(entry.id)
    wanted = ["a.example", "b.example"]
    assert [it.id for it in desk.result(spool.claim_held(wanted, 3))] == made[:3]
    assert [it.id for it in desk.result(spool.claim_held(wanted, 3))] == made[3:]


def test_only_recipients_that_are_due_are_leased(spool: Any, desk: Any, clock: Any) -> None:
    entry = desk.put(spool, "a@x.example", "b@y.example", lease=True)
    one, other = entry.envelope.recipients
    desk.result(spool.settle(Settlement(entry.id, ((one, LATER),), clock.now)))
    desk.result(spool.settle(Settlement(entry.id, ((other, LATER),), clock.now + 60)))
    (claimed,) = desk.result(spool.claim(9))
    assert domains(claimed) == ["x.example"]


def test_a_clock_that_was_set_back_does_not_make_mail_wait(spool: Any, desk: Any, clock: Any) -> None:
    entry = desk.put(spool, lease=True)
    desk.result(spool.settle(settlement(entry, LATER, due=clock.now + 300)))
    clock.now -= 6 * 3600
    assert desk.result(spool.next_due()) == clock.now
    assert [it.id for it in desk.result(spool.claim(9))] == [entry.id]


def test_leases_of_a_holder_that_died_are_due_now_and_marked_as_recovered(
    spool: Any, desk: Any, clock: Any
) -> None:
    first = desk.put(spool, "a@x.example", "b@y.example", lease=True)
    second = desk.put(spool)
    clock.now += 60
    assert desk.result(spool.release_leases()) == 1
    entries = {it.id: it for it in desk.result(spool.claim(9))}
    assert entries[first.id].recovered
    assert not entries[second].recovered
    desk.result(spool.settle(settlement(entries[first.id], LATER, LATER, due=clock.now)))
    (again,) = desk.result(spool.claim(9))
    assert not again.recovered  # it was tried and settled since


# ------------------------------------------------------------------------ an operator


def test_the_listing_shows_messages_oldest_first_up_to_a_limit(spool: Any, desk: Any, clock: Any) -> None:
    made = [desk.put(spool, body=b"x" * size) for size in (1, 2, 3)]
    seen = desk.result(spool.listing(ALL, 2))
    assert [it.id for it in seen] == made[:2]
    assert [it.size for it in seen] == [1, 2]
    assert seen[0].sender == Path("smith", "usc.example")
    assert (seen[0].arrived, seen[0].mode, seen[0].state) == (clock.now, Mode.MAIL, "queued")


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(to="JONES@"), [0]),
        (Selection(to="green"), [0, 1]),
        (Selection(sender="Smith@usc"), [0, 1]),
        (Selection(sender="brown"), []),
        (Selection(domain="mit.example"), [0]),
        (Selection(domain="mit.exampl"), []),
        (Selection(state="leased"), [1]),
        (Selection(state="held"), []),
        (Selection(older=10), [0]),
        (Selection(to="jones", domain="usc.example"), []),
        (Selection(to="%"), []),
    ],
)
def test_a_selection_means_messages_of_which_all_it_says_is_true(
    spool: Any, desk: Any, clock: Any, selection: Selection, found: list[int]
) -> None:
    made = [desk.put(spool, "jones@mit.example", "green@usc.example")]
    clock.now += 30
    made.append(desk.put(spool, "green@bbn.example", lease=True).id)
    assert [it.id for it in desk.result(spool.listing(selection))] == [made[number] for number in found]
    both = Selection(ids=(made[1], "garbage"))
    assert [it.id for it in desk.result(spool.listing(both))] == made[1:]


def test_hold_release_retry_and_delete_change_matching_recipients(spool: Any, desk: Any, clock: Any) -> None:
    entry = desk.put(spool, "a@x.example", "b@y.example", lease=True)
    due = clock.now + 300
    desk.result(spool.settle(settlement(entry, LATER, LATER, due=due)))
    x, y = Selection(domain="x.example"), Selection(to="b@")
    assert desk.result(spool.change(x, "hold")) == 1
    assert states(spool, desk) == [["stopped", "queued"]]
    assert desk.result(spool.change(ALL, "retry")) == 1
    assert [it.due for it in desk.result(spool.listing(ALL))[0].recipients] == [due, clock.now]
    assert desk.result(spool.change(ALL, "release")) == 1
    assert [it.due for it in desk.result(spool.listing(ALL))[0].recipients] == [clock.now, clock.now]
    assert desk.result(spool.change(y, "delete")) == 1
    assert states(spool, desk) == [["queued"]]
    assert desk.result(spool.change(ALL, "delete")) == 1
    assert desk.result(spool.listing(ALL)) == []
    assert desk.result(spool.body(entry.id)) is None


def test_what_an_operator_holds_is_fetched_by_nobody_and_goes_on_when_it_is_released(
    spool: Any, desk: Any, clock: Any
) -> None:
    entry = desk.put(spool, "a@leaf.example", "b@mit.example", lease=True)
    desk.result(spool.settle(settlement(entry, HELD, LATER)))
    assert desk.result(spool.change(ALL, "hold")) == 1
    assert states(spool, desk) == [["stopped", "stopped"]]
    assert states(spool, desk, Selection(state="stopped")) == [["stopped", "stopped"]]
    clock.now += 1e6
    for nothing in (
        spool.claim(9),
        spool.claim_held(["leaf.example"], 9),
        spool.claim_held([], 9, others=True),
        spool.claim_overdue(9),
    ):
        assert desk.result(nothing) == []
    assert desk.result(spool.next_due()) is None
    assert desk.result(spool.change(ALL, "hold")) == desk.result(spool.change(ALL, "retry")) == 0
    assert desk.result(spool.change(ALL, "release")) == 1
    (again,) = desk.result(spool.claim(9))
    assert domains(again) == ["leaf.example", "mit.example"]


def test_mail_for_a_host_that_fetches_it_is_held_by_the_commit_that_accepts_it(
    spool: Any, desk: Any, clock: Any
) -> None:
    held = {"leaf.example": clock.now + 60}
    for lease in (True, False):
        draft = spool.draft()
        draft.write(b"Hi\r\n")
        envelope = desk.envelope("a@Leaf.Example", "b@mit.example")
        entry = desk.result(spool.accept(spool.new_id(), envelope, draft, lease, held))
        assert (entry is not None) is lease
        if entry is not None:
            assert domains(entry) == ["mit.example"] and entry.envelope.recipients[0].number == 2
    assert states(spool, desk) == [["held", "leased"], ["held", "queued"]]
    draft = spool.draft()
    assert (
        desk.result(spool.accept(spool.new_id(), desk.envelope("c@leaf.example"), draft, True, held)) is None
    )
    assert [domains(it) for it in desk.result(spool.claim_held(["leaf.example"], 9))] == [
        ["Leaf.Example"],
        ["Leaf.Example"],
        ["leaf.example"],
    ]


def test_held_mail_is_looked_after_when_it_is_time_the_longest_overdue_first(
    spool: Any, desk: Any, clock: Any
) -> None:
    made = []
    for number, look in enumerate((300.0, 100.0, 200.0, 900.0)):
        entry = desk.put(spool, f"a{number}@leaf.example", "b@mit.example", lease=True)
        rows = tuple(zip(entry.envelope.recipients, (HELD, LATER), strict=True))
        due = clock.now + 1e6
        desk.result(spool.settle(Settlement(entry.id, rows, due, False, clock.now + look)))
        made.append(entry.id)
    clock.now += 99
    assert desk.result(spool.claim_overdue(9)) == []
    clock.now += 201
    assert [it.id for it in desk.result(spool.claim_overdue(2))] == [made[1], made[2]]
    (last,) = desk.result(spool.claim_overdue(9))
    assert (last.id, domains(last)) == (made[0], ["leaf.example"])
    assert desk.result(spool.claim_overdue(9)) == []


def test_what_was_refused_is_left_out_of_a_claim(spool: Any, desk: Any) -> None:
    made = []
    for _ in range(4):
        entry = desk.put(spool, "a@leaf.example", lease=True)
        desk.result(spool.settle(settlement(entry, HELD)))
        made.append(entry.id)
    but = (made[0], made[2], "garbage")
    assert [it.id for it in desk.result(spool.claim_held(["leaf.example"], 1, False, but))] == [made[1]]
    assert [it.id for it in desk.result(spool.claim_held([], 9, True, but))] == [made[3]]
    assert desk.result(spool.claim_held(["leaf.example"], 9, False, but)) == []


def test_what_waits_for_a_domain_is_counted_by_message(spool: Any, desk: Any) -> None:
    entry = desk.put(spool, "a@leaf.example", "b@Leaf.example", "c@mit.example", lease=True)
    desk.result(spool.settle(settlement(entry, HELD, LATER, LATER)))
    desk.put(spool, "a@leaf.example", lease=True)
    for domains, states, count in (
        (["LEAF.example"], ["held"], 1),
        (["leaf.example"], ["held", "queued", "leased"], 2),
        (["mit.example", "leaf.example"], ["queued"], 1),
        (["mit.example"], ["held"], 0),
        ([], ["held", "queued", "leased"], 0),
    ):
        assert desk.result(spool.waiting(domains, states)) == count


@pytest.mark.parametrize("action", ["retry", "hold", "release", "delete"])
def test_what_is_leased_is_not_changed(spool: Any, desk: Any, action: str) -> None:
    desk.put(spool, lease=True)
    before = desk.result(spool.listing(ALL))
    assert desk.result(spool.change(ALL, action)) == 0
    assert desk.result(spool.listing(ALL)) == before


def test_an_unknown_action_is_an_error(spool: Any) -> None:
    with pytest.raises(ValueError, match="known are retry, hold, release, delete"):
        spool.change(ALL, "burn")
