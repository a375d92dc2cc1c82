"""A sweep: a recipe, axes, seeds -> runs. Plain containers only, so a thousand runs expand in a blink.

recipe: mini                       # may be overridden: hpc plan sweeps/mini.yaml recipe=other
seeds: {train: [0, 1]}
train: {epochs: 2}                 # recipe keys beside `recipe` hold for every run
axes:
  generate.max_tokens: [64, 128]                      # grid over a key
  data: {random: {select: random}, longest: {...}}    # named variants, merged into a section
  size: {zip: {model: [a, b], train.lr: [1e-5, 2e-5]}}    # coupled values
  budget: {when: {data: [random]}, values: {short: {generate.thinking.max: 8}}}   # only there; else left alone
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc.errors import RecipeError, nearest
from hpc.recipe import load as loading
from hpc.recipe import schema
from hpc.recipe.load import Tree

OWN = ("about", "recipe", "axes", "seeds", "report")


@dataclass
class Run:
    """One point of a sweep: its name, the recipe file it starts from, its place on every axis, and its recipe."""

    name: str
    base: str
    axes: dict[str, str]
    settings: dict[str, Any]
    seeds: dict[str, int]
    recipe: schema.Recipe


@dataclass
class Option:
    """One value of an axis: dotted keys to merge into the recipe, used only where `when` holds."""

    label: str
    settings: dict[str, Any]
    when: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Axis:
    """A named list of options; where `when` does not hold the axis is not applied."""

    name: str
    options: list[Option]
    when: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Sweep:
    """What a sweep or a single recipe declares: runs, and what its report shows."""

    name: str
    path: str
    about: str
    recipe: str
    runs: list[Run]
    report: Tree
    origin: dict[str, str]


def load(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep or recipe called `name` (a sweep is looked for first), expanded into runs.

    Raises:
        RecipeError: bad file, axis, key or value; the message names it.
    """
    path = loading.find(name, ["sweeps", "recipes"])
    tree = loading.read(path)
    if "axes" in tree and "recipe" not in tree:
        raise RecipeError(
            "a sweep needs the recipe that it varies",
            where=str(path),
            why="it has `axes` but no `recipe`",
            next="add a line recipe: NAME",
        )
    if "recipe" not in tree:
        tree = {"recipe": str(path)}
    return expand(tree, path.stem, str(path), overrides)


def expand(tree: Tree, name: str, path: str, overrides: Sequence[str] = ()) -> Sweep:
    """All runs of a sweep given as a plain tree."""
    _check_keys(tree, path)
    changes = [loading.parse_override(text) for text in overrides]
    for key, value in changes:
        if key == "recipe":
            tree["recipe"] = value
    recipes: dict[str, loading.Loaded] = {}
    base = _base(str(tree["recipe"]), tree, changes, path, recipes)
    axes = [_axis(n, a, path) for n, a in (tree.get("axes") or {}).items()]
    _check_conditions(axes, path)
    runs = []
    for point in _points(axes):
        start = base
        chosen = {k: v for option in point.values() for k, v in option.settings.items()}
        if "recipe" in chosen:
            start = _base(str(chosen.pop("recipe")), tree, changes, path, recipes)
        runs += _runs(start, point, chosen, tree, changes, path)
    _check_some(runs, path)
    about = str(tree.get("about") or base.tree.get("about") or "")
    return Sweep(name, path, about, base.name, runs, tree.get("report") or {}, base.origin)


def _check_keys(tree: Tree, path: str) -> None:
    valid = {*OWN, *(f.name for f in dataclasses.fields(schema.Recipe))}
    for key in tree:
        if key not in valid:
            raise RecipeError(
                f'unknown key "{key}"', where=path, why=nearest(str(key), valid), next=f"correct or remove {key}"
            )
    if not isinstance(tree.get("axes") or {}, dict):
        raise RecipeError(
            "`axes` must map names to values",
            where=f"{path}: axes",
            why=f"it is {tree['axes']!r}",
            next="write axes: {train.lr: [1.0e-5, 2.0e-5]}",
        )


