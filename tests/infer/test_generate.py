"""The generate stage from a task file to samples.jsonl: bytes, resumption, privacy, and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

import hpc
from hpc import artifact, files
from hpc.artifact import Superseded, Work
from hpc.errors import StageError
from hpc.infer import stage
from hpc.infer.engine import close_engines
from hpc.recipe.schema import Generate, Thinking

TASK = """
about: sums
source: {name: records, file: sums.jsonl, question: q, reference: a}
prompt: "Add: {question}"
grader: exact
publish: false
"""
NUM_QUESTIONS = 10


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    rows = [{"q": f"{i} + {i} secret", "a": str(2 * i)} for i in range(NUM_QUESTIONS)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(TASK)
    monkeypatch.setenv("HPC_DATA_DIR", str(tmp_path))
    return {"name": "sums", **yaml.safe_load((tmp_path / "sums.yaml").read_text())}


def make(root: Path, task: dict[str, Any], model: Path, form: str = "think_answer", **settings: Any) -> Work:
    """The next attempt of one stage: 2 samples each of 10 questions in chunks of 8."""
    file = Path(hpc.__file__).parent / "formats" / f"{form}.yaml"
    defaults = {
        "thinking": Thinking(max=12, waits=1),
        "max_tokens": 48,
        "num_samples": 2,
        "temperature": 0.8,
        "engine": "transformers",
        "dtype": "fp32",
        "batch_size": 2,
    }
    folder = artifact.claim(root, "generate", "k")
    older = [p for p in reversed(artifact.attempts(folder.parent)) if p != folder]
    what = {"format": {"name": form, "text": yaml.safe_load(file.read_text())}, "task": task}
    return Work("generate", "k", Generate(**{**defaults, **settings}), what, {"model": model}, 3, folder, older)


def samples(work: Work) -> list[dict[str, Any]]:
    return list(files.read_jsonl(work.out / "samples.jsonl"))


def test_task_file_becomes_questions_samples_and_counts(tmp_path: Path, task: Any, tiny_model: Path) -> None:
    work = make(tmp_path, task, tiny_model)
    counts = stage.run(work)
    questions = list(files.read_jsonl(work.out / "questions.jsonl"))
    rows = samples(work)
    assert questions[3]["prompt"] == "Add: 3 + 3 secret" and questions[3]["reference"] == "6"
    assert [(r["id"], r["sample"]) for r in rows] == [(q["id"], n) for q in questions for n in (0, 1)]
    assert counts["questions"] == NUM_QUESTIONS and counts["samples"] == len(rows) == 20
    events = [e["type"] for r in rows for e in r["events"]]
    assert (counts["cut"], counts["waits"]) == (events.count("cut"), events.count("wait"))
    assert counts["truncated"] == sum(r["answer_finish"] == "length" for r in rows)
    assert counts["output_tokens"] == sum(r["policy_tokens"] for r in rows)
    assert all(r["thinking_tokens"] <= 12 and r["seed"] == 3 for r in rows)
    assert all(r["policy_flops"] > 2 * 6e5 * (r["prompt_tokens"] + r["thinking_tokens"]) for r in rows)
    assert len({r["thinking"] for r in rows}) > 10
    chunks = [r for r in files.read_jsonl(work.out / "timing.jsonl") if "chunk" in r]
    assert [r["samples"] for r in chunks] == [8, 8, 4]
    assert sum(r["output_tokens"] for r in chunks) == counts["output_tokens"]


def test_same_settings_give_the_same_bytes(tmp_path: Path, task: Any, tiny_model: Path) -> None:
    works = [make(tmp_path / name, task, tiny_model) for name in "ab"]
    for work in works:
        stage.run(work)
        close_engines()
    for name in ("questions.jsonl", "samples.jsonl", "metrics.jsonl"):
        assert files.sha256_file(works[0].out / name) == files.sha256_file(works[1].out / name)


class Killed(Exception):
    pass


def interrupted(monkeypatch: pytest.MonkeyPatch, work: Work, after: int) -> None:
    """Run `work` and die after so many chunks, the next one half written."""
    real, seen = stage._append, []

    def append(work: Work, number: int, rows: list[Any]) -> None:
        if len(seen) == after:
            with (work.attempt / stage.PARTIAL).open("a") as file:
                file.write('{"of": "torn')
            raise Killed
        seen.append(number)
        real(work, number, rows)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_append", append)
        with pytest.raises(Killed):
            stage.run(work)


def test_interrupted_work_resumes_and_ends_with_the_same_bytes(
    tmp_path: Path, task: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path / "whole", task, tiny_model)
    stage.run(whole)
    interrupted(monkeypatch, make(tmp_path / "torn", task, tiny_model), after=1)
    interrupted(monkeypatch, make(tmp_path / "torn", task, tiny_model), after=1)
    last = make(tmp_path / "torn", task, tiny_model)
    assert stage.run(last)["reused"] == 16
    assert files.sha256_file(last.out / "samples.jsonl") == files.sha256_file(whole.out / "samples.jsonl")


def test_partial_work_of_other_settings_is_not_reused(
    tmp_path: Path, task: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, make(tmp_path, task, tiny_model), after=2)
    work = make(tmp_path, {**task, "prompt": "Sum: {question}"}, tiny_model)
    assert stage.run(work)["reused"] == 0


def test_superseded_attempt_leaves_before_the_next_chunk(tmp_path: Path, task: Any, tiny_model: Path) -> None:
    old = make(tmp_path, task, tiny_model)
    make(tmp_path, task, tiny_model)
    with pytest.raises(Superseded):
        stage.run(old)


def test_text_of_a_private_task_stays_in_the_artifact(
    tmp_path: Path, task: Any, tiny_model: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    work = make(tmp_path, task, tiny_model)
    with caplog.at_level(logging.DEBUG):
        counts = stage.run(work)
    shown = "".join(capfd.readouterr()) + caplog.text + json.dumps(counts)
    thoughts = [r["thinking"] for r in samples(work) if len(r["thinking"].strip()) > 5]
    assert "samples" in caplog.text and thoughts
    assert "secret" not in shown and not any(text in shown for text in thoughts)
    for name in ("metrics.jsonl", "timing.jsonl"):
        assert "secret" not in (work.out / name).read_text()


def test_budget_on_a_format_without_thinking_is_refused(tmp_path: Path, task: Any, tiny_model: Path) -> None:
    with pytest.raises(StageError, match="no thinking that a budget could bound"):
        stage.run(make(tmp_path, task, tiny_model, form="plain"))
    work = make(tmp_path, task, tiny_model, form="plain", thinking=Thinking())
    stage.run(work)
    assert {r["thinking_finish"] for r in samples(work)} == {"none"}
