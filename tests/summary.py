"""Write what a test run showed as JSON: `PYTHONPATH=tests pytest -p summary --summary FILE`. `make proof` does."""

import json
import os
import platform
import time
from pathlib import Path


def pytest_addoption(parser):
    parser.addoption("--summary", help="write outcomes and seconds of every test as JSON")
    parser.addoption("--faults-table", help="write what each injected fault did (tests/slurm/test_faults.py) as JSON")


def pytest_terminal_summary(terminalreporter, config):
    target = config.getoption("--summary")
    if not target:
        return
    reports = [r for kind in ("passed", "failed", "skipped") for r in terminalreporter.stats.get(kind, [])]
    tests = {r.nodeid: {"outcome": r.outcome, "seconds": round(r.duration, 1)} for r in reports}
    outcomes = [t["outcome"] for t in tests.values()]
    record = {
        "marks": config.getoption("markexpr") or "all",
        "date": time.strftime("%Y-%m-%d"),
        "counts": {o: outcomes.count(o) for o in sorted(set(outcomes))},
        "seconds": round(sum(t["seconds"] for t in tests.values())),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "tests": tests,
    }
    Path(target).write_text(json.dumps(record, indent=1) + "\n")
