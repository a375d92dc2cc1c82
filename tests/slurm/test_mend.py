"""The mender and the rescue loop on a real Slurm: what is tried again, how, and what is left alone."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpc.cluster import queue
from hpc.cluster.ledger import Ledger
from hpc.cluster.status import cancel, status, wait
from hpc.cluster.submit import submit

pytestmark = pytest.mark.slurm
HOME = Path(queue.__file__).parents[2]
TOYS = HOME / "tests/toys"


def finish(plan, profile, timeout_s=90):
    return wait(plan.document(), profile, poll_s=0.3, timeout_s=timeout_s)


def until(true, timeout_s=40):
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return value


def rescues(profile):
    return [json.loads(p.read_text()) for p in sorted(profile.root.glob("jobs/*/rescues/*.json"))]


def menders(profile):
    return [p for i in Ledger(profile.root).intents for p in i.pieces if p.name == "mend"]


def pid_of(profile, plan, name):
    path = profile.root / "work/toy" / plan.key(name) / "1/attempt.json"
    return until(lambda: path.exists() and json.loads(path.read_text())["pid"])


def ranks_of(profile):
    """Process ids by rank of the one job that runs."""
    found = subprocess.run(["pgrep", "-f", f"worker {profile.root}"], capture_output=True, text=True).stdout.split()
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in found}
    rank = b"SLURM_PROCID="
    return {v.removeprefix(rank).decode(): pid for pid, e in environments.items() for v in e if v.startswith(rank)}


def test_a_killed_rank_starts_again_in_its_allocation(toys, there, attempts_of):
    plan = toys("killed").job("train-0", 0, ("long", [], {"seconds": 0.2, "steps": 10}))
    plan.job("grade-0", 0, ("after", ["long"], {}))
    submit(plan.document(), there)
    pid = pid_of(there, plan, "long")
    time.sleep(0.5)
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    assert finish(plan, there)["totals"] == {"published": 2}
    assert attempts_of(plan, there.root) == {"long": (2, 1), "after": (1, 1)}
    (row,) = rescues(there)
    assert (row["cause"], row["cure"], row["start"].split(".")[1:]) == ("killed", "here", ["0", "0"])


def test_a_killed_rank_on_another_node_starts_all_ranks_again(toys, there, attempts_of):
    settings = {"seconds": 0.3, "steps": 10, "every": 1}
    plan = toys("wide").job("train-0", 0, ("wide", [], settings), ranks=4, nodes=2)
    submit(plan.document(), there)
    begun = there.root / "work/toy" / plan.key("wide") / "1/begun"
    until(lambda: begun.exists() and len(begun.read_text().splitlines()) > 2)
    subprocess.run(["kill", "-KILL", ranks_of(there)["3"]], check=True)
    assert finish(plan, there)["totals"] == {"published": 1}
    assert attempts_of(plan, there.root) == {"wide": (2, 1)}
    (row,) = rescues(there)
    assert (row["cause"], row["cure"]) == ("killed", "here")
    assert queue.run(["squeue", "-h", "-t", "all", "-o", "%j %r"]).count("BeginTime") == 0  # nothing went to the queue


def test_an_exception_of_the_code_is_not_tried_again_by_the_mender(toys, there, tmp_path, attempts_of):
    (tmp_path / "broken").touch()
    plan = toys("broken").job("train-0", 0, ("a", [], {"fail_while": str(tmp_path / "broken")}))
    submit(plan.document(), there)
    assert finish(plan, there)["totals"] == {"failed": 1}
    assert len(menders(there)) == 1 and attempts_of(plan, there.root) == {"a": (1, 0)}
    assert submit(plan.document(), there).jobs == 1  # a user may: the world around the code may have changed
    assert finish(plan, there)["totals"] == {"failed": 1}
    held = submit(plan.document(), there)
    assert held.jobs == 0 and "twice" in held.held[plan.key("a")]
    (tmp_path / "broken").unlink()
    assert submit(plan.document(), there, again=[plan.key("a")]).jobs == 1
    assert finish(plan, there)["totals"] == {"published": 1}


def test_a_purged_input_is_made_again(toys, there, attempts_of):
    first = toys("purged").job("data-0", 0, ("base", [], {}))
    submit(first.document(), there)
    assert finish(first, there)["totals"] == {"published": 1}
    (there.root / "artifacts/toy" / first.key("base") / "result.json").unlink()
    plan = toys("purged").job("data-0", 0, ("base", [], {})).job("train-0", 0, ("after", ["base"], {}))
    submit(plan.document(), there)
    assert finish(plan, there)["totals"] == {"published": 2}
    assert attempts_of(plan, there.root) == {"base": (2, 1), "after": (2, 1)}


def test_a_full_queue_gets_the_rest_from_the_mender(toys, there, attempts_of):
    plan = toys("chunks")
    for i in range(5):
        plan.job("train-0", i, (f"t{i}", [], {}))
    for i in range(5):
        plan.job("grade-0", i, (f"g{i}", [f"t{i}"], {}))
    until(lambda: not queue.run(["squeue", "-h", "-o", "%i"]))  # menders of the tests before count too
    sent = submit(plan.document(), replace(there, max_submit=5))
    assert (sent.jobs, sent.later) == (4, 6)
    until(lambda: status(plan.document(), there)["totals"] == {"published": 10}, 90)
    assert set(attempts_of(plan, there.root).values()) == {(1, 1)}


SUBMIT_HELD = """
import json, sys
from hpc.cluster.profile import find_profile
from hpc.cluster.submit import submit
submit(json.load(open(sys.argv[2])), find_profile("slurm", roots=[sys.argv[1]], memory_gib=0.5, sbatch={"hold": True}))
"""


def test_editing_the_code_does_not_change_a_queued_job(toys, there, slurm, tmp_path, monkeypatch):
    """The package and a user's function file are both copied at submission."""
    for name in ("hpc", "analysis", "sbatch"):
        shutil.copytree(HOME / name, tmp_path / "tree" / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    (tmp_path / "own.py").write_text("def word():\n    return 'old'\n")
    plan = toys("edited").job("train-0", 0, ("a", [], {"function": f"{tmp_path}/own.py:word"}), kind="caller")
    (tmp_path / "plan.json").write_text(json.dumps(plan.document()))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/tree:{TOYS}")
    line = [sys.executable, "-P", "-c", SUBMIT_HELD, str(there.root), str(tmp_path / "plan.json")]
    subprocess.run(line, check=True, cwd=tmp_path)
    (tmp_path / "tree/hpc/cluster/worker.py").write_text("raise SystemExit('edited')\n")
    (tmp_path / "own.py").write_text("def word():\n    return 'new'\n")
    slurm.out("scontrol", "release", *queue.run(["squeue", "-h", "-o", "%i", "-n", held(there)]).split())
    result = there.root / "artifacts/caller" / plan.key("a") / "result.json"
    until(result.exists)
    row = json.loads(result.read_text())
    assert row["word"] == "old" and row["package"].startswith(f"{there.root}/code/")
    about = json.loads((Path(row["package"]).parents[1] / "SNAPSHOT.json").read_text())
    assert about["taken"] > 0


def held(profile):
    return ",".join(p.job_name for i in Ledger(profile.root).intents for p in i.pieces)


def test_a_queue_full_of_others_leaves_only_a_mender_that_looks_again(toys, there):
    until(lambda: not queue.run(["squeue", "-h", "-o", "%i"]))
    plan = toys("crowded").job("train-0", 0, ("a", [], {}))
    sent = submit(plan.document(), replace(there, max_submit=1))
    assert (sent.jobs, sent.later) == (0, 1) and sent.mender
    shown = queue.run(["scontrol", "show", "job", sent.mender, "-o"])
    assert "JobState=PENDING" in shown and "Reason=BeginTime" in shown
    assert submit(plan.document(), there).jobs == 1
    queue.cancel([sent.mender])
    assert finish(plan, there)["totals"] == {"published": 1}


def test_an_element_that_leaves_its_node_takes_no_sibling_along(toys, there, attempts_of):
    """The element that is started last has the bare id of the whole array as its own."""
    plan = toys("siblings")
    for i in range(3):
        plan.job("train-0", i, (f"t{i}", [], {"seconds": 0.5, "steps": 12}))
    fails = '[ "$SLURM_ARRAY_TASK_ID" != 2 ] || [ "${SLURM_RESTART_COUNT:-0}" != 0 ]'
    submit(plan.document(), replace(there, setup=[fails]))
    done = lambda: [p.parent.name for p in there.root.glob("artifacts/toy/*/DONE")]  # noqa: E731
    until(lambda: {plan.key("t0"), plan.key("t1")} <= set(done()), 60)
    counts = attempts_of(plan, there.root)
    assert (counts["t0"], counts["t1"]) == ((1, 1), (1, 1))
    shown = queue.run(["squeue", "-h", "-r", "-o", "%K %T %r"])
    assert "2 PENDING BeginTime" in shown, shown
    cancel(plan.document(), there)
