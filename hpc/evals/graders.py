"""Graders: each public function is a name that `grader:` accepts, beside path/file.py:function with the same shape.

A grader takes (question, sample, keyword arguments) and returns (extracted answer or None, verdict). All but those in
lookup.CANNOT_HANG run in a worker process with a time limit (hpc/evals/pool.py).
"""

from __future__ import annotations

from hpc.evals import choice as _choice
from hpc.evals import maths as _maths
from hpc.evals.extract import STATED, Judged, missing, stated
from hpc.records import Question, Sample


def math(question: Question, sample: Sample) -> Judged:
    """Is the final answer mathematically equal to the reference? (hpc/evals/maths.py)"""
    return _maths.judge(question, sample)


def choice(question: Question, sample: Sample, *, letters: str = "ABCD") -> Judged:
    """Is the chosen letter the reference? `letters`: the options that exist. (hpc/evals/choice.py)"""
    return _choice.judge(question, sample, letters)


def exact(question: Question, sample: Sample, *, case: bool = True) -> Judged:
    """Is the stated answer ("Answer: X", else the whole answer part) the reference, character by character?

    White space at the ends does not count; `case`: whether upper and lower case differ.
    """
    found = stated(sample.answer) or sample.answer.strip()
    if not found or STATED.fullmatch(found):  # a forced "Answer:" that nothing follows
        return None, missing(sample)
    mine, gold = found, question.reference.strip()
    same = mine == gold if case else mine.lower() == gold.lower()
    return found, "correct" if same else "wrong"
