"""Mathematics: math-verify behind a contract of our own. Numbers are compared exactly; a tolerance never decides.

Runs in a worker process (hpc.evals.pool) that is killed when an expression hangs: time-outs by signal, as math-verify
sets them, do not stop sympy's C-level powers.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from hpc.evals.extract import Judged, boxed, missing, stated
from hpc.records import Question, Sample

RELATIVE = Fraction(5, 10**6)
"""A decimal may stand for an exact value without a finite decimal (1/3, pi) if it is this near: 6 digits, rounded."""

NUMBER = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d+)?")
FRACTION = re.compile(r"([+-]?)\\[dt]?frac(?:\{(\d+)\}|(\d)|\s+(\d))\s*(?:\{(\d+)\}|(\d+))")
WORD = re.compile(r"[A-Za-z][A-Za-z '-]+")
TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|mathbf)\s*\{([^{}]*)\}")
SUBSCRIPT = re.compile(r"\d_\{?(?:\\text\{)?(\d+)")
SPOKEN = re.compile(r"(?i)\banswer\s+is\s*:?\s*(.+)")


def judge(question: Question, sample: Sample) -> Judged:
    """Is the completion's final answer mathematically equal to the reference?

    Raises:
        ValueError: the reference cannot be read as mathematics and the answer is not literally the same
            (recorded as grader_error).
    """
    found = extract(sample)
    if found is None:
        return None, missing(sample)
    return found, "correct" if equal(question.reference, found) else "wrong"


def extract(sample: Sample) -> str | None:
    """The final answer in the answer part: last box, last "Answer:", "the answer is", else a one-line answer.

    After a forced end of thinking the prompt already said "Final Answer:", so the first line is the answer there.
    """
    text = sample.answer
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    found = boxed(text) or stated(text) or _spoken(text)
    if found is None and lines and (len(lines) == 1 or sample.thinking_finish == "cut"):
        found = lines[0] if looks_mathematical(lines[0]) else None
    return (found and tidy(found)) or None


def looks_mathematical(line: str) -> bool:
    """Whether a bare line can be an answer: a formula in dollars, a single word, or anything short with a digit."""
    bare = tidy(line)
    prose = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", TEXT.sub("", bare))
    return bool(bare) and (len(bare.split()) == 1 or (len(prose) <= 1 and bool(re.search(r"\d|\\", bare))))


def _spoken(text: str) -> str | None:
    found = SPOKEN.findall(text)
    if not found:
        return None
    line = found[-1].split("\n")[0]
    formula = re.match(r"\$([^$]+)\$|\\\((.+?)\\\)", line)
    if formula:
        return formula[1] or formula[2]
    return line if looks_mathematical(line) else None


def tidy(text: str) -> str:
    """The answer without its wrapping: dollars, \\( \\), emphasis, a full stop, white space."""
    text = text.strip().strip("*").strip()
    wrapped = re.fullmatch(r"\$+([^$]*)\$+\.?|\\[(\[](.*)\\[)\]]\.?", text, re.DOTALL)
    if wrapped:
        text = wrapped[1] if wrapped[1] is not None else wrapped[2]
    return text.strip().rstrip(".").strip()


def equal(reference: str, answer: str) -> bool:
    """Whether two answers are the same mathematical object.

    Finite decimals, integers, fractions and words are decided here, exactly; the rest by math-verify, whose yes is
    checked again for number bases and rounding.

    Raises:
        ValueError: math-verify cannot read the reference.
    """
    gold, mine = tidy(reference), tidy(answer)
    if gold == mine:
        return True
    if (by_number := _numbers(gold, mine)) is not None:
        return by_number
    if (by_word := _words(gold, mine)) is not None:
        return by_word
    if {*SUBSCRIPT.findall(gold)} != {*SUBSCRIPT.findall(mine)} and SUBSCRIPT.search(gold) and SUBSCRIPT.search(mine):
        return False
    return _by_math_verify(gold, mine)


def plain(text: str) -> Fraction | None:
    """The exact value of a plainly written number: 2,010 or 10,\\!080 or $18.90 or -3/4 or \\frac{1}{3}; else None."""
    text = re.sub(r"\\left|\\right|\\[!,;:]|\\ |\\?\$|\s*\{,\}\s*(?=\d{3})", lambda m: "," if "{" in m[0] else "", text)
    text = text.replace("−", "-").strip()
    if match := FRACTION.fullmatch(text):
        over, under = (next(g for g in groups if g) for groups in (match.groups()[1:4], match.groups()[4:]))
        return Fraction(int(f"{match[1]}{over}"), int(under)) if int(under) else None
    over_text, slash, under_text = text.partition("/")
    over_value, under_value = _decimal(over_text), _decimal(under_text)
    if not slash:
        return over_value
    return None if over_value is None or not under_value else over_value / under_value


def _decimal(text: str) -> Fraction | None:
    text = re.sub(r",\s+(?=\d{3}\b)", ",", text.strip().rstrip("."))
    if not re.search(r"\d", text) or not NUMBER.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def _numbers(gold: str, mine: str) -> bool | None:
    """The exact verdict on two plain numbers; None if one is no plain number or the reference has no finite decimal."""
    a, b = plain(gold), plain(mine)
    if a is None or b is None:
        return None
    return True if a == b else (False if finite(a) or not finite(b) else None)


def finite(value: Fraction) -> bool:
    """Whether a fraction has a finite decimal: its denominator has no prime factor but 2 and 5."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _words(gold: str, mine: str) -> bool | None:
    """Compare two answers made of letters as words; None if the reference is no word (sympy would sort letters)."""
    gold_word, mine_word = (TEXT.sub(r"\1", text).strip().strip("()").strip() for text in (gold, mine))
    is_word = WORD.fullmatch(gold_word) and (TEXT.search(gold) or len(gold_word) >= 4)
    letter = len(gold_word) == 1 and gold_word.isalpha() and TEXT.search(gold)
    if not (is_word or letter) or not re.fullmatch(r"[A-Za-z '-]+", mine_word):
        return None
    return " ".join(gold_word.lower().split()) == " ".join(mine_word.lower().split())


def _by_math_verify(gold: str, mine: str) -> bool:
    from math_verify import verify  # imports sympy: 0.3 s that a login node need not pay

    parsed_gold, parsed_mine = _parse(gold), _parse(mine)
    if not parsed_gold:
        raise ValueError(f"math-verify cannot read the reference {gold!r}")
    same = bool(verify(parsed_gold, parsed_mine, timeout_seconds=None, raise_on_error=False))
    return same and _near(parsed_gold[0], parsed_mine[0])


def _parse(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return list(
        parse(
            f"${text}$",
            extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )


def _fraction(value: Any) -> Fraction:
    """An exact rational number, also one that is written as an operation (2^{10})."""
    whole = value.doit()
    return Fraction(int(whole.p), int(whole.q))


def _near(gold: Any, mine: Any) -> bool:
    """Reject a yes that rests on rounding: math-verify rounds to 6 decimals, so .0000672 would equal .0000674."""
    from sympy import Expr, Float  # type: ignore[import-untyped]

    if not (isinstance(gold, Expr) and isinstance(mine, Expr)) or gold.free_symbols or mine.free_symbols:
        return True
    if not (gold.has(Float) or mine.has(Float)):
        return True
    # a reference without irrational parts is exact: nothing but its own value equals it
    bound = 0 if gold.is_rational and not gold.has(Float) and finite(_fraction(gold)) else RELATIVE
    a, b = gold.doit().evalf(30), mine.doit().evalf(30)
    return bool(abs(a - b) <= abs(a) * float(bound) + 1e-25)
