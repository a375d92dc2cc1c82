"""One rank of one start of a job: what the job file and the variables of srun (or the local runner) say.

A job starts anew after a requeue (SLURM_RESTART_COUNT) and inside its allocation after a failed try (HPC_TRY).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster.hosts import this_node
from hpc.cluster.ledger import Element

Spec = dict[str, Any]
RESTART = 75
"""Exit code of a rank that saved and asks the local runner to be started again (EX_TEMPFAIL)."""


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
    attempt: int = 0
    """How often this allocation has started the ranks before."""

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
    def start(self) -> str:
        """JOB.RESTART.TRY: unique among all starts of an element."""
        return f"{self.job_id}.{self.restart}.{self.attempt}"

    @property
    def name(self) -> str:
        """PIECE.INDEX.JOB.RESTART.TRY: unique among all starts of a submission."""
        return f"{self.document['piece']}.{self.index}.{self.start}"

    @property
    def slurm_job(self) -> str:
        """The id that Slurm's commands take: 17, or 17_3 for an array's element."""
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"{self.job_id}_{task}" if task else self.job_id

    def note(self, spec: Spec) -> Path:
        """Where rank 0 tells the other ranks of this start what it decided about a stage."""
        return self.jobfile.parent / "notes" / f"{self.name}.{spec['stage']}.{spec['key']}.json"

    def report(self, state: str, stages: dict[str, str] | None = None) -> None:
        """state/PIECE.INDEX.JOB.RESTART.TRY.json beside the job file: the truth where Slurm keeps no accounts."""
        row = {
            "state": state,
            "stages": stages or {},
            "host": this_node(),
            "at": now(),
            "restart": self.restart,
            "try": self.attempt,
        }
        try:
            files.write_json(self.jobfile.parent / "state" / f"{self.name}.json", row)
        except OSError as error:  # a full disk must not keep a warned job from its requeue
            print(f"hpc: cannot write its state ({state}): {error}", flush=True)


def read(jobfile: Path, index: int | None) -> Shift:
    """This process's shift.

    Args:
        index: which job of the file; None takes the array index, or the file's first.
    """
    env = os.environ
    content = document(jobfile)
    chosen = index if index is not None else int(env.get("SLURM_ARRAY_TASK_ID", min(map(int, content["elements"]))))
    job_id = env.get("SLURM_ARRAY_JOB_ID") or env.get("SLURM_JOB_ID") or f"local-{env.get('HPC_RUNNER', os.getpid())}"
    return Shift(
        jobfile,
        content,
        chosen,
        int(env.get("SLURM_PROCID", 0)),
        int(env.get("SLURM_NTASKS", 1)),
        job_id,
        int(env.get("SLURM_RESTART_COUNT", 0)),
        int(env.get("HPC_TRY", 0)),
    )


def document(jobfile: Path) -> dict[str, Any]:
    """The content of a job file, parsed once for the many questions about its elements. Not to be changed."""
    stat = jobfile.stat()
    return _document(jobfile, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _document(jobfile: Path, size: int, changed: int) -> dict[str, Any]:
    content: dict[str, Any] = files.read_json(jobfile)
    return content


def now() -> str:
    """UTC as files record it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
