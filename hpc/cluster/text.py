"""Submissions and states as a terminal shows them. `hpc submit X`, `hpc status X`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from hpc.cluster.failures import reasons
from hpc.cluster.logs import unknown
from hpc.errors import ClusterError

if TYPE_CHECKING:
    from hpc.cluster.status import Cancelled

SHOWN = 40
"""Rows of a table; the rest is counted. --json has all of them."""
WIDE = 160
"""Characters of a reason in a table."""
MARKS = {"failed": "red", "running": "cyan", "pending": "", "cancelled": "magenta", "new": "dim", "published": "green"}
"""States in the order in which runs are listed, with their colour."""


def submission(result: dict[str, Any], x: str) -> str:
    """What `hpc submit` did, what it left alone and why, and the next command."""
    there = f"{result['published']} stages are published, {result['live']} on their way"
    held = [f"  {key} is not tried again: {why}" for key, why in [*result["held"].items()][:SHOWN]]
    if held:
        held.append(f"next: hpc why {x} tells more; hpc submit {x} --again failed tries them all the same")
    follow = "follow when the queue has room" if result["mender"] else "wait: hpc submit again when the queue has room"
    later = [f"  {result['later']} more job(s) {follow} (max_submit)"] * bool(result["later"])
    mender = [f"  mender: {result['mender']}"] * bool(result["mender"])
    if not result["arrays"]:
        return "\n".join([f"nothing to submit now: {there}", *mender, *later, *held, f"next: hpc status {x}"])
    verb = "would submit" if result["dry_run"] else "submitted"
    rows = [f"  {a['name']}: {len(a['indices'])} job(s)  {a.get('job_id') or ''}".rstrip() for a in result["arrays"]]
    changed = [f"  after a failure, {key}: {why}" for key, why in [*result["changed"].items()][:SHOWN]]
    head = f"{verb} {result['jobs']} jobs in {len(result['arrays'])} arrays to {result['profile']} ({there})"
    return "\n".join([head, *rows, *mender, *changed, *later, *held, f"next: hpc status {x}"])


def status(state: dict[str, Any], console: Console) -> None:
    """Print a status document."""
    console.print(screen(state), highlight=False)


def screen(state: dict[str, Any]) -> Group:
    """A status document as a terminal shows it: a row per run, what is wrong, a line that counts."""
    return Group(_runs(state), *map(Text, [*_wrong(state), summary(state)]))


def _wrong(state: dict[str, Any]) -> list[str]:
    """A line for each stage that failed or was cancelled; hpc why and --json tell more."""
    wrong = [(k, s) for k, s in state["stages"].items() if s["state"] in ("failed", "cancelled")]
    rows = [f"  {s['stage']} {k} ({s['recipe']}): {_short(words(s)) or s['state']}" for k, s in wrong[:SHOWN]]
    return rows + [f"  ... and {len(wrong) - SHOWN} more (--json has them)"] * (len(wrong) > SHOWN)


def summary(state: dict[str, Any]) -> str:
    """One line: how many stages are in which state."""
    counts = ", ".join(f"{n} {name}" for name, n in sorted(state["totals"].items()))
    return f"{state['name']} on {state['profile']}: {counts}"


def failed(state: dict[str, Any]) -> bool:
    """True if some run will not be complete without another submit."""
    return any(run["state"] in ("failed", "cancelled", "new") for run in state["runs"])


def failures(state: dict[str, Any], x: str, *, listed: bool) -> str:
    """That it is not complete, and the next command. `listed`: the table above has named the stages already."""
    rows = _wrong(state)
    if not rows:
        return f"not complete: some stages were never submitted\nnext: hpc submit {x}"
    advice = f"next: hpc why {x} tells more; then hpc submit {x} resumes"
    return "\n".join(["not complete" if listed else "not complete:", *([] if listed else rows), advice])


def cancelled(done: Cancelled, plan: dict[str, Any], x: str) -> str:
    """What `hpc cancel` has ended, what it left, and the next command."""
    rows = [f"cancelled {done.own} job(s) of {plan['name']}"]
    if done.earlier:
        rows.append(f"  and {done.earlier} that earlier states of {plan['path']} (or overrides) asked for")
    if done.menders:
        rows.append(f"  and {done.menders} mender(s)")
    if done.shared:
        rows.append(f"  {done.shared} job(s) go on: runs that were not selected need them too")
    return "\n".join([*rows, f"next: hpc submit {x} starts what is missing again"])


def furthest(state: dict[str, Any], run: str = "") -> str:
    """The key of the stage whose log tells most: one that failed, else one that runs, else the last published.

    Raises:
        ClusterError: no such run, or nothing has started.
    """
    runs = {r["name"]: r["stages"] for r in state["runs"]}
    if run and run not in runs:
        raise unknown("run", run, runs, state["name"])
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


MEASURED = {"seconds": 0, "tokens_per_s": 0, "host_gib": 1, "gpu_gib": 1}
"""Columns of `hpc status X --smoke`, and their digits after the point."""


def measured(rows: list[dict[str, Any]], console: Console) -> None:
    """Print what the stages of a smoke test took, beside what the plan says; empty where nobody knows."""
    table = Table("stage", "recipe", *(Column(n, justify="right") for n in MEASURED), title="measured (planned)")
    for row in rows:
        values = [_beside(row[n], row[f"planned_{n}"], digits) for n, digits in MEASURED.items()]
        table.add_row(" ".join(filter(None, [row["stage"], row["task"]])), row["recipe"], *values)
    console.print(table)


def _beside(value: float | None, planned: float | None, digits: int) -> str:
    shown = "" if value is None else f"{value:,.{digits}f}"
    return shown if planned is None else f"{shown} ({planned:,.{digits}f})".strip()


def current(run: dict[str, Any], stages: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The stage of a run that its row tells of: what failed, else what runs, waits, is next; else its last."""
    keys = [k for v in run["stages"].values() for k in (v.values() if isinstance(v, dict) else [v]) if k in stages]
    for wanted in ("failed", "running", "cancelled", "pending", "new"):
        found = [k for k in keys if stages[k]["state"] == wanted]
        if found:
            return found[0], stages[found[0]]
    return (keys[-1], stages[keys[-1]]) if keys else ("", {})


