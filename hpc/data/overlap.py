"""Decontamination: does a training question repeat a test question, whole or by a long run of words?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from hpc.data.text import plain, words


class Overlap:
    """The questions of a test, ready to be compared with.

    Args:
        questions: texts of the test's questions.
        ngram_words: a run of so many equal words is an overlap; shorter questions only match whole.
    """

    def __init__(self, questions: Iterable[str], ngram_words: int) -> None:
        texts = list(questions)
        self.size = ngram_words
        self.whole = {plain(text) for text in texts}
        self.runs = {run for text in texts for run in _runs(text, ngram_words)}

    def __call__(self, question: str) -> Literal["same question", "same words"] | None:
        """Which rule a training question breaks, or None."""
        if plain(question) in self.whole:
            return "same question"
        return "same words" if any(run in self.runs for run in _runs(question, self.size)) else None


def _runs(text: str, size: int) -> Iterable[tuple[str, ...]]:
    split = words(text)
    return (tuple(split[i : i + size]) for i in range(len(split) - size + 1))
