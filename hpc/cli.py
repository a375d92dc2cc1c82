"""The command `hpc`: thin verbs over the package; every heavy import is inside its verb.

hpc plan sweeps/mini.yaml
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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

Name = Annotated[str, typer.Argument(metavar="X", help="a recipe or sweep: a name, or the path of a .yaml file")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, as train.lr=2e-5")]
On = Annotated[str | None, typer.Option("--on", help="profile of the cluster; default: local where no Slurm is found")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]


@app.command()
def show(x: Name, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print a recipe resolved: every key, its value, and where it came from. A second name compares two."""
    from hpc.recipe import show as showing

    others = [o for o in overrides or [] if "=" not in o]
    sweep = _load(x, [o for o in overrides or [] if "=" in o])
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


@app.command()
def plan(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    scripts: Annotated[bool, typer.Option("--scripts", help="also print the exact sbatch texts")] = False,
) -> None:
    """Show what a recipe or sweep will take: runs, stages, jobs, arrays, sbatch texts. Changes nothing."""
    profile = _profile(on)
    document = _plan(x, overrides, profile)
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
) -> None:
    """Submit what is not yet made, and return at once. Said again, it resumes: nothing is submitted twice."""
    from hpc.cluster import submit as submitting
    from hpc.cluster import text

    profile = _profile(on)
    document = _plan(x, overrides, profile)
    if not dry_run:
        _refuse_unpinned(document)
    result = submitting.submit(document, profile, dry_run=dry_run).document()
    _print_json(result) if as_json else typer.echo(text.submission(result, x))


@app.command()
def status(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    wait: Annotated[bool, typer.Option("--wait", help="return when nothing is left to run; exit 1 on failure")] = False,
) -> None:
    """Show how far every run is, and why not further."""
    from rich.console import Console

    from hpc.cluster import status as watching
    from hpc.cluster import text

    profile = _profile(on)
    document = _plan(x, overrides, profile)
    state = watching.wait(document, profile, seen=_progress()) if wait else watching.status(document, profile)
    _print_json(state) if as_json else text.status(state, Console())
    if wait and text.failed(state):
        print(text.failures(state, x), file=sys.stderr)
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
) -> None:
    """Print the newest log of one stage's job."""
    from hpc.cluster import status as watching
    from hpc.cluster import text

    profile = _profile(on)
    document = _plan(x, overrides, profile)
    key = key or text.furthest(watching.status(document, profile), run)
    path = watching.logs(document, profile, key)
    typer.echo(f"==> {path} <==\n{path.read_text(errors='replace')}")


@app.command()
def cancel(x: Name, overrides: Overrides = None, on: On = None) -> None:
    """Cancel every job of a recipe or sweep that is queued or running."""
    from hpc.cluster import status as watching

    profile = _profile(on)
    number = watching.cancel(_plan(x, overrides, profile), profile)
    typer.echo(f"cancelled {number} job(s); hpc submit {x} starts what is missing again")


@app.command()
def report(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    out: Annotated[str, typer.Option("--out", help="folder; default ROOT/reports/NAME")] = "",
) -> None:
    """Build the tables and figures of what is published, as HTML, CSV and Markdown, and print the tables."""
    from pathlib import Path

    from analysis import report as reporting

    profile = _profile(on)
    document = _plan(x, overrides, profile)
    folder = Path(out) if out else profile.root / "reports" / document["name"]
    page = reporting.build(document, profile.all_roots, folder)
    reporting.render_terminal(folder)
    typer.echo(f"report: {page}")


def main() -> None:
    """Run the command; a user's error is printed in full and exits with 2."""
    try:
        app()
    except HpcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)


def _progress() -> Callable[[dict[str, Any]], None]:
    """A line on stderr whenever the count of states changes: readable in a terminal and in a log."""
    from hpc.cluster import text

    last = ""

    def seen(state: dict[str, Any]) -> None:
        nonlocal last
        line = text.summary(state)
        if line != last:
            print(line, file=sys.stderr, flush=True)
        last = line

    return seen


def _load(x: str, overrides: list[str] | None) -> Sweep:
    from hpc.recipe import sweep

    return sweep.load(x, overrides or [])


def _plan(x: str, overrides: list[str] | None, profile: Profile) -> dict[str, Any]:
    from hpc.plan import document

    return document.document(
        document.make(_load(x, overrides), profile.all_roots, profile.node_gpus or document.GPUS_PER_NODE)
    )


def _refuse_unpinned(plan: dict[str, Any]) -> None:
    """A job that fetched a moving revision would change the keys that it was submitted under."""
    from hpc.errors import PlanError

    if plan["unpinned"]:
        first = plan["unpinned"][0]
        kind = " --repo-type dataset" if first.startswith("datasets/") else ""
        raise PlanError(
            f"{len(plan['unpinned'])} hub repositories are neither pinned nor fetched: {', '.join(plan['unpinned'])}",
            where=plan["path"],
            why="their commit is part of the keys, and jobs run without network",
            next=f"hf download {first.removeprefix('datasets/')}{kind} (and the others), or write org/name@COMMIT",
        )


def _profile(on: str | None) -> Profile:
    from hpc.cluster import profile

    return profile.find_profile(on or "")


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
