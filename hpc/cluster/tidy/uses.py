"""Who still needs what lies under ROOT: live jobs, submissions, and the code that jobs import. `hpc gc` asks.

Whoever cannot be asked (a submit or a runner on another host, a dry run) counts as alive for a while.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster import local, queue
from hpc.cluster.ledger import Element, Intent, Ledger, Piece, alive
from hpc.cluster.profile import Profile
from hpc.errors import ClusterError

DAY_S = 86400.0
UNKNOWN_S = 30 * DAY_S
"""How long job files without an intent (a dry run), or a runner on another host, count as unfinished."""
CODE = re.compile(r"/code/((?:functions/)?[0-9a-f]{16})(?![0-9a-f])")
"""A snapshot's folder, as job files name it."""


@dataclass
class Uses:
    """making: keys that live jobs make. asked: key -> when a submission last named it, as a stage or as an input.

    importing: snapshots of unfinished submissions, below ROOT/code. imported: snapshot -> when one last took it.
    job_ids: of all jobs that Slurm has not ended.
    """

    making: set[str] = field(default_factory=set)
    asked: dict[str, float] = field(default_factory=dict)
    importing: set[str] = field(default_factory=set)
    imported: dict[str, float] = field(default_factory=dict)
    job_ids: set[str] = field(default_factory=set)

    def busy(self, attempt: Path, now: float) -> bool:
        """True if the job that made an attempt may still write to it."""
        path = attempt / "attempt.json"
        if not path.exists():  # claimed a moment ago, or by a job that died in that moment
            return now - attempt.stat().st_mtime < DAY_S
        row = files.read_json(path)
        return row["job_id"] in self.job_ids or (row["host"] == platform.node() and _is_worker(row["pid"]))

    def _ask(self, keys: set[str], when: float) -> None:
        self.asked |= {k: max(when, self.asked.get(k, 0.0)) for k in keys}

    def _import(self, names: set[str], when: float, unfinished: bool) -> None:
        self.imported |= {n: max(when, self.imported.get(n, 0.0)) for n in names}
        self.importing |= names if unfinished else set()


def look(profile: Profile, now: float | None = None) -> Uses:
    """Read the ledger, the job files and the queue (one squeue) as they are now.

    Args:
        now: seconds since the epoch; what is young by this clock is spared.

    Raises:
        ClusterError: Slurm does not answer, or is not here although the ledger has jobs of it.
    """
    now = time.time() if now is None else now
    ledger = Ledger(profile.root)
    table: queue.Table = {}
    uses = Uses()
    if profile.kind == "slurm" or any(i.kind == "slurm" for i in ledger.intents):
        table, uses.job_ids = _queue(ledger, profile)
    live = {e for i in ledger.intents for p in i.pieces for e in _live(ledger, i, p, table, profile.root, now)}
    intents = {i.submission: i for i in ledger.intents}
    for intent in ledger.intents:
        for piece in intent.pieces:
            for index, row in piece.elements.items():
                uses._ask({*row["stages"], *row["needs"]}, intent.when)
                if (intent.submission, piece.name, index) in live:
                    uses.making |= set(row["stages"])
    at_work = {submission for submission, _, _ in live}
    for path in sorted(profile.root.glob("jobs/*/[!.]*.json")):
        _jobfile(uses, path, intents.get(path.parent.name), path.parent.name in at_work, now)
    return uses


def _queue(ledger: Ledger, profile: Profile) -> tuple[queue.Table, set[str]]:
    """States of the ledger's jobs, and the ids of all jobs that are not over (other users' too: roots are shared)."""
    if not shutil.which("squeue"):
        raise ClusterError(
            "nobody here can say which jobs still run",
            where=str(ledger.folder),
            why="it has Slurm jobs, and this machine has no squeue",
            next=f"run hpc gc --on {profile.name} on a login node of the cluster",
        )
    text = queue.run(["squeue", "-h", "-r", "-t", "all", "-o", queue.SQUEUE])
    rows = [line.split("|", 4) for line in text.splitlines() if line.count("|") >= 8]
    names = {p.job_name for i in ledger.intents for p in i.pieces}
    return queue.parse_squeue(text, names), {r[1] for r in rows if r[3] not in queue.OVER}


def _live(ledger: Ledger, intent: Intent, piece: Piece, table: queue.Table, root: Path, now: float) -> set[Element]:
    """Elements of a piece that run, wait, or may come."""
    elements = {i: (intent.submission, piece.name, i) for i in piece.elements}
    if intent.kind == "local":
        if _elsewhere(root / "jobs" / intent.submission):
            return set(elements.values()) if now - intent.when < UNKNOWN_S else set()
        states = local.states(root, intent.submission, piece.name, piece.elements)
    else:
        single = len(elements) == 1
        found = {i: table.get((piece.job_name, None if single else i)) for i in elements}
        states = {i: state for i, state in found.items() if state is not None}
    live = {elements[i] for i, state in states.items() if not state.over}
    if ledger.decision(intent.submission, piece.name) is None and (
        alive(intent.submitter) or now - intent.when < DAY_S
    ):
        live |= {e for i, e in elements.items() if i not in states}
    return live


def _elsewhere(folder: Path) -> bool:
    """True if the local runner of a submission is, or was, on another host and has not ended all of its jobs."""
    if not (folder / "runner.json").exists() or files.read_json(folder / "runner.json")["host"] == platform.node():
        return False
    rows = files.read_json(folder / "states.json") if (folder / "states.json").exists() else []
    return not rows or any(r["word"] not in queue.OVER for r in rows)


def _jobfile(uses: Uses, path: Path, intent: Intent | None, at_work: bool, now: float) -> None:
    """What a job file (or the mender's plan) names: stages, their inputs, and the code."""
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    when = intent.when if intent else path.stat().st_mtime
    if not isinstance(document, dict) or not {"elements", "plan"} & document.keys():
        return
    uses._import(set(CODE.findall(text)), when, at_work or (intent is None and now - when < UNKNOWN_S))
    uses._ask({k for spec in _specs(document) for k in _keys(spec)}, when)


def _specs(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "elements" in document:
        return [s for e in document["elements"].values() for s in e["stages"]]
    return list(document["plan"]["stages"])


def _keys(spec: dict[str, Any]) -> set[str]:
    return {spec["key"], *(i["key"] for i in spec["inputs"].values() if "key" in i)}


def _is_worker(pid: int) -> bool:
    try:
        return b"hpc.cluster.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
