"""What is left of a task that must not be published: its artifacts, and nothing in logs or scratch folders."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import hpc
from hpc import artifact, files
from hpc.artifact import Work
from hpc.evals import stage as grading
from hpc.infer import stage as generating
from hpc.recipe.schema import Generate, Grade
from hpc.records import Question, Sample

LOUD = """
import sys

def loud(question, sample):
    print("printed", question.reference)
    print("complained", question.reference, file=sys.stderr)
    raise ValueError(f"cannot read {question.reference}")
"""


def grade(tmp_path, publish):
    folder = tmp_path / "samples"
    files.write_json(folder / "config.json", {"what": {"task": {"name": "t", "publish": publish}}})
    files.write_jsonl(folder / "questions.jsonl", [Question("q0", "?", "?", "secret").row()])
    files.write_jsonl(folder / "samples.jsonl", [Sample("q0", 0, "", "a", 0, 0, 0, "end", "stop", 0).row()])
    (tmp_path / "own.py").write_text(LOUD)
    (tmp_path / "1" / "out").mkdir(parents=True)
    what = {"grader": {"name": f"{tmp_path}/own.py:loud"}}
    work = Work("grade", "k", Grade(), what, {"samples": folder}, 0, tmp_path / "1")
    assert grading.run(work)["grader_error"] == 1
    return work


@pytest.mark.parametrize("publish", [True, False])
def test_a_failing_grader_quotes_a_private_task_only_inside_its_artifact(tmp_path, caplog, capfd, publish):
    work = grade(tmp_path, publish)
    printed = "".join(capfd.readouterr())
    assert "grader_error on q0: ValueError" in caplog.text
    assert ("secret" in caplog.text) is ("secret" in printed) is publish
    assert "secret" in (work.out / "errors.jsonl").read_text()


def test_partial_samples_are_deleted_once_all_are_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "rows.jsonl").write_text('{"q": "secret?", "a": "1"}\n{"q": "other?", "a": "2"}\n')
    source = {"name": "records", "file": str(tmp_path / "rows.jsonl"), "question": "q", "reference": "a"}
    form = Path(hpc.__file__).parent / "formats" / "plain.yaml"
    what = {
        "format": {"name": "plain", "text": yaml.safe_load(form.read_text())},
        "task": {"name": "t", "source": source, "prompt": "{question}", "publish": False},
    }

    def attempt():
        folder = artifact.claim(tmp_path, "generate", "k")
        older = [p for p in reversed(artifact.attempts(folder.parent)) if p != folder]
        return Work("generate", "k", Generate(), what, {"model": "none"}, 0, folder, older)

    def generate(work, engine, form, chunk):
        return [Sample(q.id, n, "", "thought", 0, 0, 0, "none", "stop", 0).row() for q, n in chunk]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generating, "_generate", generate)
    monkeypatch.setattr(generating, "open_engine", lambda setup: SimpleNamespace())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(generating, "_write", killed)
        generating.run(attempt())
    assert list(tmp_path.rglob(generating.PARTIAL))
    last = attempt()
    with caplog.at_level(logging.DEBUG):
        assert generating.run(last)["reused"] == 2
    assert len(list(files.read_jsonl(last.out / "samples.jsonl"))) == 2
    assert not list(tmp_path.rglob(generating.PARTIAL))
    assert "secret" not in caplog.text
