"""The command `hpc`: thin verbs over the package; every heavy import is inside its verb.

hpc plan sweeps/mini.yaml
"""

from __future__ import annotations

import json
import shlex
import sys
from gc import set_threshold
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpc.errors import HpcError

if TYPE_CHECKING:
    from hpc.cluster.profile import Profile
    from hpc.recipe.sweep import Sweep

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Declare, plan, run and analyse reasoning-model experiments on Slurm.",
)

_profiles: list[Profile] = []
"""The profiles of this command, for errors of their folders."""

Name = Annotated[str, typer.Argument(metavar="X", help="a recipe or sweep: a name, or the path of a .yaml file")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, as train.lr=2e-5")]
On = Annotated[str | None, typer.Option("--on", help="profile of the cluster; default: local where no Slurm is found")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="SELECTOR", help="a run, a glob, AXIS=LABEL or a state; may be repeated"),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="the short test of every distinct stage, in ROOT/smoke")]


@app.command()
def show(
    x: Name,
    overrides: Overrides = None,
    as_json: Json = False,
    example: Annotated[
        int | None, typer.Option("--example", metavar="N", min=0, help="training example N with its mask, from 0")
    ] = None,
    on: On = None,
) -> None:
    """Print a recipe resolved: every key, its value, and where it came from. A second name compares two."""
    from hpc.recipe import show as showing

    others = [o for o in overrides or [] if "=" not in o]
    sweep = _load(x, [o for o in overrides or [] if "=" in o])
    if example is not None:
        from rich.console import Console

        from hpc.train import example as looking

        found = looking.view(sweep, example, _profile(on).all_roots)
        return _print_json(looking.document(found)) if as_json else looking.show(found, Console())
    if len(others) > 1:
        raise HpcError("show compares two", where="command line", why=", ".join([x, *others]), next="name two at most")
    if others:
        rows = showing.difference(sweep, _load(others[0], []))
        _emit([{"key": k, "left": a, "right": b} for k, a, b in rows], as_json, ["key", "left", "right"])
    elif as_json:
        _print_json(showing.document(sweep))
    else:
        rows_of_first = showing.rows(sweep.runs[0].recipe, showing.origins(sweep, sweep.runs[0]))
        _emit([vars(row) for row in rows_of_first], False, ["key", "value", "kind", "origin", "doc"])
        typer.echo(f"{len(sweep.runs)} run(s): {', '.join(run.name for run in sweep.runs[:20])}")
    return None


@app.command()
def plan(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    scripts: Annotated[bool, typer.Option("--scripts", help="also print the exact sbatch texts")] = False,
) -> None:
    """Show what a recipe or sweep will take: runs, stages, jobs, arrays, sbatch texts. Changes nothing."""
    from hpc.plan import disk

    profile = _profile(on)
    document = _plan(x, overrides, profile)
    document["totals"]["disk"]["free"] = disk.free(profile.root, profile.quota_gib, profile.quota_files)
    if as_json:
        return _print_json(document)
    from rich.console import Console

    from hpc.plan import table

    table.show(document, Console())
    if scripts:
        from hpc.cluster import submit as submitting

        for text in submitting.texts(document, profile):
            typer.echo(text)
    return None


@app.command()
def submit(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="write the job files, submit nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask above the profile's confirm_gpu_hours")] = False,
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

    document, profile = _planned(x, overrides, on, smoke)
    document, keys = _selected(document, profile, only, again)
    if not dry_run:
        fetching.refuse(document, profile, _said(x, overrides, on or profile.name))
        _confirm(document, profile, yes)
    result = submitting.submit(document, profile, dry_run=dry_run, again=keys).document()
    said = _said(x, overrides, on, smoke, [*(only or []), *(again or [])])
    _print_json(result) if as_json else typer.echo(text.submission(result, said))


@app.command()
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

    document, profile = _planned(x, overrides, on, smoke)
    document, _ = _selected(document, profile, only, None)
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
        _print_json(state)
    elif state and not watch:
        text.status(state, Console())
    if smoke and state and not as_json:
        text.measured(state["measured"], Console())
    if wait and text.failed(state):
        print(text.failures(state, _said(x, overrides, on, smoke, only), listed=not as_json), file=sys.stderr)
        raise typer.Exit(1)


@app.command()
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

    document, profile = _planned(x, overrides, on, smoke)
    document, _ = _selected(document, profile, only, None)
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


