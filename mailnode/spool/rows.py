"""How messages and recipients become rows and come back (pure); CorruptRowError for what cannot be read."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

from mailnode.interfaces import QueuedRecipient
from mailnode.mail import Body, Envelope, Mode, Origin, Path, Recipient, Reply, Terms
from mailnode.spool import ids
from mailnode.spool.errors import CorruptRowError

Text: TypeAlias = str | bytes
Row: TypeAlias = tuple[Any, ...]

REPLY_LENGTH: Final = 500  # characters of a reply that are kept
UNREADABLE: Final = Path("?")  # stands for a path that cannot be read

MESSAGE_COLUMNS: Final = (  # the body last: whoever does not want it leaves the last one out
    "id, mode, local, domain, route, eight_bit, binary, utf8, ret, envid, "
    "origin, size, arrived, warned, file, body"
)
ARRIVED: Final = MESSAGE_COLUMNS.split(", ").index("arrived")
RECIPIENT_COLUMNS: Final = (
    "message, number, local, domain, route, next_host, mode, state, attempts, due, reply, original, sender, "
    "owner, recovered, notify, orcpt"
)


class State(StrEnum):
    """The durable states of a recipient (docs/spool.md)."""

    QUEUED = "queued"
    LEASED = "leased"
    HELD = "held"
    STOPPED = "stopped"  # by an operator
    BAD = "bad"  # its row cannot be read; set aside


_STATES: Final = {state.value: state for state in State}
_MODES: Final = {mode.value: mode for mode in Mode}
_ORIGINS: Final = {origin.value: origin for origin in Origin}
_RETURNS: Final = ("", "FULL", "HDRS")  # RFC 3461 4.3
_NOTIFY: Final = re.compile(r"NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2}")  # 4.1

# -------------------------------------------------------------------------- texts and paths


def write_text(text: str) -> Text:
    """TEXT where it can be, so that people can read it; a BLOB for what UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _read(value: object) -> str:
    if type(value) is str:
        if not value.isascii() and not _is_utf8(value):
            raise CorruptRowError("text is not UTF-8")
        return value
    if type(value) is bytes:
        try:
            return value.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise CorruptRowError("text is not UTF-8") from error
    raise CorruptRowError("text is missing")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_PART = re.compile(r"((?:[^\\,]|\\.)*),", re.DOTALL)


def pack(parts: tuple[str, ...]) -> str:
    """Texts as one text: each followed by a comma; commas and backslashes within it are quoted."""
    if not parts:
        return ""
    return "".join(part.replace("\\", "\\\\").replace(",", "\\,") + "," for part in parts)


def unpack(text: str) -> tuple[str, ...]:
    """What `pack` was given. CorruptRowError if `text` is not of its making."""
    if not text:
        return ()
    if "\\" not in text:
        if text[-1] != ",":
            raise CorruptRowError("a list of texts is torn")
        return tuple(text[:-1].split(","))
    parts, end = [], 0
    while end < len(text):
        match = _PART.match(text, end)
        if match is None:
            raise CorruptRowError("a list of texts is torn")
        parts.append(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL))
        end = match.end()
    return tuple(parts)


def _write_path(path: Path) -> Text:
    return write_text(pack((path.local, path.domain, *path.route)))


def _read_path(value: object) -> Path | None:
    if value is None:
        return None
    parts = unpack(_read(value))
    if len(parts) < 2:
        raise CorruptRowError("a path is torn")
    return Path(parts[0], parts[1], parts[2:])


