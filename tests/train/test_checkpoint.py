"""Which checkpoint a new attempt goes on from, and what a superseded one leaves behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from hpc import artifact, files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.recipe.schema import Train
from hpc.train import checkpoint
from hpc.train.ranks import Team


class Done(NamedTuple):
    """How a conversion ended."""

    returncode: int
    stderr: str


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
        self.optimizer = SimpleNamespace(param_groups=[], state={})

    def load_checkpoint(self, folder: str, tag: str, **_: Any) -> tuple[str | None, dict[str, Any]]:
        self.loaded.append(f"{Path(folder).parent.name}/{tag}")
        return self.found, {}

    def save_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        (Path(folder) / tag).mkdir(parents=True)
        (Path(folder) / tag / "states.pt").write_text("x" * 1000)
        self.saved.append(tag)


ALONE: Any = Alone(0, 1, None)  # type: ignore[arg-type]


def form(world_size: int = 1, offload: str = "none") -> dict[str, int | str]:
    return checkpoint.layout(3, offload, world_size)


def found(work: Work, engine: Engine, **changes: Any) -> checkpoint.Start:
    """What a new attempt with this form goes on from, loaded."""
    start = checkpoint.find(work, ALONE, form(**changes))
    checkpoint.resume(engine, start, ALONE)  # type: ignore[arg-type]
    return start


def make_work(root: Path, *, older: int) -> Work:
    attempts = [artifact.claim(root, "train", "k") for _ in range(older + 1)]
    return Work("train", "k", Train(), {}, {}, 0, attempts[-1], attempts[:-1][::-1])


def leave(attempt: Path, step: int, *, world_size: int = 1, complete: bool = True) -> None:
    folder = attempt / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    if complete:
        files.write_json(folder / "COMPLETE", {"step": step, **form(world_size)})


def test_furthest_complete_checkpoint_wins_whichever_attempt_has_it(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=2), Engine()
    leave(work.older[1], 9)
    leave(work.older[0], 4)
    leave(work.older[0], 12, complete=False)
    start = found(work, engine)
    assert (start.step, start.attempt, start.universal) == (9, work.older[1], False)
    assert engine.loaded == ["1/step_9"]


@pytest.mark.parametrize("changes", [{"world_size": 2}, {"offload": "optimizer"}])
def test_furthest_checkpoint_of_another_form_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9)
    leave(work.older[0], 6)
    asked: list[list[str]] = []
    monkeypatch.setattr(checkpoint.subprocess, "run", lambda line, **_: asked.append(line) or Done(0, ""))
    start = found(work, engine, **changes)
    assert (start.step, start.universal) == (9, True)
    assert str(work.older[0] / "checkpoints/step_9") in asked[0]
    assert engine.loaded == [f"{work.attempt.name}/step_9"]


def test_a_checkpoint_that_cannot_be_converted_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, older=1)
    leave(work.older[0], 9, world_size=2)
    monkeypatch.setattr(checkpoint.subprocess, "run", lambda line, **_: Done(1, "torn file"))
    with pytest.raises(StageError) as caught:
        found(work, Engine())
    assert caught.value.why == "torn file"


def test_checkpoint_that_deepspeed_cannot_load_is_an_error_and_no_fresh_start(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9)
    engine.found = None
    with pytest.raises(StageError, match="cannot be loaded"):
        found(work, engine)


def test_metrics_are_those_of_the_attempt_whose_checkpoint_was_loaded(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=2), Engine()
    leave(work.older[1], 2)
    leave(work.older[0], 1)
    for number, attempt in enumerate(work.older):
        rows = [{"step": step, "attempt": number} for step in (1, 2, 3)]
        files.write_jsonl(attempt / "out" / "metrics.jsonl", rows)
    start = found(work, engine)
    assert checkpoint.carried_metrics(start) == [{"step": 1, "attempt": 1}, {"step": 2, "attempt": 1}]
    assert checkpoint.carried_metrics(checkpoint.Start()) == []


def test_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    for step in (8, 9, 10):
        checkpoint.save(engine, work, ALONE, step, form())
    assert sorted(p.parent.name for p in work.attempt.glob("checkpoints/*/COMPLETE")) == ["step_10", "step_9"]


def test_superseded_attempt_saves_nothing(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    artifact.claim(tmp_path, "train", "k")
    with pytest.raises(Superseded):
        checkpoint.save(engine, work, ALONE, 1, form())
    assert engine.saved == []


def test_without_room_older_checkpoints_go_first_and_then_none_is_saved_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    for step in (1, 2):
        checkpoint.save(engine, work, ALONE, step, form())
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=500))
    checkpoint.save(engine, work, ALONE, 3, form())
    assert engine.saved == ["step_1", "step_2"]
    assert [p.name for p in (work.attempt / "checkpoints").iterdir()] == ["step_2"]
    assert "NO CHECKPOINT" in capsys.readouterr().err


def test_saving_takes_two_percent_of_the_time_and_at_least_one_is_made_in_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    cadence = checkpoint.Cadence("auto", last=0.0)
    assert not cadence.due(1)
    now[0] = 301
    assert cadence.due(2)
    for took, interval in ((1.0, 300), (30.0, 1500), (400.0, 3600)):
        cadence.saved(took)
        assert cadence.interval_s == interval
    assert [step for step in range(1, 7) if checkpoint.Cadence(3).due(step)] == [3, 6]
    assert not checkpoint.Cadence(0).due(4)
