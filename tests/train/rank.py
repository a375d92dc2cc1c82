"""One rank of train stages in a row, as the worker would start it: `python tests/train/rank.py JOB.json ...`.

The rank comes from SLURM_PROCID and SLURM_NTASKS. A job may ask for a signal to itself: {"signal", "at_step", "rank",
"at_pass", "moment"}, or for {"forget"} or {"partly"}; {"shard_bytes"} is the size of exported files, {"most_bytes"} of
what this rank can write to a file while it saves checkpoint number {"at_save"}.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpc import artifact
from hpc.artifact import Work
from hpc.recipe.schema import Train, Zero


def work_of(job: dict[str, Any], rank: int, world_size: int) -> Work:
    """The Work of this rank; rank 0 claims the attempt, the others hear of it from the train stage."""
    root, key = Path(job["root"]), job["key"]
    attempt = artifact.claim(root, "train", key) if rank == 0 else Path("unknown")
    older = [p for p in artifact.attempts(root / "work" / "train" / key) if p != attempt][::-1] if rank == 0 else []
    settings = {**job["settings"], "zero": Zero(**job["settings"].get("zero", {}))}
    return Work(
        "train",
        key,
        Train(**settings),
        {"format": {"name": "test", "text": job["format"]}},
        {"model": Path(job["model"]), "data": Path(job["data"])},
        job.get("seed", 0),
        attempt,
        older,
        rank,
        world_size,
    )


@contextmanager
def signalled(job: dict[str, Any], rank: int) -> Iterator[None]:
    """Within, this process signals itself once, if it is `rank` (or all), at `moment` of step `at_step`.

    batch: when it asks for the rows of pass `at_pass`. saving: with that step's checkpoint written, but not COMPLETE.
    loading: when the rows are packed, before a checkpoint is looked for; `at_step` is then 0.
    """
    from hpc.train import checkpoint
    from hpc.train.batches import Batches

    plain, seal, moment = Batches.rows_of, checkpoint._seal, job.get("moment", "batch")
    find = checkpoint.find

    def signal_if(step: int, now: str) -> None:
        if (step, now) == (job.get("at_step"), moment) and rank == job.get("rank", rank):
            os.kill(os.getpid(), signal.Signals[job["signal"]])

    def rows_of(self: Batches, step: int, mine: int) -> Any:
        for number, row in enumerate(plain(self, step, mine)):
            if number == min(job.get("at_pass", 0), len(self.passes(step)) - 1):
                signal_if(step, "batch")
            yield row

    def sealed(folder: Path, content: dict[str, Any]) -> None:
        signal_if(content["step"] - 1, "saving")
        seal(folder, content)

    def found(*asked: Any) -> checkpoint.Start:
        signal_if(0, "loading")
        return find(*asked)

    Batches.rows_of, checkpoint._seal = rows_of, sealed  # type: ignore[method-assign]
    checkpoint.find = found
    try:
        yield
    finally:
        Batches.rows_of, checkpoint._seal = plain, seal  # type: ignore[method-assign]
        checkpoint.find = find


@contextmanager
def forgetful(job: dict[str, Any]) -> Iterator[None]:
    """Within, a training that goes on has lost the moments of its optimizer, if the job asks for that."""
    from hpc.train import checkpoint

    plain = checkpoint.resume

    def resume(trainer: Any, start: checkpoint.Start, team: Any) -> None:
        plain(trainer, start, team)
        for state in trainer.optimizer.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name].zero_()

    checkpoint.resume = resume if job.get("forget") else plain
    try:
        yield
    finally:
        checkpoint.resume = plain


@contextmanager
def partly(job: dict[str, Any]) -> Iterator[None]:
    """Within, half of the states is offloaded to DeepSpeed's CPUAdam as on a GPU, if the job asks for that."""
    from hpc.train import choices, engine, mends

    plain = engine.build, engine._own_adam

    def build(settings: Train, batches: Any, chosen: choices.Choices, *more: Any, **named: Any) -> Any:
        trainer = plain[0](settings, batches, replace(chosen, offload_ratio=0.5), *more, **named)
        trainer.optimizer.subgroup_to_device[0] = "gpu"
        mends.save_all_states(trainer)
        return trainer

    if job.get("partly"):
        engine.build, engine._own_adam = build, lambda *_: True
    try:
        yield
    finally:
        engine.build, engine._own_adam = plain


@contextmanager
def pressed(job: dict[str, Any], rank: int) -> Iterator[None]:
    """Within, exported files have the asked size, and one rank's disk is full while it saves one of the checkpoints."""
    from hpc.train import checkpoint, export

    size, write, count = export.SHARD_BYTES, checkpoint._write, [0]

    def limited(*asked: Any) -> Any:
        count[0] += 1
        if "most_bytes" not in job or (count[0], rank) != (job["at_save"], job["rank"]):
            return write(*asked)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["most_bytes"], before[1]))
        try:
            return write(*asked)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    export.SHARD_BYTES, checkpoint._write = job.get("shard_bytes", size), limited
    try:
        yield
    finally:
        export.SHARD_BYTES, checkpoint._write = size, write


def main() -> None:
    """Run every job's stage; rank 0 leaves the counts, or the interruption, in outcome.json of the attempt."""
    rank, world_size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    for path in sys.argv[1:]:
        job = json.loads(Path(path).read_text(encoding="utf-8"))
        work = work_of(job, rank, world_size)
        from hpc.train import ranks, stage

        try:
            with signalled(job, rank), forgetful(job), partly(job), pressed(job, rank):
                outcome = stage.run(work)
        except ranks.Interrupted as stopped:
            outcome = {"interrupted": str(stopped)}
        if rank == 0:
            (work.attempt / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
