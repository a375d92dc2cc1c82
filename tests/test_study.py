"""What a newcomer does first, on a cut of the mini study: submit, wait, report, submit again."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CUT = Path(__file__).parent / "cut"
HOME = Path(__file__).parents[1]


@pytest.fixture
def hpc(tmp_path):
    (tmp_path / "recipes").symlink_to(CUT)
    variables = {
        "HPC_PATH": str(HOME),
        "PYTHONPATH": str(HOME),
        "HPC_ROOT": str(tmp_path / "root"),
        "OMP_NUM_THREADS": "1",
    }

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "hpc.cli", *words, "--on", "local"],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_submit_status_and_report_lead_from_a_sweep_to_its_tables(hpc, tmp_path):
    sweep = ("recipes/cut.yaml", "resources.train.nodes=1")
    first = json.loads(hpc("submit", *sweep, "--json"))
    assert first["jobs"] > 8
    state = json.loads(hpc("status", *sweep, "--wait", "--json"))
    assert {run["state"] for run in state["runs"]} == {"published"}
    out = hpc("report", *sweep)
    page = Path(out.splitlines()[-1].removeprefix("report: "))
    assert "<svg" in page.read_text()
    with (page.parent / "rows.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4 and all(row["num_questions"] == "30" for row in rows.values())
    assert float(rows["data-s1_budget-max_8_s0"]["thinking_tokens"]) <= 8
    assert float(rows["data-s1_budget-waits_1_s0"]["waits"]) > 0
    again = json.loads(hpc("submit", *sweep, "--json"))
    assert again["jobs"] == 0 and again["published"] == len(state["stages"])
    attempts = [p for p in (tmp_path / "root" / "work").glob("*/*/*") if p.name.isdigit()]
    assert len(attempts) == len(state["stages"]), "every stage was made in one attempt"
