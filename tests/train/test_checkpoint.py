"""Which checkpoint a new attempt goes on from, what is deleted and when, and what a superseded one leaves behind."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpc import artifact, files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.plan.room import Room
from hpc.recipe.schema import Train
from hpc.train import checkpoint, space, universal
from hpc.train.ranks import Interrupted, Stop, Team


class Alone(Team):
    """The only rank: agrees with itself."""

    def agree(self, value: Any) -> Any:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def wait(self) -> None:
        return None


class Engine:
    """Records what DeepSpeed would be asked to do. It has 1000 parameters; a checkpoint of it has 1000 bytes."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.saved: list[str] = []
        self.found: str | None = "states"
        self.optimizer = SimpleNamespace(param_groups=[], state={})
        self.module = SimpleNamespace(parameters=lambda: [SimpleNamespace(ds_numel=1000, numel=lambda: 0)])
        self.checkpoint_engine = SimpleNamespace(save=lambda state, path: Path(path).write_text(state))
        self._copy_recovery_script = lambda _: None

    def load_checkpoint(self, folder: str, tag: str, **_: Any) -> tuple[str | None, dict[str, Any]]:
        self.loaded.append(f"{Path(folder).parent.name}/{tag}")
        return self.found, {}

    def save_checkpoint(self, folder: str, tag: str, **_: Any) -> None:
        (Path(folder) / tag).mkdir(parents=True, exist_ok=True)
        self.checkpoint_engine.save("x" * 1000, str(Path(folder) / tag / "states.pt"))
        self.saved.append(tag)

    def fail_by(self, error: Exception) -> None:
        """From now on, the writer writes half a file and fails."""

        def save(state: str, path: str) -> None:
            Path(path).write_text(state[:500])
            raise error

        self.checkpoint_engine.save = save


ALONE: Any = Alone(0, 1, None)  # type: ignore[arg-type]


def form(world_size: int = 1, stage: int = 3) -> dict[str, int]:
    return checkpoint.layout(stage, world_size)


def found(work: Work, engine: Engine, **changes: Any) -> checkpoint.Start:
    """What a new attempt with this form goes on from, loaded."""
    start = checkpoint.find(work, ALONE, form(**changes), Stop())
    checkpoint.resume(engine, start, ALONE)  # type: ignore[arg-type]
    return start


def make_work(root: Path, *, older: int) -> Work:
    attempts = [artifact.claim(root, "train", "k") for _ in range(older + 1)]
    return Work("train", "k", Train(), {}, {}, 0, attempts[-1], attempts[:-1][::-1])


def leave(attempt: Path, step: int, *, complete: bool = True, **cut: int) -> Path:
    """A checkpoint of 1000 bytes and its mark."""
    folder = attempt / "checkpoints" / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "states.pt").write_text("x" * 1000)
    if complete:
        files.write_json(folder / "COMPLETE", {"step": step, **form(**cut), "files": {"states.pt": 1000}})
    return folder


def left(work: Work) -> list[str]:
    """What there is of checkpoints: ATTEMPT/FOLDER."""
    attempts = work.attempt.parent
    found = [*attempts.glob("*/checkpoints/step_*"), *attempts.glob("*/universal")]
    return sorted(f"{path.relative_to(attempts).parts[0]}/{path.name}" for path in found)


