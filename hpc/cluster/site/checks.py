"""What a profile asks for, held against what the cluster says: the Slurm half of `hpc doctor`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from hpc.cluster.profile import PLACES, Profile
from hpc.cluster.site import facts
from hpc.cluster.site.facts import Facts, Partition, Row
from hpc.errors import ClusterError, nearest

GPU_KINDS = ("train", "generate")
SKEW_S = 5.0
"""Clocks further apart make times of logs and ledgers hard to follow; nothing relies on them."""
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")


def slurm(profile: Profile) -> Iterator[Row]:
    """Rows about Slurm itself and about the profile's settings. One row when Slurm does not answer."""
    missing = [c for c in CLIENTS if not shutil.which(c)]
    if missing:
        yield Row(
            "slurm clients",
            "fail",
            f"not in PATH: {', '.join(missing)}",
            "run hpc on a login node (module load slurm?)",
        )
        return
    try:
        known = facts.read()
    except ClusterError as error:
        yield Row("slurm controller", "fail", f"{error.what}: {error.why}", error.next)
        return
    yield from cluster(known, profile)
    for name, kinds in partitions(profile).items():
        yield from partition(known, profile, name, kinds)
    yield from rights(known, profile)


def partitions(profile: Profile) -> dict[str | None, list[str]]:
    """The partitions that a profile uses (None: the default one), each with the kinds of job that go there."""
    used: dict[str | None, list[str]] = {}
    for kind in PLACES:
        used.setdefault(profile.place(kind).partition, []).append(kind)
    if profile.debug.partition:
        used.setdefault(profile.debug.partition, []).append("debug")
    return used


def cluster(known: Facts, profile: Profile) -> Iterator[Row]:
    """Rows about the configuration of the whole cluster."""
    config = known.config
    version = config.get("SLURM_VERSION", "unknown")
    yield Row("slurm", "ok", f"{config.get('ClusterName', '')} {version}, the controller answers".strip())
    yield _accounting(known)
    yield _clock(known)
    yield _preemption(known, profile)
    yield _part_limits(known)
    yield _requeue(known)
    yield _kill_wait(known)
    yield _array(known, profile)
    yield _gpu_flag(known, profile)
    if (jobs := known.number("MaxJobCount")) is not None:
        yield Row("job count", "ok" if jobs >= 1000 else "warn", f"MaxJobCount {jobs}: jobs of all users together")


def _accounting(known: Facts) -> Row:
    if not known.accounting:
        return Row("accounting", "ok", "sacct answers: ended jobs stay known")
    age = known.config.get("MinJobAge", "")
    found = f"{' '.join(known.accounting.split())[:120]}; ended jobs stay in squeue for MinJobAge {age}"
    return Row("accounting", "warn", found, "look at `hpc status` within that time; results do not depend on it")


def _clock(known: Facts) -> Row:
    if known.skew_s is None:
        return Row("clock of the controller", "ok", "not told (sdiag is not for users here)")
    text = f"{known.skew_s:+.0f} s against this host" if known.skew_s else "within a second of this host"
    if abs(known.skew_s) <= SKEW_S:
        return Row("clock of the controller", "ok", text)
    return Row("clock of the controller", "warn", text, "tell the staff; times in status and logs differ by that much")


def sends_user_signal(known: Facts) -> bool:
    """Whether a preempted job gets its own --signal: SlurmctldParameters in 22.05, PreemptParameters since."""
    words = f"{known.config.get('PreemptParameters', '')},{known.config.get('SlurmctldParameters', '')}".split(",")
    return "send_user_signal" in words or "preempt_send_user_signal" in words


def _preemption(known: Facts, profile: Profile) -> Row:
    name = "signal at preemption"
    used = [p for n in partitions(profile) if (p := known.partition(n)) and preemptible(known, p)]
    signal = "the job's own signal (USR2)" if sends_user_signal(known) else "SIGTERM"
    if not used:
        return Row(name, "ok", f"{signal}; no partition of this profile is preemptible")
    modes = ", ".join(f"{p.name} {p.preempt or known.config.get('PreemptMode', '')} with {p.grace_s} s" for p in used)
    found = f"{signal}, then SIGKILL after GraceTime: {modes}"
    short = [p for p in used if p.grace_s < profile.signal_lead_s]
    if not short:
        return Row(name, "ok", f"{found}; jobs save on either signal")
    return Row(
        name,
        "warn",
        found,
        f"less than signal_lead_s ({profile.signal_lead_s} s): a preemption may cost up to one checkpoint interval; "
        "set train.save_every_steps to what you can lose",
    )


def preemptible(known: Facts, partition: Partition) -> bool:
    """Whether jobs of a partition may lose their nodes to others."""
    if known.config.get("PreemptType", "") in ("", "preempt/none"):
        return False
    return partition.preempt not in ("OFF", "")


