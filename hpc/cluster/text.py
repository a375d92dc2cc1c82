"""Submissions and states as a terminal shows them. `hpc submit X`, `hpc status X`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from hpc.errors import ClusterError, nearest

SHOWN = 40
"""Rows of a table; the rest is counted. --json has all of them."""
WIDE = 160
"""Characters of a reason in a table."""
MARKS = {"failed": "red", "running": "cyan", "pending": "", "cancelled": "magenta", "new": "dim", "published": "green"}
"""States in the order in which runs are listed, with their colour."""
REASONS = {
    "Priority": "others are before it in the queue",
    "Resources": "waits for free nodes",
    "Dependency": "waits for the jobs that make its inputs",
    "DependencyNeverSatisfied": "a job that makes its inputs has failed",
    "BeginTime": "requeued; Slurm starts it again in about two minutes",
    "JobArrayTaskLimit": "as many elements run as array_throttle allows",
    "ReqNodeNotAvail": "nodes are reserved, drained or down",
    "Reservation": "waits for a reservation",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs to run",
    "PartitionNodeLimit": "asks for more nodes than the partition allows: it never starts",
    "PartitionTimeLimit": "asks for more time than the partition allows: it never starts",
    "Licenses": "waits for a licence",
    "Cleaning": "being cleaned up after a requeue",
    "JobHeldUser": "held by you: scontrol release JOB",
    "JobHeldAdmin": "held by the cluster's staff",
    "NodeDown": "its node is down",
    "InvalidAccount": "the account is not valid: it never starts",
    "InvalidQOS": "the QoS is not valid: it never starts",
    "restart": "saved, and about to start again",
    "None": "not yet looked at by the scheduler",
}
"""Slurm's reasons for waiting in words (squeue's %r)."""
LIMITS = {
    "reqnodenotavail": "nodes are reserved, drained or down",
    "launch failed": "Slurm could not start it and holds it: scontrol release JOB",
    "minutes": "the budget of compute time is used up",
    "runmins": "the budget of compute time is used up",
    "maxjobs": "a limit on running jobs is reached",
    "grpjobs": "a limit on running jobs is reached",
    "submit": "a limit on jobs in the queue is reached",
    "maxwall": "asks for more time than a limit allows: it never starts",
    "gres": "a limit on GPUs is reached",
    "tres": "a limit on resources is reached",
    "maxnode": "a limit on nodes is reached",
    "grpnode": "a limit on nodes is reached",
    "maxcpu": "a limit on cores is reached",
    "grpcpu": "a limit on cores is reached",
    "maxmem": "a limit on memory is reached",
    "grpmem": "a limit on memory is reached",
}
"""Parts of reasons that come in many forms (QOSMaxGRESPerUser, AssocGrpGRES ...)."""


def submission(result: dict[str, Any], x: str) -> str:
    """What `hpc submit` did, what it left alone and why, and the next command."""
    there = f"{result['published']} stages are published, {result['live']} on their way"
    held = [f"  {key} is not tried again: {why}" for key, why in [*result["held"].items()][:SHOWN]]
    if held:
        held.append(f"next: hpc why {x} tells more; hpc submit {x} --again failed tries them all the same")
    if not result["arrays"]:
        return "\n".join([f"nothing to submit: {there}", *held, f"next: hpc status {x}"])
    verb = "would submit" if result["dry_run"] else "submitted"
    rows = [f"  {a['name']}: {len(a['indices'])} job(s)  {a.get('job_id') or ''}".rstrip() for a in result["arrays"]]
    changed = [f"  after a failure, {key}: {why}" for key, why in [*result["changed"].items()][:SHOWN]]
    later = [f"  {result['later']} more job(s) follow when the queue has room (max_submit)"] * bool(result["later"])
    mender = [f"  mender: {result['mender']}"] * bool(result["mender"])
    head = f"{verb} {result['jobs']} jobs in {len(result['arrays'])} arrays to {result['profile']} ({there})"
    return "\n".join([head, *rows, *mender, *changed, *later, *held, f"next: hpc status {x}"])


def status(state: dict[str, Any], console: Console) -> None:
    """Print a status document."""
    console.print(screen(state), highlight=False)


def screen(state: dict[str, Any]) -> Group:
    """A status document as a terminal shows it: a row per run, what is wrong, a line that counts."""
    wrong = [(k, s) for k, s in state["stages"].items() if s["state"] in ("failed", "cancelled")]
    rows = [f"  {s['stage']} {k} ({s['recipe']}): {s.get('reason') or s['state']}" for k, s in wrong[:SHOWN]]
    more = [f"  ... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return Group(_runs(state), *map(Text, [*rows, *more, summary(state)]))


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


def words(reason: str) -> str:
    """Slurm's reason for waiting, with what it means for the user; other texts as they are."""
    lower = reason.lower()
    known = REASONS.get(reason) or next((t for name, t in LIMITS.items() if name in lower), "")
    return f"{known} ({reason})" if known else reason


def clock(seconds: float) -> str:
    """2:05:09 or 3d 04:10, for a duration in seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours < 48 else f"{hours // 24}d {hours % 24:02d}:{minutes:02d}"


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
        why = words(stage.get("reason") or "") if stage.get("state") != "new" else "not submitted"
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
    """The first line, cut: the rest is in the list below, and in --json."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= WIDE else first[: WIDE - 3] + "..."


def _marked(text: str, state: str) -> str:
    color = MARKS.get(state, "")
    return f"[{color}]{text}[/]" if color else text
