"""Checkpoints of an attempt: saved whole or not at all, found again by the next attempt, resumed exactly.

ROOT/work/train/KEY/N/checkpoints/step_S/          DeepSpeed's files; COMPLETE is written last
ROOT/work/train/KEY/N/universal/step_S/            the same state for any number of ranks, where the next job differs
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hpc import files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.train import mends, space, universal
from hpc.train.ranks import Stop, Team
from hpc.train.space import COMPLETE

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

SHARE = 0.02
"""Share of the time that saving may take where the cadence is automatic."""
LEAST_S, MOST_S = 300.0, 3600.0
"""Bounds of the automatic interval: a minute more of lost work is cheap, an hour on many GPUs is not."""
WRITER = ("inline_container", "Parent directory")
"""What torch's writer of files names where the disk fails it: it raises RuntimeError, no OSError."""


@dataclass(frozen=True)
class Start:
    """Where training starts: after `step` steps, which `attempt` has made (None for a fresh start).

    Attributes:
        folder: what is to be loaded; universal: it was converted from another number of ranks or ZeRO stage.
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


class Saved(NamedTuple):
    """Seconds that a save took, and whether there is a checkpoint now."""

    seconds: float
    complete: bool


def layout(zero_stage: int, world_size: int) -> dict[str, int]:
    """What decides how a checkpoint is cut into shards. Without ZeRO nothing is: one file serves any number of ranks.

    Offload does not enter: it moves the states, and cuts them alike.
    """
    return {"world_size": world_size if zero_stage else 1, "zero_stage": zero_stage}


def save(trainer: DeepSpeedEngine, work: Work, team: Team, steps_done: int, form: dict[str, int]) -> Saved:
    """Save the state after `steps_done` steps; delete what is older than the last `keep_checkpoints`, of all attempts.

    Where the file system has no room for one more, what is needed least goes first; if that is not enough, or if a
    rank cannot write (disk full, quota), nothing is saved on any rank, and that is said: training goes on.

    Raises:
        Superseded: a younger attempt exists; on all ranks, nothing is written.
    """
    _check_live(work, team)
    began, folder = time.monotonic(), work.attempt / "checkpoints" / f"step_{steps_done}"
    ready = team.agree(_ready(trainer, work, team, folder, form) if team.leads else False)
    if not ready:
        return Saved(time.monotonic() - began, False)
    told = team.gather(_write(trainer, folder))
    problem = next((f"rank {rank}: {why}" for rank, (_, why) in enumerate(told) if why), "")
    if team.leads:
        sizes = {name: size for written, _ in told for name, size in written.items()}
        problem = problem or _sealed(folder, {"step": steps_done, **form, "files": sizes})
        if problem:
            shutil.rmtree(folder, ignore_errors=True)
            team.say(f"train: NO CHECKPOINT after step {steps_done}: {problem}. Training goes on; next: make room")
        else:
            with suppress(OSError):  # others delete here, too; what stays goes with the next save
                space.prune(work, steps_done)
    problem = team.agree(problem)
    return Saved(time.monotonic() - began, not problem)


def find(work: Work, team: Team, form: dict[str, int], stop: Stop) -> Start:
    """The furthest whole checkpoint of the attempts before this one; converted if its shards are cut otherwise.

    One that cannot be converted is passed over, and that is said, where an older one serves.

    Raises:
        StageError: there are checkpoints, and none of them can be converted.
        Interrupted: a rank was asked to stop during a conversion.
    """
    hurdle: tuple[Path, universal.Problem] | None = None
    for found, same in team.agree(_candidates(work, team, form) if team.leads else []):
        if same:
            return Start(space.step_of(found), found.parents[1], found)
        problem = universal.convert(found, work, team, form, stop)
        if problem is None:
            converted = work.attempt / "universal" / found.name
            return Start(space.step_of(found), found.parents[1], converted, universal=True)
        hurdle = hurdle or (found, problem)
        team.say(f"train: {found} IS PASSED OVER: {problem.why}; {problem.next}")
    if hurdle is not None:
        raise StageError(
            "a checkpoint cannot be converted for this job",
            where=str(hurdle[0]),
            why=hurdle[1].why,
            next=hurdle[1].next,
        )
    return Start()


def resume(trainer: DeepSpeedEngine, start: Start, team: Team) -> None:
    """Load what `find` found.

    Raises:
        StageError: DeepSpeed found nothing to load in a checkpoint that is marked as complete.
    """
    if start.folder is None:
        return
    own = mends.hyperparameters(trainer)
    with _mapped():
        loaded, _ = trainer.load_checkpoint(
            str(start.folder.parent), tag=start.folder.name, load_lr_scheduler_states=False
        )
    if loaded is None:
        raise StageError(
            "the checkpoint cannot be loaded",
            where=str(start.folder),
            why=f"DeepSpeed found no state for rank {team.rank} of {team.world_size} in it; it is marked complete",
            next=f"delete {start.folder} and submit again: training goes on from the checkpoint before it",
        )
    mends.after_load(trainer, own)
    team.say(f"train: resumed after step {start.step} from {start.folder}")
    if start.universal:
        team.wait()  # others may still read
        if team.leads:
            shutil.rmtree(start.folder.parent, ignore_errors=True)  # as large as a checkpoint, and no longer needed


def carried_metrics(start: Start) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to the checkpoint, from the attempt that wrote it; empty for a fresh start."""
    path = start.attempt / "out" / "metrics.jsonl" if start.attempt else None
    if path is None or not path.exists():
        return []
    return [row for row in files.read_jsonl(path) if row["step"] <= start.step]


