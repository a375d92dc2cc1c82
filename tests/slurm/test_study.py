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

CUT = Path(__file__).parents[1] / "cut"
SAME = ("examples.jsonl", "questions.jsonl", "samples.jsonl", "grades.jsonl", "model.safetensors")


def made(profile, name, timeout_s):
    """Run a sweep with `profile`; returns sha256 by file of everything that must not depend on where it ran."""
    plan = document.document(document.make(sweep.load(name), profile.all_roots))
    submit(plan, profile)
    state = wait(plan, profile, timeout_s=timeout_s)
    wrong = {k: s.get("reason") for k, s in state["stages"].items() if s["state"] in ("failed", "cancelled")}
    assert not wrong and all(run["state"] == "published" for run in state["runs"]), wrong or state["runs"]
    folder = profile.root / "report"
    report.build(plan, profile.all_roots, folder)
    files = [p for p in (profile.root / "artifacts").rglob("*") if p.name in SAME]
    tables = list(folder.rglob("*.csv"))
    return {str(p.relative_to(profile.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in [*files, *tables]}


@pytest.fixture
def alike(slurm, tmp_path, monkeypatch):
    """alike(name, timeout_s): both sums of a sweep, as local processes and through Slurm, from two empty roots."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(CUT)
    home = str(Path(__file__).parents[2])
    monkeypatch.setenv("HPC_PATH", home)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([home, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name, timeout_s):
        local = find_profile("local", roots=[str(tmp_path / "local")], max_parallel=2)
        remote = find_profile("slurm", roots=[str(tmp_path / "slurm")], memory_gib=4)
        return made(local, name, timeout_s), made(remote, name, timeout_s)

    return run


@pytest.mark.slurm
@pytest.mark.proof_ci
def test_cut_of_the_mini_study_is_the_same_through_slurm_and_as_local_processes(alike, tmp_path):
    local, remote = alike(str(CUT / "cut.yaml"), 400)
    records = [p.read_text() for p in (tmp_path / "slurm/artifacts/train").glob("*/environment.json")]
    assert sum('"SLURM_JOB_NUM_NODES": "2"' in text for text in records) == 2, "no ZeRO-3 over two nodes"
    assert local == remote and len(local) > 20


@pytest.mark.slurm
@pytest.mark.proof
def test_mini_study_is_the_same_through_slurm_and_as_local_processes(alike):
    local, remote = alike("sweeps/mini.yaml", 1500)
    assert local == remote and len(local) > 60
