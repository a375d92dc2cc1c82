"""Budget forcing (s1, section 3.1 and its appendix): one small state machine per completion.

    thinking --length, budget reached--> cut ----> answer --> done      cut: append answer_start_cut
    thinking --length, room used up----------------------> done         thinking_finish "length", no answer
    thinking --stop, suppressed--> append wait_text, thinking again
    thinking --stop--> append answer_start ------> answer --> done
    free     --anything--> split at the marker ----------> done         max null, no waits, no minimum: never forced
    answer   --anything----------------------------------> done         also the start of a format without thinking

The rules:

- `max` bounds all thinking tokens of a completion, over all rounds, appended wait tokens included; 0 skips thinking.
  Where a long prompt leaves less than max_tokens, thinking gives way and the answer keeps its share, up to half.
- A stop is suppressed while fewer than `waits` were, or while there are fewer than `min` thinking tokens; each
  suppression counts as a wait. It is stripped and wait_text appended, and may not come back as the next token.
- A wait that leaves no room for another token in the budget is not made: thinking has ended by itself. Nor is one for
  the minimum that appends nothing after a round that brought nothing: it would go on for ever.
- An end of turn inside thinking is a stop like the others.
- max_tokens and the context bound everything after and with the prompt, markers included. Who runs into them ends
  with finish "length"; nothing is forced any more.
- What the model sees next is the concatenation of ids kept here, never text encoded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hpc.errors import StageError
from hpc.formats import Format
from hpc.infer.engine import Completion, Engine, Request
from hpc.infer.vocabulary import Vocabulary
from hpc.recipe.schema import Generate

State = Literal["thinking", "free", "answer", "done"]


@dataclass(frozen=True)
class Rules:
    """What every completion of a stage obeys. `maximum` null never cuts; `reserve` tokens are left for the answer."""

    form: Format
    words: Vocabulary
    context_tokens: int
    max_tokens: int
    maximum: int | None
    reserve: int
    minimum: int
    waits: int
    wait_ids: tuple[int, ...]
    temperature: float
    top_p: float
    thinking_stops: tuple[frozenset[int], tuple[str, ...]]
    answer_stops: tuple[frozenset[int], tuple[str, ...]]

    @property
    def forced(self) -> bool:
        """Whether anything but the model may end or prolong thinking."""
        return self.maximum is not None or self.minimum > 0 or self.waits > 0

    @property
    def first(self) -> State:
        """The state in which a completion starts."""
        if self.form.thinking_start is None:
            return "answer"
        return "thinking" if self.forced else "free"


def make_rules(settings: Generate, form: Format, words: Vocabulary, context_tokens: int) -> Rules:
    """The rules of a generate stage. `auto` is max_tokens - answer_tokens: it never depends on other prompts.

    Raises:
        StageError: `auto` leaves nothing to think with.
    """
    limits = settings.thinking
    spare = settings.max_tokens - settings.answer_tokens
    if limits.max == "auto" and spare < 1:
        raise StageError(
            "the settings leave no token for thinking",
            where="generate.thinking.max auto",
            why=f"max_tokens {settings.max_tokens} - answer_tokens {settings.answer_tokens}",
            next="raise generate.max_tokens or lower generate.answer_tokens",
        )
    ends, end_texts = words.turn_ends(form.end)
    stops, stop_texts = words.stops(form.thinking_stop)
    maximum = spare if limits.max == "auto" else limits.max
    return Rules(
        form,
        words,
        context_tokens,
        settings.max_tokens,
        maximum,
        0 if maximum is None else max(0, min(settings.answer_tokens, settings.max_tokens - maximum)),
        limits.min,
        limits.waits,
        tuple(words.encode(limits.wait_text)),
        settings.temperature,
        settings.top_p,
        (stops | ends, stop_texts + end_texts),
        (ends, end_texts),
    )


def derive_seed(seed: int, item: str, sample: int, part: int, path: str = "") -> int:
    """The seed of one engine request: a hash of what it is for, never of where or when it runs."""
    return int(hashlib.sha256(f"{seed}|{item}|{sample}|{path}|{part}".encode()).hexdigest()[:15], 16)


class Path:
    """One completion on its way. `request` says what to generate next, `take` moves on with the result.

    Attributes:
        prompt, thinking, marker, answer: token ids in the order in which the model sees them.
        events: {"type": "cut" | "wait", "at": thinking tokens so far}; a wait also has "tokens", those appended.
        policy_tokens: tokens drawn by the model, suppressed and final stops included, appended tokens not.
    """

    def __init__(self, rules: Rules, prompt: Sequence[int], seed_of: Callable[[int], int]) -> None:
        self.rules, self.prompt, self.seed_of = rules, list(prompt), seed_of
        self.thinking: list[int] = []
        self.marker: list[int] = []
        self.answer: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.thinking_finish: Literal["end", "cut", "length", "none"] = "length"
        self.answer_finish: Literal["stop", "length"] = "length"
        self.state: State = rules.first
        self.policy_tokens, self.waits, self.round = 0, 0, 0
        self.held = 0  # tokens at the start of the next round that may not be a stop
        self.answer_text = ""
        if self.state == "answer":
            self.thinking_finish = "none"
        room = max(0, self.room)
        self.maximum = None if rules.maximum is None else min(rules.maximum, room - min(rules.reserve, room // 2))
        if self.room < 1:
            self.state = "done"
        elif self.state == "thinking" and self.left < 1:
            self._cut()

    @property
    def seen(self) -> list[int]:
        """Every token that the model has before it."""
        return self.prompt + self.thinking + self.marker + self.answer

    @property
    def room(self) -> int:
        """Tokens that max_tokens and the context still allow."""
        after = len(self.thinking) + len(self.marker) + len(self.answer)
        return min(self.rules.max_tokens - after, self.rules.context_tokens - len(self.prompt) - after)

    @property
    def left(self) -> int:
        """Thinking tokens that the budget and the room still allow."""
        return self.room if self.maximum is None else min(self.maximum - len(self.thinking), self.room)

    def request(self) -> Request:
        """The next continuation to generate. Never called when done."""
        thinks = self.state == "thinking"
        stop_ids, stop_texts = self.rules.thinking_stops if thinks else self.rules.answer_stops
        return Request(
            self.seen,
            self.left if thinks else self.room,
            self.held,
            stop_ids,
            stop_texts,
            self.rules.temperature,
            self.rules.top_p,
            self.seed_of(self.round),
        )

    def take(self, completion: Completion) -> None:
        """Move on with what was generated for `request`."""
        self.round += 1
        self.policy_tokens += completion.drawn
        if self.state == "thinking":
            self._thought(completion)
        elif self.state == "free":
            self._split(completion)
        else:
            self._finish(completion.token_ids, completion)

    def _thought(self, completion: Completion) -> None:
        self.thinking += completion.token_ids
        if completion.finish == "length":
            if self.maximum is not None and len(self.thinking) >= self.maximum:
                self._cut()
            else:
                self.state = "done"
        elif self._suppresses(completion):
            self._wait()
        else:
            self.thinking_finish = "end"
            self._open_answer(self.rules.form.answer_start)

    def _suppresses(self, completion: Completion) -> bool:
        moves = bool(completion.token_ids) or bool(self.rules.wait_ids) or self.waits == 0
        short = len(self.thinking) < self.rules.minimum and moves
        return (self.waits < self.rules.waits or short) and len(self.rules.wait_ids) < self.left

    def _wait(self) -> None:
        self.events.append({"type": "wait", "at": len(self.thinking), "tokens": len(self.rules.wait_ids)})
        self.thinking += self.rules.wait_ids
        self.waits += 1
        self.held = 1

    def _cut(self) -> None:
        self.events.append({"type": "cut", "at": len(self.thinking)})
        self.thinking_finish = "cut"
        self.answer_text = self.rules.form.opening
        self._open_answer(self.rules.form.answer_start_cut)

    def _open_answer(self, text: str) -> None:
        """Append what introduces the answer; a line break that is there already is not repeated."""
        words = self.rules.words
        if text.startswith("\n") and words.decode(self.seen[-1:]).endswith("\n"):
            text = text[1:]
        ids = words.encode(text)
        self.held = 0
        if len(ids) < self.room:
            self.marker, self.state = ids, "answer"
        else:
            self.answer_text, self.state = "", "done"

    def _finish(self, ids: list[int], completion: Completion) -> None:
        """Keep the answer; its text loses the end marker where the model spelled part of it."""
        self.answer += ids
        self.answer_finish, self.state = completion.finish, "done"
        text, end = self.rules.words.decode(ids), self.rules.form.end
        if end and completion.finish == "stop" and (text + completion.stop).endswith(end):
            text = (text + completion.stop)[: -len(end)]
        self.answer_text += text

    def _split(self, completion: Completion) -> None:
        """Take a completion that nobody forced apart: thinking, marker, answer."""
        words, ids = self.rules.words, completion.token_ids
        found = words.find(ids, [text.strip() for text in self.rules.form.thinking_stop])
        if found is None:
            self.thinking, self.state = ids, "done"
            self.thinking_finish = "end" if completion.finish == "stop" else "length"
            self.answer_finish = completion.finish
            return
        start, end, _ = found
        whole = self.rules.form.answer_start
        if words.decode(ids[start:]).lstrip().startswith(whole):
            end = start + words.tokens_within(ids[start:], words.decode(ids[start:]).index(whole) + len(whole))
        self.thinking, self.marker, self.thinking_finish = ids[:start], ids[start:end], "end"
        self._finish(ids[end:], completion)


def complete(engine: Engine, paths: Sequence[Path]) -> None:
    """Run all paths to their end: each round is one engine call over those still on their way."""
    while active := [path for path in paths if path.state != "done"]:
        results = engine.generate([path.request() for path in active])
        for path, completion in zip(active, results, strict=True):
            path.take(completion)
