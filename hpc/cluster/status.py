"""What became of a plan: one document from artifacts, ledger, queue and the attempts' files. `hpc status X`."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hpc import artifact, files
from hpc.cluster import queue
from hpc.cluster.cover import LOST, REPLACED, SETTLING, UNDECIDED, WITHDRAWN, Cover, Job, Plan, look
from hpc.cluster.profile import Profile
from hpc.errors import ClusterError

TAIL_BYTES = 65536
UNSEEN = "its job completed, but the artifact is not to be seen"


def status(plan: Plan, profile: Profile) -> dict[str, Any]:
    """State of every stage and run.

    Returns:
        {"name", "profile", "runs": [{"name", "state", "stages": {stage: key or {task: key}}}],
         "stages": {key: {"stage", "recipe", "task", "state", ...}}, "totals": {state: count}}.
        A stage's state is published, running, pending, failed, cancelled or new; `reason` says why it waits or what
        went wrong; `step`, `loss` and `progress` come from its metrics.jsonl; `attempts` counts its starts.

    Raises:
        ClusterError: Slurm does not answer.
    """
    cover = look(plan, profile)
    stages = {s["key"]: _stage(s, cover, profile) for s in plan["stages"]}
    runs = [{"name": r["name"], "state": _run(r, stages), "stages": r["stages"]} for r in plan["runs"]]
    return {
        "name": plan["name"],
        "profile": profile.name,
        "runs": runs,
        "stages": stages,
        "totals": dict(Counter(s["state"] for s in stages.values())),
    }


def wait(
    plan: Plan, profile: Profile, *, poll_s: float = 2.0, timeout_s: float | None = None, seen: Any = None
) -> dict[str, Any]:
    """Poll until nothing runs or waits; returns the last status.

    Args:
        seen: called with every status, to show progress.

    Raises:
        ClusterError: still at work after `timeout_s`, or Slurm did not answer for three polls.
    """
    end, silent = time.monotonic() + (timeout_s if timeout_s is not None else float("inf")), 0
    late = None
    while True:
        try:
            now, silent = status(plan, profile), 0
        except ClusterError:
            silent += 1
            if silent == 3:
                raise
            time.sleep(poll_s)
            continue
        if seen is not None:
            seen(now)
        if not {"pending", "running"} & now["totals"].keys():
            # a shared file system may show what a finished job has published a minute late
            late = late or time.monotonic() + artifact.PATIENCE_S
            if time.monotonic() > late or UNSEEN not in {s.get("reason") for s in now["stages"].values()}:
                return now
        if time.monotonic() > end:
            raise ClusterError(
                f"{plan['name']} is still at work after {timeout_s:.0f} s",
                where=str(profile.root),
                why=str(now["totals"]),
                next="wait longer; hpc status shows what it waits for",
            )
        time.sleep(poll_s)


def _stage(spec: dict[str, Any], cover: Cover, profile: Profile) -> dict[str, Any]:
    key = spec["key"]
    row: dict[str, Any] = {"stage": spec["stage"], "recipe": spec["recipe"], "task": spec["task"], "state": "new"}
    attempts = artifact.attempts(profile.root / "work" / spec["stage"] / key)
    row["attempts"] = len(attempts)
    if key in cover.published:
        return {**row, "state": "published", "folder": str(cover.published[key])}
    job = cover.latest(key)
    if job is None:
        return row
    row |= {"job": job.job_id, "submission": job.element[0], "piece": job.element[1], "index": job.element[2]}
    own = [a for a in attempts if _made_by(a, job)]
    return {**row, **_live_or_over(job, own[-1] if own else None, _worker(profile, job).get(key, ""))}


def _worker(profile: Profile, job: Job) -> dict[str, str]:
    """What the worker itself last said about the stages of a job: done, left, failed or blocked."""
    submission, piece, index = job.element
    found = list((profile.root / "jobs" / submission / "state").glob(f"{piece}.{index}.*.json")) if job.over else []
    rows = [files.read_json(p) for p in found]
    said: dict[str, str] = max(rows, key=lambda r: (r["restart"], r["at"]))["stages"] if rows else {}
    return said


def _made_by(attempt: Path, job: Job) -> bool:
    path = attempt / "attempt.json"
    row = files.read_json(path) if path.exists() else {}
    return (row.get("submission"), row.get("piece"), row.get("index")) == job.element


def _live_or_over(job: Job, attempt: Path | None, said: str) -> dict[str, Any]:
    failure = _failure(attempt)
    if failure:
        return {"state": "failed", "reason": failure["message"], "type": failure["type"], "attempt": str(attempt)}
    if job.waiting:
        return {"state": "pending", "reason": "sbatch has not answered" if job.word == UNDECIDED else job.reason}
    if job.word == SETTLING:
        return {"state": "running", "reason": "its job completed, and the artifact is not to be seen yet"}
    if not job.over:  # also a word of Slurm's that we do not know: never taken for finished
        if attempt is None:
            return {"state": "pending", "reason": "its job has started and has not come to it yet"}
        return {"state": "running", "reason": job.word.replace("RUNNING", ""), **progress(attempt)}
    if job.word in ("CANCELLED", WITHDRAWN, REPLACED, "DEADLINE", "REVOKED"):
        return {"state": "cancelled", "reason": job.reason or job.word}
    reasons = {LOST: "Slurm no longer knows the job", "COMPLETED": UNSEEN}
    reason = reasons.get(job.word, f"{job.word} {job.reason}".strip())
    return {"state": "failed", "reason": "an input of the same job failed" if said == "blocked" else reason}


def _failure(attempt: Path | None) -> dict[str, Any]:
    """The failure of the rank that failed first: the others' are its consequences."""
    rows: list[dict[str, Any]] = [files.read_json(p) for p in attempt.glob("failure*.json")] if attempt else []
    return min(rows, key=lambda r: r["at"], default={})


