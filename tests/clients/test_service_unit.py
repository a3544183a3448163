"""The systemd unit in contrib/: it is well formed, and its sandbox is as tight as the documentation says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "contrib" / "mailnode.service"


def test_the_sandbox_is_as_tight_as_documented(need: Callable[[str], str], run: Callable[..., Any]) -> None:
    analyze = need("systemd-analyze")
    done = run(analyze, "security", "--offline=true", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level for mailnode\.service: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    documented = re.search(r"exposure level ([0-9.]+)", (ROOT / "docs" / "operating.md").read_text())
    assert documented is not None
    assert float(found[1]) <= float(documented[1])


def test_systemd_finds_nothing_wrong_with_the_unit(
    need: Callable[[str], str], run: Callable[..., Any], tmp_path: Path
) -> None:
    analyze = need("systemd-analyze")
    unit = tmp_path / "mailnode.service"
    text = UNIT.read_text().replace("/opt/mailnode/bin/twistd", shutil.which("true") or "/bin/true")
    unit.write_text(text)
    done = run(analyze, "verify", "--man=no", unit)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "mailnode" in line]
    assert said == []
