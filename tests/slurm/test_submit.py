"""Toy graphs through a real Slurm: arrays, dependencies, failures, requeues, ranks on several nodes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpc.cluster import queue
from hpc.cluster.ledger import Ledger
from hpc.cluster.status import cancel, logs, status, wait
from hpc.cluster.submit import submit
from hpc.errors import ClusterError

pytestmark = pytest.mark.slurm


def finish(plan, profile, timeout_s=60):
    return wait(plan.document(), profile, poll_s=0.3, timeout_s=timeout_s)


def states(plan, found):
    return {n: found["stages"][s["key"]]["state"] for n, s in plan.stages.items()}


def until(true, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return value


def restart(slurm, job):
    """Do not wait the 120 s before Slurm starts a requeued job; within 2 s it would refuse its own credential."""
    until(lambda: "PENDING" in slurm.out("squeue", "-h", "-o", "%T", "-j", job))
    time.sleep(2.5)
    slurm.out("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_arrays_wait_for_their_parents_and_everything_is_published_once(toys, there, attempts_of):
    plan = toys("graph").job("data-0", 0, ("base", [], {}))
    for i in range(3):
        plan.job("train-0", i, (f"train{i}", ["base"], {}))
    for i in range(3):
        plan.job("generate-0", i, (f"gen{i}", [f"train{i}"], {}), (f"more{i}", [f"train{i}"], {}))
    plan.job("grade-0", 0, ("grade", ["gen0", "gen1", "gen2"], {}))
    sent = submit(plan.document(), there)
    assert [a.get("dependency").split(":")[0] for a in sent.arrays] == ["", "afterok", "aftercorr", "afterok"]
    second = submit(plan.document(), there)
    assert (second.jobs, second.live) == (0, 11)
    assert finish(plan, there)["totals"] == {"published": 11}
    assert set(attempts_of(plan, there.root).values()) == {(1, 1)}
    log = logs(plan.document(), there, plan.key("gen1")).read_text()
    assert f"toy {plan.key('gen1')} attempt 1" in log


def test_a_failing_element_cancels_its_own_children_alone_and_submit_resumes(toys, there, tmp_path, attempts_of):
    (tmp_path / "broken").touch()
    plan = toys("failing")
    for i in range(3):
        plan.job("train-0", i, (f"train{i}", [], {"fail_while": str(tmp_path / "broken")} if i == 1 else {}))
    for i in range(3):
        plan.job("generate-0", i, (f"gen{i}", [f"train{i}"], {}))
    submit(plan.document(), there)
    found = finish(plan, there)
    assert states(plan, found) == {
        "train0": "published",
        "train1": "failed",
        "train2": "published",
        "gen0": "published",
        "gen1": "cancelled",
        "gen2": "published",
    }
    assert found["stages"][plan.key("train1")]["reason"] == "told to fail"
    (tmp_path / "broken").unlink()
    again = submit(plan.document(), there)
    assert again.jobs == 2
    assert finish(plan, there)["totals"] == {"published": 6}
    assert attempts_of(plan, there.root)["train1"] == (2, 1)
    assert attempts_of(plan, there.root)["gen1"] == (1, 1)


def test_sparse_indices_keep_their_partners(toys, there, tmp_path):
    """After a partial failure the same indices are submitted again, and children still find their own parents."""
    (tmp_path / "broken").touch()
    plan = toys("sparse")
    for i in range(6):
        plan.job("train-0", i, (f"train{i}", [], {"fail_while": str(tmp_path / "broken")} if i % 2 else {}))
    for i in range(6):
        plan.job("generate-0", i, (f"gen{i}", [f"train{i}"], {}))
    submit(plan.document(), there)
    finish(plan, there)
    (tmp_path / "broken").unlink()
    again = submit(plan.document(), there)
    assert [a["indices"] for a in again.arrays] == [[1, 3, 5], [1, 3, 5]]
    assert "#SBATCH --array=1,3,5%256" in again.arrays[0]["text"]
    assert again.arrays[1]["dependency"].startswith("aftercorr:")
    assert finish(plan, there)["totals"] == {"published": 12}


def test_ranks_on_two_nodes_meet_in_one_attempt(toys, there, attempts_of):
    plan = toys("wide").job("train-0", 0, ("wide", [], {}), ranks=4, nodes=2)
    submit(plan.document(), there)
    assert finish(plan, there)["totals"] == {"published": 1}
    work = there.root / "work/toy" / plan.key("wide") / "1"
    assert {p.name: p.read_text() for p in work.glob("rank*")} == {f"rank{i}": "4" for i in range(4)}


def test_torch_ranks_on_two_nodes_find_each_other(toys, there, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = toys("torch").job("train-0", 0, ("sum", [], {}), ranks=4, nodes=2, kind="gather")
    submit(plan.document(), replace(there, memory_gib=4))
    assert finish(plan, there)["totals"] == {"published": 1}
    row = json.loads((there.root / "artifacts/gather" / plan.key("sum") / "result.json").read_text())
    assert row == {"total": 10, "hosts": ["cpu-01", "cpu-01", "cpu-02", "cpu-02"], "omp": "1"}


@pytest.mark.parametrize("signal", ["USR2", "TERM"])
def test_a_warned_job_requeues_itself_and_finishes_later(toys, there, slurm, attempts_of, signal):
    plan = toys(f"warned{signal}").job("train-0", 0, ("long", [], {"seconds": 0.2, "steps": 15}))
    plan.job("grade-0", 0, ("after", ["long"], {}))
    submit(plan.document(), there)
    running = until(
        lambda: (
            status(plan.document(), there)["stages"][plan.key("long")].get("step", 0) > 2
            and status(plan.document(), there)["stages"][plan.key("long")]
        )
    )
    slurm.out("scancel", f"--signal={signal}", running["job"])
    until(lambda: "PENDING" in slurm.out("squeue", "-h", "-o", "%T %r", "-j", running["job"]))
    assert status(plan.document(), there)["stages"][plan.key("long")]["state"] == "pending"
    assert submit(plan.document(), there).jobs == 0  # it is on its way
    restart(slurm, running["job"])
    assert finish(plan, there)["totals"] == {"published": 2}
    assert attempts_of(plan, there.root)["long"] == (2, 1)


def test_a_requeue_from_outside_gives_the_job_time_to_leave(toys, there, slurm, attempts_of):
    """`scontrol requeue` and preemption send TERM to the whole job: the batch shell must outlive it."""
    plan = toys("outside").job("train-0", 0, ("long", [], {"seconds": 0.2, "steps": 15, "save_s": 1.5}))
    submit(plan.document(), there)
    running = until(
        lambda: (
            status(plan.document(), there)["stages"][plan.key("long")].get("step", 0) > 2
            and status(plan.document(), there)["stages"][plan.key("long")]
        )
    )
    slurm.out("scontrol", "requeue", running["job"])
    folder = there.root / "jobs" / running["submission"] / "state"
    until(lambda: any(json.loads(p.read_text())["state"] == "requeued" for p in folder.glob("*.json")))
    assert (there.root / "work/toy" / plan.key("long") / "1" / "saved").exists()
    restart(slurm, running["job"])
    assert finish(plan, there)["totals"] == {"published": 1}
    assert attempts_of(plan, there.root)["long"] == (2, 1)


def test_cancel_ends_waiting_and_running_jobs(toys, there):
    plan = toys("cancelled").job("train-0", 0, ("long", [], {"seconds": 60})).job("grade-0", 0, ("after", ["long"], {}))
    submit(plan.document(), there)
    until(lambda: status(plan.document(), there)["stages"][plan.key("long")]["state"] == "running")
    assert cancel(plan.document(), there) == (2, 0, there.mend, 0)
    found = finish(plan, there)
    assert found["totals"] == {"cancelled": 2}
    assert {s["reason"] for s in found["stages"].values()} == {"hpc cancel"}
    names = [p.job_name for i in Ledger(there.root).intents for p in i.pieces]
    assert len(names) == 2 + there.mend
    until(lambda: not queue.run(["squeue", "-h", "-n", ",".join(names)]))  # the mender is gone too


def test_a_plain_scancel_is_not_undone_by_the_job(toys, there, slurm):
    plan = toys("scancelled").job("train-0", 0, ("long", [], {"seconds": 0.2, "steps": 300}))
    submit(plan.document(), there)
    running = until(
        lambda: (
            status(plan.document(), there)["stages"][plan.key("long")].get("step", 0) > 2
            and status(plan.document(), there)["stages"][plan.key("long")]
        )
    )
    slurm.out("scancel", running["job"])
    until(lambda: slurm.out("squeue", "-h", "-t", "all", "-o", "%T", "-j", running["job"]).strip() == "CANCELLED")
    assert status(plan.document(), there)["totals"] == {"cancelled": 1}


def test_a_refused_job_shows_the_words_of_sbatch_and_leaves_nothing_in_doubt(toys, there):
    plan = toys("refused").job("train-0", 0, ("a", [], {}))
    with pytest.raises(ClusterError, match="refused") as caught:
        submit(plan.document(), replace(there, partition="nowhere"))
    assert "invalid partition specified: nowhere" in caught.value.why
    assert "sinfo" in caught.value.next
    assert submit(plan.document(), there).jobs == 1
    assert finish(plan, there)["totals"] == {"published": 1}


def test_gpus_are_given_and_jobs_without_them_see_none(toys, there):
    plan = toys("gpus").job("train-0", 0, ("a", [], {}), gpus=2)
    submit(plan.document(), there)
    assert finish(plan, there)["totals"] == {"published": 1}
    environment = json.loads((there.root / "artifacts/toy" / plan.key("a") / "environment.json").read_text())
    assert environment["variables"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment["host"].startswith("h100-")


def test_the_plain_script_runs_the_same_job_file(toys, there, tmp_path):
    plan = toys("byhand").job("train-0", 0, ("a", [], {})).job("train-0", 1, ("b", [], {}))
    sent = submit(plan.document(), there, dry_run=True)
    assert queue.run(["squeue", "-h", "-n", sent.arrays[0]["job_name"]]) == ""
    script = tmp_path / "by_hand.sbatch"
    script.write_text(
        (pytest.importorskip("hpc.cluster.script").plain("data", there))
        .replace("-u -m", "-u -m")
        .replace("python -u", f"{sys.executable} -u")
    )
    subprocess.run(
        ["sbatch", "--chdir", tmp_path, "--array=0-1", script, sent.arrays[0]["jobfile"]],
        check=True,
        timeout=30,
        capture_output=True,
    )
    until(lambda: status(plan.document(), there)["totals"] == {"published": 2})


def test_the_shipped_script_runs_eight_ranks_by_hand(toys, there, tmp_path, monkeypatch):
    """For a user who never heard of submitit: job files by --dry-run, then sbatch with the file in sbatch/."""
    plan = toys("shipped").job("train-0", 0, ("a", [], {}), ranks=8, gpus=8)
    sent = submit(plan.document(), there, dry_run=True)
    script = Path(__file__).parents[2] / "sbatch" / "train.sbatch"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    command = ["sbatch", "--chdir", tmp_path, script, sent.arrays[0]["jobfile"], "--index", "0"]
    subprocess.run(command, check=True, timeout=30, capture_output=True)
    until(lambda: status(plan.document(), there)["totals"] == {"published": 1}, 60)
    work = there.root / "work/toy" / plan.key("a") / "1"
    assert len(list(work.glob("rank*"))) == 8
    assert len(list(tmp_path.glob("0-*.0.0-*.out"))) == 8
