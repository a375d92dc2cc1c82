"""What to do about jobs that ended without their artifacts: try again with what the cause asks for, or leave them.

`hpc submit X` and the mender make the same judgement. Behind a submit stands a user, so what failed is tried again
unless the same exception came twice from the same code; the mender stops at what another try cannot cure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import artifact, files
from hpc.cluster.cover import SETTLING, WITHDRAWN, Cover, Job, Plan
from hpc.cluster.ledger import Element, Ledger
from hpc.cluster.pieces import Change
from hpc.cluster.profile import Profile
from hpc.cluster.shift import document

if TYPE_CHECKING:  # the classifier's table takes 60 ms to import, and most submits have nothing to judge
    from hpc.cluster.failures.causes import Verdict

MORE = 1.5
"""Memory or time of the next try, as a multiple of the last one's."""
ROOM = 0.02
"""Share of a file system that must be free before a job that filled it is tried again."""
NODES_FAULT = {
    *("setup", "import_error", "driver", "gpu_fault", "shared_memory", "node_fault", "killed", "segfault"),
    *("missing_file", "permission", "network", "nccl", "rendezvous", "build", "unknown"),
}
"""Causes that a bad node may have. A bug, a full GPU or a wrong setting fails on every node."""
UNCHANGED = ("here", "again", "stop")
"""Cures that try the same once more: for these, the same exception twice is enough."""


