"""Verbs of the plan: show, plan. They change nothing.

hpc plan sweeps/mini.yaml
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpc.cli import common
from hpc.cli.common import Json, Name, On, Overrides
from hpc.errors import HpcError

if TYPE_CHECKING:
    from hpc.recipe.sweep import Sweep


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
    sweep = common.load(x, [o for o in overrides or [] if "=" in o])
    if example is not None:
        return _show_example(sweep, example, on, as_json)
    if len(others) > 1:
        raise HpcError("show compares two", where="command line", why=", ".join([x, *others]), next="name two at most")
    if others:
        rows = showing.difference(sweep, common.load(others[0], []))
        common.emit([{"key": k, "left": a, "right": b} for k, a, b in rows], as_json, ["key", "left", "right"])
    elif as_json:
        common.print_json(showing.document(sweep))
    else:
        rows_of_first = showing.rows(sweep.runs[0].recipe, showing.origins(sweep, sweep.runs[0]))
        common.emit([vars(row) for row in rows_of_first], False, ["key", "value", "kind", "origin", "doc"])
        typer.echo(f"{len(sweep.runs)} run(s): {', '.join(run.name for run in sweep.runs[:20])}")
    return None


def _show_example(sweep: Sweep, example: int, on: str | None, as_json: bool) -> None:
    from rich.console import Console

    from hpc.train import example as looking

    found = looking.view(sweep, example, common.find_profile(on).all_roots)
    if as_json:
        return common.print_json(looking.document(found))
    return looking.show(found, Console())


def plan(
    x: Name,
    overrides: Overrides = None,
    on: On = None,
    as_json: Json = False,
    scripts: Annotated[bool, typer.Option("--scripts", help="also print the exact sbatch texts")] = False,
) -> None:
    """Show what a recipe or sweep will take: runs, stages, jobs, arrays, sbatch texts. Changes nothing."""
    from hpc.plan import disk

    profile = common.find_profile(on)
    document = common.plan(x, overrides, profile)
    document["totals"]["disk"]["free"] = disk.free(profile.root, profile.quota_gib, profile.quota_files)
    if as_json:
        return common.print_json(document)
    from rich.console import Console

    from hpc.plan import table

    table.show(document, Console())
    if scripts:
        from hpc.cluster import submit as submitting

        for text in submitting.texts(document, profile):
            typer.echo(text)
    return None
