"""Which artifacts of a plan are there, which will be made by jobs already submitted, and which nobody makes yet."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hpc import artifact
from hpc.cluster import queue
from hpc.cluster.ledger import Element, Intent, Ledger, Piece, alive
from hpc.cluster.profile import Profile
from hpc.cluster.reports import Reports, listed

Plan = dict[str, Any]


@dataclass
class Job:
    """One element of an earlier submission: what it makes, what it waits for, and how it is.

    `single`: a plain job, not an element of an array. `queued`: Slurm would still start it, or has. `start`: when it
    started, or when Slurm expects it to (Slurm's local time, or empty). `settling`: its end may be none, because Slurm
    may be about to put it back into the queue.
    """

    element: Element
    stages: list[str]
    needs: list[str]
    word: str
    reason: str = ""
    job_id: str = ""
    single: bool = True
    queued: bool = False
    start: str = ""
    settling: bool = False

    @property
    def waiting(self) -> bool:
        """True before it starts."""
        return self.word in queue.WAITING or self.word == UNDECIDED

    @property
    def over(self) -> bool:
        """True when it will not run (again)."""
        return (self.word in queue.OVER and not self.settling) or self.word in (LOST, REPLACED, WITHDRAWN)


UNDECIDED = "SUBMITTING"
"""Another `hpc submit` on this host is between its intent and sbatch's answer."""
SETTLING = "SETTLING"
"""It completed less than artifact.PATIENCE_S ago, and the file system does not show here what it published yet."""
LOST = "LOST"
"""Slurm does not know the job any more (no accounting, or the controller lost its state)."""
REPLACED = "REPLACED"
"""A later submit decided that this one never reaches the queue."""
WITHDRAWN = "WITHDRAWN"
"""Cancelled with `hpc cancel`, or taken over by a later submit."""


@dataclass
class Cover:
    """published: key -> folder. jobs: every element that was asked for a key of the plan, oldest first.

    live: key -> the element that will make it. undecided: pieces without an answer whose submitter is dead.
    submissions: all that the ledger held. reports: what the workers said. mender: Slurm's word for a mender's job that
    waits or runs, or empty: then what failed may still be tried again. stuck: ids of jobs that are wanted, and that
    Slurm holds after a failed launch.
    """

    published: dict[str, Path] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    live: dict[str, Job] = field(default_factory=dict)
    undecided: list[tuple[Intent, Piece]] = field(default_factory=list)
    submissions: set[str] = field(default_factory=set)
    reports: Reports = field(default_factory=lambda: Reports(Path()))
    mender: str = ""
    stuck: list[str] = field(default_factory=list)

    def latest(self, key: str) -> Job | None:
        """The element that makes `key`, or the last one that was asked to."""
        return self.live.get(key) or self._newest.get(key)

    @cached_property
    def _newest(self) -> dict[str, Job]:
        return {key: job for job in self.jobs for key in job.stages}


def look(plan: Plan, profile: Profile) -> Cover:
    """Compare a plan with the artifacts, the ledger and the queue, as they are now.

    Raises:
        ClusterError: Slurm does not answer.
    """
    keys = {s["key"] for s in plan["stages"]}
    roots = profile.all_roots
    cover = Cover(published=published(plan, roots), reports=Reports(roots[0]))
    ledger = Ledger(roots[0])
    cover.submissions = {i.submission for i in ledger.intents}
    concerned = [i for i in ledger.intents if any(keys & _keys(p) for p in i.pieces)]
    pending = [i for i in concerned if any(_keys(p) & keys - cover.published.keys() for p in i.pieces)]
    slurm = [i for i in pending if i.kind == "slurm"]
    wanted = [
        (p.job_name, _slurm_index(p, index))
        for i in slurm
        for p in i.pieces
        for index, row in p.elements.items()
        if keys & set(row["stages"]) - cover.published.keys()
    ]
    menders = [(p.job_name, None) for i in slurm for p in i.pieces if not _keys(p)]
    wanted += menders
    table = queue.look(wanted, min(i.when for i in slurm)) if slurm else {}
    known = {name for name, _ in table}
    for intent in concerned:
        for piece in intent.pieces:
            if keys & _keys(piece):
                _piece(cover, ledger, intent, piece, table, piece.job_name in known, roots[0])
    cover.mender = next((table[m].word for m in menders if m in table and not table[m].over), "")
    cover.live = _live(cover)
    held = [table[m].job_id for m in menders if m in table and table[m].reason == queue.STUCK]
    cover.stuck = sorted({*held, *(j.job_id for j in cover.live.values() if j.reason == queue.STUCK)})
    return cover


def published(plan: Plan, roots: list[Path]) -> dict[str, Path]:
    """The stages of a plan whose artifacts are there: key -> folder. One listing per root and stage."""
    keys: dict[str, list[str]] = {}
    for spec in plan["stages"]:
        keys.setdefault(spec["stage"], []).append(spec["key"])
    found: dict[str, Path] = {}
    for root in reversed(roots):
        for stage, wanted in keys.items():
            parent = root / "artifacts" / stage
            names = listed(parent)
            for key in (k for k in wanted if k in names):
                if os.path.exists(f"{parent}/{key}/DONE"):  # noqa: PTH110 - a thousand of them
                    found[key] = parent / key
    return found


def _slurm_index(piece: Piece, index: int) -> int | None:
    """A piece of one element is a plain job, which has no index in Slurm."""
    return index if len(piece.elements) > 1 else None


def _keys(piece: Piece) -> set[str]:
    return {k for e in piece.elements.values() for k in e["stages"]}


def _piece(
    cover: Cover, ledger: Ledger, intent: Intent, piece: Piece, table: queue.Table, known: bool, root: Path
) -> None:
    """Add the jobs of a piece; `known`: Slurm has heard its name."""
    decision = ledger.decision(intent.submission, piece.name)
    states = _local(root, intent, piece) if intent.kind == "local" else {}
    submitting = decision is None and alive(intent.submitter)
    if decision is None and not known and not states and not submitting:
        cover.undecided.append((intent, piece))
    for index, row in piece.elements.items():
        element = (intent.submission, piece.name, index)
        state = states.get(index) or table.get((piece.job_name, _slurm_index(piece, index)))
        job = Job(element, row["stages"], row["needs"], LOST, single=len(piece.elements) == 1)
        if state is not None:
            _as_seen(job, state)
        elif submitting:
            job.word = UNDECIDED
        if element in ledger.withdrawn and (not job.over or job.word == LOST):  # if it still runs, it is being ended
            job.word, job.reason = WITHDRAWN, ledger.withdrawn[element]
        elif decision is not None and "replaced" in decision:
            job.word, job.reason = REPLACED, decision["replaced"]
        elif job.word == LOST and decision is None:
            job.word, job.reason = REPLACED, "hpc submit was interrupted before sbatch answered; submit again"
        elif job.word == LOST and not cover.published.keys() >= set(job.stages):
            job.word = cover.reports.verdict(element) or LOST
        if job.word == "COMPLETED" and intent.kind == "slurm" and not cover.published.keys() >= set(job.stages):
            job.word = SETTLING if cover.reports.fresh(element, artifact.PATIENCE_S) else job.word
        cover.jobs.append(job)


def _local(root: Path, intent: Intent, piece: Piece) -> dict[int, queue.State]:
    from hpc.cluster import local  # the runner, and with it all that judges failures: only where one runs

    return local.states(root, intent.submission, piece.name, piece.elements)


def _as_seen(job: Job, state: queue.State) -> None:
    """Slurm's (or the local runner's) word for a job."""
    job.word, job.reason, job.job_id, job.start = state.word, state.reason, state.job_id, state.start
    job.queued, job.settling = not state.over, state.settling
    if state.hopeless:
        job.word = "CANCELLED"


def _live(cover: Cover) -> dict[str, Job]:
    """Keys that submitted jobs will make. A job that waits for something nobody makes will not: Slurm cancels it."""
    live: dict[str, Job] = {}
    left = [j for j in cover.jobs if not j.over]
    candidates: list[Job] = []
    while len(left) != len(candidates):
        candidates = left
        expected = {*cover.published, *(k for j in candidates for k in j.stages)}
        left = [j for j in candidates if not j.waiting or expected.issuperset(j.needs)]
    for job in candidates:
        for key in job.stages:
            if key not in cover.published:
                live.setdefault(key, job)
    return live
