"""What attached terminals cost a whole node: the short form of `bench/terminal.py --attached 1000`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

TERMINAL = Path(__file__).parents[2] / "bench" / "terminal.py"


def test_a_hundred_terminals_of_a_hundred_users_cost_less_than_5_mb(run: Any, need: Any) -> None:
    need("unshare")
    if os.geteuid():
        pytest.skip("only root can be a hundred users")
    done = run(sys.executable, TERMINAL, "--attached", 100, "--json", seconds=60)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["terminals"] == 100 and 0 < found["shown_mb"] < 5, found
    assert done.returncode == 0 and found["within"]
