"""What a login node pays: start of the command, import time, and the plan of a grid of 1,000 runs. CPU seconds."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GRID = """\
recipe: s1_32b
axes:
  train.lr: [1.0e-6, 3.0e-6, 1.0e-5, 3.0e-5, 1.0e-4]
  train.epochs: [1, 2, 3, 4, 5]
  train.warmup_ratio: [0.0, 0.05]
  generate.thinking.max: [250, 500, 1000, 2000, 4000]
  generate.thinking.waits: [0, 1, 2, 4]
"""


def measure() -> dict[str, Any]:
    """Minimum of five runs each; CPU seconds of the process and its children, so other load does not count."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        grid.write_text(GRID)
        return {
            "help_cpu_s": least(["-m", "hpc.cli", "--help"]),
            "import_cpu_s": least(["-c", "import hpc.cli"]),
            "python_cpu_s": least(["-c", "pass"]),
            "plan_1000_runs_cpu_s": least(["-m", "hpc.cli", "plan", str(grid), "--json"], repeats=3),
        }


def least(arguments: Sequence[str], repeats: int = 5) -> float:
    """CPU seconds of the cheapest of `repeats` runs of Python with `arguments`."""
    return min(cpu_s([sys.executable, *arguments]) for _ in range(repeats))


def cpu_s(command: Sequence[str]) -> float:
    """CPU seconds (user and system) of one run of `command`, which must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 3)
