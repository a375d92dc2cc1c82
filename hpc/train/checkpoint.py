"""Checkpoints of an attempt: saved whole or not at all, found again by the next attempt, resumed exactly.

ROOT/work/train/KEY/N/checkpoints/step_S/          DeepSpeed's files; COMPLETE is written last
ROOT/work/train/KEY/N/universal/step_S/            the same state for any number of ranks, where the next job differs
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpc import files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.train import mends
from hpc.train.ranks import Team

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

COMPLETE = "COMPLETE"
SHARE = 0.02
"""Share of the time that saving may take where the cadence is automatic."""
LEAST_S, MOST_S = 300.0, 3600.0
"""Bounds of the automatic interval: a minute more of lost work is cheap, an hour on many GPUs is not."""
ALIKE = ({1, 2}, {3})
"""Stages of ZeRO whose checkpoints can be converted into each other's; those of stage 0 need no conversion."""
TURN_S = 10.0
"""How long the other ranks wait for a conversion at a time."""
SPARE = 1.1
"""Room that a checkpoint wants, in sizes of the one before."""


@dataclass(frozen=True)
class Start:
    """Where training starts: after `step` steps, which `attempt` has made (None for a fresh start).

    Attributes:
        folder: what is to be loaded; universal: it was converted from another number of ranks, ZeRO stage or offload.
    """

    step: int = 0
    attempt: Path | None = None
    folder: Path | None = None
    universal: bool = False


@dataclass
class Cadence:
    """When to save: every so many steps, or (auto) so seldom that saving takes 2 % of the time, as measured."""

    every_steps: int | Literal["auto"]
    interval_s: float = LEAST_S
    last: float = field(default_factory=time.monotonic)

    def due(self, steps_done: int) -> bool:
        """Whether a checkpoint should be saved now. Rank 0 decides for all: clocks differ."""
        if self.every_steps == "auto":
            return time.monotonic() - self.last >= self.interval_s
        return bool(self.every_steps) and steps_done % self.every_steps == 0

    def saved(self, seconds: float) -> None:
        """Learn from a save that took `seconds`."""
        self.interval_s = min(max(seconds / SHARE, LEAST_S), MOST_S)
        self.last = time.monotonic()


def layout(zero_stage: int, offload: str, world_size: int) -> dict[str, int | str]:
    """What decides how a checkpoint is cut into shards; `offload` is the one that `auto` came to.

    Without ZeRO nothing is cut: one file serves any number of ranks.
    """
    return {"world_size": world_size if zero_stage else 1, "zero_stage": zero_stage, "offload": offload}


def save(trainer: DeepSpeedEngine, work: Work, team: Team, steps_done: int, form: dict[str, int | str]) -> float:
    """Save the state after `steps_done` steps, delete this attempt's older checkpoints; returns the seconds it took.

    Where the file system has no room for one more, older ones go first; if that is not enough, nothing is saved, and
    that is said: training goes on.

    Raises:
        Superseded: a younger attempt exists; on all ranks, nothing is written.
    """
    _check_live(work, team)
    began, folder = time.monotonic(), work.attempt / "checkpoints"
    if not team.agree(_room(folder, team) if team.leads else None):
        return time.monotonic() - began
    trainer.save_checkpoint(str(folder), tag=f"step_{steps_done}", save_latest=False)
    team.wait()
    if team.leads:
        _seal(folder / f"step_{steps_done}", {"step": steps_done, **form})
        for old in sorted(folder.glob("step_*"), key=_step)[: -work.config.keep_checkpoints]:
            shutil.rmtree(old)
    team.wait()
    return time.monotonic() - began


def find(work: Work, team: Team, form: dict[str, int | str]) -> Start:
    """The furthest complete checkpoint of the attempts before this one; converted if its shards are cut otherwise.

    Raises:
        StageError: a checkpoint cannot be converted.
    """
    found, same = team.agree(_newest(work, form) if team.leads else (None, True))
    if found is None:
        return Start()
    if same:
        return Start(_step(found), found.parents[1], found)
    problem = _converted(found, work, team, form)
    if problem:
        raise StageError(
            "a checkpoint cannot be converted for this job",
            where=str(found),
            why=problem,
            next="submit with the former number of GPUs and train.zero, or delete the checkpoint: training starts over",
        )
    return Start(_step(found), found.parents[1], work.attempt / "universal" / found.name, universal=True)


