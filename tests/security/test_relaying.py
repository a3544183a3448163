"""Nobody relays who may not: in no form of address, by none of the four verbs, before and after a turn."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.house import House

# What a stranger writes to reach somebody at another host through us. We are mit.example, [192.0.2.25];
# leaf.example is a peer whose mail we hold.
FORMS = {
    "plainly": "<jones@else.example>",
    "as a subdomain of ours": "<jones@sub.mit.example>",
    "as a domain that begins as ours": "<jones@mit.example.else.example>",
    "as a domain that ends as ours": "<jones@notmit.example>",
    "percent hack": "<jones%else.example@mit.example>",
    "percent hack twice": "<jones%else.example%other.example@mit.example>",
    "percent hack, quoted": '<"jones%else.example"@mit.example>',
    "percent hack without a domain of ours": "<jones%else.example>",
    "percent hack at our address": "<jones%else.example@[192.0.2.25]>",
    "bang path": "<else.example!jones@mit.example>",
    "bang path over two hosts": "<other.example!else.example!jones@mit.example>",
    "bang path without a domain": "<else.example!jones>",
    "bang path to ourselves": "<mit.example!else.example!jones@mit.example>",
    "source route by us": "<@mit.example:jones@else.example>",
    "source route by our address": "<@[192.0.2.25]:jones@else.example>",
    "source route by us and others": "<@mit.example,@other.example:jones@else.example>",
    "source route by us twice": "<@mit.example,@mit.example:jones@else.example>",
    "source route by others to us": "<@else.example:jones@mit.example>",
    "source route by a peer": "<@leaf.example:jones@else.example>",
    "source route by us and a peer": "<@mit.example,@leaf.example:jones@else.example>",
    "source route with a percent hack": "<@mit.example:jones%else.example@mit.example>",
    "source route, the name in capitals": "<@MIT.EXAMPLE:jones@ELSE.EXAMPLE>",
    "source route without its colon": "<@mit.example jones@else.example>",
    "quoted at": '<"jones@else.example"@mit.example>',
    "quoted at without a domain": '<"jones@else.example">',
    "an at behind a backslash": "<jones\\@else.example@mit.example>",
    "two ats": "<jones@else.example@mit.example>",
    "two ats, ours first": "<jones@mit.example@else.example>",
    "an address literal of another host": "<jones@[198.51.100.7]>",
    "the loopback address, for a user we do not have": "<else@[127.0.0.1]>",
    "localhost": "<jones@localhost>",
    "an IPv6 literal of another host": "<jones@[IPv6:2001:db8::7]>",
    "an IPv4 address in an IPv6 literal": "<jones@[IPv6:::ffff:198.51.100.7]>",
    "an address without its brackets": "<jones@198.51.100.7>",
    "an address in octal": "<jones@[0306.063.0144.07]>",
    "an address as one number": "<jones@#3325256711>",
    "no angle brackets": "jones@else.example",
    "half an angle bracket": "<jones@else.example",
    "two pairs of angle brackets": "<<jones@else.example>>",
    "a phrase before the path": '"jones@mit.example" <jones@else.example>',
    "two paths": "<jones@mit.example><jones@else.example>",
    "two paths with a comma": "<jones@mit.example,jones@else.example>",
    "a trailing dot": "<jones@else.example.>",
    "a dot behind our name": "<jones%else.example@mit.example.>",
    "%-encoded": "<jones%40else.example@mit.example>",
    "in quoted-printable": "<jones=40else.example@mit.example>",
    "as an encoded word": "<=?utf-8?q?jones=40else.example?=@mit.example>",
    "as postmaster of another host": "<postmaster@else.example>",
    "as a postmaster with a percent hack": "<postmaster%else.example@mit.example>",
    "as a list that leads elsewhere, unknown here": "<staff@else.example>",
    "by a parameter": "<jones@else.example> RELAY=yes",
    "by AUTH= in the parameters": "<jones@else.example> AUTH=<root@mit.example>",
    "a look-alike of our domain": "<jones@m\u0456t.example>",
    "a full-width dot in our domain": "<jones@mit\uff0eexample>",
    "a full-width at": "<jones\uff20else.example@mit.example>",
    "a zero-width space in our domain": "<jones@mit\u200b.example>",
    "an empty local part": "<@else.example>",
    "a NUL behind our domain": "<jones@mit.example\0.else.example>",
    "a LF in the local part": "<jones\n@else.example>",
    "X.400": "</C=US/O=else/S=jones/@mit.example>",
}
# Forms that reach a user of ours and nobody else.
OURS = {
    "plainly": "<jones@mit.example>",
    "the name in capitals": "<jones@MIT.EXAMPLE>",
    "by our own name": "<@mit.example:jones@mit.example>",
    "by our own name twice": "<@mit.example,@MIT.example:jones@mit.example>",
    "at the loopback address": "<jones@[127.0.0.1]>",
    "postmaster": "<postmaster>",
    "Postmaster at our name": "<Postmaster@mit.example>",
}
VERBS = ("MAIL", "SEND", "SOML", "SAML")


def send(lead: Any, verb: str, path: str, extended: bool = True) -> tuple[House, int]:
    """Says a whole message to `path`; the house at the end, and the code of its RCPT."""
    line = lead(peers={"leaf": ["203.0.113.0/24"]})
    house: House = lead.house
    house.terminals.log_in("jones")
    hello = b"EHLO evil.example\r\n" if extended else b"HELO evil.example\r\n"
    utf8 = b" SMTPUTF8" if extended else b""
    opening = hello + verb.encode() + b" FROM:<evil@evil.example>" + utf8 + b"\r\n"
    assert line.codes(opening) == [250, 250]
    (code,) = line.codes(b"RCPT TO:" + path.encode() + b"\r\n")
    if 200 <= code < 300:
        assert line.codes(b"DATA\r\nbuy this\r\n.\r\n") == [354, 250]
    else:
        assert line.codes(b"DATA\r\n")[0] in (503, 554)
    line.hang_up()
    house.works()
    return house, code


def test_there_are_at_least_40_forms() -> None:
    assert len(FORMS) >= 40 and len(set(FORMS.values())) == len(FORMS)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS.keys())
def test_a_stranger_relays_in_no_form_of_address(lead: Any, path: str, verb: str) -> None:
    house, code = send(lead, verb, path)
    assert code in (500, 501, 550, 553)
    assert house.relay.letters == [] and house.empty
    assert house.mailbox.messages == {} and house.terminals.shown == []


@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS.keys())
def test_a_stranger_who_says_helo_relays_in_no_form_of_address(lead: Any, path: str) -> None:
    house, code = send(lead, "MAIL", path, extended=False)
    assert code in (500, 501, 550, 553)
    assert house.relay.letters == [] and house.empty and house.mailbox.messages == {}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("path", OURS.values(), ids=OURS.keys())
def test_what_is_for_a_user_of_ours_stays_here(lead: Any, path: str, verb: str) -> None:
    house, code = send(lead, verb, path)
    if verb == "SEND" and "ostmaster" in path:
        assert code == 450  # nobody of that name is logged in
        return
    assert code == 250
    assert house.relay.letters == [] and house.empty
    assert len(house.mailbox.messages) + len(house.terminals.shown) >= 1


@pytest.mark.parametrize("verb", VERBS)
def test_a_client_that_may_relay_is_told_apart_by_its_address_alone(verb: str) -> None:
    """The same words, from a trusted network and from elsewhere: that the tests above can fail."""
    for address, expected in (("192.0.2.7", 250), ("192.0.3.7", 550)):
        house = House(trusted=["192.0.2.0/24"])
        line = house.hear(address)
        codes = line.codes(
            b"EHLO mit.example\r\n%b FROM:<jones@mit.example>\r\nRCPT TO:<smith@else.example>\r\n"
            % verb.encode()
        )
        assert codes == [250, 250, expected]
        if expected == 250:
            assert line.codes(b"DATA\r\nhello\r\n.\r\n") == [354, 250]
            house.works()
            ((hop, letter),) = house.relay.letters
            assert hop.domain == "else.example" and letter.mode.value == verb


@pytest.mark.parametrize("hello", [b"mit.example", b"localhost", b"[127.0.0.1]", b"leaf.example"])
def test_what_a_client_calls_itself_gives_no_right(lead: Any, hello: bytes) -> None:
    line = lead(peers={"leaf": ["203.0.113.0/24"]}, trusted=["127.0.0.0/8"])
    codes = line.codes(
        b"EHLO %b\r\nMAIL FROM:<jones@mit.example>\r\nRCPT TO:<smith@else.example>\r\nRSET\r\nTURN\r\n"
        % hello
    )
    assert codes == [250, 250, 550, 250, 502]


def test_whoever_got_the_line_by_our_call_has_a_strangers_rights_even_at_a_trusted_address() -> None:
    house = House(trusted=["192.0.2.0/24"], peers={"leaf": ["192.0.2.0/24"]})
    line = house.hear_turned("192.0.2.7")
    codes = line.codes(b"EHLO leaf.example\r\nMAIL FROM:<a@leaf.example>\r\nRCPT TO:<smith@else.example>\r\n")
    assert codes == [250, 250, 550]
    assert line.codes(b"RSET\r\nVRFY jones\r\nEXPN staff\r\nTURN\r\n") == [250, 252, 550, 502]
