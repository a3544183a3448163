"""How times are said on both sides of a pairing."""

from __future__ import annotations

import re
from calendar import timegm
from time import gmtime, strftime, strptime
from typing import Final

FORM: Final = "%Y-%m-%dT%H:%M:%SZ"  # RFC 3339, UTC

_moment = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z").match


def moment(seconds: float) -> str:
    """A time of day, given in seconds since the epoch."""
    return strftime(FORM, gmtime(min(max(seconds, 0.0), 250_000_000_000.0)))


def parse_moment(text: str) -> float | None:
    """Seconds since the epoch, None if `text` is no time."""
    if _moment(text) is None:
        return None
    try:
        return float(timegm(strptime(text, FORM)))
    except ValueError:
        return None
