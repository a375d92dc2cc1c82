"""The job side: makes the artifacts of one job, in order. Slurm, the local runner and sbatch/*.sbatch run this line:

    python -m hpc.cluster.worker JOBFILE [--index N]

For each stage: skip if published, claim an attempt, find the inputs, run the stage's function, publish. Exit codes: 0
done (or requeued), 1 a stage failed, 4 another attempt has taken over, 75 (local) start me again.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from hpc import artifact, files
from hpc.artifact import Superseded, Work
from hpc.cluster import hosts
from hpc.cluster.ledger import Element, Ledger, create
from hpc.cluster.local import RESTART
from hpc.errors import StageError
from hpc.recipe import schema, typed

MODULES = {
    "data": "hpc.data.stage",
    "train": "hpc.train.stage",
    "generate": "hpc.infer.stage",
    "grade": "hpc.evals.stage",
}
CONFIGS: dict[str, type] = {
    "data": schema.Data,
    "train": schema.Train,
    "generate": schema.Generate,
    "grade": schema.Grade,
}
LEFT = 4
"""Exit code of a job whose work was given to another: not a failure, but nothing that may follow it."""
SCONTROL_S = 30
"""Time for an answer of scontrol: there are two calls before the time limit or a preemption ends the job."""

Spec = dict[str, Any]


class Interrupted(BaseException):
    """USR2 or TERM arrived: the time limit is near, or the job is preempted."""


@dataclass(frozen=True)
class Shift:
    """One rank of one start of one job."""

    jobfile: Path
    document: dict[str, Any]
    index: int
    rank: int
    world_size: int
    job_id: str
    restart: int

    @cached_property
    def roots(self) -> list[Path]:
        """Own root first, then the shared ones."""
        return [Path(r) for r in self.document["roots"]]

    @property
    def specs(self) -> list[Spec]:
        """The stages to make, in order. Ranks above 0 take part in the job's own kind of stage alone."""
        rows: list[Spec] = self.document["elements"][str(self.index)]["stages"]
        return [s for s in rows if self.rank == 0 or s["stage"] == self.document["kind"]]

    @property
    def element(self) -> Element:
        """Its place in the ledger."""
        return self.document["submission"], self.document["piece"], self.index

    @property
    def name(self) -> str:
        """PIECE.INDEX.JOB.RESTART: unique among all starts of a submission."""
        return f"{self.document['piece']}.{self.index}.{self.job_id}.{self.restart}"

    def note(self, spec: Spec) -> Path:
        """Where rank 0 tells the other ranks of this start what it decided about a stage."""
        return self.jobfile.parent / "notes" / f"{self.name}.{spec['stage']}.{spec['key']}.json"


def main() -> int:
    """Read the command line and the environment, then work. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobfile", type=Path)
    parser.add_argument("--index", type=int, default=None, help="which job of the file (default: the array index)")
    options = parser.parse_args()
    follow_runner()
    shift = start(options.jobfile, options.index)
    prepare(shift)
    signal.signal(signal.SIGUSR2, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if shift.rank:
        return follow(shift)
    try:
        return lead(shift)
    except _interrupts():
        return requeue(shift)


def start(jobfile: Path, index: int | None) -> Shift:
    """This rank, from the job file and the variables that srun (or the local runner) sets."""
    env = os.environ
    document = files.read_json(jobfile)
    chosen = index if index is not None else int(env.get("SLURM_ARRAY_TASK_ID", min(map(int, document["elements"]))))
    job_id = env.get("SLURM_ARRAY_JOB_ID") or env.get("SLURM_JOB_ID") or f"local-{env.get('HPC_RUNNER', os.getpid())}"
    return Shift(
        jobfile,
        document,
        chosen,
        int(env.get("SLURM_PROCID", 0)),
        int(env.get("SLURM_NTASKS", 1)),
        job_id,
        int(env.get("SLURM_RESTART_COUNT", 0)),
    )


def prepare(shift: Shift) -> None:
    """Variables that libraries read when they are imported."""
    resources = shift.document["resources"]
    os.environ.update(hosts.rendezvous(os.environ))
    # one thread a rank on CPUs: ranks share the cores, and sums of floats keep their order
    os.environ.setdefault("OMP_NUM_THREADS", str(resources["cpus_per_rank"] if resources["gpus"] else 1))
    if not resources["gpus"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def follow_runner() -> None:
    """End with the local runner: its kill -9 must not leave ranks behind."""
    runner = os.environ.get("HPC_RUNNER")
    if runner and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(runner):
            os.kill(os.getpid(), signal.SIGKILL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGUSR2, signal.SIGTERM):  # `scontrol requeue` itself sends TERM: once is enough
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def _interrupts() -> tuple[type[BaseException], ...]:
    """Interrupted here, and the train loop's own (it saves at a step boundary first)."""
    loop = sys.modules.get("hpc.train.loop")
    return (Interrupted,) if loop is None else (Interrupted, loop.Interrupted)


