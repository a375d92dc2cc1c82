"""The grid with submitit alone: python grid.py submit FOLDER, then python grid.py status FOLDER."""

import itertools
import sys
from collections import Counter
from pathlib import Path

import submitit
from submitit.slurm.slurm import SlurmJob


def point(x: int, y: int, z: int) -> int:
    """The sum of a point."""
    return x + y + z


def submit(folder: Path) -> None:
    """One array of all points; the job's id is kept, as a user must to ask for it in another process."""
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(
        timeout_min=60, cpus_per_task=1, mem_gb=1, slurm_partition="batch", slurm_array_parallelism=256
    )
    jobs = executor.map_array(point, *zip(*itertools.product(range(10), repeat=3), strict=True))
    (folder / "ids").write_text("\n".join(job.job_id for job in jobs))


def status(folder: Path) -> None:
    """How many jobs are in which state: one sacct for all."""
    jobs = [SlurmJob(folder, job_id) for job_id in (folder / "ids").read_text().split()]
    print(dict(Counter(job.state for job in jobs)))


if __name__ == "__main__":
    {"submit": submit, "status": status}[sys.argv[1]](Path(sys.argv[2]))
