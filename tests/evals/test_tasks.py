"""Tasks: prompts as the studies used them, unique questions, options in a seeded order."""

import json
import os
from pathlib import Path

import pytest

from hpc.errors import StageError
from hpc.evals.tasks import load_questions
from hpc.recipe import names, sweep

REAL = {"aime24": 30, "aime25": 30, "math500": 500, "amc23": 40, "gsm8k": 1319}


def task(name, **arguments):
    return names.task({"name": name, **arguments}, "test")


def own(tmp_path, rows, **keys):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "records", "file": str(tmp_path / "rows.jsonl"), "question": "q", "reference": "a"}
    return {"name": "own", "source": source, "prompt": "{question}", **keys}


@pytest.mark.parametrize("name", REAL)
def test_real_tasks_have_their_questions_with_bare_prompts(name):
    if not os.environ.get("HPC_DATA_DIR"):
        pytest.skip("HPC_DATA_DIR is not set: the benchmark is not here")
    questions = load_questions(task(name))
    assert len(questions) == REAL[name] == len({q.id for q in questions})
    assert all(q.prompt == q.question and q.reference for q in questions)
    assert not any("put your final answer" in q.prompt or "####" in q.reference for q in questions)


def test_limit_takes_the_first_questions():
    if not os.environ.get("HPC_DATA_DIR"):
        pytest.skip("HPC_DATA_DIR is not set: the benchmark is not here")
    assert load_questions(task("math500", limit=7)) == load_questions(task("math500"))[:7]


def test_gpqa_options_are_shuffled_by_seed_and_id_and_never_published(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_DATA_DIR", str(tmp_path))
    wrong = {f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)}
    rows = [{"Question": f"made-up {n}?", "Correct Answer": "right", **wrong} for n in range(40)]
    (tmp_path / "gpqa_diamond.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gpqa = task("gpqa_diamond")
    assert gpqa["publish"] is False
    questions = load_questions(gpqa)
    for question in questions:
        lines = question.prompt.split("\n")
        assert lines[:2] == [question.question, ""]
        assert f"{question.reference}) right" in lines
        assert len({line[3:] for line in lines[2:]}) == 4
    assert {q.reference for q in questions} == {"A", "B", "C", "D"}
    assert questions == load_questions(gpqa)
    alone = load_questions({**gpqa, "limit": 5})
    assert alone == questions[:5]
    assert questions != load_questions({**gpqa, "order_seed": 1})


def test_braces_inside_a_question_stay(tmp_path):
    rows = [{"q": r"Is {question} in \frac{A}{B}?", "a": "1"}]
    (question,) = load_questions(own(tmp_path, rows, prompt="Q: {question} {unknown}"))
    assert question.prompt == r"Q: Is {question} in \frac{A}{B}? {unknown}"


def test_sky_t1_asks_with_the_instruction_of_its_training_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_DATA_DIR", str(tmp_path))
    (tmp_path / "math500.jsonl").write_text('{"problem": "Is $x=1$?", "answer": "1"}\n')
    monkeypatch.chdir(Path(__file__).parents[2])
    for recipe in ("sky_t1_32b", "eval_sky_t1_32b"):
        (run,) = sweep.load(f"recipes/{recipe}.yaml").runs
        tasks = {t["name"]: t for t in run.recipe.generate.tasks}
        (question,) = load_questions(names.task(tasks["math500"], "test"))
        assert question.prompt == r"Return your final response within \boxed{}. Is $x=1$?"
        assert tasks["aime24"]["prompt"] == tasks["math500"]["prompt"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"q": "x", "a": "1"}, {"q": "y", "a": "1"}, {"q": "x", "a": "2"}], "rows 0 and 2"),
        ([], "no questions"),
        ([{"q": "x", "a": ""}], "no reference"),
    ],
)
def test_broken_tasks_are_named(tmp_path, rows, says):
    with pytest.raises(StageError) as caught:
        load_questions(own(tmp_path, rows))
    assert says in str(caught.value)
