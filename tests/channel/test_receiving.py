"""The receiver's role: what a slow client may cost, whose time is counted, and what a listener is for."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from zope.interface import implementer

from mailnode.channel.factories import ReceiverFactory
from mailnode.channel.receiving import GRACE, Doors, Listener
from mailnode.interfaces import IAccess, ICustody, IIntake, IRouting
from mailnode.mail import Client, Credentials, Mode, Reply, Rights, ScramKeys
from mailnode.smtp import replies
from mailnode.smtp.receiver import Limits
from mailnode.smtp.sasl import encode, plain_response

PATIENCE, RATE = 300, 100
START = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\n"


@implementer(ICustody)
class Custody:
    def __init__(self, house: House) -> None:
        self._house = house

    def recipient(self, *_: object) -> Reply:
        return replies.RECIPIENT_OK

    def open(self) -> Reply:
        return replies.START_INPUT

    def write(self, piece: bytes) -> Deferred[None] | None:
        self._house.data += piece
        if not self._house.disk_is_slow:
            return None
        self._house.disk.append(Deferred())
        return self._house.disk[-1]

    def commit(self, hurry: bool = True) -> Deferred[Reply]:
        self._house.committed += 1
        self._house.hurried.append(hurry)
        return Deferred() if self._house.commits_late else succeed(replies.OK)

    def abort(self) -> None:
        self._house.aborted += 1


@implementer(IAccess, IRouting, IIntake)
class House:
    def __init__(self, relay: bool = True) -> None:
        self.relay = relay
        self.data = b""
        self.committed = self.aborted = 0
        self.hurried: list[bool] = []
        self.commits_late = False
        self.disk_is_slow = False
        self.disk: list[Deferred[None]] = []
        self.verdict: str | Reply | None = None
        self.answer: Deferred[Any] = Deferred()  # where there is no verdict
        self.asked: list[Any] = []

    def rights(self, client: Client) -> Rights:
        need = client.listener == "submission" and not client.identity
        return Rights(
            tuple(Mode), relay=self.relay, mechanisms=("SCRAM-SHA-256", "PLAIN"), must_authenticate=need
        )

    def authenticate(self, client: Client, credentials: Credentials) -> Deferred[str | Reply]:
        self.asked.append(credentials)
        return self.answer if self.verdict is None else succeed(self.verdict)

    def scram_keys(self, client: Client, name: str) -> Deferred[ScramKeys | Reply]:
        self.asked.append(name)
        return self.answer

    def verify(self, text: str, rights: Rights) -> Reply:
        return Reply(252, "Cannot say")

    expand = verify

    def begin(self, *_: object) -> Any:
        return Custody(self)

    def submit(self, *_: object) -> Any:
        raise AssertionError("no notices here")


class Line:
    """A client's end of a channel, and the clock of the channel."""

    def __init__(
        self, house: House, hello: bytes = b"EHLO a\r\n", limits: Limits | None = None, **listener: Any
    ) -> None:
        self.house = house
        self.clock = Clock()
        doors = Doors(
            "mit.example", house, house, house, None, limits or Limits(), patience=PATIENCE, data_rate=RATE
        )
        factory = ReceiverFactory(doors, self.clock, listener=Listener(**listener))
        self.channel = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        self.transport = StringTransportWithDisconnection()
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)
        self.say(hello)

    def say(self, octets: bytes) -> bytes:
        self.transport.clear()
        self.channel.dataReceived(octets)
        heard: bytes = self.transport.value()
        return heard

    def codes(self, octets: bytes) -> list[int]:
        rows = self.say(octets).split(b"\r\n")[:-1]
        return [int(row[:3]) for row in rows if row[3:4] == b" "]

    @property
    def closed(self) -> bool:
        return not self.transport.connected

    def drips(self, octets: bytes, every: float, times: int) -> int:
        """How many drops are taken before the channel is closed."""
        for number in range(times):
            if self.closed:
                return number
            self.clock.advance(every)
            if not self.closed:
                self.channel.dataReceived(octets)
        return times


@pytest.fixture
def line() -> Line:
    return Line(House())


# ------------------------------------------------------------------ time per command


