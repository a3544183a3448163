"""Waiting for a condition and never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
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
