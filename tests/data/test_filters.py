"""Filters: s1's quality rules on crafted strings, and difficulty by a model's grades."""

import pytest

from hpc.data import filters
from hpc.errors import StageError
from hpc.files import write_jsonl
from hpc.records import Example


def example(question="What is 1 + 1?", answer="2", source="numina", **fields):
    return Example(id=question, question=question, thinking="t", answer=answer, source=source, **fields)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("What is 1 + 1?", None),
        ("[asy] draw(); [/asy] Find x.", "figure"),
        ("See ![Image](a.png)", "image"),
        ("p1. Prove it.", "part of a problem set"),
        ("see p999. now", "part of a problem set"),
        ("p0. is no part, p1000. neither", None),
        ("**12** Prove it.", "bold number"),
        ("**bold words** are kept", None),
        ("a bold **Theorem** without a number stays", None),
    ],
)
def test_quality_drops_what_s1_dropped(question, reason):
    assert filters.quality()(example(question)) == reason


def test_quality_keeps_a_figure_of_an_aime_question():
    assert filters.quality()(example("[asy] [/asy] Find x.", source="qq8933/AIME_1983_2024")) is None


def test_quality_drops_an_example_without_a_trace():
    empty = example()
    empty.thinking = " "
    assert filters.quality()(empty) == "no thinking"


@pytest.fixture
def grades(tmp_path):
    rows = [
        ("solved", 0, "wrong"),
        ("solved", 1, "correct"),
        ("unsolved", 0, "wrong"),
        ("silent", 0, "no_answer"),
        ("broken", 0, "grader_error"),
    ]
    write_jsonl(tmp_path / "grades.jsonl", ({"id": i, "sample": s, "verdict": v} for i, s, v in rows))
    return str(tmp_path)


def test_unsolved_by_keeps_what_no_sample_solved(grades):
    test = filters.unsolved_by(grades=grades)
    assert test(example("solved")) == "solved"
    assert [test(example(q)) for q in ("unsolved", "silent", "broken")] == [None] * 3


def test_unsolved_by_does_not_take_an_ungraded_question_for_a_hard_one(grades):
    assert filters.unsolved_by(grades=grades)(example("new")) == "no grade"
    assert filters.unsolved_by(grades=grades, strict=False)(example("new")) is None


def test_solved_by_is_the_opposite(grades):
    test = filters.solved_by(grades=grades)
    assert test(example("solved")) is None
    assert test(example("unsolved")) == "not solved"


def test_a_folder_without_grades_is_named_with_what_to_do(tmp_path):
    with pytest.raises(StageError) as caught:
        filters.unsolved_by(grades=str(tmp_path))
    assert "run:RECIPE#grade.TASK" in caught.value.next and str(tmp_path) in caught.value.where


def test_right_compares_the_end_of_the_answer_with_the_reference():
    test = filters.right()
    assert test(example(answer="Answer: 31", reference="31")) is None
    assert test(example(answer="\\boxed{31}.", reference="31")) is None
    assert test(example(answer="Answer: 30", reference="31")) == "wrong answer"
    assert test(example(answer="Answer: 30", reference="")) is None
    assert filters.right(strict=True)(example(answer="30")) == "no reference"


def test_length_bounds_are_inclusive():
    test = filters.length(least=3, most=5)
    reasons = [test(example(lengths={"thinking": n})) for n in (2, 3, 5, 6)]
    assert reasons == ["too short", None, None, "too long"]
