"""The one error that users see: what is wrong, where, why, and what to do next. `hpc` prints it and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HpcError(Exception):
    """A mistake or a state of the world that the user can mend.

    Args:
        what: one sentence, what is wrong.
        where: file and key, or the command, that it was found in.
        why: the numbers or the valid choices behind it.
        next: the next command or edit, never empty.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", next: str) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.next = what, where, why, next

    def __str__(self) -> str:
        rows = [("where", self.where), ("why", self.why), ("next", self.next)]
        return "\n".join([self.what, *(f"  {name}: {text}" for name, text in rows if text)])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.why, self.next)


class RecipeError(HpcError):
    """A recipe, sweep or override that cannot be read as one."""


class PlanError(HpcError):
    """References that lead nowhere or round in a circle."""


class ClusterError(HpcError):
    """A profile, a Slurm command or a job that is not as it should be."""


class ArtifactError(HpcError):
    """An input or output folder that is missing, torn or purged."""


class StageError(HpcError):
    """A stage that cannot do its work with what it was given."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """A sentence that lists the valid words, the nearest first: 'did you mean "lr"? valid: ...'."""
    names = sorted(valid)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    return f"{hint}valid: {', '.join(names) or '(none)'}"


def _rebuild(kind: type[HpcError], what: str, where: str, why: str, next: str) -> HpcError:
    return kind(what, where=where, why=why, next=next)
