"""Two people on two nodes talk: `mailnode send` on a terminal, line by line, and what the sender sees."""

from __future__ import annotations

import os
import pwd
import sys
from typing import Any

import pytest

ME = pwd.getpwuid(os.geteuid()).pw_name
NODE = f"""
hostname = "{{name}}.example"
[users]
names = ["{ME}", "jones"]
[terminals]
utmp = "none"
rate = 1000
rate_all = 1000
[routes]
"{{other}}.example" = "tcp:127.0.0.1:{{port}}"
"""


@pytest.fixture
def nodes(make_node: Any, free_port: Any) -> tuple[Any, Any]:
    """mit.example and usc.example, who know each other."""
    ports = {"mit": free_port(), "usc": free_port()}
    made = []
    for name, other in (("mit", "usc"), ("usc", "mit")):
        text = NODE.format(name=name, other=other, port=ports[other])
        text += f'[[listen]]\nendpoint = "tcp:{ports[name]}:interface=127.0.0.1"\n'
        made.append(make_node(text, name).start())
    return made[0], made[1]


@pytest.fixture
def mit(nodes: tuple[Any, Any]) -> Any:
    return nodes[0]


def attached(open_session: Any, node: Any) -> Any:
    session = open_session(node.folder, "terminal")
    session.wait_for("ends it]")
    return session


def test_each_line_is_a_message_and_answered_for_at_once(mit: Any, open_session: Any) -> None:
    screen = attached(open_session, mit)
    talk = open_session(mit.folder, "send", ME)
    talk.wait_for("Each line is sent as you end it")
    assert "takes answers" not in talk.shown()
    talk.type("first line\n")
    talk.wait_for(f"{ME}@mit.example  shown on a terminal")
    assert screen.wait_for("first line").count("EOF") == 1
    talk.type("\n   \nsecond line\n")
    talk.wait_for("shown on a terminal", 2)
    assert screen.wait_for("second line").count(f"Message from {ME}@mit.example on mit.example at") == 2
    screen.process.terminate()
    screen.wait()
    talk.type("third line\n")
    talk.wait_for(f"{ME}@mit.example  not shown: 450 User not active now")
    talk.type("\x04")
    assert talk.wait() == os.EX_TEMPFAIL


def test_the_sender_sees_who_was_reached_who_gets_mail_and_who_is_not_there(
    mit: Any, open_session: Any
) -> None:
    attached(open_session, mit)
    talk = open_session(mit.folder, "soml", ME, "jones", "nobody")
    talk.wait_for("\n>")
    talk.type("the build is done\n")
    shown = talk.wait_for("nobody@mit.example  refused: 550 No such user here")
    assert f"{ME}@mit.example" in shown and "shown on a terminal" in shown
    assert "not active now, so mailed" in shown
    (mail,) = mit.wait_for_mail("jones")
    assert mail.endswith("\n\nthe build is done\n") and f"From: {ME}@mit.example\n" in mail
    talk.type("\x04")
    assert talk.wait() == os.EX_NOUSER


def test_a_conversation_with_nobody_ends_by_itself(mit: Any, open_session: Any) -> None:
    talk = open_session(mit.folder, "send", "nobody")
    talk.wait_for("mailnode: none of your terminals takes answers (see: mailnode terminal)")
    talk.type("hello?\n")
    assert talk.wait() == os.EX_NOUSER
    assert "nobody@mit.example  refused: 550 No such user here" in talk.shown()


def test_two_people_on_two_nodes_talk(nodes: tuple[Any, Any], open_session: Any) -> None:
    mit, usc = nodes
    there, here = attached(open_session, usc), attached(open_session, mit)
    asks = open_session(mit.folder, "send", f"{ME}@usc.example")
    asks.type("Lunch at one?\n")
    asks.wait_for(f"{ME}@usc.example  shown on a terminal")
    frame = there.wait_for("Lunch at one?")
    assert f"Message from {ME}@mit.example on usc.example at" in frame  # it can be answered as it stands
    answers = open_session(usc.folder, "send", f"{ME}@mit.example")
    answers.type("Yes, at the usual place.\n")
    assert f"Message from {ME}@usc.example on mit.example" in here.wait_for("Yes, at the usual place.")
    asks.type("\x04")
    assert asks.wait() == 0


def test_a_send_to_another_node_is_tried_once_and_then_there_is_a_notice_besides(
    nodes: tuple[Any, Any], open_session: Any, run: Any
) -> None:
    mit, _ = nodes
    program = [sys.executable, "-c", "from mailnode.cli import main; main()", "--config", mit.file]
    done = run(*program, "send", f"{ME}@usc.example", stdin="is anybody there?\n")
    assert done.stdout == f"{ME}@usc.example  not shown: 450 User not active now\n"
    assert done.returncode == os.EX_TEMPFAIL
    (notice,) = mit.wait_for_mail(ME)
    assert "User not active now" in " ".join(notice.split()) and f"{ME}@usc.example" in notice
    mit.wait_for_empty_spool()


def test_text_from_a_pipe_is_one_message(mit: Any, open_session: Any, run: Any) -> None:
    screen = attached(open_session, mit)
    program = [sys.executable, "-c", "from mailnode.cli import main; main()", "--config", mit.file]
    done = run(*program, "send", ME, stdin="one\ntwo\n")
    assert (done.returncode, done.stdout) == (0, f"{ME}@mit.example  shown on a terminal\n")
    assert screen.wait_for("two").count("EOF") == 1


def test_a_long_line_is_folded_for_hosts_that_take_no_longer_ones(mit: Any, open_session: Any) -> None:
    screen = attached(open_session, mit)
    talk = open_session(mit.folder, "send", ME)
    talk.wait_for("\n>")
    talk.type("é" * 700 + "\n")
    talk.wait_for("shown on a terminal")
    assert screen.wait_for("EOF").replace("\n", "").count("é") == 700 and "\\x" not in screen.shown()


def test_nobody_types_for_a_node_that_does_not_run(mit: Any, open_session: Any) -> None:
    mit.stop()
    for verb in ("send", "mail"):
        talk = open_session(mit.folder, verb, ME)
        assert talk.wait() == os.EX_UNAVAILABLE
        shown = talk.shown().splitlines()
        assert shown == [
            "mailnode: no node is running with this configuration; start it with: twistd -n",
            "mailnode",  # folded between words
        ]
