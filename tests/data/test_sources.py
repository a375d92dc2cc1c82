"""Sources: column maps, files of every kind, hub failures, MATH without MATH-500."""

import gzip
import json
import os
from pathlib import Path

import pytest

from hpc.data import sources, text
from hpc.errors import StageError
from hpc.files import write_jsonl
from hpc.records import question_id

ROWS = [{"q": "1+1?", "steps": ["one", "two"], "meta": {"kind": "easy"}, "sol": "so \\boxed{\\frac{1}{2}}", "n": 7}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_DATA_DIR", str(tmp_path))
    return tmp_path


def write(path: Path) -> None:
    if path.name.endswith(".parquet"):
        pytest.importorskip("pandas").DataFrame(ROWS).to_parquet(path)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress((json.dumps(ROWS[0]) + "\n").encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        write_jsonl(path, ROWS)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.parquet"])
def test_records_maps_columns_of_every_kind_of_file(folder, name):
    write(folder / name)
    (example,) = sources.load(
        {
            "name": "records",
            "file": name,
            "question": "q",
            "thinking": "steps",
            "answer": "n",
            "reference": "sol",
            "reference_boxed": True,
            "domain": "meta.kind",
            "extra": ["n"],
        }
    )
    assert example.id == question_id("1+1?")
    assert (example.thinking, example.answer, example.domain) == ("one\ntwo", "7", "easy")
    assert example.reference == "\\frac{1}{2}" and example.extra == {"n": 7}
    assert example.source == name.split(".jsonl.gz")[0].rsplit(".", 1)[0] or name.startswith("rows")


def test_a_wrong_column_is_answered_with_the_columns_there_are(folder):
    write_jsonl(folder / "rows.jsonl", ROWS)
    with pytest.raises(StageError) as caught:
        sources.load({"name": "records", "file": "rows.jsonl", "question": "problem"})
    assert 'no column "problem"' in caught.value.what and "meta" in caught.value.why


def test_a_missing_file_names_the_folder_that_was_searched(folder):
    with pytest.raises(StageError) as caught:
        sources.load({"name": "records", "file": "absent.jsonl"})
    assert str(folder) in caught.value.why and "HPC_DATA_DIR" in caught.value.next


def test_a_hub_set_that_cannot_be_had_names_both_places(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(StageError) as caught:
        sources.load("s1k")
    assert "simplescaling/s1K" in caught.value.what
    assert str(folder) in caught.value.why and "Couldn't reach the Hub" in caught.value.why


def test_a_revision_behind_the_at_sign_is_what_is_loaded(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = {}

    def fetch(name, subset, *, split, revision):
        asked.update(name=name, split=split, revision=revision)
        return [{"question": "q", "x": 1}]

    monkeypatch.setattr(datasets, "load_dataset", fetch)
    assert len(sources.load({"name": "records", "hub": "org/set@abc", "split": "test"})) == 1
    assert asked == {"name": "org/set", "split": "test", "revision": "abc"}


def test_sky_t1_conversations_are_split_into_thinking_and_answer(folder):
    reply = "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n42\n\n<|end_of_solution|>"
    talk = [{"from": "user", "value": "6*7?"}, {"from": "assistant", "value": reply}]
    write_jsonl(folder / "sky.jsonl", [{"system": "s", "conversations": talk}])
    (example,) = sources.load({"name": "sky_t1_17k", "file": "sky.jsonl"})
    assert (example.question, example.thinking, example.answer) == ("6*7?", "hm", "42")


def test_a_function_of_the_user_s_own_is_a_source(tmp_path):
    code = (
        "from hpc.records import Example\n"
        "def two(*, text='x'):\n    return [Example(text + str(n), text, '', '', 'own') for n in (1, 2)]\n"
    )
    (tmp_path / "own.py").write_text(code)
    examples = sources.load({"name": f"{tmp_path}/own.py:two", "text": "y"})
    assert [e.id for e in examples] == ["y1", "y2"]


def test_a_data_artifact_is_a_source(tmp_path):
    (example,) = sources.mini(per_step=[0, 0, 1])
    write_jsonl(tmp_path / "examples.jsonl", [example.row()])
    assert sources.load("run:other#data", {"run:other#data": tmp_path}) == [example]


@pytest.mark.parametrize(
    ("solution", "content"),
    [
        ("\\boxed{3}", "3"),
        ("\\boxed{a{b}c} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("$\\boxed 5$", "5"),
        ("no box", None),
        ("\\boxed{open", None),
    ],
)
def test_the_last_box_of_a_solution_is_its_answer(solution, content):
    assert text.box(solution) == content


REAL = Path(os.environ.get("HPC_DATA_DIR", "")) / "math_test5000_solved.jsonl"


@pytest.mark.skipif(not os.environ.get("HPC_DATA_DIR") or not REAL.is_file(), reason="HPC_DATA_DIR without MATH")
def test_math_without_math500_leaves_4500_solved_problems():
    examples = sources.load({"name": "math_solved", "minus": "math500"})
    assert len(examples) == 4500
    test = {
        text.plain(e.question)
        for e in sources.load({"name": "records", "file": "math500.jsonl", "question": "problem"})
    }
    assert test.isdisjoint(text.plain(e.question) for e in examples)
    assert sum(not e.reference for e in examples) == 0
