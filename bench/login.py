"""What a login node pays: start-up of the command, and a plan of 1,000 runs, beside the peers, in one go.

    python bench/login.py            writes bench/results/DATE-login.json

CPU seconds (user + system) of whole processes, medians of interleaved rounds, since login nodes are shared.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
HOME = Path(__file__).parents[1]
HYDRA = """
from hydra import compose, initialize_config_dir
with initialize_config_dir({folder!r}, version_base=None):
    for lr in range(10):
        for epochs in range(10):
            for decay in range(10):
                compose("config", overrides=[f"train.lr={{lr}}", f"train.epochs={{epochs}}", f"train.weight_decay={{decay}}"])
"""
SWEEP = """
recipe: s1_32b
axes:
  train.lr: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
  train.epochs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
  train.weight_decay: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
"""


def cpu_s(command: list[str]) -> float:
    """CPU seconds of a finished command; raises CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by name; a peer that is not installed is left out."""
    (folder / "grid.yaml").write_text(SWEEP)
    python = sys.executable
    found = {
        "python -c pass": [python, "-c", "pass"],
        "import submitit": [python, "-c", "import submitit"],
        "import omegaconf": [python, "-c", "import omegaconf"],
        "hpc --help": [python, "-m", "hpc.cli", "--help"],
        "hpc plan, 1 run": [python, "-m", "hpc.cli", "plan", "recipes/s1_32b.yaml", "--on", "h100x8", "--json"],
        "hpc plan, 1,000 runs": [
            python,
            "-m",
            "hpc.cli",
            "plan",
            str(folder / "grid.yaml"),
            "--on",
            "h100x8",
            "--json",
        ],
    }
    if subprocess.run([python, "-c", "import hydra"], capture_output=True).returncode == 0:
        groups = {
            "data": "source: s1k\nselect: all\n",
            "train": "lr: 1\nepochs: 1\nweight_decay: 1\n",
            "generate": "waits: 0\n",
        }
        for name, text in groups.items():
            (folder / name).mkdir()
            (folder / name / "base.yaml").write_text(text)
        (folder / "config.yaml").write_text("defaults:\n" + "".join(f"  - {name}: base\n" for name in groups))
        found["hydra.compose, 1,000 configs"] = [python, "-c", HYDRA.format(folder=str(folder))]
    return found


def main() -> None:
    """Measure and write the record."""
    with tempfile.TemporaryDirectory() as name:
        todo = commands(Path(name))
        rounds: dict[str, list[float]] = {key: [] for key in todo}
        for number in range(ROUNDS):
            for key, command in todo.items():
                if number < 1 or not key.startswith("hydra"):  # a minute each: once is enough for a factor of 50
                    rounds[key].append(cpu_s(command))
    rows = {
        k: {
            "median_s": round(statistics.median(v), 3),
            "min_s": round(min(v), 3),
            "max_s": round(max(v), 3),
            "n": len(v),
        }
        for k, v in rounds.items()
    }
    record = {
        "what": "CPU seconds of whole processes",
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "rows": rows,
    }
    path = HOME / "bench" / "results" / f"{record['date']}-login.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
