"""Profile `local`: one background process that runs a submission's jobs on this machine, as Slurm would.

    python -m hpc.cluster.local ROOT/jobs/SUBMISSION

Each rank is the same worker command with the variables that srun would set. Jobs start when their parents are done and
cores are free; a failed parent cancels what depends on it; exit 75 asks for a restart, as `scontrol requeue` does; any
other failure is judged by its cause (hpc.cluster.rescue), as the batch script does it under Slurm.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from hpc import artifact, files
from hpc.cluster.ledger import Element, Ledger, alive, this_process
from hpc.cluster.queue import OVER, State, clean_environment
from hpc.cluster.shift import RESTART, Shift
from hpc.errors import ClusterError

POLL_S = 0.05
STOP_S = 20.0
"""Time for ranks to save after a stop before they are killed."""
LOOK_S = 0.5
"""Time between two looks whether somebody has cancelled a job."""
CASCADE_S = 2.0
"""Time for the other ranks to end after one has failed."""

Spot = tuple[str, int]
"""(piece, index): one job of this submission."""


@dataclass
class Job:
    """One job: its ranks while it runs, and where it stands."""

    document: dict[str, Any]
    element: dict[str, Any]
    own: list[Spot]
    foreign: list[Element]
    word: str = "PENDING"
    reason: str = "Dependency"
    ranks: list[subprocess.Popen[bytes]] = field(default_factory=list)
    gpus: list[int] = field(default_factory=list)
    restarts: int = 0
    tries: int = 0

    @property
    def cores(self) -> int:
        """Cores that it takes: one for each rank."""
        return int(self.document["resources"]["ranks"])

    @property
    def num_gpus(self) -> int:
        """GPUs that it takes."""
        return int(self.document["resources"]["gpus"])


class Runner:
    """Starts, watches and stops the jobs of one submission; states.json is its only output."""

    def __init__(self, folder: Path) -> None:
        document = files.read_json(folder / "submission.json")
        self.folder, self.submission = folder, folder.name
        self.root = Path(document["root"])
        self.slots: int = document["cores"]
        self.free_gpus = list(range(document["gpus"]))
        self.stopping = False
        self.jobs: dict[Spot, Job] = {}
        for name in document["pieces"]:
            piece = files.read_json(folder / f"{name}.json")
            self.jobs |= {(name, int(i)): self._job(piece, e) for i, e in piece["elements"].items()}
        self._written: Any = None
        self._cancelled: set[Spot] = set()
        self._withdrawals: set[str] = set()
        self._looked = 0.0

    def _job(self, document: dict[str, Any], element: dict[str, Any]) -> Job:
        after = [(s, p, i) for s, p, i in element["after"]]
        own = [(p, i) for s, p, i in after if s == self.submission]
        return Job(document, element, own, [a for a in after if a[0] != self.submission])

    def run(self) -> None:
        """Work until every job is over."""
        files.write_json(self.folder / "runner.json", this_process())
        ledger = Ledger(self.root)
        for name in {piece for piece, _ in self.jobs}:
            if "replaced" in ledger.decide(self.submission, name, {"job_id": f"local-{os.getpid()}"}):
                return
        signal.signal(signal.SIGTERM, self._stop)
        while any(j.word not in OVER for j in self.jobs.values()):
            self._look()
            self._watch()
            self._start()
            self._write()
            time.sleep(POLL_S)
        self._write()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _look(self) -> None:
        """Learn which jobs were cancelled; the others of the submission go on."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked, ledger = time.monotonic(), Ledger(self.root)
        names = {n for n in ledger.names if n.startswith(f"{self.submission}.withdrawn.")}
        if names != self._withdrawals:
            self._withdrawals = names
            self._cancelled = {(piece, index) for owner, piece, index in ledger.withdrawn if owner == self.submission}

    def _watch(self) -> None:
        from hpc.cluster import rescue  # with the classifier, which the login side does not need

        for spot, job in ((s, j) for s, j in self.jobs.items() if j.word == "RUNNING"):
            codes = [r.poll() for r in job.ranks]
            if self.stopping or spot in self._cancelled:
                _end(job, STOP_S)
                job.word, job.reason = "CANCELLED", "hpc cancel"
            elif any(c not in (None, 0) for c in codes):
                _end(job, STOP_S if RESTART in codes else CASCADE_S)
                if RESTART in codes:
                    job.restarts, job.tries = job.restarts + 1, 0
                    job.word, job.reason = "PENDING", "restart"
                elif rescue.judge(self._shift(spot, job), _worst(codes)) == "here":
                    job.tries += 1
                    job.word, job.reason = "PENDING", "started again"
                else:
                    job.word, job.reason = "FAILED", f"exit {_worst(codes)}"
            elif all(c == 0 for c in codes):
                job.word, job.reason = "COMPLETED", ""
            if job.word != "RUNNING":
                self.free_gpus += job.gpus

    def _shift(self, spot: Spot, job: Job) -> Shift:
        piece, index = spot
        me = f"local-{os.getpid()}"
        return Shift(self.folder / f"{piece}.json", job.document, index, 0, len(job.ranks), me, job.restarts, job.tries)

    def _start(self) -> None:
        busy = sum(min(j.cores, self.slots) for j in self.jobs.values() if j.word == "RUNNING")
        for spot, job in self.jobs.items():
            if job.word != "PENDING":
                continue
            if self.stopping or spot in self._cancelled:
                job.word, job.reason = "CANCELLED", "hpc cancel"
            elif self._hopeless(job):
                job.word, job.reason = "CANCELLED", "DependencyNeverSatisfied"
            elif not self._ready(job):
                job.reason = "Dependency"
            elif busy + min(job.cores, self.slots) > self.slots or job.num_gpus > len(self.free_gpus):
                job.reason = "Resources"
            else:
                busy += min(job.cores, self.slots)
                self._launch(spot, job)

    def _ready(self, job: Job) -> bool:
        """Its parents here are done, and those of earlier submissions have published what it needs."""
        if any(self.jobs[p].word != "COMPLETED" for p in job.own):
            return False
        roots = [Path(r) for r in job.document["roots"]]
        needs = job.element["needs"]
        inputs = [i for s in job.element["stages"] for i in s["inputs"].values() if i.get("key") in needs]
        return not job.foreign or all(artifact.find(roots, i["stage"], i["key"]) for i in inputs)

    def _hopeless(self, job: Job) -> bool:
        """A parent has failed, here or in an earlier submission."""
        ended = OVER - {"COMPLETED"}
        words = (word(self.root, *element) for element in job.foreign)
        return any(self.jobs[p].word in ended for p in job.own) or any(w in ended for w in words)

    def _launch(self, spot: Spot, job: Job) -> None:
        piece, index = spot
        resources = job.document["resources"]
        job.gpus, self.free_gpus = self.free_gpus[: job.num_gpus], self.free_gpus[job.num_gpus :]
        common = {
            **clean_environment(),
            **{n: os.path.expandvars(v) for n, v in job.document["env"].items()},
            "PYTHONPATH": os.pathsep.join(filter(None, [job.document["code"], os.environ.get("PYTHONPATH", "")])),
            "HPC_RUNNER": str(os.getpid()),
            "HPC_TRY": str(job.tries),
            "SLURM_NTASKS": str(resources["ranks"]),
            "SLURM_NODEID": "0",
            "SLURM_RESTART_COUNT": str(job.restarts),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, job.gpus)),
        }
        logs = self.root / "logs" / self.submission / piece
        logs.mkdir(parents=True, exist_ok=True)
        command = _command(job.document, self.folder / f"{piece}.json", index)
        job.ranks = []
        for rank in range(resources["ranks"]):
            with (logs / f"{index}-{self._shift(spot, job).start}-{rank}.out").open("ab") as log:
                variables = {**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
                job.ranks.append(_spawn(command, variables, log))
        job.word, job.reason = "RUNNING", ""

    def _write(self) -> None:
        rows = [{"piece": p, "index": i, "word": j.word, "reason": j.reason} for (p, i), j in self.jobs.items()]
        if rows != self._written:
            files.write_json(self.folder / "states.json", rows)
            self._written = rows


def _command(document: dict[str, Any], jobfile: Path, index: int) -> list[str]:
    line = [document["python"], "-P", "-u", "-m", "hpc.cluster.worker", str(jobfile), "--index", str(index)]
    if not document["setup"]:
        return line
    return ["bash", "-c", "\n".join(["set -e", *document["setup"], 'exec "$@"']), "setup", *line]


def _spawn(command: list[str], variables: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _end(job: Job, grace_s: float) -> None:
    """Ask the ranks that are left to save and stop, then kill them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for rank in (r for r in job.ranks if r.poll() is None):
            rank.send_signal(number)
        end = time.monotonic() + grace_s
        while any(r.poll() is None for r in job.ranks) and time.monotonic() < end:
            time.sleep(POLL_S)


def _worst(codes: list[int | None]) -> int:
    return next(c for c in codes if c)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(folder: Path, *, wait_s: float = 30.0) -> None:
    """Start the runner of ROOT/jobs/SUBMISSION in the background and return when it has taken over.

    Raises:
        ClusterError: it did not start; with its last words.
    """
    with (folder / "runner.log").open("ab") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "hpc.cluster.local", str(folder)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    end = time.monotonic() + wait_s
    while not (folder / "runner.json").exists():
        if runner.poll() is not None or time.monotonic() > end:
            words = (folder / "runner.log").read_text().strip().splitlines()[-1:]
            raise ClusterError(
                "the local runner did not start",
                where=str(folder / "runner.log"),
                why=" ".join(words) or f"no sign of it for {wait_s:.0f} s",
                next="hpc submit again",
            )
        time.sleep(0.01)


def states(root: Path, submission: str, piece: str, indices: Iterable[int]) -> dict[int, State]:
    """What the runner says about the jobs of one piece; a dead runner's unfinished jobs are cancelled."""
    folder = root / "jobs" / submission
    if not (folder / "runner.json").exists():
        return {}
    running = alive(files.read_json(folder / "runner.json"))
    rows = files.read_json(folder / "states.json") if (folder / "states.json").exists() else []
    found = {r["index"]: State(r["word"], r["reason"], "", "") for r in rows if r["piece"] == piece}
    found = {i: found.get(i, State("PENDING", "", "", "")) for i in indices}
    gone = State("CANCELLED", "its runner is gone", "", "")
    return {i: s if running or s.over else gone for i, s in found.items()}


def word(root: Path, submission: str, piece: str, index: int) -> str:
    """The state of one job of any submission; empty if its runner never began."""
    found = states(root, submission, piece, [index])
    return found[index].word if found else ""


if __name__ == "__main__":
    Runner(Path(sys.argv[1])).run()
