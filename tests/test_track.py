"""metrics.jsonl is written line by line; W&B mirrors it without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpc import files, track


@pytest.fixture(autouse=True)
def no_wandb_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HPC_WANDB"):
        monkeypatch.delenv(name, raising=False)


def tracker(folder: Path, *, wandb: bool) -> track.Tracker:
    return track.Tracker(folder / "out" / "metrics.jsonl", "run-a", "sweep-b", "train", {"lr": 0.1}, wandb, run_id="k1")


def test_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    log = tracker(tmp_path, wandb=False)
    log.log({"step": 1, "loss": 2.5})
    assert list(files.read_jsonl(tmp_path / "out" / "metrics.jsonl")) == [{"step": 1, "loss": 2.5}]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_carried_rows_come_before_new_ones(tmp_path: Path) -> None:
    log = tracker(tmp_path, wandb=False)
    log.carry([{"step": 1, "loss": 3.0}])
    log.log({"step": 2, "loss": 2.0})
    assert [row["step"] for row in files.read_jsonl(tmp_path / "out" / "metrics.jsonl")] == [1, 2]


def test_wandb_is_used_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb extra not installed")
    assert not track.wandb_wanted()
    monkeypatch.setenv("HPC_WANDB", "1")
    assert track.wandb_wanted()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert not track.wandb_wanted()


def test_wandb_holds_the_same_rows_offline_and_outside_out(tmp_path: Path) -> None:
    """Read back by wandb's own tool."""
    pytest.importorskip("wandb", reason="wandb extra not installed")
    log = tracker(tmp_path, wandb=True)
    log.log({"step": 10, "loss": 2.5})
    log.log({"step": 20, "loss": 1.5})
    log.close()
    (record,) = tmp_path.glob("wandb/offline-run-*-k1/run-k1.wandb")
    tool = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
    shown = subprocess.run([tool, "leet", "inspect", "--json", str(record)], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]
    history = [row["history"]["item"] for row in rows if row.get("type") == "history"]
    assert [(item["global_step"], item["loss"]) for item in history] == [(10, 2.5), (20, 1.5)]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["metrics.jsonl"]