def _base(
    name: str, tree: Tree, changes: list[tuple[str, Any]], path: str, known: dict[str, loading.Loaded]
) -> loading.Loaded:
    if name in known:
        return known[name]
    loaded = loading.inherit(loading.find(name, ["recipes"]), ())
    common = {k: v for k, v in tree.items() if k not in OWN}
    loaded.tree = loading.merge(loaded.tree, common)
    loaded.origin.update(dict.fromkeys(loading.leaves(common), path))
    loaded.origin.update({key: f"override {key}={value}" for key, value in changes})
    for key, value in changes:
        if key != "recipe":
            loading.put(loaded.tree, key, value, where="command line")
    known[name] = loaded
    return loaded


def _axis(name: str, value: Any, path: str) -> Axis:
    when: dict[str, list[str]] = {}
    if isinstance(value, dict) and "values" in value:
        unknown = set(value) - {"when", "values"}
        if unknown:
            raise RecipeError(
                f'axis "{name}" has an unknown key "{sorted(unknown)[0]}"',
                where=f"{path}: axes.{name}",
                why=nearest(sorted(unknown)[0], ["when", "values"]),
                next="an axis has `values` and `when`",
            )
        when, value = _condition(value.get("when"), f"{path}: axes.{name}.when"), value["values"]
    if isinstance(value, dict) and set(value) == {"zip"}:
        options = _zipped(name, value["zip"], path)
    elif isinstance(value, list):
        options = [Option(_label(v), {name: v}) for v in value]
    elif isinstance(value, dict):
        options = [_variant(name, str(label), v, path) for label, v in value.items()]
    else:
        raise RecipeError(
            f'axis "{name}" is neither a list nor a mapping',
            where=f"{path}: axes.{name}",
            why=f"it is {value!r}",
            next="write a list of values, or a mapping of named options",
        )
    if not options:
        raise RecipeError(f'axis "{name}" has no values', where=f"{path}: axes.{name}", next="add values or remove it")
    labels = [option.label for option in options]
    if len(set(labels)) < len(labels):
        twice = next(x for x in labels if labels.count(x) > 1)
        raise RecipeError(
            f'axis "{name}" has two options labelled "{twice}"',
            where=f"{path}: axes.{name}",
            why="a label names a run, so it must be its own",
            next="give the options names: {short: ..., long: ...}",
        )
    return Axis(name, options, when)


def _is_key(name: str) -> bool:
    return name == "recipe" or name.split(".")[0] in {f.name for f in dataclasses.fields(schema.Recipe)}


def _variant(axis: str, label: str, value: Any, path: str) -> Option:
    when: dict[str, list[str]] = {}
    if isinstance(value, dict) and "when" in value:
        value = dict(value)
        when = _condition(value.pop("when"), f"{path}: axes.{axis}.{label}.when")
    if _is_key(axis):
        return Option(label, {axis: value}, when)
    if value is not None and not isinstance(value, dict):
        raise RecipeError(
            f'"{axis}" is not a recipe key, so its option "{label}" must name keys',
            where=f"{path}: axes.{axis}.{label}",
            why=f"it is {value!r}; keys: {nearest(axis, (f.name for f in dataclasses.fields(schema.Recipe)))}",
            next=f"write {label}: {{train.lr: ...}}, or name the axis after a key",
        )
    return Option(label, dict(value or {}), when)


def _zipped(name: str, columns: Any, path: str) -> list[Option]:
    lists = isinstance(columns, dict) and all(isinstance(column, list) for column in columns.values())
    lengths = {key: len(column) for key, column in columns.items()} if lists else {}
    if not lengths or len(set(lengths.values())) != 1:
        raise RecipeError(
            f'the columns of zip axis "{name}" must be lists of one length',
            where=f"{path}: axes.{name}.zip",
            why=f"lengths: {lengths or columns!r}",
            next="give every key the same number of values",
        )
    keys = list(columns)
    rows = zip(*columns.values(), strict=True)
    return [Option(_label(row[0]), dict(zip(keys, row, strict=True))) for row in rows]