def _candidates(work: Work, team: Team, form: dict[str, int]) -> list[tuple[Path, bool]]:
    """Whole checkpoints, furthest first, and whether each is cut as this job needs it; of equal steps such a one."""
    found: list[tuple[Path, bool]] = []
    for folder in (path.parent for attempt in work.older for path in attempt.glob(f"checkpoints/step_*/{COMPLETE}")):
        if problem := space.flaw(folder):
            team.say(f"train: {folder} IS PASSED OVER: {problem}")
        else:
            found.append((folder, space.form_of(folder, form) == form))
    return sorted(found, key=lambda each: (space.step_of(each[0]), each[1]), reverse=True)


def _ready(trainer: DeepSpeedEngine, work: Work, team: Team, folder: Path, form: dict[str, int]) -> bool:
    """Make room and the folder, in which DeepSpeed would fail on one rank alone."""
    try:
        if not space.make(work, team, space.expected(trainer, work), form):
            return False
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        team.say(f"train: NO CHECKPOINT: {error}. Training goes on; next: make room there (hpc gc)")
        return False
    return True


def _write(trainer: DeepSpeedEngine, folder: Path) -> tuple[dict[str, int], str]:
    """DeepSpeed's save: bytes of the files that this rank wrote, on disk; and why it could not, or an empty text.

    An exception out of save_checkpoint would leave the other ranks in its collectives. It writes in two places, neither
    with a collective inside: there it is caught, and this rank goes on to the end with the others.
    """
    sizes: dict[str, int] = {}
    problems: list[str] = []
    engine, save, scripts = trainer.checkpoint_engine, trainer.checkpoint_engine.save, trainer._copy_recovery_script

    def guarded(state_dict: Any, path: str) -> None:
        try:
            save(state_dict, path)
            sizes[str(Path(path).relative_to(folder))] = _synced(Path(path))
        except (OSError, RuntimeError) as error:
            if not isinstance(error, OSError) and not any(words in str(error) for words in WRITER):
                raise
            problems.append(f"{path} cannot be written: {str(error).splitlines()[0]}")

    engine.save, trainer._copy_recovery_script = guarded, lambda _: None  # scripts that nobody here needs
    try:
        trainer.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
    finally:
        engine.save, trainer._copy_recovery_script = save, scripts
    return sizes, problems[0] if problems else ""


def _synced(path: Path) -> int:
    """Bytes of a file, once they are on disk; some file systems say only now that they have no room."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size


@contextmanager
def _mapped() -> Iterator[None]:
    """Within, torch reads files as they are used: the shards of all ranks of a node need not fit into its memory."""
    from torch.utils.serialization import config

    before, config.load.mmap = config.load.mmap, True
    try:
        yield
    finally:
        config.load.mmap = before


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


def _sealed(folder: Path, content: dict[str, Any]) -> str:
    """Seal a checkpoint; returns why that cannot be done, or an empty text."""
    try:
        _seal(folder, content)
    except OSError as error:
        return str(error)
    return ""


def _seal(folder: Path, content: dict[str, Any]) -> None:
    """From now on the checkpoint counts; its ranks have brought their files to the disk."""
    files.fsync_folder(folder)
    files.write_json(folder / COMPLETE, content)
    files.fsync_folder(folder)
