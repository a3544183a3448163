"""The replies of a Receiver by name, and the reader of replies for a Sender (RFC 821 4.2)."""

from __future__ import annotations

import re
from typing import Final

from mailnode.mail import Reply

# ------------------------------------------------------------------ the words of a Receiver

OK: Final = Reply(250, "OK", "2.0.0")
SENDER_OK: Final = Reply(250, "OK", "2.1.0")
RECIPIENT_OK: Final = Reply(250, "OK", "2.1.5")
START_INPUT: Final = Reply(354, "Start mail input; end with <CRLF>.<CRLF>")

UNKNOWN_COMMAND: Final = Reply(500, "Syntax error, command unrecognized", "5.5.2")
LINE_TOO_LONG: Final = Reply(500, "Line too long", "5.5.2")
BAD_OCTETS: Final = Reply(500, "Syntax error, only printable ASCII in commands", "5.5.2")
BAD_PATH: Final = Reply(501, "Syntax error in path or parameters", "5.5.4")
BAD_HELLO: Final = Reply(501, "Syntax error, a host name is needed", "5.5.4")
BAD_PARAMETER: Final = Reply(501, "Parameter not recognized or not implemented", "5.5.4")
NO_ARGUMENT: Final = Reply(501, "Syntax error, no argument is taken", "5.5.4")
ARGUMENT_NEEDED: Final = Reply(501, "Syntax error, an argument is needed", "5.5.4")
NOT_FOR_YOU: Final = Reply(502, "Command not implemented", "5.5.1")
HELLO_FIRST: Final = Reply(503, "Bad sequence of commands, say HELO first", "5.5.1")
NO_TRANSACTION: Final = Reply(503, "Bad sequence of commands, say MAIL first", "5.5.1")
IN_TRANSACTION: Final = Reply(503, "Bad sequence of commands, a transaction is open", "5.5.1")
NO_RECIPIENT_YET: Final = Reply(503, "Bad sequence of commands, say RCPT first", "5.5.1")
NO_RECIPIENTS: Final = Reply(554, "No valid recipients", "5.5.1")
OCTETS_BEHIND: Final = Reply(503, "Bad sequence of commands, wait for the reply", "5.5.1")
NO_SUCH_TOPIC: Final = Reply(504, "Command parameter not implemented; HELP lists the commands", "5.5.4")

# RFC 5321 4.5.3.1.10: the code is 452; RFC 821 had 552, and a client of that time expects it.
TOO_MANY_RECIPIENTS: Final = Reply(452, "Too many recipients, try again in another transaction", "4.5.3")
TOO_MANY_RECIPIENTS_821: Final = Reply(552, "Recipient storage full, try again in another transaction")
TOO_LARGE: Final = Reply(552, "Message is larger than this host takes", "5.3.4")
BARE_LINE_END: Final = Reply(550, "A CR or LF that is not part of a CRLF was in the message", "5.6.11")
BARE_LINE_END_821: Final = Reply(554, "Transaction failed: a CR or LF that is not part of a CRLF")
UTF8_NOT_ASKED: Final = Reply(553, "Mailbox name not allowed: not ASCII, and no SMTPUTF8 was said", "5.6.7")
BAD_CHUNK: Final = Reply(501, "Syntax error, where the chunk ends cannot be known: goodbye", "5.5.4")
CHUNKS_GO_ON: Final = Reply(503, "Bad sequence of commands, the message comes by BDAT", "5.5.1")
BINARY_NEEDS_CHUNKS: Final = Reply(503, "Bad sequence of commands, BINARYMIME needs BDAT", "5.5.1")

READY_FOR_TLS: Final = Reply(220, "Ready to start TLS", "2.0.0")

