"""One fault and what became of it: a plan of toys on a private Slurm, watched from outside while a fault is injected.

The watcher notes what Slurm says about every job; after the end, `check` compares the results with an undisturbed run.
"""

import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from hpc import artifact, files
from hpc.artifact import Work
from hpc.cluster.profile import find_profile
from hpc.cluster.status import status, wait
from hpc.cluster.submit import submit
from hpc.errors import ClusterError
from tests.slurm.conftest import until
from tests.toys import toy

KEY = re.compile(r"\b[0-9a-f]{16}\b")
JOB = re.compile(r"\b(job|requeue|start) \d+(?:_\d+)?(?:\.\d+\.\d+)?")


class Trial:
    """A plan on its way through a cluster."""

    def __init__(self, box, root, plan, **changes):
        self.box, self.plan = box, plan
        self.profile = find_profile("slurm", roots=[str(root)], **{"memory_gib": 0.5, "signal_lead_s": 10, **changes})
        self.root, self.submits, self.began, self.seen, self.hurt = self.profile.root, 0, time.time(), {}, None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        """The states that each job (name, index) went through, as squeue shows them."""
        env = {"SLURM_CONF": f"{self.box.folder}/etc/slurm.conf", "PATH": "/usr/bin:/bin"}
        command = ["squeue", "-h", "-r", "-t", "all", "-o", "%j|%K|%T|%r|%i"]
        while not self._over.wait(0.25):
            try:
                text = subprocess.run(command, capture_output=True, text=True, timeout=5, env=env).stdout
            except subprocess.TimeoutExpired:
                continue
            for line in text.splitlines():
                name, index, state, reason, _ = line.rsplit("|", 4)
                word = f"{state} ({reason})" if state == "PENDING" and reason not in ("None", "Priority") else state
                path = self.seen.setdefault((name, index), [])
                if not path or path[-1] != word:
                    path.append(word)

    def submit(self, **options):
        self.submits += 1
        return submit(self.plan.document(), self.profile, **options)

    def state(self, name):
        return status(self.plan.document(), self.profile)["stages"][self.plan.key(name)]

    def attempts(self, name):
        spec = self.plan.stages[name]
        return artifact.attempts(self.root / "work" / spec["stage"] / spec["key"])

    def begun(self, name):
        """Numbers of the steps that were begun, in all attempts of a stage."""
        paths = [a / "begun" for a in self.attempts(name)]
        return [int(line.split()[0]) for p in paths if p.exists() for line in p.read_text().splitlines()]

    def until_step(self, name, number, timeout_s=40):
        """Wait until a step has begun; returns Slurm's id of its job (17 or 17_3) and the host."""
        end = time.monotonic() + timeout_s
        while number not in self.begun(name):
            assert time.monotonic() < end, f"{name} did not come to step {number}: {self.texts()}"
            time.sleep(0.05)
        row = files.read_json(self.attempts(name)[-1] / "attempt.json")
        row["raw"] = self.box.out("squeue", "-h", "-o", "%A", "-j", self.state(name)["job"]).strip()
        return {**row, "job": self.state(name)["job"]}

    def injected(self):
        """The fault happens now."""
        self.hurt = time.time()

    def published(self):
        return {n for n, s in self.plan.stages.items() if (self.folder(n) / "DONE").exists()}

    def folder(self, name):
        spec = self.plan.stages[name]
        return artifact.target(self.root, spec["stage"], spec["key"])

    def until_published(self, timeout_s=60, names=None):
        wanted, end = set(names or self.plan.stages), time.monotonic() + timeout_s
        while not wanted <= self.published():
            assert time.monotonic() < end, f"missing {wanted - self.published()}: {self.texts()}"
            time.sleep(0.1)

    def texts(self):
        """What there is to read when a trial does not come to its end."""
        logs = "".join(f"\n--- {p.relative_to(self.root)}\n{p.read_text()[-2500:]}" for p in self.logs())
        queue = self.box.out("squeue", "-r", "-t", "all", "-o", "%i %j %T %r %N %V")
        return f"{self.seen}\n{queue}{logs}"

    def logs(self):
        return sorted((self.root / "logs").rglob("*.out"), key=lambda p: p.stat().st_mtime)

    def said(self):
        """What our jobs said that they did, once each, without keys, job ids and attempts."""
        lines = [x for p in self.logs() for x in p.read_text(errors="replace").splitlines() if x.startswith("hpc: ")]
        words = [JOB.sub(r"\1 N", KEY.sub("KEY", x.removeprefix("hpc: "))) for x in lines]
        return list(dict.fromkeys(w for w in words if w != "toy KEY published"))

    def times_published(self):
        """How often a job said that it published each key; one that lost a race says that it was discarded."""
        lines = [x for p in self.logs() for x in p.read_text(errors="replace").splitlines()]
        return {n: lines.count(f"hpc: toy {s['key']} published") for n, s in self.plan.stages.items()}

    def check(self, table, fault, *, attempts=None, most_attempts=None, quiet=False):
        """All is complete, equal to an undisturbed run, published once, and little work was lost; adds to `table`.

        Args:
            attempts: name -> number of attempts, for stages that have not exactly one.
            most_attempts: as attempts, where the number may be smaller.
            quiet: logs may be torn (a full disk), so they do not tell how often something was published.
        """
        assert self.published() == set(self.plan.stages)
        expected, lost = undisturbed(self.plan), 0
        for name, spec in self.plan.stages.items():
            artifact.check(self.folder(name))
            assert (self.folder(name) / "result.json").read_bytes() == expected[name], name
            config, begun = spec["config"], self.begun(name)
            if config.get("every"):
                again = len(begun) - config["steps"]
                parts = max(1, len(self.attempts(name)) - 1)
                assert again <= parts * (config["every"] + 1), f"{name} lost {again} steps in {parts} interruptions"
                lost += max(0, again) * config.get("seconds", 0.0)
        counts = {n: len(self.attempts(n)) for n in self.plan.stages}
        wanted = {n: (attempts or {}).get(n, 1) for n in counts}
        for name, most in (most_attempts or {}).items():
            assert 1 <= counts[name] <= most, counts
            wanted[name] = counts[name]
        assert counts == wanted
        if not quiet:
            assert set(self.times_published().values()) == {1}, self.times_published()
        table.append(self.row(fault, counts, lost))

    def row(self, fault, counts, lost):
        done = max((self.folder(n) / "DONE").stat().st_mtime for n in self.plan.stages)
        paths = [words for (name, _), words in self.seen.items() if ".train-0" in name]
        longest = max(paths, key=len, default=[])
        return {
            "fault": fault,
            "slurm": " -> ".join(longest),
            "we": self.said()[:8],
            "steps_lost_s": round(lost, 1),
            "seconds_from_fault_to_end": round(done - (self.hurt or self.began), 1),
            "attempts": sum(counts.values()),
            "stages": len(counts),
            "submits": self.submits,
            "controller_speed": self.box.speed,
        }


