"""`hpc why` on jobs that really failed here: four ranks on two nodes in most, so that cascades drown the cause.

HPC_KEEP_LOGS=1 pytest tests/slurm/test_why.py      also keeps the logs as cases of tests/cluster/logs
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hpc.cluster.cover import look
from hpc.cluster.failures import evidence
from hpc.cluster.failures.causes import classify
from hpc.cluster.profile import find_profile
from hpc.cluster.status import status
from hpc.cluster.submit import submit

pytestmark = [pytest.mark.slurm, pytest.mark.proof]
HOME = Path(__file__).parents[2]
KEPT = HOME / "tests/cluster/logs"
RANKS = {"ranks": 4, "nodes": 2, "kind": "breaks"}


def until(true, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)
    return value


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def profile_of(root, **changes):
    return find_profile(
        "slurm", **{"roots": [str(root)], "memory_gib": 4, "signal_lead_s": 10, "mend": False, **changes}
    )


def fail(plan, profile, name="a"):
    """Submit, wait for the end; the job that made (or did not make) the stage `name`."""
    submit(plan.document(), profile)
    until(lambda: status(plan.document(), profile)["stages"][plan.key(name)]["state"] in ("failed", "cancelled"))
    return look(plan.document(), profile).latest(plan.key(name))


def judged(profile, job, start=""):
    found = evidence.of_start(profile.root, *job.element, start, slurm=job.word)
    return found, classify(found)


def clean(text, profile):
    """Without folders of this machine."""
    for path, name in ((str(profile.root), "/scratch/me/hpc"), (str(HOME), "/home/me/thinkscale")):
        text = text.replace(path, name)
    text = re.sub(r"/\S*/lib/python3\.\d+/site-packages", "/env/lib/python3.11/site-packages", text)
    text = re.sub(r"/\S*/lib/python3\.\d+/(?!site-packages)", "/usr/lib/python3.11/", text)
    return text.replace(str(Path(sys.prefix)), "/env")


def keep(name, found, verdict, line, profile):
    """Write the case down, where that is asked for; the cause is what this test broke, not what was found."""
    if not os.environ.get("HPC_KEEP_LOGS"):
        return
    folder = KEPT / f"suite_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for log in found.logs:
        (folder / Path(log.path).name.replace(".out", ".log")).write_text(clean(log.text, profile))
    if found.failures:
        rows = [{k: v for k, v in row.items() if k != "path"} for row in found.failures]
        (folder / "failures.json").write_text(clean(json.dumps(rows, indent=1), profile) + "\n")
    expected = {"cause": name.partition("-")[0], "source": "suite", "slurm": found.slurm, "steps": found.steps}
    (folder / "expected.yaml").write_text(
        yaml.safe_dump({**expected, "code": found.code, "line": line}, sort_keys=False)
    )


def proves(name, profile, job, line, start=""):
    found, verdict = judged(profile, job, start)
    keep(name, found, verdict, line, profile)
    assert verdict.cause == name.partition("-")[0], (verdict, [log.text[-2000:] for log in found.logs])
    assert any(line in p.text for p in verdict.proof), verdict.proof
    return verdict


@pytest.mark.parametrize(
    "how, rank, line",
    [
        ("bug", 2, "KeyError: 'validation'"),
        ("import_error", 3, "flash_attention_that_is_not_installed"),
        ("missing_file", 1, "shard_00017.arrow"),
        ("segfault", 2, "Segmentation fault"),
        ("bad_config", 0, "max_tokens is above the model's context"),
        ("rendezvous", 0, "EADDRINUSE"),
    ],
)
def test_one_rank_of_four_fails_and_the_others_lose_their_peer(toys, slurm, root, how, rank, line):
    plan = toys(f"why-{how}").job("train-0", 0, ("a", [], {"how": how, "rank": rank}), **RANKS)
    profile = profile_of(root)
    proves(how, profile, fail(plan, profile), line)


def test_a_hung_rank(toys, slurm, root):
    plan = toys("why-hung").job("train-0", 0, ("a", [], {"how": "hung", "rank": 1}), **RANKS)
    profile = profile_of(root, hang_s=4.0)
    proves("hung", profile, fail(plan, profile), "no progress for")


def test_a_rank_killed_from_outside(toys, slurm, root):
    plan = toys("why-killed").job("train-0", 0, ("a", [], {"how": "", "steps": 60, "seconds": 0.5}), **RANKS)
    profile = profile_of(root)
    submit(plan.document(), profile)
    step = lambda: status(plan.document(), profile)["stages"][plan.key("a")].get("step", 0)  # noqa: E731
    until(lambda: step() > 2)
    (pid,) = slurm.workers(rank=3)
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    until(lambda: list(root.glob("jobs/*/rescues/*.json")))
    job = look(plan.document(), profile).latest(plan.key("a"))
    verdict = proves("killed", profile, job, "Killed", f"{job.job_id.partition('_')[0]}.0.0")
    assert verdict.cure == "here"
    slurm.out("scancel", job.job_id)


def test_a_setup_line_that_fails(toys, fast, root):
    plan = toys("why-setup").job("train-0", 0, ("a", [], {"how": ""}), kind="breaks")
    profile = profile_of(root, setup=["module load cuda/99.1"])
    proves("setup", profile, fail(plan, profile), "module: command not found")


def test_a_full_disk(toys, small, root):
    plan = toys("why-space").job("train-0", 0, ("a", [], {"how": "no_space"}), kind="breaks")
    profile = profile_of(Path(small.folder) / "disk/root")
    verdict = proves("no_space", profile, fail(plan, profile), "No space left on device")
    assert verdict.cure == "space"


def test_memory_above_the_job_limit(toys, cgroup, root):
    plan = toys("why-memory").job("train-0", 0, ("a", [], {"memory_mib": 900, "wrong_at": 0, "every": 1}))
    profile = profile_of(root, memory_gib=0.5)
    verdict = proves("host_oom", profile, fail(plan, profile), "oom")
    assert verdict.cure == "memory"


def test_an_input_that_was_purged(toys, slurm, root):
    first = toys("why-purged").job("data-0", 0, ("base", [], {}))
    profile = profile_of(root, memory_gib=0.5)
    submit(first.document(), profile)
    until(lambda: status(first.document(), profile)["totals"] == {"published": 1})
    (root / "artifacts/toy" / first.key("base") / "result.json").unlink()
    plan = toys("why-purged").job("data-0", 0, ("base", [], {})).job("train-0", 0, ("a", ["base"], {}))
    proves("purged_input", profile, fail(plan, profile), "is gone")


def test_a_time_limit_that_no_signal_could_help(toys, fast, root):
    plan = toys("why-time").job("train-0", 0, ("a", [], {"how": "time_limit"}), kind="breaks")
    profile = profile_of(root)
    plan.jobs["train-0"][0]["resources"]["hours"] = 0.02
    proves("time_limit", profile, fail(plan, profile), "TIME LIMIT")


def test_a_node_that_dies_under_a_job_that_must_not_be_requeued(toys, fast, root):
    plan = toys("why-node").job("train-0", 0, ("a", [], {"seconds": 0.5, "steps": 600}))
    profile = profile_of(root, memory_gib=0.5, sbatch={"no-requeue": True})
    submit(plan.document(), profile)
    found = until(lambda: fast.workers())
    assert found
    node = fast.out("squeue", "-h", "-t", "R", "-o", "%N").split()[0]
    fast.out("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    until(lambda: status(plan.document(), profile)["stages"][plan.key("a")]["state"] == "failed", 120)
    job = look(plan.document(), profile).latest(plan.key("a"))
    proves("node_fault", profile, job, "NODE")
