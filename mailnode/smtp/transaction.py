"""What the protocol knows of a mail transaction, and how one is announced (RFC 821 3.1, RFC 5321 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from mailnode.mail import Path, Reply
from mailnode.smtp import grammar, replies
from mailnode.smtp.framing import DataReader


@dataclass(slots=True)
class Transaction:
    """What the protocol must know of a transaction; all else lies with those who were asked."""

    tried: int = 0
    recipients: int = 0
    octets: int = 0
    refusal: Reply | None = None  # the mail data is read, but will be refused
    reader: DataReader | None = None

    def fault(self, size_limit: int) -> Reply | None:
        """Why the mail data so far cannot be kept, the same however its octets were cut."""
        if self.reader is not None and self.reader.bare:
            return replies.BARE_LINE_END
        return replies.TOO_LARGE if self.octets > size_limit else None


def path_after(argument: str, keyword: str) -> tuple[Path, grammar.Parameters] | None:
    rest = grammar.after_keyword(argument, keyword)
    return None if rest is None else grammar.parse_argument(rest)


def declared_size(parameters: grammar.Parameters) -> int | None:
    """The declared size, 0 if none; None if a parameter is not known or malformed."""
    size = 0
    for keyword, value in parameters.items():
        match keyword, (value or "").upper():
            case "SIZE", digits if digits.isdigit() and len(digits) <= 20:  # RFC 1870 4
                size = int(digits)
            case "BODY", "7BIT" | "8BITMIME":  # RFC 6152 2
                pass
            case "AUTH", text if text:  # RFC 4954 5; taken and not relied on
                pass
            case _:
                return None
    return size
