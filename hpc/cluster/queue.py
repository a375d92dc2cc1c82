"""What Slurm says about our jobs: one squeue and at most one sacct, however many jobs; every call with a time-out.

Jobs are found by their unique names, never by id alone: a controller that lost its state gives ids twice.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from hpc.errors import ClusterError

TIMEOUT_S = 30.0
"""Slurm clients wait for ever when munge is down."""

WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ACTIVE = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
OVER = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
    "REVOKED",
    "LAUNCH_FAILED",
    "RECONFIG_FAIL",
}

MOMENTARY = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "LAUNCH_FAILED"}
"""Ends after which Slurm puts a job that may be requeued back into the queue: seen for a moment, or for ever."""
SETTLE_S = 60.0
"""How long such a word is not yet believed: Slurm requeues within seconds, and accounting follows."""

SQUEUE = "%i|%F|%K|%T|%r|%V|%S|%e|%j"
SACCT = "JobID,State,ExitCode,Submit,Reason,End,JobName"

INDICES = re.compile(r"(\d+)(?:-(\d+)(?::([1-9]\d*))?)?")
"""One part of a list of array indices: 3, 3-5 or 3-9:2."""

CLIENT = {"SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"}
"""What the answers of Slurm's clients depend on: index lists in full, and times that sort."""

OUTER = re.compile(r"SLURM_(?!CONF$|CLUSTERS$|TIME_FORMAT$)|SLURMD_|SRUN_|PMI|HPC_RUNNER|HPC_TRY")
"""Variables of a job that we may be inside of: a new submission must not inherit them."""


STUCK = "launch failed requeued held"
"""Why a job waits for ever that Slurm could not start."""


@dataclass(frozen=True)
class State:
    """What Slurm says about one job: its word verbatim, why it waits, its id (17 or 17_3), when it was submitted.

    `start`: when it started, or when Slurm expects it to; `end`: when it ended, or must. Both are Slurm's local time
    (2026-11-22T02:00:00) or empty.
    """

    word: str
    reason: str
    job_id: str
    submitted: str
    exit: str = ""
    start: str = ""
    end: str = ""

    @property
    def over(self) -> bool:
        """True for the states that Slurm documents as final. An unknown word is never final, nor one that settles."""
        return self.word in OVER and not self.settling

    @property
    def settling(self) -> bool:
        """True while the job may still be on its way back into the queue: a node that died a moment ago, for one.

        Clocks of the controller and of this host that differ by more than SETTLE_S end this at once.
        """
        return self.word in MOMENTARY and (not self.end or abs(time.time() - seconds(self.end)) < SETTLE_S)

    @property
    def waiting(self) -> bool:
        """True before a job starts (again)."""
        return self.word in WAITING

    @property
    def hopeless(self) -> bool:
        """True for a job whose dependency can no longer be met: Slurm is about to cancel it."""
        return self.waiting and self.reason == "DependencyNeverSatisfied"


Table = dict[tuple[str, int | None], State]
"""(job name, array index; None for a plain job) -> state."""


def look(wanted: Iterable[tuple[str, int | None]], since: float) -> Table:
    """States of the jobs (name, array index) that are `wanted`, submitted after `since` (seconds since the epoch).

    Raises:
        ClusterError: squeue does not answer. (Without accounting, jobs that left the queue are simply not there.)
        NoSlurm: it is not installed here.
    """
    jobs = set(wanted)
    if not jobs:
        return {}
    try:
        lines = run(["squeue", "--me", "-h", "-r", "-t", "all", "-o", SQUEUE])
    except NoSlurm:
        raise no_slurm(
            "squeue",
            why="the ledger of this root holds jobs of these stages that were submitted to Slurm",
            next="ask on a login node of that cluster; for runs on this machine set another HPC_ROOT (or `roots`)",
        ) from None
    table = parse_squeue(lines, {name for name, _ in jobs})
    missing = {name for name, _ in jobs - table.keys()}
    return {**history(missing, since), **table} if missing else table


