"""Which lines of a stranger could be taken for one of our own.

Compared is what a person sees: letters without case, accents, spacing and punctuation, and letters of other
alphabets as the Latin ones that they look like. It is a guard for the eye, not a proof: the BEL and the
column in which our first line begins are what no stranger can write.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# The first line, the ones of write(1) and wall(1), the note about what was cut.
_OPENINGS: Final = ("messagefrom", "broadcastmessage", "therestofthemessage")
_LAST: Final = "eof"
_FRAME_END: Final = r"\d\W{0,8}\.\.\."  # "14:07 ..."
_ENDS_AS_FRAME: Final = re.compile(_FRAME_END + r"\W*\Z")
_HAS_FRAME_END: Final = re.compile(_FRAME_END)

# Letters that look like the Latin ones of our lines and are not made of them (UTS #39), after case is folded.
_LIKE: Final = str.maketrans(
    {
        char: latin
        for latin, chars in {
            # Cyrillic, Greek, IPA, small capitals, then Cherokee and Lisu
            "a": "аαɑᴀᎪꓮ",
            "b": "вβʙᏴꓐ",
            "c": "сϲᴄᏟꓚ",
            "d": "ԁᴅᎠꓓ",
            "e": "еεєɛᴇ℮Ꭼꓰ",
            "f": "ғƒϝꜰꓝ",
            "g": "ԍɡɢցᏀꓖ",
            "h": "һнηʜᎻꓧ",
            "i": "іιɪıᎥꓲ",
            "m": "мμᴍᎷꓟ",
            "o": "оοөσօᴏꓳ",
            "r": "гʀᴦᎡꓣ",
            "s": "ѕꜱᏚꓢ",
            "t": "тτᴛᎢꓔ",
            "u": "υսᴜꓴ",
            ".": "ꓸ۔٠۰·∙⋅•・",  # to the eye all of them are dots
        }.items()
        for char in chars
    }
)


def resembles(row: str) -> bool:
    """Whether a row of the screen looks like one of our lines, in whatever letters and spacing."""
    seen = _seen(row)
    letters = _letters(seen)
    return letters == _LAST or letters.startswith(_OPENINGS) or _ENDS_AS_FRAME.search(seen) is not None


def holds_likeness(line: str) -> bool:
    """Whether some piece of a line could look like one of ours if a terminal folded it just there."""
    seen = _seen(line)
    letters = _letters(seen)
    return any(words in letters for words in (*_OPENINGS, _LAST)) or _HAS_FRAME_END.search(seen) is not None


def _seen(text: str) -> str:
    return unicodedata.normalize("NFKD", text).casefold().translate(_LIKE)


def _letters(seen: str) -> str:
    return "".join(filter(str.isalnum, seen))
