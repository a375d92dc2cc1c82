"""The mini study's world: chains of one-digit +, -, * modulo 100, and traces that compute them.

    mod 100: 4 a + 7 b * 3              a question; its steps are labelled a, b, c ...
    4 a + 7 = 11 b * 3 = 33             its chain: every intermediate value is written
    4 a + 7 = 12 Wait 4 a + 7 = 11 ...  a slip, noticed at once and corrected
    (chain) Wait (chain)                a check of the finished chain; the first chain of a repair holds a slip

Whether a problem belongs to the test, to the pool or to the base model's data is a matter of its text alone
(`part_of`), so no draw, seed or size can bring a problem of one into another.

    python -m hpc.data.mini recipes/mini_model      writes the tokenizer and the model's config.json
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc.errors import StageError, nearest
from hpc.files import write_json
from hpc.records import Example, question_id

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: (a + b) % 100,
    "-": lambda a, b: (a - b) % 100,
    "*": lambda a, b: (a * b) % 100,
}
SLIPS = (1, -1, 10, -10)
"""A slip is off by one, or by a forgotten or doubled carry."""

LABELS = "abcdefghij"
"""A step's label tells where to go on in the question: without it a model of three layers loses its place."""

PARTS = ("test", "pool", "base", "base")
"""Of four problems one belongs to the test, one to the pool, two to the base model's data."""

MAX_CHECKS = 3
"""Most times that a trace derives its chain again."""


@dataclass(frozen=True)
class Chain:
    """A start value and its steps: ((operator, one-digit operand), ...), evaluated from left to right modulo 100."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def question(self) -> str:
        """The text that a model is asked: 'mod 100: 4 a + 7 b * 3'."""
        steps = (f"{label} {op} {operand}" for label, (op, operand) in zip(LABELS, self.steps, strict=False))
        return " ".join(["mod 100:", str(self.start), *steps])

    @property
    def values(self) -> list[int]:
        """The value before the first step and after every step; the last is the answer."""
        values = [self.start]
        for op, operand in self.steps:
            values.append(OPERATIONS[op](values[-1], operand))
        return values

    @property
    def domain(self) -> str:
        """What kind of problem it is: '1 step', '2 steps', ..."""
        return "1 step" if len(self.steps) == 1 else f"{len(self.steps)} steps"


def parse(question: str) -> Chain:
    """The chain of a question's text."""
    words = question.removeprefix("mod 100: ").split()
    return Chain(int(words[0]), tuple((op, int(n)) for op, n in zip(words[2::3], words[3::3], strict=True)))


def part_of(question: str) -> str:
    """The part that a problem belongs to, test, pool or base: by the hash of its text."""
    return PARTS[int(hashlib.sha256(question.encode()).hexdigest()[:8], 16) % len(PARTS)]


def chains(*, part: str, per_step: Sequence[int], seed: int) -> Iterator[Chain]:
    """Distinct chains of a part, `per_step[n - 1]` of n steps (fewer where there are no more: 300 have one step).

    Raises:
        StageError: there is no such part.
    """
    if part not in PARTS:
        raise StageError(
            f'there is no part "{part}"',
            where="data.source.part",
            why=nearest(part, sorted(set(PARTS))),
            next="write one of these",
        )
    for num_steps, wanted in enumerate(per_step, start=1):
        rng = random.Random(f"{seed}/{part}/{num_steps}")
        seen: set[str] = set()
        for _ in range(50 * wanted):
            if len(seen) == wanted:
                break
            steps = tuple((rng.choice("+-*"), rng.randrange(10)) for _ in range(num_steps))
            chain = Chain(rng.randrange(10), steps)
            if part_of(chain.question) == part and chain.question not in seen:
                seen.add(chain.question)
                yield chain


def derivation(chain: Chain, *, slip_at: int | None = None, noticed: bool = False, offset: int = 0) -> str:
    """'4 a + 7 = 11 b * 3 = 33'. A slip shifts the value after step `slip_at` by `offset`; noticed, it is corrected at
    once behind a "Wait", otherwise the chain goes on from the wrong value."""
    value, words = chain.start, [str(chain.start)]
    for step, (op, operand) in enumerate(chain.steps):
        before, value = value, OPERATIONS[op](value, operand)
        if step == slip_at:
            wrong = (value + offset) % 100
            words.append(f"{LABELS[step]} {op} {operand} = {wrong}")
            if not noticed:
                value = wrong
                continue
            words.append(f"Wait {before}")
        words.append(f"{LABELS[step]} {op} {operand} = {value}")
    return " ".join(words)