@dataclass
class Judgement:
    """changes: key -> what its next job gets. held: key -> why it is not tried again.

    rebuild: inputs that are gone or damaged. poisoned: nodes on which every job fails.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    rebuild: list[dict[str, str]] = field(default_factory=list)
    poisoned: set[str] = field(default_factory=set)


def judge(
    plan: Plan, profile: Profile, cover: Cover, *, again: Collection[str] = (), mender: bool = False
) -> Judgement:
    """Judge every stage of `plan` that an earlier job should have made.

    Args:
        again: keys to try again whatever happened to them.
        mender: no user stands behind it: what another try cannot cure, and what somebody cancelled, is left alone.
    """
    found = Judgement()
    failed = _failed(plan, cover)
    verdicts, raised = _verdicts(profile, failed)
    found.poisoned = _poisoned(profile, failed, verdicts)
    specs = {s["key"]: s for s in plan["stages"]}
    for key, job in failed.items():
        if job.word in ("CANCELLED", WITHDRAWN):
            if mender and (job.word == WITHDRAWN or cover.published.keys() >= set(job.needs)):
                found.held[key] = f"cancelled: {job.reason or 'scancel'}"
            else:
                found.changes[key] = _before(profile, job)
            continue
        verdict = verdicts[job.element]
        change, why = _remedy(profile, job, verdict, raised)
        if verdict.host in found.poisoned:
            change.why = f"every job fails on {verdict.host}"
        elif key not in again:
            why = why or (verdict.words if mender and verdict.cure == "stop" else "")
            if not why and verdict.cure in UNCHANGED and _twice(profile, key, verdict.exception):
                why = f"the same exception twice: {verdict.words}"
            if why:
                found.held[key] = why
                continue
        found.changes[key] = change
        if verdict.cure == "rebuild":
            found.rebuild += [i for i in specs[key]["inputs"].values() if "key" in i]
    return found


def _failed(plan: Plan, cover: Cover) -> dict[str, Job]:
    """Stages that are not published and nobody makes -> the job that was last asked to."""
    keys = [s["key"] for s in plan["stages"] if s["key"] not in cover.published and s["key"] not in cover.live]
    found = {k: cover.latest(k) for k in keys}
    return {k: j for k, j in found.items() if j is not None and j.word not in ("REPLACED", SETTLING)}


def _verdicts(profile: Profile, failed: dict[str, Job]) -> tuple[dict[Element, Verdict], set[str]]:
    """Why each job failed, and the stages that raised something (others of a job only waited for them).

    One sacct tells the states of all their steps, where Slurm keeps accounts.
    """
    if not failed:
        return {}, set()
    from hpc.cluster.failures import evidence
    from hpc.cluster.failures.causes import classify

    jobs = {job.element: job for job in failed.values()}
    intents = [i for i in Ledger(profile.root).intents if i.submission in {e[0] for e in jobs} and i.kind == "slurm"]
    names = {(i.submission, p.name): p.job_name for i in intents for p in i.pieces}
    asked = {names[e[:2]] for e in jobs if e[:2] in names}
    states = evidence.steps(asked, min((i.when for i in intents), default=0.0))

    def steps(job: Job) -> list[str]:
        return states.get((names.get(job.element[:2], ""), None if job.single else job.element[2]), [])

    seen = {e: evidence.of_start(profile.root, *e, slurm=job.word, steps=steps(job)) for e, job in jobs.items()}
    raised = {str(row["key"]) for found in seen.values() for row in found.failures if "key" in row}
    return {e: classify(found) for e, found in seen.items()}, raised


def _content(profile: Profile, job: Job) -> tuple[Path, dict[str, Any]]:
    path = profile.root / "jobs" / job.element[0] / f"{job.element[1]}.json"
    return path, document(path)


def _before(profile: Profile, job: Job) -> Change:
    """What earlier failures have already changed for a job: the next try keeps it."""
    from hpc.cluster import rescue

    path, content = _content(profile, job)
    change = Change(**content["elements"][str(job.element[2])].get("change", {}))
    return replace(change, settings=rescue.changed(path, job.element[2]), why="")


def _remedy(profile: Profile, job: Job, verdict: Verdict, raised: set[str]) -> tuple[Change, str]:
    """What the next try of a job gets, or why there must be none. `raised`: stages that failed themselves."""
    from hpc.cluster import rescue

    path, content = _content(profile, job)
    asked, change = content["resources"], _before(profile, job)
    change.why = f"{verdict.cause}: {verdict.words}"
    if verdict.cure == "memory":
        change.memory_gib = round(MORE * asked["memory_gib"], 1)
        if profile.node_memory_gib and change.memory_gib > profile.node_memory_gib:
            return change, f"{verdict.words}; a node has no more than {profile.node_memory_gib:g} GiB"
    elif verdict.cure == "time":
        most = profile.place(content["kind"]).max_hours or float("inf")
        change.hours = round(min(most, MORE * asked["hours"]), 3)
    elif verdict.cure == "elsewhere" and verdict.host:
        change.exclude = sorted({*change.exclude, verdict.host})
    elif verdict.cure == "smaller":
        smaller = rescue.smaller(path, job.element[2], raised & set(job.stages))
        if not smaller:
            return change, f"{verdict.words}; it cannot take less of the GPU"
        change.settings = {**change.settings, **smaller}
    elif verdict.cure == "space" and (full := _full(profile.root)):
        return change, full
    return change, ""


def _full(root: Path) -> str:
    """Why there is no room under `root`; empty if there is."""
    usage, inodes = shutil.disk_usage(root), os.statvfs(root)
    if usage.free < ROOM * usage.total:
        return f"no space: {usage.free / 2**30:.2f} GiB of {usage.total / 2**30:.2f} GiB are free at {root} (hpc gc)"
    if inodes.f_files and inodes.f_favail < ROOM * inodes.f_files:
        return f"no files: {inodes.f_favail} of {inodes.f_files} inodes are free at {root} (hpc gc)"
    return ""


def _twice(profile: Profile, key: str, exception: str) -> bool:
    """True if the last attempt at a stage ended with `exception`, an earlier one did too, and the code is the same."""
    if not exception:
        return False
    from hpc.cluster.failures.causes import Evidence, classify

    found: list[tuple[str, str]] = []
    for folder in (profile.root / "work").glob(f"*/{key}"):
        for attempt in artifact.attempts(folder):
            failures = [files.read_json(p) for p in attempt.glob("failure*.json")]
            about = files.read_json(attempt / "attempt.json") if (attempt / "attempt.json").exists() else {}
            raised = classify(Evidence(logs=[], failures=failures)).exception if failures else ""
            found.append((about.get("code", ""), raised))
    return bool(found) and found[-1] == (artifact.code()["digest"], exception) and found.count(found[-1]) >= 2


def _poisoned(profile: Profile, failed: dict[str, Job], verdicts: dict[Element, Verdict]) -> set[str]:
    """Nodes where two or more jobs failed for what may be the node's fault and none was done.

    Only where jobs of the same kind were done elsewhere, and no other node shows the same failure: otherwise it
    is the work that fails, and leaving one node after the other would leave none.
    """
    kinds = {job.element: _content(profile, job)[1]["kind"] for job in failed.values()}
    suspects: dict[str, set[Element]] = {}
    ended = {job.element for job in failed.values() if job.word not in ("CANCELLED", WITHDRAWN)}
    for element, verdict in ((e, v) for e, v in verdicts.items() if e in ended):
        if verdict.host and verdict.cause in NODES_FAULT:
            suspects.setdefault(verdict.host, set()).add(element)
    poisoned = set()
    for host, elements in suspects.items():
        own = {(verdicts[e].cause, verdicts[e].exception) for e in elements}
        elsewhere = {(v.cause, v.exception) for v in verdicts.values() if v.host not in (host, "")}
        done = _done(profile, {e[0] for e in elements}, {kinds[e] for e in elements})
        if len(elements) >= 2 and not own & elsewhere and done - {host} and host not in done:
            poisoned.add(host)
    return poisoned


def _done(profile: Profile, submissions: set[str], kinds: set[str]) -> set[str]:
    """Nodes where jobs of these kinds were done."""
    hosts, intents = set(), Ledger(profile.root).intents
    for folder in (profile.root / "jobs" / s for s in submissions):
        pieces = {i.name: i.kind for intent in intents if intent.submission == folder.name for i in intent.pieces}
        fitting = {name for name, kind in pieces.items() if kind in kinds}
        rows = ((p.name.partition(".")[0], files.read_json(p)) for p in (folder / "state").glob("*.json"))
        hosts |= {row["host"] for piece, row in rows if piece in fitting and row["state"] == "done"}
    return hosts
