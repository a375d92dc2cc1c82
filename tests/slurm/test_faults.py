"""Faults injected into a real Slurm while toy trainings of a few seconds run: nothing may be lost, or published twice.

Each test ends in Trial.check: results equal to an undisturbed run, at most one checkpoint interval and one step lost,
and the number of attempts. Most run on a controller whose clock goes 20 times faster: time limits and the fixed 120 s
before a requeued job starts are 20 times shorter there. `-p summary --faults-table FILE` writes what happened as JSON.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hpc.cluster import queue
from hpc.cluster import submit as submitting
from hpc.cluster.ledger import Ledger
from hpc.cluster.status import cancel, status
from hpc.errors import ClusterError
from tests.slurm.conftest import until
from tests.slurm.trial import Full, Trial, as_a_user, occupy, restarted, staffed

pytestmark = pytest.mark.slurm
quick, long = pytest.mark.proof_ci, pytest.mark.proof

STEPS = {"steps": 16, "seconds": 0.3, "every": 4}


def training(toys, name, *, hours=0.5, ranks=1, nodes=1, **config):
    """A plan of one training of 5 s and something that needs it."""
    plan = toys(name).job("train-0", 0, ("long", [], {**STEPS, **config}), ranks=ranks, nodes=nodes)
    return limited(plan.job("grade-0", 0, ("after", ["long"], {})), hours)


def trainings(toys, name, number, *, hours=0.5, **config):
    plan = toys(name)
    for i in range(number):
        plan.job("train-0", i, (f"t{i}", [], {**STEPS, **config}))
    return limited(plan, hours)


def limited(plan, hours):
    for job in (j for jobs in plan.jobs.values() for j in jobs):
        job["resources"]["hours"] = hours
    return plan


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def test_an_undisturbed_run(toys, fast, root, table):
    """What all others are compared with."""
    with Trial(fast, root, training(toys, "calm")) as trial:
        trial.submit()
        trial.until_published()
        trial.check(table, "none")


@quick
def test_time_limit(toys, fast, root, table):
    """3 minutes of the controller's are 9 s; the warning comes a minute before, and Slurm looks every half."""
    plan = training(toys, "limit", hours=0.05, steps=30)
    with Trial(fast, root, plan, signal_lead_s=60) as trial:
        trial.submit()
        trial.until_step("long", 0)
        trial.injected()
        trial.until_published()
        trial.check(table, "time limit", attempts={"long": 2})


@quick
def test_preemption_with_the_jobs_own_signal(toys, warned, root, table):
    with Trial(warned, root, training(toys, "warned"), partition="preemptible") as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        occupy(warned, 2)
        trial.until_published()
        trial.check(table, "preemption, user signal", attempts={"long": 2})


@long
def test_preemption_with_term(toys, fast, root, table):
    with Trial(fast, root, training(toys, "plain"), partition="preemptible") as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        occupy(fast, 2)
        trial.until_published()
        trial.check(table, "preemption, TERM", attempts={"long": 2})


@long
@pytest.mark.parametrize("what", ["preemption", "USR2", "TERM"])
def test_a_warning_before_the_worker_listens(toys, fast, root, table, tmp_path, what):
    """Python takes seconds to start on a busy file system: a signal in that time must not fail the job."""
    python = tmp_path / "python"
    slow = '[[ "$*" != *hpc.cluster.worker* ]] || sleep 3'
    python.write_text(f'#!/bin/bash\n{slow}\nexec {os.sys.executable} "$@"\n')
    python.chmod(0o755)
    plan = training(toys, f"early{what}")
    with Trial(fast, root, plan, partition="preemptible", python=str(python)) as trial:
        trial.submit()
        until(lambda: trial.box.out("squeue", "-h", "-t", "RUNNING", "-o", "%j").startswith(plan.name))
        time.sleep(1)
        trial.injected()
        if what == "preemption":
            occupy(fast, 2)
        else:
            fast.out("scancel", f"--signal={what}", trial.state("long")["job"])
        trial.until_published()
        # a preempted one may still begin before its grace is over
        trial.check(
            table, f"{what} before the worker listens", most_attempts={"long": 2 if what == "preemption" else 1}
        )


@long
def test_requeue_by_hand(toys, fast, root, table):
    with Trial(fast, root, training(toys, "requeue")) as trial:
        trial.submit()
        job = trial.until_step("long", 6)["job"]
        trial.injected()
        fast.out("scontrol", "requeue", job)
        trial.until_published()
        trial.check(table, "scontrol requeue", attempts={"long": 2})


