"""submitit as we use it: it makes the script, calls sbatch and reads the job id. At the node's door it ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpc.cluster.queue import OUTER, no_slurm
from hpc.errors import ClusterError

NEXT = {
    "partition": "`sinfo -s` lists the partitions; set `partition` in the profile",
    "account": "`sacctmgr show assoc user=$USER` lists your accounts; set `account` in the profile",
    "qos": "`sacctmgr show assoc user=$USER format=qos` lists yours; set `qos` in the profile",
    "node configuration": "no node has what the job asks for: compare `sinfo -o '%P %c %m %G'` with the recipe's "
    "resources and the profile's",
    "time limit": "`sinfo -o '%P %l'` lists the longest time of each partition; lower resources.STAGE.hours",
    "array": "`scontrol show config | grep MaxArraySize`; set `max_array_size` in the profile",
}


class Door(SlurmExecutor):  # type: ignore[misc]  # submitit is untyped here
    """submitit's executor, with the worker's command line as the command, a time-out, and no outer job's variables."""

    limit_s = 120

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        foreign = [f"--unset={name}" for name in sorted(os.environ) if OUTER.match(name)]
        return ["env", *foreign, "timeout", str(self.limit_s), "sbatch", str(submission_file_path)]


def send(chosen: dict[str, Any], logs: Path, line: str, limit_s: int) -> str:
    """Submit the command `line` with submitit's parameters `chosen`. Returns the job id.

    Raises:
        ClusterError: no Slurm, no answer in `limit_s`, or sbatch's own words.
    """
    count = chosen["map_count"]
    try:
        executor = Door(folder=logs)
    except RuntimeError:
        raise no_slurm("srun") from None
    executor.limit_s = limit_s
    executor.update_parameters(**{k: v for k, v in chosen.items() if k != "map_count"})
    if count is not None:
        executor.parameters["map_count"] = count
    try:
        return str(executor._submit_command(line).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        text = _words(str(error)) or f"no answer in {limit_s} s"
        hint = next((n for word, n in NEXT.items() if word in text.lower()), "correct the profile and submit again")
        raise ClusterError("sbatch refused the jobs", where=str(chosen["job_name"]), why=text, next=hint) from None


def _words(text: str) -> str:
    """sbatch's own lines in submitit's message."""
    lines = [line[line.index("sbatch: ") :] for line in text.splitlines() if "sbatch: " in line]
    return " ".join(line.removeprefix("sbatch: ").strip() for line in lines)
