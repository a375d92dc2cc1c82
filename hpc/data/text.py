"""Text of questions and answers: the plain form in which two questions are equal, words, boxes."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    """A question without what may differ between two copies of it: case, white space, Unicode variants."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Lower-case words, split at white space, without punctuation at their ends."""
    split = (w.strip(".,;:!?\"'()[]{}$") for w in unicodedata.normalize("NFKC", text).casefold().split())
    return [w for w in split if w]


def box(text: str) -> str | None:
    r"""The content of the last complete \boxed{...} of a solution, or of a \boxed 5 without braces."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest = text[start + len("\\boxed") :]
    if not rest.lstrip().startswith("{"):
        return rest.split("$")[0].strip(" .") or None
    depth, begin = 0, rest.index("{")
    for position in range(begin, len(rest)):
        depth += {"{": 1, "}": -1}.get(rest[position], 0)
        if depth == 0:
            return rest[begin + 1 : position].strip()
    return None
