"""From a grader's name to its function, its version and how it must be run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hpc.errors import RecipeError, nearest
from hpc.evals.extract import Judged
from hpc.recipe import names
from hpc.records import Question, Sample

Grader = Callable[..., Judged]
Bound = Callable[[Question, Sample], Judged]

VERSIONS = {"choice": 1, "exact": 1, "math": 1}
"""Raised when a grader's verdicts change; stands in every grade record and enters the key of stage grade."""

CANNOT_HANG = frozenset({"choice", "exact"})
"""Graders that only compare text: they run without a worker process."""

MEMORY_GIB = {"math": 4.0}
"""Address space that a worker of a grader may take: 9^{9^9} asks for more than any node has."""


def resolve(spec: dict[str, Any]) -> Bound:
    """The grader function of {"name": ..., arguments}, arguments bound.

    Raises:
        RecipeError: no such grader, file or function, or an argument it does not take.
    """
    arguments = {key: value for key, value in spec.items() if key != "name"}
    function = names.function("grader", str(spec["name"]))
    taken = list(inspect.signature(function).parameters)[2:]
    for key in arguments:
        if key not in taken:
            raise RecipeError(
                f'grader "{spec["name"]}" takes no argument "{key}"',
                where="grader",
                why=nearest(key, taken),
                next="correct or remove the argument",
            )

    def bound(question: Question, sample: Sample) -> Judged:
        judged: Judged = function(question, sample, **arguments)
        return judged

    return bound


def version(name: str) -> int:
    """The integer version of a grader; a user's function states its own as `function.version`, else 0."""
    return VERSIONS[name] if name in VERSIONS else int(getattr(names.function("grader", name), "version", 0))
