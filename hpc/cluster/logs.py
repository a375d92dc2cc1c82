"""Logs of a stage's job, each start its own: ROOT/logs/SUBMISSION/PIECE. `hpc logs X [--run R] [-f]`.

INDEX-JOB.RESTART.TRY-RANK.out      one rank of one start; TRY counts the starts inside one allocation
INDEX-JOB.batch.out                 the batch script around them, over all restarts
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster.cover import Job, Plan, look
from hpc.cluster.ledger import Element
from hpc.cluster.profile import Profile
from hpc.cluster.reports import listed
from hpc.errors import ClusterError, nearest

NAME = re.compile(r"(?P<index>\d+)-(?P<job>.+)\.(?P<restart>\d+)\.(?P<attempt>\d+)-(?P<rank>\d+)\.out")
BATCH = re.compile(r"(?P<index>\d+)-(?P<job>.+)\.batch\.out")
BLOCK = 1 << 20
"""Characters or bytes of a log that are held at once: some have gigabytes."""
POLL_S = 1.0
LOOK_S = 15.0
"""How often a follower asks Slurm whether the stage is still at work, at most."""


@dataclass(frozen=True, order=True)
class Start:
    """One start of an element: Slurm's later jobs have higher numbers, restarts and tries count up within a job."""

    number: int
    job: str
    restart: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.job}.{self.restart}.{self.attempt}"


def logs(plan: Plan, profile: Profile, key: str, *, rank: int = 0, attempt: int = 0, batch: bool = False) -> Path:
    """The newest log of the job that makes (or made) the stage `key`.

    Args:
        rank: whose log.
        attempt: an attempt's number (ROOT/work/STAGE/KEY/N): the log of the start that made it; 0 is the newest start.
        batch: the batch script's log; also where no start has come to life.

    Raises:
        ClusterError: no such stage, never submitted, not started yet, or no such rank or attempt.
    """
    _known(plan, key)
    if attempt:
        return _of_attempt(plan, profile, key, attempt, rank)
    job = _job(plan, profile, key)
    folder, index = _folder(profile, job.element), job.element[2]
    ranks = {} if batch else starts(folder, index)
    if not ranks:
        found = [n for n in listed(folder) if (m := BATCH.fullmatch(n)) and int(m["index"]) == index]
        if found:
            return folder / max(found, key=lambda n: _number(BATCH.fullmatch(n)["job"]))  # type: ignore[index]
        raise _nothing(key, folder, f"its job is {job.word} {job.reason}".strip())
    newest = max(ranks)
    if rank not in ranks[newest]:
        raise _no_rank(key, folder, rank, ranks[newest])
    return folder / ranks[newest][rank]


def starts(folder: Path, index: int) -> dict[Start, dict[int, str]]:
    """Every start of an element that has logs: file names by rank."""
    found: dict[Start, dict[int, str]] = {}
    for name in listed(folder):
        match = NAME.fullmatch(name)
        if match and int(match["index"]) == index:
            start = Start(_number(match["job"]), match["job"], int(match["restart"]), int(match["attempt"]))
            found.setdefault(start, {})[int(match["rank"])] = name
    return found


def follow(plan: Plan, profile: Profile, key: str, *, rank: int = 0, poll_s: float = POLL_S) -> Iterator[str]:
    """Text as it is written, over all starts of the stage's job, until the stage is over.

    A log that begins is announced by a line `==> PATH <==`. Before the first start it waits.

    Raises:
        ClusterError: no such stage, never submitted, or Slurm does not answer at the beginning.
    """
    _known(plan, key)
    path: Path | None = None
    position, looked, job = 0, -LOOK_S, None
    look_s = LOOK_S if profile.kind == "slurm" else poll_s
    while True:
        over = False
        if time.monotonic() - looked >= (look_s if path else 2 * poll_s):
            job, over = _at_work(plan, profile, key, job)
            looked = time.monotonic()
        assert job is not None
        newest = _newest(profile, job, rank)
        if over and path is newest is None:
            newest = logs(plan, profile, key, batch=True)
        if path is not None:  # first what the old log still has to say
            text, position = _read(path, position, all=over or newest != path)
            while text:
                yield text
                text, position = _read(path, position, all=over or newest != path)
        if newest is not None and newest != path:
            path, position = newest, 0
            yield f"==> {path} <==\n"
            continue
        if over:
            return
        time.sleep(poll_s)