@app.command()
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

    document, profile = _planned(x, overrides, on, smoke)
    document, _ = _selected(document, profile, only, None)
    said = _said(x, overrides, on, smoke, only)
    found = explaining.why(document, profile, run=run, key=key, x=said, plain=_said(x, overrides, on))
    _print_json(found) if as_json else typer.echo(explaining.text(found, said, profile.root))


@app.command()
def cancel(
    x: Name, overrides: Overrides = None, on: On = None, as_json: Json = False, only: Only = None, smoke: Smoke = False
) -> None:
    """Cancel every job of a recipe or sweep that is queued or running; with --only, what no other run needs.

    Without --only and overrides also what earlier states of the file, or other overrides, have asked for.
    """
    from hpc.cluster import status as asking
    from hpc.cluster import text
    from hpc.plan import choose

    document, profile = _planned(x, overrides, on, smoke)
    chosen, _ = _selected(document, profile, only, None)
    spared = choose.others(document, chosen)
    done = asking.cancel(chosen, profile, spared=spared, earlier=not (only or overrides))
    said = _said(x, overrides, on, smoke, only)
    _print_json(done._asdict()) if as_json else typer.echo(text.cancelled(done, document, said))


@app.command()
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

    profile = _profile(on)
    document = _plan(x, overrides, profile)
    if to:
        from analysis import upload

        return typer.echo(upload.send(document, profile.all_roots, to))
    folder = Path(out) if out else profile.root / "reports" / document["name"]
    page = reporting.build(document, profile.all_roots, folder)
    reporting.render_terminal(folder)
    typer.echo(f"report: {page}")
    return None


@app.command()
def fetch(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what it would take, download nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before the download")] = False,
) -> None:
    """Download the models, tokenizers and data sets of X at fixed commits. Said again after a kill, it goes on."""
    from hpc.cluster import fetch as fetching

    profile = _profile(on)
    ask = sys.stdin.isatty() and not yes and not as_json
    done = fetching.fetch(
        _plan(x, overrides, profile),
        profile,
        dry_run=dry_run,
        agreed=lambda question: not ask or typer.confirm(question, err=True),
    )
    if as_json:
        _print_json(done)
    elif done["fetched"] or not done["repositories"]:
        typer.echo(f"everything that {x} needs of the hub is in {done['cache']}")


@app.command()
def doctor(
    on: On = None,
    as_json: Json = False,
    job: Annotated[bool, typer.Option("--job", help="also a one-minute job: GPUs, network, files of nodes")] = False,
    init: Annotated[str, typer.Option("--init", metavar="NAME", help="draft sbatch/profiles/NAME.yaml by Slurm")] = "",
    build: Annotated[bool, typer.Option("--build", help="compile DeepSpeed's kernels, clear stale locks")] = False,
) -> None:
    """Look at this cluster and profile: what works, what will not, and what to do. Exit 1 if jobs would not run."""
    from rich.console import Console

    from hpc.cluster.site import build as building
    from hpc.cluster.site import doctor as looking
    from hpc.cluster.site import draft

    if init:
        path = draft.write(init)
        return typer.echo(f"drafted {path}; look it over\nnext: hpc doctor --on {init}")
    profile = _profile(on, doubted=True)
    nodes = looking.job(profile) if job else []
    rows = [*(building.rows(profile) if build else looking.diagnose(profile)), *nodes]
    _print_json([vars(row) for row in rows]) if as_json else looking.show(rows, Console())
    if looking.failed(rows):
        raise typer.Exit(1)
    return None


@app.command()
def gc(
    on: On = None,
    as_json: Json = False,
    apply: Annotated[bool, typer.Option("--apply", help="delete what is shown; without it nothing is changed")] = False,
    unreferenced: Annotated[
        bool, typer.Option("--unreferenced", help="with --apply: also artifacts that no submission names")
    ] = False,
    older: Annotated[float, typer.Option("--older", metavar="DAYS", help="spare what was used since then")] = 1.0,
) -> None:
    """Show what may be deleted: checkpoints of published stages, passed attempts, leftovers, old code, artifacts."""
    from rich.console import Console

    from hpc.cluster.tidy import gc as collecting
    from hpc.cluster.tidy import heap

    profile = _profile(on)
    items = heap.look(profile, older_days=older)
    deleted = collecting.sweep(profile, items, unreferenced=unreferenced) if apply else None
    if as_json:
        _print_json(collecting.document(profile, items, deleted))
    else:
        collecting.show(profile, items, deleted, Console(), older_days=older)
    if deleted and deleted.failed:
        raise typer.Exit(1)


