"""The campaign: runs every target for a while, and says how far it came and what it found.

    python -m fuzz.run [--seconds N] [--jobs N] [TARGET...]

What breaks an invariant lies in build/fuzz/TARGET/crash-*, the full story in build/fuzz/TARGET.log.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fuzz.one import TARGETS

WORK = Path("build/fuzz")


class Report(NamedTuple):
    target: str
    inputs: int
    coverage: int  # edges; 0 where it is not measured
    found: int
    status: int

    def __str__(self) -> str:
        edges = f"{self.coverage} edges" if self.coverage else "edges not measured"
        found = f"{self.found} FOUND" if self.found or self.status else "nothing found"
        return f"{self.target:14} {self.inputs:>10} inputs   {edges:>18}   {found}"


def campaign(target: str, seconds: int) -> Report:
    work = WORK / target
    work.mkdir(parents=True, exist_ok=True)
    before = _finds(work)
    log = WORK / f"{target}.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "fuzz.one", target, str(seconds), str(work)]
        status = subprocess.run(command, stderr=stream, stdout=stream, check=False).returncode
    text = log.read_text(errors="replace")
    counts = re.findall(r"number_of_executed_units: *(\d+)", text) or re.findall(r"^#(\d+)", text, re.M)
    edges = re.findall(r" cov: (\d+)", text)
    found = len(_finds(work) - before)
    return Report(target, int(counts[-1]) if counts else 0, int(edges[-1]) if edges else 0, found, status)


def _finds(work: Path) -> set[Path]:
    return {file for kind in ("crash-*", "timeout-*", "oom-*") for file in work.glob(kind)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=list(TARGETS))
    options = parser.parse_args()
    broken = False
    with ThreadPoolExecutor(options.jobs) as pool:
        for report in pool.map(lambda target: campaign(target, options.seconds), options.targets):
            print(report, flush=True)
            broken = broken or bool(report.found or report.status)
    if broken:
        print(f"what was found lies in {WORK}/*/crash-*", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
