"""What became of a plan: one document from artifacts, ledger, queue and the attempts' files. `hpc status X`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hpc import artifact, files
from hpc.cluster import queue
from hpc.cluster.cover import LOST, REPLACED, SETTLING, UNDECIDED, WITHDRAWN, Cover, Job, Plan, look
from hpc.cluster.logs import logs as logs
from hpc.cluster.profile import Profile
from hpc.cluster.progress import progress
from hpc.cluster.reports import listed
from hpc.errors import ClusterError

UNSEEN = "its job completed, but the artifact is not to be seen"
SILENT = 3
"""Polls in a row that Slurm may leave unanswered."""
BUSY = {"pending", "running"}

Row = dict[str, Any]


def status(plan: Plan, profile: Profile) -> Row:
    """State of every stage and run.

    Returns:
        {"name", "profile", "runs": [{"name", "state", "stages": {stage: key or {task: key}}}],
         "stages": {key: {"stage", "recipe", "task", "state", ...}}, "totals": {state: count}, "mender": Slurm's word
         for a mender's job that waits or runs, or empty}.
        A stage's state is published, running, pending, failed, cancelled or new; `reason` says why it waits or what
        went wrong, `start` when Slurm expects to start it (its local time); `step`, `steps`, `done`, `total`, `loss`,
        `tokens_per_s`, `eta_s` and `progress` are what hpc.cluster.progress reads; `attempts` counts the starts of a
        stage that is not published, `restarts` those of its job that Slurm's requeues account for.

    Raises:
        ClusterError: Slurm does not answer.
    """
    cover, root = look(plan, profile), profile.root
    queue.release(sorted(set(cover.stuck)))
    begun = {stage: listed(root / "work" / stage) for stage in {s["stage"] for s in plan["stages"]}}
    stages = {s["key"]: _stage(s, cover, root, s["key"] in begun[s["stage"]]) for s in plan["stages"]}
    runs = [{"name": r["name"], "state": _run(r, stages), "stages": r["stages"]} for r in plan["runs"]]
    return {
        "name": plan["name"],
        "profile": profile.name,
        "runs": runs,
        "stages": stages,
        "totals": dict(Counter(s["state"] for s in stages.values())),
        "mender": cover.mender,
    }


def follow(plan: Plan, profile: Profile, *, first_s: float = 2.0, every_s: float = 2.0) -> Iterator[Row]:
    """The status again and again, until nothing runs or waits; the last one is final.

    Args:
        first_s, every_s: seconds between two looks, at first and at most: they grow, to spare the controller.

    Raises:
        ClusterError: Slurm did not answer SILENT looks in a row.
    """
    silent, late, pause_s = 0, 0.0, min(first_s, every_s)
    while True:
        try:
            now, silent = status(plan, profile), 0
        except ClusterError:
            silent += 1
            if silent == SILENT:
                raise
            time.sleep(pause_s)
            continue
        yield now
        if not _busy(now):
            # a shared file system may show what a finished job has published a minute late
            late = late or time.monotonic() + artifact.PATIENCE_S
            if time.monotonic() > late or UNSEEN not in {s.get("reason") for s in now["stages"].values()}:
                return
        time.sleep(pause_s)
        pause_s = min(every_s, 1.2 * pause_s)


def _busy(now: Row) -> bool:
    """True if something waits or runs, or a mender may still try again what has failed."""
    ended = "failed" in now["totals"] or "cancelled" in now["totals"]
    return bool(BUSY & now["totals"].keys()) or (bool(now["mender"]) and ended)


def wait(
    plan: Plan,
    profile: Profile,
    *,
    poll_s: float = 2.0,
    timeout_s: float | None = None,
    seen: Callable[[Row], None] | None = None,
) -> Row:
    """Poll until nothing runs or waits; returns the last status.

    Args:
        seen: called with every status, to show progress.

    Raises:
        ClusterError: still at work after `timeout_s`, or Slurm did not answer.
    """
    end = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
    now: Row = {}
    for now in follow(plan, profile, first_s=poll_s, every_s=poll_s):
        if seen is not None:
            seen(now)
        if time.monotonic() > end and _busy(now):
            raise ClusterError(
                f"{plan['name']} is still at work after {timeout_s:.0f} s",
                where=str(profile.root),
                why=str(now["totals"]),
                next="wait longer; hpc status shows what it waits for",
            )
    return now


def _stage(spec: Row, cover: Cover, root: Path, begun: bool) -> Row:
    key = spec["key"]
    row: Row = {"stage": spec["stage"], "recipe": spec["recipe"], "task": spec["task"], "state": "new"}
    if key in cover.published:
        return {**row, "state": "published", "folder": str(cover.published[key])}
    folder = root / "work" / spec["stage"] / key
    numbers = sorted((int(n) for n in listed(folder) if n.isdigit()), reverse=True) if begun else []
    row["attempts"] = len(numbers)
    job = cover.latest(key)
    if job is None:
        return row
    row |= {"job": job.job_id, "submission": job.element[0], "piece": job.element[1], "index": job.element[2]}
    own, head = _own(folder, [] if job.waiting else numbers, job)
    if own is not None:
        row["restarts"] = head["restart"]
    return {**row, **_live_or_over(job, own, cover, key)}


def _own(folder: Path, numbers: list[int], job: Job) -> tuple[Path | None, Row]:
    """The newest attempt of a job, and its attempt.json."""
    for number in numbers:
        path = folder / str(number)
        try:
            head = files.read_json(path / "attempt.json")
        except FileNotFoundError:  # claimed a moment ago
            continue
        if (head.get("submission"), head.get("piece"), head.get("index")) == job.element:
            return path, head
    return None, {}


def _live_or_over(job: Job, attempt: Path | None, cover: Cover, key: str) -> Row:
    if job.word == SETTLING:
        return {"state": "running", "reason": "its job completed, and the artifact is not to be seen yet"}
    if not job.over:
        return _live(job, attempt)
    if failure := _failure(attempt):
        return {"state": "failed", "reason": failure["message"], "type": failure["type"], "attempt": str(attempt)}
    if job.word in ("CANCELLED", WITHDRAWN, REPLACED, "DEADLINE", "REVOKED"):
        return {"state": "cancelled", "reason": job.reason or job.word}
    if cover.reports.last(job.element).get("stages", {}).get(key) == "blocked":
        return {"state": "failed", "reason": "an input of the same job failed"}
    reasons = {LOST: "Slurm no longer knows the job, and it has not said how it ended", "COMPLETED": UNSEEN}
    return {"state": "failed", "reason": reasons.get(job.word, f"{job.word} {job.reason}".strip())}


def _live(job: Job, attempt: Path | None) -> Row:
    """A job that waits or runs. What an attempt of it has failed in is not final: the job may start it again."""
    if job.waiting:
        reason = "sbatch has not answered" if job.word == UNDECIDED else job.reason
        return {"state": "pending", "reason": reason, **({"start": job.start} if job.start else {})}
    if job.settling:
        return {"state": "pending", "reason": f"{job.word}: Slurm may start it again"}
    if attempt is None:
        return {"state": "pending", "reason": "its job has started and has not come to it yet"}
    # a word of Slurm's that we do not know is shown, and never taken for finished
    row = {"state": "running", "reason": job.word.replace("RUNNING", ""), **progress(attempt)}
    if failure := _failure(attempt):
        what = f"{failure['type']}: {failure['message']}"
        row |= {"reason": f"attempt {attempt.name} failed ({what}); its job goes on", "type": failure["type"]}
    return row


def _failure(attempt: Path | None) -> Row:
    """The failure of the rank that failed first: the others' are its consequences."""
    rows: list[Row] = [files.read_json(p) for p in attempt.glob("failure*.json")] if attempt else []
    return min(rows, key=lambda r: r["at"], default={})


def _run(run: Row, stages: dict[str, Any]) -> str:
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