@pytest.mark.parametrize("opening", [b"", START, b"BDAT", b"AUTH PLAIN\r\n"])
def test_drops_of_a_command_do_not_make_its_time_longer(line: Line, opening: bytes) -> None:
    line.say(opening)
    assert line.drips(b"x", 10, 100) == PATIENCE // 10
    assert b"421 4.3.2 mit.example Timeout" in line.transport.value()


def test_each_command_has_its_time_anew(line: Line) -> None:
    assert line.drips(b"NOOP\r\n", PATIENCE - 1, 50) == 50
    assert not line.closed


def test_a_long_line_without_end_does_not_make_its_time_longer(line: Line) -> None:
    assert line.drips(b"x" * 10_000, 10, 100) == PATIENCE // 10


def test_nobody_hurries_for_a_client_that_waits_for_no_reply(line: Line) -> None:
    line.house.commits_late = True
    line.say((START + b"BDAT 1 LAST\r\nx") * 7)
    assert line.house.hurried == [True] * 4 + [False] * 3


def test_a_client_that_waits_for_each_reply_waits_no_longer_than_it_must(line: Line) -> None:
    for _ in range(9):
        assert line.codes(START + b"BDAT 1 LAST\r\nx") == [250, 250, 250, 250]
    assert line.house.hurried == [True] * 9


# ------------------------------------------------------------------ the lowest rate

DATA, CHUNK = START + b"DATA\r\n", START + b"BDAT 900000\r\n"
DRAINED = b"BDAT 900000\r\n"  # out of order, and read all the same


@pytest.mark.parametrize("opening", [DATA, CHUNK, DRAINED])
def test_mail_data_that_drips_gives_its_place_to_others(line: Line, opening: bytes) -> None:
    line.say(opening)
    taken = line.drips(b"x" * 10 * (RATE - 1), 10, 100)
    assert taken == GRACE // 10 + 1  # the last one is over the grace
    assert b"421 4.3.2 mit.example Mail data comes too slowly" in line.transport.value()
    assert line.closed
    assert line.house.aborted == (opening is not DRAINED)


@pytest.mark.parametrize("opening", [DATA, CHUNK, DRAINED])
def test_mail_data_at_the_lowest_rate_is_taken(line: Line, opening: bytes) -> None:
    line.say(opening)
    assert line.drips(b"x" * 10 * RATE, 10, 100) == 100
    assert not line.closed


def test_a_fast_beginning_is_spent_at_last(line: Line) -> None:
    line.say(DATA)
    line.say(b"x")
    line.say(b"x" * RATE * 200)
    taken = line.drips(b"x", 10, 100)
    assert 20 <= taken <= 22


@pytest.mark.parametrize("chunk", [b"BDAT 1\r\nx", b"BDAT 0\r\nNOOP\r\n"])
def test_the_rate_is_that_of_all_chunks_of_a_message(chunk: bytes) -> None:
    line = Line(House(), limits=Limits(commands=1000))
    line.say(START)
    assert line.drips(chunk, 10, 100) < 10
    assert b"Mail data comes too slowly" in line.transport.value()


def test_between_two_messages_no_rate_is_asked_for(line: Line) -> None:
    for octets in (DATA + b"Hi\r\n.\r\n", START + b"BDAT 4\r\nHi\r\n", b"BDAT 0 LAST\r\n"):
        line.say(octets)
    line.drips(b"NOOP\r\n", 200, 5)
    assert not line.closed
    line.say(DATA + b"x")
    line.clock.advance(GRACE - 1)
    line.say(b"\r\n.\r\n")
    assert line.house.committed == 3 and not line.closed


# ------------------------------------------------------------------ our own time


@pytest.mark.parametrize("pause", [100, 10_000])
def test_the_time_that_our_disk_takes_is_not_the_clients(pause: float) -> None:
    house = House()
    line = Line(house)
    line.say(DATA + b"x")
    line.say(b"x" * RATE)
    house.disk_is_slow = True
    line.say(b"x" * RATE)
    line.say(b"x" * RATE)  # was on its way already
    assert line.transport.producerState == "paused" and len(house.disk) == 2
    line.clock.advance(pause)
    house.disk_is_slow = False
    house.disk[0].callback(None)
    assert line.transport.producerState == "paused"
    house.disk[1].callback(None)
    assert line.transport.producerState == "producing" and not line.closed
    assert line.drips(b"x" * 10 * RATE, 10, 50) == 50
    assert line.drips(b"x", 10, 100) < 100


