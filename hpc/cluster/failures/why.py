"""What went wrong with a plan, and what waits: one root cause for each failed stage, equal ones together. `hpc why X`.

A stage that was cancelled because its input failed is counted with that input's failure.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpc import artifact
from hpc.cluster import rescue
from hpc.cluster.cover import REPLACED, WITHDRAWN, Cover, Job, Plan, look
from hpc.cluster.failures import evidence, reasons
from hpc.cluster.failures.causes import Evidence, Verdict, classify
from hpc.cluster.failures.cures import CAUSES
from hpc.cluster.ledger import Ledger
from hpc.cluster.logs import unknown
from hpc.cluster.profile import Profile
from hpc.cluster.status import status, why_over

WRONG = ("failed", "cancelled")
BLOCKED = "an input of the same job failed"
SHOWN = 6
"""Stages of a group that are named in the text; the document has all."""
WIDE = 240
"""Characters of a proving line that the text shows."""

Row = dict[str, Any]


def why(plan: Plan, profile: Profile, *, run: str = "", key: str = "", x: str = "", plain: str = "") -> Row:
    """Explain every stage that failed, was cancelled or waits.

    Args:
        run: only the stages of this run. key: only this stage.
        x: the words by which the user named the plan, for the advice; empty is its name.
        plain: these without --smoke and --only.

    Returns:
        {"name", "profile", "failures": [{"cause", "cure", "words", "next", "exception", "host", "proof": [{"path",
        "line", "text"}], "stages": [{"key", "stage", "recipe", "task", "runs", "job"}], "dependents": [keys],
        "tried": [...]}], "pending": [{"reason", "words", "next", "stages": [keys]}], "totals": {state: count}}.
        A failure's proof and tried are those of its first stage.

    Raises:
        ClusterError: no such run or stage, or Slurm does not answer.
    """
    state = status(plan, profile)
    chosen = _chosen(state, run, key)
    case = Case(plan, profile, look(plan, profile), state)
    wrong = [k for k in chosen if state["stages"][k]["state"] in WRONG]
    case.ask_slurm({case.root(k) for k in wrong})
    x = x or state["name"]
    found = [*_failures(case, wrong), *_pending([(k, state["stages"][k]) for k in chosen])]
    for row in found:
        row["next"] = row["next"].replace("{x}", x).replace("{plain}", plain or x)
    return {
        "name": state["name"],
        "profile": state["profile"],
        "failures": [row for row in found if "cause" in row],
        "pending": [row for row in found if "cause" not in row],
        "totals": state["totals"],
    }


class Case:
    """A plan as it stands: finds the root of each failed stage, and judges its job."""

    def __init__(self, plan: Plan, profile: Profile, cover: Cover, state: Row) -> None:
        self.profile, self.cover, self.stages = profile, cover, state["stages"]
        self.specs = {s["key"]: s for s in plan["stages"]}
        self.runs = {r["name"]: _keys(r) for r in state["runs"]}
        self.withdrawn = Ledger(profile.root).withdrawn
        self.steps: dict[Any, list[str]] = {}
        self.words: dict[str, Verdict] = {}

    def root(self, key: str) -> str:
        """The stage whose failure `key` suffers from: itself, or an input that failed."""
        while True:
            row = self.stages[key]
            if row["state"] != "cancelled" and row.get("reason") != BLOCKED:
                return key
            inputs = [i["key"] for i in self.specs[key]["inputs"].values() if i.get("key") in self.stages]
            wrong = [k for k in inputs if self.stages[k]["state"] in WRONG]
            if not wrong:
                return key
            key = min(wrong, key=lambda k: self.stages[k]["state"] != "failed")

    def ask_slurm(self, keys: Collection[str]) -> None:
        """Ask accounting once for the steps of all jobs that are to be judged."""
        names: dict[tuple[str, str], tuple[str, int]] = {}
        since = float("inf")
        elements = {job.element for k in keys if (job := self.cover.latest(k)) is not None}
        for intent in (i for i in Ledger(self.profile.root).intents if i.kind == "slurm"):
            for piece in intent.pieces:
                if any((e[0], e[1]) == (intent.submission, piece.name) for e in elements):
                    names[(intent.submission, piece.name)] = (piece.job_name, len(piece.elements))
                    since = min(since, intent.when)
        found = evidence.steps({name for name, _ in names.values()}, since) if names else {}
        for element in elements:
            name, count = names.get((element[0], element[1]), ("", 0))
            self.steps[element] = found.get((name, element[2] if count > 1 else None), [])

    def verdict(self, key: str) -> Verdict:
        """Why the stage `key` was not made."""
        if key not in self.words:
            job = self.cover.latest(key)
            assert job is not None, "a stage that failed was submitted"
            self.words[key] = self._judge(key, job)
        return self.words[key]

    def _judge(self, key: str, job: Job) -> Verdict:
        reason = why_over(job, self.cover, self.withdrawn)
        said = f"{job.word} {reason}".strip()
        if job.word in (WITHDRAWN, REPLACED) or (job.word == "CANCELLED" and job.element in self.withdrawn):
            return _cancelled(reason)
        code = re.fullmatch(r"exit (-?\d+)", reason)
        found = evidence.of_start(
            self.profile.root,
            *job.element,
            code=int(code.group(1)) if code else None,
            slurm=said,
            steps=self.steps.get(job.element, []),
        )
        verdict = classify(_of_stage(found, key))
        if verdict.cause in ("unknown", "cancelled") and reason and not code:
            words = f"{CAUSES[verdict.cause].words}: {reasons.words(reason)}"
            return Verdict(**{**vars(verdict), "words": words})
        return verdict

    def describe(self, key: str) -> Row:
        """What a stage is called, and which runs want it."""
        row = self.stages[key]
        return {
            "key": key,
            **{name: row[name] for name in ("stage", "recipe", "task", "state")},
            "runs": [name for name, keys in self.runs.items() if key in keys],
            "job": row.get("job", ""),
        }

    def tried(self, key: str) -> list[Row]:
        """What was done for a stage: its attempts, what their jobs decided about them, what the mender changed."""
        folder = self.profile.root / "work" / self.specs[key]["stage"] / key
        found = [_attempt(path) for path in artifact.attempts(folder)]
        for job in (j for j in self.cover.jobs if key in j.stages):
            jobfile = self.profile.root / "jobs" / job.element[0] / f"{job.element[1]}.json"
            if not jobfile.exists():
                continue
            element = evidence.record(jobfile).get("elements", {}).get(str(job.element[2]), {})
            if element.get("cured"):
                found.append({"what": "mended", "words": element["cured"], "settings": element.get("settings", {})})
            names = ("start", "cause", "cure", "exception", "words", "settings", "host", "at")
            for said in rescue.records(jobfile, job.element[2]):
                found.append({"what": "rescue", **{n: said.get(n, "") for n in names}})
        return found


def _of_stage(found: Evidence, key: str) -> Evidence:
    """Of a job with several stages, only this one's failure rows, where it has left any."""
    own = [r for r in found.failures if r.get("key") == key]
    return Evidence(found.logs, own or found.failures, found.slurm, found.steps, found.code, found.hosts)


