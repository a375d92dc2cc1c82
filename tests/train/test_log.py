"""What a training says: rows with documented units, lines in a log, a bar on a terminal, W&B without a network."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc import artifact, files
from hpc.artifact import Work
from hpc.recipe.schema import Train

pytest.importorskip("torch", reason="training extra not installed")

from hpc.train import checkpoint, loop, measure
from hpc.train.batches import Batches, Layout
from hpc.train.log import Log
from hpc.train.ranks import Team
from hpc.train.text import Rendered

HOME = Path(__file__).parents[2]
ROWS = [Rendered(f"e{n}", [1] * (4 + n % 5), 2) for n in range(24)]


def log_of(root: Path, start: checkpoint.Start | None = None, rank: int = 0, **settings: Any) -> Log:
    """The log of a training of 24 examples in 12 steps, on one of two ranks."""
    import torch

    work = Work("train", "k", Train(**settings), {}, {}, 0, artifact.claim(root, "train", "k"), run_name="run-a")
    layout = Layout(2, row_tokens=8)
    batches = Batches(ROWS, batch_size=2, epochs=1, seed=0, loss_average="token", layout=layout)
    team = Team(rank, 2, torch.device("cpu"))
    meter = measure.Meter(batches, team, None)
    return Log(batches, work, team, start or checkpoint.Start(), meter, loop.learning_rate)


def rows_of(log: Log) -> list[dict[str, Any]]:
    assert log.tracker is not None
    return list(files.read_jsonl(log.tracker.path))


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HPC_WANDB"):
        monkeypatch.delenv(name, raising=False)


def train(log: Log, first: int = 0) -> None:
    """Account for all steps; the loss is the step's number."""
    with log:
        for step in range(first, log.batches.num_steps):
            log.step(step, float(step), 0.5)


def test_rows_are_written_at_the_first_the_last_and_every_nth_step(tmp_path: Path) -> None:
    log = log_of(tmp_path, log_every_steps=5)
    train(log)
    assert [row["step"] for row in rows_of(log)] == [1, 5, 10, 12]
    assert rows_of(log)[-1]["tokens"] == sum(row.trained_tokens for row in ROWS)
    assert [row["passes"] > 0 for row in rows_of(log)] == [True] * 4


def test_every_number_of_a_row_is_documented_and_has_its_unit_in_its_name(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    train(log)
    documented = set(re.findall(r"\w+", f"{Log.__doc__} {measure.Meter.row.__doc__}"))
    plain = {"step", "steps", "loss", "lr", "grad_norm", "tokens", "seconds", "mfu", "balance", "passes"}
    for name in rows_of(log)[0]:
        assert name in documented
        assert name in plain or name.endswith(("_per_s", "_s", "_gib")), name


def test_only_rank_0_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(log_of(tmp_path, rank=1))
    assert not list(tmp_path.rglob("metrics.jsonl")) and capsys.readouterr().err == ""


def test_a_resumed_training_carries_rows_tokens_and_seconds_on(tmp_path: Path) -> None:
    first = log_of(tmp_path, log_every_steps=1)
    for step in range(5):
        first.step(step, float(step), 0.5)
    assert first.tracker is not None
    attempt = first.tracker.path.parents[1]
    earlier = [{**row, "seconds": 100.0 * row["step"], "rank_s": 300.0 * row["step"]} for row in rows_of(first)]
    files.write_jsonl(first.tracker.path, earlier)
    second = log_of(tmp_path, checkpoint.Start(3, attempt, attempt / "checkpoints" / "step_3"), log_every_steps=1)
    assert second.last_loss == 2.0
    train(second, 3)
    rows = rows_of(second)
    assert [row["step"] for row in rows] == list(range(1, 13)) and rows[:3] == earlier[:3]
    assert rows[3]["tokens"] == earlier[3]["tokens"] and rows[3]["seconds"] >= 300
    # on two ranks here, on three before
    assert rows[3]["rank_s"] - 900 == pytest.approx(2 * (rows[3]["seconds"] - 300), abs=0.01)


def test_a_log_gets_plain_lines_with_what_matters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(log_of(tmp_path, log_every_steps=5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and not any(sign in "".join(lines) for sign in "\r\x1b")
    pattern = (
        r"train: step 5/12 loss 4\.0000 lr [\d.e+-]+ grad_norm 0\.500 [\d,]+ tokens/s balance [01]\.\d\d eta 0:00:\d\d"
    )
    assert re.fullmatch(pattern, lines[1])


def test_a_terminal_gets_a_bar_instead_of_lines_and_pipes_stay_clean(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys, time; from tests.train.test_log import log_of, train\n"
        "log = log_of(Path(sys.argv[1]), log_every_steps=5); time.sleep(0.3); train(log)"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOME), "TERM": "xterm-256color", "COLUMNS": "100"}
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    while chunk := _read(leader):
        shown += chunk
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert done.returncode == 0, text
    assert "12/12" in text and "loss 11.0000" in text and "train: step" not in text
    assert done.stdout == b""


def _read(leader: int) -> bytes:
    """What is left on a terminal; its end is an error on Linux."""
    try:
        return os.read(leader, 4096)
    except OSError:
        return b""


def test_wandb_gets_the_same_rows_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb extra not installed")
    from tests.test_track import records

    monkeypatch.setenv("WANDB_MODE", "offline")
    log = log_of(tmp_path, log_every_steps=5)
    train(log)
    assert log.tracker is not None
    (run,) = log.tracker.path.parents[1].glob("wandb/offline-run-*/*.wandb")
    history = [record["item"] for record in records(run, "history")]
    assert [row["loss"] for row in history] == [row["loss"] for row in rows_of(log)]
    assert {"lr", "grad_norm", "tokens_per_s", "balance", "data_wait_s", "host_gib"} <= set(history[0])
