"""The text of every sbatch script: one pure function for `hpc submit`, `hpc plan` and the files in sbatch/.

python -m hpc.cluster.script            writes sbatch/{data,train,generate,grade}.sbatch anew
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpc.cluster.profile import KINDS, Place, Profile, find_profile
from hpc.cluster.shift import RESTART

SRUN = ["srun", "--unbuffered", "--kill-on-bad-exit=1", "--wait=0", "--cpu-bind=cores"]
"""One dead rank ends the step instead of hanging the others; a rank that has nothing left to do may go early; each rank
keeps its own cores (without it, ranks of a node wander over all of them and share caches and memory channels badly)."""


MOST_LEAD_S = 65_535
"""The longest warning that Slurm takes."""
JOB = """\
HPC_JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
HPC_JOB=${HPC_JOB:-$SLURM_JOB_ID}  # one element has the bare id of its whole array"""
LEAVE = """\
leave() {  # a node where not even the setup or Python works would eat a whole array: once, go elsewhere
    code=$?
    case "$code ${HPC_TRY:+started}" in "0 "* | *" started") [ $code -eq 126 ] || [ $code -eq 127 ] || return ;; esac
    [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || return
    trap '' TERM  # the requeue tells this shell too
    scontrol requeue "$HPC_JOB" && scontrol update "JobId=$HPC_JOB" "ExcNodeList=${SLURMD_NODENAME}AVOIDED"
    sleep 60
}
trap leave EXIT"""
"""Looks at how a batch script ends. Exit codes 126 and 127: the shell found no command to run."""
DEAF = 'bash -c \'trap "" TERM USR2; exec "$@"\' -'
"""A warning that comes while Python (or a container) still starts would kill the rank, and Slurm would see a failed
job. Nothing is to be saved yet, so it is not heard; an ignored signal stays so over exec, until the worker takes it."""
OUTLIVE = "trap : TERM  # a requeue tells this shell too; it must outlive the ranks, which save and leave"
OUTSIDE = f"""\
outside() {{  # a container has no scontrol: the worker in it asks for a requeue by its exit code
    [ "$1" -eq {RESTART} ] || exit "$1"
    scontrol show job "$HPC_JOB" -o | grep -q JobState=RUNNING && scontrol requeue "$HPC_JOB" && sleep 60
    exit "$1"
}}"""


def line(python: str, module: str, *arguments: str | Path) -> str:
    """`python -m hpc.cluster.MODULE ARGUMENTS`, quoted. -P: the working folder must not shadow the snapshot."""
    return shlex.join([python, "-P", "-u", "-m", f"hpc.cluster.{module}", *map(str, arguments)])


def body(place: Place, profile: Profile, logs: str, python: str, arguments: str, index: int | None) -> str:
    """The batch script's own lines: run the ranks; when a start fails, ask what its cause allows.

    Args:
        logs: folder of the logs, with a closing slash, or empty for the working folder.
        arguments: the job file and more, quoted for the shell.
        index: the element of a job that is no array.
    """
    element = "${SLURM_ARRAY_TASK_ID:-0}" if index is None else str(index)
    job = f"{element}-${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}.${{SLURM_RESTART_COUNT:-0}}"
    srun = f'{shlex.join(SRUN)} --output {logs}"{job}.$HPC_TRY-%t.out"'
    worker = f"{line(python, 'worker')} {arguments}"
    if place.container:
        # the batch shell is outside the container and may have no Python of ours: the mender looks at failures
        inside = contained(place.container, profile)
        ranks = f"{inside} {DEAF}" if profile.container_with == "pyxis" else f"{DEAF} {inside}"
        return f"{OUTLIVE}\nexport HPC_TRY=0\n{srun} {ranks} {worker} || outside $?"
    return "\n".join(
        [
            OUTLIVE,
            "export HPC_TRY=0",
            f"until {srun} {DEAF} {worker}",
            "do",
            f"    {line(python, 'rescue')} {arguments} --code $? || exit",
            "    HPC_TRY=$((HPC_TRY + 1))",
            "done",
        ]
    )


def contained(image: str, profile: Profile) -> str:
    """srun's options for pyxis, or the command of apptainer, that put the worker into a container."""
    mounts = [*(f"{r}:{r}" for r in profile.all_roots), *profile.mounts]
    if profile.container_with == "pyxis":
        return shlex.join([f"--container-image={image}", f"--container-mounts={','.join(mounts)}"])
    return shlex.join(["apptainer", "exec", "--nv", "--bind", ",".join(mounts), image])


