"""`~/.mailnode` in real homes: a real node obeys it, whatever lies there, for people at real terminals.

The node runs in a mount namespace with a passwd(5) of the test's own: so the homes are the test's. All of its
login names have the uid of whoever runs the tests, since a terminal must belong to its user.
"""

from __future__ import annotations

import os
import statistics
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

NODE = """
hostname = "mit.example"
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[[listen]]
endpoint = "haproxy:tcp:{proxied}:interface=127.0.0.1"
[users]
names = [{names}]
[limits]
errors = 10000
commands = 10000
[terminals]
utmp = "{utmp}"
allow = "anyone"
rate = 500
rate_all = 1000
"""
BIND = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'
SMITH, GREEN = "smith@usc.example", "green@isi.example"
ELSEWHERE = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 25\r\n"
NOT_ACTIVE = "450 4.2.1 User not active now"

# What the files of the users say.
SAYS = {
    "listed": 'from = ["smith@usc.example", "@mit.example"]',
    "nearby": 'from = "same host"',
    "trusting": 'from = "trusted"',
    "closed": 'from = "nobody"',
    "rated": "rate = 1",
    "busy": "rate_all = 2",
}
# What lies there instead, and what the log says of it. Whatever was meant, the default holds.
NOBODY = '[messages]\nfrom = "nobody"\n'
HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "linked": (lambda file: file.symlink_to("other"), "Too many levels of symbolic links"),
    "piped": (os.mkfifo, "not a regular file"),
    "folder": (Path.mkdir, "not a regular file"),
    "large": (lambda file: file.write_text(NOBODY + "#" * 20000), "larger than 16384 octets"),
    "open": (lambda file: (file.write_text(NOBODY), file.chmod(0o666)), "anybody may write to it"),
    "wrong": (lambda file: file.write_text('[messages]\nfrom = "my friends"\n'), "messages.from: "),
    "octets": (lambda file: file.write_bytes(b"\xff\x1b]0;x\x07"), "not UTF-8"),
}


class Homes:
    """A node whose users have homes of the test's, and a terminal for each of them."""

    def __init__(self, folder: Path, utmp: Any, proxied: int) -> None:
        self.folder = folder
        self.me = utmp.user
        self.utmp = utmp
        self.users = [self.me, *SAYS, *HARMS]
        self.devices: dict[str, str] = {}  # of their terminals
        if os.geteuid() == 0:  # no other can give files away
            self.users.append("foreign")
        folder.mkdir()
        uid, gid = os.geteuid(), os.getegid()
        self.passwd = folder / "passwd"
        self.passwd.write_text(
            "".join(f"{user}:x:{uid}:{gid}::{folder}/{user}:/bin/sh\n" for user in self.users)
        )
        self.config = NODE.format(
            proxied=proxied, utmp=utmp.file, names=", ".join(f'"{user}"' for user in self.users)
        )
        self.proxied = proxied
        self.node: Any = None
        for user in self.users:
            (folder / user).mkdir()
        for user, words in SAYS.items():
            self.file(user).write_text(f"[messages]\n{words}\n")
        for user, (put, _) in HARMS.items():
            (folder / user / "other").write_text(NOBODY)
            put(self.file(user))
        if "foreign" in self.users:
            self.file("foreign").write_text(NOBODY)
            os.chown(self.file("foreign"), 65534, 65534)

    def file(self, user: str) -> Path:
        return self.folder / user / ".mailnode"

    def say(self, *commands: str, elsewhere: bool = False) -> list[str]:
        """The last reply to each command of a client here, or of one that a proxy says is elsewhere."""
        line = self.node.talk(self.proxied, ELSEWHERE) if elsewhere else self.node.talk()
        line.say("EHLO usc.example")
        replies = [line.say(command)[-1] for command in commands]
        line.close()
        return replies

    def welcome(self, user: str, sender: str = SMITH, *, elsewhere: bool = False) -> bool:
        """Whether a SEND for `user` would be taken now; who is not welcome hears what all hear."""
        opening = (f"SEND FROM:<{sender}>", f"RCPT TO:<{user}@mit.example>")
        reply = self.say(*opening, elsewhere=elsewhere)[1]
        assert reply[:3] == "250" or reply == NOT_ACTIVE, reply
        return reply[:3] == "250"

    def send(self, user: str, text: str, sender: str = SMITH, verb: str = "SEND") -> str:
        opening = (f"{verb} FROM:<{sender}>", f"RCPT TO:<{user}@mit.example>", "DATA")
        return self.say(*opening, f"{text}\r\n.")[-1][:3]


