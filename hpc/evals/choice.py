"""Choice questions: which letter the answer names. No letter is no answer; the article "a" is no letter.

s1 counted an empty answer as "A" (about 25 % for saying nothing), SkyThought took "a" in "this is a result".
"""

from __future__ import annotations

import re

from hpc.evals.extract import Judged, boxed, missing, stated
from hpc.records import Question, Sample

OPEN = r"[\s({\[*_$]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?[\s({\[*_$]*"
CLOSE = r"[\s)}\].,:;*_$!]*"
LABEL = r"(?=[).:,\]}*]|\s*$|\s*\n|\s+(?:because|since|is|as|[-–—=(\d])|\s*[-–—=])"


def judge(question: Question, sample: Sample, letters: str) -> Judged:
    """Compare the chosen letter with the reference letter; `letters` are the options that exist, upper case."""
    found = letter(sample.answer, letters)
    if found is None:
        return None, missing(sample)
    return found, "correct" if found == question.reference.strip().upper() else "wrong"


def letter(text: str, letters: str = "ABCD") -> str | None:
    """The chosen letter: in the last box, else after the last "Answer:" or "answer is", else the whole text."""
    for place in (boxed(text), stated(text), _spoken(text, letters), text):
        if place is not None and (found := _leading(place, letters)):
            return found
    return None


def _leading(place: str, letters: str) -> str | None:
    """The letter that `place` consists of, or begins with as an option label: "C", "(C)", "C) 5 eV", "**C**"."""
    whole = re.fullmatch(rf"{OPEN}([{letters}{letters.lower()}]){CLOSE}", place)
    if whole:
        return whole[1].upper()
    label = re.match(rf"{OPEN}(?:[Oo]ption\s+)?\(?([{letters}]){LABEL}", place)
    return label[1] if label else None


def _spoken(text: str, letters: str) -> str | None:
    """The rest of the line after the last "answer is" that a letter follows."""
    mark = rf"(?:[Aa]nswer|[Cc]hoice|[Oo]ption)\s+is\s*:?(?={OPEN}(?:[Oo]ption\s+)?\(?[{letters}]{LABEL})"
    found = list(re.finditer(mark, text))
    return text[found[-1].end() :].split("\n")[0] if found else None
