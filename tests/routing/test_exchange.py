"""Mail exchangers: order, implicit MX, null MX, loops, failures; with a DNS in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, TimeoutError, fail, succeed
from twisted.internet.task import Clock
from twisted.names import dns, error
from zope.interface.verify import verifyObject

from mailnode.interfaces import Exchanger, IExchange
from mailnode.mail import Hop, Reply
from mailnode.routing.exchange import HOSTS, TIMEOUT, Exchange

ZONE: dict[str, list[Any]] = {
    "one.example": [dns.Record_MX(10, "mx.one.example")],
    "mx.one.example": [dns.Record_A("192.0.2.1"), dns.Record_AAAA("2001:db8::1")],
    "order.example": [
        dns.Record_MX(30, "c.example"),
        dns.Record_MX(10, "A.example"),
        dns.Record_MX(20, "b.example"),
        dns.Record_MX(20, "b2.example"),
    ],
    "a.example": [dns.Record_A("192.0.2.10")],
    "b.example": [dns.Record_A("192.0.2.20")],
    "b2.example": [dns.Record_A("192.0.2.21")],
    "c.example": [dns.Record_A("192.0.2.30")],
    "alias.example": [dns.Record_CNAME("a.example")],
    "null.example": [dns.Record_MX(0, "")],
    "empty.example": [],
    "backup.example": [
        dns.Record_MX(10, "a.example"),
        dns.Record_MX(20, "us.example"),
        dns.Record_MX(20, "b.example"),
        dns.Record_MX(30, "c.example"),
    ],
    "ours.example": [dns.Record_MX(10, "US.example"), dns.Record_MX(20, "a.example")],
    "us.example": [dns.Record_A("192.0.2.99")],
    "by-address.example": [dns.Record_MX(10, "masked.example"), dns.Record_MX(20, "a.example")],
    "masked.example": [dns.Record_A("192.0.2.99")],
    "loopback.example": [
        dns.Record_A("127.0.0.5"),
        dns.Record_AAAA("::1"),
        dns.Record_AAAA("::ffff:127.0.0.1"),
    ],
    "link-local.example": [dns.Record_A("169.254.169.254"), dns.Record_AAAA("fe80::1")],
    "nobody.example": [dns.Record_A("0.0.0.0"), dns.Record_A("255.255.255.255"), dns.Record_AAAA("::")],
    "many.example": [dns.Record_A("224.0.0.1"), dns.Record_AAAA("ff02::1")],
    "here.example": [dns.Record_A("203.0.113.5")],
    "also-here.example": [
        dns.Record_MX(10, "a.example"),
        dns.Record_MX(20, "here.example"),
        dns.Record_MX(30, "b.example"),
    ],
    "mx-alias.example": [dns.Record_MX(10, "alias.example")],
    "mx-loop.example": [dns.Record_MX(10, "localhost")],
    "localhost": [dns.Record_A("127.0.0.1"), dns.Record_AAAA("::1")],
    "mixed.example": [dns.Record_A("127.0.0.1"), dns.Record_A("192.0.2.44")],
    "null-and-more.example": [dns.Record_MX(0, ""), dns.Record_MX(10, "a.example")],
    "half.example": [dns.Record_MX(10, "loopback.example"), dns.Record_MX(10, "a.example")],
    "dangling.example": [dns.Record_MX(10, "none.example")],
    "shaky.example": [dns.Record_MX(10, "broken.example")],
    "half-shaky.example": [dns.Record_MX(10, "broken.example"), dns.Record_MX(20, "a.example")],
    "mute.example": [dns.Record_MX(10, "silent.example")],
    "hostile.example": [dns.Record_MX(1, "a\x1b[2J.example"), dns.Record_MX(2, "a.example")],
    "flood.example": [dns.Record_MX(n, f"h{n}.example") for n in range(200)],
    **{f"h{n}.example": [dns.Record_A(f"198.51.100.{n}")] for n in range(200)},
}


class Names:
    """twisted.names' resolver over ZONE; a CNAME is answered with what it leads to."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def _answer(self, name: str, kind: int) -> Deferred[tuple[list[Any], list[Any], list[Any]]]:
        self.asked.append(name)
        if name == "broken.example":
            return fail(error.DNSServerError())
        if name == "slow.example":
            return fail(TimeoutError())
        if name == "silent.example":
            return Deferred()
        if name not in ZONE:
            return fail(error.DNSNameError())
        records = list(ZONE[name])
        for record in ZONE[name]:
            if record.TYPE == dns.CNAME:
                records.extend(ZONE[record.name.name.decode()])
        answers = [
            dns.RRHeader(name, record.TYPE, payload=record)
            for record in records
            if record.TYPE in (kind, dns.CNAME)
        ]
        return succeed((answers, [], []))

    def lookupMailExchange(
        self, name: str, timeout: Sequence[int]
    ) -> Deferred[tuple[list[Any], list[Any], list[Any]]]:
        return self._answer(name, dns.MX)

    def lookupAddress(
        self, name: str, timeout: Sequence[int]
    ) -> Deferred[tuple[list[Any], list[Any], list[Any]]]:
        return self._answer(name, dns.A)

    def lookupIPV6Address(
        self, name: str, timeout: Sequence[int]
    ) -> Deferred[tuple[list[Any], list[Any], list[Any]]]:
        return self._answer(name, dns.AAAA)


