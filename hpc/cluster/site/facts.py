"""What a cluster says about itself, read once: sinfo, scontrol, sacctmgr, sdiag. For `hpc doctor` and `--init`."""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from hpc.cluster import queue
from hpc.errors import ClusterError

SINFO = "%P|%a|%l|%D|%c|%m|%G|%T"
SINFO_S = 15.0
"""A login node's patience with one Slurm command."""
STATES = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Row:
    """One line of the doctor: what was looked at, how it stands, what was found, and what to do about it."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    next: str = ""
    where: str = ""


@dataclass(frozen=True)
class Nodes:
    """Nodes of one partition that are alike. Memory in MB, as Slurm counts it."""

    partition: str
    count: int
    cpus: int
    memory_mb: int
    gpus: dict[str, int]
    usable: bool

    def gpus_of(self, kind: str) -> int:
        """GPUs of one node: of the type `kind`, or of the commonest type when it is empty."""
        return self.gpus.get(kind.lower(), 0) if kind else max(self.gpus.values(), default=0)


@dataclass(frozen=True)
class Partition:
    """A partition: its settings as scontrol writes them, and its nodes."""

    name: str
    settings: dict[str, str]
    nodes: tuple[Nodes, ...] = ()

    @property
    def default(self) -> bool:
        """True for the partition of jobs that name none."""
        return self.settings.get("Default") == "YES"

    @property
    def up(self) -> bool:
        """True when jobs may start in it."""
        return self.settings.get("State", "UP") == "UP"

    @property
    def max_hours(self) -> float | None:
        """Its longest time limit; None is no limit."""
        return hours(self.settings.get("MaxTime", ""))

    @property
    def preempt(self) -> str:
        """How its jobs are preempted: OFF, REQUEUE, CANCEL ...; empty is not said."""
        return self.settings.get("PreemptMode", "")

    @property
    def grace_s(self) -> int:
        """Seconds between the warning of a preemption and the end."""
        return int(self.settings.get("GraceTime", "0") or 0)

    def gpus(self, kind: str = "") -> int:
        """GPUs of its largest node."""
        return max((n.gpus_of(kind) for n in self.nodes), default=0)

    def allows(self, what: str, name: str) -> bool:
        """Whether an account (what = "Accounts") or qos (what = "Qos") may use it."""
        allowed = self.settings.get(f"Allow{what}", "ALL")
        denied = self.settings.get(f"Deny{what}", "")
        return (allowed == "ALL" or name in allowed.split(",")) and name not in denied.split(",")


@dataclass(frozen=True)
class Facts:
    """A cluster as it describes itself. What it does not tell is empty."""

    config: dict[str, str]
    partitions: dict[str, Partition]
    accounts: list[dict[str, str]] = field(default_factory=list)
    qos: dict[str, dict[str, str]] = field(default_factory=dict)
    accounting: str = ""
    skew_s: float | None = None

    @property
    def version(self) -> tuple[int, ...]:
        """Slurm's version: (22, 5, 8)."""
        return tuple(int(n) for n in re.findall(r"\d+", self.config.get("SLURM_VERSION", "")))

    def partition(self, name: str | None) -> Partition | None:
        """The partition called so; None asks for the default one."""
        if name is None:
            return next((p for p in self.partitions.values() if p.default), None)
        return self.partitions.get(name)

    def number(self, name: str) -> int | None:
        """A number of the configuration: KillWait "30 sec" -> 30."""
        found = re.match(r"\d+", self.config.get(name, ""))
        return int(found.group()) if found else None


