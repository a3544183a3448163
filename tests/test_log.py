"""The log: a line an event, nothing but printable ASCII, gathered over a turn."""

from __future__ import annotations

import threading
from io import StringIO

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogPublisher

from mailnode.log import GATHERED, SOON, LineLog, printable, twistd_log


class Turns(Clock):
    """A clock that says whether the reactor runs."""

    running = True

    def __init__(self) -> None:
        super().__init__()
        self.at_end: list[object] = []

    def addSystemEventTrigger(self, phase: str, event: str, call: object) -> None:
        self.at_end.append((phase, event, call))


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def file() -> StringIO:
    return StringIO()


@pytest.fixture
def log(turns: Turns, file: StringIO) -> Logger:
    return Logger("mailnode.test", observer=LogPublisher(LineLog(file, turns)))


def test_a_line_has_date_system_and_text(log: Logger, turns: Turns, file: StringIO) -> None:
    log.info("{id} taken: {size} octets", id="M1", size=12)
    turns.advance(SOON)
    date, system, text = file.getvalue().split(" ", 2)
    assert len(date) == len("2026-11-23T11:49:34+0000") and date[10] == "T"
    assert (system, text) == ("[mailnode.test#info]", "M1 taken: 12 octets\n")


def test_lines_of_one_moment_are_written_together(log: Logger, turns: Turns, file: StringIO) -> None:
    log.info("one")
    log.info("two")
    assert file.getvalue() == ""
    turns.advance(SOON)
    assert [line.rpartition(" ")[2] for line in file.getvalue().splitlines()] == ["one", "two"]
    assert not turns.getDelayedCalls()


def test_a_warning_is_written_at_once_behind_what_came_before(
    log: Logger, turns: Turns, file: StringIO
) -> None:
    log.info("before")
    log.warn("look")
    assert [line.rpartition(" ")[2] for line in file.getvalue().splitlines()] == ["before", "look"]


def test_only_so_many_lines_wait(log: Logger, file: StringIO) -> None:
    for _ in range(GATHERED):
        log.info("x")
    assert len(file.getvalue().splitlines()) == GATHERED


def test_nothing_waits_where_no_reactor_runs(log: Logger, turns: Turns, file: StringIO) -> None:
    turns.running = False
    log.info("early")
    assert "early" in file.getvalue()


def test_another_thread_writes_for_itself(log: Logger, file: StringIO) -> None:
    thread = threading.Thread(target=log.info, args=("from afar",))
    thread.start()
    thread.join()
    assert "from afar" in file.getvalue()


def test_what_is_left_is_written_when_the_reactor_stops(turns: Turns, file: StringIO) -> None:
    log = LineLog(file, turns)
    assert turns.at_end == [("after", "shutdown", log.flush)]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain text", "plain text"),
        ("a\nfake [line]", r"a\nfake [line]"),
        ("a\r\x1b]52;c;x\x07", r"a\r\x1b]52;c;x\x07"),
        ("caf\u00e9 \u202e \U000e0041", r"caf\xe9 \u202e \U000e0041"),
        ("\udc80", r"\udc80"),
        ("\x7f\x9b", r"\x7f\x9b"),
    ],
)
def test_a_stranger_s_text_stays_in_its_line(
    log: Logger, turns: Turns, file: StringIO, said: str, shown: str
) -> None:
    assert printable(said) == shown
    log.info("{said}", said=said)
    turns.advance(SOON)
    assert file.getvalue().endswith(f"[mailnode.test#info] {shown}\n")
    assert file.getvalue().count("\n") == 1


def test_a_failure_has_its_traceback_indented(log: Logger, file: StringIO) -> None:
    try:
        raise ValueError("bad\n2026-01-01 [x] fake \x1b[0m")
    except ValueError:
        log.failure("it went wrong")
    first, *rest = file.getvalue().splitlines()
    assert first.endswith("[mailnode.test#critical] it went wrong")
    assert rest and all(line.startswith("\t") for line in rest)
    assert "\x1b" not in file.getvalue()


def test_what_python_s_own_formats_cannot_do_twisted_does(log: Logger, turns: Turns, file: StringIO) -> None:
    log.info("it was {what()}", what=lambda: "called")
    log.info("{missing}")
    turns.advance(SOON)
    called, missing = file.getvalue().splitlines()
    assert called.endswith("it was called") and "Unable to format event" in missing


@pytest.mark.parametrize("option", ["syslog", "logger"])
def test_another_kind_of_log_is_left_to_twistd(turns: Turns, option: str) -> None:
    assert twistd_log({option: True, "nodaemon": True}, turns) is None


def test_daemons_have_no_standard_output(turns: Turns) -> None:
    assert twistd_log({"logfile": "-", "nodaemon": False}, turns) is None


def test_in_the_foreground_it_goes_to_standard_output(
    turns: Turns, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = twistd_log({"nodaemon": True}, turns)
    assert observer is not None and ILogObserver.providedBy(observer)
    turns.running = False
    Logger("mailnode.test", observer=LogPublisher(observer)).info("hello")
    assert capsys.readouterr().out.endswith("hello\n")