def free(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """So many bytes are free from now on."""
    monkeypatch.setattr(space.room, "of", lambda _: Room(number, None))


def convert_by(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Python code takes the place of DeepSpeed's converter."""
    monkeypatch.setattr(universal, "CONVERTER", (sys.executable, "-c", code))
    monkeypatch.setattr(universal, "TURN_S", 0.05)


def test_furthest_complete_checkpoint_wins_whichever_attempt_has_it(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=2), Engine()
    leave(work.older[1], 9)
    leave(work.older[0], 4)
    leave(work.older[0], 12, complete=False)
    start = found(work, engine)
    assert (start.step, start.attempt, start.universal) == (9, work.older[1], False)
    assert engine.loaded == ["1/step_9"]


@pytest.mark.parametrize(("former", "changes"), [(3, {"world_size": 2}), (1, {"stage": 2})])
def test_furthest_checkpoint_of_another_form_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, former: int, changes: dict[str, Any]
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9, stage=former)
    leave(work.older[0], 6, stage=former)
    convert_by(
        monkeypatch, "import sys; from pathlib import Path; Path(sys.argv[4]).mkdir(parents=True); print(sys.argv)"
    )
    start = found(work, engine, **changes)
    assert (start.step, start.universal) == (9, True)
    assert str(work.older[0] / "checkpoints/step_9") in (work.attempt / "universal.log").read_text()
    assert engine.loaded == [f"{work.attempt.name}/step_9"]
    assert not (work.attempt / "universal").exists()


def test_another_offload_needs_no_conversion(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    folder = leave(work.older[0], 9)
    files.write_json(folder / "COMPLETE", {"step": 9, **form(), "offload": "all"})  # as earlier versions marked it
    assert not found(work, engine).universal and engine.loaded == ["1/step_9"]


def test_a_checkpoint_that_cannot_be_converted_is_an_error_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, older=1)
    leave(work.older[0], 9, world_size=2)
    convert_by(monkeypatch, "raise SystemExit('torn file')")
    with pytest.raises(StageError) as caught:
        found(work, Engine())
    assert caught.value.why == "torn file"
    with pytest.raises(StageError, match=r"train\.zero\.stage=3") as caught:
        found(work, Engine(), stage=2)
    assert "delete" not in str(caught.value)


def test_a_furthest_checkpoint_that_cannot_be_converted_does_not_block_an_older_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 9)
    leave(work.older[0], 6, stage=2)
    assert found(work, engine, stage=2).step == 6
    assert "step_9 IS PASSED OVER: stage 3 of ZeRO saved it" in capsys.readouterr().err
    checkpoint.save(engine, work, ALONE, 7, form(stage=2))  # type: ignore[arg-type]
    assert "1/step_9" in left(work)  # a job of the former stage may still go on from it


def test_a_conversion_asks_for_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(tmp_path, older=1)
    leave(work.older[0], 9, world_size=2)
    convert_by(monkeypatch, "")
    free(monkeypatch, 2000)
    with pytest.raises(StageError, match=r"needs 2.*are free"):
        found(work, Engine())
    assert not (work.attempt / "universal.log").exists()


def test_slurms_warning_does_not_kill_the_converter_and_ends_a_training_that_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_work(tmp_path, older=1)
    leave(work.older[0], 9, world_size=2)
    warned = "import os, signal; [os.kill(os.getpid(), n) for n in (signal.SIGUSR2, signal.SIGTERM)]"
    convert_by(monkeypatch, warned)
    assert found(work, Engine()).step == 9
    convert_by(monkeypatch, "import os, time; print(os.getpid(), flush=True); os.mkdir('universal'); time.sleep(60)")
    stop = Stop()
    monkeypatch.setattr(work, "beat", lambda: setattr(stop, "asked", (work.attempt / "universal").exists()))
    with pytest.raises(Interrupted, match=r"stopped while .*step_9 was converted"):
        checkpoint.find(work, ALONE, form(), stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int((work.attempt / "universal.log").read_text()), 0)
    assert left(work) == ["1/step_9"]


def test_a_checkpoint_whose_files_have_another_size_is_passed_over_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    (leave(work.older[0], 9) / "states.pt").write_text("x" * 10)
    (leave(work.older[0], 8) / "states.pt").unlink()
    leave(work.older[0], 6)
    assert found(work, engine).step == 6
    said = capsys.readouterr().err
    assert "step_9 IS PASSED OVER: states.pt has 10 bytes and was written with 1000" in said
    assert "step_8 IS PASSED OVER: states.pt is gone" in said


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
        checkpoint.save(engine, work, ALONE, step, form())  # type: ignore[arg-type]
    assert sorted(p.parent.name for p in work.attempt.glob("checkpoints/*/COMPLETE")) == ["step_10", "step_9"]
    sealed = files.read_json(work.attempt / "checkpoints/step_10/COMPLETE")
    assert sealed == {"step": 10, **form(), "files": {"states.pt": 1000}}


