"""Hosts of 1985, and programs that never heard of TURN, on both ends of a turned line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.clients.spools import wait_for_spool
from tests.clients.waiting import wait_until

PATIENCE = 15.0
HUB = """
hostname = "hub.example"
[users]
names = ["hubert"]
[relay]
networks = []
[[peer]]
name = "leaf"
domains = ["leaf.example"]
allow = ["address"]
addresses = ["127.0.0.0/8"]
"""
LEAF = """
hostname = "leaf.example"
[users]
names = ["leo"]
[routes]
"*" = "hold"
[[dial]]
name = "hub"
endpoint = "tcp:127.0.0.1:PORT"
"""

# A whole host of the time, from a Perl of today: HELO, TURN, and then the receiver's part with the commands
# that every receiver had (RFC 821 4.5.1), and no other.
LEGACY = r"""
use strict; use warnings; use Net::SMTP;
my ($port, $last) = @ARGV;
my $smtp = Net::SMTP->new("127.0.0.1", Port => $port, Hello => "leaf.example", Timeout => 15, SendHello => 0)
    or die "no connection: $@";
sub ask { $smtp->command(@_)->response; print $smtp->code, " ", $smtp->message }
ask("HELO", "leaf.example");
ask("TURN");
die "not turned" unless $smtp->code == 250;
exit 0 if $last eq "nothing";
print $smtp "220 Server SMTP\r\n";
while (defined(my $line = <$smtp>)) {
    $line =~ s/\r\n\z//;
    print "> $line\n";
    my ($verb) = $line =~ /^(\w+)/;
    my %replies = (HELO => "250 leaf.example", MAIL => "250 ok", RCPT => "250 ok", RSET => "250 ok",
                   NOOP => "250 ok", QUIT => "221 bye", DATA => "354 go on");
    print $smtp ($replies{$verb} // "500 what"), "\r\n";
    exit 0 if $verb eq $last;
    last if $verb eq "QUIT";
    next unless $verb eq "DATA";
    while (defined($line = <$smtp>)) { last if $line eq ".\r\n"; print "| $line" }
    print $smtp "250 ok\r\n";
}
"""


def give(node: Any, recipient: str, *texts: str) -> None:
    """Messages for `recipient`, which are held when this returns."""
    talk = node.talk()
    assert talk.codes("HELO x") == [250]
    for text in texts:
        commands = ["MAIL FROM:<smith@usc.example>", f"RCPT TO:<{recipient}>", "DATA"]
        assert talk.codes(*commands, f"Subject: x\r\n\r\n{text}\r\n.") == [250, 250, 354, 250]
    assert talk.codes("QUIT") == [221]
    talk.close()
    wait_for_spool(node, *[("held", recipient)] * len(texts))


# ----------------------------------------------------------------- programs that say TURN


@pytest.fixture(scope="module")
def hub(make_shared_node: Any) -> Any:
    return make_shared_node(HUB, "hub").start()


@pytest.fixture
def legacy(need: Callable[[str], str], run: Callable[..., Any]) -> Callable[..., list[str]]:
    """Runs the legacy host, up to a verb, and gives what it heard."""
    perl = need("perl")
    if run(perl, "-MNet::SMTP", "-e1").returncode:
        pytest.skip("Perl's Net::SMTP is not installed")

    def call(hub: Any, last: str = "QUIT") -> list[str]:
        done = run(perl, "-e", LEGACY, hub.port, last)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout).splitlines()

    return call


def test_a_host_of_1985_gets_its_mail_with_helo_and_turn(hub: Any, legacy: Any) -> None:
    give(hub, "leo@leaf.example", "one", "..two")
    heard = legacy(hub)
    assert heard[:2] == ["250 hub.example", "250 OK"]  # MMDF wants exactly 250
    assert [line for line in heard if line.startswith("> ")] == [
        *["> EHLO hub.example", "> HELO hub.example"],
        *["> MAIL FROM:<smith@usc.example>", "> RCPT TO:<leo@leaf.example>", "> DATA"] * 2,
        "> QUIT",
    ]
    assert [line for line in heard if line in ("| one", "| ..two")] == ["| one", "| ..two"]
    wait_for_spool(hub)
    assert legacy(hub)[-2:] == ["> HELO hub.example", "> QUIT"]  # and nothing a second time


@pytest.mark.parametrize("last", ["nothing", "EHLO", "HELO", "MAIL", "RCPT", "DATA"])
def test_a_program_that_turns_and_goes_away_leaves_its_mail_held(hub: Any, legacy: Any, last: str) -> None:
    give(hub, "leo@leaf.example", "one")
    legacy(hub, last)
    heard: list[str] = []

    def fetched() -> bool:  # the hub may still have the message in hand for the connection that is gone
        heard[:] = legacy(hub)
        return "| one" in heard

    wait_until(fetched, "the message by a second call")
    wait_for_spool(hub)


def test_net_smtp_that_takes_the_250_for_any_other_and_says_quit_harms_nothing(
    hub: Any, need: Any, run: Any
) -> None:
    give(hub, "leo@leaf.example", "one")
    before = hub.text().count("the turned line of 127.0.0.1 ended")
    program = r"""
        use Net::SMTP;
        my $smtp = Net::SMTP->new("127.0.0.1", Port => shift, Hello => "leaf.example", Timeout => 5);
        $smtp->command("TURN")->response; print $smtp->code, "\n";
        $smtp->quit; print $smtp->code, "\n";
    """
    done = run(need("perl"), "-e", program, hub.port)
    assert done.returncode == 0 and done.stdout.startswith("250\n"), done.stderr
    wait_until(lambda: hub.text().count("the turned line of 127.0.0.1 ended") > before, "the end of the line")
    wait_for_spool(hub, ("held", "leo@leaf.example"))
    talk = hub.talk()
    assert talk.codes("HELO leaf.example", "TURN") == [250, 250]
    talk.close()
    wait_for_spool(hub, ("held", "leo@leaf.example"))


# ----------------------------------------------------------------- hubs of the time


class LegacyHub:
    """Serves one call: HELO and TURN, then it leads, one command at a time. `words` are its replies."""

    def __init__(self, **words: bytes) -> None:
        self._words = {"EHLO": b"500 what", "TURN": b"250 turned"} | words
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE)
        self.port: int = self._server.getsockname()[1]
        self.heard: list[str] = []
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._server.close()
        assert self.failures == []

    def _run(self) -> None:
        try:
            channel, _ = self._server.accept()
            channel.settimeout(PATIENCE)
            with channel, channel.makefile("rwb", buffering=0) as stream, suppress(ConnectionError):
                self._serve(stream)
        except BaseException as error:  # told to the test when it closes the hub
            self.failures.append(error)

    def _serve(self, stream: Any) -> None:
        stream.write(b"220 hub.example\r\n")
        while line := stream.readline():
            self.heard.append(line.decode().rstrip())
            verb = self.heard[-1].partition(" ")[0]
            reply = self._words.get(verb, {"DATA": b"354 go on", "QUIT": b"221 bye"}.get(verb, b"250 ok"))
            stream.write(reply + b"\r\n")
            if verb == "DATA":
                while (line := stream.readline()) != b".\r\n":
                    self.heard.append("| " + line.decode().rstrip())
                stream.write(b"250 ok\r\n")
            if verb == "QUIT":
                return
            if verb == "TURN" and reply.startswith(b"250"):
                self._lead(stream)
                return

    def _lead(self, stream: Any) -> None:
        self.heard.append(stream.readline().decode().rstrip())
        for command in (
            "HELO hub.example",
            "MAIL FROM:<hubert@hub.example>",
            "RCPT TO:<leo@leaf.example>",
            "DATA",
            "Subject: from the hub\r\n\r\nin\r\n.",
            "QUIT",
        ):
            stream.write(command.encode() + b"\r\n")
            self.heard.append(stream.readline().decode().rstrip())


@pytest.fixture
def make_hub() -> Iterator[Callable[..., LegacyHub]]:
    hubs: list[LegacyHub] = []

    def make(**words: bytes) -> LegacyHub:
        hubs.append(LegacyHub(**words))
        return hubs[-1]

    yield make
    for hub in hubs:
        hub.close()


def dial(make_node: Any, port: int) -> tuple[Any, dict[str, Any], list[list[str]]]:
    """A leaf with a message to go out calls: the leaf, the answer, the dialogue."""
    leaf = make_node(LEAF.replace("PORT", str(port)), "leaf").start()
    give(leaf, "hubert@hub.example", "out")
    *said, answer = leaf.ask(do="dial", name="hub", trace=True)
    return leaf, answer, [line["said"] for line in said]


def test_a_hub_of_1985_takes_our_mail_and_gives_ours(make_node: Any, make_hub: Any) -> None:
    hub = make_hub()
    leaf, answer, trace = dial(make_node, hub.port)
    assert answer["turned"] and answer["given"] == 1, answer
    (message,) = leaf.wait_for_mail("leo")
    assert message.endswith("\nin\n")
    wait_for_spool(leaf)
    assert "| out" in hub.heard
    hub.close()
    commands = [line for line in hub.heard if not line.startswith("| ")]
    assert commands[:2] == ["EHLO leaf.example", "HELO leaf.example"]
    at = commands.index("TURN")
    assert commands[at + 1].startswith("220 leaf.example")
    assert [line[:3] for line in commands[at + 2 :]] == ["250", "250", "250", "354", "250", "221"]
    assert not any(line[3:4] == "-" for line in commands[at:])  # one line is all that it reads of a reply
    assert [speaker for speaker, _ in trace].count("turn") == 1


def test_a_hub_that_has_no_messages_to_export_is_not_a_failure(make_node: Any, make_hub: Any) -> None:
    hub = make_hub(TURN=b"502 hub.example has no messages to export")  # VistA MailMan
    leaf, answer, _ = dial(make_node, hub.port)
    assert not answer["turned"] and (answer["code"], answer["given"]) == (502, 1)
    hub.close()
    assert hub.heard[-2:] == ["TURN", "QUIT"]
    wait_for_spool(leaf)
    leaf.wait_for_log("nothing to fetch")
