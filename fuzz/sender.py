"""The Sender, held as a channel holds it, against a hostile server.

Invariants:
- No octets raise anything.
- A recipient is reported as delivered only if the reply to its own RCPT was 2xx, and the reply in the
  place of the one to the mail data was 2xx and was whole only after the body had gone out.
- Of each letter every recipient gets one result, unless the conversation ends first; then it gets none.
- What is written is whole lines of printable text, in ASCII but for letters that need UTF-8.
- No command is said before the greeting, and not more of them than replies and one group allow.
- A secret goes out in the clear only where nobody can read it, under TLS only to a host that is known.
- Nothing said before TLS counts under it.
- All of that holds for letters that are under way at once.
- The end is told once, and nothing after it; what waits is never more than one reply line.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace

from fuzz.choices import arrivals, pick, split
from mailnode.mail import Body, Letter, Mode, Outcome, Path, Recipient, Reply, Terms
from mailnode.smtp import events
from mailnode.smtp.replies import MAX_LINE
from mailnode.smtp.script import Plan
from mailnode.smtp.sender import MAX_GROUP, Sender

MAX_LENGTH = 4096
LINE = 2048  # octets; RFC 3461 5.2.2 allows parameters so much

SECRET = "open sesame"
PLANS = (
    Plan("usc.example"),
    Plan("usc.example", turn="TURN"),
    Plan("usc.example", extended=False),
    Plan("usc.example", name="leaf", secret=SECRET, private=True),
    Plan("usc.example", name="leaf", secret=SECRET, turn="ATRN leaf.example", wait=30),
    Plan("usc.example", tls="opportunistic", name="leaf", secret=SECRET),
    Plan("usc.example", tls="required", certificate=True, start=("leaf.example", "leaf.example")),
)
SMITH = Path("smith", "usc.example")


def _letter(mode: Mode, count: int, body: bytes, terms: Terms | None = None, id: str = "") -> Letter:
    recipients = tuple(Recipient(Path(f"user{n}{id}", "mit.example"), mode, n) for n in range(count))
    return Letter(mode, SMITH, recipients, Body.of(body), terms or Terms(), id)


UTF8 = Letter(
    Mode.MAIL,
    Path("jos\u00e9", "ex\u00e4mple.example"),
    (Recipient(Path("\u7528\u6237", "mit.example"), notify=("FAILURE", "DELAY"), orcpt="rfc822;a b@c"),),
    Body.of("\u00fc\r\n".encode()),
    Terms(eight_bit=True, utf8=True, ret="HDRS", envid="a+b=c d"),
)
LETTERS = (
    (_letter(Mode.MAIL, 1, b"hello\r\n"), _letter(Mode.MAIL, 2, b".\r\n..\r\n")),
    (_letter(Mode.SEND, 1, b"now\r\n"), _letter(Mode.SOML, 2, b"now or later\r\n")),
    (_letter(Mode.MAIL, 130, b"to many\r\n"),),
    (_letter(Mode.MAIL, 1, b"\xff\xfe\r\n", Terms(eight_bit=True)), _letter(Mode.SAML, 1, b"")),
    (_letter(Mode.MAIL, 1, b"x" * 3000 + b"\r\n"), _letter(Mode.MAIL, 1, b"after\r\n")),
    (),
    (UTF8, _letter(Mode.MAIL, 2, b"\n.\r\0", Terms(binary=True))),
    tuple(
        _letter(Mode.MAIL, 1 + n % 2, b"RCPT TO:<a@b>\r\n" * n, id=f"l{n}") for n in range(1, 6)
    ),  # at once
)
_LINE = re.compile(rb"([2-5]\d\d)([ -]|\r?\Z)")


def replies(came: bytes) -> list[tuple[int, int]]:
    """Codes of the whole replies in `came`, and where each ends; read by other means than the Sender's."""
    found, at = [], 0
    for line in came.split(b"\n")[:-1]:
        at += len(line) + 1
        match = _LINE.match(line)
        if match is None:
            break
        if match[2] != b"-":
            found.append((int(match[1]), at))
    return found


