"""Slow and idle clients hold nobody up: the short form of bench/crowd.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

CROWD = Path(__file__).parents[2] / "bench" / "crowd.py"


@pytest.mark.parametrize("tls", [[], ["--tls"]], ids=["plain", "TLS"])
def test_slow_and_idle_clients_hold_nobody_up_and_cost_little(run: Any, tls: list[str]) -> None:
    done = run(sys.executable, CROWD, "--idle", 300, "--slow", 60, "--json", *tls, seconds=60)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["greeted_worst_ms"] < 1000, found
    assert found["resident_mib"] < 200, found
    assert found["idle_each_kib"] < (100 if tls else 20), found
    assert done.returncode == 0 and found["within"]