def _condition(value: Any, where: str) -> dict[str, list[str]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(
            "`when` must map axes to labels", where=where, why=f"it is {value!r}", next="write when: {data: [s1]}"
        )
    return {str(k): [str(x) for x in (v if isinstance(v, list) else [v])] for k, v in value.items()}


def _check_conditions(axes: list[Axis], path: str) -> None:
    labels = {axis.name: {o.label for o in axis.options} for axis in axes}
    conditions = [(a.name, c) for a in axes for c in [a.when, *(o.when for o in a.options)] if c]
    for axis, condition in conditions:
        for other, wanted in condition.items():
            valid = labels.get(other, set())
            unknown = [w for w in wanted if w not in valid]
            if other not in labels or unknown:
                raise RecipeError(
                    f'`when` of axis "{axis}" names an unknown {"label" if valid else "axis"}',
                    where=f"{path}: axes.{axis}.when",
                    why=nearest(unknown[0], valid) if valid else nearest(other, labels),
                    next="name an axis of this sweep and labels of its options",
                )


def _points(axes: list[Axis]) -> list[dict[str, Option]]:
    """The grid of all options, less the points whose conditions fail, without repetitions, in order."""
    points: dict[tuple[tuple[str, str], ...], dict[str, Option]] = {}
    for combination in itertools.product(*(axis.options for axis in axes)):
        point = {axis.name: option for axis, option in zip(axes, combination, strict=True)}
        while absent := [a for a in axes if a.name in point and not _holds(a.when, point)]:
            for axis in absent:  # others may hang on it
                del point[axis.name]
        if all(_holds(option.when, point) for option in point.values()):
            points.setdefault(tuple((n, o.label) for n, o in point.items()), point)
    return list(points.values())


def _holds(condition: dict[str, list[str]], point: dict[str, Option]) -> bool:
    """True if every axis that the condition names is applied and has one of the wanted labels."""
    return all(axis in point and point[axis].label in wanted for axis, wanted in condition.items())


def _runs(
    base: loading.Loaded,
    point: dict[str, Option],
    chosen: dict[str, Any],
    sweep: Tree,
    changes: list[tuple[str, Any]],
    path: str,
) -> list[Run]:
    where = path + "".join(f" {n}={o.label}" for n, o in point.items())
    where += f", override of {', '.join(k for k, _ in changes)}" if changes else ""
    tree = dict(base.tree)
    for section in dict.fromkeys(key.split(".")[0] for key in chosen):
        tree[section] = copy.deepcopy(tree.get(section))
    for key, value in chosen.items():
        loading.put(tree, key, value, where=where)
    if sweep.get("seeds") is not None and not any(k.startswith("seeds") for k, _ in changes):
        given = {"seeds": copy.deepcopy(sweep["seeds"])}
        loading.normalise_seeds(given)
        tree["seeds"] = loading.merge(tree.get("seeds"), given["seeds"])
    loading.normalise_seeds(tree)
    recipe = loading.build(loading.resolve(tree, where), where)
    for stage, seeds in vars(recipe.seeds).items():
        if len(set(seeds)) < len(seeds):
            raise RecipeError(
                f"seeds.{stage} holds a seed twice", where=where, why=str(seeds), next="name each seed once"
            )
    axes = {name: option.label for name, option in point.items()}
    settings = {k: v for option in point.values() for k, v in option.settings.items()}
    grid = itertools.product(recipe.seeds.data, recipe.seeds.train, recipe.seeds.generate)
    every = [dict(zip(("data", "train", "generate"), seeds, strict=True)) for seeds in grid]
    alone = "" if axes else Path(str(sweep["recipe"])).stem
    return [Run(_name(alone, axes, s, recipe.seeds), base.name, axes, settings, s, recipe) for s in every]


def _name(alone: str, axes: dict[str, str], seeds: dict[str, int], all_seeds: schema.Seeds) -> str:
    parts = [f"{axis.rsplit('.', 1)[-1]}-{label}" for axis, label in axes.items()] or [alone]
    marks = [("d", "data"), ("s", "train"), ("g", "generate")]
    several = [
        f"{mark}{seeds[stage]}" for mark, stage in marks if stage == "train" or len(getattr(all_seeds, stage)) > 1
    ]
    return "_".join([*parts, *several])


def _label(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text.rsplit("/", 1)[-1]).strip("-") or "none"


def _check_some(runs: list[Run], path: str) -> None:
    if not runs:
        raise RecipeError(
            "the sweep has no runs",
            where=path,
            why="every point fails its conditions, or seeds are empty",
            next="widen `when`, or give seeds",
        )
