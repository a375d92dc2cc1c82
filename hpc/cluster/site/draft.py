"""A first profile of a cluster, from what Slurm says about it: `hpc doctor --init NAME`."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from hpc.cluster.profile import find_profile
from hpc.cluster.site import checks, facts
from hpc.cluster.site.facts import Facts, Nodes, Partition
from hpc.errors import ClusterError
from hpc.recipe import load

FOLDER = Path("sbatch/profiles")
CARDS = {
    "a100": (40, 312),
    "h100": (80, 989),
    "h200": (141, 989),
    "gh200": (96, 989),
    "b200": (180, 2250),
    "l40s": (48, 362),
    "a40": (48, 150),
    "v100": (16, 0),
}
"""Type -> (GiB, dense bf16 TFLOP/s) of the smallest variant, from NVIDIA's data sheets. V100 has no bf16."""
SHARE = 0.95
"""Part of a node's memory that jobs ask for; the rest is the node's own."""
Line = tuple[str, object, str]
"""(key, value, where it came from)."""


def write(name: str) -> Path:
    """Write sbatch/profiles/NAME.yaml in the working folder and return it. Never overwrites.

    Raises:
        ClusterError: it exists, a shipped profile has that name, there is no Slurm, or it shows no partition to use.
    """
    path = FOLDER / f"{name}.yaml"
    if path.exists():
        raise ClusterError(
            f"{path} exists",
            where=str(path.absolute()),
            why="hpc doctor --init overwrites nothing",
            next=f"choose another name, or delete it first; hpc doctor --on {name} checks it",
        )
    hidden = next((p for s in load.shelves("profiles") if (p := s / path.name).is_file()), None)
    if hidden:
        raise ClusterError(
            f'there is a profile "{name}" already',
            where=str(hidden),
            why="profiles of the working folder are found first: the draft would take its place",
            next=f"choose another name: hpc doctor --init my_{name}",
        )
    text = profile(name, facts.read())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    find_profile(str(path))  # what we draft must load
    return path


def profile(name: str, known: Facts) -> str:
    """The text of a profile for a cluster, each value with its source as a comment.

    Raises:
        ClusterError: no partition is up and has nodes.
    """
    main = gpu_partition(known) or next(iter(sorted(_open(known), key=lambda p: not p.default)), None)
    if main is None:
        raise ClusterError(
            "Slurm shows no partition that you may use",
            where="sinfo",
            why="every partition is down, hidden or without nodes",
            next="ask the cluster's staff, or copy sbatch/profiles/slurm.yaml and edit it",
        )
    cpu = cpu_partition(known)
    cluster = known.config.get("ClusterName", name)
    lines: list[Line] = [
        ("about", f"{cluster}: drafted from Slurm {known.config.get('SLURM_VERSION', '')}; look it over", ""),
        ("kind", "slurm", ""),
        *_rights(known, main),
        ("partition", main.name, _why_main(main)),
        *([("cpu_partition", cpu.name, "sinfo: most nodes without GPUs")] if cpu and cpu != main else []),
        *_hardware(known, main),
        *_limits(known, main),
        *_folders(),
        *_debug(known, main),
        *_stages(main, cpu),
    ]
    rows = [_row(*line) for line in lines]
    return "\n".join([*rows, _more(), ""])


def _open(known: Facts) -> list[Partition]:
    """Partitions that are up and have nodes."""
    return [p for p in known.partitions.values() if p.up and any(n.count for n in p.nodes)]


def _steady(known: Facts, partition: Partition) -> bool:
    """Whether jobs keep their nodes there: a training that may be stopped at any time is for those who ask for it."""
    return not checks.preemptible(known, partition)


def gpu_partition(known: Facts) -> Partition | None:
    """Not a preemptible partition where there is another; of those the one with most GPUs, then with the longest limit.
    None on a cluster without GPUs."""
    found = [p for p in _open(known) if p.gpus()]
    return max(found, key=lambda p: (_steady(known, p), _total(p), p.max_hours or float("inf")), default=None)


def _total(partition: Partition) -> int:
    return sum(n.count * n.gpus_of("") for n in partition.nodes)


def cpu_partition(known: Facts) -> Partition | None:
    """Where jobs without GPUs go: not preemptible where possible, most nodes without GPUs, the longest limit."""
    found = [p for p in _open(known) if any(not n.gpus for n in p.nodes)]
    return max(
        found,
        key=lambda p: (_steady(known, p), sum(n.count for n in p.nodes if not n.gpus), p.max_hours or float("inf")),
        default=None,
    )


def debug_partition(known: Facts, main: Partition) -> Partition | None:
    """The shortest partition that has the main one's kind of node; None when no other is shorter."""
    kind = _kind(main)[0]
    short = [p for p in _open(known) if p != main and p.max_hours and p.max_hours < (main.max_hours or float("inf"))]
    fitting = [p for p in short if not main.gpus() or p.gpus(kind)]
    return min(fitting, key=lambda p: p.max_hours or 0, default=None)


def _kind(partition: Partition) -> tuple[str, int, Nodes]:
    """(GPU type or empty, GPUs of a node, such nodes) of the commonest kind of node."""
    group = max(partition.nodes, key=lambda n: n.count * max(1, n.gpus_of("")))
    kind = max(group.gpus, key=lambda t: group.gpus[t], default="")
    return ("" if kind == "gpu" else kind), group.gpus_of(""), group