def test_after_the_disk_has_caught_up_the_client_has_its_whole_time_and_no_more() -> None:
    house = House()
    house.disk_is_slow = True
    line = Line(house)
    line.say(DATA + b"x")
    line.clock.advance(PATIENCE * 3 + 1)
    house.disk[0].callback(None)
    line.clock.advance(PATIENCE - 1)
    assert not line.closed
    line.clock.advance(2)
    assert line.closed and house.aborted == 1


def test_a_disk_that_catches_up_after_the_client_has_gone_is_of_no_account() -> None:
    house = House()
    house.disk_is_slow = True
    line = Line(house)
    line.say(DATA + b"x")
    line.transport.loseConnection()
    house.disk[0].callback(None)
    assert house.aborted == 1 and line.clock.getDelayedCalls() == []


# ------------------------------------------------------------------ listeners


@pytest.mark.parametrize(
    ("normalize", "relay", "codes"),
    [(True, True, [354, 250]), (True, False, [354, 550]), (False, True, [354, 550])],
)
def test_bare_line_ends_are_borne_from_trusted_clients_of_a_listener_that_bears_them(
    normalize: bool, relay: bool, codes: list[int]
) -> None:
    house = House(relay)
    line = Line(house, normalize=normalize)
    assert line.codes(DATA + b"a\nb\r\n.\r\n")[-2:] == codes
    assert house.committed == (codes[-1] == 250)
    if house.committed:
        assert house.data == b"a\r\nb\r\n"


def test_a_listener_for_lmtp_speaks_lmtp() -> None:
    house = House()
    line = Line(house, b"LHLO a\r\n", role="lmtp")
    assert line.codes(b"EHLO a\r\n" + DATA + b"Hi\r\n.\r\n") == [500, 250, 250, 250, 354, 250, 250]
    assert line.codes(START + b"BDAT 4 LAST\r\nHi\r\n") == [250, 250, 250, 250, 250]
    assert house.committed == 2


def test_a_listener_for_submission_wants_auth_first() -> None:
    line = Line(House(), role="submission")
    assert line.say(START).startswith(b"530 5.7.0 Authentication required\r\n")
    line.say(b"AUTH PLAIN " + plain_response("jones", "secret") + b"\r\n")
    line.house.answer.callback("jones")
    assert line.codes(START) == [250, 250, 250]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_listener_without_a_certificate_offers_no_tls(tls: str) -> None:
    line = Line(House(), tls=tls)
    assert b"STARTTLS" not in line.say(b"EHLO a\r\n")
    assert line.codes(b"STARTTLS\r\n") == [502]


# ------------------------------------------------------------------ AUTH


SCRAM = b"AUTH SCRAM-SHA-256 " + encode(b"n,,n=jones,r=abc").encode() + b"\r\n"


def test_keys_that_are_looked_up_slowly_let_nothing_overtake_them(line: Line) -> None:
    assert line.say(SCRAM + b"NOOP\r\n") == b""
    line.transport.clear()
    line.house.answer.callback(ScramKeys(b"salt", 4096, b"s" * 32, b"k" * 32))
    first, second = line.transport.value().split(b"\r\n")[:2]
    assert first.startswith(b"334 ") and second.startswith(b"501 ")  # the NOOP was the response
    assert line.house.asked == ["jones"]


@pytest.mark.parametrize("line_", [SCRAM, b"AUTH PLAIN " + plain_response("jones", "secret") + b"\r\n"])
def test_a_look_up_that_breaks_is_451_and_the_channel_goes_on(line: Line, line_: bytes) -> None:
    line.say(line_)
    line.transport.clear()
    line.house.answer.errback(RuntimeError("the file is gone"))
    assert line.transport.value().startswith(b"451 4.3.0 ")
    assert line.codes(b"NOOP\r\n") == [250]


def test_three_wrong_passwords_close_the_connection(line: Line) -> None:
    line.house.verdict = replies.AUTH_FAILED
    said = line.codes((b"AUTH PLAIN " + plain_response("jones", "wrong") + b"\r\n") * 5)
    assert said == [535, 535, 535, 421] and line.closed


def test_too_many_commands_without_mail_close_the_connection() -> None:
    line = Line(House(), limits=Limits(commands=10))
    assert line.codes(b"NOOP\r\n" * 50) == [250] * 9 + [421]
    assert line.closed
