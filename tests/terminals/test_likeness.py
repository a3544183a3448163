"""Lines of strangers that could be taken for ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailnode.terminals.likeness import holds_likeness, resembles

LIKE_OURS = [
    " Message from smith@usc.example on mit.example at 14:07 ...",
    "MESSAGE  FROM:root",
    "M e s s a g e   f r o m",
    "Ḿëṡṣàğé fröm root",
    "Ｍｅｓｓａｇｅ ｆｒｏｍ root",
    "𝐌𝐞𝐬𝐬𝐚𝐠𝐞 𝕗𝕣𝕠𝕞 root",
    "ⓜⓔⓢⓢⓐⓖⓔ ⓕⓡⓞⓜ root",
    "Меssаgе frоm root",  # Cyrillic
    "Μεssαgε frοm root",  # Greek
    "ᴍᴇꜱꜱᴀɢᴇ ꜰʀᴏᴍ root",  # small capitals
    "ꓟꓰꓢꓢꓮꓖꓰ ꓝꓣꓳꓟ root",  # Lisu
    "ᎷᎬᏚᏚᎪᏀᎬ from root",  # Cherokee
    "Broadcast message from root@mit (pts/1):",
    "Nachricht von root um 14:07 ...",
    "root at 14:07 …",
    "root at 14:07 ⋅⋅⋅",
    "EOF",
    "- eof -",
    "ЕОҒ",
    "ＥＯＦ",
    "[The rest of the message was cut.]",
]


@pytest.mark.parametrize("line", LIKE_OURS)
def test_a_line_that_a_person_could_take_for_ours_is_known(line: str) -> None:
    assert resembles(line) and holds_likeness(line)


@pytest.mark.parametrize(
    "line",
    [
        "The message from Smith came at noon.",
        "We meet at 14:07.",
        "Wait ...",
        "EOF means the end of the file.",
        "Сообщение от Смита",
        "漢字 😀",
        "",
    ],
)
def test_an_ordinary_line_is_left_alone(line: str) -> None:
    assert not resembles(line)


@pytest.mark.parametrize("like", LIKE_OURS)
@given(before=st.text(max_size=30), after=st.text(max_size=30))
def test_a_likeness_is_seen_wherever_it_stands_in_a_line(like: str, before: str, after: str) -> None:
    assert holds_likeness(f"{before} {like} {after}")