def exchange(clock: Clock | None = None, names: Names | None = None, reverse: bool = False) -> Exchange:
    return Exchange(
        names or Names(),
        ["us.example"],
        ["192.0.2.99"],
        (lambda hosts: hosts.reverse()) if reverse else (lambda hosts: None),
        clock or Clock(),
        is_ours=lambda address: address == "203.0.113.5",
    )


def ask(hop: Hop, reverse: bool = False) -> Any:
    results: list[Any] = []
    exchange(reverse=reverse).exchangers(hop).addBoth(results.append)
    (result,) = results
    return [one.endpoint for one in result] if isinstance(result, list) else result


def test_the_exchange_keeps_the_contract() -> None:
    assert verifyObject(IExchange, exchange())


def test_a_host_is_tried_by_all_its_addresses_under_its_name() -> None:
    results: list[Any] = []
    exchange().exchangers(Hop("One.Example")).addCallback(results.append)
    assert results == [
        [
            Exchanger("tcp:192.0.2.1:25", "mx.one.example", "mx.one.example"),
            Exchanger("tcp:2001\\:db8\\:\\:1:25", "mx.one.example", "mx.one.example"),
        ]
    ]


@pytest.mark.parametrize(
    ("reverse", "last"),
    [(False, ["20", "21", "30"]), (True, ["21", "20", "30"])],
)
def test_exchangers_come_by_preference_and_equal_ones_by_chance(reverse: bool, last: list[str]) -> None:
    expected = [f"tcp:192.0.2.{number}:25" for number in ["10", *last]]
    assert ask(Hop("order.example"), reverse) == expected


@pytest.mark.parametrize(
    ("domain", "endpoints"),
    [
        ("a.example", ["tcp:192.0.2.10:25"]),
        ("alias.example", ["tcp:192.0.2.10:25"]),
        ("backup.example", ["tcp:192.0.2.10:25"]),
        ("half.example", ["tcp:192.0.2.10:25"]),
        ("half-shaky.example", ["tcp:192.0.2.10:25"]),
        ("hostile.example", ["tcp:192.0.2.10:25"]),
        ("also-here.example", ["tcp:192.0.2.10:25"]),
        ("mx-alias.example", ["tcp:192.0.2.10:25"]),
        ("mixed.example", ["tcp:192.0.2.44:25"]),
        ("null-and-more.example", ["tcp:192.0.2.10:25"]),
        ("[192.0.2.7]", ["tcp:192.0.2.7:25"]),
        ("[IPv6:2001:db8::7]", ["tcp:2001\\:db8\\:\\:7:25"]),
        ("flood.example", [f"tcp:198.51.100.{n}:25" for n in range(HOSTS)]),
    ],
)
def test_the_hosts_that_are_tried(domain: str, endpoints: list[str]) -> None:
    assert ask(Hop(domain)) == endpoints


