"""A cut of the mini study while a rank is killed, a node dies and a job is preempted: the bytes of an undisturbed run.

The training is real; what it is compared with was made by local processes.
"""

import os
import signal
import threading
import time

import pytest

from hpc import files
from hpc.cluster.profile import find_profile
from tests.slurm.test_study import CUT, made
from tests.slurm.trial import occupy

pytestmark = [pytest.mark.slurm, pytest.mark.proof]


def at_work(root, stage, done):
    """attempt.json of a stage that is being made now and was not hit before, once its ranks have had time to start."""
    for path in sorted((root / "work" / stage).glob("*/*/attempt.json")):
        key = path.parents[1].name
        there = (root / "artifacts" / stage / key / "DONE").exists()
        if key not in done and not there and time.time() - path.stat().st_mtime > 1.5:
            done.add(key)
            return files.read_json(path)
    return None


def disturb(box, root, done, over):
    """Three faults, each in another stage; `done` gets the keys that were hit."""

    def kill(row):
        pids = box.workers(rank=1) or box.workers()
        os.kill(pids[0], signal.SIGKILL)

    def crash(row):
        box.call("crash", row["host"])
        box.out("scontrol", "update", f"NodeName={row['host']}", "State=DOWN", "Reason=test")
        time.sleep(3)
        box.call("start", f"slurmd.{row['host']}")

    def preempt(row):
        occupy(box, 3)

    for stage, fault in (("train", kill), ("generate", crash), ("train", preempt)):
        while not over.is_set():
            if row := at_work(root, stage, done):
                fault(row)
                break
            time.sleep(0.2)


def test_the_study_is_the_same_under_sigkill_node_death_and_preemption(fast, tmp_path, monkeypatch, table):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(CUT)
    home = str(CUT.parents[1])
    monkeypatch.setenv("HPC_PATH", home)
    monkeypatch.setenv("PYTHONPATH", home)
    local = find_profile("local", roots=[str(tmp_path / "local")], max_parallel=2)
    remote = find_profile("slurm", roots=[str(tmp_path / "slurm")], memory_gib=4, hours=2, partition="preemptible")
    done, over, began = set(), threading.Event(), time.time()
    thread = threading.Thread(target=disturb, args=(fast, remote.root, done, over), daemon=True)
    thread.start()
    try:
        disturbed = made(remote, str(CUT / "cut.yaml"), 500)
    finally:
        over.set()
        thread.join()
    seconds = time.time() - began
    assert len(done) == 3, "not every fault found its stage"
    attempts = [len(list((remote.root / "work").glob(f"*/{key}/[0-9]*"))) for key in done]
    assert min(attempts) >= 2, attempts
    began = time.time()
    assert disturbed == made(local, str(CUT / "cut.yaml"), 400) and len(disturbed) > 20
    row = {
        "fault": "the mini study's cut: SIGKILL of a rank, node death, preemption",
        "attempts_of_the_stages": attempts,
    }
    table.append({**row, "seconds": round(seconds), "seconds_of_local_processes": round(time.time() - began)})
