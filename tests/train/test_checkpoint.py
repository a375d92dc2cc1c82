"""Which checkpoint a new attempt goes on from, and what a superseded one leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpc import artifact, files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.train import checkpoint
from hpc.train.ranks import Team


class Alone(Team):
    """The only rank: agrees with itself."""

    def agree(self, value: Any) -> Any:
        return value

    def wait(self) -> None:
        return None


class Engine:
    """Records what DeepSpeed would be asked to do."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.saved: list[str] = []
        self.found: str | None = "states"
        self.offload: str | None = None

    def zero_optimization_stage(self) -> int:
        return 3

    def zero_offload_optimizer(self) -> str | None:
        return self.offload

    def zero_offload_param(self) -> str | None:
        return None

    def load_checkpoint(self, folder: str, tag: str, **_: Any) -> tuple[str | None, dict[str, Any]]:
        self.loaded.append(f"{Path(folder).parent.name}/{tag}")
        return self.found, {}

    def save_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        (Path(folder) / tag).mkdir(parents=True)
        (Path(folder) / tag / "states.pt").write_text("")
        self.saved.append(tag)


ALONE: Any = Alone(0, 1, None)  # type: ignore[arg-type]


def make_work(root: Path, *, older: int) -> Work:
    attempts = [artifact.claim(root, "train", "k") for _ in range(older + 1)]
    return Work("train", "k", None, {}, {}, 0, attempts[-1], attempts[:-1][::-1])


def leave(attempt: Path, step: int, *, world_size: int = 1, complete: bool = True) -> None:
    folder = attempt / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    if complete:
        layout = {"world_size": world_size, "zero_stage": 3, "offload": "none"}
        files.write_json(folder / "COMPLETE", {"step": step, **layout})


def test_furthest_complete_checkpoint_wins_whichever_attempt_has_it(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=2), Engine()
    leave(work.older[1], 9)
    leave(work.older[0], 4)
    leave(work.older[0], 12, complete=False)
    assert checkpoint.resume(engine, work, ALONE) == checkpoint.Start(9, work.older[1])
    assert engine.loaded == ["1/step_9"]


def test_checkpoint_of_another_number_of_ranks_is_passed_over_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9, world_size=2)
    leave(work.older[0], 6)
    assert checkpoint.resume(engine, work, ALONE).step == 6
    assert "step_9 is passed over: it was saved with {'world_size': 2" in capsys.readouterr().err


def test_checkpoint_of_another_offload_is_passed_over(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9)
    engine.offload = "cpu"
    assert checkpoint.resume(engine, work, ALONE) == checkpoint.Start()
    assert engine.loaded == []


def test_checkpoint_that_deepspeed_cannot_load_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9)
    engine.found = None
    with pytest.raises(StageError, match="cannot be loaded"):
        checkpoint.resume(engine, work, ALONE)


def test_metrics_are_those_of_the_attempt_whose_checkpoint_was_loaded(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=2), Engine()
    leave(work.older[1], 2)
    leave(work.older[0], 2, world_size=4)
    for number, attempt in enumerate(work.older):
        rows = [{"step": step, "attempt": number} for step in (1, 2, 3)]
        files.write_jsonl(attempt / "out" / "metrics.jsonl", rows)
    start = checkpoint.resume(engine, work, ALONE)
    assert checkpoint.carried_metrics(start) == [{"step": 1, "attempt": 1}, {"step": 2, "attempt": 1}]
    assert checkpoint.carried_metrics(checkpoint.Start()) == []


def test_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    for step in (8, 9, 10):
        checkpoint.save(engine, work, ALONE, step)
    assert sorted(p.parent.name for p in work.attempt.glob("checkpoints/*/COMPLETE")) == ["step_10", "step_9"]


def test_superseded_attempt_saves_nothing(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    artifact.claim(tmp_path, "train", "k")
    with pytest.raises(Superseded):
        checkpoint.save(engine, work, ALONE, 1)
    assert engine.saved == []