def _flag(value: object) -> bool:
    if value not in (0, 1):
        raise CorruptRowError("a flag is neither 0 nor 1")
    return bool(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise CorruptRowError("a number is missing")
    return value


# -------------------------------------------------------------------------- messages


class Header(NamedTuple):
    """What the row of a message says besides its body."""

    id: int
    mode: Mode
    reverse_path: Path
    terms: Terms
    origin: Origin
    size: int
    arrived: float
    warned: bool
    file: str


def message_row(id: int, envelope: Envelope, body: Body, arrived: float) -> Row:
    """The row of a new message."""
    path, terms = envelope.reverse_path, envelope.terms
    return (
        id,
        envelope.mode.value,
        local if (local := path.local).isascii() else write_text(local),
        domain if (domain := path.domain).isascii() else write_text(domain),
        write_text(pack(path.route)) if path.route else "",
        int(terms.eight_bit),
        int(terms.binary),
        int(terms.utf8),
        terms.ret,
        write_text(terms.envid) if terms.envid else "",
        envelope.origin.value,
        body.size,
        arrived,
        0,
        None if body.data is not None else ids.show(id),
        body.data,
    )


def read_header(row: Row) -> Header:
    """The columns of MESSAGE_COLUMNS without the last, `body`."""
    id, mode, local, domain, route, *terms, origin, size, arrived, warned, file = row
    if mode not in _MODES or origin not in _ORIGINS:
        raise CorruptRowError("unknown mode or origin")
    if file is not None and file != ids.show(id):  # it becomes part of a path
        raise CorruptRowError("the body file is not this message's")
    path = Path(_read(local), _read(domain), unpack(_read(route)))
    return Header(
        id,
        _MODES[mode],
        path,
        _read_terms(*terms),
        _ORIGINS[origin],
        int(_number(size)),
        _number(arrived),
        _flag(warned),
        file or "",
    )


def _read_terms(eight_bit: object, binary: object, utf8: object, ret: object, envid: object) -> Terms:
    if ret not in _RETURNS:
        raise CorruptRowError("unknown return of a message")
    return Terms(_flag(eight_bit), _flag(binary), _flag(utf8), str(ret), _read(envid))


def read_body(header: Header, data: object, folder: str) -> Body:
    """The body of a message whose body files are in `folder`."""
    if header.file:
        return Body(header.size, None, f"{folder}/{header.file}")
    if not isinstance(data, bytes) or len(data) != header.size:
        raise CorruptRowError("the body is torn")
    return Body(header.size, data)


# -------------------------------------------------------------------------- recipients


def next_host(path: Path) -> str:
    """The host that held mail is found by, in lower case."""
    return path.next_host.lower()


def recipient_row(
    message: int, recipient: Recipient, state: State, due: float, reply: str = "", owner: str | None = None
) -> Row:
    """The row of a recipient; its `number` is already set."""
    path = recipient.path
    return (
        message,
        recipient.number,
        local if (local := path.local).isascii() else write_text(local),
        domain if (domain := path.domain).isascii() else write_text(domain),
        write_text(pack(path.route)) if path.route else "",
        host if (host := next_host(path)).isascii() else write_text(host),
        recipient.mode.value,
        state.value,
        recipient.attempts,
        due,
        reply,
        None if recipient.original is None else _write_path(recipient.original),
        None if recipient.sender is None else _write_path(recipient.sender),
        owner,
        0,
        ",".join(recipient.notify),
        write_text(recipient.orcpt) if recipient.orcpt else "",
    )


def numbered(recipients: tuple[Recipient, ...]) -> tuple[Recipient, ...]:
    """The recipients of a new message with their numbers, from 1."""
    if len(recipients) == 1 and recipients[0].number == 1:
        return recipients
    return tuple(
        it
        if it.number == number
        else Recipient(it.path, it.mode, number, it.attempts, it.original, it.sender, it.notify, it.orcpt)
        for number, it in enumerate(recipients, 1)
    )


def read_recipient(row: Row) -> Recipient:
    """The columns of RECIPIENT_COLUMNS."""
    _, number, local, domain, route, _, mode, _, attempts, _, _, original, sender, _, _, notify, orcpt = row
    if mode not in _MODES or not isinstance(number, int):
        raise CorruptRowError("unknown mode or number")
    return Recipient(
        Path(_read(local), _read(domain), unpack(_read(route))),
        _MODES[mode],
        number,
        int(_number(attempts)),
        _read_path(original),
        _read_path(sender),
        _read_notify(notify),
        _read(orcpt),
    )


def _read_notify(value: object) -> tuple[str, ...]:
    if value == "":
        return ()
    if not isinstance(value, str) or not _NOTIFY.fullmatch(value):
        raise CorruptRowError("unknown notices are asked for")
    return tuple(value.split(","))


def read_queued(row: Row, readable: bool = True) -> QueuedRecipient:
    """A row as an operator sees it; one that cannot be read (or whose message cannot) shows as bad."""
    try:
        recipient = read_recipient(row)
        state = _STATES.get(row[7], State.BAD) if readable else State.BAD
        due, reply = float(_number(row[9])), _read(row[10])
    except CorruptRowError:
        return QueuedRecipient(UNREADABLE, Mode.MAIL, State.BAD.value, 0, 0.0, "")
    return QueuedRecipient(
        recipient.path,
        recipient.mode,
        state.value,
        recipient.attempts,
        due,
        reply,
        recipient.notify,
        recipient.orcpt,
        recipient.original,
    )


def reply_text(reply: Reply) -> str:
    """A reply as it is kept for operators: a stranger wrote it, so only what is printable of it."""
    text = str(reply)[:REPLY_LENGTH]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
