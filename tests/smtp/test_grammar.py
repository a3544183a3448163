"""The grammar of commands: what is a path, what is none, and that nothing takes long to say so."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailnode.mail import NULL_PATH, Path
from mailnode.smtp.grammar import (
    after_keyword,
    decode_xtext,
    encode_xtext,
    is_address_literal,
    literal_address,
    parse_argument,
    parse_domain,
    parse_mailbox,
    parse_named_mailbox,
    parse_path,
    split_command,
)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("<>", NULL_PATH),
        ("<smith@usc.example>", Path("smith", "usc.example")),
        ("<Smith@USC.example>", Path("Smith", "USC.example")),
        ("<postmaster>", Path("postmaster")),
        ("<PostMaster>", Path("PostMaster")),
        (
            "<@HOSTA.ARPA,@HOSTB.ARPA:USERC@HOSTD.ARPA>",
            Path("USERC", "HOSTD.ARPA", ("HOSTA.ARPA", "HOSTB.ARPA")),
        ),
        ('<"a b"@x>', Path("a b", "x")),
        ("<a\\ b@x>", Path("a b", "x")),
        ("<a\\@b@x>", Path("a@b", "x")),
        ('<"a\\"b\\\\c"@x>', Path('a"b\\c', "x")),
        ('<"smith"@x>', Path("smith", "x")),
        ('<""@x>', Path("", "x")),
        ('<"<>,:@"@x>', Path("<>,:@", "x")),
        ("<a@[127.0.0.1]>", Path("a", "[127.0.0.1]")),
        ("<a@[IPv6:2001:db8::1]>", Path("a", "[IPv6:2001:db8::1]")),
        ("<@[10.0.0.1]:a@b>", Path("a", "b", ("[10.0.0.1]",))),
        ("<a@#123>", Path("a", "#123")),
        ("<a%b@c>", Path("a%b", "c")),
        ("<b!a@c>", Path("b!a", "c")),
        ("<" + "a" * 64 + "@b>", Path("a" * 64, "b")),
        ("<\xe9@x>", Path("\xe9", "x")),
        ("<a@\xe9>", Path("a", "\xe9")),
        ('<"\u4f60 \u597d"@b\xfccher.example>', Path("\u4f60 \u597d", "b\xfccher.example")),
        ("<@b\xfccher.example:a@b>", Path("a", "b", ("b\xfccher.example",))),
        ("<" + "\xe9" * 32 + "@b>", Path("\xe9" * 32, "b")),
        ("<a@" + "\xe9" * 31 + "b>", Path("a", "\xe9" * 31 + "b")),
    ],
)
def test_a_path_of_rfc_821_is_read(text: str, path: Path) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<",
        "a@b",
        "<a@b",
        "a@b>",
        "<a@b> ",
        "<a@b>x",
        "<a@b><c@d>",
        "<a>",
        "<@b>",
        "<a@>",
        "<a..b@c>",
        "<.a@c>",
        "<a.@c>",
        "<a b@c>",
        "<a@b c>",
        "<a@-b>",
        "<a@b->",
        "<a@b..c>",
        "<a@b.>",
        "<a@b_c>",
        "<a@[300.1.1.1]>",
        "<a@[010.0.0.1]>",
        "<a@[1.2.3]>",
        "<a@[IPv6:zz]>",
        "<a@[x:y]>",
        "<a@[]>",
        '<"a@b>',
        '<"a"b@c>',
        '<"a\\"@c>',
        "<a\\@c>",
        "<@A, @B: c@d>",
        "<@A:>",
        "<@A:postmaster>",
        "<@A@B:c@d>",
        "<\x80@x>",
        '<"\xa0"@x>',
        '<"\u202e"@x>',
        '<"\\\xe9"@x>',
        "<a@\u2028>",
        "<a@\u200b.example>",
        "<" + "\xe9" * 33 + "@b>",
        "<a@" + ".".join(["\xe9" * 31] * 5) + ">",
        '<"\x00"@x>',
        '<"a\tb"@x>',
        "<a@b\n>",
        "<" + "a" * 65 + "@b>",
        "<a@" + "b" * 64 + ">",
        "<a@" + ".".join(["b" * 63] * 4) + ".bb>",
        "<" + "a" * 64 + "@" + ".".join(["b" * 60] * 4) + ">",
        "<" + ",".join(["@b"] * 400) + ":a@b>",
    ],
)
def test_what_is_no_path_is_none(text: str) -> None:
    assert parse_path(text) is None


def test_a_path_may_be_256_octets_and_no_more() -> None:
    domain = ".".join(["b" * 63] * 3)
    assert parse_path(f"<{'a' * (253 - len(domain))}@{domain}>") is not None
    assert parse_path(f"<{'a' * (254 - len(domain))}@{domain}>") is None


def test_a_source_route_may_make_a_path_longer_than_256_octets() -> None:
    route = ",".join(["@host.example"] * 40)
    path = parse_path(f"<{route}:a@b>")
    assert path is not None
    assert path.route == ("host.example",) * 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a@b>", (Path("a", "b"), {})),
        (" <a@b>", (Path("a", "b"), {})),
        ("<>", (NULL_PATH, {})),
        ("<a@b> SIZE=123 body=8bitmime", (Path("a", "b"), {"SIZE": "123", "BODY": "8bitmime"})),
        ("<a@b> SMTPUTF8", (Path("a", "b"), {"SMTPUTF8": None})),
        ("<a@b> ORCPT=utf-8;\xe9@x", (Path("a", "b"), {"ORCPT": "utf-8;\xe9@x"})),
        ("<a@b> X=\x85", None),
        ("<a@b> \xe9=1", None),
        ("<> AUTH=<>", (NULL_PATH, {"AUTH": "<>"})),
        ("<a@b>  X=1", (Path("a", "b"), {"X": "1"})),
        ("  <a@b>", None),
        ("a@b", None),
        ("<a@b>SIZE=1", None),
        ("<a@b> SIZE=1 size=2", None),
        ("<a@b> SIZE=", None),
        ("<a@b> =1", None),
        ("<a@b> A=B=C", None),
        ("<a@b> -A=1", None),
        ("<a@b> A\t", None),
        ('<"a> b"@c>', (Path("a> b", "c"), {})),  # what looks like the end of a path, within quotes
        ('<"a> b"@c> SIZE=1', (Path("a> b", "c"), {"SIZE": "1"})),
        ('<"a> \xe9"@c> SMTPUTF8', (Path("a> \xe9", "c"), {"SMTPUTF8": None})),
        ('<"a> b"@c> SIZE=1 SIZE=1', None),
        ('<"a> \u202e"@c> SIZE=1', None),
        (f'<"a> {"b" * 70}"@c> SIZE=1', None),
        ('<"a> b@c> SIZE=1', None),
        ("", None),
    ],
)
def test_the_argument_of_mail_and_rcpt(text: str, expected: object) -> None:
    assert parse_argument(text) == expected


def test_a_keyword_is_found_in_any_case_and_only_at_the_start() -> None:
    assert after_keyword("from:<a@b>", "FROM:") == "<a@b>"
    assert after_keyword("FROM: <a@b>", "FROM:") == " <a@b>"
    assert after_keyword("FROM <a@b>", "FROM:") is None
    assert after_keyword("TO:<a@b>", "FROM:") is None
    assert after_keyword("", "TO:") is None


@pytest.mark.parametrize("text", ["a", "A.b-c.d1", "1.2", "[1.2.3.4]", "[IPv6:::1]", "#1", "a" * 63])
def test_a_domain_is_given_as_it_is(text: str) -> None:
    assert parse_domain(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a_b",
        "a b",
        "-a",
        "a-",
        "[",
        "[]",
        "[1]",
        "a" * 64,
        "a." * 127 + "aa",
        "é",
        "a\n",
        "a.é.example",
    ],
)
def test_what_is_no_domain_is_none(text: str) -> None:
    assert parse_domain(text) is None


def test_an_address_literal_gives_its_address() -> None:
    assert literal_address("[127.0.0.1]") == "127.0.0.1"
    assert literal_address("[ipv6:2001:DB8:0::1]") == "2001:db8::1"
    assert is_address_literal("[127.0.0.1]")
    assert not is_address_literal("127.0.0.1")
    assert parse_domain("[IPv6:fe80::1%eth0]") is None


@pytest.mark.parametrize(
    ("text", "bare", "path"),
    [
        ("u@d", False, Path("u", "d")),
        ("<u@d>", False, Path("u", "d")),
        (" u@d ", False, Path("u", "d")),
        ("@A:u@d", False, Path("u", "d", ("A",))),
        ("postmaster", False, Path("postmaster")),
        ("jones", False, None),
        ("jones", True, Path("jones")),
        ("<jones>", True, Path("jones")),
        ('"a b"', True, Path("a b")),
        ("", True, None),
        ("<>", True, None),
        ('""', True, None),
        ("a b", True, None),
        ("a@b@c", True, None),
        ("x" * 65, True, None),
    ],
)
def test_mailboxes_as_configurations_write_them(text: str, bare: bool, path: Path | None) -> None:
    assert parse_mailbox(text, bare=bare) == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fred Fonebone <fred@usc.example>", ("Fred Fonebone", Path("fred", "usc.example"))),
        ('"F. Fonebone" <fred@usc.example>', ("F. Fonebone", Path("fred", "usc.example"))),
        ("fred@usc.example", ("", Path("fred", "usc.example"))),
        ("<fred@usc.example>", ("", Path("fred", "usc.example"))),
        ("Fred <fred>", None),
        ("Fred", None),
        ("Fred <a@b> x", None),
        ("Fr\x1bed <a@b>", None),
    ],
)
def test_a_mailbox_with_a_phrase(text: str, expected: object) -> None:
    assert parse_named_mailbox(text) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"NOOP", ("NOOP", "")),
        (b"noop  ", ("NOOP", "")),
        (b"MAIL FROM:<a@b>  ", ("MAIL", "FROM:<a@b>")),
        (b"HELO   x y", ("HELO", "x y")),
        (b"", None),
        (b" MAIL", None),
        (b"MAIL\tFROM:<a@b>", None),
        (b"MAIL FROM:<a\x00@b>", None),
        (b"MAIL \r", None),
        (b"MAIL\n", None),
        (b"MAIL \xe9", None),
        (b"MAIL \xc3\xa9", ("MAIL", "\xe9")),
        (b"MAIL \xc2\x85", None),
        (b"MAIL \xe2\x80\xae", None),
        (b"MAIL \xed\xa0\x80", None),
        (b"MAIL \xc0\xaf", None),
        (b"M\xc3\x84IL", None),
        (b"MA-IL", None),
        (b"ABCDEFGHIJKL", ("ABCDEFGHIJKL", "")),
        (b"ABCDEFGHIJKLM", None),
    ],
)
def test_a_command_line_is_split_or_refused_as_a_whole(line: bytes, expected: object) -> None:
    assert split_command(line) == expected


# ------------------------------------------------------------------------- laws

_PRINTABLE = "".join(map(chr, range(32, 127)))
_label = st.text(string.ascii_letters + string.digits + "\xfc\u597d", min_size=1, max_size=12)
_domain = st.one_of(
    st.lists(_label, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(lambda ip: f"[{ip}]"),
    st.ip_addresses(v=6).map(lambda ip: f"[IPv6:{ip}]"),
)
_path = st.builds(
    Path,
    st.one_of(st.text(_PRINTABLE, max_size=64), st.text(_PRINTABLE + "\xe9\u4f60\U0001f4ee", max_size=15)),
    _domain,
    st.lists(_domain, max_size=5).map(tuple),
)


@given(_path)
def test_the_text_of_a_path_is_read_as_the_same_path(path: Path) -> None:
    text = str(path)
    read = parse_path(text)
    assert read == path or (read is None and len(path.mailbox.encode()) + 2 > 256)


@given(
    st.text(st.sampled_from('<>@.,:"\\[]#ab1 IPv6:-\xe9\u4f60\x85'), max_size=40).map(
        lambda text: f"<{text}>"
    )
)
@settings(max_examples=500)
def test_whatever_is_read_is_written_so_that_it_is_read_again(text: str) -> None:
    path = parse_path(text)
    if path is not None:
        assert parse_path(str(path)) == path
        assert parse_argument(text) == (path, {})


@given(st.binary(max_size=600))
def test_no_octets_raise(octets: bytes) -> None:
    text = octets.decode("latin-1")
    parse_path(text)
    parse_path(f"<{text}>")
    parse_argument(text)
    parse_domain(text)
    parse_mailbox(text, bare=True)
    parse_named_mailbox(text, bare=True)
    decode_xtext(text)
    command = split_command(octets)
    assert command is None or (command[0].isascii() and command[1].isprintable())


@pytest.mark.parametrize(
    "piece",
    [
        "\xe9",
        "\xe9.",
        "\xe9-",
        "a",
        "a.",
        "a-",
        "\\a",
        '"',
        '\\"',
        "@a,",
        "@a:",
        "<",
        "a@",
        " A=1",
        "#1",
        "[",
        "a!%",
        " ",
        "-",
        ":",
    ],
)
def test_hostile_length_costs_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    for hostile in (
        text,
        f"<{text}",
        f"<{text}>",
        f"<@{text}:a@b>",
        f'<"{text}@b',
        f"<a@b> {text}",
        f"x <{text}",
    ):
        parse_path(hostile[:1024])
        parse_argument(hostile)
        parse_domain(hostile)
        parse_named_mailbox(hostile, bare=True)
        decode_xtext(hostile)
        split_command(hostile.encode())
    assert time.process_time() - started < 2.0  # quadratic would be minutes


@given(st.text(st.characters(max_codepoint=255), max_size=100))
def test_xtext_gives_back_what_it_was_made_from(text: str) -> None:
    encoded = encode_xtext(text)
    assert encoded.isascii()
    assert " " not in encoded
    assert decode_xtext(encoded) == text


@pytest.mark.parametrize("text", ["a b", "+", "+2", "+2b", "a=b", "\x7f", "é"])
def test_malformed_xtext_is_none(text: str) -> None:
    assert decode_xtext(text) is None
