"""Points of a sweep: runs that differ only in their seeds, with their scores averaged per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.collect import Results
from hpc.errors import RecipeError, nearest
from hpc.evals import stats


@dataclass
class Point:
    """One combination of axis labels.

    Attributes:
        labels: label by axis ("" where the axis does not apply).
        runs: names, one per combination of seeds.
        scores: by task and question id: mean over runs and samples, 0..1.
        means: by task: thinking_tokens, waits_asked ... averaged over runs.
        by_seed: by task: accuracy in % of every run.
        train_seeds: how many different trainings are averaged.
        planned: by task: how many runs should give a result.
        trained: whether a run of it has a train stage.
    """

    labels: dict[str, str]
    runs: list[str]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    means: dict[str, dict[str, float]] = field(default_factory=dict)
    by_seed: dict[str, list[float]] = field(default_factory=dict)
    train_seeds: int = 1
    planned: dict[str, int] = field(default_factory=dict)
    trained: bool = False

    def accuracy(self, task: str) -> stats.Interval | None:
        """Accuracy (0..1) with its Wilson interval over questions; None if the task has no result here."""
        scores = self.scores.get(task)
        return stats.wilson(sum(scores.values()), len(scores)) if scores else None

    def partial(self, task: str) -> str:
        """ "2 of 3" where only some runs have a result, else empty."""
        finished, planned = len(self.by_seed.get(task, [])), self.planned.get(task, 0)
        return f"{finished} of {planned}" if 0 < finished < planned else ""


def points(results: Results, entry: dict[str, Any]) -> list[Point]:
    """The points that `where` and `values` of a report entry select, in the order of the sweep or of `values`.

    An axis with `when` does not apply to every run: such runs keep the recipe's setting, and `where` lets them in.

    Raises:
        RecipeError: an axis or label that the sweep does not have.
    """
    check(results, entry)
    axis = str(entry.get("axis") or "")
    values = [str(v) for v in entry.get("values") or []] if axis else []
    where = {str(k): [str(x) for x in _listed(v)] for k, v in (entry.get("where") or {}).items()}
    found: dict[tuple[str, ...], Point] = {}
    for run in results.runs:
        labels = {a: run["axes"].get(a, "") for a in results.axes}
        if all(labels[a] in (*wanted, "") for a, wanted in where.items()) and (not values or labels[axis] in values):
            point = found.setdefault(tuple(labels.values()), Point(labels, []))
            point.runs.append(run["name"])
            point.trained = point.trained or bool(run["stages"].get("train"))
            for task in run["stages"].get("grade") or {}:
                point.planned[task] = point.planned.get(task, 0) + 1
    listed = list(found.values())
    for point in listed:
        _fill(point, results)
    return sorted(listed, key=lambda p: values.index(p.labels[axis])) if values else listed


def _fill(point: Point, results: Results) -> None:
    mine = results.rows[results.rows["run"].isin(point.runs)]
    if mine.empty:
        return
    point.train_seeds = max(1, mine["seed_train"].nunique())
    numbers = ("thinking_tokens", "answer_tokens", "waits", "waits_asked", "min_thinking")
    for task, rows in mine.groupby("task", sort=False):
        point.by_seed[str(task)] = [float(a) for a in rows["accuracy"]]
        point.means[str(task)] = {name: float(rows[name].mean()) for name in numbers}
    questions = results.questions[results.questions["run"].isin(point.runs)]
    means = questions.groupby(["task", "id"], sort=False)["score"].mean().reset_index()
    for task, identity, score in means.itertuples(index=False, name=None):
        point.scores.setdefault(str(task), {})[str(identity)] = float(score)


def varying(listed: Sequence[Point], axes: Sequence[str], entry: dict[str, Any]) -> list[str]:
    """The axes on which these points differ and that `where` does not fix; all axes where there is but one point."""
    fixed = [a for a, v in (entry.get("where") or {}).items() if len(_listed(v)) == 1]
    moving = [a for a in axes if a not in fixed and len({p.labels[a] for p in listed}) > 1]
    return moving or list(axes)


def partial_notes(listed: Sequence[Point], tasks: Sequence[str]) -> list[str]:
    """A note that names the points of which only some seeds are finished; none if there are none."""
    found = [
        f"{', '.join(filter(None, point.labels.values())) or point.runs[0]}: {point.partial(task)} runs of {task}"
        for point in listed
        for task in tasks
        if point.partial(task)
    ]
    return [f"Averaged over the finished runs only - {'; '.join(found)}: see Missing results."] if found else []


def partners(point: Point, listed: Sequence[Point], axis: str, reference: str) -> list[Point]:
    """The points with `reference` on `axis` and the labels of `point` on all others.

    An axis that does not apply to one of the two is no difference; then several can match.
    """
    wanted = {**point.labels, axis: reference}
    exact = [p for p in listed if p.labels == wanted]
    return exact or [
        p
        for p in listed
        if p.labels[axis] == reference
        and all(p.labels[a] == label or "" in (p.labels[a], label) for a, label in wanted.items())
    ]


def check(results: Results, entry: dict[str, Any]) -> None:
    """Raise RecipeError unless every axis and label that a report entry names is one of the sweep."""
    labels: dict[str, set[str]] = {a: {run["axes"].get(a, "") for run in results.runs} for a in results.axes}
    named = [(a, x) for a, v in (entry.get("where") or {}).items() for x in _listed(v)]
    if entry.get("axis"):
        named += [(entry["axis"], v) for v in [*(entry.get("values") or []), entry.get("reference")]]
    for axis, label in named:
        where = f"report: {entry.get('title') or entry.get('kind')}"
        if axis not in labels:
            raise RecipeError(
                f'the sweep has no axis "{axis}"',
                where=where,
                why=nearest(str(axis), labels),
                next="name one of the sweep's axes",
            )
        if label is not None and str(label) not in labels[axis]:
            raise RecipeError(
                f'axis "{axis}" has no label "{label}"',
                where=where,
                why=nearest(str(label), labels[axis]),
                next="name one of the axis' labels",
            )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
