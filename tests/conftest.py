"""With MAILNODE_NO_SKIPS set, a test that was skipped has failed: there every program must be installed."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("MAILNODE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        why: Any = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be: {why[2] if isinstance(why, tuple) else why}"
    return report