def history(names: set[str], since: float) -> Table:
    """States by accounting; empty where Slurm keeps none, or where the data base is down."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 86400))
    fields = ["--name", ",".join(sorted(names)), "--starttime", start, "--format", SACCT]
    try:
        return parse_sacct(run(["sacct", "-D", "-X", "-P", "-n", *fields]), names)
    except ClusterError:
        return {}


def parse_squeue(text: str, names: set[str]) -> Table:
    """Lines of SQUEUE fields -> states of the jobs called `names`; the newest submission of a name counts."""
    found: Table = {}
    for line in text.splitlines():
        if line[line.rfind("|") + 1 :] in names and line.count("|") >= 8:  # of 20,000 lines few are ours
            job, base, index, word, reason, submitted, start, end, name = line.split("|", 8)
            own = f"{base}_{index}" if index.isdigit() else job
            state = State(word, reason, own, submitted, start=_time(start), end=_time(end))
            _keep(found, (name, int(index) if index.isdigit() else None), state)
    return found


def parse_sacct(text: str, names: set[str]) -> Table:
    """Lines of SACCT fields -> states; of a requeued job's records the newest counts."""
    rows = [line.split("|", 6) for line in text.splitlines() if line.count("|") >= 6]
    found: Table = {}
    for job, word, code, submitted, reason, end, name in rows:
        for index in _indices(job) if name in names else []:
            # a record without an end is as old as its submission: what accounting keeps so does not settle
            state = State(word.split()[0], reason, job, submitted, code, end=_time(end) or submitted)
            _keep(found, (name, index), state)
    return found


def seconds(text: str) -> float:
    """Seconds since the epoch of Slurm's local time; 0 for what is not a time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _time(text: str) -> str:
    return "" if text in ("N/A", "Unknown", "None", "NONE") else text


def _keep(found: Table, key: tuple[str, int | None], state: State) -> None:
    if key not in found or found[key].submitted <= state.submitted:
        found[key] = state


def _indices(job: str) -> list[int | None]:
    """Array indices in a job id of sacct: 17 -> [None], 17_3 -> [3], 17_[3-5,8%2] -> [3, 4, 5, 8].

    Slurm cuts a long list off, 17_[1,3,...], unless SLURM_BITSTR_LEN=0: what it does not say is not there.
    """
    _, _, part = job.partition("_")
    if not part:
        return [None]
    found: list[int | None] = []
    for piece in part.strip("[]").split("%")[0].split(","):
        if match := INDICES.fullmatch(piece):
            first, last, step = match.groups()
            found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def clean_environment() -> dict[str, str]:
    """The environment without the variables of a job that we may be inside of."""
    return {n: v for n, v in os.environ.items() if not OUTER.match(n)}


def run(command: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
    """The output of a Slurm command.

    Raises:
        ClusterError: not installed, no answer in time, or refused; with Slurm's own text.
    """
    shown = " ".join(command[:6])
    try:
        env = {**clean_environment(), **CLIENT}
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=timeout_s, env=env)
    except FileNotFoundError:
        raise no_slurm(command[0]) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{command[0]} did not answer in {timeout_s:.0f} s",
            where=shown,
            why="the controller or munge is down, or overloaded",
            next="try again in a minute; `scontrol ping` shows whether the controller is up",
        ) from None
    if done.returncode:
        raise ClusterError(
            f"{command[0]} failed",
            where=shown,
            why=done.stderr.strip() or f"exit {done.returncode}",
            next="try again in a minute; if it stays, ask the cluster's staff with the text above",
        )
    return done.stdout


def release(job_ids: Sequence[str]) -> None:
    """Let jobs go that Slurm put on hold because their launch failed: nobody else would, and others wait for them.

    Slurm does so after a failed prolog, or when it lost its state; the next launch may be elsewhere, and succeed.
    """
    for job_id in job_ids:
        run(["scontrol", "release", job_id])


def cancel(job_ids: Sequence[str]) -> None:
    """scancel; a job that is over already is no error."""
    if not job_ids:
        return
    try:
        run(["scancel", *job_ids])
    except ClusterError as error:
        if "Invalid job id" not in error.why and "already completing or completed" not in error.why:
            raise


class NoSlurm(ClusterError):
    """Slurm's clients are not installed on this machine."""


def no_slurm(
    command: str,
    why: str = "the profile says kind: slurm",
    next: str = "run on a login node of your cluster, or use --on local to run here",
) -> NoSlurm:
    """The error for a machine without Slurm's clients; `why` they are needed."""
    return NoSlurm("there is no Slurm on this machine", where=f"{command} is not in PATH", why=why, next=next)