def parameters(
    kind: str,
    resources: dict[str, Any],
    profile: Profile,
    *,
    job_name: str,
    logs: Path,
    indices: list[int] | None = None,
    index: int = 0,
    dependency: str = "",
    code: Path | None = None,
    save_s: float = 0,
) -> dict[str, Any]:
    """submitit's parameters for the jobs of one sbatch.

    Args:
        resources: as Profile.resources returns them; `exclude`: nodes to keep away from.
        logs: folder of the logs.
        indices: array indices; None asks for one plain job, whose element is `index`.
        dependency: Slurm's text, such as aftercorr:17,afterok:12.
        code: the snapshot that the job imports; None leaves the job its own.
        save_s: what its stages want between the warning and the end (`warned_s`).
    """
    place = profile.place(kind)
    avoided = ",".join([*filter(None, [str(place.sbatch.get("exclude", ""))]), *resources.get("exclude", [])])
    return {
        "job_name": job_name,
        "partition": place.partition,
        "account": place.account,
        "qos": place.qos,
        "time": max(1, math.ceil(resources["hours"] * 60)),
        "nodes": resources["nodes"],
        "ntasks_per_node": resources["ranks_per_node"],
        "cpus_per_task": resources["cpus_per_rank"],
        # a site's default may be 100 MB per core; 0 leaves it to sites that refuse the option
        "mem": f"{math.ceil(resources['memory_gib'] * 1024)}M" if resources["memory_gib"] else None,
        "dependency": dependency or None,
        "signal_delay_s": lead_s(resources["hours"], profile, save_s),
        "stderr_to_stdout": True,
        "wckey": None,
        "map_count": len(indices) if indices is not None else None,
        "setup": setup(kind, profile, code, avoided),
        "use_srun": False,  # our own line: see body()
        "exclude": avoided or None,
        **_gpus(resources, profile),
        "additional_parameters": _further(place, profile, indices, logs, index),
    }


def lead_s(hours: float, profile: Profile, save_s: float = 0) -> int:
    """Seconds from the warning to the time limit; a short job keeps three quarters of its time for its work.

    Args:
        save_s: what the job wants if that is more; it gets at most half of the time limit.
    """
    limit_s = hours * 3600
    usual = profile.signal_lead_s if limit_s > 2 * profile.signal_lead_s else max(1, int(limit_s / 4))
    return min(MOST_LEAD_S, max(usual, min(math.ceil(save_s), int(limit_s / 2))))


def warned_s(stages: Iterable[Mapping[str, Any]]) -> float:
    """Seconds that stages of a plan want to be warned ahead: to finish a step and to save; 0 where none is forecast."""
    told = [stage.get("forecast") or {} for stage in stages if stage["stage"] == "train"]
    return max((float(forecast.get("lead_s") or 0) for forecast in told), default=0.0)


def quoted(value: str) -> str:
    """A value in double quotes: the shell expands $NAME and ${NAME} in it and nothing else."""
    return '"' + re.sub(r'["`\\]|\$(?![A-Za-z_]|\{[A-Za-z_]\w*\})', r"\\\g<0>", value) + '"'


def _gpus(resources: dict[str, Any], profile: Profile) -> dict[str, Any]:
    count, kind = resources["gpus_per_node"], resources["gpu"]
    if not count:
        return {}
    typed = f"{kind}:{count}" if kind else f"{count}"
    return {"gres": f"gpu:{typed}"} if profile.gpu_flag == "gres" else {"gpus_per_node": typed}


def _further(place: Place, profile: Profile, indices: list[int] | None, logs: Path, index: int) -> dict[str, Any]:
    name = f"{index}-%j" if indices is None else "%a-%A"
    own: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", "output": str(logs / f"{name}.batch.out")}
    if indices is not None:
        own["array"] = f"{ranges(indices)}%{profile.array_throttle}"
    own |= {k.replace("_", "-"): v for k, v in place.sbatch.items() if k != "exclude"}
    return {k: v for k, v in own.items() if k != "requeue" or "no-requeue" not in own}


def setup(kind: str, profile: Profile, code: Path | None = None, avoided: str = "") -> list[str]:
    """Shell lines before srun; `set -e` makes a failing line end the job.

    Args:
        avoided: nodes that this job is kept away from; one that it leaves is added to them.
    """
    # the head is what tells a later reader which node it was, whatever fails below
    head = "======== job $SLURM_JOB_ID restart ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST, $(date -u +%FT%TZ)"
    return [
        f'echo "{head}"',
        "unset HPC_TRY  # a submission from inside a job hands it down",
        *JOB.splitlines(),
        *LEAVE.replace("AVOIDED", f",{avoided}" if avoided else "").splitlines(),
        *(OUTSIDE.splitlines() if profile.place(kind).container else []),
        "set -e",
        *([f"umask {profile.umask}"] if profile.umask else []),
        *profile.place(kind).setup,
        *(f"export {name}={quoted(value)}" for name, value in profile.variables(kind).items()),
        *([f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"] if code else []),
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
    chosen = parameters(kind, resources, profile, job_name=f"hpc-{kind}", logs=Path())
    chosen["additional_parameters"]["output"] = "%j.batch.out"
    lines = body(profile.place(kind), profile, "", "python", '"$@"', None)
    text = sbatch_text(chosen, Path(), lines)
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
