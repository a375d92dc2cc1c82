"""The card of a trained model says what it is made of and what it took, and shows nothing of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hpc import artifact, files
from hpc.artifact import Work
from hpc.recipe.schema import Train, Zero
from hpc.train import card

COUNTS = {"examples": 1000, "steps": 315, "trained_tokens": 4692600, "cut": 3, "dropped": 1, "final_loss": 0.51234}
SECRET = "What is the radius of the third sphere?"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """A finished training on two ranks, with its data artifact and its metrics."""
    data = tmp_path / "artifacts" / "data" / "d"
    files.write_json(data / "manifest.json", {"kept": 1000, "source": "s1k"})
    files.write_jsonl(data / "examples.jsonl", [{"id": "a", "question": SECRET}])
    settings = Train(lr=2e-5, loss_average="sample", zero=Zero(stage=2), micro_batch=4)
    inputs: dict[str, Any] = {"model": "Qwen/Qwen2.5-32B-Instruct@5ede1c9", "data": data}
    attempt = artifact.claim(tmp_path, "train", "abc123")
    what = {"format": {"name": "think_answer", "text": {}}}
    made = Work("train", "abc123", settings, what, inputs, 7, attempt, world_size=16, run_name="s1_32b_s0")
    rows = [
        {"step": 1, "seconds": 60.0, "rank_s": 480.0, "mfu": 0.2, "gpu_gib": 70.0},
        {"step": 315, "seconds": 1560.0, "rank_s": 24480.0, "mfu": 0.4, "gpu_gib": 70.0},
    ]
    files.write_jsonl(made.out / "metrics.jsonl", rows)
    (made.out / "model").mkdir()
    return made


def parts(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and the rest."""
    _, front, rest = text.split("---\n", 2)
    return yaml.safe_load(front), rest


def test_the_card_names_base_data_key_and_settings(work: Work) -> None:
    front, rest = parts(card.text(work, COUNTS))
    assert front["base_model"] == "Qwen/Qwen2.5-32B-Instruct" and front["library_name"] == "transformers"
    assert "# s1_32b_s0" in rest and "train abc123" in rest and "Qwen/Qwen2.5-32B-Instruct@5ede1c9" in rest
    assert files.sha256_file(Path(work.inputs["data"]) / "manifest.json") in rest
    settings = yaml.safe_load(rest.split("```yaml\n")[1].split("```")[0])
    assert (settings["lr"], settings["loss_average"], settings["batch_size"]) == (2e-5, "sample", 16)
    for line in ("| format | think_answer |", "| seed | 7 |", "| data | data/d |"):
        assert line in rest
    assert "zero" not in settings and "micro_batch" not in settings  # how it was computed changes nothing


def test_the_card_says_what_it_took(work: Work) -> None:
    rest = card.text(work, COUNTS)
    for line in (
        "| trained tokens | 4,692,600 |",
        "| overlong examples | 3 cut, 1 dropped |",
        "| final loss | 0.5123 |",
        "| training time | 0.43 h, at last on 16 rank(s) |",
        "| GPU-hours | 6.80 |",  # the first steps ran on 8 GPUs
        "| not in these | start, export, and steps that a stop or a failure made to be done again |",
        "| dollars | 6.80 x the price of a GPU-hour (`usd_per_gpu_hour` of the cluster's profile) |",
        "| MFU (median) | 40.0 % |",
    ):
        assert line in rest


def test_the_card_shows_no_example(work: Work) -> None:
    card.write(work, COUNTS)
    text = (work.out / "model" / "README.md").read_text()
    assert text == card.text(work, COUNTS) and SECRET not in text and "sphere" not in text


def test_a_local_model_and_data_without_a_manifest_are_said_to_be_that(work: Work, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    work.inputs = {"model": tmp_path / "base", "data": tmp_path / "base"}
    front, rest = parts(card.text(work, COUNTS))
    assert "base_model" not in front and "| model | base |" in rest
    assert "a local folder without a manifest" in rest
    assert str(tmp_path) not in rest


def test_a_model_of_another_recipe_is_named_by_its_artifact(work: Work, tmp_path: Path) -> None:
    work.inputs["model"] = tmp_path / "artifacts" / "train" / "def456" / "model"
    front, rest = parts(card.text(work, COUNTS))
    assert "| model | train/def456 |" in rest and "train/def456, fine-tuned on" in rest
    assert "base_model" not in front


def test_drawn_weights_are_not_called_fine_tuned(work: Work) -> None:
    work.config.init = "random"
    front, rest = parts(card.text(work, COUNTS))
    assert "weights drawn at random" in rest and "fine-tuned" not in rest and "base_model" not in front


def test_without_a_gpu_there_are_no_mfu_gpu_hours_and_dollars(work: Work) -> None:
    files.write_jsonl(work.out / "metrics.jsonl", [{"step": 1, "seconds": 90.0, "mfu": None, "gpu_gib": None}])
    text = card.text(work, COUNTS)
    assert not any(word in text for word in ("MFU", "GPU", "dollars")) and "| rank-hours | 0.40 |" in text
