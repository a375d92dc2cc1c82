"""The text of every sbatch script: one pure function for `hpc submit`, `hpc plan` and the files in sbatch/.

python -m hpc.cluster.script            writes sbatch/{data,train,generate,grade}.sbatch anew
"""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

from hpc.cluster.profile import KINDS, Place, Profile, find_profile


def command(python: str, *arguments: str | Path) -> str:
    """The worker's command line, quoted for the shell."""
    return shlex.join([python, "-u", "-m", "hpc.cluster.worker", *map(str, arguments)])


def parameters(
    kind: str,
    resources: dict[str, Any],
    profile: Profile,
    *,
    job_name: str,
    indices: list[int] | None = None,
    dependency: str = "",
) -> dict[str, Any]:
    """submitit's parameters for the jobs of one sbatch.

    Args:
        resources: as Profile.resources returns them.
        indices: array indices; None asks for one plain job.
        dependency: Slurm's text, such as aftercorr:17,afterok:12.
    """
    place = profile.place(kind)
    return {
        "job_name": job_name,
        "partition": place.partition,
        "account": place.account,
        "qos": place.qos,
        "time": max(1, math.ceil(resources["hours"] * 60)),
        "nodes": resources["nodes"],
        "ntasks_per_node": resources["ranks_per_node"],
        "cpus_per_task": resources["cpus_per_rank"],
        "mem": f"{math.ceil(resources['memory_gib'] * 1024)}M",  # always: a site's default may be 100 MB per core
        "dependency": dependency or None,
        "signal_delay_s": lead_s(resources["hours"], profile),
        "stderr_to_stdout": True,
        "wckey": None,
        "map_count": len(indices) if indices is not None else None,
        "setup": setup(place, profile),
        # one dead rank ends the job instead of hanging the others; a rank that has nothing left to do may go early
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0"],
        **_gpus(resources, profile),
        "additional_parameters": _further(place, profile, indices),
    }


def lead_s(hours: float, profile: Profile) -> int:
    """Seconds from the warning to the time limit; a short job keeps three quarters of its time for its work."""
    limit_s = hours * 3600
    return profile.signal_lead_s if limit_s > 2 * profile.signal_lead_s else max(1, int(limit_s / 4))


def quoted(value: str) -> str:
    """A value in double quotes: the shell expands $NAME and ${NAME} in it and nothing else."""
    return '"' + re.sub(r'["`\\]|\$(?![A-Za-z_]|\{[A-Za-z_]\w*\})', r"\\\g<0>", value) + '"'


def _gpus(resources: dict[str, Any], profile: Profile) -> dict[str, Any]:
    count, kind = resources["gpus_per_node"], resources["gpu"]
    if not count:
        return {}
    typed = f"{kind}:{count}" if kind else f"{count}"
    return {"gres": f"gpu:{typed}"} if profile.gpu_flag == "gres" else {"gpus_per_node": typed}


def _further(place: Place, profile: Profile, indices: list[int] | None) -> dict[str, Any]:
    own: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    if indices is not None:
        own["array"] = f"{ranges(indices)}%{profile.array_throttle}"
    return {**own, **{k.replace("_", "-"): v for k, v in place.sbatch.items()}}


def setup(place: Place, profile: Profile) -> list[str]:
    """Shell lines before srun; the first makes a failing line end the job."""
    return [
        "set -e",
        *place.setup,
        *(f"export {name}={quoted(value)}" for name, value in profile.env.items()),
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # since Slurm 22.05 srun does not take it from sbatch",
    ]


def ranges(indices: list[int]) -> str:
    """Slurm's text of array indices: [0, 1, 2, 5] -> "0-2,5"."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def sbatch_text(chosen: dict[str, Any], folder: Path, line: str) -> str:
    """The script that submitit submits for `parameters` and the command `line`; logs go to `folder`."""
    from submitit.slurm import slurm  # 0.1 s: only where a script is written

    text: str = slurm._make_sbatch_string(command=line, folder=folder, **chosen)
    return text


def plain(kind: str, profile: Profile) -> str:
    """A hand-editable script for one kind of stage: `sbatch --array=0-3 sbatch/train.sbatch JOBFILE`."""
    gpus = {"train": 8, "generate": 1}.get(kind, 0) if profile.node_gpus else 0
    ranks = gpus if kind == "train" else 1
    resources = profile.resources(kind, {"gpus": gpus, "nodes": 1, "ranks": ranks})
    chosen = parameters(kind, resources, profile, job_name=f"hpc-{kind}")
    text = sbatch_text(chosen, Path("/LOGS"), command("python") + ' "$@"').replace("/LOGS/", "")
    head = (
        f"# {kind} jobs by hand, with the worker that `hpc submit` uses. Edit the parameters for your cluster.\n"
        f"#   hpc submit RECIPE --on slurm --dry-run     writes the job files and prints their names\n"
        f"#   sbatch --array=0-3 sbatch/{kind}.sbatch runs/jobs/SUBMISSION/{kind}-0.json\n"
        "# Without --array add the index after the job file: --index 0. Written by `python -m hpc.cluster.script`."
    )
    return text.replace("#!/bin/bash\n", f"#!/bin/bash\n{head}\n", 1)


def main() -> None:
    """Write sbatch/*.sbatch."""
    for kind in KINDS:
        Path("sbatch", f"{kind}.sbatch").write_text(plain(kind, find_profile("slurm")), encoding="utf-8")


if __name__ == "__main__":
    main()
