"""What a login node pays, beside peers in one go: start of the command, and a grid of 1,000 runs. CPU seconds."""

from __future__ import annotations

import importlib.util
import resource
import statistics
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


HYDRA = """
from hydra import compose, initialize_config_dir
with initialize_config_dir("{folder}", version_base=None):
    for n in range({number}):
        compose("config", overrides=[f"train.lr={{n}}", "train.epochs=1", "generate.waits=2"])
"""
GROUPS = {
    "data": "source: s1k\nselect: all\n",
    "train": "lr: 1\nepochs: 1\nweight_decay: 1\n",
    "generate": "waits: 0\nmax_tokens: 1\n",
}
ROUNDS = 5
HYDRA_CONFIGS = 50
"""A thousand take a minute; hydra's cost is proportional to the number."""


def measure() -> dict[str, Any]:
    """CPU seconds of whole processes: {name: {median, min, max}} over interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        todo = commands(Path(folder))
        rounds: dict[str, list[float]] = {name: [] for name in todo}
        for _ in range(ROUNDS):
            for name, command in todo.items():
                rounds[name].append(cpu_s([sys.executable, *command]))
    return {n: {"median": statistics.median(v), "min": min(v), "max": max(v)} for n, v in rounds.items()}


def commands(folder: Path) -> dict[str, list[str]]:
    """Arguments of Python by name; a peer that is not installed (pip install hydra-core) is left out."""
    grid = folder / "grid.yaml"
    grid.write_text(GRID)
    plan = ["-m", "hpc.cli", "plan", "--on", "h100x8", "--json"]
    found = {
        "python_cpu_s": ["-c", "pass"],
        "hpc_help_cpu_s": ["-m", "hpc.cli", "--help"],
        "import_hpc_cli_cpu_s": ["-c", "import hpc.cli"],
        "import_submitit_cpu_s": ["-c", "import submitit"],
        "import_omegaconf_cpu_s": ["-c", "import omegaconf"],
        "hpc_plan_1_run_cpu_s": [*plan, "recipes/s1_32b.yaml"],
        "hpc_plan_1000_runs_cpu_s": [*plan, str(grid)],
    }
    if importlib.util.find_spec("hydra"):
        for group, text in GROUPS.items():
            (folder / group).mkdir()
            (folder / group / "base.yaml").write_text(text)
        (folder / "config.yaml").write_text("defaults:\n" + "".join(f"  - {g}: base\n" for g in GROUPS))
        found[f"hydra_compose_{HYDRA_CONFIGS}_configs_cpu_s"] = [
            "-c",
            HYDRA.format(folder=folder, number=HYDRA_CONFIGS),
        ]
    return found


def cpu_s(command: Sequence[str]) -> float:
    """CPU seconds (user and system) of one run of `command`, which must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 3)
