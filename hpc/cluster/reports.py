"""What the workers themselves said: ROOT/jobs/SUBMISSION/state, listed once per submission, read only where asked."""

from __future__ import annotations

import calendar
import os
import time
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster.ledger import Element

VERDICTS = {"done": "COMPLETED", "failed": "FAILED", "left": "CANCELLED"}
"""What the last word of a job that Slurm no longer knows comes to. One that was at work has left no verdict."""


class Reports:
    """Reports of the starts of jobs, newest first asked for by element."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[str, dict[tuple[str, str], list[str]]] = {}

    def last(self, element: Element) -> dict[str, Any]:
        """The report of an element's newest start: {"state", "stages", "at", "restart", "try"}; {} if it never ran."""
        submission, piece, index = element
        names = self._listed(submission).get((piece, str(index)), [])
        rows = [files.read_json(self.root / "jobs" / submission / "state" / n) for n in names]
        return max(rows, key=lambda r: (r["restart"], r.get("try", 0), r["at"]), default={})

    def verdict(self, element: Element) -> str:
        """How a job that Slurm no longer knows ended, in Slurm's words; empty if it did not say."""
        return VERDICTS.get(self.last(element).get("state", ""), "")

    def fresh(self, element: Element, within_s: float) -> bool:
        """True if its newest start said less than `within_s` seconds ago (by its clock) that all stages are done."""
        row = self.last(element)
        if row.get("state") != "done":
            return False
        return abs(time.time() - calendar.timegm(time.strptime(row["at"], "%Y-%m-%dT%H:%M:%SZ"))) < within_s

    def _listed(self, submission: str) -> dict[tuple[str, str], list[str]]:
        """File names of a submission by (piece, index): PIECE.INDEX.JOB.RESTART.TRY.json."""
        if submission not in self._names:
            found: dict[tuple[str, str], list[str]] = {}
            for name in listed(self.root / "jobs" / submission / "state"):
                if name.endswith(".json") and not name.startswith("."):
                    piece, index, _ = name.split(".", 2)
                    found.setdefault((piece, index), []).append(name)
            self._names[submission] = found
        return self._names[submission]


def listed(folder: Path) -> set[str]:
    """Names in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {e.name for e in entries}
    except FileNotFoundError:
        return set()
