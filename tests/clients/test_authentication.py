"""AUTH as real clients speak it: msmtp (by GNU SASL) and swaks (by Perl), mechanism by mechanism."""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from mailnode.access.passwords import Passwords

HOUSE = """
hostname = "mit.example"
[users]
names = ["jones"]
passwords = "passwords"
[relay]
networks = []
[routes]
"*" = "hold"
[[peer]]
name = "leaf"
domains = ["leaf.example"]
cram_md5 = true
"""
SECRET = "ros\u00e9, bud=\u2168"


def at_once(work: Callable[[], Any], /) -> Deferred[Any]:
    return succeed(work())


@pytest.fixture(scope="module")
def node(make_shared_node: Any) -> Any:
    node = make_shared_node(HOUSE)
    passwords = Passwords(str(node.folder / "passwords"), at_once)
    passwords.set("jones", SECRET)
    passwords.set("leaf", "rosebud", recoverable=True)
    return node.start()


@pytest.fixture
def msmtp(need: Any, run: Any, node: Any) -> Callable[..., Any]:
    program = need("msmtp")

    def send(mechanism: str, name: str, secret: str) -> Any:
        # A password with blanks and quotes comes by a command: msmtp's file has no way to quote one.
        (node.folder / "secret").write_text(secret)
        return run(
            *[program, "-C", "/dev/null", "--host=127.0.0.1", f"--port={node.port}", "--tls=off"],
            *["--domain=usc.example", f"--auth={mechanism}", f"--user={name}"],
            *[f"--passwordeval=cat {node.folder}/secret", "--from=smith@usc.example", "x@usc.example"],
            stdin=f"Subject: {mechanism}\n\nhello\n",
        )

    return send


@pytest.mark.parametrize(
    ("mechanism", "name", "secret"),
    [
        ("plain", "jones", SECRET),
        ("login", "jones", SECRET),
        ("scram-sha-256", "jones", SECRET),
        ("scram-sha-256", "jones", SECRET.replace("\u2168", "IX")),  # the same, prepared (RFC 4013)
        ("cram-md5", "leaf", "rosebud"),
        ("scram-sha-256", "leaf", "rosebud"),
    ],
)
def test_msmtp_proves_itself_and_may_relay(msmtp: Any, mechanism: str, name: str, secret: str) -> None:
    done = msmtp(mechanism, name, secret)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mechanism", ["plain", "login", "scram-sha-256", "cram-md5"])
@pytest.mark.parametrize("name", ["leaf", "nobody"])
def test_msmtp_with_a_wrong_password_is_refused_in_the_same_words(
    msmtp: Any, mechanism: str, name: str
) -> None:
    refused = msmtp(mechanism, name, "wrong")
    assert refused.returncode == 77, refused.stderr  # EX_NOPERM
    assert "535 5.7.8 Authentication credentials invalid" in refused.stderr
    msmtp("plain", "jones", SECRET)  # a success: the next failure is the first


@pytest.mark.parametrize(
    ("mechanism", "name"), [("PLAIN", "jones"), ("LOGIN", "jones"), ("CRAM-MD5", "leaf")]
)
def test_swaks_proves_itself(need: Any, run: Any, node: Any, mechanism: str, name: str) -> None:
    done = run(
        *[need("swaks"), "--server", "127.0.0.1", "--port", node.port, "--timeout", 20],
        *["--helo", "usc.example", "--from", "smith@usc.example", "--to", "x@usc.example"],
        *["--auth", mechanism, "--auth-user", name],
        *["--auth-password", SECRET if name == "jones" else "rosebud"],
    )
    assert done.returncode == 0, done.stdout
    assert f"AUTH {mechanism}" in done.stdout and "<-  235 2.7.0" in done.stdout


def test_cram_md5_is_for_the_peer_alone(msmtp: Any) -> None:
    refused = msmtp("cram-md5", "jones", SECRET)
    assert refused.returncode == 77 and "535 5.7.8" in refused.stderr


def test_who_fails_three_times_is_put_off_over_every_new_connection(make_node: Any) -> None:
    node = make_node(HOUSE)
    Passwords(str(node.folder / "passwords"), at_once).set("jones", "rosebud")
    node.start()
    wrong, right = "AUTH PLAIN AGpvbmVzAHdyb25n", "AUTH PLAIN AGpvbmVzAHJvc2VidWQ="

    def answer(command: str) -> str:
        talk = node.talk()
        talk.say("EHLO usc.example")
        reply: str = talk.say(command)[0]
        talk.close()
        return reply

    assert [answer(wrong)[:3] for _ in range(3)] == ["535", "535", "535"]
    assert answer(right) == "454 4.7.0 Temporary authentication failure, try again later"
    node.wait_until(lambda: answer(right)[:3] == "235", "the wait of two seconds is over")
    log = node.text()
    assert "authentication by PLAIN or LOGIN failed for 'jones'; next attempt in 2 s" in log
    assert "rosebud" not in log and "wrong" not in log


def test_a_peer_that_is_taken_out_of_the_configuration_is_nobody(make_node: Any) -> None:
    """Its line in the passwords file stays; else it could go on relaying as a user does."""
    node = make_node(HOUSE)
    Passwords(str(node.folder / "passwords"), at_once).set("leaf", "rosebud")
    node.start()
    proof = "AUTH PLAIN " + base64.b64encode(b"\0leaf\0rosebud").decode()
    relay = ("MAIL FROM:<leo@leaf.example>", "RCPT TO:<x@usc.example>", "RSET")
    before = node.talk()
    assert before.codes("EHLO leaf.example", proof, *relay) == [250, 235, 250, 250, 250]
    text = node.file.read_text()
    node.file.write_text(text.partition("[[peer]]")[0] + text[text.index("[[listen]]") :])
    node.process.send_signal(signal.SIGHUP)
    node.wait_for_log("configuration reread")
    after = node.talk()
    assert after.codes("EHLO leaf.example", proof, *relay[:2]) == [250, 535, 250, 550]
    assert after.say("TURN")[0][:3] in ("502", "503")
    # Who was there before keeps the right to send, and gets nothing any more.
    assert before.codes(*relay, "TURN") == [250, 250, 250, 502]
