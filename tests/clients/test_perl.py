"""Perl's Net::SMTP, one of the few clients that still have words for SEND, SOML, SAML, VRFY and EXPN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Lines = list[str]

PERL = r"""
use strict; use warnings; use Net::SMTP;
my $smtp = Net::SMTP->new("127.0.0.1", Port => shift, Hello => "usc.edu", Timeout => 20)
    or die "no connection: $@";
# Net::SMTP says EHLO, so every line has an enhanced status code (RFC 2034) in front of its words.
sub words { map { chomp; s/^[245]\.\d+\.\d+ // unless $_[0] == 354; $_ } @_[1..$#_] }
sub reply { print join(" ", $smtp->code, join("|", words($smtp->code, $smtp->message))), "\n" }
"""


def house(terminal: Any) -> str:
    return f"""
hostname = "mit.edu"
[users]
names = ["{terminal.user}", "Mark Crispin <Admin.MRC>", "Jones"]
[terminals]
utmp = "{terminal.utmp}"
[lists]
staff = ["Jones", "Mark Crispin <Admin.MRC>"]
[routes]
"*" = "hold"
"""


@pytest.fixture
def perl(need: Any, run: Any) -> Callable[[Any, str], Lines]:
    """Runs a Perl program that speaks through `$smtp` to a node, and gives the lines that it prints."""
    program = need("perl")
    if run(program, "-MNet::SMTP", "-e1").returncode:
        pytest.skip("Perl's Net::SMTP is not installed")

    def speak(node: Any, program_text: str) -> Lines:
        done = run(program, "-e", PERL + program_text, node.port)
        assert done.returncode == 0, done.stderr
        return str(done.stdout).splitlines()

    return speak


def transaction(verb: str, user: str, text: str) -> str:
    return f"""
        $smtp->{verb}('Smith@usc.edu'); reply();
        $smtp->to('{user}@mit.edu'); reply();
        if ($smtp->ok) {{
            $smtp->data(); reply();
            $smtp->datasend("Subject: {verb}\\n\\n{text}\\n");
            $smtp->dataend(); reply();
        }}
        $smtp->quit; reply();
    """


OPENED = "250 OK"
START = "354 Start mail input; end with <CRLF>.<CRLF>"
CLOSED = "221 mit.edu Service closing transmission channel"


def without_id(lines: Lines) -> Lines:
    """The spool's name of a message is different each time."""
    return [line.partition(", queued as ")[0] for line in lines]


def test_mail_goes_to_the_mailbox(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    lines = perl(node, transaction("mail", "Jones", ".a line that begins with a dot"))
    assert without_id(lines) == [OPENED, OPENED, START, OPENED, CLOSED]
    (message,) = node.wait_for_mail("Jones")
    assert message.endswith("\nSubject: mail\n\n.a line that begins with a dot\n")
    assert terminal.shown() == ""


def test_send_appears_on_the_terminal_and_in_no_mailbox(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    terminal.log_in()
    lines = perl(node, transaction("send", terminal.user, "Lunch?"))
    assert lines == [OPENED, OPENED, START, OPENED, CLOSED]
    shown = terminal.wait_for("EOF\r\n")
    assert "Message from Smith@usc.edu on mit.edu" in shown
    assert "Lunch?\r\n" in shown
    assert node.mailbox(terminal.user) == []
    assert node.left_in_spool() == []


def test_send_to_somebody_who_is_not_active_is_450(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    lines = perl(node, transaction("send", terminal.user, "Lunch?"))
    assert lines == [OPENED, "450 User not active now", CLOSED]
    terminal.log_in()
    terminal.accept(False)  # the same words to somebody who does not accept: strangers learn nothing
    lines = perl(node, transaction("send", terminal.user, "Lunch?"))
    assert lines == [OPENED, "450 User not active now", CLOSED]
    assert terminal.shown() == ""
    assert node.left_in_spool() == []


def test_send_or_mail_shows_it_to_somebody_who_is_there(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    terminal.log_in()
    lines = perl(node, transaction("send_or_mail", terminal.user, "Lunch?"))
    assert lines == [OPENED, OPENED, START, OPENED, CLOSED]
    assert "Lunch?\r\n" in terminal.wait_for("EOF\r\n")
    assert node.mailbox(terminal.user) == []


def test_send_or_mail_mails_to_somebody_who_is_not_there(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    lines = perl(node, transaction("send_or_mail", terminal.user, "Lunch?"))
    will_mail = "250 User not active now, so will do mail."
    assert without_id(lines) == [OPENED, will_mail, START, OPENED, CLOSED]
    (message,) = node.wait_for_mail(terminal.user)
    assert message.endswith("\nSubject: send_or_mail\n\nLunch?\n")
    assert terminal.shown() == ""


def test_send_and_mail_does_both(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    terminal.log_in()
    lines = perl(node, transaction("send_and_mail", terminal.user, "Lunch?"))
    assert without_id(lines) == [OPENED, OPENED, START, OPENED, CLOSED]
    assert "Lunch?\r\n" in terminal.wait_for("EOF\r\n")
    (message,) = node.wait_for_mail(terminal.user)
    assert message.endswith("\nSubject: send_and_mail\n\nLunch?\n")


def test_verify_expand_and_help_say_what_rfc_821_says(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    lines = perl(
        node,
        r"""
        for ("Crispin", "Admin.MRC", "staff", "nobody-here") { $smtp->verify($_); reply() }
        for ("staff", "Jones", "nowhere") { print join("|", words(250, $smtp->expand($_))), "\n"; reply() }
        $smtp->help(); reply();
        $smtp->help("SOML"); reply();
        $smtp->help("TURN"); reply();
        """,
    )
    assert lines[:4] == [
        "250 Mark Crispin <Admin.MRC@mit.edu>",
        "250 Mark Crispin <Admin.MRC@mit.edu>",
        "550 That is a mailing list, not a user",
        "550 No such user here",
    ]
    members = "<Jones@mit.edu>|Mark Crispin <Admin.MRC@mit.edu>"
    assert lines[4:6] == [members, f"250 {members}"]
    assert lines[7] == "550 That is a user name, not a mailing list"
    assert lines[9] == "550 No such mailing list here"
    assert lines[10].startswith("211 mit.edu speaks RFC 821")
    assert "|HELO EHLO MAIL SEND SOML SAML RCPT DATA|" in lines[10]
    assert lines[11:] == [
        "214 SOML FROM:<reverse-path>: to a terminal, or else the mailbox",
        "504 Command parameter not implemented; HELP lists the commands",
    ]


def test_a_raw_turn_is_refused_and_the_channel_goes_on(make_node: Any, terminal: Any, perl: Any) -> None:
    node = make_node(house(terminal)).start()
    lines = perl(
        node,
        """
        print join(" ", map { defined $smtp->supports($_) ? $_ : "no-$_" } qw(SEND SOML SAML EXPN HELP TURN));
        print "\\n";
        $smtp->command("TURN")->response; print $smtp->code, " ", $smtp->message;
        """
        + transaction("mail", "Jones", "still here"),
    )
    assert lines[:2] == ["SEND SOML SAML EXPN HELP no-TURN", "502 5.5.1 Command not implemented"]
    assert without_id(lines[2:]) == [OPENED, OPENED, START, OPENED, CLOSED]
    (message,) = node.wait_for_mail("Jones")
    assert message.endswith("\n\nstill here\n")
