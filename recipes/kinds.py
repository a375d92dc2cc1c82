"""Kinds of rows in Sky-T1's published data, by the instruction that each question begins with: filters for a recipe.

    data: {source: sky_t1_17k, filters: ["./kinds.py:mathematics"]}

The release has no column that says where a row comes from, so APPS and TACO, or easy and hard mathematics, cannot be
told apart in it. What is neither of these two kinds is science and puzzles (STILL-2).
"""

from __future__ import annotations

from collections.abc import Callable

from hpc.records import Example

MATHEMATICS = "Return your final response within \\boxed{}"
CODE = "Generate an executable Python function"


def mathematics() -> Callable[[Example], str | None]:
    """Keep questions with the instruction for mathematics."""
    return lambda example: None if MATHEMATICS in example.question else "not mathematics"


def code() -> Callable[[Example], str | None]:
    """Keep questions with the instruction for code (APPS and TACO)."""
    return lambda example: None if CODE in example.question else "not code"
