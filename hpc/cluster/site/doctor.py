"""Is this cluster, and this profile, fit to run on? One row for each thing looked at, with what to do about it.

hpc doctor --on PROFILE            from the login node, without a job
hpc doctor --on PROFILE --job      and a one-minute job on the nodes
"""

from __future__ import annotations

import dataclasses
import secrets
import shlex
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster import queue, script
from hpc.cluster.profile import SHARED, Profile
from hpc.cluster.site import checks, facts, here
from hpc.cluster.site.facts import Row
from hpc.errors import ClusterError

JOB_HOURS = 0.1
QUEUE_S = 600.0
"""How long the doctor waits for its job before it gives up (the job is cancelled)."""
POLL_S = 1.0
STAY = "trap - EXIT"
"""A test tells what is wrong with its node; it does not try another one, as jobs do when not even their setup works."""
MARKS = {"ok": "green", "warn": "yellow", "fail": "red"}


def diagnose(profile: Profile) -> list[Row]:
    """Everything that the login node can tell; about a second and a half, and no job."""
    rows = list(here.local(profile))
    return [*checks.slurm(profile), *rows] if profile.kind == "slurm" else rows


def trial(profile: Profile) -> Profile:
    """The profile of short tests: the settings of training, with those of `debug` over them."""
    place = profile.place("train")
    debug = profile.debug
    chosen = {n: getattr(place if getattr(debug, n) is None else debug, n) for n in SHARED}
    return dataclasses.replace(
        profile,
        **chosen,
        stages={},
        python=debug.python or place.python or "",
        setup=[*place.setup, *debug.setup],
        sbatch={**place.sbatch, **debug.sbatch},
    )


def job(profile: Profile, *, wait_s: float = QUEUE_S) -> list[Row]:
    """Submit the probe, wait for it and return its rows, equal ones of several nodes merged.

    Raises:
        ClusterError: a local profile, sbatch refused, or the job did not end within `wait_s`.
    """
    if profile.kind != "slurm":
        raise ClusterError(
            "--job needs a Slurm cluster",
            where=f"profile {profile.name}",
            why="kind: local",
            next=f"hpc doctor --on {profile.name} looks at this machine; give a profile of the cluster with --on",
        )
    try:
        folder = fresh(profile)
    except OSError as error:
        return [unwritable("job", error)]
    test = trial(profile)
    gpus, nodes = _shape(test)
    resources = test.resources("train", {"gpus": gpus * nodes, "nodes": nodes, "ranks": nodes, "hours": JOB_HOURS})
    resources["memory_gib"] = min(resources["memory_gib"], 8)
    arguments = [str(folder), "--gpus", str(gpus), *(["--network"] if test.network else [])]
    return run(test, resources, "site.probe", arguments, folder, wait_s)


def fresh(profile: Profile, prefix: str = "") -> Path:
    """A new folder for the files of one test, ROOT/doctor/[PREFIX-]TIME-RANDOM.

    Raises:
        OSError: the root may not be written to; `unwritable` says it.
    """
    name = f"{prefix}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    folder = profile.root / "doctor" / name
    folder.mkdir(parents=True)
    return folder


def unwritable(name: str, error: OSError) -> Row:
    """The row of a test that has no place for its files."""
    found = f"nothing was started: {error.filename} cannot be made ({error.strerror})"
    return Row(name, "fail", found, "set HPC_ROOT, or roots in the profile, to a folder that you can write to")


def run(
    profile: Profile, resources: dict[str, Any], module: str, arguments: list[str], folder: Path, wait_s: float
) -> list[Row]:
    """Submit `python -m hpc.cluster.MODULE`, a process on each node, wait for FOLDER/RANK.json and return the rows.

    Raises:
        ClusterError: sbatch refused, or the job did not end within `wait_s`.
    """
    job_id, nodes = send(profile, resources, module, arguments, folder), resources["nodes"]
    ended = False
    try:
        _follow(folder, job_id, nodes, wait_s)
        ended = True
    finally:
        if not ended:  # also when the user has had enough
            queue.cancel([job_id])
    return [_ran(folder, nodes, job_id), *merged(folder, nodes)]


def _shape(profile: Profile) -> tuple[int, int]:
    """(GPUs on a node, nodes): one GPU on each of two nodes, where the profile has them; that starts soonest."""
    if not profile.node_gpus:
        return 0, 1
    known = facts.read().partition(profile.partition)
    count = sum(n.count for n in known.nodes if n.usable and n.gpus_of(profile.gpu)) if known else 0
    most = known.settings.get("MaxNodes", "") if known else ""
    limit = int(most) if most.isdigit() else count
    return 1, 2 if min(count, limit) > 1 else 1