@quick
def test_node_death(toys, fast, root, table):
    """A power loss, noticed at once."""
    with Trial(fast, root, training(toys, "death")) as trial:
        trial.submit()
        node = trial.until_step("long", 6)["host"]
        trial.injected()
        fast.call("crash", node)
        fast.out("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        trial.until_published()
        trial.check(table, "node death", attempts={"long": 2})


@long
def test_silent_node_death(toys, fast, root, table):
    """A power loss that Slurm finds out by SlurmdTimeout, and one rank of four on it."""
    with Trial(fast, root, training(toys, "silent", ranks=4, nodes=2)) as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        fast.call("crash", "cpu-02")
        trial.until_published(90)
        trial.check(table, "node death, 1 of 2 nodes, found by time-out", attempts={"long": 2})


@long
def test_slurmd_killed_and_started_again(toys, fast, root, table):
    with Trial(fast, root, training(toys, "slurmd")) as trial:
        trial.submit()
        node = trial.until_step("long", 4)["host"]
        trial.injected()
        fast.call("kill", f"slurmd.{node}")
        time.sleep(1.5)
        fast.call("start", f"slurmd.{node}")
        trial.until_published()
        trial.check(table, "slurmd killed, started again")


@long
def test_graceful_restart_of_the_controller(toys, fast, root, table):
    with Trial(fast, root, trainings(toys, "graceful", 4)) as trial:
        trial.submit()
        trial.until_step("t0", 3)
        trial.injected()
        fast.call("stop", "slurmctld")
        time.sleep(1.5)
        fast.call("start", "slurmctld")
        trial.until_published()
        trial.check(table, "slurmctld stopped, started again")


def ids(trial):
    """Job ids that sbatch gave to the trainings of a plan, oldest first."""
    ledger = Ledger(trial.root)
    own = [i.submission for i in ledger.intents if i.plan == trial.plan.name]
    return [d["job_id"] for s in own if (d := ledger.decision(s, "train-0")) and "job_id" in d]


def forget(box, trial):
    """Submit, and kill the controller before it saves that: it saves at once after a quiet time, then every 5 s."""
    time.sleep(5.5)
    box.out("sbatch", "-o", "/dev/null", "--wrap", "true")
    time.sleep(0.5)
    sent = trial.submit()
    time.sleep(1.2)
    trial.injected()
    restarted(box)
    known = box.out("squeue", "-h", "-t", "all", "-o", "%j")
    assert sent.arrays[0]["job_name"] not in known, "the controller did not forget"


@quick
def test_controller_killed_with_lost_and_reused_ids(toys, slurm, root, table):
    """Jobs submitted just before are forgotten, and the next ones get their ids."""
    lost, other = trainings(toys, "lost", 3), trainings(toys, "reused", 3)
    with Trial(slurm, root, lost) as first, Trial(slurm, root, other) as second:
        forget(slurm, first)
        second.injected()
        second.submit()
        assert ids(second) == ids(first)[-1:], "the id was not given again"
        as_a_user(first, rounds=15, timeout_s=6)
        as_a_user(second, rounds=15, timeout_s=6)
        few = {f"t{i}": 3 for i in range(3)}
        first.check(table, "slurmctld kill -9: jobs lost", most_attempts=few)
        second.check(table, "slurmctld kill -9: jobs with ids that were given before", most_attempts=few)


@long
def test_controller_killed_while_jobs_run(toys, slurm, root, table):
    staffed(slurm)
    with Trial(slurm, root, trainings(toys, "running", 3, steps=30)) as trial:
        trial.submit()
        trial.until_step("t2", 0)
        time.sleep(6)  # its state is saved by then
        trial.injected()
        restarted(slurm)
        as_a_user(trial)
        trial.check(table, "slurmctld kill -9 while jobs run", most_attempts={f"t{i}": 2 for i in range(3)})


@long
def test_a_cancelled_job_that_runs_again(toys, slurm, root, table):
    """The controller forgets a scancel; the job that comes back must leave, and the next submit makes everything."""
    staffed(slurm)
    plan = trainings(toys, "cancelled", 2, steps=40)
    with Trial(slurm, root, plan) as trial:
        trial.submit()
        trial.until_step("t0", 0)
        slurm.out("scontrol", "requeue", trial.state("t0")["job"])
        slurm.out("scontrol", "requeue", trial.state("t1")["job"])
        time.sleep(8)  # the two wait, and that is saved
        assert cancel(plan.document(), trial.profile).own == 2
        trial.injected()
        restarted(slurm)
        back = [line for line in slurm.out("squeue", "-h", "-r", "-o", "%i %j %T").splitlines() if ".train-0." in line]
        for line in back:
            subprocess.run(["scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now"], timeout=20)
        before = {n: len(trial.attempts(n)) for n in plan.stages}
        time.sleep(5)
        assert trial.published() == set() and {n: len(trial.attempts(n)) for n in plan.stages} == before
        as_a_user(trial)
        trial.check(table, "a cancelled job runs again (slurmctld kill -9)", most_attempts={"t0": 3, "t1": 3})


@long
def test_slurmdbd_down(toys, accounted, root, table):
    accounted.call("kill", "slurmdbd")
    with Trial(accounted, root, training(toys, "dbd")) as trial:
        trial.submit()
        trial.until_step("long", 2)
        trial.injected()
        assert trial.submit().jobs == 0
        accounted.call("start", "slurmdbd")
        trial.until_published()
        trial.check(table, "slurmdbd down during submit and status")


@long
def test_mariadb_down(toys, accounted, root, table):
    with Trial(accounted, root, training(toys, "mariadb")) as trial:
        trial.injected()
        accounted.call("kill", "mariadbd")
        trial.submit()
        trial.until_step("long", 2)
        assert trial.submit().jobs == 0
        trial.until_published()
        accounted.call("start", "mariadbd")
        trial.check(table, "mariadb down from submit to end")


@quick
def test_munge_down_during_submit_and_status(toys, fast, root, table, monkeypatch):
    monkeypatch.setattr(queue.run, "__kwdefaults__", {"timeout_s": 1.5})
    monkeypatch.setattr(submitting, "SBATCH_S", 2)
    with Trial(fast, root, training(toys, "munge")) as trial:
        trial.injected()
        fast.call("kill", "munged")
        with pytest.raises(ClusterError):
            trial.submit()
        fast.call("start", "munged")
        time.sleep(1)
        trial.submit()
        trial.until_step("long", 1)
        fast.call("kill", "munged")
        with pytest.raises(ClusterError, match="did not answer"):
            status(trial.plan.document(), trial.profile)
        fast.call("start", "munged")
        trial.until_published()
        trial.check(table, "munge down during submit and status")


@long
@pytest.mark.parametrize("down_s", [3, 70])
def test_munge_down_during_a_requeue(toys, fast, root, table, down_s):
    """For 3 s the worker's call waits; for 70 s it gives up, and the job ends without its artifact."""
    with Trial(fast, root, training(toys, f"munged{down_s}")) as trial:
        trial.submit()
        raw = trial.until_step("long", 6)["raw"]
        trial.injected()
        fast.call("kill", "munged")
        os.kill(fast.workers(raw, rank=0)[0], signal.SIGUSR2)
        time.sleep(down_s)
        fast.call("start", "munged")
        trial.until_published() if down_s < 10 else as_a_user(trial, rounds=2)
        trial.check(table, f"munge down for {down_s} s during a requeue", attempts={"long": 2})


@pytest.mark.parametrize("kind", [pytest.param("space", marks=quick), pytest.param("files", marks=long)])
def test_full_disk(toys, small, table, kind):
    """The disk fills up in the middle of a training and is freed later; then the user submits again."""
    disk = Path(small.folder, "disk")
    with Trial(small, disk / "root", training(toys, f"full{kind}")) as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        full = Full(disk, kind)
        until(lambda: trial.state("long")["state"] in ("failed", "cancelled"), 40)
        full.free()
        as_a_user(trial)
        trial.check(table, f"disk full: no {kind} left", attempts={"long": 2}, quiet=True)


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """The library that makes fsync and close fail."""
    target = tmp_path_factory.mktemp("faulty") / "faulty.so"
    source = Path(__file__).parent / "faultlib" / "faulty.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", target, source, "-ldl"], check=True, timeout=60)
    return target


