"""Gathers what is known of one start of a job: the tails of its logs, its failure rows, Slurm's words for its steps.

Reads ROOT/logs/SUBMISSION/PIECE, ROOT/jobs/SUBMISSION and ROOT/work; what is not there is left out, never an error. The
rescue of a job, the mender and `hpc why X` hand the result to hpc.cluster.failures.causes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hpc import artifact
from hpc.cluster import queue
from hpc.cluster.failures.causes import Evidence, Log
from hpc.cluster.shift import document
from hpc.errors import ClusterError

TAIL_BYTES = 256 * 1024
"""Of each log: a program's end, with the tracebacks of several ranks."""
MOST_LOGS = 64
"""Logs of one start that are read; of more ranks those whose logs are longest, and rank 0's."""
RANK = re.compile(r"(\d+)-(.+)\.(\d+)\.(\d+)-(\d+)\.out")
BATCH = re.compile(r"(\d+)-(.+)\.batch\.out")
HEAD = re.compile(r"======== job \S+ restart \d+ on (\S+), ")
BEGINS = re.compile(r"======== job \S+ restart (\d+) on ")
FAILED = re.compile(r"hpc: start (\S+) failed with code")


def of_start(
    root: Path,
    submission: str,
    piece: str,
    index: int | str,
    start: str = "",
    *,
    code: int | None = None,
    slurm: str = "",
    steps: Sequence[str] = (),
) -> Evidence:
    """What is known of one start of an element.

    Args:
        start: JOB.RESTART.TRY; empty is the newest start that has left logs or a state file.
        code: exit code of srun, where the caller has seen it.
        slurm: Slurm's word for the job, verbatim; what the caller knows of it.
        steps: states of its steps (see `steps`).
    """
    folder = root / "logs" / submission / piece
    names = _names(folder)
    states = _states(root / "jobs" / submission, f"{piece}.{index}.")
    start = start or _newest(names, states, str(index))
    rows = _failures(root, submission, piece, int(index), start, states.get(start, {}))
    paths = _rank_logs(folder, names, str(index), start)
    logs = [log for path in paths if (log := tail(path)) is not None]
    if batch := _batch(folder, names, str(index), start):
        logs.append(batch)
    found = [
        *_only_host(root / "jobs" / submission / f"{piece}.json", states.get(start, {})),
        *(r.get("host", "") for r in rows),
    ]
    hosts = list(dict.fromkeys(h for h in found if h)) or _batch_host(batch)
    return Evidence(logs, rows, slurm, list(steps), code, hosts)


