"""Tasks: what is asked. A task is a YAML file (hpc/evals/tasks/NAME.yaml, or the user's own) over a data source.

    about:      one line, with the origin
    source:     data source with its arguments (hpc/data/sources.py)
    prompt:     what the model sees; {question}, the columns in the source's `extra`, and {A}, {B} ... are filled in
    grader:     math, choice, exact, {name, arguments} or path/file.py:function
    publish:    false keeps the text inside the artifact; reports show ids and verdicts only
    choices:    (optional) {right: column, wrong: [columns]}: options in an order drawn from (order_seed, question id)
    order_seed: (optional) seed of that order

A recipe adds `limit: N`: the first N questions. Names are looked up by hpc.recipe.names.task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpc.errors import StageError
from hpc.records import Example, Question

LETTERS = "ABCDEFGHIJ"


def load_questions(task: dict[str, Any], inputs: Mapping[str, Path | str] | None = None) -> list[Question]:
    """The questions of a resolved task (its YAML's keys, `name` and a recipe's arguments), in the source's order.

    Args:
        inputs: artifact folder of every `run:` reference in the task's source.

    Raises:
        StageError: no questions, two with one id, or one without a reference.
    """
    from hpc.data import sources  # the data stage's registry: only where questions are read

    questions = [_question(task, example) for example in sources.load(task["source"], inputs)]
    name, where = task.get("name", "?"), f"source {task['source']}"
    if not questions:
        raise StageError(
            f"task {name} has no questions", where=where, next="check the task's source: file, split and column names"
        )
    first: dict[str, int] = {}
    for number, question in enumerate(questions):
        if first.setdefault(question.id, number) != number:
            raise StageError(
                f"task {name} asks one question twice",
                where=where,
                why=f"rows {first[question.id]} and {number} have the id {question.id}",
                next="remove one of the two rows",
            )
        if not question.reference:
            raise StageError(
                f"a question of task {name} has no reference",
                where=where,
                why=f"row {number}, id {question.id}",
                next="correct `reference` in the task's source",
            )
    return questions[: task.get("limit")]


def _question(task: dict[str, Any], example: Example) -> Question:
    fields = {**{k: str(v) for k, v in example.extra.items()}, "question": example.question.strip()}
    reference = example.reference.strip()
    if task.get("choices"):
        options, reference = _options(task, example)
        fields |= options
    # one pass: a question that itself contains {A} or {question} stays as it is
    prompt = re.sub(r"\{([\w ]+)\}", lambda m: fields.get(m[1], m[0]), task["prompt"])
    return Question(example.id, fields["question"], prompt, reference, example.domain or str(task.get("domain", "")))


def _options(task: dict[str, Any], example: Example) -> tuple[dict[str, str], str]:
    """Options by letter, and the letter of the right one."""
    right, columns = task["choices"]["right"], [task["choices"]["right"], *task["choices"]["wrong"]]
    random.Random(f"{task.get('order_seed', 0)}|{example.id}").shuffle(columns)
    texts = {letter: str(example.extra[column]).strip() for letter, column in zip(LETTERS, columns, strict=False)}
    return texts, LETTERS[columns.index(right)]
