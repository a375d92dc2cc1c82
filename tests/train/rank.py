"""One rank of train stages in a row, as the worker would start it: `python tests/train/rank.py JOB.json ...`.

The rank comes from SLURM_PROCID and SLURM_NTASKS. A job may ask for a signal to itself: {"signal", "at_step", "rank"}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Within, this process signals itself when it asks for the batch of step `at_step`, if it is `rank` (or all)."""
    from hpc.train.batches import Batches

    plain = Batches.rows_of

    def rows_of(self: Batches, step: int, mine: int) -> Any:
        if step == job.get("at_step") and mine == job.get("rank", mine):
            os.kill(os.getpid(), signal.Signals[job["signal"]])
        return plain(self, step, mine)

    Batches.rows_of = rows_of  # type: ignore[method-assign]
    try:
        yield
    finally:
        Batches.rows_of = plain  # type: ignore[method-assign]


def main() -> None:
    """Run every job's stage; rank 0 leaves the counts, or the interruption, in outcome.json of the attempt."""
    rank, world_size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    for path in sys.argv[1:]:
        job = json.loads(Path(path).read_text(encoding="utf-8"))
        work = work_of(job, rank, world_size)
        from hpc.train import loop, stage

        try:
            with signalled(job, rank):
                outcome = stage.run(work)
        except loop.Interrupted as stopped:
            outcome = {"interrupted": str(stopped)}
        if rank == 0:
            (work.attempt / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main()
