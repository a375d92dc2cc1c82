"""`hpc submit` killed at any moment, with an sbatch that outlives it; then submitted again until all is done."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from hpc import files
from hpc.cluster import queue
from hpc.cluster.ledger import Ledger
from hpc.cluster.status import wait
from hpc.cluster.submit import submit
from hpc.errors import ClusterError

pytestmark = pytest.mark.slurm

SUBMIT = """
import sys
from hpc import files
from hpc.cluster.profile import find_profile
from hpc.cluster.submit import submit
root, plan = sys.argv[1:]
submit(files.read_json(__import__("pathlib").Path(plan)), find_profile("slurm", roots=[root], memory_gib=0.5))
"""


def graph(toys, name):
    plan = toys(name).job("data-0", 0, ("base", [], {}))
    for i in range(3):
        plan.job("train-0", i, (f"train{i}", ["base"], {}))
    for i in range(3):
        plan.job("generate-0", i, (f"gen{i}", [f"train{i}"], {}))
    return plan.job("grade-0", 0, ("grade", ["gen0", "gen1", "gen2"], {}))


def start(tmp_path, profile, plan):
    files.write_json(tmp_path / "plan.json", plan.document())
    return subprocess.Popen(
        [sys.executable, "-c", SUBMIT, str(profile.root), str(tmp_path / "plan.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def published(profile, plan):
    return [(profile.root / "artifacts/toy" / s["key"] / "DONE").exists() for s in plan.stages.values()]


def idle(profile):
    """Wait until the private queue holds nothing of ours that could still run."""
    end = time.monotonic() + 40
    while queue.run(["squeue", "-h", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%j"]):
        assert time.monotonic() < end, queue.run(["squeue", "-t", "all"])
        time.sleep(0.2)


def kill_and_repair(toys, there, tmp_path, attempts_of, name, moments):
    """Kill `submit` after each of `moments` seconds, then submit until nothing is left; every key exactly once."""
    plan = graph(toys, name)
    for moment in moments:
        one = start(tmp_path, there, plan)
        time.sleep(moment)
        one.send_signal(signal.SIGKILL)
        one.wait()
    for _ in range(3):
        submit(plan.document(), there)
        if wait(plan.document(), there, poll_s=0.3, timeout_s=60)["totals"] == {"published": 8}:
            break
    assert all(published(there, plan))
    idle(there)  # also jobs of an sbatch that came late: they must leave
    counts = attempts_of(plan, there.root)
    assert set(counts.values()) == {(1, 1)}, counts
    return plan


@pytest.mark.parametrize("moment", [0.5, 1.1, 1.7])
def test_a_killed_submit_is_finished_by_the_next_one(toys, there, tmp_path, shim, attempts_of, moment):
    shim("sbatch", "sleep 0.4")
    kill_and_repair(toys, there, tmp_path, attempts_of, f"killed{int(10 * moment)}", [moment])


def test_an_sbatch_that_lands_after_it_was_given_up_does_not_run_its_work_twice(
    toys, there, tmp_path, shim, attempts_of, monkeypatch
):
    before = os.environ["PATH"]
    shim("sbatch", "sleep 4")
    plan = graph(toys, "late")
    one = start(tmp_path, there, plan)
    end = time.monotonic() + 20
    while not Ledger(there.root).intents:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)  # sbatch has been started and sleeps
    one.send_signal(signal.SIGKILL)
    one.wait()
    monkeypatch.setenv("PATH", before)
    assert submit(plan.document(), there).jobs == 8
    assert wait(plan.document(), there, poll_s=0.3, timeout_s=60)["totals"] == {"published": 8}
    late = Ledger(there.root).intents[0].pieces[0]
    end = time.monotonic() + 20
    while (
        f"{late.job_name} COMPLETED" not in (seen := queue.run(["squeue", "-h", "-t", "all", "-o", "%j %T"]))
        and f"{late.job_name} FAILED" not in seen
    ):
        assert time.monotonic() < end, seen  # the late job did come, and left
        time.sleep(0.2)
    assert set(attempts_of(plan, there.root).values()) == {(1, 1)}


def test_two_submitters_at_once_submit_once(toys, there, tmp_path, shim, attempts_of):
    shim("sbatch", "sleep 0.3")
    plan = graph(toys, "pair")
    both = [start(tmp_path, there, plan) for _ in range(2)]
    assert [p.wait(timeout=60) for p in both] == [0, 0]
    assert wait(plan.document(), there, poll_s=0.3, timeout_s=60)["totals"] == {"published": 8}
    assert set(attempts_of(plan, there.root).values()) == {(1, 1)}


def test_a_silent_squeue_is_an_error_and_not_an_empty_queue(toys, there, shim, monkeypatch):
    plan = toys("silent").job("train-0", 0, ("a", [], {"seconds": 3}))
    submit(plan.document(), there)
    shim("squeue", "sleep 60")
    monkeypatch.setattr(queue.run, "__kwdefaults__", {"timeout_s": 0.5})
    with pytest.raises(ClusterError, match="did not answer"):
        submit(plan.document(), there)


RARE = [pytest.param(3, marks=pytest.mark.proof_ci), pytest.param(20, marks=pytest.mark.proof)]


@pytest.mark.parametrize("trials", RARE)
def test_submit_killed_at_random_moments(toys, there, tmp_path, shim, attempts_of, trials):
    draw = random.Random(trials)
    shim("sbatch", "sleep 0.$((RANDOM % 9))")
    for trial in range(trials):
        moments = [draw.uniform(0.1, 3.0) for _ in range(draw.randint(1, 3))]
        kill_and_repair(toys, there, tmp_path, attempts_of, f"random{trials}-{trial}", moments)