def _cancelled(reason: str) -> Verdict:
    cause = CAUSES["cancelled"]
    return Verdict("cancelled", cause.cure, [], "", "", f"{cause.words}: {reason}", cause.next)


def _attempt(folder: Path) -> Row:
    head = evidence.record(folder / "attempt.json")
    rows = [row for p in folder.glob("failure*.json") if (row := evidence.record(p))]
    first = min(rows, key=lambda r: (str(r.get("at", "~")), r.get("time", 0)), default={})
    said = f"{first['type']}: {str(first['message']).splitlines()[0] if first['message'] else ''}" if first else ""
    start = ".".join(str(head.get(n, "?")) for n in ("job_id", "restart", "try"))
    more = {"start": start, "host": head.get("host", ""), "at": head.get("started", "")}
    return {"what": "attempt", "number": int(folder.name), **more, "words": said.rstrip(": ")}


def _failures(case: Case, wrong: list[str]) -> list[Row]:
    """Failed stages by their roots, equal causes together; what most stages suffer from comes first."""
    suffer: dict[str, list[str]] = {}
    for key in wrong:
        suffer.setdefault(case.root(key), []).append(key)
    groups: dict[tuple[str, str], list[str]] = {}
    for root in suffer:
        verdict = case.verdict(root)
        groups.setdefault((verdict.cause, verdict.exception or verdict.words), []).append(root)
    rows = [_failure(case, roots, [k for r in roots for k in suffer[r] if k != r]) for roots in groups.values()]
    return sorted(rows, key=lambda r: -len(r["stages"]) - len(r["dependents"]))


def _failure(case: Case, roots: list[str], dependents: list[str]) -> Row:
    verdict = case.verdict(roots[0])
    hosts = sorted({h for r in roots if (h := case.verdict(r).host)})
    return {
        **{n: getattr(verdict, n) for n in ("cause", "cure", "words", "next", "exception")},
        "host": ",".join(hosts),
        "proof": [asdict(p) for p in verdict.proof],
        "stages": [case.describe(k) for k in roots],
        "dependents": dependents,
        "tried": case.tried(roots[0]),
    }