def test_last_two_checkpoints_are_kept_of_all_attempts_together(tmp_path: Path) -> None:
    engine, root = Engine(), tmp_path
    for step in range(1, 6):  # five attempts, each with two checkpoints and what a kill leaves
        work = make_work(root, older=0)
        work.older = [p for p in artifact.attempts(work.attempt.parent) if p != work.attempt][::-1]
        for number in (10 * step, 10 * step + 1):
            checkpoint.save(engine, work, ALONE, number, form())  # type: ignore[arg-type]
        leave(work.attempt, 10 * step + 2, complete=False)
        (work.attempt / "universal").mkdir()
    assert left(work) == ["5/step_50", "5/step_51", "5/step_52", "5/universal"]


def test_a_new_attempts_first_checkpoint_leaves_one_of_the_older_ones_and_no_remains(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=2), Engine()
    for step in (4, 5):
        leave(work.older[1], step)
    leave(work.older[0], 7)
    leave(work.older[0], 8, complete=False)
    (work.older[0] / "universal").mkdir()
    younger = artifact.claim(tmp_path / "other", "train", "k")
    shutil.copytree(younger, work.attempt.parent / "x")  # no attempt: not touched
    checkpoint.save(engine, work, ALONE, 9, form())  # type: ignore[arg-type]
    assert left(work) == ["2/step_7", "3/step_9"] and (work.attempt.parent / "x").exists()


def test_superseded_attempt_saves_nothing(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    artifact.claim(tmp_path, "train", "k")
    with pytest.raises(Superseded):
        checkpoint.save(engine, work, ALONE, 1, form())
    assert engine.saved == []


def test_without_room_older_checkpoints_go_first_and_then_none_is_saved_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 1)
    leave(work.older[0], 3, complete=False)
    (work.older[0] / "universal").mkdir()
    assert checkpoint.save(engine, work, ALONE, 2, form()).complete  # type: ignore[arg-type]
    leave(work.older[0], 4, complete=False)
    free(monkeypatch, 500)
    assert not checkpoint.save(engine, work, ALONE, 3, form()).complete  # type: ignore[arg-type]
    assert engine.saved == ["step_2"]
    assert left(work) == ["2/step_2"]
    assert "NO CHECKPOINT" in capsys.readouterr().err


def test_the_first_save_of_an_attempt_asks_for_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the older attempts' newest checkpoint, else 12 bytes a parameter: ZeRO-3 in bf16."""
    work, engine = make_work(tmp_path, older=1), Engine()
    for number, complete in ((13_100, False), (13_300, True)):
        free(monkeypatch, number)
        assert checkpoint.save(engine, work, ALONE, 1, form()).complete == complete  # type: ignore[arg-type]
    again = make_work(tmp_path, older=0)
    again.older = [work.attempt]
    for number, complete in ((1_050, False), (1_400, True)):
        free(monkeypatch, number)
        assert checkpoint.save(engine, again, ALONE, 2, form()).complete == complete  # type: ignore[arg-type]


def test_the_only_checkpoint_that_this_job_can_load_is_not_given_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    for step, stage in ((3, 2), (6, 2), (9, 3)):
        leave(work.older[0], step, stage=stage)
    free(monkeypatch, 10)
    checkpoint.save(engine, work, ALONE, 7, form(stage=2))  # type: ignore[arg-type]
    assert left(work) == ["1/step_6", "1/step_9"]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded"), RuntimeError("inline_container")],
)
def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    work, engine = make_work(tmp_path, older=1), Engine()
    leave(work.older[0], 1)
    engine.fail_by(error)
    assert not checkpoint.save(engine, work, ALONE, 2, form()).complete  # type: ignore[arg-type]
    assert left(work) == ["1/step_1"]
    said = capsys.readouterr().err
    assert "NO CHECKPOINT after step 2: rank 0" in said and str(error) in said


def test_another_error_while_saving_is_raised(tmp_path: Path) -> None:
    work, engine = make_work(tmp_path, older=0), Engine()
    engine.fail_by(RuntimeError("CUDA error"))
    with pytest.raises(RuntimeError, match="CUDA"):
        checkpoint.save(engine, work, ALONE, 2, form())  # type: ignore[arg-type]


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
