"""The disk under checkpoints: which of them are whole, which are no longer needed, whether one more fits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import files
from hpc.artifact import Work
from hpc.plan import disk, room
from hpc.recipe.typed import plain
from hpc.train.ranks import Team

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

COMPLETE = "COMPLETE"
SPARE = 1.1
"""Room that a checkpoint wants, in sizes of the one before."""


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was saved: 12 for step_12."""
    return int(folder.name.removeprefix("step_"))


def flaw(folder: Path) -> str:
    """Why a checkpoint is not whole: it was not finished, or a file has another size since. Empty if it is."""
    if not (folder / COMPLETE).is_file():
        return f"no {COMPLETE}"
    for name, size in files.read_json(folder / COMPLETE).get("files", {}).items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            return f"{name} has {found} bytes and was written with {size}" if found is not None else f"{name} is gone"
    return ""


def whole(attempt: Path) -> list[Path]:
    """The whole checkpoints of an attempt, oldest first."""
    return sorted((f for f in attempt.glob("checkpoints/step_*") if not flaw(f)), key=step_of)


def size(folder: Path) -> int:
    """Bytes of the files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def expected(trainer: DeepSpeedEngine, work: Work) -> float:
    """Bytes of the next checkpoint: those of the newest one, else as planned from the number of parameters."""
    for attempt in (work.attempt, *work.older):
        if saved := whole(attempt):
            return size(saved[-1])
    parameters = sum(int(getattr(p, "ds_numel", p.numel())) for p in trainer.module.parameters())
    return float(parameters * disk.state_bytes(plain(work.config)))


def make(work: Work, team: Team, needed: float, form: dict[str, Any]) -> bool:
    """Whether `needed` bytes and some more are free for a checkpoint; for that, what is needed least is deleted.

    The furthest checkpoint stays, and the furthest of this job's form.
    """
    needed, place = SPARE * needed, work.attempt
    saved = sorted((f for a in (*work.older, work.attempt) for f in whole(a)), key=step_of)
    kept = saved[-1:] + [f for f in saved if form_of(f, form) == form][-1:]
    droppable = [*_remains(work), *(f for f in saved if f not in kept)]
    while (free := left(place)) < needed and droppable:
        gone = droppable.pop(0)
        team.say(f"train: too little room for a checkpoint of {room.size(needed)}: {gone} is deleted")
        shutil.rmtree(gone, ignore_errors=True)
    if free < needed:
        team.say(
            f"train: NO CHECKPOINT: it needs {room.size(needed)} in {place}, {room.size(free)} are free. "
            f"Training goes on; next: make room there (hpc gc)"
        )
    return free >= needed


def left(place: Path) -> int:
    """Bytes that are left for new files, by the file system and by the user's quota."""
    try:
        return room.of(place).bytes or 0
    except (KeyError, OSError):  # a container that does not know the user has no quota command to ask, either
        return shutil.disk_usage(place).free


def prune(work: Work, done: int) -> None:
    """Delete what the checkpoint after `done` steps makes superfluous, here and in the attempts before this one.

    Of all checkpoints up to this one the last `keep_checkpoints` are kept, whoever has made them. What is further than
    this one stays (this job could not load it, another may), and younger attempts are not touched.
    """
    saved = sorted((f for a in (*work.older, work.attempt) for f in whole(a) if step_of(f) <= done), key=step_of)
    for folder in [*_remains(work), *saved[: -work.config.keep_checkpoints]]:
        shutil.rmtree(folder, ignore_errors=True)


def form_of(folder: Path, like: dict[str, Any]) -> dict[str, Any]:
    """How a whole checkpoint is cut, in the words of `like`."""
    content = files.read_json(folder / COMPLETE)
    return {name: content.get(name) for name in like}


def _remains(work: Work) -> list[Path]:
    """Torn checkpoints and converted ones of the attempts before this one: nobody loads them."""
    torn = [folder for a in work.older for folder in sorted(a.glob("checkpoints/step_*")) if flaw(folder)]
    return torn + [folder for a in work.older if (folder := a / "universal").is_dir()]
