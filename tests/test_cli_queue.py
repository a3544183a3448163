"""`mailnode queue` over a spool that a node left behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path as File
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailnode.cli import cli
from mailnode.interfaces import QueuedMessage, Selection, Settlement
from mailnode.mail import Entry, Envelope, Mode, Outcome, Path, Recipient, Reply, Terms
from mailnode.mail import Result as Delivery
from mailnode.spool.sqlite import SqliteSpool

T = TypeVar("T")

Run = Callable[..., Result]


@pytest.fixture
def house(tmp_path: File) -> File:
    (tmp_path / "mailnode.toml").write_text('hostname = "mit.example"\ndata = "data"\n')
    return tmp_path


@pytest.fixture
def run(house: File) -> Run:
    def runs(*words: str) -> Result:
        return CliRunner().invoke(cli, ["--config", str(house / "mailnode.toml"), *words])

    return runs


def fired(deferred: Deferred[T]) -> T:
    results: list[Any] = []
    deferred.addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    found: T = result
    return found


class Spool:
    """A spool that a node left behind, with somebody who still has a lease."""

    def __init__(self, data: File) -> None:
        self.spool = SqliteSpool(str(data), None, time.time, min_free=0)
        self.spool.open()

    def put(
        self, *to: str, sender: str = "smith@usc.example", text: bytes = b"", lease: bool = False
    ) -> Entry | str:
        id = self.spool.new_id()
        draft = self.spool.draft()
        draft.write(text or b"Subject: Lunch\r\n\r\nAt one?\r\n")
        recipients = tuple(Recipient(path(address)) for address in to)
        entry = fired(self.spool.accept(id, Envelope(Mode.MAIL, path(sender), recipients), draft, lease))
        return entry if entry is not None else id

    def settled(self, entry: Entry | str, outcome: Outcome, reply: Reply, due: float = 0.0) -> str:
        assert isinstance(entry, Entry)
        results = tuple((recipient, Delivery(outcome, reply)) for recipient in entry.envelope.recipients)
        fired(self.spool.settle(Settlement(entry.id, results, due)))
        return entry.id

    def state(self, id: str | Entry) -> str:
        found: list[QueuedMessage] = fired(self.spool.listing(Selection(ids=(str(id),))))
        return found[0].state if found else "gone"


def path(address: str) -> Path:
    local, _, domain = address.rpartition("@")
    return Path(local, domain)


@pytest.fixture
def spool(house: File) -> Iterator[Spool]:
    spool = Spool(house / "data")
    yield spool
    fired(spool.spool.close())


def test_a_command_about_the_spool_makes_none(run: Run, house: File) -> None:
    for words in (("list",), ("show", "x"), ("export", "x"), ("delete", "--all"), ("retry", "--all")):
        result = run("queue", *words)
        assert result.exit_code == os.EX_NOINPUT
        assert result.stderr.startswith("mailnode: there is no spool in ")
    assert not (house / "data").exists()


def test_the_list_as_json_has_one_object_a_line_with_the_keys_of_the_contract(run: Run, spool: Spool) -> None:
    entry = spool.put("jones@mit.example", "brown@mit.example", lease=True)
    id = spool.settled(entry, Outcome.LATER, Reply(451, "Not now"), time.time() + 300)
    spool.put("green@usc.example")
    first, second = map(json.loads, run("queue", "list", "--json").stdout.splitlines())
    assert list(first) == ["id", "state", "mode", "sender", "recipients", "size", "arrived"]
    assert (first["id"], first["state"], first["mode"]) == (id, "queued", "MAIL")
    assert first["sender"] == "smith@usc.example"
    assert first["arrived"].endswith("+00:00") and first["recipients"][0]["next_attempt"] > first["arrived"]
    assert [one["address"] for one in first["recipients"]] == ["jones@mit.example", "brown@mit.example"]
    assert {one["last_reply"] for one in first["recipients"]} == {"451 Not now"}
    assert second["recipients"][0]["last_reply"] == ""


def test_filters_choose_messages(run: Run, spool: Spool) -> None:
    jones = spool.put("jones@mit.example", sender="a@b.example")
    green = spool.put("green@usc.example")

    def ids(*words: str) -> list[str]:
        return [json.loads(line)["id"] for line in run("queue", "list", "--json", *words).stdout.splitlines()]

    assert ids() == [jones, green]
    assert ids("--to", "jones") == ids("--from", "a@b") == ids("--domain", "MIT.example") == [jones]
    assert ids("--state", "held") == ids("--older", "2h") == []
    assert ids("--limit", "1") == [jones]


def test_text_from_outside_does_no_harm_on_the_terminal(run: Run, spool: Spool) -> None:
    entry = spool.put(
        "[bold]jones[/]@mit.example", text=b"Subject: \x1b[2J\xff\r\n\r\n\x07 [red]x\r\n", lease=True
    )
    id = spool.settled(entry, Outcome.LATER, Reply(451, "[blink]\x1b]0;x\x07"), time.time() + 300)
    for words in (("list",), ("list", "--json"), ("show", id, "--body")):
        shown = run("queue", *words).stdout
        assert all(char == "\n" or char.isprintable() for char in shown)
        assert "[bold]jones[/]" in shown
    assert "Subject: ^[[2J\\xff" in run("queue", "show", id).stdout


def test_show_has_the_envelope_and_the_header_and_the_body_only_when_asked(run: Run, spool: Spool) -> None:
    id = str(spool.put("jones@mit.example"))
    short, whole = run("queue", "show", id).stdout, run("queue", "show", id, "--body").stdout
    assert "From:    <smith@usc.example>\nTo:      <jones@mit.example> (queued, due)\n" in short
    assert "Subject: Lunch" in short and "At one?" not in short
    assert whole.endswith("\nSubject: Lunch\n\nAt one?\n")
    missing = run("queue", "show", "0000000000000")
    assert (
        missing.exit_code == os.EX_NOINPUT
        and missing.stderr == "mailnode: no message 0000000000000 in the spool\n"
    )


def test_show_has_what_was_said_of_the_message_and_of_notices_only_where_something_was(
    run: Run, spool: Spool
) -> None:
    assert "Terms" not in (plain := run("queue", "show", str(spool.put("jones@mit.example"))).stdout)
    assert "notify" not in plain and "original" not in plain
    id, draft = spool.spool.new_id(), spool.spool.draft()
    draft.write(b"Subject: x\r\n\r\n")
    wishes = (("SUCCESS", "DELAY"), "rfc822;Jones\x1b[31m@mit.example")
    recipient = Recipient(path("jones@mit.example"), Mode.MAIL, 0, 0, None, None, *wishes)
    terms = Terms(eight_bit=True, utf8=True, ret="HDRS", envid="QQ \x1b]0;x\x07")
    envelope = Envelope(Mode.MAIL, path("smith@usc.example"), (recipient,), terms)
    fired(spool.spool.accept(id, envelope, draft, False))
    shown = run("queue", "show", id).stdout
    assert "Terms:   8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ " in shown
    assert "         notify: success, delay\n         original recipient: rfc822;Jones" in shown
    assert "\x1b" not in shown and "\x07" not in shown


def test_export_is_octet_for_octet(run: Run, spool: Spool) -> None:
    text = b"Subject: \xff\x00\r\n\r\n.dot\r\n" + b"x" * 200_000 + b"\r\n"
    assert run("queue", "export", str(spool.put("jones@mit.example", text=text))).stdout_bytes == text


@pytest.mark.parametrize("action", ["hold", "release", "retry", "delete"])
def test_a_change_wants_to_be_told_what_to_change(run: Run, spool: Spool, action: str) -> None:
    id = spool.put("jones@mit.example")
    assert run("queue", action).exit_code == os.EX_USAGE
    assert run("queue", action, "--all", "--to", "jones").exit_code == os.EX_USAGE
    assert run("queue", action, "--all", str(id)).exit_code == os.EX_USAGE
    assert spool.state(id) == "queued"


def test_hold_release_and_delete_change_what_was_chosen(run: Run, spool: Spool) -> None:
    jones, green = str(spool.put("jones@mit.example")), str(spool.put("green@usc.example"))
    assert run("queue", "hold", jones).stdout == "1 message held.\n"
    assert (spool.state(jones), spool.state(green)) == ("stopped", "queued")
    assert run("queue", "release", "--state", "held").stdout == "Nothing to change.\n"
    assert run("queue", "release", "--state", "stopped").stdout == "1 message released.\n"
    assert spool.state(jones) == "queued"
    assert run("queue", "delete", "--to", "jones").stdout == "1 message deleted.\n"
    assert (spool.state(jones), spool.state(green)) == ("gone", "queued")
    assert run("queue", "delete", "--all").stdout == "1 message deleted.\n"
    assert run("queue", "delete", "--all").stdout == "Nothing to change.\n"


def test_what_cannot_be_changed_is_said_message_by_message(run: Run, spool: Spool) -> None:
    id = str(spool.put("jones@mit.example"))
    run("queue", "hold", id)
    held = run("queue", "retry", id)
    assert held.exit_code == os.EX_DATAERR
    assert (
        held.stderr
        == f"mailnode: message {id} is stopped: nothing to retry; mailnode queue release lets it go\n"
    )
    unknown = run("queue", "retry", "0000000000000")
    assert unknown.exit_code == os.EX_NOINPUT
    assert unknown.stderr == "mailnode: no message 0000000000000 in the spool\n"


def test_what_is_being_delivered_is_left_alone_and_counted(run: Run, spool: Spool) -> None:
    entry, other = spool.put("jones@mit.example", lease=True), str(spool.put("brown@mit.example"))
    assert isinstance(entry, Entry)
    result = run("queue", "delete", "--all")
    assert (result.exit_code, result.stdout) == (0, "1 message deleted.\n")
    assert result.stderr == "mailnode: 1 message being delivered now was left alone\n"
    assert (spool.state(entry.id), spool.state(other)) == ("leased", "gone")
    assert run("queue", "delete", entry.id).exit_code == os.EX_TEMPFAIL