def _why_main(main: Partition) -> str:
    if not main.gpus():
        return f"sinfo: no partition has GPUs; this is the {'default' if main.default else 'first that is up'}"
    return f"sinfo: most GPUs ({_total(main)}), PreemptMode {main.preempt or 'not said'}"


def _rights(known: Facts, main: Partition) -> list[Line]:
    accounts = sorted({a["Account"] for a in known.accounts if a.get("Account")})
    usable = [a for a in accounts if main.allows("Accounts", a)]
    if not usable:
        return []
    others = f"; others: {', '.join(a for a in usable[1:])}" if len(usable) > 1 else ""
    lines: list[Line] = [("account", usable[0], f"sacctmgr show assoc{others}")]
    return lines


def _hardware(known: Facts, main: Partition) -> list[Line]:
    kind, count, group = _kind(main)
    memory = int(group.memory_mb * SHARE / 1024)
    tres = "tres" in known.config.get("SelectType", "tres")
    lines: list[Line] = []
    if kind:
        lines.append(("gpu", kind, "sinfo %G"))
    lines.append(("gpus_per_node", count, "sinfo %G"))
    if count:
        flag = "gpus-per-node" if tres else "gres"
        lines.append(("gpu_flag", flag, f"SelectType {known.config.get('SelectType', '')}"))
        card = next((c for t, c in CARDS.items() if kind.startswith(t) or t in kind.split("_")), None)
        if card:
            lines.append(("gpu_memory_gib", card[0], "data sheet of the type; correct it for larger variants"))
            lines += [("gpu_tflops", card[1], "data sheet: dense bf16 peak")] if card[1] else []
        lines.append(("cpus_per_gpu", max(1, group.cpus // count), f"sinfo %c: {group.cpus} CPUs / {count} GPUs"))
    lines.append(("node_memory_gib", round(group.memory_mb / 1024), "sinfo %m"))
    lines.append(("memory_gib", memory, f"{SHARE:.0%} of a node: what a training job asks for"))
    return lines


def _limits(known: Facts, main: Partition) -> list[Line]:
    longest = main.max_hours
    lines: list[Line] = []
    if longest is None:
        lines.append(("hours", 24, "the partition has no limit; jobs requeue themselves at this one"))
    else:
        lines.append(("hours", round(min(longest, 24), 2), "a day, or the partition's limit; jobs requeue themselves"))
        lines.append(("max_hours", round(longest, 2), f"scontrol show partition {main.name}: MaxTime"))
    if size := known.number("MaxArraySize"):
        lines.append(("max_array_size", size, "scontrol show config: MaxArraySize"))
    if (most := checks.submit_limit(known)) is not None:
        lines.append(("max_submit", most, "sacctmgr: the least of MaxSubmit and GrpSubmit"))
    return lines


def _folders() -> list[Line]:
    for name in ("SCRATCH", "PSCRATCH", "WORK"):
        if os.environ.get(name):
            return [
                ("roots", [f"${name}/hpc"], f"{name} is set here; purged? then use a folder that stays"),
                ("cache", f"${name}/hpc-cache", "models and compiled kernels, off home"),
            ]
    return []


def _debug(known: Facts, main: Partition) -> list[Line]:
    found = debug_partition(known, main)
    if found is None:
        return []
    hours = round(min(found.max_hours or 1, 1), 2)
    value = {"partition": found.name, "hours": hours, "max_hours": round(found.max_hours or 1, 2)}
    return [("debug", value, "scontrol show partition: the shortest MaxTime with such nodes")]


def _stages(main: Partition, cpu: Partition | None) -> list[Line]:
    """Smaller requests for the stages that need less than a whole node."""
    _, count, group = _kind(main)
    node = group.memory_mb / 1024 * SHARE
    small = cpu or main
    least = min((n.memory_mb for n in small.nodes if not n.gpus or small == main), default=group.memory_mb) / 1024
    limit = small.max_hours
    hours = {} if small == main or limit is None else {"hours": round(min(limit, 24), 2), "max_hours": round(limit, 2)}
    shape = {"memory_gib": int(min(32, least * SHARE)), "cpus_per_rank": min(8, *(n.cpus for n in small.nodes))}
    value: dict[str, object] = {
        "data": {**shape, **hours},
        "grade": {**shape, **hours},
        "mend": {"memory_gib": 4, "cpus_per_rank": 1, **hours},
    }
    if count > 1:
        value["generate"] = {"memory_gib": int(node / count)}
    return [("stages", value, "")]


def _row(key: str, value: object, why: str) -> str:
    """`key: value  # why`, a mapping of mappings one line each."""
    comment = f"  # {why}" if why else ""
    if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
        return "\n".join([f"{key}:{comment}", *(f"  {k}: {_flow(v)}" for k, v in value.items())])
    return f"{key}: {_flow(value)}{comment}"


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _more() -> str:
    return "\n".join(
        [
            "# what Slurm does not tell:",
            "# setup: [module load cuda]        # `set -e` is in force: a line that fails ends the job",
            "# python: /path/to/env/bin/python  # default: the one that submits",
            "# network: true                    # when compute nodes reach the hub",
            "# usd_per_gpu_hour: 2.5            # or su_per_gpu_hour",
            "# hpc/cluster/profile.py explains every key; `hpc doctor --on NAME` checks them",
        ]
    )
