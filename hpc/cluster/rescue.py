"""After a failed start, still inside the allocation: by its cause, start again here, elsewhere, or end. The job runs

    python -P -u -m hpc.cluster.rescue JOBFILE [--index N] --code C       exit 0: start again; C: the job has failed

A start that ends by an outside kill, a hang or a full GPU is best cured where it died: no queue, no lost dependency, no
two minutes of requeue delay. What needs other resources or other files is the mender's (hpc.cluster.mend).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster import requeue
from hpc.cluster.failures import evidence
from hpc.cluster.failures.causes import Verdict, classify
from hpc.cluster.hosts import this_node
from hpc.cluster.ledger import Ledger
from hpc.cluster.shift import RESTART, Shift, document, now, read
from hpc.recipe.schema import Train

MAX_TRIES = 3
"""Starts in one allocation for causes that leave no exception to compare."""
FINAL = (requeue.LEFT, RESTART)
"""Exit codes that ask for no judgement: the job left, or asks to be started again."""
SHARE_STEP, LEAST_SHARE = 0.1, 0.5
"""What a packed training takes from train.memory_share when the GPU was full after all, and where that ends."""


def main() -> int:
    """Decide for the job that this batch shell belongs to; returns 0 to start again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobfile", type=Path)
    parser.add_argument("--index", type=int, default=None)
    parser.add_argument("--code", type=int, required=True, help="exit code of srun")
    options = parser.parse_args()
    shift = read(options.jobfile, options.index)
    fate = _fate(shift)
    asked = options.code == RESTART and "SLURM_JOB_ID" in os.environ  # the ranks found no scontrol; this shell may
    cure = judge(shift, options.code) if fate == "untouched" and not asked else "stop"
    if fate == "stopping" or (asked and fate != "over"):
        _go_back(shift)
    if cure == "elsewhere":
        problem = requeue.elsewhere(shift, this_node())
        print(f"hpc: requeued away from {this_node()}" if not problem else f"hpc: not requeued: {problem}")
        return 0 if not problem and _wait_for_the_end() else int(options.code)
    return 0 if cure == "here" else int(options.code)


def judge(shift: Shift, code: int) -> str:
    """Return here, elsewhere or stop for the start that just failed with `code`; writes the decision down."""
    if code in FINAL or shift.element in Ledger(shift.roots[0]).withdrawn:
        return "stop"
    found = evidence.of_start(shift.roots[0], *shift.element, shift.start, code=code)
    verdict = classify(found)
    cure, settings = _cure(shift, verdict, code, {str(row.get("key", "")) for row in found.failures})
    row = {
        "start": shift.start,
        "cause": verdict.cause,
        "cure": cure,
        "exception": verdict.exception,
        "words": verdict.words,
        "settings": settings,
        "host": verdict.host or this_node(),
        "code": code,
        "at": now(),
    }
    try:
        files.write_json(_folder(shift.jobfile) / f"{shift.name}.json", row)
    except OSError as error:  # a full disk: without a record there is no count, so no further try
        print(f"hpc: cannot write the decision down: {error}", flush=True)
        cure = "stop"
    print(f"hpc: start {shift.start} failed with code {code}: {verdict.words} -> {cure} {settings or ''}", flush=True)
    return cure


def _cure(shift: Shift, verdict: Verdict, code: int, keys: set[str]) -> tuple[str, dict[str, Any]]:
    """What this allocation can do: (here | elsewhere | stop, settings to change). `keys`: stages that failed."""
    earlier = records(shift.jobfile, shift.index)
    if verdict.cure == "smaller":
        less = smaller(shift.jobfile, shift.index, keys)
        return ("here", less) if less else ("stop", {})
    if verdict.cure == "elsewhere":
        moves = [r for r in earlier if r["cure"] == "elsewhere"]
        return ("elsewhere" if "SLURM_JOB_ID" in os.environ and len(moves) < MAX_TRIES else "stop"), {}
    # a TERM to the ranks alone: srun writes CANCELLED, but Slurm was asked before, and the job goes on
    stopped = verdict.cause == "cancelled" or (code == requeue.CASCADE and verdict.cause == "unknown")
    if verdict.cure != "here" and not stopped:
        return "stop", {}
    if verdict.exception and verdict.exception in {r["exception"] for r in earlier}:
        return "stop", {}
    same = [r for r in earlier if r["start"].rpartition(".")[0] == shift.start.rpartition(".")[0]]
    return ("here" if len(same) < MAX_TRIES else "stop"), {}