def tail(path: Path, most_bytes: int = TAIL_BYTES) -> Log | None:
    """The end of a log, from the beginning of a line, with the number of its first line; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - most_bytes)
            file.seek(0)
            before = file.read(start).count(b"\n") if start else 0
            data = file.read()
    except OSError:
        return None
    if start:
        data, before = data[data.find(b"\n") + 1 :], before + 1
    return Log(str(path), data.decode("utf-8", errors="replace"), before + 1)


def steps(names: Collection[str], since: float) -> dict[tuple[str, int | None], list[str]]:
    """States of the steps of the jobs called `names`, submitted after `since`; empty where Slurm keeps no accounts.

    One sacct, however many jobs. A cgroup's kill is seen here alone: the step is OUT_OF_MEMORY, its job FAILED.
    """
    if not names:
        return {}
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 86400))
    options = ["--name", ",".join(sorted(names)), "--starttime", begin, "--format", "JobID,State,JobName"]
    try:
        return parse_steps(queue.run(["sacct", "-P", "-n", *options]), names)
    except ClusterError:
        return {}


def parse_steps(text: str, names: Collection[str]) -> dict[tuple[str, int | None], list[str]]:
    """Lines of `JobID|State|JobName`, jobs before their steps -> states of the steps by (job name, array index)."""
    owners: dict[str, tuple[str, int | None]] = {}
    found: dict[tuple[str, int | None], list[str]] = {}
    for job, state, name in (line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2):
        base, _, step = job.partition(".")
        _, _, index = base.partition("_")
        if not step and name in names and (index.isdigit() or not index):
            owners[base] = (name, int(index) if index else None)
        elif step and base in owners:
            found.setdefault(owners[base], []).append(state.split()[0])
    return found


def _names(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.iterdir())
    except OSError:
        return []


def _states(jobs: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """What the workers of an element said, by start: JOB.RESTART.TRY."""
    paths = (jobs / "state").glob(f"{prefix}*.json")
    return {p.name[len(prefix) : -len(".json")]: row for p in paths if (row := record(p))}


def _newest(names: list[str], states: dict[str, dict[str, Any]], index: str) -> str:
    seen = [m for name in names if (m := RANK.fullmatch(name)) and m.group(1) == index]
    return max({*states, *(f"{m[2]}.{m[3]}.{m[4]}" for m in seen)}, key=_order, default="")


def _order(start: str) -> list[int]:
    """Starts in the order in which they happened: by the numbers in JOB.RESTART.TRY."""
    return [int(n) for n in re.findall(r"\d+", start)]


def _rank_logs(folder: Path, names: list[str], index: str, start: str) -> list[Path]:
    found = [m for n in names if (m := RANK.fullmatch(n)) and m.group(1) == index and f"{m[2]}.{m[3]}.{m[4]}" == start]
    paths = {int(m.group(5)): folder / m.string for m in found}
    chosen = sorted(paths, key=lambda rank: (rank > 0, -_size(paths[rank])))[:MOST_LOGS]
    return [paths[rank] for rank in sorted(chosen)]


def _batch(folder: Path, names: list[str], index: str, start: str) -> Log | None:
    """What the batch script said about one start: it is one file over all starts of a job."""
    job, restart = start.rsplit(".", 2)[:2] if start.count(".") >= 2 else ("", "")
    found = [m for n in names if (m := BATCH.fullmatch(n)) and m.group(1) == index and job in ("", m.group(2))]
    if not found:
        return None
    log = tail(folder / max(found, key=lambda m: _order(m.group(2))).string)
    return _part(log, restart, start) if log else None


def _part(log: Log, restart: str, start: str) -> Log:
    """The lines of one start: after the head of its restart and after the last word about an earlier try."""
    lines = log.text.split("\n")
    first, last = 0, len(lines)
    for number, line in enumerate(lines):
        begins, failed = BEGINS.match(line), FAILED.match(line)
        if begins and restart and begins.group(1) != restart and first:
            last = number
            break
        if begins and begins.group(1) == restart:
            first = number
        elif failed and failed.group(1) == start:
            last = number
            break
        elif failed:
            first = number + 1
    return Log(log.path, "\n".join(lines[first:last]), log.first + first)


def _failures(
    root: Path, submission: str, piece: str, index: int, start: str, state: dict[str, Any]
) -> list[dict[str, Any]]:
    """The failure rows of the attempts that this start made, with the path of each; the first to fail first."""
    keys = {*_stages(root / "jobs" / submission / f"{piece}.json", index), *state.get("stages", {})}
    rows: list[dict[str, Any]] = []
    for folder in (f for key in keys if key for f in (root / "work").glob(f"*/{key}")):
        for attempt in artifact.attempts(folder):
            about = record(attempt / "attempt.json")
            if (about.get("submission"), about.get("piece"), about.get("index")) == (submission, piece, index):
                found = [{**row, "path": str(p)} for p in attempt.glob("failure*.json") if (row := record(p))]
                rows += [r for r in found if not start or _is_of(r, about, piece, index, start)]
    return sorted(rows, key=lambda r: str(r.get("at", "~")))


def _is_of(row: dict[str, Any], about: dict[str, Any], piece: str, index: int, start: str) -> bool:
    """True if a failure row was written by this start: it says so, or else the head of its attempt."""
    if "job" in row:
        return bool(row["job"] == f"{piece}.{index}.{start}")
    return start == f"{about.get('job_id')}.{about.get('restart', 0)}.{about.get('try', 0)}"


def _batch_host(batch: Log | None) -> list[str]:
    """The node that the head of the batch log names, where no rank came to life; of several nobody knows which."""
    heads = [m.group(1) for line in (batch.text.split("\n") if batch else []) if (m := HEAD.match(line))]
    return [h for h in heads[-1:] if "[" not in h and "," not in h]


def _only_host(jobfile: Path, state: dict[str, Any]) -> list[str]:
    """The node of a job on one node: rank 0 has named it. Of several nodes nobody knows which one failed."""
    single = _job(jobfile).get("resources", {}).get("nodes", 1) == 1
    return [str(state["host"])] if single and state.get("host") else []


def _stages(jobfile: Path, index: int) -> list[str]:
    element = _job(jobfile).get("elements", {}).get(str(index), {})
    return [s["key"] for s in element.get("stages", [])]


def _job(jobfile: Path) -> dict[str, Any]:
    try:
        return document(jobfile)
    except (OSError, ValueError):
        return {}


def record(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it is absent, torn or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
