"""A resolved recipe, key by key: value, what or how, where it came from, what it means. `hpc show RECIPE`."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from hpc.recipe import schema, typed
from hpc.recipe.sweep import Run, Sweep


@dataclasses.dataclass
class Row:
    """One key of a resolved recipe."""

    key: str
    value: Any
    kind: str
    origin: str
    doc: str


def rows(recipe: schema.Recipe, origin: dict[str, str]) -> list[Row]:
    """Every key of `recipe` in schema order; `origin` maps dotted keys to the file or override that set them."""
    return list(_rows(recipe, "", origin))


def _rows(section: Any, prefix: str, origin: dict[str, str]) -> typing.Iterator[Row]:
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _rows(value, f"{key}.", origin)
        else:
            yield Row(key, typed.plain(value), field.metadata["kind"], _origin(key, origin), field.metadata["doc"])


def _origin(key: str, origin: dict[str, str]) -> str:
    """The most specific setting of `key`: itself, or the section or list that holds it."""
    parts = key.split(".")
    candidates = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    inside = next((origin[k] for k in origin if k.startswith(f"{key}.")), "default")
    return next((origin[c] for c in candidates if c in origin), inside)


def document(sweep: Sweep) -> dict[str, Any]:
    """The first run's recipe with origins, and every run's place on the axes, as plain JSON."""
    first = sweep.runs[0]
    return {
        "name": sweep.name,
        "path": sweep.path,
        "about": sweep.about,
        "recipe": typed.plain(first.recipe),
        "origin": {row.key: row.origin for row in rows(first.recipe, origins(sweep, first))},
        "runs": [
            {"name": run.name, "axes": run.axes, "settings": run.settings, "seeds": run.seeds} for run in sweep.runs
        ],
    }


def origins(sweep: Sweep, run: Run) -> dict[str, str]:
    """Where each value of one run came from: recipe files, overrides, axes of the sweep."""
    chosen = {}
    for key, value in run.settings.items():
        inner = [f"{key}.{k}" for k in value] if isinstance(value, dict) and "name" not in value else [key]
        chosen.update(dict.fromkeys(inner, f"{sweep.path} ({run.name})"))
    return {**sweep.origin, **chosen}


def difference(left: Sweep, right: Sweep) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ between the first runs of two recipes or sweeps: (key, left, right)."""
    values = [{r.key: r.value for r in rows(s.runs[0].recipe, {})} for s in (left, right)]
    keys = list(dict.fromkeys([*values[0], *values[1]]))
    pairs = [(k, values[0].get(k), values[1].get(k)) for k in keys]
    return [(k, a, b) for k, a, b in pairs if a != b and k != "about"]
