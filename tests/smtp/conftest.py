"""A client's dialogue with a Receiver whose questions are answered at once."""

from __future__ import annotations

from typing import Any

import pytest

from mailnode.mail import Mode, Reply, Rights, ScramKeys
from mailnode.smtp import events, replies
from mailnode.smtp.receiver import Limits, Receiver

HOST = "mit.example"
ALL = Rights(tuple(Mode), relay=True, verify=True, expand=True, turn=True, mechanisms=("PLAIN",))
OPENING = b"MAIL FROM:<smith@usc.example>\r\nRCPT TO:<jones@mit.example>\r\n"

ANSWERS: dict[type, Reply | ScramKeys] = {
    events.AskSender: replies.SENDER_OK,
    events.AskRecipient: replies.RECIPIENT_OK,
    events.AskData: replies.START_INPUT,
    events.AskCustody: replies.OK,
    events.AskVerify: Reply(252, "Cannot say"),
    events.AskExpand: Reply(550, "Access Denied to You."),
    events.AskCredentials: replies.AUTH_DONE,
    events.AskTurn: replies.TURN_REFUSED,
}


class Conversation:
    """What a client says, and all that comes of it. `hello` is said at once if it is not empty."""

    def __init__(
        self,
        rights: Rights = ALL,
        limits: Limits | None = None,
        *,
        hello: bytes = b"EHLO usc.example",
        answers: dict[type, Any] | None = None,
        **options: bool,
    ) -> None:
        self.receiver = Receiver(HOST, rights, limits, greet=False, **options)
        self.answers = {**ANSWERS, **(answers or {})}
        self.told: list[events.ReceiverEvent] = []
        self.data = b""  # of the message on its way
        self.taken: list[bytes] = []  # messages that came to custody
        self.discarded = 0
        if hello:
            assert self.say(hello + b"\r\n") == [250]
        self.told.clear()

    def say(self, octets: bytes, size: int = 0) -> list[int]:
        """The codes that `octets`, in pieces of `size`, are answered with."""
        before = len(self.told)
        step = size or len(octets) or 1
        for at in range(0, len(octets), step):
            self.receiver.feed(octets[at : at + step])
            self.run()
        return [event.code for event in self.told[before:] if isinstance(event, Reply)]

    def run(self) -> None:
        while (event := self.receiver.next()) is not None:
            self.told.append(event)
            if isinstance(event, events.MailData):
                self.data += event.piece
            elif isinstance(event, events.Discarded):
                self.data = b""
                self.discarded += 1
            elif isinstance(event, events.AskCustody):
                self.taken.append(self.data)
                self.data = b""
            if self.receiver.asking and type(event) in self.answers:
                self.receiver.answer(self.answers[type(event)])

    def asked(self, kind: type) -> list[Any]:
        """The events of that kind so far."""
        return [event for event in self.told if type(event) is kind]

    @property
    def closed(self) -> bool:
        return bool(self.told) and type(self.told[-1]) is events.Closed


@pytest.fixture
def converse() -> type[Conversation]:
    return Conversation


@pytest.fixture
def opened() -> Any:
    """Makes conversations in which a transaction with a recipient is open."""

    def make(*arguments: Any, **options: Any) -> Conversation:
        conversation = Conversation(*arguments, **options)
        assert conversation.say(OPENING) == [250, 250]
        return conversation

    return make
