"""How a warned start ends: it asks Slurm to start the job again, unless the job was cancelled."""

from __future__ import annotations

import os
import re
import signal
import subprocess

from hpc.cluster.ledger import Ledger
from hpc.cluster.shift import RESTART, Shift

LEFT = 4
"""Exit code of a job whose work was given to another: not a failure, but nothing that may follow it."""
CASCADE = 5
"""Exit code of a rank that srun ended because another rank had died: small, so that srun returns the other's code."""
SCONTROL_S = 30
"""Time for an answer of scontrol: there are two calls before the time limit or a preemption ends the job."""


def requeue(shift: Shift, received: str = "") -> int:
    """Ask to be started again later, unless the job was cancelled; returns the exit code.

    Args:
        received: the signal, where it stopped this rank outside the train loop.
    """
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if why := Ledger(shift.roots[0]).withdrawn.get(shift.element, ""):
        return _end(shift, "left", LEFT, f"this job leaves: {why}")
    if shift.restart >= shift.document["max_restarts"]:
        why = f"giving up after {shift.restart} restarts (max_restarts of the profile)"
        return _end(shift, "failed", 1, f"interrupted: {why}")
    if "SLURM_JOB_ID" not in os.environ:
        return _end(shift, "requeued", RESTART, "interrupted: asking to be started again")
    job = shift.slurm_job
    try:
        shown = scontrol("show", "job", job, "-o").stdout
        if received == "SIGTERM" and shift.world_size > 1 and untouched(shown):
            return _end(shift, "failed", CASCADE, "ended by srun, because another rank has died")
        fate = doing(shown, shift.restart)
        if fate == "cancelled":
            return _end(shift, "left", LEFT, f"job {job} was cancelled: it leaves")
        if fate == "requeued":
            return _end(shift, "requeued", 0, f"Slurm itself starts job {job} again")
        _end(shift, "requeued", 0, f"scontrol requeue {job}")
        done = scontrol("requeue", job)
    except FileNotFoundError:  # in a container: the batch shell outside does it
        return _end(shift, "requeued", RESTART, "interrupted: the batch script requeues the job")
    except subprocess.TimeoutExpired as error:
        return _end(shift, "failed", 1, f"not requeued, hpc submit resumes it: {error}")
    if done.returncode and "pending" not in done.stderr.lower():  # pending: Slurm or another rank was faster
        return _end(shift, "failed", 1, f"not requeued, hpc submit resumes it: {done.stderr.strip()}")
    return 0


def elsewhere(shift: Shift, host: str) -> str:
    """Requeue this job so that it does not come back to `host`; returns what went wrong, empty if nothing did."""
    job = shift.slurm_job
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the requeue tells this process too, before the second call
    try:
        done = scontrol("requeue", job)
        if done.returncode:
            return done.stderr.strip()
        fields = dict(word.partition("=")[::2] for word in scontrol("show", "job", job, "-o").stdout.split())
        avoided = [host, *(n for n in [fields.get("ExcNodeList", "")] if n not in ("", "(null)"))]
        done = scontrol("update", f"JobId={job}", f"ExcNodeList={','.join(avoided)}")
        if done.returncode:
            print(f"hpc: it may come back to {host}: {done.stderr.strip()}", flush=True)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        return str(error)
    return ""


def doing(shown: str, restart: int) -> str:
    """What Slurm is doing to a job that was told to stop: cancelled, requeued, or nothing final (empty).

    Args:
        shown: the line of `scontrol show job ID -o`. A job that is being cancelled, requeued by others or timed out
            says COMPLETING while its processes live: a requeue has raised Restarts, a time-out has used the limit up.
        restart: SLURM_RESTART_COUNT of this start.
    """
    fields = dict(word.partition("=")[::2] for word in shown.split())
    state = fields.get("JobState", "")
    if state not in ("CANCELLED", "COMPLETING"):
        return ""
    if state == "COMPLETING" and int(fields.get("Restarts", 0)) > restart:
        return "requeued"
    limit_s, run_s = seconds(fields.get("TimeLimit", "")), seconds(fields.get("RunTime", ""))
    return "" if state == "COMPLETING" and limit_s is not None and (run_s or 0) >= limit_s else "cancelled"


def untouched(shown: str) -> bool:
    """True if Slurm does nothing to a job (`scontrol show job ID -o`): no preemption, requeue, cancel or time limit."""
    fields = dict(word.partition("=")[::2] for word in shown.split())
    limit_s, run_s = seconds(fields.get("TimeLimit", "")), seconds(fields.get("RunTime", ""))
    in_time = limit_s is None or run_s is None or run_s < limit_s
    return fields.get("JobState") == "RUNNING" and fields.get("PreemptTime", "None") == "None" and in_time


def seconds(text: str) -> int | None:
    """Slurm's [DAYS-]HH:MM:SS in seconds; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(g or 0) for g in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One scontrol call with a time-out."""
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=SCONTROL_S)


def _end(shift: Shift, state: str, code: int, words: str) -> int:
    """Say how this start ends, rank 0 for all; returns the exit code."""
    print(f"hpc: {words}", flush=True)
    if shift.rank == 0:
        shift.report(state)
    return code