@pytest.fixture
def homes(
    tmp_path: Path, make_node: Any, utmp: Any, need: Any, run: Any, free_port: Any
) -> Iterator[tuple[Homes, dict[str, int]]]:
    """The homes, and the screen of each user's terminal; the tester's own has none yet."""
    unshare = [need("unshare"), "--mount"]
    if os.geteuid():
        unshare += ["--user", "--map-current-user", "--keep-caps"]
    homes = Homes(tmp_path / "homes", utmp, free_port())
    inside = [*unshare, "sh", "-c", BIND, "sh", homes.passwd]
    if run(*inside, "true").returncode:
        pytest.skip("this system lets nobody have a mount namespace")
    screens: dict[str, int] = {}
    with ExitStack() as ends:
        for user in homes.users[1:]:
            master, slave = os.openpty()
            ends.callback(os.close, master)
            ends.callback(os.close, slave)
            tty.setraw(slave)
            os.set_blocking(master, False)
            os.fchmod(slave, 0o620)
            screens[user], homes.devices[user] = master, os.ttyname(slave)
        utmp.log_in(**homes.devices)
        homes.node = make_node(homes.config)
        homes.node.launcher = inside
        homes.node.start()
        yield homes, screens


def shown(screen: int) -> str:
    try:
        return os.read(screen, 65536).decode()
    except BlockingIOError:
        return ""


def test_people_say_from_whom_messages_are_welcome(homes: tuple[Homes, dict[str, int]]) -> None:
    house, screens = homes
    assert house.welcome("listed") and house.welcome("listed", "anybody@mit.example")
    assert not house.welcome("listed", GREEN)
    for user in ("nearby", "trusting"):
        assert house.welcome(user, GREEN) and not house.welcome(user, GREEN, elsewhere=True)
    assert house.welcome("listed", elsewhere=True)  # by the address that is claimed, from anywhere
    assert not house.welcome("closed")
    assert house.send("closed", "by mail then", verb="SOML") == "250"
    assert "by mail then" in house.node.wait_for_mail("closed")[0]
    assert house.send("listed", "Lunch?") == "250" and "Lunch?" in shown(screens["listed"])
    assert shown(screens["closed"]) == ""


def test_people_say_how_many_a_minute(homes: tuple[Homes, dict[str, int]]) -> None:
    house, screens = homes
    assert house.send("rated", "one") == "250"
    assert not house.welcome("rated") and house.welcome("rated", GREEN)
    assert [house.send("busy", text, sender) for text, sender in (("1", SMITH), ("2", GREEN))] == ["250"] * 2
    assert not house.welcome("busy", "brown@usc.example")
    assert "one" in shown(screens["rated"])


def test_a_file_that_is_changed_while_the_node_runs_is_obeyed(
    homes: tuple[Homes, dict[str, int]], open_session: Any
) -> None:
    house, _ = homes
    screen = open_session(house.node.folder, "terminal")
    screen.wait_for("^C ends it]")
    me, file = house.me, house.file(house.me)
    assert house.send(me, "without a file") == "250"
    screen.wait_for("without a file")
    file.write_text(NOBODY)
    house.node.wait_until(lambda: not house.welcome(me), "nobody is welcome any more")
    assert house.send(me, "not for the screen", verb="SAML") == "250"
    assert "not for the screen" in house.node.wait_for_mail(me)[0]
    file.unlink()
    file.write_text(f'[messages]\nfrom = ["{SMITH}"]\n')
    house.node.wait_until(lambda: house.welcome(me), "smith is welcome")
    assert not house.welcome(me, GREEN)
    assert house.send(me, "here again") == "250"
    assert "not for the screen" not in screen.wait_for("here again")


def test_who_is_there_cannot_be_told_by_the_time_that_a_refusal_takes(
    homes: tuple[Homes, dict[str, int]],
) -> None:
    """There and unwelcome, there and `mesg n`, not there: the median of 200 refusals each, taken by turns."""
    house, _ = homes
    os.chmod(house.devices["open"], 0o600)
    users = {"there, unwelcome": "closed", "there, mesg n": "open", "not there": house.me}
    talk = house.node.talk()
    talk.codes("EHLO usc.example", f"SEND FROM:<{SMITH}>")
    taken: dict[str, list[float]] = {what: [] for what in users}
    for _ in range(200):
        for what, user in users.items():
            began = time.perf_counter()
            assert talk.say(f"RCPT TO:<{user}@mit.example>") == [NOT_ACTIVE]
            taken[what].append(time.perf_counter() - began)
            talk.codes("RSET", f"SEND FROM:<{SMITH}>")
    medians = {what: statistics.median(times) for what, times in taken.items()}
    assert max(medians.values()) - min(medians.values()) < 0.001, medians


def test_what_is_no_file_of_the_users_own_does_no_harm(homes: tuple[Homes, dict[str, int]]) -> None:
    house, screens = homes
    reasons = {user: reason for user, (_, reason) in HARMS.items()}
    if "foreign" in house.users:
        reasons["foreign"] = "belongs to somebody else"
    for user, reason in reasons.items():
        began = time.monotonic()
        assert house.send(user, f"for {user}") == "250"
        assert time.monotonic() - began < 2
        assert f"for {user}" in shown(screens[user])  # the operator's values hold
        assert house.node.text().count(f"~{user}/.mailnode: {reason}") == 1
    assert "\x1b" not in house.node.text() and "Traceback" not in house.node.text()
