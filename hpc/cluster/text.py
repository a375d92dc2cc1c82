"""Submissions and states as a terminal shows them. `hpc submit X`, `hpc status X`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpc.errors import ClusterError, nearest

SHOWN = 40
"""Rows of a table; the rest is counted. --json has all of them."""
MARKS = {"published": "green", "running": "cyan", "pending": "", "failed": "red", "cancelled": "magenta", "new": "dim"}


def submission(result: dict[str, Any], x: str) -> str:
    """What `hpc submit` did, and the next command."""
    there = f"{result['published']} stages are published, {result['live']} on their way"
    if not result["arrays"]:
        return f"nothing to submit: {there}\nnext: hpc status {x}"
    verb = "would submit" if result["dry_run"] else "submitted"
    rows = [f"  {a['name']}: {len(a['indices'])} job(s)  {a.get('job_id') or ''}".rstrip() for a in result["arrays"]]
    head = f"{verb} {result['jobs']} jobs in {len(result['arrays'])} arrays to {result['profile']} ({there})"
    return "\n".join([head, *rows, f"next: hpc status {x}"])


def status(state: dict[str, Any], console: Console) -> None:
    """Print a status document: runs by state, stages at work with their progress, failures with their reason."""
    console.print(_runs(state))
    busy = [s for s in state["stages"].values() if s["state"] in ("running", "failed", "cancelled")]
    if busy:
        console.print(_stages(busy))
    console.print(summary(state), highlight=False)


def summary(state: dict[str, Any]) -> str:
    """One line: how many stages are in which state."""
    counts = ", ".join(f"{n} {name}" for name, n in sorted(state["totals"].items()))
    return f"{state['name']} on {state['profile']}: {counts}"


def failed(state: dict[str, Any]) -> bool:
    """True if some run will not be complete without another submit."""
    return any(run["state"] in ("failed", "cancelled", "new") for run in state["runs"])


def failures(state: dict[str, Any], x: str) -> str:
    """What went wrong and the next command; empty when nothing did."""
    wrong = {k: s for k, s in state["stages"].items() if s["state"] in ("failed", "cancelled")}
    rows = [f"  {s['stage']} {k} ({s['recipe']}): {s.get('reason') or s['state']}" for k, s in wrong.items()]
    if not rows:
        return f"not complete: some stages were never submitted\nnext: hpc submit {x}" if failed(state) else ""
    key = next(iter(wrong))
    return "\n".join(["not complete:", *rows, f"next: hpc logs {x} --key {key}; then hpc submit {x} resumes"])


def furthest(state: dict[str, Any], run: str = "") -> str:
    """The key of the stage whose log tells most: one that failed, else one that runs, else the last published.

    Raises:
        ClusterError: no such run, or nothing has started.
    """
    runs = {r["name"]: r["stages"] for r in state["runs"]}
    if run and run not in runs:
        raise ClusterError(
            f'there is no run "{run}"', where=state["name"], why=nearest(run, runs), next="hpc status lists them"
        )
    values = runs[run].values() if run else []
    keys = [k for v in values for k in (v.values() if isinstance(v, dict) else [v])] or list(state["stages"])
    for wanted in ("failed", "running", "cancelled", "published"):
        found = [k for k in keys if state["stages"][k]["state"] == wanted]
        if found:
            return str(found[-1] if wanted == "published" else found[0])
    raise ClusterError(
        "nothing has started yet, so there is no log",
        where=state["name"],
        why=summary(state),
        next="hpc status shows what it waits for",
    )


def _runs(state: dict[str, Any]) -> Table:
    table = Table("run", "data", "train", "generate", "grade")
    for run in state["runs"][:SHOWN]:
        table.add_row(
            run["name"], *(_cell(state, run["stages"].get(n)) for n in ("data", "train", "generate", "grade"))
        )
    if len(state["runs"]) > SHOWN:
        table.caption = f"... and {len(state['runs']) - SHOWN} more (--json has them)"
    return table


def _cell(state: dict[str, Any], keys: Any) -> str:
    chosen = list(keys.values()) if isinstance(keys, dict) else [keys] if keys else []
    counts = Counter(state["stages"][k]["state"] for k in chosen)
    parts = [_marked(name if len(chosen) == 1 else f"{n} {name}", name) for name, n in counts.items()]
    return ", ".join(parts)


def _marked(text: str, state: str) -> str:
    color = MARKS.get(state, "")
    return f"[{color}]{text}[/]" if color else text


def _stages(rows: list[dict[str, Any]]) -> Table:
    table = Table("stage", "recipe", "task", "state", "progress", "reason")
    for s in rows[:SHOWN]:
        row = s.get("progress", {})
        shown = " ".join(
            f"{k} {row[k]:.4g}"
            for k in ("step", "loss", "tokens_per_s", "done")
            if isinstance(row.get(k), (int, float))
        )
        table.add_row(
            s["stage"],
            s["recipe"],
            s["task"] or "",
            _marked(s["state"], s["state"]),
            shown,
            escape(s.get("reason") or ""),
        )
    return table
