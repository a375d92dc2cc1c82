"""A cluster described once: sbatch/profiles/NAME.yaml. `hpc submit X --on NAME` runs there."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpc import artifact
from hpc.errors import ClusterError, HpcError, nearest
from hpc.recipe import load, typed
from hpc.recipe.schema import how

KINDS = ("data", "train", "generate", "grade")
"""Kinds of stage. All but train are one process, on one node."""
CPU_KINDS = ("data", "grade", "mend")
"""Kinds that ask for no GPU: they go to the profile's cpu_partition."""
PLACES = (*KINDS, "mend")
"""What a profile may tell apart: the stages, and the mender's job."""


SHARED = ("partition", "account", "qos", "cpus_per_rank", "memory_gib", "hours", "max_hours", "network", "container")
"""Settings that a profile has once for all kinds of stage, and again where a kind differs."""

CACHES = {
    "HF_HOME": "huggingface",
    "HF_HUB_CACHE": "huggingface/hub",  # an inherited value would win over HF_HOME
    "TRITON_CACHE_DIR": "triton",
    "VLLM_CACHE_ROOT": "vllm",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
}
"""Variables that move a library's cache, and their folders in the profile's `cache`."""

FROM_ZERO = (
    "gpus_per_node",
    "memory_gib",
    "usd_per_gpu_hour",
    "su_per_gpu_hour",
    "confirm_gpu_hours",
    "signal_lead_s",
    "max_restarts",
)
"""Numbers that may be 0; all others must be more."""

REFERENCE = re.compile(r"\$(?:\w+|\{\w+\})")
"""A value that names another variable, and holds nothing itself."""


@dataclass(frozen=True)
class Place:
    """What one kind of stage asks for, where it differs from the rest of the profile."""

    partition: str | None = how(None, "partition of these jobs")
    account: str | None = how(None, "account that pays for these jobs")
    qos: str | None = how(None, "quality of service of these jobs")
    cpus_per_rank: int | None = how(None, "CPU cores of each rank where the recipe leaves it open")
    memory_gib: float | None = how(None, "memory of each node in GiB where the recipe leaves it open")
    hours: float | None = how(None, "time limit in hours where the recipe leaves it open")
    max_hours: float | None = how(None, "longest time limit of the partition in hours (`sinfo -o '%P %l'`)")
    network: bool | None = how(None, "whether the nodes reach the hub; false sets HF_HUB_OFFLINE=1")
    container: str | None = how(None, "image that the worker runs in; empty is none")
    python: str | None = how(None, "Python of these jobs, when training and vLLM live in separate environments")
    setup: list[str] = how(list, "shell lines after the profile's own setup")
    sbatch: dict[str, Any] = how(dict, "further sbatch options by name; true is a bare flag")


