"""metrics.jsonl is written line by line; W&B mirrors it without a network."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc import files, track


@pytest.fixture(autouse=True)
def no_wandb_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "HPC_WANDB", "WANDB_TAGS", "WANDB_BASE_URL", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")  # whoever runs the tests may be logged in


def tracker(folder: Path, *, wandb: bool, **options: Any) -> track.Tracker:
    out = folder / "out" / "metrics.jsonl"
    return track.Tracker(out, "run-a", "sweep-b", "train", {"lr": 0.1}, wandb, run_id="k1", **options)


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    """Records of one kind in a .wandb file, read back by wandb's own tool."""
    tool = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
    shown = subprocess.run([tool, "leet", "inspect", "--json", str(path)], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]
    return [row[kind] for row in rows if row.get("type") == kind]


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


def test_a_login_counts_as_a_key_for_the_server_that_it_is_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert track.mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n login user\n password " + "6" * 40 + "\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert track.mode() == "online"
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert track.mode() == "online", "where `wandb login` writes it"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert track.mode() == "offline", "a job on a node without network must not wait for the server"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.example:8443")
    assert track.mode() == "offline", "the login is for another server"
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert track.mode() == "offline", "who says so stays offline"
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").write_text("machine\n")
    assert track.mode() == "offline", "a file that nobody can read is no login"


def test_wandb_holds_the_same_rows_offline_and_outside_out(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb extra not installed")
    log = tracker(tmp_path, wandb=True)
    log.log({"step": 10, "loss": 2.5})
    log.log({"step": 20, "loss": 1.5})
    log.close()
    (record,) = tmp_path.glob("wandb/offline-run-*-train-k1/run-train-k1.wandb")
    history = [row["item"] for row in records(record, "history")]
    assert [(item["global_step"], item["loss"]) for item in history] == [(10, 2.5), (20, 1.5)]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["metrics.jsonl"]


def test_every_start_of_a_job_asks_to_continue_the_one_run_of_what_it_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts after a requeue: one id, one group, one own axis, and in each the wish to resume."""
    pytest.importorskip("wandb", reason="wandb extra not installed")
    monkeypatch.setenv("WANDB_TAGS", "mine")
    for number in (1, 2):
        log = tracker(tmp_path / str(number), wandb=True, tags=["recipe", "0f0f0f0f"])
        log.log({"step": number, "loss": 1.0})
        log.close()
    found = sorted(tmp_path.glob("*/wandb/offline-run-*/run-*.wandb"))
    runs = [records(path, "run")[0] for path in found]
    assert len(runs) == 2
    for run in runs:
        assert (run["run_id"], run["run_group"], run["job_type"]) == ("train-k1", "sweep-b", "train")
        assert run["resume"] is True and run["display_name"] == "run-a"
        assert run["tags"] == ["recipe", "0f0f0f0f", "mine"]
    axis = [m for path in found for m in records(path, "metric") if m.get("glob_name") == "*"]
    assert [m["step_metric"] for m in axis] == ["global_step", "global_step"]
    assert [r["item"]["global_step"] for path in found for r in records(path, "history")] == [1, 2]


def test_an_id_is_short_and_has_no_letters_that_wandb_refuses() -> None:
    assert track.identity("train", "0123456789abcdef") == "train-0123456789abcdef"
    assert len(track.identity("generate", "k" * 100)) == 64
    assert set("/:#?") & set(track.identity("a/b", "c:d#e?")) == set()


def test_names_and_tags_say_to_whom_a_stage_belongs() -> None:
    stage = {"stage": "train", "recipe": "s1", "task": None}
    runs = [
        {"name": "lr-1_s0", "signature": "aa", "stages": {"data": "d", "train": "t", "generate": {"math": "g"}}},
        {"name": "lr-2_s0", "signature": "bb", "stages": {"data": "d"}},
    ]
    plan = {
        "runs": runs,
        "stages": [
            {**stage, "stage": "data", "key": "d"},
            {**stage, "key": "t"},
            {**stage, "stage": "generate", "key": "g", "task": "math"},
            {**stage, "key": "base", "recipe": "other"},
        ],
    }
    assert track.titles(plan) == {
        "d": "s1-data",
        "t": "lr-1_s0-train",
        "g": "lr-1_s0-generate-math",
        "base": "other-train",
    }
    assert track.tags(plan) == {"d": ["s1", "aa", "bb"], "t": ["s1", "aa"], "g": ["s1", "aa"], "base": ["other"]}


class Dying:
    """A W&B run whose process is gone."""

    def log(self, row):
        raise ConnectionResetError("Connection lost")

    finish = log


def test_training_does_not_die_with_its_view(tmp_path, capsys):
    """wandb's own process gets the TERM of a preempted job too; the checkpoint must still be saved after it."""
    tracker = track.Tracker(tmp_path / "out/metrics.jsonl", "n", "g", "train", {}, wandb=False)
    tracker._run = Dying()
    tracker.log({"step": 1, "loss": 2.0})
    tracker.log({"step": 2, "loss": 1.0})
    tracker.close()
    assert len((tmp_path / "out/metrics.jsonl").read_text().splitlines()) == 2
    assert capsys.readouterr().err.count("no W&B any more") == 1
