"""Waiting for a condition and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

PATIENCE: Final = 30.0  # seconds; on a busy machine the last of them are needed


def wait_until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Looks again and again until `true`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain: {what}")
        time.sleep(0.01)


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether a process ends within `seconds`; that nobody has asked how it ended does not matter."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
