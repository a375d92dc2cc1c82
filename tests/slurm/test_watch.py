"""What `hpc status` says of jobs that a real Slurm has not started yet, and while a requeued one comes back."""

import io
import time

import pytest
from rich.console import Console

from hpc.cluster import text, watch
from hpc.cluster.failures import reasons
from hpc.cluster.queue import seconds
from hpc.cluster.status import status
from hpc.cluster.submit import submit

pytestmark = pytest.mark.slurm


def test_a_waiting_job_has_a_reason_and_an_expected_start_and_a_watch_ends_with_the_last(toys, there):
    plan = toys("watched")
    for i in range(3):  # two nodes have GPUs: the third waits for one of them
        plan.job("train-0", i, (f"x{i}", [], {"seconds": 1.0, "steps": 8}), gpus=8)
    document = plan.document()
    run = document["runs"][0]
    document["runs"] = [{**run, "name": n, "stages": {"toy": {n: plan.key(n)}}} for n in plan.stages]
    submit(document, there)
    end, found = time.monotonic() + 40, None
    while found is None:
        assert time.monotonic() < end, "no job got an expected start"
        time.sleep(0.5)
        stages = status(document, there)["stages"].values()
        running = [s for s in stages if s["state"] == "running"]
        waiting = [s for s in stages if s["state"] == "pending" and s["reason"] in ("Resources", "Priority")]
        found = next((s for s in waiting if s.get("start") and len(running) == 2), None)
    assert -60 < seconds(found["start"]) - time.time() < 3600  # within the time limits of those before it
    out = io.StringIO()
    text.status(status(document, there), Console(file=out, width=220))
    assert reasons.explain(found["reason"])[0] in out.getvalue()
    lines = io.StringIO()
    state = watch.watch(document, there, Console(file=lines, width=200), every_s=1)
    assert state["totals"] == {"published": 3}
    assert lines.getvalue().splitlines()[-1] == "watched on slurm: 3 published"


def test_a_job_of_a_node_that_died_comes_back_and_is_never_taken_for_finished(toys, there, slurm):
    plan = toys("died").job("train-0", 0, ("x", [], {"seconds": 0.5, "steps": 20}))
    submit(plan.document(), there)
    key, end = plan.key("x"), time.monotonic() + 30
    while status(plan.document(), there)["stages"][key]["state"] != "running":
        assert time.monotonic() < end
        time.sleep(0.2)
    job = status(plan.document(), there)["stages"][key]["job"]
    node = slurm.out("squeue", "-h", "-j", job, "-o", "%N").strip()
    slurm.out("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    seen = set()
    end = time.monotonic() + 8
    while time.monotonic() < end:
        seen.add(status(plan.document(), there)["stages"][key]["state"])
        assert submit(plan.document(), there).jobs == 0  # at every moment it is on its way
        time.sleep(0.1)
    assert seen <= {"running", "pending"} and "pending" in seen
    slurm.out("scancel", job)