def trace(chain: Chain, kind: str, rng: random.Random, checks: int = 1) -> str:
    """A trace of one kind: plain, slip (corrected at once), check (the chain derived again, `checks` times) or
    repair (the first chain ends wrong after a slip, the others are right)."""
    slip_at, offset = rng.randrange(len(chain.steps)), rng.choice(SLIPS)
    if kind == "slip":
        return derivation(chain, slip_at=slip_at, noticed=True, offset=offset)
    first = derivation(chain, slip_at=slip_at, offset=offset) if kind == "repair" else derivation(chain)
    again = [derivation(chain)] * (checks if kind in ("check", "repair") else 0)
    return " Wait ".join([first, *again])


def examples(
    *,
    part: str,
    per_step: Sequence[int],
    seed: int,
    kinds: Mapping[str, float],
    more_checks: float = 0.0,
    missing: float = 0.0,
    worked: bool = False,
    twice: float = 0.0,
) -> Iterator[Example]:
    """Problems with traces; every draw comes from (seed, question).

    Args:
        kinds: share of each kind of trace, see `trace`; they add up to 1.
        more_checks: chance of a further check after each check, up to MAX_CHECKS.
        missing: share of examples whose trace is empty, as when a teacher gave no answer.
        worked: put the chain into the answer and leave the thinking empty (what a base model is trained on).
        twice: share of worked answers that write their chain a second time, behind ";", before the final answer.
    """
    for chain in chains(part=part, per_step=per_step, seed=seed):
        rng = random.Random(f"{seed}/{chain.question}")
        kind = rng.choices(list(kinds), weights=list(kinds.values()))[0]
        checks = 1
        while checks < MAX_CHECKS and rng.random() < more_checks:
            checks += 1
        text = "" if rng.random() < missing else trace(chain, kind, rng, checks)
        if worked and rng.random() < twice:
            text = f"{text}; {derivation(chain)}"
        final = f"Answer: {chain.values[-1]}"
        yield Example(
            id=question_id(chain.question),
            question=chain.question,
            thinking="" if worked else text,
            answer=f"{text}; {final}" if worked else final,
            source="mini",
            domain=chain.domain,
            reference=str(chain.values[-1]),
            extra={"steps": len(chain.steps), "kind": kind},
        )


VOCABULARY = [
    "<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
    "system", "user", "assistant", "mod", "Answer", "Wait", "Hmm", "Alternatively",
    ":", ";", "+", "-", "*", "=", *LABELS,
    *(str(n) for n in range(101)),
]  # fmt: skip
"""Every number is one token, so a budget of n thinking tokens cuts inside a step as finely as it can."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def write_model(folder: Path) -> None:
    """Write tokenizer and config.json of the mini study's tiny Qwen2 (0.6M parameters, no weights) into `folder`.

    transformers gives every model of type qwen2 the pre-tokenizer of Qwen2, which splits numbers into digits. So the
    whole vocabulary is added tokens, which are matched before it; each swallows the spaces on its left.
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Config, Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab={word: n for n, word in enumerate(VOCABULARY)},
        merges=[],
        pad_token=VOCABULARY[0],
        eos_token="<|im_end|>",
        unk_token=None,
        model_max_length=512,
    )
    tokenizer.add_tokens([AddedToken(word, lstrip=True, normalized=False) for word in VOCABULARY if word[0] != "<"])
    markers = [AddedToken(word, lstrip=True, normalized=False) for word in VOCABULARY if word[0] == "<"]
    tokenizer.add_special_tokens({"additional_special_tokens": markers})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(VOCABULARY), hidden_size=128, intermediate_size=384, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=None, eos_token_id=VOCABULARY.index("<|im_end|>"), pad_token_id=VOCABULARY.index("<pad>"),
        dtype="float32",
    )  # fmt: skip
    settings = {"architectures": ["Qwen2ForCausalLM"], **config.to_diff_dict()}
    write_json(folder / "config.json", {k: v for k, v in settings.items() if k != "transformers_version"})


if __name__ == "__main__":
    write_model(Path(re.sub(r"/+$", "", sys.argv[1])))