def smaller(jobfile: Path, index: int, keys: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """{key: {setting: value}} by which the stages `keys` (or all of a job) take less of the GPU, with equal results.

    Empty if they cannot take less.
    """
    known = changed(jobfile, index)
    found: dict[str, dict[str, Any]] = {}
    for spec in document(jobfile)["elements"][str(index)]["stages"]:
        if spec["key"] in keys or not set(keys) - {""}:
            found[spec["key"]] = _less(spec["stage"], {**spec["config"], **known.get(spec["key"], {})})
    return {key: {**known.get(key, {}), **values} for key, values in found.items() if values}


def _less(stage: str, config: dict[str, Any]) -> dict[str, Any]:
    """The `how` settings of one stage that let it take less of the GPU; empty if there are none left.

    Packed rows get a layout for a smaller share of the memory; without packing, and in generation, a pass is halved.
    """
    if stage == "train" and config.get("pack"):
        share = round(config.get("memory_share", Train.memory_share) - SHARE_STEP, 3)
        return {"memory_share": share, "row_tokens": "auto"} if share >= LEAST_SHARE else {}
    names = ("micro_batch",) if stage == "train" else ("engine_batch", "batch_size")
    size = next((config[name] for name in names if isinstance(config.get(name), int)), 1)
    return {names[0]: size // 2} if size > 1 else {}


def changed(jobfile: Path, index: int) -> dict[str, dict[str, Any]]:
    """{key: {setting: value}} that earlier failures have changed: the mender's first, then this job's own."""
    element = document(jobfile)["elements"][str(index)]
    found: dict[str, dict[str, Any]] = {k: dict(v) for k, v in element.get("change", {}).get("settings", {}).items()}
    for row in records(jobfile, index):
        for key, values in row["settings"].items():
            found[key] = {**found.get(key, {}), **values}
    return found


def records(jobfile: Path, index: int) -> list[dict[str, Any]]:
    """Decisions about one element, oldest first."""
    return rows(_folder(jobfile).glob(f"{jobfile.stem}.{index}.*.json"))


def rows(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Records in `paths`, oldest first."""
    found = [files.read_json(p) for p in paths]
    return sorted(found, key=lambda r: (r["at"], [int(n) for n in r["start"].split(".")[1:]]))


def _folder(jobfile: Path) -> Path:
    return jobfile.parent / "rescues"


def _fate(shift: Shift) -> str:
    """What Slurm does to this job: untouched, stopping (preemption, time limit: back to the queue with it), over."""
    if "SLURM_JOB_ID" not in os.environ:
        return "untouched"
    try:
        shown = requeue.scontrol("show", "job", shift.slurm_job, "-o").stdout
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return "untouched"  # a silent controller cannot be ending jobs either
    if "JobState=" in shown and "JobState=RUNNING" not in shown:
        return "over"
    return "untouched" if requeue.untouched(shown) or not shown else "stopping"


def _go_back(shift: Shift) -> None:
    """Requeue a job that Slurm is about to stop; as often as the profile's max_restarts allows."""
    if shift.restart >= shift.document["max_restarts"]:
        return
    try:
        if not requeue.scontrol("requeue", shift.slurm_job).returncode:
            _wait_for_the_end()
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        print(f"hpc: not requeued, hpc submit resumes it: {error}", flush=True)


def _wait_for_the_end() -> bool:
    """After `scontrol requeue` Slurm ends this shell; the loop must not start the ranks again meanwhile."""
    time.sleep(60)
    return False


if __name__ == "__main__":
    sys.exit(main())