def progress(attempt: Path | None) -> dict[str, Any]:
    """The last row of an attempt's metrics.jsonl: step, steps, loss, tokens_per_s ..., as far as it has them."""
    path = attempt / "out" / "metrics.jsonl" if attempt else None
    if path is None or not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:  # torn by a crash, or the first half of a line was cut off here
            continue
        return {"progress": row, **{n: row[n] for n in ("step", "loss") if n in row}}
    return {}


def _run(run: dict[str, Any], stages: dict[str, Any]) -> str:
    """The state of a run: the worst of its stages."""
    keys = [k for v in run["stages"].values() for k in (v.values() if isinstance(v, dict) else [v])]
    states = {stages[k]["state"] for k in keys if k in stages}
    order = ("failed", "cancelled", "running", "pending", "new")
    return next((s for s in order if s in states), "published")


def cancel(plan: Plan, profile: Profile) -> int:
    """Cancel every job of a plan that waits or runs. Returns how many.

    Jobs that an earlier state of the recipe asked for (it was edited since) are cancelled too: they bear its name and
    its file. A job that other plans wait for is cancelled as well: it makes the same artifact.
    """
    from hpc.cluster import local
    from hpc.cluster.ledger import Ledger, absolute

    ledger, path = Ledger(profile.root), absolute(plan)
    asked = [p for i in ledger.intents if path and (i.plan, i.path) == (plan["name"], path) for p in i.pieces]
    earlier = [{"stage": p.kind, "key": k} for p in asked for e in p.elements.values() for k in e["stages"]]
    cover = look({**plan, "stages": [*plan["stages"], *earlier]}, profile)
    jobs = [j for j in cover.jobs if not j.over and j.word != SETTLING]
    ledger.withdraw([j.element for j in jobs], "hpc cancel")
    for intent, piece in cover.undecided:
        ledger.decide(intent.submission, piece.name, {"replaced": "hpc cancel"})
    kinds = {i.submission: i.kind for i in ledger.intents}
    for submission in {j.element[0] for j in jobs if kinds[j.element[0]] == "local"}:
        local.stop(profile.root, submission)
    queue.cancel(sorted({j.job_id for j in jobs if j.job_id and kinds[j.element[0]] == "slurm"}))
    return len(jobs)


def logs(plan: Plan, profile: Profile, key: str) -> Path:
    """The newest log of the job that makes (or made) the stage `key`: rank 0's, with the batch script's lines.

    Raises:
        ClusterError: never submitted, or not started yet.
    """
    job = look(plan, profile).latest(key)
    if job is None:
        raise ClusterError(
            f"stage {key} was never submitted from here",
            where=str(profile.root / "ledger"),
            next="hpc submit it first; hpc status lists the keys",
        )
    submission, piece, index = job.element
    folder = profile.root / "logs" / submission / piece
    patterns = [f"{index}_0_log.out", f"*_{index}_0_log.out", *(["*_0_log.out"] if job.single else [])]
    found = [p for pattern in patterns for p in folder.glob(pattern)]
    if not found:
        raise ClusterError(
            f"stage {key} has no log yet",
            where=str(folder),
            why=f"its job is {job.word} {job.reason}".strip(),
            next="hpc status shows what it waits for",
        )
    return max(found, key=lambda p: p.stat().st_mtime)