def _part_limits(known: Facts) -> Row:
    value = known.config.get("EnforcePartLimits", "")
    if value in ("ALL", "ANY", "YES"):
        return Row("limits at submit", "ok", f"EnforcePartLimits {value}: impossible jobs are refused")
    return Row(
        "limits at submit",
        "warn",
        f"EnforcePartLimits {value or 'unknown'}: a job above a partition's limits waits for ever",
        "keep hours and the recipes' resources within the limits that the rows of each partition show",
    )


def _requeue(known: Facts) -> Row:
    if known.config.get("JobRequeue") == "1":
        return Row("requeue", "ok", "JobRequeue 1")
    return Row("requeue", "ok", f"JobRequeue {known.config.get('JobRequeue', 'unknown')}; hpc asks for it by --requeue")


def _kill_wait(known: Facts) -> Row:
    seconds = known.number("KillWait")
    if seconds is None or seconds >= 10:
        return Row("kill wait", "ok", f"KillWait {seconds} s between SIGTERM and SIGKILL")
    return Row(
        "kill wait",
        "warn",
        f"KillWait {seconds} s between SIGTERM and SIGKILL",
        "a checkpoint cannot be written in that time: keep signal_lead_s above the time of one",
    )


def _array(known: Facts, profile: Profile) -> Row:
    limit = known.number("MaxArraySize")
    if limit is None:
        return Row("array size", "warn", "MaxArraySize is not told", "ask the staff, set max_array_size")
    found = f"MaxArraySize {limit}, profile {profile.max_array_size}"
    if profile.max_array_size > limit:
        return Row("array size", "fail", found, f"set max_array_size: {limit} in the profile")
    hint = f"max_array_size: {limit} would need fewer sbatch calls" if profile.max_array_size < limit else ""
    return Row("array size", "ok", found, hint)


def _gpu_flag(known: Facts, profile: Profile) -> Row:
    kind = known.config.get("SelectType", "")
    if "tres" in kind or profile.gpu_flag == "gres" or not profile.node_gpus:
        return Row("gpu option", "ok", f"--{profile.gpu_flag} with {kind}")
    return Row("gpu option", "fail", f"--gpus-per-node needs select/cons_tres, here is {kind}", "set gpu_flag: gres")


def partition(known: Facts, profile: Profile, name: str | None, kinds: list[str]) -> Iterator[Row]:
    """Rows about one partition that the profile uses for `kinds` of job."""
    title = f"partition {name or '(default)'}"
    found = known.partition(name)
    if found is None:
        why = nearest(name, known.partitions) if name else "the cluster has no default partition"
        yield Row(title, "fail", f"not there: {why}", "set partition in the profile; `sinfo -s` lists them")
        return
    title = f"partition {found.name}"
    num = sum(n.count for n in found.nodes)
    usable = sum(n.count for n in found.nodes if n.usable)
    text = f"for {', '.join(kinds)}: {usable} of {num} nodes usable, longest {_limit(found.max_hours)}"
    if not found.up or not usable:
        state = found.settings.get("State", "")
        yield Row(title, "fail", f"{text}, state {state}", "choose another one, or wait: `sinfo -R` says why")
    else:
        yield Row(title, "ok", text)
    yield from _times(profile, found, kinds)
    yield from _gpus(profile, found, kinds)
    yield from _memory(profile, found, kinds)


def _limit(limit: float | None) -> str:
    return "without limit" if limit is None else f"{limit:g} h"


def _times(profile: Profile, found: Partition, kinds: list[str]) -> Iterator[Row]:
    """Hours of the profile against the partition's limit."""
    limit = found.max_hours
    for kind in kinds:
        place = profile.debug if kind == "debug" else profile.place(kind)
        for key in ("hours", "max_hours"):
            asked = getattr(place, key)
            if limit is not None and asked is not None and asked > limit + 1e-6:
                yield Row(
                    f"time limit of {kind}",
                    "fail",
                    f"{key} {asked:g} is above the {limit:g} h of {found.name}",
                    f"set {key}: {limit:g} for {kind}, or another partition",
                )


def _gpus(profile: Profile, found: Partition, kinds: list[str]) -> Iterator[Row]:
    """Type and number of GPUs against the partition's nodes."""
    if not profile.node_gpus or not set(kinds) & set(GPU_KINDS):
        return
    title, types = f"gpus of {found.name}", sorted({t for n in found.nodes for t in n.gpus})
    here = found.gpus(profile.gpu)
    shown = ", ".join(f"{t} x {found.gpus(t)}" for t in types) or "no GPUs"
    if not here:
        hint = "set partition to one with GPUs" if not types else f"set gpu: {types[0]}"
        yield Row(
            title, "fail", f"{shown}; the profile asks for {profile.gpu or 'any type'}", f"{hint} (`sinfo -o '%P %G'`)"
        )
    elif profile.node_gpus > here:
        found_text = f"{shown}; the profile says {profile.node_gpus} on a node"
        yield Row(title, "fail", found_text, f"set gpus_per_node: {here}")
    elif profile.node_gpus < here:
        yield Row(title, "warn", f"{shown}; the profile uses {profile.node_gpus}", f"gpus_per_node: {here} uses all")
    else:
        yield Row(title, "ok", f"{shown} on a node")


