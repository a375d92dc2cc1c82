"""From a plan and artifact folders to data frames: one row per run and task, one per run, task and question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import artifact, files
from hpc.errors import ArtifactError
from hpc.evals import stats

if TYPE_CHECKING:
    import pandas

SEEDS = ("data", "train", "generate")


@dataclass
class Results:
    """What the artifacts of a plan say.

    Attributes:
        axes: names of the sweep's axes, in order.
        rows: one row per (run, task) with a grade artifact. Columns: run, task, axis labels, seed_data, seed_train,
            seed_generate; num_questions, num_samples, num_correct; accuracy, lo, hi (%, Wilson over questions);
            thinking_tokens, answer_tokens, waits (means); cut, truncated, no_answer, grader_error (% of samples);
            waits_asked, max_thinking (settings); publish.
        questions: one row per (run, task, id): score (mean over samples, 0..1), verdicts.
        missing: {run, task, reason} for every (run, task) without a grade artifact.
        stages: provenance of every stage of the plan: key, state, code, date.
    """

    name: str
    about: str
    axes: list[str]
    rows: pandas.DataFrame
    questions: pandas.DataFrame
    missing: list[dict[str, str]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect(plan: dict[str, Any], roots: Sequence[Path]) -> Results:
    """Read everything that is published; what is not is listed in `missing`, never left out silently."""
    import pandas

    specs = {spec["key"]: spec for spec in plan["stages"]}
    axes = list(dict.fromkeys(axis for run in plan["runs"] for axis in run["axes"]))
    rows, questions, missing = [], [], []
    cache: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for run in plan["runs"]:
        grades = run["stages"].get("grade") or {}
        if not grades:
            missing.append({"run": run["name"], "task": "", "reason": "the recipe evaluates nothing"})
        for task, key in grades.items():
            reason = _absent(run, task, key, roots)
            if reason:
                missing.append({"run": run["name"], "task": task, "reason": reason})
                continue
            generated = run["stages"]["generate"][task]
            if key not in cache:
                cache[key] = _measure(roots, generated, key, specs.get(generated, {}))
            row, per_question = cache[key]
            where = {"run": run["name"], "task": task}
            rows.append({**where, **{a: run["axes"].get(a, "") for a in axes}, **_seeds(run), **row})
            questions += [{**where, **q} for q in per_question]
    frame = pandas.DataFrame(rows, columns=None if rows else ["run", "task"])
    return Results(
        plan.get("name", ""),
        plan.get("about", ""),
        axes,
        frame,
        pandas.DataFrame(questions),
        missing,
        [_provenance(spec, roots) for spec in plan["stages"]],
        plan["runs"],
        list(plan.get("notes") or []),
    )


def _absent(run: dict[str, Any], task: str, key: str, roots: Sequence[Path]) -> str:
    """Why the grades of a task are not there, or an empty text."""
    chain = [
        ("data", run["stages"].get("data")),
        ("train", run["stages"].get("train")),
        ("generate", run["stages"]["generate"].get(task)),
        ("grade", key),
    ]
    absent = [f"{stage} {k}" for stage, k in chain if k and not artifact.find(roots, stage, k)]
    if not artifact.find(roots, "grade", key):
        return f"not finished: {absent[0]} is not published"
    for stage, needed in chain[2:]:
        folder = artifact.find(roots, stage, needed)
        if folder is None:
            return f"graded, but {stage} {needed} is in none of the roots"
        try:
            artifact.check(folder)
        except ArtifactError as error:
            return f"{error.what} ({folder})"
    return ""


def _seeds(run: dict[str, Any]) -> dict[str, int]:
    return {f"seed_{stage}": int((run.get("seeds") or {}).get(stage, 0)) for stage in SEEDS}


def _measure(
    roots: Sequence[Path], generated: str, graded: str, spec: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of one grade artifact, and its questions."""
    folder, grade_folder = artifact.find(roots, "generate", generated), artifact.find(roots, "grade", graded)
    assert folder and grade_folder
    samples = {(s["id"], s["sample"]): s for s in files.read_jsonl(folder / "samples.jsonl")}
    grades = list(files.read_jsonl(grade_folder / "grades.jsonl"))
    what = spec.get("what") or files.read_json(folder / "config.json")["what"]
    thinking = what.get("thinking") or {}
    per_question = _per_question(grades, samples)
    interval = stats.wilson(sum(q["score"] for q in per_question), len(per_question)) if per_question else None
    listed = [samples[g["id"], g["sample"]] for g in grades]
    share = {
        v: _percent(sum(g["verdict"] == v for g in grades), len(grades))
        for v in ("truncated", "no_answer", "grader_error")
    }
    row = {
        "num_questions": len(per_question),
        "num_samples": len(grades),
        "num_correct": sum(g["verdict"] == "correct" for g in grades),
        "accuracy": 100 * interval.value if interval else None,
        "lo": 100 * interval.lo if interval else None,
        "hi": 100 * interval.hi if interval else None,
        "thinking_tokens": _mean([s["thinking_tokens"] for s in listed]),
        "answer_tokens": _mean([s["answer_tokens"] for s in listed]),
        "waits": _mean([sum(e["type"] == "wait" for e in s["events"]) for s in listed]),
        "cut": _percent(sum(s["thinking_finish"] == "cut" for s in listed), len(listed)),
        **share,
        "waits_asked": int(thinking.get("waits") or 0),
        "min_thinking": int(thinking.get("min") or 0),
        "max_thinking": thinking.get("max"),
        "publish": bool((what.get("task") or {}).get("publish", True)),
    }
    return row, per_question


def _per_question(grades: list[dict[str, Any]], samples: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    by_id: dict[str, list[dict[str, Any]]] = {}
    for grade in grades:
        by_id.setdefault(grade["id"], []).append(grade)
    return [
        {
            "id": i,
            "score": sum(g["verdict"] == "correct" for g in listed) / len(listed),
            "verdicts": " ".join(g["verdict"] for g in listed),
            "thinking_tokens": _mean([samples[i, g["sample"]]["thinking_tokens"] for g in listed]),
        }
        for i, listed in by_id.items()
    ]


def _provenance(spec: dict[str, Any], roots: Sequence[Path]) -> dict[str, Any]:
    folder = artifact.find(roots, spec["stage"], spec["key"])
    done = files.read_json(folder / "DONE") if folder else {}
    return {
        "stage": spec["stage"],
        "key": spec["key"],
        "recipe": spec["recipe"],
        "task": spec.get("task") or "",
        "state": "published" if folder else "missing",
        "finished": done.get("finished", ""),
        "attempt": done.get("attempt"),
        "code": (done.get("code") or {}).get("digest", ""),
        "version": (done.get("code") or {}).get("version", ""),
        "seed": spec.get("seed"),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
