"""Which addresses can be another host, and whose name a certificate must have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.routing.elsewhere import certified_name, is_elsewhere


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_an_address_on_this_side_of_every_router_is_no_other_host(address: str) -> None:
    assert not is_elsewhere(address)


@pytest.mark.parametrize(
    "address",
    [
        *["192.0.2.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "2001:db8::1", "fd00::1"],
        *["::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::1"],
    ],
)
def test_any_other_address_can_be_another_host(address: str) -> None:
    assert is_elsewhere(address)


@given(st.ip_addresses(v=4))
def test_an_ipv6_address_that_carries_an_ipv4_one_is_as_good_as_that(ip: object) -> None:
    assert is_elsewhere(f"::ffff:{ip}") == is_elsewhere(f"64:ff9b::{ip}") == is_elsewhere(str(ip))


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("tcp:mail.usc.example:25", "mail.usc.example"),
        ("tcp:host=mail.usc.example:port=25", "mail.usc.example"),
        ("tcp:port=25:host=mail.usc.example", "mail.usc.example"),
        ("tls:mail.usc.example:465", "mail.usc.example"),
        ("tcp:192.0.2.1:25", "usc.example"),
        ("tcp:2001\\:db8\\:\\:1:25", "usc.example"),
        ("unix:/run/lmtp", "usc.example"),
        ("tcp:port=25", "usc.example"),
    ],
)
def test_the_certificate_is_for_the_host_of_the_endpoint_or_else_the_domain(endpoint: str, name: str) -> None:
    assert certified_name(endpoint, "usc.example") == name