AUTH_DONE: Final = Reply(235, "Authentication succeeded", "2.7.0")
AUTH_FAILED: Final = Reply(535, "Authentication credentials invalid", "5.7.8")
AUTH_LATER: Final = Reply(454, "Temporary authentication failure, try again later", "4.7.0")
AUTH_CANCELLED: Final = Reply(501, "Authentication cancelled", "5.7.0")
AUTH_SYNTAX: Final = Reply(501, "Cannot decode that", "5.5.2")
AUTH_UNKNOWN: Final = Reply(504, "Unrecognized authentication mechanism", "5.5.4")
TLS_FIRST: Final = Reply(530, "Must issue a STARTTLS command first", "5.7.0")
AUTH_FIRST: Final = Reply(530, "Authentication required", "5.7.0")
AUTH_ALREADY: Final = Reply(503, "Already authenticated", "5.5.1")

TURN_REFUSED: Final = Reply(502, "Command not implemented", "5.5.1")
BAD_DOMAINS: Final = Reply(501, "Syntax error, fully qualified domains are needed", "5.5.4")
BAD_KEYS: Final = Reply(501, "Syntax error, the keys of SCRAM-SHA-256 are needed", "5.5.4")
BAD_WAIT: Final = Reply(501, "Syntax error, seconds as EHLO has them are needed", "5.5.4")


def greeting(hostname: str) -> Reply:
    return Reply(220, f"{hostname} Simple Mail Transfer Service Ready")


def closing(hostname: str) -> Reply:
    return Reply(221, f"{hostname} Service closing transmission channel", "2.0.0")


def unavailable(hostname: str, why: str) -> Reply:
    """421 may answer any command (RFC 821 4.2.1); the connection is closed after it."""
    return Reply(421, f"{hostname} {why}, closing transmission channel", "4.3.2")


# ------------------------------------------------------------------ the replies of a peer


class ProtocolError(Exception):
    """The peer broke the protocol; the channel cannot be used further."""


_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?\Z", re.DOTALL)
_STATUS = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")

MAX_LINE: Final = 4096  # octets; RFC 821 4.5.3 says 512, real hosts say more
MAX_LINES: Final = 512


class ReplyReader:
    """Puts the replies of a receiver together from lines (RFC 821 4.2, Appendix E).

    Lines may end with LF alone: some old hosts do that, and nothing is decided by it.
    """

    __slots__ = ("_code", "_octets", "_texts")

    def __init__(self) -> None:
        self._octets = b""
        self._texts: list[str] = []
        self._code = b""

    @property
    def pending(self) -> bytes:
        """Octets that are not yet part of a whole reply."""
        return self._octets

    @property
    def idle(self) -> bool:
        """Whether nothing waits: neither octets nor the first lines of a reply."""
        return not self._octets and not self._texts

    def feed(self, octets: bytes) -> None:
        self._octets += octets

    def next(self) -> Reply | None:
        """The next whole reply, None if it has not arrived yet. Raises ProtocolError."""
        while True:
            end = self._octets.find(b"\n")
            if end < 0:
                if len(self._octets) > MAX_LINE:
                    raise ProtocolError("reply line too long")
                return None
            line, self._octets = self._octets[:end], self._octets[end + 1 :]
            reply = self._line(line.removesuffix(b"\r"))
            if reply is not None:
                return reply

    def _line(self, line: bytes) -> Reply | None:
        match = _LINE.match(line)
        if match is None or len(line) > MAX_LINE:
            raise ProtocolError(f"not a reply: {readable(line[:80])}")
        code, mark, text = match.groups()
        if self._texts and code != self._code:
            raise ProtocolError("a reply changed its code between lines")
        self._texts.append(readable(text or b""))
        if mark == b"-":
            if len(self._texts) >= MAX_LINES:
                raise ProtocolError("reply of too many lines")
            self._code = code
            return None
        texts, self._texts = self._texts, []
        return _reply(int(code), texts)


def _reply(code: int, texts: list[str]) -> Reply:
    status = ""
    match = _STATUS.match(texts[0])
    if match is not None and match[1][0] == str(code)[0]:  # RFC 2034 3: the classes agree
        status = match[1]
        texts = [text.removeprefix(status).lstrip(" ") for text in texts]
    return Reply(code, texts[0] if len(texts) == 1 else tuple(texts), status)


def readable(octets: bytes) -> str:
    """Octets from outside as printable ASCII, everything else as `?`."""
    text = octets.decode("ascii", "replace")
    return "".join(char if " " <= char <= "~" else "?" for char in text)
