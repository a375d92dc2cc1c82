"""The tables of a report: accuracies, differences to a reference run, and the health of every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.collect import Results
from analysis.points import Point, partial_notes, partners, points, varying
from analysis.published import HI, LO, Published
from analysis.tables import Cell, Estimate, Table
from hpc.errors import RecipeError
from hpc.evals import stats

WILSON = "Accuracy in %, with the 95 % Wilson interval over questions."
ONE_SEED = "One training seed per row: what another seed would give is not inside these intervals."
PAIRED = (
    "Differences in percentage points, with the 95 % percentile interval of a paired bootstrap over the same "
    "questions (10,000 resamples), as in s1's Table 2."
)


def accuracy(results: Results, entry: dict[str, Any], published: Sequence[Published] = ()) -> Table:
    """Every point a row: accuracy per task with its Wilson interval; one task also shows its thinking tokens."""
    listed = points(results, entry)
    axes, tasks = varying(listed, results.axes, entry), _tasks(results, entry)
    rows = []
    for point in listed:
        row = _labels(point, axes)
        for task in tasks:
            row[task] = _percent(point.accuracy(task))
            row |= _spread_over_seeds(point, task, listed)
            row |= _beside(published, point, entry, task)
        if len(tasks) == 1:
            row["thinking tokens"] = point.means.get(tasks[0], {}).get("thinking_tokens")
        rows.append(row)
    return Table(entry.get("title") or "Accuracy", rows, [WILSON, *_notes(listed, tasks, entry)])


def paired(results: Results, entry: dict[str, Any], published: Sequence[Published] = ()) -> Table:
    """Every point a row: its accuracy, and its difference to the point with the reference label (s1, Table 2)."""
    axis, reference = entry.get("axis"), entry.get("reference")
    if not axis or not reference:
        raise RecipeError(
            "a paired table needs an axis and a reference",
            where=f"report: {entry.get('title')}",
            why=f"axis: {axis!r}, reference: {reference!r}",
            next="write {kind: paired, axis: data, reference: s1}",
        )
    listed = points(results, entry)
    everyone = points(results, {k: v for k, v in entry.items() if k != "values"})
    axes, tasks = varying(listed, results.axes, entry), _tasks(results, entry)
    rows, num_differences, ambiguous = [], 0, 0
    for point in listed:
        row = _labels(point, axes)
        found = partners(point, everyone, axis, str(reference))
        other = found[0] if len(found) == 1 else None
        ambiguous += len(found) > 1
        for task in tasks:
            row[task] = _percent(point.accuracy(task))
            difference = _difference(point, other, task)
            is_reference = point.labels[axis] == str(reference)
            row[f"{task} − {reference}"] = "reference" if is_reference else difference
            row[f"{task} won / lost"] = _flips(point, other, task)
            row |= _spread_over_seeds(point, task, listed)
            row |= _beside(published, point, entry, task)
            num_differences += difference is not None and not is_reference
        rows.append(row)
    notes = [PAIRED, WILSON, *_notes(listed, tasks, entry)]
    if ambiguous:
        notes.append(f"{ambiguous} rows have no difference: several {reference} rows match them; narrow with `where`.")
    if num_differences > 1:
        notes.append(f"{num_differences} differences stand side by side: at 95 % one in twenty excludes 0 by chance.")
    return Table(entry.get("title") or f"Differences to {reference}", rows, notes)


def health(results: Results) -> Table:
    """Every (run, task): how much it thought, and how often it was cut, truncated, silent, or not gradable."""
    names = {
        "num_questions": "questions",
        "num_samples": "samples",
        "thinking_tokens": "thinking tokens",
        "answer_tokens": "answer tokens",
        "waits": "waits",
        "cut": "cut %",
        "truncated": "truncated %",
        "no_answer": "no answer %",
        "grader_error": "grader error %",
    }
    rows: list[dict[str, Cell]] = []
    for record in results.rows.to_dict("records"):
        row: dict[str, Cell] = {"run": str(record["run"]), "task": str(record["task"])}
        rows.append(row | {shown: _number(record[name]) for name, shown in names.items()})
    notes = [
        "Tokens and waits are means per sample. Truncated: no answer because the length limit ended the "
        "completion. Truncated, silent and ungradable samples count as wrong."
    ]
    hidden = sorted(set(results.rows.loc[~results.rows["publish"], "task"])) if rows else []
    if hidden:
        notes.append(f"{', '.join(hidden)}: its text is not published; only ids and verdicts leave the artifacts.")
    return Table("Health of the runs", rows, notes)


def missing(results: Results) -> Table:
    """What the plan promises and the artifacts do not have."""
    return Table(
        "Missing results",
        [dict(row) for row in results.missing],
        ["hpc submit the sweep again: it makes what is missing, and nothing else."],
    )


def provenance(results: Results) -> Table:
    """Every stage: its key, and which code published it."""
    columns = ("stage", "recipe", "task", "key", "state", "seed", "code")
    return Table(
        "Stages",
        [{c: stage[c] for c in columns} for stage in results.stages],
        ["code: digest of the package's Python files that published the stage. It is not part of the key."],
    )


def _labels(point: Point, axes: Sequence[str]) -> dict[str, Cell]:
    return {axis: point.labels[axis] for axis in axes} if axes else {"run": point.runs[0]}


def _tasks(results: Results, entry: dict[str, Any]) -> list[str]:
    known = list(dict.fromkeys(task for run in results.runs for task in run["stages"].get("grade") or {}))
    return [str(t) for t in entry.get("tasks") or known]


def _percent(interval: stats.Interval | None) -> Estimate | None:
    return Estimate(100 * interval.value, 100 * interval.lo, 100 * interval.hi) if interval else None


def _number(value: Any) -> Cell:
    return value if isinstance(value, int) else float(value)


def _spread_over_seeds(point: Point, task: str, listed: Sequence[Point]) -> dict[str, Cell]:
    """Lowest and highest run of a point, where any point has several."""
    if all(len(p.runs) == 1 for p in listed):
        return {}
    values = point.by_seed.get(task, [])
    number = f"only {point.partial(task)}" if point.partial(task) else str(len(values))
    spread = f"{min(values):.1f} to {max(values):.1f} ({number} runs)" if values else None
    return {f"{task} over seeds": spread}


def _shared(point: Point, other: Point | None, task: str) -> tuple[list[float], list[float]]:
    """Scores of both points on the questions that both have, in one order."""
    mine, theirs = point.scores.get(task, {}), other.scores.get(task, {}) if other else {}
    both = sorted(set(mine) & set(theirs))
    return [mine[i] for i in both], [theirs[i] for i in both]


def _difference(point: Point, other: Point | None, task: str) -> Estimate | None:
    ours, theirs = _shared(point, other, task)
    if not ours:
        return None
    found = stats.paired(ours, theirs)
    return Estimate(100 * found.value, 100 * found.lo, 100 * found.hi, signed=True)


def _flips(point: Point, other: Point | None, task: str) -> str | None:
    if other is None or point is other or point.labels == other.labels:
        return None
    pairs = list(zip(*_shared(point, other, task), strict=True))
    return f"{sum(a > b for a, b in pairs)} / {sum(a < b for a, b in pairs)}" if pairs else None


def _beside(published: Sequence[Published], point: Point, entry: dict[str, Any], task: str) -> dict[str, Cell]:
    """The published number of the same label and task, in a column of its own."""
    label = point.labels.get(str(entry.get("axis") or ""), "")
    found: dict[str, Cell] = {}
    for table in published:
        if task in table.columns:
            row = table.of(label)
            found[f"{task} (published)"] = row.get(task) or None if row else None
            if f"{task}{LO}" in table.columns:
                lo, hi = (row[f"{task}{LO}"], row[f"{task}{HI}"]) if row else ("", "")
                found[f"{task} difference (published)"] = f"[{lo}, {hi}]" if lo else None
    return found


def _notes(listed: Sequence[Point], tasks: Sequence[str], entry: dict[str, Any]) -> list[str]:
    notes = [str(entry["note"])] if entry.get("note") else []
    trained = [point for point in listed if point.trained]
    if trained and all(point.train_seeds == 1 for point in trained):
        notes.append(ONE_SEED)
    if any(len(point.runs) > 1 for point in listed):
        notes.append(
            "Scores are averaged over seeds for each question; the interval is over questions only, "
            "the spread over seeds stands in its own column."
        )
    sizes = {task: sorted({len(p.scores[task]) for p in listed if p.scores.get(task)}) for task in tasks}
    notes += [
        f"{t}: {' or '.join(map(str, s))} questions; one question is {100 / s[0]:.2g} points."
        for t, s in sizes.items()
        if s
    ]
    notes += partial_notes(listed, tasks)
    unfinished = [p for p in listed if any(not p.scores.get(task) for task in tasks)]
    if unfinished:
        notes.append(f"{len(unfinished)} of {len(listed)} rows have no or not all results: see Missing results.")
    return notes
