"""The job side: makes the artifacts of one job, in order. Slurm, the local runner and sbatch/*.sbatch run this line:

    python -P -u -m hpc.cluster.worker JOBFILE [--index N]

For each stage: skip if published, claim an attempt, find the inputs, run the stage's function, publish. Exit codes: 0
done (or requeued), 1 a stage failed, 4 another attempt has taken over, 5 another rank died, 75 start me again, 87 hung.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import platform
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from hpc import artifact, files
from hpc.artifact import Superseded, Work
from hpc.cluster import hosts, rescue
from hpc.cluster.ledger import Ledger, create
from hpc.cluster.requeue import LEFT, requeue
from hpc.cluster.shift import Shift, Spec, now, read
from hpc.cluster.watchdog import HUNG, Watchdog
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
PRESET = {
    "NCCL_DEBUG": "WARN",  # NCCL's own words about a failure; without them only its victims speak
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # a failed collective ends the rank instead of hanging it
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # device numbers as nvidia-smi and Slurm count them
    "TOKENIZERS_PARALLELISM": "false",  # ranks share the cores, and forks after threads warn
}
"""Variables of every job, where the user has not set them."""


class Interrupted(BaseException):
    """USR2 or TERM arrived: the time limit is near, or the job is preempted."""


def main() -> int:
    """Read the command line and the environment, then work. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobfile", type=Path)
    parser.add_argument("--index", type=int, default=None, help="which job of the file (default: the array index)")
    options = parser.parse_args()
    follow_runner()
    shift = read(options.jobfile, options.index)
    prepare(shift)
    signal.signal(signal.SIGUSR2, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    if shift.rank:
        return follow(shift)
    try:
        return lead(shift)
    except _interrupts() as error:
        return requeue(shift, str(error))


def prepare(shift: Shift) -> None:
    """Variables that libraries read when they are imported."""
    resources = shift.document["resources"]
    os.environ.update(hosts.rendezvous(os.environ))
    if shift.document["kind"] == "train":
        from hpc.cluster.site import build

        build.use()  # kernels that `hpc doctor --build` compiled
    for name, value in PRESET.items():
        os.environ.setdefault(name, value)
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
    """Interrupted here, and training's own (it saves at a step boundary first)."""
    training = sys.modules.get("hpc.train.ranks")
    return (Interrupted,) if training is None else (Interrupted, training.Interrupted)


def lead(shift: Shift) -> int:
    """Rank 0: decide, make and publish every stage. A failed stage stops only those that need it."""
    if why := _forbidden(shift):
        print(f"hpc: this job leaves: {why}", flush=True)
        shift.report("left", {"": why})
        return LEFT
    shift.report("running")
    outcome: dict[str, str] = {}
    for spec in shift.specs:
        outcome[spec["key"]] = _make(shift, spec, outcome)
        shift.report("running", outcome)
    left, failed = "left" in outcome.values(), {"failed", "blocked"} & set(outcome.values())
    shift.report("failed" if failed else "left" if left else "done", outcome)
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
    attempt: Path | None = None
    try:
        attempt = artifact.claim(shift.roots[0], spec["stage"], spec["key"])
        _head(shift, spec, attempt)
        _tell(shift, spec, attempt)
        began, work = time.monotonic(), _work(shift, spec, attempt)
        with _watched(shift, spec, work):
            counts = function(spec["stage"])(work)
        files.write_json(work.out / "usage.json", usage(time.monotonic() - began))
        first = artifact.publish(work, shift.roots[0], inputs=_names(spec), counts=counts)
    except Superseded as error:
        print(f"hpc: {error}", flush=True)
        return "done" if artifact.find(shift.roots, spec["stage"], spec["key"]) else "left"
    except Exception as error:  # the outermost frame: whatever it is, it is written down and reaches Slurm
        if isinstance(error, _interrupts()):
            raise
        _fail(shift, spec, attempt, type(error).__name__, str(error), traceback.format_exc())
        return "failed"
    print(f"hpc: {spec['stage']} {spec['key']} {'published' if first else 'discarded: another was first'}", flush=True)
    return "done"


def follow(shift: Shift) -> int:
    """A rank above 0: take part in the stages that rank 0 starts; rank 0 alone publishes, requeues and reports."""
    attempt: Path | None = None
    try:
        for spec in shift.specs:
            if (attempt := _heard(shift, spec)) is not None:
                work = _work(shift, spec, attempt)
                with _watched(shift, spec, work):
                    function(spec["stage"])(work)
    except Superseded:
        return 0
    except Interrupted as error:  # outside the train loop: rank 0 may wait for this rank: no silent leave
        return requeue(shift, str(error))
    except _interrupts():
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost frame of this rank
        if attempt is not None:
            _fail(shift, spec, attempt, type(error).__name__, str(error), traceback.format_exc())
        return 1
    return 0


def _watched(shift: Shift, spec: Spec, work: Work) -> Watchdog:
    def failed(message: str) -> None:
        _fail(shift, spec, work.attempt, "Hung", message, "", HUNG)

    return Watchdog(work, shift.document["hang_s"], failed)


def usage(seconds: float) -> dict[str, float | None]:
    """What rank 0 took: seconds, GiB of host memory at most, GiB of GPU memory at most (null without a GPU)."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch is not None and torch.cuda.is_initialized() else None
    return {
        "seconds": round(seconds, 3),
        "peak_host_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "peak_gpu_gib": None if gpu is None else round(gpu, 3),
    }


def function(stage: str) -> Callable[[Work], dict[str, Any]]:
    """The function that does a stage: `run` of its module."""
    run: Callable[[Work], dict[str, Any]] = importlib.import_module(MODULES.get(stage, stage)).run
    return run


def _work(shift: Shift, spec: Spec, attempt: Path) -> Work:
    kind = CONFIGS.get(spec["stage"])
    chosen = {**spec["config"], **rescue.changed(shift.jobfile, shift.index).get(spec["key"], {})}
    config = typed.build(kind, chosen, where=f"{spec['stage']} {spec['key']}") if kind else chosen
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
        tags=spec.get("tags", []),
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
        "try": shift.attempt,
        "code": artifact.code()["digest"],
        "host": hosts.this_node(),
        "pid": os.getpid(),
        "ranks": shift.world_size,
        "started": now(),
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


def _fail(shift: Shift, spec: Spec, attempt: Path | None, kind: str, message: str, trace: str, code: int = 1) -> None:
    """failure.json in the attempt (failure.RANK.json above rank 0): what `hpc status` and `hpc why` read."""
    row = {
        "type": kind,
        "message": message,
        "traceback": trace,
        "stage": spec["stage"],
        "key": spec["key"],
        "host": hosts.this_node(),
        "rank": shift.rank,
        "job": shift.name,
        "exit": code,
        "at": now(),
        "time": time.time(),  # which rank was first
    }
    print(trace or f"{kind}: {message}", file=sys.stderr, flush=True)
    try:
        if attempt is not None:
            files.write_json(attempt / (f"failure.{shift.rank}.json" if shift.rank else "failure.json"), row)
    except OSError as error:  # the disk may be what failed; the log has the traceback
        print(f"hpc: cannot write the failure down: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
