"""A cut of the mini study through the real Slurm, ZeRO-3 over two nodes, and as local processes: the same bytes."""

import hashlib
import os
from pathlib import Path

import pytest

from analysis import report
from hpc.cluster.profile import find_profile
from hpc.cluster.status import wait
from hpc.cluster.submit import submit
from hpc.plan import document
from hpc.recipe import sweep

CUT = Path(__file__).parent / "cut"
SAME = ("examples.jsonl", "questions.jsonl", "samples.jsonl", "grades.jsonl", "model.safetensors")


def made(profile):
    """Run the cut with `profile`; returns sha256 by file of everything that must not depend on where it ran."""
    plan = document.document(document.make(sweep.load(str(CUT / "cut.yaml")), profile.all_roots))
    submit(plan, profile)
    state = wait(plan, profile, timeout_s=400)
    wrong = {k: s.get("reason") for k, s in state["stages"].items() if s["state"] in ("failed", "cancelled")}
    assert not wrong and all(run["state"] == "published" for run in state["runs"]), wrong or state["runs"]
    folder = profile.root / "report"
    report.build(plan, profile.all_roots, folder)
    files = [p for p in (profile.root / "artifacts").rglob("*") if p.name in SAME]
    tables = list(folder.rglob("*.csv"))
    return {
        str(p.relative_to(profile.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in [*files, *tables]
    }, plan


@pytest.mark.slurm
@pytest.mark.proof_ci
def test_mini_study_is_the_same_through_slurm_and_as_local_processes(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(CUT)
    home = str(Path(__file__).parents[2])
    monkeypatch.setenv("HPC_PATH", home)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([home, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    local, plan = made(find_profile("local", roots=[str(tmp_path / "local")], max_parallel=2))
    remote, _ = made(find_profile("slurm", roots=[str(tmp_path / "slurm")], memory_gib=4))
    trains = [s for s in plan["stages"] if s["stage"] == "train" and s["recipe"] == "study"]
    assert trains and all(s["nodes"] == 2 for s in trains)
    hosts = [p.read_text() for p in (tmp_path / "slurm" / "artifacts" / "train").glob("*/environment.json")]
    assert any('SLURM_JOB_NUM_NODES": "2"' in text for text in hosts), "no training ran on two nodes"
    assert local == remote and len(local) > 20
