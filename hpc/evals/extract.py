"""Where an answer stands in a completion: the last box, a stated answer, or nowhere. Text only, no mathematics."""

from __future__ import annotations

import re

from hpc.records import Sample, Verdict

Judged = tuple[str | None, Verdict]
"""The extracted answer and the verdict on it."""

BOX = re.compile(r"\\f?boxed\s*(?=\{)")
BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$]+)")
STATED = re.compile(
    r"(?im)\banswer\**\s*[:：][*_]*"  # Answer: 5, **Final Answer:** 5
    r"|^#{1,6}\s*(?:the\s+)?(?:final\s+)?answer[*_]*\s*$"  # a heading of its own, the answer below it
    r"|^####(?=\s*[-+$\\\d(\[{.])"  # GSM8K: #### 5; other words behind four hashes are a heading
)
MATH_BLOCK = re.compile(r"\s*(?:\\\[(.+?)\\\]|\$\$(.+?)\$\$)", re.DOTALL)


def boxed(text: str) -> str | None:
    """The content of the last complete \\boxed{...}; a box that is cut off is none."""
    found = None
    position = 0
    while match := BOX.search(text, position):
        content = braces(text, match.end())
        position = match.end() if content is None else match.end() + len(content) + 2
        found = found if content is None else content
    if found is not None:
        return (boxed(found) or found).strip() or None
    bare = BARE_BOX.findall(text)
    return bare[-1] if bare else None


def braces(text: str, start: int) -> str | None:
    """The text between the brace at `start` and its partner; None without a partner. \\{ and \\} are no braces."""
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return text[start + 1 : start + match.start()]
    return None


def stated(text: str) -> str | None:
    """What follows the last "Answer:" ("Final Answer:", a heading "Answer", "#### 5"): its line, or the next one."""
    for match in reversed(list(STATED.finditer(text))):
        rest = text[match.end() :]
        if block := MATH_BLOCK.match(rest):
            return (block[1] or block[2]).strip()
        line = next((line.strip() for line in rest.split("\n") if line.strip()), "")
        if line.strip("*_ "):
            return line.strip("*_ ")
    return None


def missing(sample: Sample) -> Verdict:
    """The verdict without an answer: `truncated` when the length limit ended the completion, else `no_answer`."""
    cut = "length" in (sample.answer_finish, sample.thinking_finish)
    return "truncated" if cut else "no_answer"
