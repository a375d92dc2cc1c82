"""Checkpoints of an attempt: saved whole or not at all, found again by the next attempt, resumed exactly.

ROOT/work/train/KEY/N/checkpoints/step_S/          DeepSpeed's files; COMPLETE is written last
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.train.ranks import Team

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

COMPLETE = "COMPLETE"
KEEP = 2


@dataclass(frozen=True)
class Start:
    """Where training starts: after `step` steps, which `attempt` has made (None for a fresh start)."""

    step: int = 0
    attempt: Path | None = None


def save(trainer: DeepSpeedEngine, work: Work, team: Team, steps_done: int) -> None:
    """Save the state after `steps_done` steps and delete this attempt's checkpoints but the last two.

    Raises:
        Superseded: a younger attempt exists; on all ranks, nothing is written.
    """
    _check_live(work, team)
    folder = work.attempt / "checkpoints"
    trainer.save_checkpoint(str(folder), tag=f"step_{steps_done}", save_latest=False)
    team.wait()
    if team.leads:
        _seal(folder / f"step_{steps_done}", {"step": steps_done, **_layout(trainer, team)})
        for old in sorted(folder.glob("step_*"), key=_step)[:-KEEP]:
            shutil.rmtree(old)
    team.wait()


def resume(trainer: DeepSpeedEngine, work: Work, team: Team) -> Start:
    """Load the furthest complete checkpoint of the attempts before this one, if there is one.

    A checkpoint of another number of ranks, ZeRO stage or offload has other shards: it is passed over, and said so.

    Raises:
        StageError: DeepSpeed found nothing to load in a checkpoint that is marked as complete.
    """
    found = team.agree(_newest(work, trainer, team) if team.leads else None)
    if found is None:
        return Start()
    loaded, _ = trainer.load_checkpoint(str(found.parent), tag=found.name, load_lr_scheduler_states=False)
    if loaded is None:
        raise StageError(
            "the checkpoint cannot be loaded",
            where=str(found),
            why=f"DeepSpeed found no state for rank {team.rank} of {team.world_size} in it; it is marked complete",
            next=f"delete {found} and submit again: training goes on from the checkpoint before it",
        )
    team.say(f"train: resumed after step {_step(found)} from {found}")
    return Start(_step(found), found.parents[1])


def carried_metrics(start: Start) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to the checkpoint, from the attempt that wrote it; empty for a fresh start."""
    path = start.attempt / "out" / "metrics.jsonl" if start.attempt else None
    if path is None or not path.exists():
        return []
    return [row for row in files.read_jsonl(path) if row["step"] <= start.step]


def _newest(work: Work, trainer: DeepSpeedEngine, team: Team) -> Path | None:
    found = [path.parent for attempt in work.older for path in attempt.glob(f"checkpoints/step_*/{COMPLETE}")]
    for folder in sorted(found, key=_step, reverse=True):
        layout = {name: files.read_json(folder / COMPLETE).get(name) for name in _layout(trainer, team)}
        if layout == _layout(trainer, team):
            return folder
        team.say(f"train: {folder} is passed over: it was saved with {layout}, this job has {_layout(trainer, team)}")
    return None


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


def _layout(trainer: DeepSpeedEngine, team: Team) -> dict[str, int | str]:
    """What decides how a checkpoint is cut into shards; the offload is the one that `auto` came to."""
    optimizer = "optimizer" if trainer.zero_offload_optimizer() else "none"
    return {
        "world_size": team.world_size,
        "zero_stage": trainer.zero_optimization_stage(),
        "offload": "all" if trainer.zero_offload_param() else optimizer,
    }


def _seal(folder: Path, content: dict[str, Any]) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    files.write_json(folder / COMPLETE, content)
    files.fsync_folder(folder)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))
