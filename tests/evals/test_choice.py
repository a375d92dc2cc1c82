"""Choice questions: a letter has to be named; nothing else becomes one."""

import pytest

from hpc.evals import choice, graders
from hpc.records import Question, Sample


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{C}. This is a final result", "C"),
        ("The answer is (C), I am a model", "C"),
        ("The answer is C because a photon is absorbed.", "C"),
        ("Final Answer: **D**", "D"),
        ("I choose\n\nAnswer: (A) 5 eV", "A"),
        ("Option C is wrong. The correct option is D.", "D"),
        (r"$\boxed{\textbf{(D)}}$", "D"),
        (r"\boxed{\text{b}}", "B"),
        ("B", "B"),
        ("", None),
        ("A model of a thing", None),
        ("The answer is a rational number", None),
        ("Answer: A and B", None),
        ("Answer: A model", None),
        ("Answer: E", None),
    ],
)
def test_only_a_named_letter_counts(text, found):
    assert choice.letter(text) == found


def test_silence_is_not_the_letter_a():
    question = Question("q", "?", "?", "A")
    silent = Sample("q", 0, "", "", 0, 0, 0, "end", "stop", 0)
    assert graders.choice(question, silent) == (None, "no_answer")