@dataclass(frozen=True)
class Profile:
    """A place to run: local processes, or partitions of a Slurm cluster, with the hardware they have."""

    name: str = how("", "name of the profile; the file's own name")
    about: str = how("", "one line: which cluster this is")
    kind: Literal["local", "slurm"] = how("slurm", "local processes, or Slurm jobs")
    roots: list[str] = how(list, "folders for results: own first, then read-only ones; empty is $HPC_ROOT or ./runs")
    partition: str | None = how(None, "partition; null is the cluster's default")
    account: str | None = how(None, "account that pays; null is the user's default")
    qos: str | None = how(None, "quality of service; null is the user's default")
    cpu_partition: str | None = how(None, "partition of data, grade and mend jobs; null is `partition`")
    stages: dict[str, Place] = how(dict, "what differs by kind of stage: data, train, generate, grade, mend")
    debug: Place = how(Place, "what differs in `submit --smoke` and `doctor --job`: the partition for short tests")
    gpu: str = how("", "GPU type as Slurm names it (h100); empty asks for any")
    gpus_per_node: int | None = how(None, "GPUs of one node; null counts this machine's own (local) or is 8 (slurm)")
    gpu_flag: Literal["gpus-per-node", "gres"] = how("gpus-per-node", "the sbatch option that asks for GPUs")
    gpu_memory_gib: float | None = how(None, "memory of one GPU in GiB, for predictions")
    gpu_tflops: float | None = how(None, "dense bf16 peak of one GPU in TFLOP/s, for predictions")
    gpu_link_gb_s: float | None = how(None, "rate of a GPU to the others of its node in GB/s, for predictions")
    node_link_gb_s: float | None = how(None, "rate of a GPU to those of other nodes in GB/s, for predictions")
    node_memory_gib: float | None = how(None, "host memory of one node in GiB, for predictions")
    usd_per_gpu_hour: float | None = how(None, "price of one GPU for one hour, for predictions")
    su_per_gpu_hour: float | None = how(None, "service units that one GPU costs for one hour, where the site counts so")
    cpus_per_rank: int = how(1, "CPU cores of each rank where the recipe leaves it open")
    cpus_per_gpu: int = how(8, "CPU cores for each GPU where the recipe leaves it open")
    memory_gib: float = how(8, "memory of each node in GiB where the recipe leaves it open; 0 says no --mem")
    hours: float = how(1, "time limit of a job in hours where the recipe leaves it open")
    max_hours: float | None = how(None, "longest time limit of the partition in hours (`sinfo -o '%P %l'`)")
    network: bool = how(False, "whether the nodes reach the hub; false sets HF_HUB_OFFLINE=1")
    container: str = how("", "image that the worker runs in; empty is none")
    container_with: Literal["pyxis", "apptainer"] = how("pyxis", "what starts it: srun's plugin, or a command")
    mounts: list[str] = how(list, "folders that the container sees beside the roots, as /from:/to")
    umask: str = how("", "umask of the jobs (0007 shares with the group); empty leaves the user's")
    cache: str = how("", "folder for caches of hub, vLLM, Triton, torch extensions; empty leaves them at home")
    quota_gib: float | None = how(None, "GiB you may use under the root, where `df` does not tell")
    quota_files: int | None = how(None, "files you may have under the root, where `df` does not tell")
    python: str = how("", "Python of the jobs; empty is the one that submits")
    setup: list[str] = how(list, "shell lines before the job (module load ...); a line that fails ends it")
    env: dict[str, str] = how(
        dict, "variables of the jobs; $NAME is expanded on the node. Secrets only so: {WANDB_API_KEY: $WANDB_API_KEY}"
    )
    sbatch: dict[str, Any] = how(dict, "further sbatch options by name (constraint: hbm3); true is a bare flag")
    array_throttle: int = how(256, "most elements of one array that run at once")
    max_array_size: int = how(1001, "Slurm's MaxArraySize: indices stay below it (scontrol show config)")
    max_submit: int | None = how(None, "most jobs in the queue at once (MaxSubmitJobs); the mender submits the rest")
    mend: bool = how(
        True, "a last job mends what failed; false where nodes may not call sbatch (then `hpc submit` does)"
    )
    confirm_gpu_hours: float | None = how(500, "submit asks above so many GPU-hours (by time limits); null never asks")
    hang_s: float = how(3600, "seconds without progress after which a job counts as hung and is started again")
    signal_lead_s: int = how(
        120,
        "seconds between the warning signal and the time limit: 1.5 x save time + a step; "
        "a quarter of the limit where that is not above twice this",
    )
    max_restarts: int = how(50, "requeues after which a job gives up instead of asking for another")
    max_parallel: int | None = how(None, "local: cores that jobs may take together; null is all of this machine")

    @property
    def root(self) -> Path:
        """The folder that this user writes into."""
        return self.all_roots[0]

    @property
    def all_roots(self) -> list[Path]:
        """Own folder first, then the shared ones that are only read; absolute.

        Raises:
            ClusterError: a root names a variable that is not set.
        """
        names = self.roots or [os.environ.get("HPC_ROOT", "") or "runs"]
        return [_expanded(n, self.name).expanduser().absolute() for n in names]

    @property
    def node_gpus(self) -> int:
        """GPUs of one node."""
        if self.gpus_per_node is not None:
            return self.gpus_per_node
        return len(list(Path("/dev").glob("nvidia[0-9]*"))) if self.kind == "local" else 8

    @property
    def cores(self) -> int:
        """Cores that local jobs may take together."""
        return self.max_parallel or len(os.sched_getaffinity(0))

    def place(self, kind: str) -> Place:
        """Settings of one kind of stage, the profile's own where it says nothing."""
        special = self.stages.get(kind, Place())
        common = {n: getattr(self, n) for n in SHARED}
        chosen = {n: v if getattr(special, n) is None else getattr(special, n) for n, v in common.items()}
        if kind in CPU_KINDS and self.cpu_partition and not special.partition:
            chosen["partition"] = self.cpu_partition
        python = special.python or self.python or sys.executable
        return Place(
            **chosen, python=python, setup=[*self.setup, *special.setup], sbatch={**self.sbatch, **special.sbatch}
        )

    def variables(self, kind: str) -> dict[str, str]:
        """What jobs of one kind find in their environment; values may name variables of the node."""
        caches = {n: f"{self.cache}/{folder}" for n, folder in CACHES.items()} if self.cache else {}
        offline = {} if self.place(kind).network else {"HF_HUB_OFFLINE": "1"}
        return {**caches, **offline, **self.env}

    def resources(self, kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The plan's resources of a job with every open one filled in.

        Raises:
            ClusterError: more GPUs per node or hours than this profile has, or a shape that Slurm cannot give evenly.
        """
        place, nodes, ranks = self.place(kind), int(asked["nodes"]), int(asked["ranks"])
        gpus = math.ceil(int(asked["gpus"]) / nodes)
        if gpus > self.node_gpus:
            raise ClusterError(
                f"a {kind} job asks for {gpus} GPU(s) on a node",
                where=f"resources.{kind}, profile {self.name}",
                why=f"a node of {self.name} has {self.node_gpus} GPU(s)" + _no_gpu(self),
                next=f"choose another profile with --on, or set resources.{kind}.gpus=0 to run on CPUs",
            )
        _check_shape(kind, int(asked["gpus"]), nodes, ranks, self)
        hours = float(asked.get("hours") or 0) or float(place.hours or 0)
        if place.max_hours and hours > place.max_hours:
            raise ClusterError(
                f"a {kind} job asks for {hours:g} hours",
                where=f"resources.{kind}, profile {self.name}",
                why=f"max_hours of its partition is {place.max_hours:g}: it would never start",
                next=f"set resources.{kind}.hours={place.max_hours:g} (jobs resume), or take another partition",
            )
        ranks_per_node = ranks // nodes
        open_cpus = self.cpus_per_gpu * gpus // ranks_per_node if gpus else place.cpus_per_rank
        return {
            "gpus": int(asked["gpus"]),
            "gpus_per_node": gpus,
            "gpu": asked.get("gpu") or self.gpu,
            "nodes": nodes,
            "ranks": ranks,
            "ranks_per_node": ranks_per_node,
            "cpus_per_rank": int(asked.get("cpus_per_rank") or 0) or max(1, open_cpus or 1),
            "memory_gib": float(asked.get("memory_gib") or 0) or place.memory_gib,
            "hours": hours,
        }


def _check_shape(kind: str, gpus: int, nodes: int, ranks: int, profile: Profile) -> None:
    """Slurm counts GPUs and tasks by the node: both must divide by the nodes, or more would start."""
    shape = (
        f"{gpus} GPU(s), {ranks} rank(s) and {nodes} node(s); a node of {profile.name} has {profile.node_gpus} GPU(s)"
    )
    where = f"resources.{kind}, profile {profile.name}"
    if nodes > 1 and kind in KINDS and kind != "train":
        raise ClusterError(
            f"a {kind} job is one process and cannot use {nodes} nodes",
            where=where,
            why=shape,
            next=f"lower resources.{kind}.gpus to what fits one node ({profile.node_gpus}), or choose a profile with "
            "larger nodes by --on",
        )
    if nodes < 1 or ranks < 1 or gpus % nodes or ranks % nodes:
        raise ClusterError(
            f"a {kind} job's GPUs and ranks do not divide evenly by its nodes",
            where=where,
            why=shape,
            next=f"set resources.{kind}.gpus, .ranks and .nodes so that each node gets the same number of both",
        )


def _expanded(text: str, name: str, key: str = "roots") -> Path:
    expanded = os.path.expandvars(text)
    if left := re.search(r"\$\{?(\w+)", expanded):
        raise ClusterError(
            f"the variable {left.group(1)} is not set",
            where=f"{key}, profile {name}",
            why=f"{key} has {text}",
            next=f"export {left.group(1)}=... before hpc, or write the folder itself into the profile",
        )
    return Path(expanded)


def check_cache(profile: Profile) -> None:
    """Raise ClusterError where `cache` names a variable that is not set: jobs and fetch would make a folder `$NAME`."""
    _expanded(profile.cache, profile.name, "cache")


def _check_numbers(chosen: Profile | Place, below: str, where: str) -> None:
    """Raise ClusterError for a number that would be 0 or negative where Slurm, or a division, needs more."""
    for field in dataclasses.fields(chosen):
        value, key = getattr(chosen, field.name), f"{below}{field.name}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value < 0 or (value == 0 and field.name not in FROM_ZERO):
            least = "0 or more" if field.name in FROM_ZERO else "more than 0"
            raise ClusterError(
                f"{key} is {value:g}",
                where=where,
                why=f"it must be {least}: {field.metadata['doc']}",
                next=f"correct {key} in {where}",
            )


def _check(profile: Profile, where: str) -> Profile:
    """The profile, if its values can be used.

    Raises:
        ClusterError: unknown kinds of stage, a number out of range, or a secret written into the file.
    """
    for kind in profile.stages:
        if kind not in PLACES:
            raise ClusterError(
                f'unknown kind of stage "{kind}"',
                where=f"stages, {where}",
                why=nearest(kind, PLACES),
                next="correct or remove it",
            )
    _check_numbers(profile, "", where)
    for name, place in {**{f"stages.{k}": p for k, p in profile.stages.items()}, "debug": profile.debug}.items():
        _check_numbers(place, f"{name}.", where)
    for name, value in profile.env.items():
        if _secret(name) and not REFERENCE.fullmatch(value):
            raise ClusterError(
                f"{name} looks like a secret and is written into the profile",
                where=f"env, {where}",
                why="job files and sbatch scripts show the values of env to everyone who can read them",
                next=f"write env: {{{name}: ${name}}} and export {name} where the jobs find it",
            )
    return profile


def _secret(name: str) -> bool:
    """True for HF_TOKEN, WANDB_API_KEY ...; not for TOKENIZERS_PARALLELISM or HF_TOKEN_PATH."""
    parts = name.upper().split("_")
    return parts[-1] not in ("PATH", "FILE", "DIR") and any(p.endswith(artifact.SECRET) for p in parts)


def _no_gpu(profile: Profile) -> str:
    return "; no /dev/nvidia* on this machine" if profile.kind == "local" and not profile.node_gpus else ""


def find_profile(name: str = "", **changes: Any) -> Profile:
    """The profile called `name` (./sbatch/profiles, $HPC_PATH, the package's own), or the default one.

    Args:
        changes: fields to replace, such as roots=["/scratch/me"].

    Raises:
        ClusterError: no such profile, an unknown key or a wrong type (the message lists the valid ones), a value that
            cannot be used, or a secret in the file.
    """
    name = name or default_profile()
    try:
        path = load.find(name, ["profiles"])
    except HpcError as error:
        raise ClusterError(
            error.what,
            where=error.where,
            why=error.why,
            next="give a profile from the list above with --on, or copy sbatch/profiles/slurm.yaml and "
            "edit it; hpc/cluster/profile.py explains every key",
        ) from None
    try:
        profile = typed.build(Profile, load.read(path), where=str(path))
    except HpcError as error:
        key = re.search(r'"([\w.\[\]]+)"', error.what)
        raise ClusterError(
            error.what,
            where=error.where,
            why=error.why,
            next=f"correct {key.group(1) if key else 'it'} in {path}; hpc/cluster/profile.py explains every key",
        ) from None
    return _check(dataclasses.replace(profile, name=path.stem, **changes), str(path))


def default_profile() -> str:
    """`local` where no Slurm client is installed, else `slurm`."""
    return "slurm" if shutil.which("sbatch") and shutil.which("squeue") else "local"
