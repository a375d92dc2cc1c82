"""The job side, run as a process with the variables of Slurm or of the local runner."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hpc import artifact
from hpc.cluster.hosts import first_host, rendezvous
from hpc.cluster.ledger import Ledger
from hpc.cluster.local import RESTART
from hpc.cluster.profile import find_profile
from hpc.cluster.requeue import LEFT, doing, seconds
from hpc.cluster.submit import submit


@pytest.fixture
def here(tmp_path):
    return find_profile("local", roots=[str(tmp_path / "root")])


def spawn(sent, array=0, index=0, **env):
    command = [sys.executable, "-m", "hpc.cluster.worker", sent.arrays[array]["jobfile"], "--index", str(index)]
    return subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def work(sent, array=0, index=0, **env):
    process = spawn(sent, array, index, **env)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def test_a_published_stage_is_not_made_again(toys, here, attempts_of):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), here, dry_run=True)
    assert work(sent)[0] == 0
    code, said = work(sent)
    assert code == 0 and "is published already" in said
    assert attempts_of(plan, here.root) == {"x": (1, 1)}


def test_a_stage_published_in_a_shared_root_is_used_from_there(toys, tmp_path, attempts_of):
    lab = find_profile("local", roots=[str(tmp_path / "lab")])
    mine = find_profile("local", roots=[str(tmp_path / "mine"), str(tmp_path / "lab")])
    plan = toys().job("a", 0, ("x", [], {})).job("b", 0, ("y", ["x"], {}))
    assert work(submit(plan.document(), lab, dry_run=True))[0] == 0
    sent = submit(plan.document(), mine, dry_run=True)
    assert [a["name"] for a in sent.arrays] == ["b"]
    assert work(sent)[0] == 0
    assert attempts_of(plan, mine.root) == {"x": (0, 0), "y": (1, 1)}


def test_a_published_folder_that_lost_its_done_is_made_again(toys, here, attempts_of):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), here, dry_run=True)
    assert work(sent)[0] == 0
    folder = here.root / "artifacts/toy" / plan.key("x")
    (folder / "DONE").unlink()
    code, said = work(sent)
    assert code == 0 and "published" in said and (folder / "DONE").exists()
    (aside,) = folder.parent.glob(".purged-*")
    assert (aside / "result.json").exists() and attempts_of(plan, here.root) == {"x": (2, 1)}


def test_of_two_attempts_the_first_is_published(toys, here):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), here, dry_run=True)
    assert work(sent)[0] == 0
    final = here.root / "artifacts/toy" / plan.key("x")
    late = artifact.Work("toy", plan.key("x"), None, {}, {}, 0, artifact.claim(here.root, "toy", plan.key("x")))
    assert not artifact.publish(late, here.root, inputs={}, counts={})
    assert (final / "result.json").exists() and not late.out.exists() and not list(final.parent.glob(".purged-*"))


def test_a_replaced_job_leaves_without_an_attempt(toys, here, attempts_of):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), here, dry_run=True)
    Ledger(here.root).decide(sent.submission, "a", {"replaced": "by a later submit"})
    code, said = work(sent)
    assert code == LEFT and "by a later submit" in said
    assert attempts_of(plan, here.root) == {"x": (0, 0)}


def test_a_job_that_starts_first_cannot_be_replaced_any_more(toys, here):
    plan = toys().job("a", 0, ("x", [], {}))
    sent = submit(plan.document(), here, dry_run=True)
    work(sent, SLURM_JOB_ID="4711", SLURM_JOB_NODELIST="n1")
    assert Ledger(here.root).decide(sent.submission, "a", {"replaced": "too late"})["job_id"] == "4711"


def test_a_cancelled_element_leaves_when_it_is_started_again(toys, here, attempts_of):
    plan = toys().job("a", 0, ("x", [], {})).job("a", 1, ("y", [], {}))
    sent = submit(plan.document(), here, dry_run=True)
    Ledger(here.root).withdraw([(sent.submission, "a", 1)], "hpc cancel")
    assert work(sent, index=1)[0] == LEFT
    assert work(sent, index=0)[0] == 0
    assert attempts_of(plan, here.root) == {"x": (1, 1), "y": (0, 0)}


def test_a_failure_is_written_down_and_reaches_the_exit_code(toys, here, tmp_path):
    (tmp_path / "broken").touch()
    plan = toys().job("a", 0, ("x", [], {"fail_while": str(tmp_path / "broken")}))
    code, said = work(submit(plan.document(), here, dry_run=True))
    row = json.loads((here.root / "work/toy" / plan.key("x") / "1/failure.json").read_text())
    assert code == 1 and "told to fail" in said
    assert (row["type"], row["message"], row["key"]) == ("RuntimeError", "told to fail", plan.key("x"))
    assert "toy.py" in row["traceback"]


def test_a_stage_without_a_module_fails_like_any_other(toys, here):
    plan = toys().job("a", 0, ("x", [], {}), kind="no_such_stage")
    assert work(submit(plan.document(), here, dry_run=True))[0] == 1


def warned(root, process, number=signal.SIGUSR2, before=lambda: None):
    """Signal a worker in the middle of its stage; returns its exit code, its words and its report."""
    end = time.monotonic() + 20
    while not list((root / "work").glob("toy/*/1/out/metrics.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.05)
    before()
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert not list((root / "work").glob("toy/*/1/failure.json"))
    (report,) = root.glob("jobs/*/state/*.json")
    return process.returncode, said, json.loads(report.read_text())["state"]


@pytest.fixture
def long(toys, here):
    return submit(toys().job("a", 0, ("x", [], {"seconds": 20})).document(), here, dry_run=True)


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_warning_asks_for_a_restart(here, long, number):
    code, _, report = warned(here.root, spawn(long), number)
    assert (code, report) == (RESTART, "requeued")


def test_restarts_end_at_the_profiles_limit(here, long):
    code, said, report = warned(here.root, spawn(long, SLURM_RESTART_COUNT="50"))
    assert (code, report) == (1, "failed") and "giving up" in said


def test_a_withdrawn_job_does_not_ask_for_a_restart(here, long):
    withdraw = lambda: Ledger(here.root).withdraw([(long.submission, "a", 0)], "hpc cancel")  # noqa: E731
    code, said, report = warned(here.root, spawn(long), signal.SIGTERM, withdraw)
    assert (code, report) == (LEFT, "left") and "hpc cancel" in said


COMPLETING = "JobId=7 JobState=COMPLETING Restarts={} RunTime=00:00:09 TimeLimit={}"


@pytest.mark.parametrize(
    "shown, code, report, calls",
    [
        ("JobId=7 JobState=RUNNING Restarts=0", 0, "requeued", ["show job 7 -o", "requeue 7"]),
        (COMPLETING.format(0, "00:05:00"), LEFT, "left", ["show job 7 -o"]),
        (COMPLETING.format(1, "00:05:00"), 0, "requeued", ["show job 7 -o"]),
        (None, 75, "requeued", []),  # in a container: the batch shell outside does it
    ],
)
def test_a_job_under_slurm_asks_what_becomes_of_it(here, long, tmp_path, shown, code, report, calls):
    """A plain scancel must not be undone; a requeue from outside needs no second one; no scontrol is no traceback."""
    (tmp_path / "bin").mkdir()
    if shown:
        (tmp_path / "bin/scontrol").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\necho "{shown}"\n')
        (tmp_path / "bin/scontrol").chmod(0o755)
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "PATH": str(tmp_path / "bin")}
    found = warned(here.root, spawn(long, **env), signal.SIGTERM)
    assert (found[0], found[2]) == (code, report) and "Traceback" not in found[1]
    assert ((tmp_path / "calls").read_text().splitlines() if shown else []) == calls


def test_a_job_at_its_time_limit_is_not_taken_for_a_cancelled_one():
    assert doing(COMPLETING.format(0, "00:00:09"), 0) == ""
    assert doing(COMPLETING.format(0, "UNLIMITED"), 0) == "cancelled"
    assert doing("JobState=CANCELLED Restarts=0", 0) == "cancelled"
    assert doing("JobState=PENDING Restarts=1", 0) == "" == doing("", 0)
    assert (seconds("2-01:00:05"), seconds("00:05:00")) == (176405, 300)


def test_the_first_host_of_a_node_list():
    assert first_host("h100-01") == "h100-01"
    assert first_host("h100-[03-04,09],cpu-1") == "h100-03"
    assert first_host("a[1-2]b[007,9]") == "a1b007"
    assert first_host("n1,n2") == "n1"


def test_jobs_on_one_node_meet_at_different_ports():
    one, two = (rendezvous({"SLURM_JOB_ID": str(i), "SLURM_JOB_NODELIST": "n[1-2]"}) for i in (100, 101))
    assert one["MASTER_ADDR"] == "n1" and one["MASTER_PORT"] != two["MASTER_PORT"]
    assert 10000 <= int(one["MASTER_PORT"]) < 30000
