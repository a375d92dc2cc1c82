"""The mender: a sweep's last job. It looks at what failed, submits it again with what the cause asks for, then reports.

    python -P -u -m hpc.cluster.mend ROOT/jobs/SUBMISSION/plan.json

`hpc submit` on the login node makes the same judgement; there a user stands behind it, so what failed is tried again
unless the same exception came twice from the same code. The mender itself stops at what another try cannot cure.
"""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import artifact, files
from hpc.cluster import jobfile
from hpc.cluster.cover import SETTLING, WITHDRAWN, Cover, Job, Plan, look
from hpc.cluster.ledger import Element, Ledger
from hpc.cluster.pieces import Change
from hpc.cluster.profile import Profile
from hpc.cluster.shift import document
from hpc.errors import ArtifactError

if TYPE_CHECKING:  # the classifier's table takes 60 ms to import, and most submits have nothing to judge
    from hpc.cluster.causes import Verdict

ROUNDS = 3
"""How often menders of one sweep submit failed jobs again."""
MORE = 1.5
"""Memory or time of the next try, as a multiple of the last one's."""
ROOM = 0.02
"""Share of a file system that must be free before a job that filled it is tried again."""


@dataclass
class Judgement:
    """What to do about jobs that ended without their artifacts.

    changes: key -> what its next job gets. held: key -> why it is not tried again. rebuild: keys of damaged artifacts.
    poisoned: nodes on which every job fails.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    rebuild: list[str] = field(default_factory=list)
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
    verdicts = _verdicts(profile, failed)
    found.poisoned = _poisoned(profile, failed, verdicts)
    for key, job in failed.items():
        if job.word == "CANCELLED" or job.word == WITHDRAWN:
            if mender and (job.word == WITHDRAWN or cover.published.keys() >= set(job.needs)):
                found.held[key] = f"cancelled: {job.reason or 'scancel'}"
            continue
        verdict = verdicts[job.element]
        change, why = _remedy(profile, job, verdict)
        if verdict.host in found.poisoned:
            change.why = f"every job fails on {verdict.host}"
        elif key not in again and (why or (mender and verdict.cure == "stop")):
            found.held[key] = why or verdict.words
            continue
        elif key not in again and _twice(profile, key, job):
            found.held[key] = f"the same exception twice: {verdict.words}"
            continue
        found.changes[key] = change
        if verdict.cure == "rebuild":
            found.rebuild += _damaged(plan, profile, key)
    return found


def _failed(plan: Plan, cover: Cover) -> dict[str, Job]:
    """Stages that are not published and nobody makes -> the job that was last asked to."""
    keys = [s["key"] for s in plan["stages"] if s["key"] not in cover.published and s["key"] not in cover.live]
    found = {k: cover.latest(k) for k in keys}
    return {k: j for k, j in found.items() if j is not None and j.word not in ("REPLACED", SETTLING)}


def _verdicts(profile: Profile, failed: dict[str, Job]) -> dict[Element, Verdict]:
    """Why each job failed. One sacct tells the states of all their steps, where Slurm keeps accounts."""
    from hpc.cluster import evidence
    from hpc.cluster.causes import classify

    jobs = {job.element: job for job in failed.values()}
    if not jobs:
        return {}
    intents = {i.submission: i for i in Ledger(profile.root).intents}
    names = {(s, p.name): p.job_name for s, i in intents.items() if i.kind == "slurm" for p in i.pieces}
    asked = {names[e[:2]] for e in jobs if e[:2] in names}
    states = evidence.steps(asked, min(i.when for i in intents.values()))
    return {
        e: classify(
            evidence.of_start(
                profile.root,
                *e,
                slurm=job.word,
                steps=states.get((names.get(e[:2], ""), None if job.single else e[2]), []),
            )
        )
        for e, job in jobs.items()
    }


def _remedy(profile: Profile, job: Job, verdict: Verdict) -> tuple[Change, str]:
    """What the next try of a job gets, or why there must be none."""
    from hpc.cluster import rescue

    path = profile.root / "jobs" / job.element[0] / f"{job.element[1]}.json"
    content = document(path)
    asked, change = content["resources"], Change(exclude=list(content["resources"].get("exclude", [])))
    settled = rescue.changed(path, job.element[2])
    change.settings = settled
    if verdict.cure == "memory":
        change.memory_gib = round(MORE * asked["memory_gib"], 1)
        if profile.node_memory_gib and change.memory_gib > profile.node_memory_gib:
            return change, f"{verdict.words}; a node has no more than {profile.node_memory_gib:g} GiB"
    elif verdict.cure == "time":
        most = profile.place(content["kind"]).max_hours
        change.hours = round(MORE * asked["hours"], 3)
        if most and change.hours > most:
            return change, f"{verdict.words}; the partition allows no more than {most:g} h"
    elif verdict.cure == "elsewhere" and verdict.host:
        change.exclude = sorted({*change.exclude, verdict.host})
    elif verdict.cure == "micro_batch":
        smaller = rescue.smaller(path, job.element[2])
        if not smaller:
            return change, f"{verdict.words}; its batches cannot be smaller"
        change.settings = {**settled, **smaller}
    elif verdict.cure == "space" and (full := _full(profile.root)):
        return change, full
    change.why = f"{verdict.cause}: {verdict.words}"
    return change, ""


def _full(root: Path) -> str:
    """Why there is no room under `root`; empty if there is."""
    import os

    usage, inodes = shutil.disk_usage(root), os.statvfs(root)
    if usage.free < ROOM * usage.total:
        return f"no space: {usage.free / 2**30:.2f} GiB of {usage.total / 2**30:.2f} GiB are free at {root} (hpc gc)"
    if inodes.f_files and inodes.f_favail < ROOM * inodes.f_files:
        return f"no files: {inodes.f_favail} of {inodes.f_files} inodes are free at {root} (hpc gc)"
    return ""


def _twice(profile: Profile, key: str, job: Job) -> bool:
    """True if the last exception of this stage came from an earlier attempt too, from the same code."""
    from hpc.cluster.causes import Evidence, classify

    found: list[tuple[str, str]] = []
    for folder in (profile.root / "work").glob(f"*/{key}"):
        for attempt in artifact.attempts(folder):
            failures = [files.read_json(p) for p in attempt.glob("failure*.json")]
            about = files.read_json(attempt / "attempt.json") if (attempt / "attempt.json").exists() else {}
            if failures:
                exception = classify(Evidence(logs=[], failures=failures)).exception
                found.append((about.get("code", ""), exception))
    return bool(found) and bool(found[-1][1]) and found.count(found[-1]) >= 2


def _poisoned(profile: Profile, failed: dict[str, Job], verdicts: dict[Element, Verdict]) -> set[str]:
    """Hosts where two or more jobs failed and none was done, while others were done elsewhere."""
    jobs: dict[str, set[Element]] = {}
    for job in failed.values():
        if (verdict := verdicts[job.element]).host and job.word != "CANCELLED":
            jobs.setdefault(verdict.host, set()).add(job.element)
    suspects = {host for host, elements in jobs.items() if len(elements) >= 2}
    if not suspects:
        return set()
    submissions = {job.element[0] for job in failed.values()}
    rows = [files.read_json(p) for s in submissions for p in (profile.root / "jobs" / s / "state").glob("*.json")]
    sound = {r["host"] for r in rows if r["state"] == "done"}
    return suspects - sound if sound else set()


def _damaged(plan: Plan, profile: Profile, key: str) -> list[str]:
    """Inputs of a stage that DONE does not vouch for any more; they are moved aside."""
    spec = next(s for s in plan["stages"] if s["key"] == key)
    keys = []
    for source in (i for i in spec["inputs"].values() if "key" in i):
        folder = artifact.find([profile.root], source["stage"], source["key"])
        if folder is None:
            keys.append(source["key"])
            continue
        try:
            artifact.check(folder)
        except ArtifactError:
            folder.rename(folder.with_name(f".purged-{uuid.uuid4().hex}"))
            keys.append(source["key"])
    return keys


def with_makers(plan: Plan, profile: Profile, keys: Collection[str]) -> Plan:
    """The plan, with jobs that make `keys` again, as the ledger knows them from when they were first made."""
    plan = {**plan, "stages": [*plan["stages"]], "arrays": [*plan["arrays"]]}
    planned = {k for a in plan["arrays"] for j in a["jobs"] for k in j["stages"]}
    intents = list(reversed(Ledger(profile.root).intents))
    wanted = [k for k in keys if k not in planned]
    while wanted:
        key = wanted.pop()
        found = [(p, i) for t in intents for p in t.pieces for i, e in p.elements.items() if key in e["stages"]]
        if key in planned or not found:
            continue
        planned.add(key)
        piece, index = found[0]
        content = document(Path(piece.jobfile))
        spec = next(s for s in content["elements"][str(index)]["stages"] if s["key"] == key)
        name = f"{piece.kind}-again-{key[:6]}"
        job = {"kind": piece.kind, "stages": [key], "resources": content["resources"], "array": name, "index": 0}
        plan["arrays"].append({"name": name, "kind": piece.kind, "jobs": [job], "parents": []})
        if key not in {s["key"] for s in plan["stages"]}:
            plan["stages"].append(spec)
        inputs = [i for i in spec["inputs"].values() if "key" in i]
        wanted += [i["key"] for i in inputs if not artifact.find(profile.all_roots, i["stage"], i["key"])]
    return plan


def main() -> int:
    """Mend the sweep whose plan.json is named on the command line; 0 if nothing is left to mend or it is on its way."""
    from hpc.cluster.submit import submit  # it judges with this module

    path = Path(sys.argv[1])
    plan, profile, rounds = jobfile.read_plan(path)
    if "replaced" in Ledger(profile.root).decide(path.parent.name, jobfile.MENDER, {"job_id": "itself"}):
        print("hpc: this mender leaves: its submission was replaced", flush=True)
        return 0
    _settle(plan, profile)
    sent = submit(plan, profile, mender=True, rounds=rounds)
    for key, why in sent.held.items():
        print(f"hpc: {key} is left: {why}", flush=True)
    print(f"hpc: mender, round {rounds}: {sent.jobs} job(s) submitted again, {len(sent.held)} held", flush=True)
    if not sent.jobs and not sent.live and plan.get("report") is not None:
        _report(plan, profile)
    return 1 if sent.held else 0


def _settle(plan: Plan, profile: Profile) -> None:
    """Wait until the file system shows what finished jobs have published."""
    end = time.monotonic() + artifact.PATIENCE_S
    while any(j.word == SETTLING for j in look(plan, profile).jobs) and time.monotonic() < end:
        time.sleep(2.0)


def _report(plan: Plan, profile: Profile) -> None:
    from analysis import report

    page = report.build(plan, profile.all_roots, profile.root / "reports" / plan["name"])
    print(f"hpc: report: {page}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
