"""The plan as a terminal shows it: runs, stages, arrays, notes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpc.evals import stats
from hpc.plan import disk, outlook

SHOWN = 40
"""Rows of a table; the rest is counted. --json has all of them."""


def show(plan: dict[str, Any], console: Console) -> None:
    """Print a plan document."""
    console.print(f"[bold]{escape(plan['name'])}[/]  {escape(plan['about'])}", highlight=False)
    console.print(_runs(plan))
    console.print(_stages(plan))
    console.print(_arrays(plan))
    for line in _resolution(plan["tasks"]):
        console.print(escape(line), highlight=False)
    for note in plan["notes"]:
        console.print(f"note: {escape(note)}", highlight=False)
    if plan["unpinned"]:
        console.print(f"note: not fetched yet, so keys will change with their commit: {', '.join(plan['unpinned'])}")
    totals = plan["totals"]
    console.print(
        f"{totals['runs']} runs, {totals['stages']} stages ({totals['reused']} reused, {totals['to_make']} to make) "
        f"in {totals['jobs']} jobs, {totals['arrays']} arrays",
        highlight=False,
    )
    if line := disk.line(totals["disk"]):
        console.print(escape(line), highlight=False)
    for line in outlook.lines(plan):
        console.print(escape(line), highlight=False)


def _runs(plan: dict[str, Any]) -> Table:
    table = Table("run", "signature", "data", "train", "generate", title="runs", title_justify="left")
    for run in plan["runs"][:SHOWN]:
        stages = run["stages"]
        tasks = ", ".join(f"{task} {key[:8]}" for task, key in stages.get("generate", {}).items())
        table.add_row(run["name"], run["signature"], stages.get("data", "")[:8], stages.get("train", "")[:8], tasks)
    return _rest(table, len(plan["runs"]))


def _stages(plan: dict[str, Any]) -> Table:
    table = Table(
        "stage", "key", "recipe", "task", "state", "runs", "GPUs", "nodes", title="stages", title_justify="left"
    )
    for s in plan["stages"][:SHOWN]:
        state = s["state"]
        if s["made_by"]:
            state += f" ({s['made_by']['finished'][:10]}{', other code' if s['made_by']['other_code'] else ''})"
        table.add_row(
            s["stage"],
            s["key"],
            s["recipe"],
            s["task"] or "",
            state,
            str(s["num_runs"]),
            str(s["gpus"]),
            str(s["nodes"]),
        )
    return _rest(table, len(plan["stages"]))


def _arrays(plan: dict[str, Any]) -> Table:
    table = Table(
        "array", "jobs", "stages", "waits for", "resources", title="arrays (one sbatch each)", title_justify="left"
    )
    for array in plan["arrays"][:SHOWN]:
        waits = ", ".join(f"{p['type']} {p['array']}" for p in array["parents"])
        asked = " ".join(f"{k}={v}" for k, v in array["resources"].items() if v)
        table.add_row(
            array["name"], str(len(array["jobs"])), str(sum(len(j["stages"]) for j in array["jobs"])), waits, asked
        )
    return _rest(table, len(plan["arrays"]))


def _resolution(tasks: list[dict[str, Any]]) -> list[str]:
    """What every task can tell apart, and what that assumes."""
    lines = []
    for task in tasks:
        least = task["detectable_points"]
        found = (
            f"smallest detectable paired difference {stats.in_points(least / 100)} points"
            if least
            else "too few to compare two models"
        )
        lines.append(f"{task['task']}: {stats.size_note(task['questions'])}; {found}")
    return [*lines, f"(detectable: {stats.ASSUMED})"] if lines else []


def _rest(table: Table, rows: int) -> Table:
    if rows > SHOWN:
        table.caption = f"... and {rows - SHOWN} more (--json has them)"
    return table
