"""Profile `local`: a background runner that starts the worker as Slurm would."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hpc import files
from hpc.cluster.ledger import _start
from hpc.cluster.profile import find_profile
from hpc.cluster.status import cancel, logs, status, wait
from hpc.cluster.submit import submit
from hpc.errors import ClusterError
from hpc.plan import choose


@pytest.fixture
def here(tmp_path):
    return find_profile("local", roots=[str(tmp_path / "root")], max_parallel=2)


def until(true, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def diamond(toys, **settings):
    plan = toys()
    plan.job("a", 0, ("base", [], settings))
    plan.job("b", 0, ("left", ["base"], settings)).job("b", 1, ("right", ["base"], settings))
    plan.job("c", 0, ("top", ["left", "right"], {}), ("after", ["top"], {}))
    return plan


def test_a_graph_runs_in_order_and_each_stage_is_published_once(toys, here, attempts_of):
    plan = diamond(toys)
    started = time.monotonic()
    first = submit(plan.document(), here)
    assert time.monotonic() - started < 3 and first.jobs == 4
    done = wait(plan.document(), here, poll_s=0.1, timeout_s=30)
    assert done["totals"] == {"published": 5} and done["runs"][0]["state"] == "published"
    top = json.loads((here.root / "artifacts/toy" / plan.key("after") / "result.json").read_text())
    assert top["inputs"]["top"]["inputs"]["left"]["inputs"]["base"]["name"] == "base"
    assert set(attempts_of(plan, here.root).values()) == {(1, 1)}
    again = submit(plan.document(), here)
    assert (again.jobs, again.published) == (0, 5)


def test_submitting_twice_starts_nothing_twice(toys, here, attempts_of):
    plan = diamond(toys, seconds=0.3)
    submit(plan.document(), here)
    second = submit(plan.document(), here)
    assert (second.jobs, second.live) == (0, 5)
    wait(plan.document(), here, poll_s=0.1, timeout_s=30)
    assert set(attempts_of(plan, here.root).values()) == {(1, 1)}


def test_a_failed_parent_cancels_what_depends_on_it_and_submit_resumes(toys, here, tmp_path, attempts_of):
    (tmp_path / "broken").touch()
    plan = toys()
    plan.job("a", 0, ("good", [], {})).job("a", 1, ("bad", [], {"fail_while": str(tmp_path / "broken")}))
    plan.job("b", 0, ("after_good", ["good"], {})).job("b", 1, ("after_bad", ["bad"], {}))
    submit(plan.document(), here)
    found = wait(plan.document(), here, poll_s=0.1, timeout_s=30)["stages"]
    states = {n: found[s["key"]]["state"] for n, s in plan.stages.items()}
    assert states == {"good": "published", "bad": "failed", "after_good": "published", "after_bad": "cancelled"}
    assert found[plan.key("bad")]["reason"] == "told to fail"
    assert "told to fail" in logs(plan.document(), here, plan.key("bad")).read_text()
    (tmp_path / "broken").unlink()
    assert submit(plan.document(), here).jobs == 2
    assert wait(plan.document(), here, poll_s=0.1, timeout_s=30)["totals"] == {"published": 4}
    assert attempts_of(plan, here.root) == {"good": (1, 1), "bad": (2, 1), "after_good": (1, 1), "after_bad": (1, 1)}


def test_a_failed_stage_does_not_stop_its_neighbours_in_the_job(toys, here, tmp_path):
    (tmp_path / "broken").touch()
    bad = ("bad", [], {"fail_while": str(tmp_path / "broken")})
    plan = toys().job("a", 0, bad, ("good", [], {}), ("blocked", ["bad"], {}))
    submit(plan.document(), here)
    found = wait(plan.document(), here, poll_s=0.1, timeout_s=30)["stages"]
    assert [found[plan.key(n)]["state"] for n in ("bad", "good", "blocked")] == ["failed", "published", "failed"]


def test_ranks_meet_in_one_attempt(toys, here, attempts_of):
    plan = toys().job("a", 0, ("wide", [], {}), ranks=3).job("b", 0, ("next", ["wide"], {}))
    submit(plan.document(), here)
    assert wait(plan.document(), here, poll_s=0.1, timeout_s=30)["totals"] == {"published": 2}
    work = here.root / "work/toy" / plan.key("wide") / "1"
    assert sorted(p.name for p in work.glob("rank*")) == ["rank0", "rank1", "rank2"]
    assert (work / "rank2").read_text() == "3"


def test_a_killed_runner_takes_its_jobs_along_and_submit_resumes(toys, here, attempts_of):
    plan = diamond(toys, seconds=1.0)
    first = submit(plan.document(), here)
    work = here.root / "work/toy" / plan.key("base") / "1" / "attempt.json"
    until(work.exists)
    runner = json.loads((here.root / "jobs" / first.submission / "runner.json").read_text())
    os.kill(runner["pid"], signal.SIGKILL)
    worker = json.loads(work.read_text())["pid"]
    until(lambda: not _start(worker))
    assert submit(plan.document(), here).jobs == 4
    assert wait(plan.document(), here, poll_s=0.1, timeout_s=30)["totals"] == {"published": 5}
    assert attempts_of(plan, here.root)["base"] == (2, 1)


@pytest.mark.parametrize("moment", [0.15, 0.3, 0.6])
def test_a_killed_submit_is_finished_by_the_next_one(toys, here, tmp_path, attempts_of, moment):
    plan = diamond(toys)
    files.write_json(tmp_path / "plan.json", plan.document())
    code = (
        "import sys\nfrom pathlib import Path\nfrom hpc import files\nfrom hpc.cluster import profile, submit\n"
        "here = profile.find_profile('local', roots=[sys.argv[1]], max_parallel=2)\n"
        "submit.submit(files.read_json(Path(sys.argv[2])), here)"
    )
    one = subprocess.Popen([sys.executable, "-c", code, str(here.root), str(tmp_path / "plan.json")])
    time.sleep(moment)
    one.kill()
    one.wait()
    submit(plan.document(), here)
    assert wait(plan.document(), here, poll_s=0.1, timeout_s=30)["totals"] == {"published": 5}
    assert set(attempts_of(plan, here.root).values()) == {(1, 1)}


def test_cancel_stops_jobs_and_submit_starts_them_again(toys, here):
    plan = diamond(toys, seconds=30)
    submit(plan.document(), here)
    until(lambda: status(plan.document(), here)["stages"][plan.key("base")]["state"] == "running")
    assert cancel(plan.document(), here) == (4, 0, 0, 0)
    found = wait(plan.document(), here, poll_s=0.1, timeout_s=30)
    assert found["totals"] == {"cancelled": 5}
    assert submit(plan.document(), here).jobs == 4
    cancel(plan.document(), here)
    wait(plan.document(), here, poll_s=0.1, timeout_s=30)


def test_cancel_also_stops_what_the_plan_asked_for_before_it_was_edited_and_no_namesake(toys, here):
    before, after = toys().job("a", 0, ("old", [], {"seconds": 30})), toys().job("a", 0, ("new", [], {}))
    recipe, sweep = {"path": "recipes/toys.yaml"}, {"path": "sweeps/toys.yaml"}
    submit({**before.document(), **recipe}, here)
    until(lambda: status(before.document(), here)["stages"][before.key("old")]["state"] == "running")
    assert cancel({**after.document(), **sweep}, here) == (0, 0, 0, 0)
    assert cancel({**after.document(), **recipe}, here, earlier=False) == (0, 0, 0, 0)
    assert cancel({**after.document(), **recipe}, here) == (0, 1, 0, 0)
    assert wait(before.document(), here, poll_s=0.1, timeout_s=30)["totals"] == {"cancelled": 1}


def test_cancel_of_some_runs_leaves_what_the_others_need(toys, here, attempts_of):
    plan = toys().job("a", 0, ("base", [], {"seconds": 1}))
    plan.job("b", 0, ("left", ["base"], {"seconds": 30})).job("b", 1, ("right", ["base"], {}))
    plan.job("c", 0, ("own", [], {"seconds": 30}))
    whole = plan.document()
    stages = {"left": ("left", "own"), "right": ("right",)}
    whole["runs"] = [
        {**whole["runs"][0], "name": n, "axes": {"side": n}, "stages": {"toy": {s: plan.key(s) for s in stages[n]}}}
        for n in stages
    ]
    submit(whole, here)
    until(lambda: status(whole, here)["stages"][plan.key("own")]["state"] == "running")
    chosen = choose.choose(whole, ["side=left"])
    assert cancel(chosen, here, spared=choose.others(whole, chosen), earlier=False) == (2, 0, 0, 1)
    found = wait(whole, here, poll_s=0.1, timeout_s=20)  # the jobs that were cancelled take longer
    assert {n: found["stages"][plan.key(n)]["state"] for n in plan.stages} == {
        "base": "published",
        "left": "cancelled",
        "right": "published",
        "own": "cancelled",
    }
    attempt = here.root / "work/toy" / plan.key("own") / "1" / "attempt.json"
    until(lambda: not _start(json.loads(attempt.read_text())["pid"]))
    assert attempts_of(plan, here.root)["left"] == (0, 0)


def test_a_root_that_cannot_be_made_is_said_so(toys, tmp_path):
    (tmp_path / "file").touch()
    plan = toys().job("a", 0, ("x", [], {}))
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ClusterError, match="cannot be made") as caught:
            submit(plan.document(), find_profile("local", roots=[str(root)]))
        assert str(root) in caught.value.where and "HPC_ROOT" in caught.value.next


def test_two_independent_jobs_share_two_cores(toys, here):
    plan = toys().job("a", 0, ("x", [], {"seconds": 1.5})).job("a", 1, ("y", [], {"seconds": 1.5}))
    submit(plan.document(), here)
    wait(plan.document(), here, poll_s=0.1, timeout_s=30)
    heads = [here.root / "work/toy" / plan.key(n) / "1/attempt.json" for n in "xy"]
    assert abs(heads[0].stat().st_mtime - heads[1].stat().st_mtime) < 1.4


def test_a_job_for_gpus_says_that_there_are_none(toys, here):
    plan = toys().job("a", 0, ("big", [], {}), gpus=8)
    with pytest.raises(ClusterError, match="8 GPU") as caught:
        submit(plan.document(), here)
    assert "--on" in caught.value.next
