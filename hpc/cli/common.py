"""What the verbs share: their arguments, the plan of X, the profile, and how a result is printed."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hpc.cluster.profile import Profile
    from hpc.recipe.sweep import Sweep

profiles: list[Profile] = []
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


def load(x: str, overrides: list[str] | None) -> Sweep:
    """The recipe or sweep called `x`, resolved."""
    from hpc.recipe import sweep

    return sweep.load(x, overrides or [])


def plan(x: str, overrides: list[str] | None, profile: Profile) -> dict[str, Any]:
    """The plan document of X."""
    from hpc.plan import document

    return document.document(
        document.make(
            load(x, overrides), profile.all_roots, profile.node_gpus or document.GPUS_PER_NODE, profile=profile
        )
    )


def planned(x: str, overrides: list[str] | None, on: str | None, smoke: bool) -> tuple[dict[str, Any], Profile]:
    """The plan of X and where it runs; with `smoke` its short test and the profile for that."""
    profile = find_profile(on)
    if not smoke:
        return plan(x, overrides, profile), profile
    from hpc.plan import smoke as smoking

    profile = smoking.profile(profile)
    return smoking.plan(load(x, overrides), profile), profile


def selected(
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


def said(
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


def find_profile(on: str | None, *, doubted: bool = False) -> Profile:
    """The profile called `on`; `doubted` by the doctor, who says himself what is wrong with it."""
    from hpc.cluster import profile
    from hpc.plan import hub

    found = profile.find_profile(on or "")
    profiles.append(found)
    if not doubted:
        profile.check_cache(found)
    hub.use(found.cache)  # commits are read from the cache that the jobs will use
    return found


def print_json(value: Any) -> None:
    """One document: indented for a reader, compact for a pipe (a thousand runs are 10 MB)."""
    typer.echo(json.dumps(value, indent=1 if sys.stdout.isatty() else None, allow_nan=False))


def emit(rows: list[dict[str, Any]], as_json: bool, columns: list[str]) -> None:
    """Rows as one JSON document, or as a table."""
    if as_json:
        return print_json(rows)
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(row[c])) for c in columns))
    Console().print(table)
    return None
