"""The page for auditors, docs/security.md: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_[a-z0-9_]+)`", PAGE))
    assert len(names) > 15
    assert [name for name in sorted(names) if f"def {name}(" not in source] == []


def test_every_file_that_the_page_names_exists() -> None:
    files = set(re.findall(r"`((?:tests|fuzz|bench|docs)/[a-z0-9_/]*(?:\.py|\.md)?)`", PAGE))
    assert len(files) > 20
    assert [file for file in sorted(files) if not (ROOT / file).exists()] == []


def test_every_row_names_a_test() -> None:
    rows = [row for row in PAGE.splitlines() if row.startswith("| ") and row.count(" | ") == 2]
    attacks = [row for row in rows if "|---" not in row and not re.match(r"\| (attack|target|threat|`)", row)]
    assert len(attacks) > 30
    assert [row for row in attacks if "tests/" not in row and "`test_" not in row] == []