def requeue(shift: Shift) -> int:
    """Ask to be started again later, unless the job was cancelled; returns the exit code."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if why := Ledger(shift.roots[0]).withdrawn.get(shift.element, ""):
        return _end(shift, "left", LEFT, f"this job leaves: {why}")
    if shift.restart >= shift.document["max_restarts"]:
        why = f"giving up after {shift.restart} restarts (max_restarts of the profile)"
        return _end(shift, "failed", 1, f"interrupted: {why}")
    if "SLURM_JOB_ID" not in os.environ:
        return _end(shift, "requeued", RESTART, "interrupted: asking to be started again")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{shift.job_id}_{task}" if task else shift.job_id
    try:
        fate = doing(_scontrol("show", "job", job, "-o").stdout, shift.restart)
        if fate == "cancelled":
            return _end(shift, "left", LEFT, f"job {job} was cancelled: it leaves")
        if fate == "requeued":
            return _end(shift, "requeued", 0, f"Slurm itself starts job {job} again")
        _end(shift, "requeued", 0, f"scontrol requeue {job}")
        done = _scontrol("requeue", job)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        return _end(shift, "failed", 1, f"not requeued, hpc submit resumes it: {error}")
    if done.returncode and "pending" not in done.stderr.lower():  # pending: Slurm or another rank was faster
        return _end(shift, "failed", 1, f"not requeued, hpc submit resumes it: {done.stderr.strip()}")
    return 0


def doing(shown: str, restart: int) -> str:
    """What Slurm is doing to a job that was told to stop: cancelled, requeued, or nothing final (empty).

    Args:
        shown: the line of `scontrol show job ID -o`. A job that is being cancelled, requeued by others or timed out
            says COMPLETING while its processes live: a requeue has raised Restarts, a time-out has used the limit up.
        restart: SLURM_RESTART_COUNT of this start.
    """
    fields = dict(word.partition("=")[::2] for word in shown.split())
    state = fields.get("JobState", "")
    if state not in ("CANCELLED", "COMPLETING"):
        return ""
    if state == "COMPLETING" and int(fields.get("Restarts", 0)) > restart:
        return "requeued"
    limit_s, run_s = seconds(fields.get("TimeLimit", "")), seconds(fields.get("RunTime", ""))
    return "" if state == "COMPLETING" and limit_s is not None and (run_s or 0) >= limit_s else "cancelled"


def seconds(text: str) -> int | None:
    """Slurm's [DAYS-]HH:MM:SS in seconds; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(g or 0) for g in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=SCONTROL_S)


def _end(shift: Shift, state: str, code: int, words: str) -> int:
    """Say how this start ends, rank 0 for all; returns the exit code."""
    print(f"hpc: {words}", flush=True)
    if shift.rank == 0:
        _report(shift, state)
    return code


def lead(shift: Shift) -> int:
    """Rank 0: decide, make and publish every stage. A failed stage stops only those that need it."""
    if why := _forbidden(shift):
        print(f"hpc: this job leaves: {why}", flush=True)
        _report(shift, "left", {"": why})
        return LEFT
    _report(shift, "running")
    outcome: dict[str, str] = {}
    for spec in shift.specs:
        outcome[spec["key"]] = _make(shift, spec, outcome)
        _report(shift, "running", outcome)
    left, failed = "left" in outcome.values(), {"failed", "blocked"} & set(outcome.values())
    _report(shift, "failed" if failed else "left" if left else "done", outcome)
    return 1 if failed else LEFT if left else 0


def _forbidden(shift: Shift) -> str:
    """Why this job must not run: its submission was replaced, or it was cancelled. Else it registers itself."""
    ledger = Ledger(shift.roots[0])
    submission, piece, _ = shift.element
    decision = ledger.decide(submission, piece, {"job_id": shift.job_id})
    if "replaced" in decision:
        return f"replaced: {decision['replaced']}"
    return ledger.withdrawn.get(shift.element, "")


def _make(shift: Shift, spec: Spec, outcome: dict[str, str]) -> str:
    """Make one artifact. Returns done, left, failed or blocked."""
    if artifact.find(shift.roots, spec["stage"], spec["key"]):
        _tell(shift, spec, None)
        print(f"hpc: {spec['stage']} {spec['key']} is published already", flush=True)
        return "done"
    if any(outcome.get(i.get("key", ""), "done") != "done" for i in spec["inputs"].values()):
        _tell(shift, spec, None)
        return "blocked"
    attempt = artifact.claim(shift.roots[0], spec["stage"], spec["key"])
    _head(shift, spec, attempt)
    _tell(shift, spec, attempt)
    try:
        work = _work(shift, spec, attempt)
        counts = function(spec["stage"])(work)
        first = artifact.publish(work, shift.roots[0], inputs=_names(spec), counts=counts)
    except Superseded as error:
        print(f"hpc: {error}", flush=True)
        return "done" if artifact.find(shift.roots, spec["stage"], spec["key"]) else "left"
    except Exception as error:  # the outermost frame: whatever it is, it is written down and reaches Slurm
        if isinstance(error, _interrupts()):
            raise
        _fail(shift, spec, attempt, error)
        return "failed"
    print(f"hpc: {spec['stage']} {spec['key']} {'published' if first else 'discarded: another was first'}", flush=True)
    return "done"