def undisturbed(plan):
    """The bytes of every result.json when nothing goes wrong: the same stages, one after the other, in this process."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, spec in plan.stages.items():
            attempt = Path(folder, name)
            (attempt / "out").mkdir(parents=True)
            config = {k: v for k, v in spec["config"].items() if k in ("name", "steps", "every")}
            inputs = {n: Path(folder, n, "out") for n in spec["inputs"]}
            toy.run(Work("toy", spec["key"], config, spec["what"], inputs, 0, attempt))
            results[name] = (attempt / "out" / "result.json").read_bytes()
    return results


def occupy(box, seconds):
    """A job of higher priority that needs both GPU nodes alone."""
    box.out("sbatch", "-p", "gpu", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", f"sleep {seconds}")


def restarted(box):
    """kill -9 of the controller, started again; nodes that it drained for duplicate ids are put back as staff would."""
    box.call("kill", "slurmctld")
    box.call("start", "slurmctld")
    ping = ["timeout", "2", "scontrol", "ping"]
    until(lambda: "is UP" in subprocess.run(ping, capture_output=True, text=True).stdout, 20)


def staffed(box):
    """As staff after such a crash: nodes drained by it are resumed. And no test waits 120 s for a requeued job."""
    for line in box.out("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i|%r").splitlines() if box.speed == 1 else []:
        job, reason = line.split("|")
        if reason == "BeginTime":
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], timeout=20, capture_output=True)
    for line in box.out("sinfo", "-h", "-N", "-p", "debug", "-o", "%N %t").splitlines():
        node, state = line.split()
        if state.startswith("dr"):
            subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], timeout=20, capture_output=True)


def as_a_user(trial, rounds=6, timeout_s=40):
    """Submit, wait, submit again until all is there: what a person would do, also where the mender was quicker."""
    for _ in range(rounds):
        try:
            trial.submit()
            wait(trial.plan.document(), trial.profile, poll_s=0.3, timeout_s=timeout_s)
        except ClusterError as error:
            print(error)
        if trial.published() == set(trial.plan.stages):
            return
        staffed(trial.box)
    raise AssertionError(f"not done after {rounds} rounds: {trial.texts()}")


class Full:
    """A disk without space, or without room for one more file, until `free` is called."""

    def __init__(self, folder, kind):
        self.path = Path(folder, "filler")
        if kind == "space":
            with self.path.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 65536)
                except OSError:
                    pass
            return
        self.path.mkdir()
        try:
            for i in range(100_000):
                (self.path / str(i)).touch()
        except OSError:
            pass

    def free(self):
        subprocess.run(["rm", "-rf", self.path], check=True)