def _memory(profile: Profile, found: Partition, kinds: list[str]) -> Iterator[Row]:
    """Memory of the jobs against the largest node of the partition."""
    largest_gib = max((n.memory_mb for n in found.nodes), default=0) / 1024
    for kind in (k for k in kinds if k != "debug"):
        asked = profile.place(kind).memory_gib or 0
        if largest_gib and asked > largest_gib:
            yield Row(
                f"memory of {kind}",
                "fail",
                f"memory_gib {asked:g} is above the {largest_gib:.0f} GiB of a node of {found.name}",
                f"set memory_gib below {largest_gib:.0f} for {kind}",
            )


def rights(known: Facts, profile: Profile) -> Iterator[Row]:
    """Rows about accounts, QOS and how much may be submitted."""
    yield _account(known, profile)
    yield from _qos(known, profile)
    yield _submit_limit(known, profile)
    for name, kinds in partitions(profile).items():
        found = known.partition(name)
        place = profile.place(kinds[0]) if kinds[0] in PLACES else profile.debug
        for what, value in (("Accounts", place.account), ("Qos", place.qos)):
            if found and value and not found.allows(what, value):
                allowed = found.settings.get(f"Allow{what}", "")
                yield Row(
                    f"rights in {found.name}",
                    "fail",
                    f"{value} is not among its Allow{what} ({allowed})",
                    f"set another {'account' if what == 'Accounts' else 'qos'} for {', '.join(kinds)}",
                )


def _account(known: Facts, profile: Profile) -> Row:
    mine = sorted({a["Account"] for a in known.accounts if a.get("Account")})
    asked = {a for k in PLACES if (a := profile.place(k).account)}
    if not mine:
        return Row("account", "ok", f"{', '.join(sorted(asked)) or 'the default one'}; sacctmgr tells nothing here")
    if wrong := sorted(asked - set(mine)):
        return Row(
            "account", "fail", f"{', '.join(wrong)} is not yours; yours: {', '.join(mine)}", f"set account: {mine[0]}"
        )
    if not asked and len(mine) > 1:
        return Row("account", "warn", f"none is set; yours: {', '.join(mine)}", "set account to the one that shall pay")
    return Row("account", "ok", ", ".join(sorted(asked)) or mine[0])


def _qos(known: Facts, profile: Profile) -> Iterator[Row]:
    mine = {q for a in known.accounts for q in a.get("QOS", "").split(",") if q}
    asked = {q for k in PLACES if (q := profile.place(k).qos)} | ({profile.debug.qos} if profile.debug.qos else set())
    for name in sorted(asked):
        if mine and name not in mine:
            yield Row(
                "qos", "fail", f"{name} is not yours; yours: {', '.join(sorted(mine))}", "set qos to one of yours"
            )
        elif limit := facts.hours(known.qos.get(name, {}).get("MaxWall", "") or "-"):
            yield Row("qos", "ok", f"{name}: at most {limit:g} h")
        else:
            yield Row("qos", "ok", name)


def submit_limit(known: Facts, account: str | None = None, qos: str | None = None) -> int | None:
    """The least limit on jobs in the queue that sacctmgr tells for this account and QOS; None: it tells none."""
    rows = [a for a in known.accounts if account in (None, a.get("Account"))]
    names = {qos} if qos else {a.get("DefaultQOS", "") for a in rows}
    numbers = [r.get(k, "") for r in rows for k in ("MaxSubmit", "GrpSubmit")]
    numbers += [known.qos.get(n, {}).get(k, "") for n in names if n for k in ("MaxSubmitPU", "GrpSubmit")]
    return min((int(n) for n in numbers if n.isdigit()), default=None)


def _submit_limit(known: Facts, profile: Profile) -> Row:
    limits = [
        n for k in PLACES if (n := submit_limit(known, profile.place(k).account, profile.place(k).qos)) is not None
    ]
    if not limits:
        shown = f"; the profile keeps to {profile.max_submit}" if profile.max_submit else ""
        return Row("jobs in the queue", "ok", f"no limit is told{shown}")
    limit = min(limits)
    found = f"at most {limit} jobs of yours in the queue, profile {profile.max_submit or 'without limit'}"
    if profile.max_submit is None or profile.max_submit > limit:
        return Row("jobs in the queue", "fail", found, f"set max_submit: {limit}")
    return Row("jobs in the queue", "ok", found)
