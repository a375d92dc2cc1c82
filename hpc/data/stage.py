"""Stage `data`: sources -> filters -> decontamination -> selection -> examples.jsonl and manifest.json.

Run by the worker (`python -m hpc.cluster.worker JOBFILE`). The manifest says of every ingredient how many examples each
filter kept and why the rest fell, what was decontaminated against which task, and what was selected. Decontamination
comes after the filters and before the selection, so that a selection has the size that was asked for.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpc.artifact import Work
from hpc.data.overlap import Overlap
from hpc.data.registry import load, make
from hpc.errors import StageError
from hpc.files import write_json, write_jsonl
from hpc.recipe import names
from hpc.recipe.schema import Data, Part, Spec
from hpc.records import Example

Count = Callable[[str], int]


def run(work: Work) -> dict[str, Any]:
    """Make the training examples of a recipe. Returns counts: examples, and tokens (or words) of thinking."""
    config: Data = work.config
    count = counter(config.tokenizer, work)
    if config.mix:
        parts = [(name, *ingredient(part, work, count)) for name, part in sorted(config.mix.items())]
        pool = _unique([e for _, examples, _ in parts for e in examples])[0]
        reports = {name: report for name, _, report in parts}
    else:
        pool, report = _loaded(config.source, work, count)
        reports = {"source": report}
    whole: dict[str, Any] = {}
    kept = _filtered(pool, config.filters, work, whole)
    kept = _decontaminated(kept, config, whole)
    selected = _selected(kept, config.select, config.size, work.seed, whole)
    if not selected:
        raise StageError(
            "no example is left to train on",
            where="data",
            why=_story(reports, whole),
            next="loosen the filters or name a larger source",
        )
    selected.sort(key=lambda e: e.id)
    write_jsonl(work.out / "examples.jsonl", (e.row() for e in selected))
    manifest = {
        "unit": "words" if config.tokenizer == "words" else f"tokens of {config.tokenizer}",
        "seed": work.seed,
        "parts": reports,
        **whole,
        **summary(selected),
    }
    write_json(work.out / "manifest.json", manifest)
    return {"examples": len(selected), "thinking_length": manifest["lengths"]["thinking"]["total"]}


def ingredient(part: Part, work: Work, count: Count) -> tuple[list[Example], dict[str, Any]]:
    """One part of a mix: its source, filters and selection; with the report of what fell."""
    pool, report = _loaded(part.source, work, count)
    kept = _filtered(pool, part.filters, work, report)
    return _selected(kept, part.select, part.size, work.seed, report), report


def counter(tokenizer: str, work: Work) -> Count:
    """What counts lengths: words, or tokens of a model (a hub name, a folder, or a run: reference)."""
    if tokenizer == "words":
        return lambda text: len(text.split())
    from transformers import AutoTokenizer

    place = work.inputs.get("tokenizer", tokenizer)  # org/name@COMMIT, or a folder
    name, _, revision = (str(place), "", "") if Path(place).exists() else str(place).partition("@")
    loaded = AutoTokenizer.from_pretrained(name, revision=revision or None)
    return lambda text: len(loaded(text, add_special_tokens=False).input_ids)


def summary(examples: Sequence[Example]) -> dict[str, Any]:
    """Number, domains, sources and lengths of the selected examples."""
    return {
        "examples": len(examples),
        "domains": dict(sorted(Counter(e.domain for e in examples).items())),
        "sources": dict(sorted(Counter(e.source for e in examples).items())),
        "lengths": {field: _spread([e.lengths[field] for e in examples]) for field in ("thinking", "answer")},
    }


def _loaded(source: Spec, work: Work, count: Count) -> tuple[list[Example], dict[str, Any]]:
    examples = load(source, work.inputs)
    unique, duplicates = _unique(examples)
    for example in unique:
        example.lengths = {"thinking": count(example.thinking), "answer": count(example.answer)}
    return unique, {"source": source, "loaded": len(examples), "duplicates": duplicates}


def _unique(examples: Sequence[Example]) -> tuple[list[Example], int]:
    """One example per question, whichever order the source has; and how many fell."""
    first: dict[str, Example] = {}
    for example in sorted(examples, key=lambda e: (e.id, e.source, e.thinking, e.answer)):
        first.setdefault(example.id, example)
    return list(first.values()), len(examples) - len(first)


def _filtered(pool: list[Example], filters: Sequence[Spec], work: Work, report: dict[str, Any]) -> list[Example]:
    rows = []
    for spec in filters:
        work.beat()
        test = make("filter", spec, work.inputs)
        reasons: Counter[str] = Counter()
        kept = []
        for example in pool:
            if reason := test(example):
                reasons[reason] += 1
            else:
                kept.append(example)
        name = spec if isinstance(spec, str) else spec["name"]
        for example in kept:
            example.checks.append(name)
        rows.append({"filter": spec, "kept": len(kept), "dropped": dict(sorted(reasons.items()))})
        pool = kept
    report["filters"] = rows
    return pool


def _decontaminated(pool: list[Example], config: Data, report: dict[str, Any]) -> list[Example]:
    if not config.decontaminate:
        return pool
    from hpc.evals.tasks import load_questions

    kept, rows = pool, []
    for task in config.decontaminate:
        questions = load_questions(names.task(task, "data.decontaminate"))
        overlap = Overlap((q.question for q in questions), config.ngram_words)
        found = {e.id: rule for e in kept if (rule := overlap(e.question))}
        kept = [e for e in kept if e.id not in found]
        rows.append(
            {
                "task": task,
                "kept": len(kept),
                "dropped": dict(sorted(Counter(found.values()).items())),
                "ids": sorted(found),
            }
        )
    report["decontaminate"] = {"ngram_words": config.ngram_words, "tasks": rows}
    return kept


def _selected(pool: list[Example], select: Spec, size: int | None, seed: int, report: dict[str, Any]) -> list[Example]:
    selected: list[Example] = make("select", select)(pool, len(pool) if size is None else size, seed)
    report["select"] = {
        "rule": select,
        "available": len(pool),
        "size": size,
        "selected": len(selected),
        "size_not_binding": size is not None and size >= len(pool),
    }
    return selected


def _spread(counts: Sequence[int]) -> dict[str, float]:
    return {
        "min": min(counts),
        "median": statistics.median(counts),
        "mean": round(statistics.fmean(counts), 2),
        "max": max(counts),
        "total": sum(counts),
    }


def _story(reports: dict[str, Any], whole: dict[str, Any]) -> str:
    steps = [f"{name}: {r['loaded']} loaded" for name, r in reports.items()]
    steps += [f"{f['filter']}: {f['kept']} kept" for r in (*reports.values(), whole) for f in r.get("filters", [])]
    return "; ".join(steps)