def resume(trainer: DeepSpeedEngine, start: Start, team: Team) -> None:
    """Load what `find` found.

    Raises:
        StageError: DeepSpeed found nothing to load in a checkpoint that is marked as complete.
    """
    if start.folder is None:
        return
    own = mends.hyperparameters(trainer)
    loaded, _ = trainer.load_checkpoint(str(start.folder.parent), tag=start.folder.name, load_lr_scheduler_states=False)
    if loaded is None:
        raise StageError(
            "the checkpoint cannot be loaded",
            where=str(start.folder),
            why=f"DeepSpeed found no state for rank {team.rank} of {team.world_size} in it; it is marked complete",
            next=f"delete {start.folder} and submit again: training goes on from the checkpoint before it",
        )
    mends.after_load(trainer, own)
    team.say(f"train: resumed after step {start.step} from {start.folder}")
    if start.universal and team.leads:
        shutil.rmtree(start.folder.parent, ignore_errors=True)  # as large as a checkpoint, and no longer needed


def carried_metrics(start: Start) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to the checkpoint, from the attempt that wrote it; empty for a fresh start."""
    path = start.attempt / "out" / "metrics.jsonl" if start.attempt else None
    if path is None or not path.exists():
        return []
    return [row for row in files.read_jsonl(path) if row["step"] <= start.step]


def _newest(work: Work, form: dict[str, int | str]) -> tuple[Path | None, bool]:
    """The furthest complete checkpoint, and whether it is cut as this job needs it; of equal steps such a one."""
    found = [path.parent for attempt in work.older for path in attempt.glob(f"checkpoints/step_*/{COMPLETE}")]
    fitting = {folder: _form(folder, form) == form for folder in found}
    best = max(found, key=lambda folder: (_step(folder), fitting[folder]), default=None)
    return best, best is None or fitting[best]


def _form(folder: Path, like: dict[str, int | str]) -> dict[str, Any]:
    content = files.read_json(folder / COMPLETE)
    return {name: content.get(name) for name in like}


def _converted(found: Path, work: Work, team: Team, form: dict[str, int | str]) -> str:
    """Rank 0 converts; the others wait in short turns: one collective of that length would time out."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_convert, found, work, team, form) if team.leads else None
        while not team.agree(running is None or running.done()):
            work.beat()
            if running is not None:
                wait([running], TURN_S)
        return team.agree(running.result() if running is not None else "")


def _convert(found: Path, work: Work, team: Team, form: dict[str, int | str]) -> str:
    """Write the universal form of a checkpoint into this attempt; returns what went wrong, or an empty text."""
    former = files.read_json(found / COMPLETE)
    stages = former["zero_stage"], form["zero_stage"]
    if not any(set(stages) <= alike for alike in ALIKE):
        return "stage {} of ZeRO saved it, this job has stage {}: DeepSpeed converts 1 and 2 into each other".format(
            *stages
        )
    team.say(f"train: {found} was saved by {former}: converting it for this job")
    target = Path("universal", found.name)  # relative: the converter takes special characters of a path for patterns
    command = [sys.executable, "-P", "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(found.resolve()), "--output_folder", str(target)]
    command += ["--inject_missing_state"] * (former["zero_stage"] < 3)  # stage 3 needs none, the others want it asked
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work.attempt)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return ""


def _room(folder: Path, team: Team) -> bool:
    """Whether there is room for one more checkpoint, as large as the last; old ones are deleted to make it."""
    saved = sorted(folder.glob("step_*"), key=_step)
    if not saved:
        return True
    needed = SPARE * sum(path.stat().st_size for path in saved[-1].rglob("*") if path.is_file())
    while shutil.disk_usage(folder).free < needed and len(saved) > 1:
        team.say(f"train: too little room for a checkpoint of {needed / 2**30:.1f} GiB: {saved[0]} is deleted")
        shutil.rmtree(saved.pop(0))
    free = shutil.disk_usage(folder).free
    if free < needed:
        team.say(
            f"train: NO CHECKPOINT: it needs {needed / 2**30:.1f} GiB in {folder}, {free / 2**30:.1f} are free. "
            f"Training goes on; next: make room there (hpc gc)"
        )
    return free >= needed


def _check_live(work: Work, team: Team) -> None:
    reason = ""
    if team.leads:
        try:
            work.check_live()
        except Superseded as error:
            reason = str(error)
    reason = team.agree(reason)
    if reason:
        raise Superseded(reason)


def _seal(folder: Path, content: dict[str, Any]) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    files.write_json(folder / COMPLETE, content)
    files.fsync_folder(folder)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))
