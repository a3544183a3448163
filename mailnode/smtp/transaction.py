"""What the protocol knows of a mail transaction, and how one is announced (RFC 821 3.1, RFC 5321 3.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from mailnode.mail import PLAIN_TERMS, Mode, Path, Reply, Terms
from mailnode.smtp import grammar, replies
from mailnode.smtp.framing import DataReader, LineEnds

ENVID_LIMIT: Final = 100  # characters (RFC 3461 4.4)
ORCPT_LIMIT: Final = 500  # characters (RFC 3461 4.2)

_NOTIFY: Final = frozenset(("SUCCESS", "FAILURE", "DELAY"))
_size = re.compile(r"[0-9]{1,20}\Z").match
_name = re.compile(r"[A-Za-z0-9.-]{1,64}\Z").match
_address_type = re.compile(r"[A-Za-z0-9-]{1,64}\Z").match


@dataclass(slots=True)
class Chunk:
    """The octets of a BDAT command (RFC 3030 2)."""

    size: int
    left: int
    last: bool
    refusal: Reply | None = None  # the chunk is read, and means nothing


@dataclass(slots=True)
class Transaction:
    """What the protocol must know of a transaction; all else lies with those who were asked."""

    mode: Mode
    terms: Terms
    tried: int = 0
    recipients: int = 0
    excess: int = 0  # RCPTs over the limit
    octets: int = 0
    refusal: Reply | None = None  # the mail data is read, but will be refused
    reader: DataReader | None = None  # from DATA to the end of data
    ends: LineEnds | None = None  # of mail data that comes in chunks

    def fault(self, size_limit: int, bare: Reply | None) -> Reply | None:
        """Why the mail data so far cannot be kept, the same however its octets were cut. `bare` is the
        refusal of a bare CR or LF, None if they are borne."""
        if bare is not None and not self.terms.binary:
            source = self.reader or self.ends
            if source is not None and source.bare:
                return bare
        return replies.TOO_LARGE if self.octets > size_limit else None


class Announced(NamedTuple):
    """What MAIL said besides its path."""

    size: int  # declared octets, 0 if not
    terms: Terms
    once: str = ""  # docs/xonce.md


class Wishes(NamedTuple):
    """What RCPT said besides its path: as in `mail.Recipient`."""

    notify: tuple[str, ...] = ()
    orcpt: str = ""


_NOTHING_SAID: Final = Announced(0, PLAIN_TERMS)
_NO_WISHES: Final = Wishes()


def path_after(argument: str, keyword: str) -> tuple[Path, grammar.Parameters] | None:
    rest = grammar.after_keyword(argument, keyword)
    return None if rest is None else grammar.parse_argument(rest)


def mail_parameters(parameters: grammar.Parameters, may_name: bool = False) -> Announced | None:
    """What the parameters of MAIL say; None if one is not known or malformed. `may_name`: XONCE is known."""
    if not parameters:
        return _NOTHING_SAID
    size, body, utf8, ret, envid, once = 0, "7BIT", False, "", "", ""
    for keyword, value in parameters.items():
        if value is not None and not value.isascii():
            return None
        match keyword, (value or ""):
            case "SIZE", digits if _size(digits):  # RFC 1870 4
                size = int(digits)
            case "BODY", kind if kind.upper() in ("7BIT", "8BITMIME", "BINARYMIME"):
                body = kind.upper()  # RFC 6152 2, RFC 3030 3
            case "SMTPUTF8", "" if value is None:  # RFC 6531 3.4
                utf8 = True
            case "RET", kind if kind.upper() in ("FULL", "HDRS"):  # RFC 3461 4.3
                ret = kind.upper()
            case "ENVID", text if text and len(text) <= ENVID_LIMIT:
                decoded = _readable(text)
                if decoded is None:
                    return None
                envid = decoded
            case "XONCE", name if may_name and _name(name):
                once = name
            case "AUTH", text if text:  # RFC 4954 5; taken and not relied on
                pass
            case _:
                return None
    return Announced(size, Terms(body == "8BITMIME", body == "BINARYMIME", utf8, ret, envid), once)


def recipient_parameters(parameters: grammar.Parameters, utf8: bool) -> Wishes | None:
    """What the parameters of RCPT say; None if one is not known or malformed. `utf8` as in `mail.Terms`."""
    if not parameters:
        return _NO_WISHES
    notify: tuple[str, ...] = ()
    orcpt = ""
    for keyword, value in parameters.items():
        if keyword == "NOTIFY" and value and value.isascii():  # RFC 3461 4.1
            notify = tuple(dict.fromkeys(value.upper().split(",")))
            if notify != ("NEVER",) and not _NOTIFY.issuperset(notify):
                return None
        elif keyword == "ORCPT" and value and len(value) <= ORCPT_LIMIT:  # RFC 3461 4.2
            kind, _, text = value.partition(";")
            plain = utf8 and kind.lower() == "utf-8" and not text.isascii()  # RFC 6533 3: utf-8-addr-unitext
            decoded = text if plain else _readable(text)
            if not _address_type(kind) or not decoded:
                return None
            orcpt = f"{kind};{decoded}"
        else:
            return None
    return Wishes(notify, orcpt)


def _readable(xtext: str) -> str | None:
    """What `xtext` stands for, None if it is malformed or not printable ASCII (RFC 3461 4.2, 4.4): it goes
    into the header of notices."""
    text = grammar.decode_xtext(xtext)
    return text if text is not None and text.isascii() and text.isprintable() else None
