"""A checkpoint in the form that any number of ranks can load, made by DeepSpeed's converter in a process of its own.

ROOT/work/train/KEY/N/universal/step_S/            deleted once it is loaded; universal.log has what the converter says
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from hpc import files
from hpc.artifact import Work
from hpc.plan import room
from hpc.train import space
from hpc.train.ranks import Interrupted, Stop, Team

ALIKE = ({1, 2}, {3})
"""Stages of ZeRO whose checkpoints can be converted into each other's; those of stage 0 need no conversion."""
TURN_S = 10.0
"""How long the other ranks wait for a conversion at a time: one collective of its length would time out."""
ROOM = 2.2
"""Room that a conversion wants, in sizes of the checkpoint: its slices and what they are put together to."""
DEAF = ("sh", "-c", 'trap "" TERM USR2; exec "$@"', "-")
"""Slurm warns all processes of a job: the converter must not die of it. Its parent hears the warning, and ends it."""
CONVERTER = (sys.executable, "-P", "-m", "deepspeed.checkpoint.ds_to_universal")


class Problem(NamedTuple):
    """Why a checkpoint cannot be converted, and what to do."""

    why: str
    next: str


def convert(found: Path, work: Work, team: Team, form: dict[str, Any], stop: Stop) -> Problem | None:
    """Write the universal form of a checkpoint into this attempt, by rank 0; returns what is in the way.

    Raises:
        Interrupted: a rank was asked to stop meanwhile; the converter is ended and what it wrote is deleted.
    """
    refused = team.agree(_refused(found, work, form, team) if team.leads else None)
    if refused is not None:
        return refused
    running = _started(found, work, team) if team.leads else None
    try:
        while True:
            ended = running is not None and running.poll() is not None
            told = team.gather((stop.asked, ended))
            if any(asked for asked, _ in told):
                raise Interrupted(f"train {work.key}: stopped while {found} was converted; it stays as it is")
            if told[0][1]:
                break
            work.beat()
            if running is not None:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(TURN_S)
    finally:
        _end(running, work)
    return team.agree(_outcome(running, work) if running is not None else None)


def _refused(found: Path, work: Work, form: dict[str, Any], team: Team) -> Problem | None:
    former, now = files.read_json(found / space.COMPLETE)["zero_stage"], form["zero_stage"]
    if not any({former, now} <= alike for alike in ALIKE):
        return Problem(
            f"stage {former} of ZeRO saved it, this job has stage {now}: DeepSpeed converts 1 and 2 into each other",
            f"submit with train.zero.stage={former}, which saved it",
        )
    shutil.rmtree(work.attempt / "universal", ignore_errors=True)  # of a checkpoint that could not be converted
    needed, free = ROOM * space.size(found), space.left(work.attempt)
    if free < needed:
        return Problem(
            f"its conversion needs {room.size(needed)} in {work.attempt}, {room.size(free)} are free",
            "make room there (hpc gc), or submit with the former number of GPUs: that needs no conversion",
        )
    team.say(f"train: {found} was saved by {space.form_of(found, form)}: converting it for this job")
    return None


def _started(found: Path, work: Work, team: Team) -> subprocess.Popen[bytes]:
    former = files.read_json(found / space.COMPLETE)
    target = Path("universal", found.name)  # relative: the converter takes special characters of a path for patterns
    command = [*DEAF, *CONVERTER, "--input_folder", str(found.resolve()), "--output_folder", str(target)]
    command += ["--inject_missing_state"] * (former["zero_stage"] < 3)  # stage 3 needs none, the others want it asked
    with _log(work).open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=work.attempt, process_group=0)


def _end(running: subprocess.Popen[bytes] | None, work: Work) -> None:
    """End a converter that still runs, with the processes that it has started."""
    if running is None or running.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    shutil.rmtree(work.attempt / "universal", ignore_errors=True)


def _outcome(running: subprocess.Popen[bytes], work: Work) -> Problem | None:
    if not running.returncode:
        return None
    lines = _log(work).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    why = lines[-1] if lines else f"DeepSpeed's converter ended with exit code {running.returncode}"
    return Problem(why, f"look into {_log(work)}; the former number of GPUs and train.zero.stage need no conversion")


def _log(work: Work) -> Path:
    return work.attempt / "universal.log"
