"""From a name to its function: sources, filters and selections of the package, or `path/file.py:function`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hpc.errors import StageError
from hpc.files import read_jsonl
from hpc.recipe import names
from hpc.recipe.schema import Spec
from hpc.records import Example, question_id

Inputs = Mapping[str, Path | str]
"""By `run:` reference: the artifact folder that stands for it."""


def make(group: Literal["source", "filter", "select"], spec: Spec, inputs: Inputs | None = None) -> Any:
    """Call the function that `spec` names, with its arguments; `run:` references in them become artifact folders."""
    expanded = names.expand(group, spec, f"data.{group}")
    name, arguments = expanded.pop("name"), {k: resolve(v, inputs or {}) for k, v in expanded.items()}
    return names.function(group, name)(**arguments)


def resolve(value: Any, inputs: Inputs) -> Any:
    """`value` with every `run:` reference inside it replaced by the path of its artifact."""
    if isinstance(value, dict):
        return {k: resolve(v, inputs) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve(v, inputs) for v in value]
    if isinstance(value, str) and value.startswith("run:"):
        if value not in inputs:
            raise StageError(
                f"{value} is not an input of this stage",
                where="data",
                why=f"inputs: {', '.join(inputs) or '(none)'}",
                next="plan and submit the recipe again",
            )
        return str(inputs[value])
    return value


def load(spec: Spec, inputs: Inputs | None = None) -> list[Example]:
    """The examples of a source in its own order: training data and the questions of tasks both come from here.

    Args:
        spec: a name, {name, arguments}, run:RECIPE[#stage] or path/file.py:function.
        inputs: artifact folder of every `run:` reference.
    """
    name, _ = names.split(spec)
    if name.startswith("run:"):
        return published(Path(resolve(name, inputs or {})))
    return list(make("source", spec, inputs))


def published(folder: Path) -> list[Example]:
    """The examples of a data artifact, or the first completion of every question of a generate artifact."""
    if (folder / "examples.jsonl").is_file():
        return [Example(**row) for row in read_jsonl(folder / "examples.jsonl")]
    if not (folder / "samples.jsonl").is_file():
        raise StageError(
            "this artifact holds no examples",
            where=str(folder),
            why="neither examples.jsonl nor samples.jsonl is there",
            next="refer to a data stage (run:RECIPE#data) or a generate stage (run:RECIPE#generate.TASK)",
        )
    questions = {row["id"]: row for row in read_jsonl(folder / "questions.jsonl")}
    firsts = [row for row in read_jsonl(folder / "samples.jsonl") if row["sample"] == 0]
    return [_completed(questions[row["id"]], row) for row in firsts]


def _completed(question: dict[str, Any], sample: dict[str, Any]) -> Example:
    return Example(
        id=question_id(question["question"]), question=question["question"], thinking=sample["thinking"],
        answer=sample["answer"], source="generated", domain=question["domain"], reference=question["reference"],
        extra={"task_id": question["id"]},
    )  # fmt: skip