def main() -> None:
    """Run the command; a user's error is printed in full and exits with 2."""
    set_threshold(100_000, 50, 50)  # a plan is a hundred thousand small containers; a verb lives for a second
    try:
        app()
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if (known := _of_root(error)) is None:
            raise
        print(f"error: {known}", file=sys.stderr)
        sys.exit(2)


def _of_root(error: OSError) -> HpcError | None:
    """The folder for results cannot be used, in words; None for another error. A file that vanished is a bug."""
    from pathlib import Path

    from hpc.errors import ClusterError

    if not error.filename or isinstance(error, FileNotFoundError):
        return None
    path = Path(str(error.filename))
    for root in (r for profile in _profiles for r in profile.all_roots):
        if path.is_relative_to(root) or root.is_relative_to(path):
            report = ", or give report --out DIR" if "report" in sys.argv[1:2] else ""
            return ClusterError(
                "the folder for results cannot be read or written",
                where=str(root),
                why=f"{error.strerror}: {path}",
                next=f"set HPC_ROOT (or the profile's roots) to a folder that you may read and write{report}",
            )
    return None


def _load(x: str, overrides: list[str] | None) -> Sweep:
    from hpc.recipe import sweep

    return sweep.load(x, overrides or [])


def _plan(x: str, overrides: list[str] | None, profile: Profile) -> dict[str, Any]:
    from hpc.plan import document

    return document.document(
        document.make(
            _load(x, overrides), profile.all_roots, profile.node_gpus or document.GPUS_PER_NODE, profile=profile
        )
    )


def _planned(x: str, overrides: list[str] | None, on: str | None, smoke: bool) -> tuple[dict[str, Any], Profile]:
    """The plan of X and where it runs; with `smoke` its short test and the profile for that."""
    profile = _profile(on)
    if not smoke:
        return _plan(x, overrides, profile), profile
    from hpc.plan import smoke as smoking

    profile = smoking.profile(profile)
    return smoking.plan(_load(x, overrides), profile), profile


def _selected(
    document: dict[str, Any], profile: Profile, only: list[str] | None, again: list[str] | None
) -> tuple[dict[str, Any], set[str]]:
    """The part of a plan that --only and --again select, and the keys to make again."""
    from hpc.plan import choose

    selectors = [*(only or []), *(again or [])]
    if not selectors:
        return document, set()
    states: dict[str, str] = {}
    if again or choose.needs_states(document, selectors):
        from hpc.cluster import status as asking

        states = {k: s["state"] for k, s in asking.status(document, profile)["stages"].items()}
    keys = choose.again(choose.choose(document, again, states), states) if again else set()
    return choose.choose(document, selectors, states), keys


def _said(
    x: str,
    overrides: list[str] | None,
    on: str | None,
    smoke: bool = False,
    only: list[str] | None = None,
) -> str:
    """The words after the verb that name the same plan again, on the same profile, ready for a shell.

    Selectors that speak of states are left out: the states will be others.
    """
    from hpc.plan import choose

    options = [*(["--on", on] if on else []), *(["--smoke"] if smoke else [])]
    if only and not choose.needs_states({"runs": []}, only):
        options += [word for selector in only for word in ("--only", selector)]
    return shlex.join([x, *(overrides or []), *options])


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


def _profile(on: str | None, *, doubted: bool = False) -> Profile:
    """The profile called `on`; `doubted` by the doctor, who says himself what is wrong with it."""
    from hpc.cluster import profile
    from hpc.plan import hub

    found = profile.find_profile(on or "")
    _profiles.append(found)
    if not doubted:
        profile.check_cache(found)
    hub.use(found.cache)  # commits are read from the cache that the jobs will use
    return found


def _print_json(value: Any) -> None:
    """One document: indented for a reader, compact for a pipe (a thousand runs are 10 MB)."""
    typer.echo(json.dumps(value, indent=1 if sys.stdout.isatty() else None, allow_nan=False))


def _emit(rows: list[dict[str, Any]], as_json: bool, columns: list[str]) -> None:
    if as_json:
        return _print_json(rows)
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(row[c])) for c in columns))
    Console().print(table)
    return None


if __name__ == "__main__":
    main()
