"""The hardware that a stage runs on, as predictions need it: from a profile, or from what a rank sees of its GPU.

machine.of(profile, gpus=16, nodes=2)
machine.seen("NVIDIA H100 80GB HBM3", gpus=16, gpus_per_node=8, gpu_memory_bytes=..., host_memory_bytes=...)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from hpc.cluster.profile import Profile

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """GPUs and hosts of one job.

    Attributes:
        gpus: in all; 0 is a job on CPUs, whose time is not predicted.
        gpus_per_node: of one node.
        gpu_memory_bytes: of one GPU; host_memory_bytes: of one node, as much as the job gets of it.
        tflops: dense bf16 peak of one GPU, TFLOP/s.
        hbm_gb_s: bandwidth of a GPU's memory, GB/s.
        link_gb_s: of a GPU to the others of its node, as collectives reach it.
        node_gb_s: of a GPU to those of other nodes.
        host_gb_s: of a GPU to host memory, one direction; dram_gb_s: of one node's memory.
        cores_per_gpu: of the host, for the part of the optimizer that runs there.
        usd_per_gpu_hour: price; None where nobody says.
        name: type of GPU; assumed: what neither profile nor device told, for people.
        node_gpus, node_memory_bytes: what a whole node has; 0 where nobody says.
    """

    gpus: int
    gpus_per_node: int
    gpu_memory_bytes: float
    host_memory_bytes: float
    tflops: float
    hbm_gb_s: float
    link_gb_s: float
    node_gb_s: float
    host_gb_s: float
    dram_gb_s: float
    cores_per_gpu: int = 8
    usd_per_gpu_hour: float | None = None
    name: str = ""
    assumed: tuple[str, ...] = ()
    node_gpus: int = 0
    node_memory_bytes: float = 0.0

    @property
    def nodes(self) -> int:
        """Nodes of the job."""
        return max(1, -(-self.gpus // self.gpus_per_node))

    @property
    def gather_gb_s(self) -> float:
        """Rate at which one GPU receives a tensor that all hold in equal shares, GB/s.

        Within a node the links; over nodes what all network cards of a node bring in together, if that is less.
        """
        if self.nodes == 1:
            return self.link_gb_s
        return min(self.link_gb_s, self.node_gb_s * min(self.gpus, self.gpus_per_node))

    def swap_gb_s(self, ranks: int) -> float:
        """Rate of an all-to-all among `ranks` neighbouring GPUs, GB/s of each GPU's own traffic."""
        return self.link_gb_s if ranks <= self.gpus_per_node else min(self.link_gb_s, self.node_gb_s)

    def scaled(self, gpus: int) -> Machine:
        """The same kind of nodes with another number of GPUs in all; a node is filled before there is a second."""
        return replace(self, gpus=gpus, gpus_per_node=min(gpus, self.node_gpus or self.gpus_per_node))


