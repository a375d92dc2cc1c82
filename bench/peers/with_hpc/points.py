"""The trivial run for us, a source of the user's own: one example that says which point of the grid it is."""

import os
from collections.abc import Iterator

from hpc.records import Example, question_id


def point(*, x: int = 0, y: int = 0, z: int = 0) -> Iterator[Example]:
    """One example of the point (x, y, z); POINT_FAILS in the environment makes it fail."""
    if os.environ.get("POINT_FAILS"):
        raise RuntimeError("told to fail")
    question = f"{x} {y} {z}"
    yield Example(id=question_id(question), question=question, thinking="", answer=str(x + y + z), source="points")
