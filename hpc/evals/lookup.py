"""From a grader's name to its function, its version and how it must be run."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc.errors import RecipeError, nearest
from hpc.evals import graders
from hpc.evals.extract import Judged
from hpc.records import Question, Sample

Grader = Callable[..., Judged]
Bound = Callable[[Question, Sample], Judged]

VERSIONS = {"choice": 1, "exact": 1, "math": 1}
"""Raised when a grader's verdicts change; stands in every grade record."""

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
    function = find(str(spec.get("name", "")))
    taken = list(inspect.signature(function).parameters)[2:]
    for key in arguments:
        if key not in taken:
            raise RecipeError(f'grader "{spec["name"]}" takes no argument "{key}"', where="grader",
                              why=nearest(key, taken), next="correct or remove the argument")

    def bound(question: Question, sample: Sample) -> Judged:
        return function(question, sample, **arguments)

    return bound


def find(name: str) -> Grader:
    """The function called `name`, or the one that `path/file.py:function` points to."""
    if name in VERSIONS:
        return getattr(graders, name)  # type: ignore[no-any-return]
    path, _, function = name.rpartition(":")
    if not path.endswith(".py"):
        raise RecipeError(f'there is no grader "{name}"', where="grader", why=nearest(name, VERSIONS),
                          next="use one of these, or path/file.py:function for a grader of your own")
    module = _module(Path(path).expanduser())
    found = getattr(module, function, None)
    if not callable(found):
        raise RecipeError(f"{path} has no function {function}", where=f"grader {name}",
                          why=nearest(function, [n for n in vars(module) if callable(getattr(module, n))]),
                          next="correct the name after the colon")
    grader: Grader = found
    return grader


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise RecipeError(f"there is no file {path}", where="grader", next="correct the path before the colon")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version(name: str) -> int:
    """The integer version of a grader; a user's function states its own as `function.version`, else 0."""
    return VERSIONS[name] if name in VERSIONS else int(getattr(find(name), "version", 0))