@pytest.mark.parametrize(
    ("call", "code"),
    [
        pytest.param("fsync", 122, marks=quick),
        pytest.param("close", 122, marks=long),
        pytest.param("fsync", 28, marks=long),
        pytest.param("close", 28, marks=long),
    ],
)
def test_quota_found_at_fsync_or_close(toys, fast, root, table, tmp_path, faulty, call, code):
    flag = tmp_path / "quota"
    env = {
        "LD_PRELOAD": str(faulty),
        "FAULTY_CALL": call,
        "FAULTY_ERRNO": str(code),
        "FAULTY_UNDER": str(root / "work"),
        "FAULTY_WHILE": str(flag),
    }
    with Trial(fast, root, training(toys, f"quota{call}{code}"), env=env) as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        flag.touch()
        until(lambda: trial.state("long")["state"] in ("failed", "cancelled"), 40)
        flag.unlink()
        as_a_user(trial)
        trial.check(table, f"{os.strerror(code)} at {call}", attempts={"long": 2})


@long
def test_purged_input(toys, fast, root, table):
    """Scratch is purged between two stages: the input is made again, by the mender or the next submit."""
    first = limited(toys("purged").job("train-0", 0, ("long", [], STEPS)), 0.5)
    with Trial(fast, root, first) as trial:
        trial.submit()
        trial.until_published()
    plan = training(toys, "purged")
    with Trial(fast, root, plan) as trial:
        (trial.folder("long") / "result.json").unlink()
        trial.injected()
        as_a_user(trial)
        trial.check(table, "published input purged", attempts={"long": 2}, most_attempts={"after": 2}, quiet=True)