def clock(seconds: float) -> str:
    """2:05:09 or 3d 04:10, for a duration in seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours < 48 else f"{hours // 24}d {hours % 24:02d}:{minutes:02d}"


def words(stage: dict[str, Any]) -> str:
    """Why a stage is not further; Slurm's reason for waiting with what it means. An exception's text is no such."""
    reason = stage.get("reason") or ""
    return reasons.words(reason) if stage.get("state") in ("pending", "cancelled") else reason


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "progress": lambda s: _share(s, "step", "steps") or _share(s, "done", "total"),
    "ETA": lambda s: clock(s["eta_s"]) if "eta_s" in s else "",
    "loss": lambda s: f"{s['loss']:.4g}" if isinstance(s.get("loss"), int | float) else str(s.get("loss", "")),
    "tokens/s": lambda s: f"{s['tokens_per_s']:,.0f}" if isinstance(s.get("tokens_per_s"), int | float) else "",
    "job": lambda s: s.get("job") or "",
    "tries": lambda s: _tries(s),
    "start": lambda s: s.get("start", "").replace("T", " ")[5:16],
}
"""Columns of a run's row after name, state and stage; one that is empty everywhere is left out."""


def _runs(state: dict[str, Any]) -> Table:
    """Runs at work and in trouble come first, so that a long sweep shows them."""
    ordered = sorted(state["runs"], key=lambda r: list(MARKS).index(r["state"]))[:SHOWN]
    chosen = [(run, current(run, state["stages"])[1]) for run in ordered]
    cells = {name: [show(stage) for _, stage in chosen] for name, show in COLUMNS.items()}
    kept = {name: column for name, column in cells.items() if any(column)}
    table = Table(
        "run", "state", "stage", *(Column(n, justify="right", no_wrap=True) for n in kept), Column("why", ratio=1)
    )
    for number, (run, stage) in enumerate(chosen):
        row = [column[number] for column in kept.values()]
        why = words(stage) if stage.get("state") != "new" else "not submitted"
        table.add_row(
            escape(run["name"]), _marked(run["state"], run["state"]), _place(run, stage), *row, escape(_short(why))
        )
    if len(state["runs"]) > SHOWN:
        table.caption = f"... and {len(state['runs']) - SHOWN} more (--json has them)"
    return table


def _place(run: dict[str, Any], stage: dict[str, Any]) -> str:
    """The stage's name and task; empty when the whole run is there."""
    return "" if run["state"] == "published" else " ".join(filter(None, [stage.get("stage"), stage.get("task")]))


def _share(stage: dict[str, Any], part: str, whole: str) -> str:
    if part not in stage:
        return ""
    return f"{stage[part]}/{stage[whole]}" if whole in stage else f"{part} {stage[part]}"


def _tries(stage: dict[str, Any]) -> str:
    """Attempts, where there was more than one, and how many of them Slurm's requeues account for."""
    attempts, restarts = stage.get("attempts", 0), stage.get("restarts", 0)
    return "" if attempts < 2 else f"{attempts}" + (f" ({restarts} requeued)" if restarts else "")


def _short(text: str) -> str:
    """The first line, cut: hpc why and --json have the rest."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= WIDE else first[: WIDE - 3] + "..."


def _marked(text: str, state: str) -> str:
    color = MARKS.get(state, "")
    return f"[{color}]{text}[/]" if color else text
