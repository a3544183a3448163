"""The grammar of commands.

Invariants:
- No text raises anything, or takes more than linear time.
- A path that is taken, written again, is read as the same path, and is printable and within its limits in
  octets; of what is ASCII it is ASCII.
- A domain that is taken is taken as it is; an address literal has one canonical address.
- A command that is taken has a verb of letters and digits and a printable argument.
- xtext that is written is read as the same text.
"""

from __future__ import annotations

from ipaddress import ip_address

from mailnode.mail import Path
from mailnode.smtp import grammar

MAX_LENGTH = 2100


def TestOneInput(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    _commands(data)
    _paths(text)
    _paths(data.decode("latin-1"))
    _domains(text)
    _xtext(text)


def _commands(line: bytes) -> None:
    words = grammar.split_command(line)
    if words is None:
        return
    verb, argument = words
    assert verb.isascii() and verb.isalnum() and verb == verb.upper() and 0 < len(verb) <= grammar.VERB_LIMIT
    assert (argument.isprintable() or not argument) and argument.encode() in line
    assert not argument.startswith(" ") and not argument.endswith(" ")
    for keyword in ("FROM:", "TO:"):
        rest = grammar.after_keyword(argument, keyword)
        if rest is None:
            assert argument[: len(keyword)].upper() != keyword
            continue
        assert rest == argument[len(keyword) :]
        _argument(rest)


def _argument(text: str) -> None:
    parsed = grammar.parse_argument(text)
    if parsed is None:
        return
    path, parameters = parsed
    _is_sound(path, text)
    for keyword, value in parameters.items():
        assert keyword == keyword.upper() and keyword.isascii() and keyword.isprintable() and keyword
        assert value is None or (value.isprintable() and " " not in value)


def _paths(text: str) -> None:
    _argument(text)
    path = grammar.parse_path(text)
    if path is not None:
        assert text.startswith("<") and text.endswith(">")
        _is_sound(path, text)
    for bare in (False, True):
        mailbox = grammar.parse_mailbox(text, bare=bare)
        if mailbox is not None:
            assert not mailbox.is_null  # though `""@usc.example` is a name by the grammar
            assert mailbox.domain or bare or mailbox.local.lower() == "postmaster"
            _is_sound(mailbox, text)
        named = grammar.parse_named_mailbox(text, bare=bare)
        if named is not None:
            phrase, path = named
            assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in phrase)
            _is_sound(path, text)


def _is_sound(path: Path, source: str) -> None:
    """Whether what we write of a path is read by others as the same path."""
    written = str(path)
    size = len(written.encode())
    assert written.isprintable() and (written.isascii() or not source.isascii()), written
    assert len(path.local.encode()) <= grammar.LOCAL_LIMIT and size <= grammar.ROUTE_PATH_LIMIT
    assert path.route or size <= grammar.PATH_LIMIT or not path.domain
    for host in (*path.route, *([path.domain] if path.domain else [])):
        assert grammar.parse_domain(host) == (host if host.isascii() else None)
    if path.domain or path.is_null or path.local.lower() == "postmaster":
        assert grammar.parse_path(written) == path, written
        assert grammar.parse_argument(written + " SIZE=1") == (path, {"SIZE": "1"})
    else:
        assert grammar.parse_mailbox(written, bare=True) == path, written


def _domains(text: str) -> None:
    domain = grammar.parse_domain(text)
    assert domain is None or (domain == text and text.isascii() and len(text) <= grammar.DOMAIN_LIMIT)
    address = grammar.literal_address(text)
    assert grammar.is_address_literal(text) == (address is not None)
    if address is not None:
        assert str(ip_address(address)) == address
        assert domain == text or "%" in text  # a scope is no part of an address


def _xtext(text: str) -> None:
    decoded = grammar.decode_xtext(text)
    if decoded is not None:
        assert len(decoded) <= len(text)
        if max(decoded, default="") <= "\xff":
            assert grammar.decode_xtext(grammar.encode_xtext(decoded)) == decoded
    if max(text, default="") > "\xff":
        return
    encoded = grammar.encode_xtext(text)
    assert encoded.isascii() and (encoded.isprintable() or not encoded) and " " not in encoded
    assert grammar.decode_xtext(encoded) == text
