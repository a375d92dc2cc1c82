"""Many runs while random faults strike for minutes: nothing may be lost, nothing published twice. `make soak`.

SOAK_RUNS and SOAK_MINUTES set the size (a trial of 16 runs in one minute without them), SOAK_SEED the draw, SOAK_RESULT
a file for the record. A user who submits again every now and then is all the help that the sweep gets; nodes that the
controller drained after its own crash are resumed, as staff would.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from hpc import artifact, files
from hpc.errors import ClusterError
from tests.slurm.conftest import SPEED, cluster, no_fast_clock, used
from tests.slurm.trial import Trial, undisturbed

pytestmark = [pytest.mark.slurm, pytest.mark.proof]

RUNS = int(os.environ.get("SOAK_RUNS", 16))
MINUTES = float(os.environ.get("SOAK_MINUTES", 1))
SEED = int(os.environ.get("SOAK_SEED", 0))
AT_ONCE, STEPS = 8, 16
AFTER_MIN = 10
"""Minutes for what is left when the faults have ended."""
NODES = ("h100-01", "h100-02")


def sweep(toys):
    """RUNS trainings that together last a little longer than the faults, each with something that needs it."""
    seconds = min(3.0, max(0.2, MINUTES * 60 * AT_ONCE / (RUNS * STEPS)))
    plan = toys("soak")
    for i in range(RUNS):
        plan.job("train-0", i, (f"train{i}", [], {"steps": STEPS, "seconds": seconds, "every": 4}))
    for i in range(RUNS):
        plan.job("grade-0", i, (f"grade{i}", [f"train{i}"], {}))
    for job in (j for jobs in plan.jobs.values() for j in jobs):
        job["resources"]["hours"] = 1
    return plan


class Storm:
    """Faults of many kinds on one cluster, one after the other; each is over, or heals by itself, when it returns."""

    def __init__(self, box, draw):
        self.box, self.draw, self.counts = box, draw, Counter()
        node = lambda: f"slurmd.{draw.choice(NODES)}"  # noqa: E731
        self.kinds = {
            "SIGKILL of a rank": lambda: self.rank(signal.SIGKILL),
            "a rank stopped for 3 s": lambda: self.rank(signal.SIGSTOP, signal.SIGCONT),
            "scontrol requeue": lambda: self.tell("scontrol", "requeue"),
            "warning signal": lambda: self.tell("scancel", "--signal=USR2"),
            "scancel": lambda: self.tell("scancel"),
            "preemption": self.preempt,
            "node death": self.crash,
            "slurmd killed": lambda: self.restart("kill", node()),
            "slurmctld restarted": lambda: self.restart("stop", "slurmctld"),
            "slurmctld kill -9": lambda: self.restart("kill", "slurmctld"),
            "munge down": lambda: self.restart("kill", "munged"),
        }

    def strike(self):
        """One fault of a random kind, where there is something that it can hit."""
        kind = self.draw.choice(list(self.kinds))
        self.counts[kind] += self.kinds[kind]()

    def rank(self, *signals):
        """Send signals to a random rank, 3 s after a stop. Returns whether there was one."""
        if not (pids := self.box.workers()):
            return False
        pid = self.draw.choice(pids)
        try:
            for number in signals:
                os.kill(pid, number)
                time.sleep(3 if number == signal.SIGSTOP else 0)
        except ProcessLookupError:
            return False
        return True

    def tell(self, *command):
        """A Slurm command about a random job that runs. Returns whether there was one."""
        running = self.slurm("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()
        if running:
            self.slurm(*command, self.draw.choice(running))
        return bool(running)

    def preempt(self):
        self.slurm("sbatch", "-p", "gpu", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
        return True

    def crash(self):
        node = self.draw.choice(NODES)
        self.box.call("crash", node)
        self.slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        time.sleep(2)
        self.box.call("start", f"slurmd.{node}")
        return True

    def restart(self, how, daemon):
        self.box.call(how, daemon)
        time.sleep(self.draw.uniform(0.5, 3))
        self.box.call("start", daemon)
        return True

    def staff(self):
        """Every daemon runs, and no node is drained."""
        for daemon in ("munged", "slurmctld", *(f"slurmd.{n}" for n in NODES)):
            self.box.call("start", daemon)
        for line in self.slurm("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %t").splitlines():
            node, state = line.split()
            if state.startswith("dr"):
                self.slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def slurm(self, *command):
        try:
            return subprocess.run(command, timeout=10, capture_output=True, text=True).stdout
        except subprocess.TimeoutExpired:
            return ""


class Published:
    """What was published, and whether it ever changed afterwards."""

    def __init__(self, trial):
        self.trial, self.seen, self.changed = trial, {}, []

    def look(self):
        for name in self.trial.published():
            about = (self.trial.folder(name) / "DONE").stat()
            identity = (about.st_ino, about.st_mtime_ns)
            if self.seen.setdefault(name, identity) != identity:
                self.changed.append(name)
        return len(self.seen)


def as_a_user(trial, refused):
    try:
        trial.submit()
    except ClusterError as error:
        refused[error.what] += 1


@pytest.fixture
def stormy(monkeypatch):
    if why := no_fast_clock():
        pytest.skip(why)
    with cluster(BOX_SPEED=str(SPEED)) as box, used(box, monkeypatch):
        yield box


def test_soak(toys, stormy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, refused, began = random.Random(SEED), Counter(), time.monotonic()
    storm, plan = Storm(stormy, draw), sweep(toys)
    profile = {"partition": "preemptible", "array_throttle": AT_ONCE, "memory_gib": 0.3, "hang_s": 60}
    with Trial(stormy, tmp_path / "root", plan, **profile) as trial:
        published, asked = Published(trial), 0.0
        calm, end = began + 60 * MINUTES, began + 60 * (MINUTES + AFTER_MIN)
        while published.look() < len(plan.stages):
            assert time.monotonic() < end, f"lost: {set(plan.stages) - trial.published()}\n{trial.texts()[-20000:]}"
            if time.monotonic() - asked > 15:
                as_a_user(trial, refused)
                asked = time.monotonic()
            if time.monotonic() < calm and published.seen.keys() != plan.stages.keys():
                time.sleep(draw.uniform(0.5, 8))
                storm.strike()
            else:
                time.sleep(1)
            storm.staff()
        seconds = time.monotonic() - began
        time.sleep(10)  # what still runs must not publish anything again
        published.look()
    tell(trial, storm, refused, seconds, published)
    expected = undisturbed(plan)
    for name in plan.stages:
        artifact.check(trial.folder(name))
        assert (trial.folder(name) / "result.json").read_bytes() == expected[name], name
    assert not published.changed and max(trial.times_published().values()) == 1


def tell(trial, storm, refused, seconds, published):
    """Print the record, and write it where SOAK_RESULT says."""
    attempts = {n: len(trial.attempts(n)) for n in trial.plan.stages}
    trainings = [n for n in attempts if n.startswith("train")]
    row = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count()},
        "runs": RUNS,
        "stages": len(attempts),
        "fault_minutes": MINUTES,
        "seed": SEED,
        "seconds": round(seconds),
        "faults": dict(sorted(storm.counts.items())),
        "num_faults": storm.counts.total(),
        "attempts": sum(attempts.values()),
        "most_attempts_of_a_stage": max(attempts.values()),
        "steps_of_trainings": STEPS * RUNS,
        "steps_begun": sum(len(trial.begun(n)) for n in trainings),
        "submits": trial.submits,
        "refused": dict(refused),
        "published": len(trial.published()),
        "published_twice": sum(c > 1 for c in trial.times_published().values()) + len(published.changed),
        "controller_speed": SPEED,
    }
    print(row)
    if target := os.environ.get("SOAK_RESULT"):
        files.write_json(Path(target), row)