def of(profile: Profile, *, gpus: int, nodes: int = 1, gpu: str = "", memory_gib: float = 0.0) -> Machine:
    """The machine of a stage's job under a profile; what it does not say comes from the table of GPUs.

    Args:
        gpu: type that the stage asks for; empty takes the profile's. Of another type the profile knows neither rates,
            memory nor price: all of these are the table's.
        memory_gib: of a node's memory, what the stage asks for; 0 takes the profile's.
    """
    key, found, same = _chosen(profile, gpu)
    row = _tables()["gpus"][key]
    told: dict[str, Any] = {"host_memory_bytes": _host_gib(profile, memory_gib) * GIB}
    if same:
        told["tflops"], told["link_gb_s"] = profile.gpu_tflops, profile.gpu_link_gb_s
        told["gpu_memory_bytes"] = profile.gpu_memory_gib and min(profile.gpu_memory_gib, _shown(row, profile)) * GIB
    told["node_gb_s"] = profile.node_link_gb_s
    per_node, price = max(1, -(-gpus // max(1, nodes))), profile.usd_per_gpu_hour if same else None
    made = _machine(row, found, told, gpus=gpus, per_node=per_node, usd=price)
    return replace(
        made,
        cores_per_gpu=profile.cpus_per_gpu,
        node_gpus=profile.node_gpus,
        node_memory_bytes=(profile.node_memory_gib or 0.0) * GIB,
    )


def seen(device: str, *, gpus: int, gpus_per_node: int, gpu_memory_bytes: float, host_memory_bytes: float) -> Machine:
    """The machine that a rank sees: its device's name and memory, its host's memory; rates come from the table.

    Args:
        device: torch.cuda.get_device_name(); empty on CPUs (then gpus=0).
    """
    key, found = _gpu(device, gpu_memory_bytes)
    told = {"gpu_memory_bytes": gpu_memory_bytes, "host_memory_bytes": host_memory_bytes}
    return _machine(_tables()["gpus"][key], found, told, gpus=gpus, per_node=gpus_per_node, usd=None)


def typical(gpu: str, gpus: int, gpus_per_node: int = 8, **changes: Any) -> Machine:
    """A machine of the table's GPUs with hosts of 1,800 GiB; `changes` replaces attributes."""
    key, found = _gpu(gpu)
    told = {"host_memory_bytes": 1800 * GIB}
    made = _machine(_tables()["gpus"][key], found, told, gpus=gpus, per_node=min(gpus, gpus_per_node), usd=None)
    return replace(made, **changes)


def _machine(
    row: dict[str, float], found: str, told: dict[str, Any], *, gpus: int, per_node: int, usd: float | None
) -> Machine:
    table = _tables()
    usual = {
        "tflops": row["tflops"],
        "gpu_memory_bytes": row["memory_gib"] * GIB,
        "host_memory_bytes": 0.0,
        "link_gb_s": row["link_gb_s"],
        "node_gb_s": table["node_gb_s"],
        "dram_gb_s": table["dram_gb_s"],
    }
    known = {k: v for k, v in told.items() if v}
    return Machine(
        gpus=gpus,
        gpus_per_node=max(1, per_node),
        hbm_gb_s=row["hbm_gb_s"],
        host_gb_s=row["host_gb_s"],
        usd_per_gpu_hour=usd,
        name=found,
        assumed=tuple(_words(k, v) for k, v in usual.items() if k not in known),
        **{**usual, **known},
    )


def _words(name: str, value: float) -> str:
    """An assumed value for people."""
    if name == "tflops":
        return f"peak {value:g} TFLOP/s"
    if name.endswith("_bytes"):
        return (
            f"{name.removesuffix('_bytes').replace('_', ' ')} {value / GIB:g} GiB"
            if value
            else "host memory without end"
        )
    return f"{name.removesuffix('_gb_s')} {value:g} GB/s"


def _chosen(profile: Profile, asked: str) -> tuple[str, str, bool]:
    """Key of the table's row, name for people, and whether it is the profile's own GPU that the stage asks for."""
    memory, tflops = (profile.gpu_memory_gib or 0.0) * GIB, profile.gpu_tflops or 0.0
    key, found = _gpu(profile.gpu, memory, tflops)
    if not asked or asked.lower() == profile.gpu.lower():
        return key, found, True
    known = bool(_named(profile.gpu, memory) or _by_peak(tflops, memory))
    if known and _named(asked, memory) == key:
        return key, found, True
    other, name = _gpu(asked)
    return (
        other,
        f"{name} (asked for; the profile's GPU is {key if known else 'not known'}: the table's numbers)",
        False,
    )


def _gpu(name: str, memory_bytes: float = 0.0, tflops: float = 0.0) -> tuple[str, str]:
    """Key of the table's row for a type of GPU, and its name for people; h100 where nothing tells, and that is said."""
    if found := _named(name, memory_bytes):
        return found, found
    if found := _by_peak(tflops, memory_bytes):
        return found, f"{name or found} (taken for {found}, by {tflops:g} TFLOP/s)"
    return "h100", f"{name or 'unknown GPU'} (taken for h100)"


def _named(name: str, memory_bytes: float) -> str:
    """The row whose key is in `name`, the longest first; empty where none is."""
    small = name.lower().replace("-", "_")
    if "a100" in small and ("40g" in small or 0 < memory_bytes < 60 * GIB):
        return "a100_40"
    return next((key for key in sorted(_tables()["gpus"], key=len, reverse=True) if key in small), "")


def _by_peak(tflops: float, memory_bytes: float) -> str:
    """Of the rows with this peak the one that is nearest in memory; empty where none has it."""
    rows = _tables()["gpus"].items()
    alike = {key: row["memory_gib"] * GIB for key, row in rows if abs(row["tflops"] - tflops) < 0.01 * tflops}
    return (
        min(alike, key=lambda key: abs(alike[key] - memory_bytes), default="")
        if memory_bytes
        else next(iter(alike), "")
    )


def _host_gib(profile: Profile, asked: float) -> float:
    """GiB of a node's memory that the job may use: what it gets by --mem, or all there is; 0 where nobody says."""
    given = asked or profile.place("train").memory_gib or 0.0 if profile.kind == "slurm" else 0.0
    return min((size for size in (given, profile.node_memory_gib) if size), default=0.0)


def _shown(row: dict[str, float], profile: Profile) -> float:
    """GiB that a GPU of the profile's size shows to CUDA: the sheet's 80 are the table's 79.2."""
    asked = profile.gpu_memory_gib or 0.0
    return row["memory_gib"] if abs(asked - row["memory_gib"]) < 0.03 * asked else asked


@cache
def _tables() -> dict[str, Any]:
    text = Path(__file__).with_name("machines.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables
