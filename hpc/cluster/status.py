"""What became of a plan: one document from artifacts, ledger, queue and the attempts' files. `hpc status X`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hpc import artifact, files
from hpc.cluster import queue
from hpc.cluster.cover import LOST, REPLACED, SETTLING, UNDECIDED, WITHDRAWN, Cover, Job, Plan, look
from hpc.cluster.failures import reasons
from hpc.cluster.ledger import Element, Intent, Ledger, absolute
from hpc.cluster.logs import logs as logs
from hpc.cluster.profile import Profile
from hpc.cluster.progress import progress
from hpc.cluster.reports import listed
from hpc.errors import ClusterError

UNSEEN = "its job completed, but the artifact is not to be seen"
SILENT = 3
"""Polls in a row that Slurm may leave unanswered."""
BUSY = {"pending", "running"}
CANCELLED = {"CANCELLED", WITHDRAWN, REPLACED, "DEADLINE", "REVOKED"}
WORDS = {LOST: "Slurm no longer knows the job, and it has not said how it ended", "COMPLETED": UNSEEN}
UNMET = "DependencyNeverSatisfied"

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
    queue.release(cover.stuck)
    begun = {stage: listed(root / "work" / stage) for stage in {s["stage"] for s in plan["stages"]}}
    ledger = Ledger(root)
    stages = {s["key"]: _stage(s, cover, ledger, root, s["key"] in begun[s["stage"]]) for s in plan["stages"]}
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


def _stage(spec: Row, cover: Cover, ledger: Ledger, root: Path, begun: bool) -> Row:
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
    return {**row, **_live_or_over(job, own, cover, ledger, key)}


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


def _live_or_over(job: Job, attempt: Path | None, cover: Cover, ledger: Ledger, key: str) -> Row:
    if job.word == SETTLING:
        return {"state": "running", "reason": "its job completed, and the artifact is not to be seen yet"}
    if not job.over:
        return _live(job, attempt)
    if failure := _failure(attempt):
        return {"state": "failed", "reason": failure["message"], "type": failure["type"], "attempt": str(attempt)}
    if job.word in CANCELLED:
        return {"state": "cancelled", "reason": why_over(job, cover, ledger.withdrawn) or job.word}
    if cover.reports.last(job.element).get("stages", {}).get(key) == "blocked":
        return {"state": "failed", "reason": "an input of the same job failed"}
    if job.word in WORDS:
        return {"state": "failed", "reason": WORDS[job.word]}
    return {"state": "failed", "reason": f"{job.word} {why_over(job, cover, {})}".strip()}


def why_over(job: Job, cover: Cover, withdrawn: Mapping[Element, str]) -> str:
    """What ended a job; empty if nobody says. Slurm still shows what it had waited for: that is not the reason."""
    if job.word in CANCELLED and job.element in withdrawn:
        return withdrawn[job.element]
    reason = "" if reasons.waits(job.reason) and job.reason != UNMET else job.reason
    unmet = any(k not in cover.published and k not in cover.live for k in job.needs)
    return UNMET if not reason and job.word == "CANCELLED" and unmet else reason


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


class Cancelled(NamedTuple):
    """Jobs that `cancel` has ended: of the plan itself, of what its file asked for earlier, and menders.

    `shared`: jobs of the plan that it left alone because they make what is spared.
    """

    own: int
    earlier: int
    menders: int
    shared: int


def cancel(plan: Plan, profile: Profile, *, spared: Collection[str] = (), earlier: bool = True) -> Cancelled:
    """Cancel every job of a plan that waits or runs, and the menders that would have nothing left to mend.

    A job that other plans wait for is cancelled as well: it makes the same artifact.

    Args:
        spared: keys of the plan that go on; a job that makes one of these is left alone.
        earlier: also jobs that an earlier state of the recipe asked for: they bear its name and its file.

    Raises:
        ClusterError: Slurm does not answer.
    """
    ledger, path = Ledger(profile.root), absolute(plan)
    planned = {s["key"] for s in plan["stages"]}
    own = planned - set(spared)
    asked = [i for i in ledger.intents if earlier and path and (i.plan, i.path) == (plan["name"], path)]
    wanted = own | {k for i in asked for p in i.pieces for k in p.keys}
    concerned = [i for i in ledger.intents if any(wanted & p.keys for p in i.pieces)]
    rows = [{"stage": p.kind, "key": k} for i in concerned for p in i.pieces for k in p.keys]
    cover = look({**plan, "stages": [*plan["stages"], *rows]}, profile)
    wanted, kept = wanted - cover.published.keys(), set(spared) - cover.published.keys()
    live = [j for j in cover.jobs if not j.over and j.word != SETTLING]
    ended = [j for j in live if wanted & set(j.stages) and not kept & set(j.stages)]
    elements = {j.element for j in ended}
    gone = wanted | cover.published.keys()
    menders = _menders([i for i in concerned if all(p.keys <= gone for p in i.pieces)], ledger)
    ledger.withdraw([*elements, *menders], "hpc cancel")
    for intent, piece in cover.undecided:
        if wanted & piece.keys and not kept & piece.keys:
            ledger.decide(intent.submission, piece.name, {"replaced": "hpc cancel"})
    kinds = {i.submission: i.kind for i in ledger.intents}
    ids = {j.job_id for j in ended if j.job_id and kinds[j.element[0]] == "slurm"}
    queue.cancel(sorted({*ids, *menders.values()}))
    number = sum(bool(own & set(j.stages)) for j in ended)
    shared = sum(bool(kept & planned & set(j.stages)) for j in live)
    return Cancelled(number, len(ended) - number, len(menders), shared)


def _menders(intents: list[Intent], ledger: Ledger) -> dict[Element, str]:
    """Menders of these submissions that wait or run -> their ids."""
    pieces = [(i, p) for i in intents if i.kind == "slurm" for p in i.pieces if not p.keys]
    if not pieces:
        return {}
    table = queue.look([(p.job_name, None) for _, p in pieces], min(i.when for i, _ in pieces))
    found: dict[Element, str] = {}
    for intent, piece in pieces:
        seen = table.get((piece.job_name, None))
        if seen is not None and not seen.over:
            found[(intent.submission, piece.name, 0)] = seen.job_id
        elif seen is None:  # between its intent and its sbatch, or long gone: it must not come any more
            ledger.decide(intent.submission, piece.name, {"replaced": "hpc cancel"})
    return found
