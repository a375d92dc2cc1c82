"""What was submitted: ROOT/ledger, one file per fact, written once and never changed, so that no lock is needed.

    SUBMISSION.json                what one `hpc submit` is about to ask for, written before the first sbatch
    SUBMISSION.PIECE.json          what became of one sbatch: its job id, or "replaced" (never to run)
    SUBMISSION.withdrawn.ID.json   elements that must not run any more: cancelled, or given to a later submission

A crash between intent and job id leaves a piece undecided. Whoever comes first decides it by creating the second file:
the submitter with sbatch's answer, the job itself when it starts, or a later submit that replaces it. A job that finds
itself replaced leaves at once, so an sbatch that lands late does no harm.
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc import files


@dataclass
class Piece:
    """One sbatch call: jobs by index. `elements`: index -> {"stages": keys to make, "needs": keys they wait for}."""

    name: str
    kind: str
    job_name: str
    jobfile: str
    elements: dict[int, dict[str, list[str]]]

    @cached_property
    def keys(self) -> set[str]:
        """Keys of all stages that it makes; none for a mender."""
        return {k for e in self.elements.values() for k in e["stages"]}


@dataclass
class Intent:
    """What one `hpc submit` is about to ask for. `path`: the plan's file; two files may bear the same plan name."""

    submission: str
    plan: str
    profile: str
    kind: str
    pieces: list[Piece]
    when: float = field(default_factory=time.time)
    submitter: dict[str, Any] = field(default_factory=dict)
    path: str = ""


Element = tuple[str, str, int]
"""(submission, piece, index): one job that was asked for."""


class Ledger:
    """ROOT/ledger as it was when first read; make a new one to look again."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "ledger"

    @cached_property
    def names(self) -> set[str]:
        """Names in the folder."""
        return {p.name for p in self.folder.glob("[!.]*")}

    @cached_property
    def intents(self) -> list[Intent]:
        """Every intent, oldest first."""
        found = [_intent(files.read_json(self.folder / n)) for n in self.names if n.count(".") == 1]
        return sorted(found, key=lambda i: (i.when, i.submission))

    @cached_property
    def withdrawn(self) -> dict[Element, str]:
        """Elements that must not run any more, with the reason."""
        found = {}
        for name in sorted(n for n in self.names if ".withdrawn." in n):
            row = files.read_json(self.folder / name)
            found.update({(name.split(".")[0], piece, index): row["why"] for piece, index in row["elements"]})
        return found

    def decision(self, submission: str, piece: str) -> dict[str, Any] | None:
        """{"job_id"} or {"replaced"} of one piece, or None while nobody knows."""
        path = self.folder / f"{submission}.{piece}.json"
        return files.read_json(path) if path.exists() else None

    def intend(self, intent: Intent) -> None:
        """Write the intent; it is durable before this returns."""
        intent.submitter = this_process()
        assert create(self.folder / f"{intent.submission}.json", asdict(intent)), "submission ids are unique"

    def decide(self, submission: str, piece: str, value: dict[str, Any]) -> dict[str, Any]:
        """Settle a piece; returns the decision that stands, which may be an earlier one."""
        path = self.folder / f"{submission}.{piece}.json"
        value = {**value, "by": this_process()}
        return value if create(path, value) else files.read_json(path)

    def withdraw(self, elements: Iterable[Element], why: str) -> None:
        """Forbid elements to start (or start again)."""
        by_submission: dict[str, list[tuple[str, int]]] = {}
        for submission, piece, index in elements:
            by_submission.setdefault(submission, []).append((piece, index))
        for submission, rows in by_submission.items():
            create(self.folder / f"{submission}.withdrawn.{uuid.uuid4().hex[:8]}.json", {"elements": rows, "why": why})


def new_submission() -> str:
    """A unique id that sorts by time: 20261122-021500-9f3a1c2e."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"


def absolute(plan: dict[str, Any]) -> str:
    """The file of a plan, as intents record it; empty for a plan without one."""
    return str(Path(plan["path"]).absolute()) if plan.get("path") else ""


def create(path: Path, value: Any) -> bool:
    """Create `path` with the JSON of `value`, complete and durable; False if it exists (then it is left alone)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    files.fsync_folder(path.parent)
    return True


def this_process() -> dict[str, Any]:
    """Host, process id and its start time: a process id alone is reused."""
    return {"host": platform.node(), "pid": os.getpid(), "start": _start(os.getpid())}


def alive(process: dict[str, Any]) -> bool:
    """True if the process runs on this host. False if it is over, or on another host, where nobody can tell."""
    return process.get("host") == platform.node() and process["start"] == _start(process["pid"]) != ""


def _start(pid: int) -> str:
    """Start time of a live process in clock ticks since boot; empty for a dead one (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _intent(row: dict[str, Any]) -> Intent:
    pieces = [Piece(**{**p, "elements": {int(i): e for i, e in p["elements"].items()}}) for p in row["pieces"]]
    return Intent(**{**row, "pieces": pieces})