def _at_work(plan: Plan, profile: Profile, key: str, last: Job | None) -> tuple[Job, bool]:
    """The job that makes `key`, and whether nothing more is to be expected of it."""
    try:
        cover = look(plan, profile)
    except ClusterError:
        if last is None:
            raise
        return last, False
    job = cover.latest(key)
    if job is None:
        raise _never(key, profile)
    return job, key in cover.published or key not in cover.live


def _newest(profile: Profile, job: Job, rank: int) -> Path | None:
    folder = _folder(profile, job.element)
    ranks = starts(folder, job.element[2])
    if ranks and rank in ranks[max(ranks)]:
        return folder / ranks[max(ranks)][rank]
    return None


def _read(path: Path, position: int, *, all: bool) -> tuple[str, int]:
    """A block of what was written since `position`, as whole lines unless `all` is wanted; and the next position."""
    with path.open("rb") as file:
        file.seek(position)
        data = file.read(BLOCK)
    whole = data[: data.rfind(b"\n") + 1]
    data = whole or data if all or len(data) == BLOCK else whole
    return data.decode(errors="replace"), position + len(data)


def _of_attempt(plan: Plan, profile: Profile, key: str, attempt: int, rank: int) -> Path:
    spec = next((s for s in plan["stages"] if s["key"] == key), None)
    work = profile.root / "work" / (spec["stage"] if spec else "") / key
    path = work / str(attempt) / "attempt.json"
    if spec is None or not path.exists():
        numbers = sorted((n for n in listed(work) if n.isdigit()), key=int)
        raise ClusterError(
            f"stage {key} has no attempt {attempt}",
            where=str(work),
            why=f"attempts: {', '.join(numbers) or 'none'}",
            next="give one of these with --attempt, or leave it out for the newest start",
        )
    head: dict[str, Any] = files.read_json(path)
    folder = _folder(profile, (head["submission"], head["piece"], head["index"]))
    name = f"{head['index']}-{head['job_id']}.{head['restart']}.{head.get('try', 0)}-{rank}.out"
    if not (folder / name).exists():
        raise _nothing(key, folder / name, f"attempt {attempt} was started by hand, or its logs were removed")
    return folder / name


def _job(plan: Plan, profile: Profile, key: str) -> Job:
    job = look(plan, profile).latest(key)
    if job is None:
        raise _never(key, profile)
    return job


def _folder(profile: Profile, element: Element) -> Path:
    return profile.root / "logs" / element[0] / element[1]


def _number(job: str) -> int:
    """Slurm's job id as a number; the local runner's has a process id at its end."""
    return int(re.sub(r"\D", "", job) or 0)


def blocks(path: Path) -> Iterator[str]:
    """The text of a log, BLOCK characters at a time."""
    with path.open(errors="replace") as file:
        while text := file.read(BLOCK):
            yield text


def unknown(what: str, given: str, valid: Iterable[str], where: str) -> ClusterError:
    """The error for a run or stage that a plan does not have, with the first of those it has."""
    return ClusterError(
        f'there is no {what} "{given}"',
        where=where,
        why=nearest(given, list(valid)[:40]),
        next="hpc status lists the runs, hpc status --json the keys of stages",
    )


def _known(plan: Plan, key: str) -> None:
    keys = [s["key"] for s in plan["stages"]]
    if key not in keys:
        raise unknown("stage", key, keys, plan["name"])


def _never(key: str, profile: Profile) -> ClusterError:
    return ClusterError(
        f"stage {key} was never submitted from here",
        where=str(profile.root / "ledger"),
        next="hpc submit it first; hpc status lists the keys",
    )


def _nothing(key: str, where: Path, why: str) -> ClusterError:
    return ClusterError(
        f"stage {key} has no log yet", where=str(where), why=why, next="hpc status shows what it waits for"
    )


def _no_rank(key: str, folder: Path, rank: int, ranks: dict[int, str]) -> ClusterError:
    return ClusterError(
        f"the newest start of stage {key} has no rank {rank}",
        where=str(folder),
        why=f"ranks: {', '.join(map(str, sorted(ranks)))}",
        next="give one of these with --rank",
    )
