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


def test_every_attack_names_a_test() -> None:
    tables = re.findall(r"^\| (?:attack|threat) \|.*\n\|---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    attacks = [row for table in tables for row in table.splitlines()]
    assert len(attacks) > 40
    assert [row for row in attacks if "tests/" not in row and "`test_" not in row] == []
