"""Verbs of jobs: submit, status, logs, why, cancel, and the report on what they made.

hpc submit sweeps/mini.yaml
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpc.cli import common
from hpc.cli.common import Json, Name, On, Only, Overrides, Smoke

if TYPE_CHECKING:
    from hpc.cluster.profile import Profile


def submit(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write the job files, submit nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="submit above confirm_gpu_hours, and what would not fit")] = False,
    only: Only = None,
    again: Annotated[
        list[str] | None,
        typer.Option("--again", metavar="SELECTOR", help="as --only: retry what failed or was cancelled"),
    ] = None,
    smoke: Smoke = False,
) -> None:
    """Submit what is not yet made, and return at once. Said again, it resumes: nothing is submitted twice."""
    from hpc.cluster import fetch as fetching
    from hpc.cluster import submit as submitting
    from hpc.cluster import text
    from hpc.plan import forecast

    document, profile = common.planned(x, overrides, on, smoke)
    document, keys = common.selected(document, profile, only, again)
    if refused := forecast.refused(document):
        if not yes:
            raise refused
        print(f"warning: {refused}", file=sys.stderr)
    if not dry_run:
        fetching.refuse(document, profile, common.said(x, overrides, on or profile.name))
        _confirm(document, profile, yes)
    result = submitting.submit(document, profile, dry_run=dry_run, again=keys).document()
    said = common.said(x, overrides, on, smoke, [*(only or []), *(again or [])])
    common.print_json(result) if as_json else typer.echo(text.submission(result, said))


def status(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    wait: Annotated[bool, typer.Option("--wait", help="return when nothing is left to run; exit 1 on failure")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="redraw until nothing is left to run, or Ctrl-C")] = False,
    every: Annotated[float, typer.Option("--every", metavar="S", help="seconds between two looks", min=0)] = 0,
    only: Only = None,
    smoke: Smoke = False,
) -> None:
    """Show how far every run is, and why not further."""
    from rich.console import Console

    from hpc.cluster import status as asking
    from hpc.cluster import text
    from hpc.cluster import watch as watching

    document, profile = common.planned(x, overrides, on, smoke)
    document, _ = common.selected(document, profile, only, None)
    if watch:
        state = watching.watch(document, profile, Console(), every_s=every)
    elif wait:
        seen = watching.changes(lambda line: print(line, file=sys.stderr, flush=True))
        state = watching.wait(document, profile, seen, every_s=every)
    else:
        state = asking.status(document, profile)
    if smoke and state:
        from hpc.plan import smoke as smoking

        state["measured"] = smoking.measured(document, profile.all_roots)
    if as_json:
        common.print_json(state)
    elif state and not watch:
        text.status(state, Console())
    if smoke and state and not as_json:
        text.measured(state["measured"], Console())
    if wait and text.failed(state):
        print(text.failures(state, common.said(x, overrides, on, smoke, only), listed=not as_json), file=sys.stderr)
        raise typer.Exit(1)


def logs(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    key: Annotated[str, typer.Option("--key", help="a stage's key, as hpc status --json lists them")] = "",
    run: Annotated[
        str, typer.Option("--run", help="a run's name: the log of what failed, runs, or ended last in it")
    ] = "",
    rank: Annotated[int, typer.Option("--rank", help="whose log", min=0)] = 0,
    attempt: Annotated[int, typer.Option("--attempt", help="number of an attempt; default: the newest start")] = 0,
    batch: Annotated[bool, typer.Option("--batch", help="the batch script's own log, over all restarts")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as it is written, over restarts")] = False,
    only: Only = None,
    smoke: Smoke = False,
) -> None:
    """Print the newest log of one stage's job."""
    from hpc.cluster import logs as reading
    from hpc.cluster import status as asking
    from hpc.cluster import text

    document, profile = common.planned(x, overrides, on, smoke)
    document, _ = common.selected(document, profile, only, None)
    key = key or text.furthest(asking.status(document, profile), run)
    if follow:
        try:
            for piece in reading.follow(document, profile, key, rank=rank):
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            pass
        return
    path = reading.logs(document, profile, key, rank=rank, attempt=attempt, batch=batch)
    print(f"==> {path} <==")
    for piece in reading.blocks(path):
        print(piece, end="")


def why(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    run: Annotated[str, typer.Option("--run", help="only the stages of this run")] = "",
    key: Annotated[str, typer.Option("--key", help="only this stage, by its key as hpc status --json lists it")] = "",
    only: Only = None,
    smoke: Smoke = False,
) -> None:
    """Say why stages failed, by the lines that prove it, what was tried, what waits and for what, and what to do."""
    from hpc.cluster.failures import why as explaining

    document, profile = common.planned(x, overrides, on, smoke)
    document, _ = common.selected(document, profile, only, None)
    said = common.said(x, overrides, on, smoke, only)
    found = explaining.why(document, profile, run=run, key=key, x=said, plain=common.said(x, overrides, on))
    common.print_json(found) if as_json else typer.echo(explaining.text(found, said, profile.root))


def cancel(
    x: Name, overrides: Overrides = None, on: On = None, as_json: Json = False, only: Only = None, smoke: Smoke = False
) -> None:
    """Cancel every job of a recipe or sweep that is queued or running; with --only, what no other run needs.

    Without --only and overrides also what earlier states of the file, or other overrides, have asked for.
    """
    from hpc.cluster import status as asking
    from hpc.cluster import text
    from hpc.plan import choose

    document, profile = common.planned(x, overrides, on, smoke)
    chosen, _ = common.selected(document, profile, only, None)
    spared = choose.others(document, chosen)
    done = asking.cancel(chosen, profile, spared=spared, earlier=not (only or overrides))
    said = common.said(x, overrides, on, smoke, only)
    common.print_json(done._asdict()) if as_json else typer.echo(text.cancelled(done, document, said))


def report(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    out: Annotated[str, typer.Option("--out", help="folder; default ROOT/reports/NAME")] = "",
    to: Annotated[str, typer.Option("--to", metavar="wandb", help="send the results to W&B instead")] = "",
) -> None:
    """Build the tables and figures of what is published, as HTML, CSV and Markdown, and print the tables."""
    from pathlib import Path

    from analysis import report as reporting

    profile = common.find_profile(on)
    document = common.plan(x, overrides, profile)
    if to:
        from analysis import upload

        return typer.echo(upload.send(document, profile.all_roots, to))
    folder = Path(out) if out else profile.root / "reports" / document["name"]
    page = reporting.build(document, profile.all_roots, folder)
    reporting.render_terminal(folder)
    typer.echo(f"report: {page}")
    return None


def _confirm(plan: dict[str, Any], profile: Profile, yes: bool) -> None:
    """Ask before a submission that may cost much."""
    from hpc.cluster.budget import budget
    from hpc.errors import ClusterError

    limit = profile.confirm_gpu_hours
    if limit is None or yes or (cost := budget(plan, profile)).gpu_hours <= limit:
        return
    if sys.stdin.isatty() and typer.confirm(f"{cost}. Submit?", err=True):
        return
    raise ClusterError(
        f"not submitted: {cost}",
        where=f"profile {profile.name}",
        why=f"confirm_gpu_hours is {limit:g}",
        next="say --yes, or choose runs with --only; hpc plan shows what each stage asks for",
    )