def send(profile: Profile, resources: dict[str, Any], module: str, arguments: list[str], folder: Path) -> str:
    """Submit `python -m hpc.cluster.MODULE ARGUMENTS`, a process on each node, as a train job. Returns the job id.

    Raises:
        ClusterError: sbatch refused (with its text).
    """
    from hpc.cluster import door, snapshot  # submitit: 0.1 s, only where something is submitted

    profile = dataclasses.replace(profile, setup=[STAY, *profile.setup])
    place = profile.place("train")
    chosen = script.parameters(
        "train",
        resources,
        profile,
        job_name=f"hpc-{module}.{folder.name}",
        logs=folder,
        code=snapshot.take(profile.root),
    )
    srun = shlex.join([*script.SRUN, "--output", f"{folder}/%t.out"])
    inside = [script.contained(place.container, profile)] if place.container else []
    line = " ".join([srun, *inside, script.line(place.python or "python", module, *arguments)])
    return door.send(chosen, folder, line, 60)


def _follow(folder: Path, job_id: str, nodes: int, wait_s: float) -> None:
    """Wait until every node has written its rows, answering the first node's hello meanwhile."""
    end, word = time.monotonic() + wait_s, ""
    asked = 0.0
    while not all((folder / f"{rank}.json").exists() for rank in range(nodes)):
        present = {p.name for p in folder.iterdir()}
        if "hello.json" in present and "echo.json" not in present:
            files.write_json(folder / "echo.json", {"at": time.time()})
        if time.monotonic() - asked > 5 * POLL_S:
            asked, word = time.monotonic(), _state(job_id)
            if word in queue.OVER or not word:
                time.sleep(2 * POLL_S)  # its last file may be on the way
                return
        if time.monotonic() > end:
            raise ClusterError(
                f"the job {job_id} is {word or 'unknown'} after {wait_s:.0f} s",
                where=str(folder),
                why="the queue is long, or the job cannot start",
                next="try again later, or set debug.partition in the profile to a partition for short tests",
            )
        time.sleep(POLL_S / 10)


def _state(job_id: str) -> str:
    """Slurm's word for the job; empty once it has left the queue."""
    try:
        return queue.run(["squeue", "--me", "-h", "-t", "all", "-j", job_id, "-o", "%T"]).strip()
    except ClusterError as error:
        if "Invalid job id" in error.why:
            return ""
        raise


def _ran(folder: Path, nodes: int, job_id: str) -> Row:
    """Whether every node reported, else the job's last words."""
    there = [rank for rank in range(nodes) if (folder / f"{rank}.json").exists()]
    if len(there) == nodes:
        return Row("job", "ok", f"job {job_id} ran on {nodes} node(s); {folder}")
    logs = sorted(folder.glob("*.out"))
    lines = [line for p in logs for line in p.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "no log"
    return Row("job", "fail", f"{len(there)} of {nodes} nodes reported; {last[:300]}", f"read {folder}/*.out")


def merged(folder: Path, nodes: int) -> list[Row]:
    """The rows of all nodes; a row that several nodes agree on is shown once, with their names."""
    documents = [files.read_json(p) for rank in range(nodes) if (p := folder / f"{rank}.json").exists()]
    said: dict[Row, list[str]] = {}
    for document in documents:
        for row in document["rows"]:
            said.setdefault(Row(**row), []).append(document["host"])
    order = {name: number for number, name in enumerate(dict.fromkeys(r.name for r in said))}
    rows = [dataclasses.replace(row, where=", ".join(hosts)) for row, hosts in said.items()]
    return sorted(rows, key=lambda r: order[r.name])


def show(rows: list[Row], console: Any) -> None:
    """Print the table: what needs care last, where the eye rests."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "check", "found", "what to do")
    for row in sorted(rows, key=lambda r: facts.STATES.index(r.state)):
        name = f"{row.name} ({row.where})" if row.where else row.name
        table.add_row(f"[{MARKS[row.state]}]{row.state}[/]", escape(name), escape(row.found), escape(row.next))
    console.print(table)
    console.print(summary(rows), highlight=False)


def summary(rows: list[Row]) -> str:
    """One line: how many rows of each state, and the next command."""
    counts: Counter[str] = Counter(r.state for r in rows)
    text = ", ".join(f"{counts[s]} {s}" for s in facts.STATES)
    return f"doctor: {text}" + ("; mend what failed before you submit" if counts["fail"] else "")


def failed(rows: list[Row]) -> bool:
    """True if something would keep jobs from running."""
    return any(r.state == "fail" for r in rows)