def _pending(rows: list[tuple[str, Row]]) -> list[Row]:
    groups: dict[str, list[tuple[str, Row]]] = {}
    for key, row in rows:
        if row["state"] == "pending":
            groups.setdefault(row.get("reason") or "", []).append((key, row))
    found = []
    for reason, members in groups.items():
        words, advice = reasons.explain(reason)
        job = next((r["job"] for _, r in members if r.get("job")), "JOB")
        keys = [k for k, _ in members]
        found.append({"reason": reason, "words": words, "next": re.sub(r"\bJOB\b", job, advice), "stages": keys})
    return found


def _keys(run: Row) -> list[str]:
    return [k for v in run["stages"].values() for k in (v.values() if isinstance(v, dict) else [v])]


def _chosen(state: Row, run: str, key: str) -> list[str]:
    """The stages that are asked about, in the plan's order."""
    runs = {r["name"]: _keys(r) for r in state["runs"]}
    for name, given, valid in (("run", run, runs), ("stage", key, state["stages"])):
        if given and given not in valid:
            raise unknown(name, given, valid, state["name"])
    return [k for k in state["stages"] if (not key or k == key) and (not run or k in runs[run])]


def text(found: Row, x: str, root: Path) -> str:
    """The document as a terminal shows it; `x` is what the user called the plan. Paths are shown below `root`."""
    counts = ", ".join(f"{n} {name}" for name, n in sorted(found["totals"].items()))
    parts = [f"{found['name']} on {found['profile']}: {counts}"]
    parts += [_failure_text(row, root) for row in found["failures"]]
    parts += [_pending_text(row) for row in found["pending"]]
    if not found["failures"] and not found["pending"]:
        new, busy = found["totals"].get("new", 0), found["totals"].get("running", 0)
        advice = f"\n  next: hpc status {x} --watch" if busy else f"\n  next: hpc submit {x}" if new else ""
        parts.append(f"nothing failed, and nothing waits{advice}")
    return "\n\n".join(parts)


def _failure_text(row: Row, root: Path) -> str:
    count = len(row["stages"])
    where = f" on {row['host']}" if row["host"] else ""
    lines = [f"{row['cause']}, {count} stage{'s' * (count > 1)}{where}: {row['words']}"]
    for stage in row["stages"][:SHOWN]:
        runs = f"run {', '.join(stage['runs'][:3])}{' ...' * (len(stage['runs']) > 3)}" if stage["runs"] else ""
        parts = (stage["stage"], stage["task"], stage["key"], runs, f"job {stage['job']}" if stage["job"] else "")
        lines.append("  " + "  ".join(filter(None, parts)))
    if count > SHOWN:
        lines.append(f"  ... and {count - SHOWN} more (--json has them)")
    if row["proof"]:
        lines.append("  proof:")
    lines += [f"    {_place(p, root)}: {p['text'].strip()[:WIDE]}" for p in row["proof"]]
    if row["tried"]:
        lines.append("  so far:")
    lines += [f"    {_tried_text(t)}" for t in row["tried"]]
    if row["dependents"]:
        lines.append(f"  {len(row['dependents'])} more stage(s) wait for it and were cancelled or left out")
    return "\n".join([*lines, f"  next: {row['next']}"])


def _tried_text(row: Row) -> str:
    if row["what"] == "attempt":
        return f"attempt {row['number']}, {row['at']}, {row['host']}, start {row['start']}: {row['words'] or 'no word'}"
    changed = f", with {row['settings']}" if row["settings"] else ""
    if row["what"] == "mended":
        return f"submitted again because of {row['words']}{changed}"
    done = {"here": "started again on the same node", "elsewhere": "requeued, away from the node"}
    return f"start {row['start']} ended by {row['cause']}: {done.get(row['cure'], 'not started again')}{changed}"


def _pending_text(row: Row) -> str:
    count, reason = len(row["stages"]), row["reason"] or "no reason given"
    lines = [f"pending, {count} stage{'s' * (count > 1)} ({reason}): {row['words']}"]
    return "\n".join([*lines, f"  next: {row['next']}"])


def _place(proof: Row, root: Path) -> str:
    path = Path(proof["path"])
    if proof["path"] == "slurm":
        return "Slurm"
    return f"{path.relative_to(root) if path.is_relative_to(root) else path}:{proof['line']}"