def read() -> Facts:
    """Ask Slurm. Four to six commands, each with a time-out.

    Raises:
        ClusterError: no Slurm here, or the controller does not answer.
    """
    config = parse_config(queue.run(["scontrol", "show", "config"], timeout_s=SINFO_S))
    shown = queue.run(["scontrol", "show", "partition", "-o"], timeout_s=SINFO_S)
    nodes = parse_nodes(queue.run(["sinfo", "-h", "-e", "-o", SINFO], timeout_s=SINFO_S))
    accounts, qos = _limits()
    return Facts(config, parse_partitions(shown, nodes), accounts, qos, _accounting(), _skew_s())


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config` -> {name: value}; (null) is empty."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {k.strip(): "" if v.strip() == "(null)" else v.strip() for k, v in pairs}


def parse_partitions(text: str, nodes: Iterable[Nodes]) -> dict[str, Partition]:
    """`scontrol show partition -o` -> partitions with their nodes."""
    found = {}
    kept = list(nodes)
    for line in text.splitlines():
        settings = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if name := settings.get("PartitionName"):
            found[name] = Partition(name, settings, tuple(n for n in kept if n.partition == name))
    return found


def parse_nodes(text: str) -> list[Nodes]:
    """Lines of SINFO fields -> groups of nodes."""
    found = []
    for line in text.splitlines():
        name, _, _, count, cpus, memory, gres, state = (*line.split("|"), *[""] * 8)[:8]
        if count.isdigit():
            usable = not re.match(r"down|drain|fail|unk|maint|inval", state)
            numbers = [int(re.sub(r"\D", "", n) or 0) for n in (cpus, memory)]
            found.append(Nodes(name.rstrip("*"), int(count), numbers[0], numbers[1], parse_gres(gres), usable))
    return found


def parse_gres(text: str) -> dict[str, int]:
    """gpu:h100:8(S:0-1),nvme:1 -> {"h100": 8}; untyped GPUs are called "gpu"."""
    found: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        words = part.strip().split(":")
        if words[0] == "gpu" and words[-1].isdigit():
            kind = words[1].lower() if len(words) > 2 else "gpu"
            found[kind] = found.get(kind, 0) + int(words[-1])
    return found


def hours(text: str) -> float | None:
    """Slurm's time limit in hours: 2-00:00:00 -> 48.0, 90 (minutes) -> 1.5; UNLIMITED -> None."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, first, second, third = (int(g) if g else 0 for g in match.groups())
    if match.group(1):  # days-hours[:minutes[:seconds]]
        return days * 24 + first + second / 60 + third / 3600
    if match.group(4):
        return first + second / 60 + third / 3600
    return first / 60 + second / 3600


def parse_table(text: str, names: list[str]) -> list[dict[str, str]]:
    """Lines of `sacctmgr -n -P` -> one dictionary for each."""
    rows = (line.split("|") for line in text.splitlines() if "|" in line)
    return [dict(zip(names, row, strict=False)) for row in rows]


def _limits() -> tuple[list[dict[str, str]], dict[str, dict[str, str]]]:
    """The user's associations and all QOS; empty where sacctmgr does not tell."""
    of_user = ["Account", "Partition", "QOS", "DefaultQOS", "MaxSubmit", "MaxJobs", "GrpSubmit"]
    of_qos = ["Name", "MaxSubmitPU", "GrpSubmit", "MaxWall", "MaxJobsPU", "MaxTRESPU"]
    base = ["sacctmgr", "-n", "-P", "show"]
    try:
        found = queue.run(
            [*base, "assoc", f"user={getpass.getuser()}", f"format={','.join(of_user)}"], timeout_s=SINFO_S
        )
        qos = queue.run([*base, "qos", f"format={','.join(of_qos)}"], timeout_s=SINFO_S)
    except ClusterError:
        return [], {}
    return parse_table(found, of_user), {r["Name"]: r for r in parse_table(qos, of_qos)}


def _accounting() -> str:
    """Empty when sacct works; else its own words."""
    try:
        queue.run(["sacct", "-n", "-X", "-P", "--format", "JobID"], timeout_s=SINFO_S)
    except ClusterError as error:
        return error.why
    return ""


def _skew_s() -> float | None:
    """Seconds that the controller's clock is ahead of ours (its resolution is one second); None if it does not tell."""
    before = time.time()
    try:
        text = queue.run(["sdiag"], timeout_s=SINFO_S)
    except ClusterError:  # some sites keep it for operators
        return None
    match = re.search(r"output at .*\((\d+)\)", text)
    if match is None:
        return None
    there = int(match.group(1))
    return 0.0 if before - 1 <= there <= time.time() else there - before