def follow(shift: Shift) -> int:
    """A rank above 0: take part in the stages that rank 0 starts; rank 0 alone publishes, requeues and reports."""
    attempt: Path | None = None
    try:
        for spec in shift.specs:
            if (attempt := _heard(shift, spec)) is not None:
                function(spec["stage"])(_work(shift, spec, attempt))
    except Superseded:
        return 0
    except Interrupted:  # outside the train loop: rank 0 may wait for this rank, so it must not go silently
        return requeue(shift)
    except _interrupts():
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost frame of this rank
        if attempt is not None:
            _fail(shift, spec, attempt, error)
        return 1
    return 0


def function(stage: str) -> Callable[[Work], dict[str, Any]]:
    """The function that does a stage: `run` of its module."""
    run: Callable[[Work], dict[str, Any]] = importlib.import_module(MODULES.get(stage, stage)).run
    return run


def _work(shift: Shift, spec: Spec, attempt: Path) -> Work:
    kind = CONFIGS.get(spec["stage"])
    config = typed.build(kind, spec["config"], where=f"{spec['stage']} {spec['key']}") if kind else spec["config"]
    inputs = {name: _input(shift, source) for name, source in spec["inputs"].items()}
    older = [p for p in reversed(artifact.attempts(attempt.parent)) if int(p.name) < int(attempt.name)]
    return Work(
        stage=spec["stage"],
        key=spec["key"],
        config=config,
        what=spec["what"],
        inputs=inputs,
        seed=spec["seed"],
        attempt=attempt,
        older=older,
        rank=shift.rank,
        world_size=shift.world_size,
        run_name=str(spec.get("run", spec["recipe"])),
        sweep=shift.document["plan"],
    )


def _input(shift: Shift, source: dict[str, str]) -> Path | str:
    """A folder, or the hub reference org/name@revision. Of a train artifact, the model is what is meant."""
    if "ref" in source:
        return source["ref"]
    if "path" in source:
        if not Path(source["path"]).exists():
            raise StageError(
                f"there is no {source['path']} on this node",
                where=platform.node(),
                why="the recipe names a local path",
                next="put it where every node can read it",
            )
        return Path(source["path"])
    folder = artifact.open_input(shift.roots, source["stage"], source["key"])
    return folder / "model" if source["stage"] == "train" else folder


def _names(spec: Spec) -> dict[str, str]:
    return {n: i.get("ref") or i.get("path") or f"{i['stage']}/{i['key']}" for n, i in spec["inputs"].items()}


def _head(shift: Shift, spec: Spec, attempt: Path) -> None:
    """Who made this attempt, from where; and a line in the job's log where it begins."""
    row = {
        "submission": shift.document["submission"],
        "piece": shift.document["piece"],
        "index": shift.index,
        "job_id": shift.job_id,
        "restart": shift.restart,
        "host": platform.node(),
        "pid": os.getpid(),
        "ranks": shift.world_size,
        "started": _now(),
    }
    files.write_json(attempt / "attempt.json", row)
    print(
        f"======== {spec['stage']} {spec['key']} attempt {attempt.name}, job {shift.name}, {row['host']}, "
        f"{row['started']}",
        flush=True,
    )


def _tell(shift: Shift, spec: Spec, attempt: Path | None) -> None:
    if shift.world_size > 1 and spec["stage"] == shift.document["kind"]:
        create(shift.note(spec), {"attempt": str(attempt) if attempt else None})


def _heard(shift: Shift, spec: Spec) -> Path | None:
    """Wait for rank 0's word on a stage: the attempt to take part in, or None. srun ends us if rank 0 dies."""
    path = shift.note(spec)
    pause_s = 0.02
    while not path.exists():
        time.sleep(pause_s)
        pause_s = min(1.0, 1.5 * pause_s)
        list(path.parent.glob("*"))  # network file systems remember that a name was absent until the folder is listed
    attempt = files.read_json(path)["attempt"]
    return Path(attempt) if attempt else None


def _fail(shift: Shift, spec: Spec, attempt: Path, error: Exception) -> None:
    """failure.json in the attempt (failure.RANK.json above rank 0): what `hpc status` reads."""
    row = {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": traceback.format_exc(),
        "stage": spec["stage"],
        "key": spec["key"],
        "host": platform.node(),
        "job": shift.name,
        "exit": 1,
        "at": _now(),
    }
    print(row["traceback"], file=sys.stderr, flush=True)
    files.write_json(attempt / (f"failure.{shift.rank}.json" if shift.rank else "failure.json"), row)


def _report(shift: Shift, state: str, stages: dict[str, str] | None = None) -> None:
    """state/PIECE.INDEX.JOB.RESTART.json beside the job file: the truth where Slurm keeps no accounts."""
    folder = shift.jobfile.parent / "state"
    files.write_json(
        folder / f"{shift.name}.json",
        {"state": state, "stages": stages or {}, "host": platform.node(), "at": _now(), "restart": shift.restart},
    )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


if __name__ == "__main__":
    sys.exit(main())
