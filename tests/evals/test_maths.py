"""The mathematics grader: gold answers equal themselves, traps do not pass, and what hangs is killed."""

import json
import os
import time
from pathlib import Path

import pytest

from hpc.evals import maths, pool
from hpc.records import Question, Sample

FILES = {"math500": "math500.jsonl", "aime24": "aime24.jsonl", "aime25": "aime25.jsonl", "amc23": "amc23.jsonl"}

SAME = [
    ("2,010", "2010"),
    ("345,012", "345012"),
    ("12345", "12{,}345"),
    ("10080", "10,\\!080"),
    ("58,500", "58{,}500"),
    (r"\frac32", r"1\frac{1}{2}"),
    ("12", r"12^{\mathrm{th}}"),
    (r"\frac13", "0.333333"),
    ("27", "27.0"),
    ("70", "070"),
    (".0000672", r"6.72 \times 10^{-5}"),
    ("52_8", "52"),
    ("40_9", "40_{9}"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(C)}", "C"),
    (r"\text{(E)}", "(E)"),
    (r"90^\circ", "90"),
    (r"\$18.90", "18.90"),
    ("x=5", "5"),
    ("5", "x=5"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("1.25", r"\frac54"),
    ("42", r"42\text{ units}"),
    ("42", r"4\cdot 10+2"),
    ("2k+2", "2(k+1)"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19},1-\sqrt{19}"),
    ("1,2", "2,1"),
    ("8", "2^3"),
    (r"\pi", "3.14159265"),
    ("-1/2", r"-\frac{1}{2}"),
]
DIFFERENT = [
    ("8164961", "8164964"),
    ("4080", "40.8"),
    (r"(-\infty,0]", r"(-\infty,0)"),
    ("515", "5,15"),
    ("5,15", "515"),
    ("2", "200"),
    ("500", "5"),
    ("10000", "10001"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "2,1"),
    (r"\frac13", "0.3333"),
    ("0.333333", r"\frac13"),
    ("27", "27.0000001"),
    (".0000672", ".0000674"),
    ("52_8", "52_9"),
    (r"\text{even}", "odd"),
    (r"\text{Evelyn}", "nylevE"),
    ("silent", "listen"),
    (r"\text{(C)}", "B"),
    (r"\pi", "3.14159"),
    ("p - q", "q-p"),
    ("1000000000000000000001", "1000000000000000000000"),
    (r"11 \sqrt{5} + 11", "35.5967"),
    (r"(2,12) \cup (12,102)", "(2,102)"),
    ("10", "1{,}0"),
]


def sample(answer: str, **changes: str) -> Sample:
    fields = {"thinking_finish": "end", "answer_finish": "stop", **changes}
    return Sample("q", 0, "", answer, 0, 0, 0, seed=0, **fields)


def question(reference: str) -> Question:
    return Question("q", "?", "?", reference)


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_equal_answers_written_differently_are_equal(gold, answer):
    assert maths.equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_are_never_equal(gold, answer):
    assert not maths.equal(gold, answer)


@pytest.mark.parametrize("task", FILES)
def test_every_gold_answer_equals_itself(task):
    folder = os.environ.get("HPC_DATA_DIR")
    if not folder:
        pytest.skip("HPC_DATA_DIR is not set: the benchmark's answers are not here")
    rows = [json.loads(line) for line in (Path(folder) / FILES[task]).read_text().splitlines()]
    items = [(question(str(row["answer"])), sample(f"so \\boxed{{{row['answer']}}}")) for row in rows]
    judged = pool.judge_all({"name": "math"}, items, timeout_s=10)
    failed = [(row["answer"], got) for row, got in zip(rows, judged, strict=True) if got[1] != "correct"]
    assert failed == []


def test_math_verify_alone_also_finds_every_gold_equal_to_itself():
    folder = os.environ.get("HPC_DATA_DIR")
    if not folder:
        pytest.skip("HPC_DATA_DIR is not set: the benchmark's answers are not here")
    golds = [json.loads(line)["answer"] for line in (Path(folder) / FILES["math500"]).read_text().splitlines()]
    hard = sorted({g for g in golds if maths.plain(g) is None and maths._words(g, g) is None})
    assert len(hard) > 100
    assert [g for g in hard if not maths._by_math_verify(maths.tidy(g), maths.tidy(g))] == []


def test_worked_solutions_of_math500_are_correct():
    folder = os.environ.get("HPC_DATA_DIR")
    if not folder:
        pytest.skip("HPC_DATA_DIR is not set: the benchmark's solutions are not here")
    rows = [json.loads(line) for line in (Path(folder) / "math500.jsonl").read_text().splitlines()]
    items = [(question(row["answer"]), sample(row["solution"])) for row in rows]
    assert {v for _, v, _ in pool.judge_all({"name": "math"}, items, timeout_s=10)} == {"correct"}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (r"first \boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{5} Final Answer: 6", "5"),
        (r"so \boxed{42 (cut off", None),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\fbox{7} Answer: 8", "8"),
        ("Answer: 1\nno, wait\n**Final Answer:** 12\nDone.", "12"),
        ("Answer:\n\\[\n x=3 \n\\]\nbye", "x=3"),
        ("The answer is $7$.", "7"),
        ("so we get\n#### 1,234", "1,234"),
        ("42", "42"),
        ("I could not find it.", None),
        ("", None),
        ("First we add 3.\nThen we subtract 4.", None),
    ],
)
def test_the_answer_is_the_last_box_then_the_last_statement(answer, found):
    assert maths.extract(sample(answer)) == found


def test_the_first_line_after_a_forced_end_of_thinking_is_the_answer():
    assert maths.extract(sample("17\nbecause of that", thinking_finish="cut")) == "17"
    assert maths.extract(sample("17\nbecause of that")) is None


def test_no_answer_at_the_length_limit_is_truncated_and_otherwise_no_answer():
    assert maths.judge(question("1"), sample("so we", answer_finish="length")) == (None, "truncated")
    assert maths.judge(question("1"), sample("", thinking_finish="length")) == (None, "truncated")
    assert maths.judge(question("1"), sample("I give up.")) == (None, "no_answer")


def test_a_hanging_answer_is_a_grader_error_and_the_next_one_is_graded():
    bombs = [r"2^{3^{20}}+x-x+1", r"9^{9^{9}}", r"(1+x)^{5000}-(1+x)^{5000}+2"]
    items = [(question("2"), sample(rf"\boxed{{{b}}}")) for b in bombs] + [(question("2"), sample(r"\boxed{1+1}"))]
    start = time.monotonic()
    verdicts = [v for _, v, _ in pool.judge_all({"name": "math"}, items, timeout_s=1.0)]
    assert verdicts[-1] == "correct"
    assert "correct" not in verdicts[:2]
    assert "grader_error" in verdicts
    assert time.monotonic() - start < 30


def test_an_unreadable_reference_is_a_grader_error_never_correct():
    ((_, verdict, reason),) = pool.judge_all(
        {"name": "math"}, [(question(r"\frac{"), sample("Answer: 3"))], timeout_s=5
    )
    assert verdict == "grader_error"
    assert "reference" in reason