@quick
def test_sigkill_of_rank_0(toys, fast, root, table):
    with Trial(fast, root, training(toys, "kill0")) as trial:
        trial.submit()
        raw = trial.until_step("long", 6)["raw"]
        trial.injected()
        os.kill(fast.workers(raw, rank=0)[0], signal.SIGKILL)
        trial.until_published()
        trial.check(table, "SIGKILL of rank 0", attempts={"long": 2})


@long
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_sigkill_of_one_of_four_ranks_on_two_nodes(toys, fast, root, table, rank):
    with Trial(fast, root, training(toys, f"kill4{rank}", ranks=4, nodes=2)) as trial:
        trial.submit()
        raw = trial.until_step("long", 6)["raw"]
        trial.injected()
        os.kill(fast.workers(raw, rank=rank)[0], signal.SIGKILL)
        trial.until_published()
        trial.check(table, f"SIGKILL of rank {rank} of 4 on 2 nodes", attempts={"long": 2})


@long
@pytest.mark.parametrize("kind", ["setup", "python"])
def test_a_poisoned_node_does_not_eat_the_array(toys, fast, root, table, tmp_path, kind):
    """Every job on cpu-01 dies at once, so cpu-01 is always free and Slurm sends it one job after the other."""
    profile = {"sbatch": {"exclusive": True}, "partition": "debug"}
    if kind == "setup":
        profile["setup"] = ['[ "$(hostname)" != cpu-01 ] || { echo "module: command not found"; exit 127; }']
    else:
        python = tmp_path / "python"
        python.write_text(f'#!/bin/bash\n[ "$(hostname)" != cpu-01 ] || exit 127\nexec {os.sys.executable} "$@"\n')
        python.chmod(0o755)
        profile["python"] = str(python)
    with Trial(fast, root, trainings(toys, f"poison{kind}", 9, steps=4), **profile) as trial:
        trial.injected()
        as_a_user(trial, rounds=3, timeout_s=90)
        assert trial.submits == 1, "the mender alone should have cured it"
        trial.check(table, f"poisoned node ({kind})")


@quick
def test_a_hung_rank(toys, fast, root, table, tmp_path):
    """The stage sleeps for ever: the watchdog ends it."""
    once = tmp_path / "once"
    once.touch()
    plan = training(toys, "hung", hang=True, wrong_at=6, once=str(once))
    with Trial(fast, root, plan, hang_s=3) as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        trial.until_published()
        trial.check(table, "a rank hangs", attempts={"long": 2})


@long
def test_a_stopped_rank(toys, fast, root, table):
    """SIGSTOP of rank 1: nothing of it can notice, so the watchdog of rank 0 must."""
    with Trial(fast, root, training(toys, "stopped", ranks=2), hang_s=3) as trial:
        trial.submit()
        raw = trial.until_step("long", 6)["raw"]
        trial.injected()
        os.kill(fast.workers(raw, rank=1)[0], signal.SIGSTOP)
        trial.until_published()
        trial.check(table, "SIGSTOP of rank 1 of 2", attempts={"long": 2})


@pytest.mark.parametrize("by", [pytest.param("cgroup", marks=quick), pytest.param("policed", marks=long)])
def test_host_memory(toys, root, table, request, by):
    """230 MiB above Python's own in 205 MiB; the next try has half as much again."""
    box = request.getfixturevalue(by)
    plan = training(toys, f"memory{by}", memory_mib=230, wrong_at=6)
    with Trial(box, root, plan, memory_gib=0.2) as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        as_a_user(trial, rounds=2)
        assert trial.submits == 2 and len(trial.attempts("long")) == 2, "the mender alone should have cured it"
        trial.check(table, f"host memory, ended by {'the kernel' if by == 'cgroup' else 'Slurm'}", attempts={"long": 2})


@long
def test_gpu_memory(toys, fast, root, table):
    with Trial(fast, root, training(toys, "gpu", micro_batch=8, fits=2, wrong_at=6)) as trial:
        trial.submit()
        trial.until_step("long", 6)
        trial.injected()
        trial.until_published()
        trial.check(table, "GPU memory", attempts={"long": 3})
