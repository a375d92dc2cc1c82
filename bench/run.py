"""Benchmarks, each a module beside this one: `make bench`, or `python -m bench.run [NAME ...]`.

A benchmark is a function `measure() -> dict` whose numbers carry their unit in their name. A run writes
bench/results/DATE-NAME.json with the numbers and what they were measured on; results are kept, also the bad ones.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import Absent

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def names() -> list[str]:
    """Every benchmark, in alphabetical order."""
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in ("run", "__init__"))


def run(name: str) -> Path:
    """Measure one benchmark and write its result; returns the file."""
    numbers = importlib.import_module(f"bench.{name}").measure()
    today = datetime.now(UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{today}-{name}.json"
    row = {"benchmark": name, "date": today, **numbers, "measured_on": machine()}
    path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """What a number depends on: processor, cores, load when the measurement ended, Python, revision of the code."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    revision = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "revision": revision.stdout.strip() or "unknown",
    }


def main() -> None:
    """Run the benchmarks named on the command line, or all that this machine can run."""
    for name in sys.argv[1:] or names():
        try:
            path = run(name)
        except Absent as absent:
            if sys.argv[1:]:
                sys.exit(f"error: {absent}")
            print(f"{name}: left out: {absent}")
        else:
            print(f"{path}\n{path.read_text()}")


if __name__ == "__main__":
    main()
