"""What MAIL and RCPT may say besides a path: SMTPUTF8 (RFC 6531), DSN (RFC 3461), BODY, SIZE; and LMTP."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.mail import Mode, Path, Reply, Terms
from mailnode.smtp import events
from mailnode.smtp.receiver import Limits, State
from mailnode.smtp.transaction import ENVID_LIMIT, ORCPT_LIMIT

SMITH = "MAIL FROM:<smith@usc.example>"
JONES = "RCPT TO:<jones@mit.example>"


def line(*words: str) -> bytes:
    return " ".join(words).encode() + b"\r\n"


def terms(conversation: Any, *words: str) -> Terms | None:
    """The terms of a MAIL with these parameters, None if it is 501."""
    code = conversation.say(line(SMITH, *words))
    asked = conversation.asked(events.AskSender)
    assert code == ([250] if asked else [501])
    return asked[-1].terms if asked else None


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", Terms()),
        ("BODY=7BIT", Terms()),
        ("BODY=8bitmime", Terms(eight_bit=True)),
        ("BODY=BinaryMIME", Terms(binary=True)),
        ("SMTPUTF8", Terms(utf8=True)),
        ("smtputf8 body=8BITMIME", Terms(utf8=True, eight_bit=True)),
        ("RET=FULL", Terms(ret="FULL")),
        ("ret=hdrs ENVID=QQ314159", Terms(ret="HDRS", envid="QQ314159")),
        ("ENVID=a+2Bb+20c+3D", Terms(envid="a+b c=")),
        ("ENVID=" + "x" * ENVID_LIMIT, Terms(envid="x" * ENVID_LIMIT)),
        ("AUTH=smith+40usc.example SIZE=5", Terms()),
        ("BODY=9BITMIME", None),
        ("BODY=", None),
        ("SMTPUTF8=yes", None),
        ("RET=ALL", None),
        ("RET", None),
        ("RET=FULL RET=HDRS", None),
        ("ENVID", None),
        ("ENVID=" + "x" * (ENVID_LIMIT + 1), None),
        ("ENVID=a+2b", None),
        ("ENVID=a+", None),
        ("ENVID=a+0D+0Ab", None),
        ("ENVID=a+00", None),
        ("ENVID=a+E9", None),
        ("ENVID=\u00e9", None),
        ("NOTIFY=NEVER", None),
        ("REQUIRETLS", None),
        ("XCLIENT=1", None),
    ],
)
def test_the_parameters_of_mail(converse: Any, words: str, wanted: Terms | None) -> None:
    assert terms(converse(), *([words] if words else [])) == wanted


@pytest.mark.parametrize("verb", ["MAIL", "SEND", "SOML", "SAML"])
def test_they_are_the_same_for_the_four_verbs(converse: Any, verb: str) -> None:
    host = converse()
    host.say(line(f"{verb} FROM:<smith@usc.example>", "SIZE=7", "BODY=8BITMIME", "RET=HDRS"))
    assert host.asked(events.AskSender) == [
        events.AskSender(Mode(verb), Path("smith", "usc.example"), 7, Terms(eight_bit=True, ret="HDRS"))
    ]


@pytest.mark.parametrize(
    ("words", "notify", "orcpt"),
    [
        ("NOTIFY=NEVER", ("NEVER",), ""),
        ("notify=success,Failure", ("SUCCESS", "FAILURE"), ""),
        ("NOTIFY=DELAY,DELAY", ("DELAY",), ""),
        ("ORCPT=rfc822;Bob+2BTag@usc.example", (), "rfc822;Bob+Tag@usc.example"),
        ("ORCPT=x400;/C+3Dus/A+3D+20/", (), "x400;/C=us/A= /"),
        ("NOTIFY=FAILURE ORCPT=rfc822;a@b", ("FAILURE",), "rfc822;a@b"),
        ("ORCPT=utf-8;\\x{E9}@b", (), "utf-8;\\x{E9}@b"),
        ("ORCPT=rfc822;" + "x" * (ORCPT_LIMIT - 7), (), "rfc822;" + "x" * (ORCPT_LIMIT - 7)),
    ],
)
def test_the_parameters_of_rcpt(converse: Any, words: str, notify: tuple[str, ...], orcpt: str) -> None:
    host = converse()
    assert host.say(line(SMITH) + line(JONES, words)) == [250, 250]
    assert host.asked(events.AskRecipient) == [
        events.AskRecipient(Path("jones", "mit.example"), notify, orcpt)
    ]


@pytest.mark.parametrize(
    "words",
    [
        "NOTIFY",
        "NOTIFY=",
        "NOTIFY=,",
        "NOTIFY=SUCCESS,",
        "NOTIFY=NEVER,FAILURE",
        "NOTIFY=FAILURE,NEVER",
        "NOTIFY=ALWAYS",
        "NOTIFY=\u017fUCCESS",
        "NOTIFY=NEVER NOTIFY=NEVER",
        "ORCPT",
        "ORCPT=bob@usc.example",
        "ORCPT=;bob@usc.example",
        "ORCPT=rfc822;",
        "ORCPT=rfc 822;bob",
        "ORCPT=rfc_822;bob",
        "ORCPT=rfc822;bob+2",
        "ORCPT=rfc822;bob+0D+0ABcc:+20all",
        "ORCPT=rfc822;bob+1B[2J",
        "ORCPT=rfc822;b\u00f6b@usc.example",
        "ORCPT=utf-8;b\u00f6b@usc.example",
        "ORCPT=rfc822;" + "x" * (ORCPT_LIMIT - 6),
        "ORCPT=" + "x" * 65 + ";bob",
        "SIZE=1",
        "RRVS=2020-01-01",
    ],
)
def test_other_parameters_of_rcpt_are_501_and_name_nobody(converse: Any, words: str) -> None:
    host = converse()
    assert host.say(line(SMITH) + line(JONES, words)) == [250, 501]
    assert not host.asked(events.AskRecipient)
    assert host.receiver.state is State.OPEN


@pytest.mark.parametrize("words", ["SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "RET=FULL", "AUTH=<>"])
def test_a_client_that_said_helo_was_offered_no_parameters(converse: Any, words: str) -> None:
    host = converse(hello=b"HELO usc.example")
    assert host.say(line(SMITH, words) + line(SMITH) + line(JONES, "NOTIFY=NEVER")) == [501, 250, 501]


# ------------------------------------------------------------------ SMTPUTF8


def test_addresses_in_utf8_pass_where_smtputf8_was_said(converse: Any) -> None:
    host = converse()
    said = line("MAIL FROM:<@b\u00fccher.example:sm\u00edth@usc.example> SMTPUTF8")
    said += line('RCPT TO:<"\u4f60 \u597d"@\u90ae\u4ef6.example> ORCPT=utf-8;\u4f60@b')
    assert host.say(said, 1) == [250, 250]
    (sender,) = host.asked(events.AskSender)
    assert sender.reverse_path == Path("sm\u00edth", "usc.example", ("b\u00fccher.example",))
    assert host.asked(events.AskRecipient) == [
        events.AskRecipient(Path("\u4f60 \u597d", "\u90ae\u4ef6.example"), (), "utf-8;\u4f60@b")
    ]


@pytest.mark.parametrize(
    "path",
    [
        "<sm\u00edth@usc.example>",
        "<smith@b\u00fccher.example>",
        "<@b\u00fccher.example:smith@usc.example>",
        '<"sm\u00edth"@usc.example>',
    ],
)
def test_and_are_553_where_it_was_not(converse: Any, path: str) -> None:
    host = converse()
    assert host.say(line(f"MAIL FROM:{path}")) == [553]
    assert host.say(line(SMITH) + line(f"RCPT TO:{path}")) == [250, 553]
    assert not host.asked(events.AskRecipient)
    assert host.receiver.state is State.OPEN


@pytest.mark.parametrize(
    "octets", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xc2\x85", b"\xe2\x80\xa8"]
)
def test_what_is_no_printable_utf8_is_500_even_so(converse: Any, octets: bytes) -> None:
    host = converse()
    assert host.say(b"MAIL FROM:<sm" + octets + b"th@usc.example> SMTPUTF8\r\n") == [500]
    host.say(b"MAIL FROM:<> SMTPUTF8\r\n")
    assert host.say(b"RCPT TO:<" + octets + b"@usc.example>\r\n") == [500]


@pytest.mark.parametrize(
    "command",
    [
        "HELO b\u00fccher.example",
        "NOOP \u00e9",
        "HELP \u00e9",
        "QUIT \u00e9",
        "AUTH PL\u00c4IN",
        "DATA \u00e9",
    ],
)
def test_only_commands_with_addresses_may_hold_utf8(converse: Any, command: str) -> None:
    host = converse()
    assert host.say(line(command)) == [500]
    assert host.receiver.state is State.IDLE


def test_a_client_that_said_helo_says_everything_in_ascii(converse: Any) -> None:
    host = converse(hello=b"HELO usc.example")
    assert host.say(line("VRFY sm\u00edth") + line("MAIL FROM:<sm\u00edth@usc.example>")) == [500, 500]


def test_vrfy_and_expn_take_utf8_and_its_parameter(converse: Any) -> None:
    """RFC 6531 3.7.4.2."""
    host = converse()
    host.say(line("VRFY Fred Sm\u00edth") + line("VRFY sm\u00edth SMTPUTF8") + line("EXPN staff smtputf8"))
    host.say(line("VRFY SMTPUTF8") + line("EXPN SMTPUTF8 staff"))
    asked = host.asked(events.AskVerify) + host.asked(events.AskExpand)
    assert [ask.text for ask in asked] == [
        "Fred Sm\u00edth",
        "sm\u00edth",
        "SMTPUTF8",
        "staff",
        "SMTPUTF8 staff",
    ]
    old = converse(hello=b"HELO usc.example")
    old.say(line("VRFY smith SMTPUTF8"))
    assert old.asked(events.AskVerify) == [events.AskVerify("smith SMTPUTF8")]


# ------------------------------------------------------------------ LMTP (RFC 2033)

RECIPIENTS = line(SMITH) + line(JONES) * 3
ENDS = pytest.mark.parametrize(
    ("ending", "first"),
    [
        (b"DATA\r\n%b.\r\n", [354]),
        (b"BDAT %d LAST\r\n%b", []),
        (b"BDAT %d\r\n%bBDAT 0 LAST\r\n", [250]),
    ],
)


def message(ending: bytes, body: bytes) -> bytes:
    return ending % ((len(body), body) if b"%d" in ending else body)


@ENDS
@pytest.mark.parametrize("code", [250, 451, 554])
def test_lmtp_answers_the_mail_data_for_each_recipient_that_was_taken(
    converse: Any, ending: bytes, first: list[int], code: int
) -> None:
    host = converse(hello=b"LHLO usc.example", lmtp=True, answers={events.AskCustody: Reply(code, "So")})
    assert host.say(RECIPIENTS) == [250] * 4
    host.answers[events.AskRecipient] = Reply(550, "No such user here")
    assert host.say(line(JONES)) == [550]
    assert host.say(message(ending, b"Hi\r\n"), 1) == [*first, code, code, code]
    assert host.taken == [b"Hi\r\n"]
    assert host.say(line(SMITH)) == [250]


@pytest.mark.parametrize("body", [b"more than ten octets\r\n", b"a\nb\r\n"])
def test_lmtp_refuses_mail_data_for_each_recipient_too(converse: Any, body: bytes) -> None:
    host = converse(hello=b"LHLO usc.example", limits=Limits(message_size=10), lmtp=True)
    host.say(RECIPIENTS)
    code = 552 if len(body) > 10 else 550
    assert host.say(b"DATA\r\n" + body + b".\r\n") == [354, code, code, code]
    assert host.taken == []


def test_lmtp_refuses_a_chunk_that_is_not_the_last_once(converse: Any) -> None:
    host = converse(hello=b"LHLO usc.example", limits=Limits(message_size=10), lmtp=True)
    host.say(RECIPIENTS)
    assert host.say(b"BDAT 20\r\n" + b"x" * 20 + b"BDAT 0 LAST\r\n") == [552, 503]


@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 0 LAST\r\n"])
def test_lmtp_without_recipients_is_503_whether_some_were_refused_or_not(
    converse: Any, command: bytes
) -> None:
    """RFC 2033 4.2."""
    refuse = {events.AskRecipient: Reply(550, "No such user here")}
    host = converse(hello=b"LHLO usc.example", lmtp=True, answers=refuse)
    assert host.say(line(SMITH) + command + line(JONES) + command) == [250, 503, 550, 503]


def test_smtp_answers_mail_data_once_whatever_the_number_of_recipients(converse: Any) -> None:
    host = converse()
    assert host.say(RECIPIENTS + b"DATA\r\n.\r\n") == [250] * 4 + [354, 250]
