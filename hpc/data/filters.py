"""Filters by name: every public function here makes a test that an example passes (None) or fails (the reason).

s1's pipeline is quality, then unsolved_by each of two models, then the selection (s1, section 2.2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hpc.data.text import plain
from hpc.errors import StageError
from hpc.files import read_jsonl
from hpc.records import Example

Test = Callable[[Example], str | None]

PARTS = re.compile(r"p[1-9]\d{0,2}\.")
BOLD_NUMBER = re.compile(r"\*\*(?=.*\d)[^\s\]]*\*\*")


def complete(*, need: Sequence[str] = ("question", "thinking", "answer")) -> Test:
    """Drop examples with an empty field (s1: "API errors", any feature missing).

    Args:
        need: fields that must not be empty.
    """
    return lambda example: next((f"no {field}" for field in need if not str(getattr(example, field)).strip()), None)


def quality(
    *, need: Sequence[str] = ("question", "thinking", "answer"), figures_from: Sequence[str] = ("AIME",)
) -> Test:
    """s1's quality filter, rule for rule: no missing field, figure, image, problem-set number or bold number.

    Args:
        need: fields that must not be empty.
        figures_from: sources (part of the name) whose questions may keep an [asy] figure.
    """
    full = complete(need=need)

    def test(example: Example) -> str | None:
        text = example.question
        if reason := full(example):
            return reason
        if "[asy]" in text and not any(name in example.source for name in figures_from):
            return "figure"
        if "[asy]" in text:
            return None
        if "![Image]" in text:
            return "image"
        if PARTS.search(text):
            return "part of a problem set"
        return "bold number" if BOLD_NUMBER.search(text) else None

    return test


def unsolved_by(*, grades: str, strict: bool = True) -> Test:
    """Keep the questions that a model did not solve: s1's difficulty filter.

    Args:
        grades: run:RECIPE#grade.TASK; one correct sample counts as solved.
        strict: drop questions that have no grade; false keeps them.
    """
    solved, seen = _solved(grades)

    def test(example: Example) -> str | None:
        if example.id in solved:
            return "solved"
        return "no grade" if strict and example.id not in seen else None

    return test


def solved_by(*, grades: str) -> Test:
    """Keep the questions that a model solved, with at least one correct sample.

    Args:
        grades: run:RECIPE#grade.TASK.
    """
    solved, _ = _solved(grades)
    return lambda example: None if example.id in solved else "not solved"


def right(*, strict: bool = False) -> Test:
    """Drop examples whose answer does not end in the reference (letter for letter, white space apart).

    Args:
        strict: drop examples without a reference as well.
    """

    def test(example: Example) -> str | None:
        if not example.reference:
            return "no reference" if strict else None
        found = plain(example.answer).rstrip(".").removesuffix("}").endswith(plain(example.reference))
        return None if found else "wrong answer"

    return test


def length(*, field: str = "thinking", least: int = 0, most: int | None = None) -> Test:
    """Keep examples whose field has a length between two bounds, in the stage's unit (data.tokenizer).

    Args:
        field: thinking or answer.
        least, most: bounds, both inclusive; null is unbounded.
    """

    def test(example: Example) -> str | None:
        count = example.lengths.get(field, 0)
        if count < least:
            return "too short"
        return "too long" if most is not None and count > most else None

    return test


def domains(*, keep: Sequence[str] = (), drop: Sequence[str] = ()) -> Test:
    """Keep or drop whole domains.

    Args:
        keep: domains to keep; empty keeps all.
        drop: domains to drop.
    """
    return lambda e: "domain" if e.domain in drop or (len(keep) > 0 and e.domain not in keep) else None


def _solved(grades: str) -> tuple[set[str], set[str]]:
    """Ids judged correct at least once, and all graded ids."""
    path = Path(grades) / "grades.jsonl"
    if not path.is_file():
        raise StageError(
            "this artifact holds no grades",
            where=str(path),
            why="grades.jsonl is not there",
            next="give the filter a grade stage: grades: run:RECIPE#grade.TASK",
        )
    rows = list(read_jsonl(path))
    return {r["id"] for r in rows if r["verdict"] == "correct"}, {r["id"] for r in rows}