class Holder:
    """A Sender with a wire, and a memory of when what came and went."""

    def __init__(self, decisions: bytes) -> None:
        self.plan = replace(pick(decisions[0], PLANS), nonce=lambda: "nonce")
        self.letters = list(pick(decisions[1], LETTERS))
        self.sender = Sender(self.plan)
        self.written = b""
        self.came = b""
        self.private = self.plan.private
        self.results: dict[int, dict[Recipient, Outcome]] = {}
        self.ended: list[events.Ended] = []
        self._due = 1  # replies that what was said and the greeting ask for
        self._asked: dict[bytes, int] = {}  # the place of the reply to the last RCPT of a path
        self._group: list[bytes] = []  # the paths of the last transaction
        # By path: the place of the reply to its body, and octets come when it had gone
        self._verdicts: dict[bytes, tuple[int, int]] = {}
        self._late = pick(decisions[2], (False, True))  # bodies take until the next arrival
        self._body_waits = False
        self._slow = pick(decisions[3], (False, True))  # letters take until the next arrival
        self._wanted = False

    def arrive(self, octets: bytes) -> None:
        self.run()
        if self._body_waits:
            self._body_gone()
        if self._wanted:
            self.sender.ask_for_life()
            self.run()
        self.came += octets
        self.sender.feed(octets)
        self.run()
        if self._wanted:
            self._give()

    def _give(self) -> None:
        self._wanted = False
        if self.sender.wants_letter:
            self.sender.give(self.letters.pop(0) if self.letters else None)
            self.run()

    def _body_gone(self) -> None:
        self._body_waits = False
        for path in self._group:
            self._verdicts[path] = (self._verdicts[path][0], len(self.came))
        self.sender.body_written()

    def run(self) -> None:
        while (event := self.sender.next()) is not None:
            assert not self.ended, "something was told after the end"
            if isinstance(event, events.Write):
                self._write(event.octets)
            elif isinstance(event, events.LetterWanted):
                self._wanted = True
                if event.at_hand or not self._slow:
                    self._give()
            elif isinstance(event, events.WriteBody):
                self._body_waits = True
                place = self._due - 1 if event.chunk else self._due
                self._verdicts.update(dict.fromkeys(self._group, (place, 1 << 30)))
                self._due += not event.chunk
                if not self._late:
                    self._body_gone()
            elif isinstance(event, events.StartTls):
                assert self.sender.pending == b"" and self.plan.tls != "none"
                self.private = self.private or self.plan.known or self.plan.tls == "verified"
                self.sender.secured()
            elif isinstance(event, events.Settled):
                self._settled(event)
            elif isinstance(event, events.Ended):
                self.ended.append(event)
        assert len(self.sender.pending) <= MAX_LINE or self.ended

    def _write(self, octets: bytes) -> None:
        assert b"\n" in self.came, "something was said before the greeting"
        self.written += octets
        assert octets.endswith(b"\r\n")
        while octets:
            line, _, octets = octets.partition(b"\r\n")
            if line.startswith(b"BDAT") and octets:  # the message comes with it, and others behind
                octets = octets[int(line.split()[1]) :]
                self._verdicts.update(dict.fromkeys(self._group, (self._due, len(self.came))))
            text = line.decode("utf-8")
            assert text.isprintable() and text and len(line) <= LINE, line
            assert text.isascii() or b"SMTPUTF8" in self.came.upper()
            if line.split(b" ")[0] in (b"MAIL", b"SEND", b"SOML", b"SAML"):
                self._group = []
            if line.startswith(b"RCPT TO:"):
                self._group.append(path := line[8 : line.index(b">") + 1])
                self._asked[path] = self._due
            self._due += 1
            if not self.private:
                assert SECRET.encode() not in line and _base64(SECRET) not in line

    def _settled(self, event: events.Settled) -> None:
        known = self.results.setdefault(id(event.letter), {})
        heard = replies(self.came)
        for recipient, result in event.results.items():
            assert recipient in event.letter.recipients and recipient not in known
            known[recipient] = result.outcome
            assert result.outcome is not Outcome.HELD
            if result.outcome is Outcome.DELIVERED:
                place, gone = self._verdicts[str(recipient.path).encode()]
                code, end = heard[place]
                assert 200 <= code < 300 and end > gone, "no promise was given"
                asked = heard[self._asked[str(recipient.path).encode()]]
                assert 200 <= asked[0] < 300, "it was not accepted"


def _base64(text: str) -> bytes:
    return b64encode(text.encode())


def TestOneInput(data: bytes) -> None:
    decisions, octets = split(data)
    holder = Holder(decisions)
    given = {id(letter): letter for letter in holder.letters}
    for piece in arrivals(octets, decisions[4:]):
        holder.arrive(piece)
    lines = holder.written.count(b"\r\n")
    assert lines <= 2 * octets.count(b"\n") + MAX_GROUP  # the letters of LETTERS fit into one
    if b"AUTH" not in octets.upper():
        assert b"AUTH" not in holder.written, "a secret was said to a host that did not ask for it"
    if not holder.ended:
        holder.sender.fail(Reply(451, "The connection was lost", "4.4.2"))
        holder.run()
    assert len(holder.ended) == 1
    for key, results in holder.results.items():
        assert set(results) <= set(given[key].recipients)
    holder.sender.feed(b"250 late\r\n")
    holder.run()