@pytest.mark.parametrize(
    ("domain", "code", "status"),
    [
        ("none.example", 550, "5.1.2"),
        ("empty.example", 550, "5.4.4"),
        ("dangling.example", 550, "5.4.4"),
        ("null.example", 556, "5.1.10"),
        ("broken.example", 451, "4.4.3"),
        ("slow.example", 451, "4.4.3"),
        ("shaky.example", 451, "4.4.3"),
        ("ours.example", 554, "5.4.6"),
        ("us.example", 554, "5.4.6"),
        ("by-address.example", 554, "5.4.6"),
        ("loopback.example", 554, "5.4.6"),
        ("link-local.example", 554, "5.4.6"),
        ("nobody.example", 554, "5.4.6"),
        ("many.example", 554, "5.4.6"),
        ("here.example", 554, "5.4.6"),
        ("mx-loop.example", 554, "5.4.6"),
        ("[127.0.0.1]", 554, "5.4.6"),
        ("[169.254.169.254]", 554, "5.4.6"),
        ("[203.0.113.5]", 554, "5.4.6"),
        ("[IPv6:fe80::1]", 554, "5.4.6"),
        ("[IPv6:::ffff:127.0.0.1]", 554, "5.4.6"),
        ("[192.0.2.99]", 554, "5.4.6"),
        ("[IPv6:::1]", 554, "5.4.6"),
        ("[nonsense", 550, "5.1.2"),
    ],
)
def test_the_reply_when_there_is_no_host(domain: str, code: int, status: str) -> None:
    result = ask(Hop(domain))
    assert isinstance(result, Reply)
    assert (result.code, result.status) == (code, status)


def test_an_explicit_endpoint_is_taken_without_any_look_up() -> None:
    names = Names()
    results: list[Any] = []
    hop = Hop("usc.example", "tcp:127.0.0.1:2600")
    exchange(names=names).exchangers(hop).addCallback(results.append)
    assert results == [[Exchanger("tcp:127.0.0.1:2600", "usc.example", "usc.example")]]
    assert names.asked == []


@pytest.mark.parametrize("target", ["tcp:127.0.0.1:25", "tcp:192.0.2.99:25", "unix:/run/other-mta"])
def test_what_an_operator_names_is_taken_even_if_it_is_this_host(target: str) -> None:
    assert ask(Hop("usc.example", target)) == [target]


def test_the_certificate_has_to_be_for_the_exchanger_or_the_literal() -> None:
    results: list[Any] = []
    exchange().exchangers(Hop("[IPv6:2001:db8::7]")).addCallback(results.append)
    assert [one.tls_name for one in results[0]] == ["2001:db8::7"]


def test_a_silent_dns_ends_as_a_transient_failure() -> None:
    clock = Clock()
    results: list[Any] = []
    exchange(clock).exchangers(Hop("silent.example")).addBoth(results.append)
    assert results == []
    clock.advance(TIMEOUT)
    assert [(one.code, one.status) for one in results] == [(451, "4.4.3")]
    assert not clock.getDelayedCalls()


def test_an_answer_in_time_leaves_no_timer() -> None:
    clock = Clock()
    exchange(clock).exchangers(Hop("one.example"))
    assert not clock.getDelayedCalls()


def test_a_silent_dns_for_an_address_ends_too() -> None:
    clock = Clock()
    results: list[Any] = []
    exchange(clock).exchangers(Hop("mute.example")).addBoth(results.append)
    clock.advance(TIMEOUT)
    assert [(one.code, one.status) for one in results] == [(451, "4.4.3")]
